//! Compares two directory trees byte by byte and attribute by attribute, by plain system calls. It shares no
//! code with what it checks.

use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, lgetxattr, llistxattr, statx};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Differences that are listed; a caller needs no more to see what is wrong.
const MAX_DIFFERENCES: usize = 50;

/// A difference between two trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Path below the roots.
    pub path: PathBuf,
    /// What differs.
    pub what: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.what)
    }
}

/// How much is in a tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TreeSummary {
    /// Everything that is neither directory nor symbolic link.
    pub files: u64,
    /// Directories below the root.
    pub dirs: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Bytes in regular files.
    pub bytes: u64,
}

/// Counts what is below `root`, without the names in `skip` directly below it.
///
/// # Errors
/// The first error of the walk.
pub fn summarize(root: &Path, skip: &[&str]) -> io::Result<TreeSummary> {
    let mut sum = TreeSummary::default();
    let mut walk = vec![PathBuf::new()];
    while let Some(dir) = walk.pop() {
        for name in names(&root.join(&dir), dir.as_os_str().is_empty(), skip)? {
            let path = dir.join(name);
            let meta = fs::symlink_metadata(root.join(&path))?;
            if meta.is_dir() {
                sum.dirs += 1;
                walk.push(path);
            } else if meta.is_symlink() {
                sum.symlinks += 1;
            } else {
                sum.files += 1;
                sum.bytes += if meta.is_file() { meta.len() } else { 0 };
            }
        }
    }
    Ok(sum)
}

/// Compares everything below two roots, without the names in `skip` directly below them: type, mode, owner,
/// group, modification time in nanoseconds, extended attributes (with ACLs), device number, link target, which
/// names are hard links of one file, and contents. Returns at most 50 differences.
///
/// # Errors
/// The first error of the walk.
pub fn compare_trees(left: &Path, right: &Path, skip: &[&str]) -> io::Result<Vec<Difference>> {
    let mut comparison = Comparison {
        left,
        right,
        links: [HashMap::new(), HashMap::new()],
        found: Vec::new(),
    };
    let mut walk = vec![PathBuf::new()];
    while let Some(dir) = walk.pop() {
        let top = dir.as_os_str().is_empty();
        let a = names(&left.join(&dir), top, skip)?;
        let b = names(&right.join(&dir), top, skip)?;
        for name in a.symmetric_difference(&b) {
            let side = if a.contains(name) { "right" } else { "left" };
            comparison.note(&dir.join(name), format!("missing on the {side}"));
        }
        for name in a.intersection(&b) {
            let path = dir.join(name);
            if comparison.compare(&path)? {
                walk.push(path);
            }
        }
        if comparison.found.len() >= MAX_DIFFERENCES {
            break;
        }
    }
    comparison.found.truncate(MAX_DIFFERENCES);
    Ok(comparison.found)
}

struct Comparison<'a> {
    left: &'a Path,
    right: &'a Path,
    /// For each side: a file with several names -> the first of them that was met.
    links: [HashMap<(u64, u64), PathBuf>; 2],
    found: Vec<Difference>,
}

impl Comparison<'_> {
    fn note(&mut self, path: &Path, what: String) {
        self.found.push(Difference {
            path: path.to_path_buf(),
            what,
        });
    }

    /// Compares one name; true when it is a directory on both sides.
    fn compare(&mut self, path: &Path) -> io::Result<bool> {
        let (left, right) = (self.left.join(path), self.right.join(path));
        let (a, b) = (stat(&left)?, stat(&right)?);
        for (what, x, y) in attributes(&a, &b) {
            if x != y {
                self.note(path, format!("{what} {x} against {y}"));
            }
        }
        let (xa, xb) = (xattrs(&left)?, xattrs(&right)?);
        if xa != xb {
            self.note(path, format!("extended attributes {xa:?} against {xb:?}"));
        }
        let kind = u32::from(a.stx_mode) & libc::S_IFMT;
        if kind != u32::from(b.stx_mode) & libc::S_IFMT {
            return Ok(false);
        }
        match kind {
            libc::S_IFDIR => return Ok(true),
            libc::S_IFLNK => {
                let (to, other) = (fs::read_link(&left)?, fs::read_link(&right)?);
                if to != other {
                    self.note(path, format!("link to {to:?} against {other:?}"));
                }
            }
            libc::S_IFREG => {
                if let Some(at) = first_difference(&left, &right)? {
                    self.note(path, format!("contents differ at byte {at}"));
                }
            }
            _ => {}
        }
        let first = [self.first_name(0, &a, path), self.first_name(1, &b, path)];
        if first[0] != first[1] {
            self.note(
                path,
                format!("hard link of {:?} against {:?}", first[0], first[1]),
            );
        }
        Ok(false)
    }

    fn first_name(&mut self, side: usize, stat: &Statx, path: &Path) -> PathBuf {
        if stat.stx_nlink < 2 {
            return path.to_path_buf();
        }
        let device = u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor);
        self.links[side]
            .entry((device, stat.stx_ino))
            .or_insert_with(|| path.to_path_buf())
            .clone()
    }
}

fn attributes(a: &Statx, b: &Statx) -> [(&'static str, String, String); 6] {
    let mtime = |s: &Statx| format!("{}.{:09}", s.stx_mtime.tv_sec, s.stx_mtime.tv_nsec);
    let rdev = |s: &Statx| format!("{}:{}", s.stx_rdev_major, s.stx_rdev_minor);
    // The size of a directory is the file system's own affair.
    let size = |s: &Statx| {
        let dir = u32::from(s.stx_mode) & libc::S_IFMT == libc::S_IFDIR;
        if dir {
            String::new()
        } else {
            s.stx_size.to_string()
        }
    };
    [
        (
            "mode",
            format!("{:o}", a.stx_mode),
            format!("{:o}", b.stx_mode),
        ),
        ("owner", a.stx_uid.to_string(), b.stx_uid.to_string()),
        ("group", a.stx_gid.to_string(), b.stx_gid.to_string()),
        ("modified", mtime(a), mtime(b)),
        ("device", rdev(a), rdev(b)),
        ("size", size(a), size(b)),
    ]
}

fn stat(path: &Path) -> io::Result<Statx> {
    Ok(statx(
        CWD,
        path,
        AtFlags::SYMLINK_NOFOLLOW,
        StatxFlags::BASIC_STATS,
    )?)
}

fn names(dir: &Path, top: bool, skip: &[&str]) -> io::Result<BTreeSet<OsString>> {
    fs::read_dir(dir)?
        .map(|entry| entry.map(|e| e.file_name()))
        .filter(|name| {
            !(top
                && name
                    .as_ref()
                    .is_ok_and(|n| skip.iter().any(|s| n == OsStr::new(s))))
        })
        .collect()
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let names = match grow(|buffer| llistxattr(path, buffer)) {
        Ok(names) => names,
        // A file system without them.
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(BTreeMap::new()),
        Err(e) => return Err(e),
    };
    names
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let value = grow(|buffer| lgetxattr(path, name, buffer))?;
            Ok((OsString::from_vec(name.to_vec()), value))
        })
        .collect()
}

/// Calls until the buffer is large enough; the kernel's own limit for both is 64 KiB.
fn grow(mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 1024];
    loop {
        match call(&mut buffer) {
            Ok(n) => {
                buffer.truncate(n);
                return Ok(buffer);
            }
            Err(rustix::io::Errno::RANGE) if buffer.len() < 64 * 1024 => {
                buffer = vec![0; buffer.len() * 4];
            }
            Err(e) => return Err(e.into()),
        }
    }
}

fn first_difference(left: &Path, right: &Path) -> io::Result<Option<u64>> {
    let (mut a, mut b) = (File::open(left)?, File::open(right)?);
    let (mut x, mut y) = (vec![0; 128 * 1024], vec![0; 128 * 1024]);
    let mut at = 0;
    loop {
        let (n, m) = (fill(&mut a, &mut x)?, fill(&mut b, &mut y)?);
        if x[..n] != y[..m] {
            let same = x[..n]
                .iter()
                .zip(&y[..m])
                .take_while(|(p, q)| p == q)
                .count();
            return Ok(Some(at + same as u64));
        }
        if n == 0 {
            return Ok(None);
        }
        at += n as u64;
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match file.read(&mut buffer[have..])? {
            0 => break,
            n => have += n,
        }
    }
    Ok(have)
}
