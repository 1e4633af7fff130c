//! The private copy of the machine's own data, with all attributes. The original is only read.

use super::DemoError;
use super::place::MORE_ROOM;
use crate::signals;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{
    DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown, symlink,
};
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// Bytes of a file between two looks for Ctrl-C.
const CHUNK: u64 = 16 * 1024 * 1024;

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
    /// The limit left something out.
    pub(super) capped: bool,
}

/// Bounds of the copy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// Names: files, directories and links.
    pub(super) names: u64,
    /// Bytes of contents.
    pub(super) bytes: u64,
}

/// What of the original is not copied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Except<'a> {
    /// The place that the copy is in: it may lie below the original.
    pub(super) place: &'a Path,
    /// A name directly below the original, which means something to Tandem.
    pub(super) name: &'a str,
}

/// Copies what is below `from` to below `to`, in the order of names. A file that the limit has no room for is
/// left out. Other file systems mounted below are not entered, as Tandem's own trees do not enter them. `tell`
/// hears how many bytes are copied.
pub(super) fn copy_tree(
    from: &Path,
    to: &Path,
    limit: Option<Limit>,
    except: Except<'_>,
    mut tell: impl FnMut(u64),
) -> Result<Copied, DemoError> {
    let mut copy = Copy {
        done: Copied::default(),
        links: HashMap::new(),
        dirs: Vec::new(),
        limit,
    };
    let walk = WalkDir::new(from)
        .min_depth(1)
        .same_file_system(true)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| {
            entry.path() != except.place && (entry.depth() > 1 || entry.file_name() != except.name)
        });
    for entry in walk {
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
        match copy.room_for(&entry) {
            Room::Yes => copy.one(entry.path(), &target)?,
            Room::No => {}
            Room::Full => break,
        }
        tell(copy.done.bytes);
    }
    // Only now: everything made in a directory changes its time. The deepest first.
    for (dir, meta) in copy.dirs.iter().rev() {
        let _ = set_time(dir, meta);
    }
    Ok(copy.done)
}

/// Whether the limit has room for an entry.
enum Room {
    Yes,
    /// Not for this one; a smaller one may fit.
    No,
    /// For hardly any.
    Full,
}

struct Copy {
    done: Copied,
    /// Files with several names -> the first copy.
    links: HashMap<(u64, u64), PathBuf>,
    dirs: Vec<(PathBuf, Metadata)>,
    limit: Option<Limit>,
}

impl Copy {
    fn room_for(&mut self, next: &walkdir::DirEntry) -> Room {
        let Some(limit) = self.limit else {
            return Room::Yes;
        };
        let size = next
            .metadata()
            .map_or(0, |m| if m.is_file() { m.len() } else { 0 });
        let names = self.done.files + self.done.dirs + self.done.symlinks;
        let left = limit.bytes.saturating_sub(self.done.bytes);
        if names < limit.names && size <= left {
            return Room::Yes;
        }
        self.done.capped = true;
        // Else the last kilobytes would be looked for in all of a large tree.
        if names >= limit.names || left < limit.bytes / 200 {
            Room::Full
        } else {
            Room::No
        }
    }

    /// One entry. What cannot be read is left out; a copy that finds no room is an error.
    fn one(&mut self, from: &Path, to: &Path) -> Result<(), DemoError> {
        let before = self.done;
        match self.entry(from, to) {
            Ok(()) => Ok(()),
            Err(e) if no_room(&e) => Err(DemoError::Broken(format!(
                "no room for the copy of {}: {e}; {MORE_ROOM}",
                from.display()
            ))),
            Err(_) => {
                // Ctrl-C in the middle of a large file is no fault of the file.
                signals::check()?;
                let _ = fs::remove_file(to).or_else(|_| fs::remove_dir(to));
                self.done = before;
                self.done.skipped += 1;
                Ok(())
            }
        }
    }

    fn entry(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let meta = fs::symlink_metadata(from)?;
        let kind = meta.file_type();
        if kind.is_dir() {
            // Nobody looks in before it has its own mode.
            DirBuilder::new().mode(0o700).create(to)?;
            self.done.dirs += 1;
            self.dirs.push((to.to_path_buf(), meta.clone()));
        } else if kind.is_symlink() {
            symlink(fs::read_link(from)?, to)?;
            self.done.symlinks += 1;
        } else if kind.is_file() {
            let key = (meta.dev(), meta.ino());
            if let Some(first) = self.links.get(&key) {
                fs::hard_link(first, to)?;
                self.done.files += 1;
                return Ok(());
            }
            self.done.bytes += copy_contents(from, to)?;
            self.done.files += 1;
            if meta.nlink() > 1 {
                self.links.insert(key, to.to_path_buf());
            }
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

/// Whether a write failed for want of room.
fn no_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn copy_contents(from: &Path, to: &Path) -> io::Result<u64> {
    let from = File::open(from)?;
    let mut to = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    let mut done = 0;
    loop {
        let n = io::copy(&mut (&from).take(CHUNK), &mut to)?;
        done += n;
        if n == 0 {
            return Ok(done);
        }
        if signals::check().is_err() {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
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
    use super::{Except, Limit, copy_tree, set_time};
    use std::fs;
    use std::path::Path;

    #[test]
    fn a_copy_is_equal() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("a/b")).expect("made");
        for n in 0..10 {
            fs::write(from.join(format!("a/b/{n}")), vec![n; 1000]).expect("written");
        }
        fs::hard_link(from.join("a/b/0"), from.join("a/z")).expect("linked");
        std::os::unix::fs::symlink("nowhere", from.join("a/link")).expect("linked");
        fs::create_dir(&to).expect("made");
        fs::create_dir(from.join(".tandem")).expect("made");
        let except = Except {
            place: &from.join("a/place"),
            name: ".tandem",
        };
        fs::create_dir(except.place).expect("made");
        let all = copy_tree(&from, &to, None, except, |_| {}).expect("copied");
        assert_eq!(
            (all.files, all.dirs, all.symlinks, all.bytes),
            (11, 2, 1, 10_000)
        );
        assert!(!all.capped && all.mapped == 0 && all.skipped == 0);
        fs::remove_dir(except.place).expect("removed");
        set_time(&to.join("a"), &fs::metadata(from.join("a")).expect("read")).expect("set");
        let differences = tandem_lab::compare_trees(&from, &to, &[".tandem"]).expect("compared");
        assert!(differences.is_empty(), "{differences:?}");
    }

    #[test]
    fn the_limit_holds_and_what_is_too_large_is_left_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for d in [&from, &to] {
            fs::create_dir(d).expect("made");
        }
        // Larger than the limit, and nothing of it is on the disk.
        let sparse = fs::File::create(from.join("0")).expect("made");
        sparse.set_len(1 << 40).expect("sparse");
        for n in 1..9 {
            fs::write(from.join(n.to_string()), vec![n; 1000]).expect("written");
        }
        fs::write(from.join("9"), [9; 490]).expect("written");
        let except = Except {
            place: dir.path(),
            name: ".tandem",
        };
        let copy = |to: &Path, names, bytes| {
            let limit = Limit { names, bytes };
            let some = copy_tree(&from, to, Some(limit), except, |_| {}).expect("copied");
            (some.files, some.bytes, some.capped)
        };
        assert_eq!(copy(&to, 1000, 4_500), (5, 4_490, true));
        let few = dir.path().join("few");
        fs::create_dir(&few).expect("made");
        assert_eq!(copy(&few, 3, 1_000_000), (3, 3_000, true));
    }
}
