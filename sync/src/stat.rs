//! What the system says about one entry, in one call.

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use crate::entry::{LocalKey, join_ns};
use crate::fault::Fault;

/// The result of one `statx`, without following a symbolic link and without triggering an automount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Device number of the file system.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Kind and permission bits as in `st_mode`.
    pub mode: u32,
    /// Owner, as a number.
    pub uid: u32,
    /// Group, as a number.
    pub gid: u32,
    /// Number of names.
    pub nlink: u32,
    /// Bytes of content; length of the target for a symbolic link.
    pub size: u64,
    /// Time of the last change of content, nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Time of the last change of anything, nanoseconds since 1970. Users cannot set it.
    pub ctime_ns: i128,
    /// When the inode was made, nanoseconds since 1970: tells a file from another one that got its number. Users cannot set
    /// it. `None` where the file system keeps no such time.
    pub born_ns: Option<i128>,
    /// Device number of a device entry.
    pub rdev: u64,
    /// The mount it lies on; 0 where the kernel (before 5.8) does not tell.
    pub mount_id: u64,
    /// It is the root directory of a mount. `None` where the kernel does not tell.
    pub mount_root: Option<bool>,
    /// `chattr +i`.
    pub immutable: bool,
    /// `chattr +a`.
    pub append_only: bool,
}

impl Stat {
    /// The stat of an open descriptor, `O_PATH` included.
    pub fn of_fd(fd: BorrowedFd<'_>) -> Result<Stat, Fault> {
        Stat::read(fd, "", AtFlags::EMPTY_PATH).map_err(|e| Fault::os("stat", e))
    }

    /// The stat of a path given by the administrator, links followed.
    pub fn of_path_followed(path: &Path) -> Result<Stat, Fault> {
        Stat::read(rustix::fs::CWD, path, AtFlags::empty()).map_err(|e| Fault::os("stat", e))
    }

    pub(crate) fn read<P: rustix::path::Arg>(
        dir: BorrowedFd<'_>,
        name: P,
        flags: AtFlags,
    ) -> Result<Stat, Errno> {
        let want = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
        let found = rustix::fs::statx(dir, name, flags | AtFlags::NO_AUTOMOUNT, want)?;
        Ok(Stat::from_statx(&found))
    }

    fn from_statx(s: &Statx) -> Stat {
        let has = |attribute| s.stx_attributes.contains(attribute);
        let tells = |attribute| s.stx_attributes_mask.contains(attribute);
        Stat {
            dev: rustix::fs::makedev(s.stx_dev_major, s.stx_dev_minor),
            ino: s.stx_ino,
            mode: u32::from(s.stx_mode),
            uid: s.stx_uid,
            gid: s.stx_gid,
            nlink: s.stx_nlink,
            size: s.stx_size,
            mtime_ns: join_ns(s.stx_mtime.tv_sec, s.stx_mtime.tv_nsec),
            ctime_ns: join_ns(s.stx_ctime.tv_sec, s.stx_ctime.tv_nsec),
            born_ns: StatxFlags::from_bits_retain(s.stx_mask)
                .contains(StatxFlags::BTIME)
                .then(|| join_ns(s.stx_btime.tv_sec, s.stx_btime.tv_nsec)),
            rdev: rustix::fs::makedev(s.stx_rdev_major, s.stx_rdev_minor),
            mount_id: s.stx_mnt_id,
            mount_root: tells(StatxAttributes::MOUNT_ROOT)
                .then(|| has(StatxAttributes::MOUNT_ROOT)),
            immutable: has(StatxAttributes::IMMUTABLE),
            append_only: has(StatxAttributes::APPEND),
        }
    }

    /// The kind of the entry.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.file_type() == FileType::RegularFile
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.file_type() == FileType::Symlink
    }

    /// Whether both lie on the same mount. By device where the kernel does not number mounts.
    pub fn same_mount(&self, other: &Stat) -> bool {
        self.dev == other.dev && self.mount_id == other.mount_id
    }

    /// The local identity and version of the entry, as the index keeps it.
    pub fn key(&self) -> LocalKey {
        LocalKey {
            dev: self.dev,
            ino: self.ino,
            ctime_ns: self.ctime_ns,
            mtime_ns: self.mtime_ns,
            size: self.size,
        }
    }

    /// The flag that forbids changing the entry, if it has one.
    pub fn protecting_flag(&self) -> Option<&'static str> {
        if self.immutable {
            Some("immutable")
        } else if self.append_only {
            Some("append-only")
        } else {
            None
        }
    }

    /// Whether the last change is so near to `now_ns` (real time) that a further change may carry the same stamp.
    ///
    /// Kernels before 6.13 stamp by the jiffy, 4 to 10 ms: an entry that is fresh when it is read must be read again
    /// later, else a change in the same jiffy is never seen. The 20 ms are two jiffies of the slowest clock.
    ///
    /// A stamp that lies further in the future is of a clock that was set back, and proves as well as an old one: a change from now
    /// on gets an earlier stamp. When the clock comes by that moment again, a change would have to meet the same nanosecond,
    /// which the ticks after a step do not lie on but by chance; the comparison of contents finds even that.
    pub fn is_fresh(&self, now_ns: i128) -> bool {
        const JIFFIES_NS: i128 = 20_000_000;
        (now_ns - self.ctime_ns).abs() < JIFFIES_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freshness_has_a_border() {
        let mut stat = Stat::of_path_followed(Path::new("/")).expect("the root exists");
        stat.ctime_ns = 1_000_000_000;
        assert!(stat.is_fresh(1_000_000_000));
        assert!(stat.is_fresh(1_019_999_999));
        assert!(!stat.is_fresh(1_020_000_000));
        assert!(
            stat.is_fresh(980_000_001),
            "a clock that was set back a little"
        );
        assert!(!stat.is_fresh(980_000_000));
        assert!(!stat.is_fresh(0), "a clock that was set back far");
    }
}
