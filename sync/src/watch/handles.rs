//! From a directory's file handle to its path in a tree.

use std::cell::Cell;
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::fanotify_sys::open_by_handle;
use super::report::Reporter;
use crate::path::RelPath;
use crate::stat::Stat;

/// Directories whose place is remembered. A full cache is emptied; each entry costs about 200 bytes.
const CACHE_MAX: usize = 65_536;
/// How far up a directory too deep for a printed path is followed.
const CLIMB_MAX: usize = 4096;

/// Where a directory lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Where {
    /// In these trees (more than one only if trees are nested).
    Inside(Arc<[(usize, RelPath)]>),
    /// Too deep to be named; somewhere below these.
    Below(Arc<[(usize, RelPath)]>),
    /// It could not be looked up this time; it may lie anywhere in these.
    Unknown(Arc<[(usize, RelPath)]>),
    /// In none of the trees.
    Outside,
    /// It does not exist any more: its removal is, or will be, an event of the directory above.
    Gone,
}

/// Places that were looked up. A handle names a directory of its file system only: the root directories of any two ext4 have
/// the same one.
#[derive(Debug, Default)]
struct Cache {
    /// By file system, of which there are few.
    known: HashMap<[u8; 8], HashMap<Box<[u8]>, Where>>,
}

impl Cache {
    fn get(&self, fsid: [u8; 8], handle: &[u8]) -> Option<&Where> {
        self.known.get(&fsid)?.get(handle)
    }

    fn insert(&mut self, fsid: [u8; 8], handle: &[u8], place: Where) {
        if self.known.values().map(HashMap::len).sum::<usize>() >= CACHE_MAX {
            self.known.clear();
        }
        let of_file_system = self.known.entry(fsid).or_default();
        of_file_system.insert(handle.into(), place);
    }
}

/// The trees that share one mount.
#[derive(Debug)]
struct Group {
    fsid: [u8; 8],
    mount_id: u64,
    trees: Vec<usize>,
}

/// Resolves handles and remembers the answers until a directory is renamed.
#[derive(Debug)]
pub(super) struct Handles {
    reporter: Arc<Reporter>,
    groups: Vec<Group>,
    roots: HashMap<usize, Vec<u8>>,
    cache: Cache,
    /// See [`open_patiently`].
    patience: Cell<Duration>,
}

impl Handles {
    pub(super) fn new(reporter: &Arc<Reporter>) -> Handles {
        Handles {
            reporter: Arc::clone(reporter),
            groups: Vec::new(),
            roots: HashMap::new(),
            cache: Cache::default(),
            patience: Cell::new(PATIENCE),
        }
    }

    /// Adds a tree whose file system is marked.
    pub(super) fn add(&mut self, tree: usize) -> Result<(), Errno> {
        let root = &self.reporter.trees()[tree].root;
        let fsid = fsid(root.fd())?;
        let mount_id = root.opened_as().mount_id;
        let path = printed_path(&root.fd())?;
        self.roots.insert(tree, path);
        let same = |group: &&mut Group| group.fsid == fsid && group.mount_id == mount_id;
        match self.groups.iter_mut().find(same) {
            Some(group) => group.trees.push(tree),
            None => self.groups.push(Group {
                fsid,
                mount_id,
                trees: vec![tree],
            }),
        }
        Ok(())
    }

    /// A directory was renamed: paths that were remembered may be wrong.
    pub(super) fn forget(&mut self) {
        self.cache = Cache::default();
        for (tree, path) in &mut self.roots {
            // A root that cannot be printed keeps its old path; the keeper tells that it is gone.
            if let Ok(now) = printed_path(&self.reporter.trees()[*tree].root.fd()) {
                *path = now;
            }
        }
    }

    pub(super) fn resolve(&mut self, fsid: [u8; 8], handle: &[u8]) -> Where {
        if let Some(known) = self.cache.get(fsid, handle) {
            return known.clone();
        }
        let found = self.look_up(fsid, handle);
        if !matches!(found, Where::Gone | Where::Unknown(_)) {
            self.cache.insert(fsid, handle, found.clone());
        }
        found
    }

    fn look_up(&self, fsid: [u8; 8], handle: &[u8]) -> Where {
        let mut inside = Vec::new();
        let mut below = Vec::new();
        let mut unknown = Vec::new();
        let mut exists = false;
        for group in self.groups.iter().filter(|group| group.fsid == fsid) {
            let Some(first) = group.trees.first() else {
                continue;
            };
            let mount = &self.reporter.trees()[*first].root;
            let dir = match open_patiently(&self.patience, mount.fd(), handle) {
                Ok(dir) => dir,
                Err(Errno::STALE | Errno::NOENT) => continue,
                Err(errno) => {
                    // No descriptors or no memory: the event must not be lost.
                    tracing::warn!(%errno, "a directory handle cannot be opened");
                    unknown.extend(group.trees.iter().map(|tree| (*tree, RelPath::root())));
                    continue;
                }
            };
            // Deleted, but held by somebody.
            if Stat::of_fd(dir.as_fd()).is_ok_and(|stat| stat.nlink == 0) {
                continue;
            }
            exists = true;
            match printed_path(&dir) {
                Ok(path) => self.place(group, &path, &mut inside),
                Err(_) => self.climb(group, dir, &mut below),
            }
        }
        if !unknown.is_empty() {
            return Where::Unknown(unknown.into());
        }
        match (inside.is_empty(), below.is_empty(), exists) {
            (false, _, _) => Where::Inside(inside.into()),
            (true, false, _) => Where::Below(below.into()),
            (true, true, true) => Where::Outside,
            (true, true, false) => Where::Gone,
        }
    }

    fn place(&self, group: &Group, path: &[u8], found: &mut Vec<(usize, RelPath)>) {
        for tree in &group.trees {
            let relative = self.roots.get(tree).and_then(|root| below_root(root, path));
            if let Some(relative) = relative.and_then(|bytes| RelPath::from_bytes(bytes).ok()) {
                found.push((*tree, relative));
            }
        }
    }

    /// Goes up until the path can be printed.
    fn climb(&self, group: &Group, mut dir: OwnedFd, found: &mut Vec<(usize, RelPath)>) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for _ in 0..CLIMB_MAX {
            match rustix::fs::openat(&dir, "..", flags, Mode::empty()) {
                Ok(above) => dir = above,
                Err(_) => break,
            }
            if let Ok(path) = printed_path(&dir) {
                return self.place(group, &path, found);
            }
        }
        // Cannot be told: every tree of the group may be meant.
        found.extend(group.trees.iter().map(|tree| (*tree, RelPath::root())));
    }
}

/// How long a directory is asked for while the file system says that it has no memory. On a disk of whose journal others wait
/// it took 6 ms and more; this is longer than any journal should.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pauses between the questions: each one longer, up to the longest.
const PAUSE: Duration = Duration::from_micros(50);
const PAUSE_MOST: Duration = Duration::from_millis(5);

/// [`open_by_handle`], patiently: `iget_locked` (fs/inode.c) does not wait for an inode that is just being made, and ext4
/// calls that `ENOMEM` (`__ext4_iget`). So says the handle of a removed directory whose number is given to a new file, for as
/// long as that file's making takes. What is left of the patience is kept: where there is no memory indeed, it is waited for
/// once and not for each event.
fn open_patiently(
    left: &Cell<Duration>,
    mount: BorrowedFd<'_>,
    handle: &[u8],
) -> Result<OwnedFd, Errno> {
    let mut pause = PAUSE;
    loop {
        let opened = open_by_handle(mount, handle);
        if !matches!(opened, Err(Errno::NOMEM)) {
            left.set(PATIENCE);
            return opened;
        }
        let Some(less) = left.get().checked_sub(pause) else {
            return opened;
        };
        std::thread::sleep(pause);
        left.set(less);
        pause = (pause * 2).min(PAUSE_MOST);
    }
}

/// The part of `path` below `root`, both as the kernel prints them; empty for the root itself.
fn below_root<'p>(root: &[u8], path: &'p [u8]) -> Option<&'p [u8]> {
    if root == b"/" {
        return path.strip_prefix(b"/");
    }
    match path.strip_prefix(root)? {
        [] => Some(&[]),
        [b'/', rest @ ..] => Some(rest),
        _ => None,
    }
}

/// The path that the kernel prints for a descriptor. Fails beyond `PATH_MAX`.
fn printed_path(fd: &impl AsFd) -> Result<Vec<u8>, Errno> {
    let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    rustix::fs::readlink(link, Vec::new()).map(|path| path.into_bytes())
}

fn fsid(fd: std::os::fd::BorrowedFd<'_>) -> Result<[u8; 8], Errno> {
    let stat = nix::sys::statfs::fstatfs(fd).map_err(|e| Errno::from_raw_os_error(e as i32))?;
    Ok(crate::identity::fsid_number(stat.filesystem_id()).to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_known_on_its_own_file_system_only() {
        let (one, two) = ([1; 8], [2; 8]);
        let root = Where::Inside([(0, RelPath::root())].into());
        let mut cache = Cache::default();
        cache.insert(one, b"root", root.clone());
        assert_eq!(cache.get(two, b"root"), None);
        cache.insert(two, b"root", Where::Outside);
        assert_eq!(cache.get(one, b"root"), Some(&root));
        assert_eq!(cache.get(two, b"root"), Some(&Where::Outside));
    }

    #[test]
    fn a_full_cache_is_emptied_whatever_file_systems_it_knows() {
        let mut cache = Cache::default();
        for number in 0..CACHE_MAX as u64 {
            cache.insert([number as u8; 8], &number.to_ne_bytes(), Where::Outside);
        }
        assert!(cache.get([0; 8], &0u64.to_ne_bytes()).is_some());
        cache.insert([9; 8], b"one more", Where::Outside);
        assert_eq!(cache.get([0; 8], &0u64.to_ne_bytes()), None);
        assert_eq!(cache.get([9; 8], b"one more"), Some(&Where::Outside));
    }

    #[test]
    fn a_path_is_below_a_root_by_components() {
        assert_eq!(below_root(b"/srv/www", b"/srv/www/a/b"), Some(&b"a/b"[..]));
        assert_eq!(below_root(b"/srv/www", b"/srv/www"), Some(&b""[..]));
        assert_eq!(below_root(b"/srv/www", b"/srv/www2/a"), None);
        assert_eq!(below_root(b"/srv/www", b"/srv"), None);
        assert_eq!(below_root(b"/", b"/a"), Some(&b"a"[..]));
        assert_eq!(below_root(b"/", b"/"), Some(&b""[..]));
    }
}
