//! Compares two directories byte by byte and attribute by attribute, with nothing of the code under test: by a walker of its
//! own, and by rsync as a second opinion.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What differs, by path. Empty: equal.
pub fn differences(a: &Path, b: &Path) -> Vec<String> {
    let (left, right) = (list(a), list(b));
    let mut found = Vec::new();
    for (path, one) in &left {
        match right.get(path) {
            None => found.push(format!("{}: only on the left", path.display())),
            Some(two) if one != two => found.push(format!("{}: {one:?} / {two:?}", path.display())),
            Some(_) => {}
        }
    }
    found.extend(
        right
            .keys()
            .filter(|p| !left.contains_key(*p))
            .map(|p| format!("{}: only on the right", p.display())),
    );
    found.extend(
        groups(a, &left)
            .symmetric_difference(&groups(b, &right))
            .map(|g| format!("hard links {g:?}")),
    );
    found
}

#[derive(PartialEq)]
struct Entry {
    kind: String,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    content: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hash = blake3::hash(&self.content).to_hex();
        let (kind, mode, mtime, size) = (&self.kind, self.mode, self.mtime, self.content.len());
        write!(
            f,
            "{kind} {mode:o} {:?} {mtime:?} {size} bytes {} {:?}",
            self.owner,
            &hash[..8],
            self.xattrs
        )
    }
}

fn list(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut all = BTreeMap::new();
    let walk = walkdir::WalkDir::new(root)
        .into_iter()
        .filter_entry(|e| e.file_name() != ".tandem" || e.depth() != 1);
    for entry in walk {
        let entry = entry.unwrap();
        let meta = std::fs::symlink_metadata(entry.path()).unwrap();
        let kind = meta.file_type();
        if kind.is_socket() {
            continue;
        }
        let path = entry.path().strip_prefix(root).unwrap().to_path_buf();
        let (name, content) = if kind.is_symlink() {
            (
                "link",
                std::fs::read_link(entry.path())
                    .unwrap()
                    .as_os_str()
                    .as_bytes()
                    .to_vec(),
            )
        } else if kind.is_file() {
            ("file", std::fs::read(entry.path()).unwrap())
        } else if kind.is_dir() {
            ("dir", Vec::new())
        } else {
            ("special", meta.rdev().to_le_bytes().to_vec())
        };
        let mut xattrs = Vec::new();
        if !kind.is_symlink() {
            let mut names = vec![0u8; 65536];
            let n = rustix::fs::llistxattr(entry.path(), &mut names[..]).unwrap_or(0);
            for name in names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()) {
                let mut value = vec![0u8; 65536];
                let n = rustix::fs::lgetxattr(entry.path(), name, &mut value[..]).unwrap();
                xattrs.push((name.to_vec(), value[..n].to_vec()));
            }
        }
        xattrs.sort();
        // The root's own time moves with Tandem's directory in it, and is the first thing that is put right; its mode
        // and owner count as everything else.
        let mtime = if path.as_os_str().is_empty() {
            (0, 0)
        } else {
            (meta.mtime(), meta.mtime_nsec())
        };
        let kind = format!("{name}{:o}", meta.mode() & 0o170_000);
        let entry = Entry {
            kind,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            mtime,
            content,
            xattrs,
        };
        all.insert(path, entry);
    }
    all
}

/// Names of one inode, as groups.
fn groups(
    root: &Path,
    entries: &BTreeMap<PathBuf, Entry>,
) -> std::collections::BTreeSet<Vec<PathBuf>> {
    let mut by_inode: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    for path in entries
        .iter()
        .filter(|(_, e)| e.kind.starts_with("file"))
        .map(|(p, _)| p)
    {
        let inode = std::fs::symlink_metadata(root.join(path)).unwrap().ino();
        by_inode.entry(inode).or_default().push(path.clone());
    }
    by_inode.into_values().filter(|g| g.len() > 1).collect()
}

/// What rsync would change on the right: all attributes and contents, holes apart, and times to the nanosecond.
fn rsync_differences(a: &Path, b: &Path) -> Vec<String> {
    let mut rsync = Command::new("rsync");
    rsync
        .args(["-aHAXnc", "--delete", "--itemize-changes", "--numeric-ids"])
        .args(["--modify-window=-1", "--exclude=/.tandem", "--no-specials"])
        .args([a, b].map(|root| root.join("")))
        .stdin(Stdio::null());
    let output = match rsync.output() {
        Ok(output) => output,
        Err(error) => {
            tandem_lab::skipped(format_args!(
                "no second opinion on equal trees: rsync: {error}"
            ));
            return Vec::new();
        }
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (changes, errors) = (text(&output.stdout), text(&output.stderr));
    let all = changes.lines().chain(errors.lines());
    // As above, for the same reasons: the time of the root, and fifos, which it cannot tell from sockets.
    let ours = |line: &&str| *line != ".d..t...... ./" && !line.starts_with("skipping non-regular");
    all.filter(ours)
        .map(|line| format!("rsync: {line}"))
        .collect()
}

/// Fails with the first differences.
#[track_caller]
pub fn assert_equal(a: &Path, b: &Path) {
    let mut found = differences(a, b);
    found.extend(rsync_differences(a, b));
    assert!(
        found.is_empty(),
        "{} differences:\n{}",
        found.len(),
        found[..found.len().min(20)].join("\n")
    );
}
