//! The private directory at the root of a tree: `.tandem/{marker,staging/,partial/,redo/,set/,rescue/,trash/}`.
//!
//! It is on the same file system as the tree, so that staged files and rescued files move by rename. It belongs to no
//! tree, is never replicated, and is closed to everybody but root (0700).

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{
    AtFlags, Mode, OFlags, RawDir, StatVfs, StatVfsMountFlags, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT,
};
use rustix::io::Errno;

use crate::beneath::{Place, Root};
use crate::fault::Fault;
use crate::path::PRIVATE_DIR;
use crate::stat::Stat;

const STAGING: &[u8] = b"staging";
const PARTIAL: &[u8] = b"partial";
const REDO: &[u8] = b"redo";
const SET: &[u8] = b"set";
const RESCUE: &[u8] = b"rescue";
const TRASH: &[u8] = b"trash";
/// Deepest directory that [`remove_below`] descends to. Staged directories are empty or were one directory of a plan.
const MAX_REMOVE_DEPTH: usize = 4096;

/// The opened private directory of one tree.
#[derive(Debug)]
pub struct Private {
    dir: OwnedFd,
    staging: Arc<OwnedFd>,
    partial: OwnedFd,
    redo: OwnedFd,
    set: OwnedFd,
    rescue: OwnedFd,
    /// Held by whoever changes a set of the rescue.
    rescuing: Mutex<()>,
    trash: OwnedFd,
    /// Random, so that names differ from those of an earlier process and of an earlier opening.
    opening: u64,
    next: AtomicU64,
}

impl Private {
    /// Opens it, and makes what is missing. The new directories are durable when this returns.
    ///
    /// Refused: a symbolic link, a directory of somebody else, or one that is on another mount than the root (nothing
    /// could be renamed out of it).
    pub fn open(root: &Root) -> Result<Private, Fault> {
        let dir = open_or_make(root.fd(), PRIVATE_DIR, root.opened_as())?;
        let staging = open_or_make(dir.as_fd(), STAGING, root.opened_as())?;
        let partial = open_or_make(dir.as_fd(), PARTIAL, root.opened_as())?;
        let redo = open_or_make(dir.as_fd(), REDO, root.opened_as())?;
        let set = open_or_make(dir.as_fd(), SET, root.opened_as())?;
        let rescue = open_or_make(dir.as_fd(), RESCUE, root.opened_as())?;
        let trash = open_or_make(dir.as_fd(), TRASH, root.opened_as())?;
        no_default_acl(staging.as_fd())?;
        let mut opening = [0; 8];
        // Up to 256 bytes come whole once the kernel's generator is ready, which the default flags wait for.
        rustix::rand::getrandom(&mut opening, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| Fault::os("getrandom", e))?;
        Ok(Private {
            dir,
            staging: Arc::new(staging),
            partial,
            redo,
            set,
            rescue,
            rescuing: Mutex::new(()),
            trash,
            opening: u64::from_ne_bytes(opening),
            next: AtomicU64::new(0),
        })
    }

    /// The directory itself.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Where files are prepared.
    pub fn staging(&self) -> BorrowedFd<'_> {
        self.staging.as_fd()
    }

    /// Where local versions are kept.
    pub fn rescue(&self) -> BorrowedFd<'_> {
        self.rescue.as_fd()
    }

    /// While this is held nobody else puts anything into the rescue, or drops a set of it.
    pub(crate) fn rescuing(&self) -> MutexGuard<'_, ()> {
        // It guards what lies on the disk, which holds at any moment of a crash too.
        self.rescuing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where what the source removed is kept for a while.
    pub(crate) fn trash(&self) -> BorrowedFd<'_> {
        self.trash.as_fd()
    }

    /// A place in staging with a name that was never given out before.
    pub fn staging_place(&self) -> Result<Place, Fault> {
        Place::shared(Arc::clone(&self.staging), self.new_name().as_bytes())
    }

    /// A file in staging that has no name, for reading and writing.
    pub fn nameless(&self) -> Result<std::fs::File, Fault> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.staging, ".", flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Ok(file.into()),
            // A file system that has no such files.
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
                let place = self.staging_place()?;
                let file = place.create_new()?;
                place.unlink()?;
                Ok(file)
            }
            Err(errno) => Err(Fault::os("make a file", errno)),
        }
    }

    /// Where contents of large files are received, so that a cut does not lose them.
    pub fn partial(&self) -> BorrowedFd<'_> {
        self.partial.as_fd()
    }

    /// Where the redo journals lie that are being carried out.
    pub(crate) fn redo(&self) -> BorrowedFd<'_> {
        self.redo.as_fd()
    }

    /// Where the source keeps the contents of a set until the standby has them.
    pub(crate) fn set(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }

    /// A name that was never given out before, here or by an earlier process.
    pub(crate) fn new_name(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}-{number:x}", self.opening)
    }

    /// Whether its file system, which is the tree's, says that it takes no changes. Changes nothing.
    pub(crate) fn says_it_is_read_only(&self) -> bool {
        let read_only = |found: StatVfs| found.f_flag.contains(StatVfsMountFlags::RDONLY);
        // ext4 after an error says it here alone, since Linux 6.12.
        let by_sync = || rustix::fs::fsync(&self.staging) == Err(Errno::ROFS);
        rustix::fs::fstatvfs(&self.staging).is_ok_and(read_only) || by_sync()
    }

    /// Whether it takes none, found by making one: what it says of itself counts for nothing.
    pub(crate) fn is_read_only(&self) -> bool {
        let omit = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        };
        let now = Timespec {
            tv_nsec: UTIME_NOW,
            ..omit
        };
        let times = Timestamps {
            last_access: omit,
            last_modification: now,
        };
        rustix::fs::futimens(&self.staging, &times) == Err(Errno::ROFS)
    }

    /// Removes everything in staging: left-overs of an apply that was cut. Call it before the first apply only.
    /// Returns how many entries went.
    pub fn clean_staging(&self) -> Result<usize, Fault> {
        remove_below(self.staging(), 0)
    }
}

/// What is made in staging has the attributes that the peer's entry has, and none that staging hands down: it took the
/// default ACL of the tree's root when it was made.
fn no_default_acl(staging: BorrowedFd<'_>) -> Result<(), Fault> {
    match rustix::fs::fremovexattr(staging, "system.posix_acl_default") {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        // It was removed before the file system became read-only, or nothing is made here.
        Err(Errno::ROFS) if !has_default_acl(staging) => Ok(()),
        Err(errno) => Err(Fault::os("removexattr", errno)),
    }
}

fn has_default_acl(dir: BorrowedFd<'_>) -> bool {
    let found = rustix::fs::fgetxattr(dir, "system.posix_acl_default", &mut [0u8; 0]);
    !matches!(found, Err(Errno::NODATA | Errno::OPNOTSUPP))
}

/// A second descriptor of the same directory.
pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, Fault> {
    rustix::io::fcntl_dupfd_cloexec(fd, 0).map_err(|e| Fault::os("dup", e))
}

fn open_or_make(parent: BorrowedFd<'_>, name: &[u8], root: &Stat) -> Result<OwnedFd, Fault> {
    let name = OsStr::from_bytes(name);
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => rustix::fs::fsync(parent).map_err(|e| Fault::os("fsync directory", e))?,
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(Fault::os("mkdir", errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(parent, name, flags, Mode::empty())
        .map_err(|e| Fault::os("open directory", e))?;
    let stat = Stat::of_fd(dir.as_fd())?;
    if !stat.same_mount(root) {
        return Err(Fault::MountBelow);
    }
    if stat.uid != rustix::process::geteuid().as_raw() {
        return Err(Fault::Changed(
            "the private directory belongs to somebody else",
        ));
    }
    if stat.mode & 0o7777 != 0o700 {
        rustix::fs::fchmod(&dir, Mode::RWXU).map_err(|e| Fault::os("chmod", e))?;
    }
    Ok(dir)
}

/// Removes all entries of a directory, not the directory. Follows nothing.
pub(crate) fn remove_below(dir: BorrowedFd<'_>, depth: usize) -> Result<usize, Fault> {
    if depth > MAX_REMOVE_DEPTH {
        return Err(Fault::os("remove", Errno::NAMETOOLONG));
    }
    let mut removed = 0;
    for name in names(dir)? {
        let name = OsStr::from_bytes(&name);
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) => removed += 1,
            Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = rustix::fs::openat(dir, name, flags, Mode::empty())
                    .map_err(|e| Fault::os("open directory", e))?;
                removed += remove_below(below.as_fd(), depth + 1)?;
                rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
                    .map_err(|e| Fault::os("rmdir", e))?;
                removed += 1;
            }
            Err(errno) => return Err(Fault::os("unlink", errno)),
        }
    }
    Ok(removed)
}

/// The names in an opened directory, unsorted.
pub(crate) fn names(dir: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Fault> {
    let mut found = Vec::new();
    any_name(dir, |name| {
        found.push(name.to_vec());
        false
    })?;
    Ok(found)
}

/// One of the names in an opened directory is so: no further one is read then. Reads through a descriptor of its own,
/// from the start.
pub(crate) fn any_name(
    dir: BorrowedFd<'_>,
    mut is_so: impl FnMut(&[u8]) -> bool,
) -> Result<bool, Fault> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let own = rustix::fs::openat(dir, ".", flags, Mode::empty())
        .map_err(|e| Fault::os("open directory", e))?;
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut reader = RawDir::new(&own, buffer.spare_capacity_mut());
    while let Some(entry) = reader.next() {
        let entry = entry.map_err(|e| Fault::os("getdents", e))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." && is_so(name) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn one_name_is_enough() {
        let temp = tempfile::tempdir().expect("temp dir");
        for n in 0..100 {
            std::fs::write(temp.path().join(n.to_string()), "").expect("a file");
        }
        let dir = std::fs::File::open(temp.path()).expect("opened");
        assert_eq!(names(dir.as_fd()).expect("names").len(), 100);
        let mut asked = 0;
        let found = any_name(dir.as_fd(), |_| {
            asked += 1;
            asked == 3
        });
        assert!(found.expect("read"));
        assert_eq!(asked, 3, "nothing is read behind what was looked for");
    }

    #[test]
    fn it_is_made_closed_and_found_again() {
        let temp = tempfile::tempdir().expect("temp dir");
        let root = Root::open(temp.path()).expect("root");
        Private::open(&root).expect("made");
        let path = temp.path().join(".tandem");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let private = Private::open(&root).expect("opened again");
        let mode = std::fs::metadata(&path).expect("stat").mode();
        assert_eq!(mode & 0o7777, 0o700);
        let first = private.staging_place().expect("place");
        let second = private.staging_place().expect("place");
        assert_ne!(first.name(), second.name());
        let again = Private::open(&root).expect("opened again");
        let third = again.staging_place().expect("place");
        assert!(third.name() != first.name() && third.name() != second.name());
    }

    #[test]
    fn a_link_in_its_place_is_refused() {
        let temp = tempfile::tempdir().expect("temp dir");
        let elsewhere = tempfile::tempdir().expect("temp dir");
        symlink(elsewhere.path(), temp.path().join(".tandem")).expect("symlink");
        let root = Root::open(temp.path()).expect("root");
        assert_eq!(Private::open(&root).err(), Some(Fault::NotBeneath));
        assert_eq!(std::fs::read_dir(elsewhere.path()).expect("dir").count(), 0);
    }

    #[test]
    fn cleaning_removes_all_and_follows_nothing() {
        let temp = tempfile::tempdir().expect("temp dir");
        let elsewhere = tempfile::tempdir().expect("temp dir");
        std::fs::write(elsewhere.path().join("kept"), b"x").expect("write");
        let root = Root::open(temp.path()).expect("root");
        let private = Private::open(&root).expect("made");
        let staging = temp.path().join(".tandem/staging");
        std::fs::create_dir_all(staging.join("a/b")).expect("mkdir");
        std::fs::write(staging.join("a/b/f"), b"x").expect("write");
        symlink(elsewhere.path(), staging.join("a/link")).expect("symlink");
        assert_eq!(private.clean_staging().expect("cleaned"), 4);
        assert_eq!(std::fs::read_dir(&staging).expect("dir").count(), 0);
        assert!(elsewhere.path().join("kept").exists());
    }
}
