//! The snapshot of a tree that is a btrfs subvolume: `.tandem/snapshot`, one at a time, read-only, made and removed by ioctl.
//! And what belongs to a tree where mounts and subvolumes lie below it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::beneath::Root;
use crate::fault::Fault;
use crate::private::Private;
use crate::stat::Stat;

const NAME: &[u8] = b"snapshot";
/// `BTRFS_SUPER_MAGIC`.
const BTRFS: u64 = 0x9123_683E;
/// The inode number of every subvolume's root directory (`BTRFS_FIRST_FREE_OBJECTID`).
const ROOT_INODE: u64 = 256;
/// The inode number of the empty directory that a snapshot has in the place of a subvolume (`BTRFS_EMPTY_SUBVOL_DIR_OBJECTID`).
const STUB_INODE: u64 = 2;
/// `BTRFS_IOC_SNAP_CREATE_V2` and `BTRFS_IOC_SNAP_DESTROY`: `_IOW(0x94, 23 and 15, 4096 bytes)`.
const CREATE: u64 = 0x5000_9417;
const DESTROY: u64 = 0x5000_940F;
/// `BTRFS_SUBVOL_RDONLY`.
const READ_ONLY: u64 = 1 << 1;

/// `struct btrfs_ioctl_vol_args_v2`, of 4096 bytes.
#[repr(C)]
struct Create {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// `struct btrfs_ioctl_vol_args`, of 4096 bytes.
#[repr(C)]
struct Destroy {
    fd: i64,
    name: [u8; 4088],
}

const _: () = assert!(size_of::<Create>() == 4096 && size_of::<Destroy>() == 4096);

/// Whether an entry beneath the root belongs to the tree. What does not is another mount, a subvolume, or stands for a subvolume
/// in a snapshot: nothing is known of what lies below, and least of all that it is gone.
pub(crate) fn belongs(root: &Root, stat: &Stat) -> bool {
    let same = root.opened_as().same_mount(stat);
    let stands_for_one = same && stat.is_dir() && stat.ino == STUB_INODE;
    same && !(stands_for_one && is_btrfs(root.fd()).unwrap_or(false))
}

/// Why there is no snapshot, or one stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("no snapshot of the tree can be taken: it does not lie on btrfs")]
    NotBtrfs,
    #[error("no snapshot of the tree can be taken: its root is not the root of a btrfs subvolume")]
    NoSubvolume,
    #[error(".tandem/snapshot is no snapshot: it is left alone, and no other one is taken")]
    Foreign,
    #[error("the snapshot of the tree: {0}")]
    Fault(#[from] Fault),
}

/// Takes one of the tree as it is at this moment, and opens its root.
pub(crate) fn take(root: &Root, private: &Private) -> Result<OwnedFd, SnapshotError> {
    if !is_btrfs(root.fd())? {
        return Err(SnapshotError::NotBtrfs);
    }
    if root.opened_as().ino != ROOT_INODE {
        return Err(SnapshotError::NoSubvolume);
    }
    let mut create = Create {
        fd: i64::from(root.fd().as_raw_fd()),
        transid: 0,
        flags: READ_ONLY,
        unused: [0; 4],
        name: [0; 4040],
    };
    create.name[..NAME.len()].copy_from_slice(NAME);
    // SAFETY: the kernel reads exactly the 4096 bytes of `create`, which lives until the call ends.
    let made = unsafe { libc::ioctl(private.dir().as_raw_fd(), CREATE as _, &raw const create) };
    done("take", made)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(private.dir(), NAME, flags, Mode::empty());
    Ok(opened.map_err(|e| Fault::os("open", e))?)
}

/// Removes what is left of one, if anything is. Nothing but a subvolume goes.
pub(crate) fn remove(private: &Private) -> Result<(), SnapshotError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let left = match rustix::fs::openat(private.dir(), NAME, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return Err(SnapshotError::Foreign),
        left => left.map_err(|e| Fault::os("open", e))?,
    };
    let (stat, above) = (Stat::of_fd(left.as_fd())?, Stat::of_fd(private.dir())?);
    if stat.dev == above.dev {
        // A snapshot of the whole has an empty directory where this one was: of a tree that was put back from one.
        return match rustix::fs::unlinkat(private.dir(), NAME, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY) => Err(SnapshotError::Foreign),
            gone => Ok(gone.map_err(|e| Fault::os("rmdir", e))?),
        };
    }
    if !is_btrfs(left.as_fd())? || stat.ino != ROOT_INODE {
        return Err(SnapshotError::Foreign);
    }
    let mut destroy = Destroy {
        fd: 0,
        name: [0; 4088],
    };
    destroy.name[..NAME.len()].copy_from_slice(NAME);
    // SAFETY: the kernel reads exactly the 4096 bytes of `destroy`, which lives until the call ends.
    let gone = unsafe { libc::ioctl(private.dir().as_raw_fd(), DESTROY as _, &raw const destroy) };
    done("remove", gone)
}

fn is_btrfs(dir: BorrowedFd<'_>) -> Result<bool, Fault> {
    let system = rustix::fs::fstatfs(dir).map_err(|e| Fault::os("statfs", e))?;
    // The field's type differs between machines; the magic number has 32 bits.
    Ok(system.f_type as u64 & 0xFFFF_FFFF == BTRFS)
}

fn done(what: &'static str, answer: libc::c_int) -> Result<(), SnapshotError> {
    match answer {
        0 => Ok(()),
        _ => Err(Fault::io(what, &std::io::Error::last_os_error()).into()),
    }
}
