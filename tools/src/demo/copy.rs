//! The private copy of the machine's own data, with all attributes. The original is only read.

use super::{DemoError, signals};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// What was copied.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Copied {
    /// Regular files, with each further hard link.
    pub(super) files: u64,
    /// Directories.
    pub(super) dirs: u64,
    /// Symbolic links.
    pub(super) symlinks: u64,
    /// Bytes of contents.
    pub(super) bytes: u64,
    /// Entries whose owner does not exist in the user namespace and became ours.
    pub(super) mapped: u64,
    /// Entries that were left out: unreadable for us, or devices and sockets.
    pub(super) skipped: u64,
    /// A limit was reached, and there is more in the original.
    pub(super) capped: bool,
}

/// Bounds of the copy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// Copies what is below `from` to below `to`, in the order of names, until a limit is reached.
pub(super) fn copy_tree(from: &Path, to: &Path, limit: Option<Limit>) -> Result<Copied, DemoError> {
    let mut copy = Copy {
        done: Copied::default(),
        links: HashMap::new(),
        dirs: Vec::new(),
        limit,
    };
    for entry in WalkDir::new(from).min_depth(1).sort_by_file_name() {
        signals::check()?;
        let Ok(entry) = entry else {
            copy.done.skipped += 1;
            continue;
        };
        let Ok(relative) = entry.path().strip_prefix(from) else {
            continue;
        };
        let target = to.join(relative);
        if target.parent().is_some_and(|dir| !dir.is_dir()) {
            // Its directory could not be made.
            copy.done.skipped += 1;
            continue;
        }
        if copy.full(&entry) {
            break;
        }
        if copy.entry(entry.path(), &target).is_err() {
            copy.done.skipped += 1;
        }
    }
    // Only now: everything made in a directory changes its time. The deepest first.
    for (dir, meta) in copy.dirs.iter().rev() {
        let _ = set_time(dir, meta);
    }
    Ok(copy.done)
}

struct Copy {
    done: Copied,
    /// Files with several names -> the first copy.
    links: HashMap<(u64, u64), PathBuf>,
    dirs: Vec<(PathBuf, Metadata)>,
    limit: Option<Limit>,
}

impl Copy {
    fn full(&mut self, next: &walkdir::DirEntry) -> bool {
        let Some(limit) = self.limit else {
            return false;
        };
        let size = next
            .metadata()
            .map_or(0, |m| if m.is_file() { m.len() } else { 0 });
        let names = self.done.files + self.done.dirs + self.done.symlinks;
        self.done.capped = names >= limit.files || self.done.bytes + size > limit.bytes;
        self.done.capped
    }

    fn entry(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let meta = fs::symlink_metadata(from)?;
        let kind = meta.file_type();
        if kind.is_dir() {
            fs::create_dir(to)?;
            self.done.dirs += 1;
            self.dirs.push((to.to_path_buf(), meta.clone()));
        } else if kind.is_symlink() {
            symlink(fs::read_link(from)?, to)?;
            self.done.symlinks += 1;
        } else if kind.is_file() {
            if meta.nlink() > 1 {
                let key = (meta.dev(), meta.ino());
                if let Some(first) = self.links.get(&key) {
                    fs::hard_link(first, to)?;
                    self.done.files += 1;
                    return Ok(());
                }
                self.links.insert(key, to.to_path_buf());
            }
            fs::copy(from, to)?;
            self.done.files += 1;
            self.done.bytes += meta.len();
        } else {
            self.done.skipped += 1;
            return Ok(());
        }
        copy_xattrs(from, to);
        if lchown(to, Some(meta.uid()), Some(meta.gid())).is_err() {
            self.done.mapped += 1;
        }
        if !kind.is_symlink() {
            // After the owner, whose change clears set-user-ID.
            fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
        }
        set_time(to, &meta)
    }
}

fn set_time(path: &Path, meta: &Metadata) -> io::Result<()> {
    let time = Timespec {
        tv_sec: meta.mtime(),
        tv_nsec: meta.mtime_nsec(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::utimensat(
        CWD,
        path,
        &times,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Some attributes are not ours to set (security labels, capabilities); the copy goes without.
fn copy_xattrs(from: &Path, to: &Path) {
    let mut names = vec![0; 64 * 1024];
    let Ok(n) = rustix::fs::llistxattr(from, &mut names) else {
        return;
    };
    for name in names[..n]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0; 64 * 1024];
        if let Ok(n) = rustix::fs::lgetxattr(from, name, &mut value) {
            let _ = rustix::fs::lsetxattr(to, name, &value[..n], XattrFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Limit, copy_tree};
    use std::fs;

    #[test]
    fn a_copy_is_equal_and_the_limit_holds() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("a/b")).expect("made");
        for n in 0..10 {
            fs::write(from.join(format!("a/b/{n}")), vec![n; 1000]).expect("written");
        }
        fs::hard_link(from.join("a/b/0"), from.join("a/z")).expect("linked");
        std::os::unix::fs::symlink("nowhere", from.join("a/link")).expect("linked");
        fs::create_dir(&to).expect("made");
        let all = copy_tree(&from, &to, None).expect("copied");
        assert_eq!(
            (all.files, all.dirs, all.symlinks, all.bytes),
            (11, 2, 1, 10_000)
        );
        assert!(!all.capped && all.mapped == 0 && all.skipped == 0);
        let differences = tandem_lab::compare_trees(&from, &to, &[]).expect("compared");
        assert!(differences.is_empty(), "{differences:?}");
        let part = dir.path().join("part");
        fs::create_dir(&part).expect("made");
        let limit = Limit {
            files: 1000,
            bytes: 4_500,
        };
        let some = copy_tree(&from, &part, Some(limit)).expect("copied");
        assert_eq!((some.files, some.bytes, some.capped), (4, 4_000, true));
    }
}
