//! Whether a root is the root that it was: marker, file system identity, mount point, emptiness.
//!
//! This module only gathers facts; the verdict on them is pure (`guard`). The marker alone does not prove a
//! root (a copied disk has it too), the file system alone neither (the root may be another directory of it).

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::beneath::{Place, Root};
use crate::fault::Fault;
use crate::path::PRIVATE_DIR;
use crate::private::{self, Private};
use crate::stat::Stat;

const MARKER: &[u8] = b"marker";
/// A marker is about 120 bytes; whatever is longer was not written by us.
const MARKER_MAX: u64 = 4096;
const MARKER_VERSION: u32 = 1;

/// The content of `.tandem/marker`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Version of this format.
    pub version: u32,
    /// Random identity of this copy of the tree, in hexadecimal. The two nodes have different ones.
    pub id: String,
    /// The pair that it belongs to.
    pub pair: String,
    /// The name of the tree in the configuration when the marker was made.
    pub tree: String,
}

/// What identifies a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FsId {
    /// The UUID in its superblock (ioctl `FS_IOC_GETFSUUID`, Linux 6.9 and later).
    Uuid([u8; 16]),
    /// `f_fsid` of `statfs`. Derived from the UUID by ext4, XFS and btrfs; by others from the device number, which may change at a
    /// reboot.
    Fsid(u64),
}

impl std::fmt::Display for FsId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FsId::Uuid(bytes) => {
                f.write_str("uuid:")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            FsId::Fsid(id) => write!(f, "fsid:{id:016x}"),
        }
    }
}

/// The facts about a root at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootFacts {
    /// The marker; `None` if there is none.
    pub marker: Option<Marker>,
    /// The file system that the root lies on.
    pub fs: FsId,
    /// The root directory is the root of a mount.
    pub is_mount_point: bool,
    /// Device number.
    pub dev: u64,
    /// Inode number of the root directory.
    pub ino: u64,
    /// Nothing is in it besides `.tandem` and `lost+found`.
    pub is_empty: bool,
}

/// Why the facts could not be gathered, or a marker not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// A system call failed.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// There is a marker that cannot be read as one.
    #[error("the marker in .tandem is damaged: {0}")]
    Damaged(String),
    /// The marker is of a later version.
    #[error("the marker in .tandem has version {0}, this program knows {MARKER_VERSION}")]
    Version(u32),
}

/// Gathers the facts of an opened root. Reads only; makes nothing.
pub fn facts(root: &Root) -> Result<RootFacts, IdentityError> {
    let stat = Stat::of_fd(root.fd())?;
    Ok(RootFacts {
        marker: read_marker(root)?,
        fs: fs_id(root.fd())?,
        is_mount_point: is_mount_point(root.fd(), &stat)?,
        dev: stat.dev,
        ino: stat.ino,
        is_empty: is_empty(root)?,
    })
}

/// Reads the marker; `None` if there is none.
pub fn read_marker(root: &Root) -> Result<Option<Marker>, IdentityError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let dir_flags = flags | OFlags::DIRECTORY;
    let dir = match rustix::fs::openat(root.fd(), os(PRIVATE_DIR), dir_flags, Mode::empty()) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(Fault::os("open .tandem", errno).into()),
    };
    let file = match rustix::fs::openat(&dir, os(MARKER), flags, Mode::empty()) {
        Ok(fd) => std::fs::File::from(fd),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(Fault::os("open marker", errno).into()),
    };
    let mut text = Vec::new();
    file.take(MARKER_MAX)
        .read_to_end(&mut text)
        .map_err(|e| IdentityError::Damaged(e.to_string()))?;
    parse_marker(&text).map(Some)
}

fn parse_marker(text: &[u8]) -> Result<Marker, IdentityError> {
    let marker: Marker =
        serde_json::from_slice(text).map_err(|e| IdentityError::Damaged(e.to_string()))?;
    if marker.version != MARKER_VERSION {
        return Err(IdentityError::Version(marker.version));
    }
    Ok(marker)
}

/// The text of a marker.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Ok(marker) = parse_marker(bytes) {
        let text = serde_json::to_vec(&marker).expect("a marker can be written");
        assert_eq!(parse_marker(&text).expect("and read"), marker);
    }
}

/// Writes a marker with a new random identity, durable when this returns. Replaces one that is there.
pub fn create_marker(private: &Private, pair: &str, tree: &str) -> Result<Marker, IdentityError> {
    let marker = Marker {
        version: MARKER_VERSION,
        id: random_id()?,
        pair: pair.to_owned(),
        tree: tree.to_owned(),
    };
    let text = serde_json::to_vec(&marker).map_err(|e| IdentityError::Damaged(e.to_string()))?;
    let staged = private.staging_place()?;
    let mut file = staged.create_new()?;
    file.write_all(&text)
        .and_then(|()| file.sync_all())
        .map_err(|e| Fault::io("write marker", &e))?;
    let target = Place::new(private::duplicate(private.dir())?, MARKER)?;
    staged.rename_over(&target)?;
    target.sync_dir()?;
    Ok(marker)
}

fn random_id() -> Result<String, Fault> {
    let mut bytes = [0u8; 16];
    // Up to 256 bytes come whole once the kernel's generator is ready, which the default flags wait for.
    let flags = rustix::rand::GetRandomFlags::empty();
    rustix::rand::getrandom(&mut bytes, flags).map_err(|e| Fault::os("getrandom", e))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The file system of an open descriptor.
pub fn fs_id(fd: BorrowedFd<'_>) -> Result<FsId, Fault> {
    if let Some(uuid) = ioctl::fs_uuid(fd) {
        return Ok(FsId::Uuid(uuid));
    }
    let stat = nix::sys::statfs::fstatfs(fd).map_err(|e| Fault::Os {
        call: "statfs",
        errno: e as i32,
    })?;
    Ok(FsId::Fsid(fsid_number(stat.filesystem_id())))
}

fn is_mount_point(fd: BorrowedFd<'_>, stat: &Stat) -> Result<bool, Fault> {
    if let Some(known) = stat.mount_root {
        return Ok(known);
    }
    let above =
        Stat::read(fd, "..", AtFlags::SYMLINK_NOFOLLOW).map_err(|e| Fault::os("stat", e))?;
    Ok(above.dev != stat.dev || above.ino == stat.ino)
}

/// Whether nothing is in the root besides `.tandem` and `lost+found`.
pub fn is_empty(root: &Root) -> Result<bool, Fault> {
    // It is asked with each flush and each word to the peer: one entry has to be enough in a root with ten thousand.
    let is_data = |name: &[u8]| name != PRIVATE_DIR && name != b"lost+found";
    private::any_name(root.fd().as_fd(), is_data).map(|any| !any)
}

fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

pub(crate) use ioctl::fsid_number;

/// The two calls that the safe libraries do not have.
mod ioctl {
    use std::os::fd::{AsRawFd, BorrowedFd};

    /// `struct fsuuid2` of `linux/fs.h`.
    #[repr(C)]
    struct FsUuid2 {
        len: u8,
        uuid: [u8; 16],
    }

    /// `FS_IOC_GETFSUUID`: `_IOR(0x15, 0, struct fsuuid2)`.
    const GET_FS_UUID: libc::c_ulong = 0x8011_1500;

    pub(super) fn fs_uuid(fd: BorrowedFd<'_>) -> Option<[u8; 16]> {
        let mut found = FsUuid2 {
            len: 0,
            uuid: [0; 16],
        };
        // SAFETY: the descriptor is open for the time of the call (borrowed), and the kernel writes at most
        // `size_of::<FsUuid2>()` = 17 bytes, the size that is encoded in the request number, into `found`.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), GET_FS_UUID as _, &raw mut found) };
        let known = result == 0 && found.len == 16 && found.uuid != [0; 16];
        known.then_some(found.uuid)
    }

    pub(crate) fn fsid_number(id: libc::fsid_t) -> u64 {
        // SAFETY: `fsid_t` is two C ints (statfs(2)), 8 bytes without padding; every bit pattern is a valid u64.
        unsafe { std::mem::transmute::<libc::fsid_t, u64>(id) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_made_once_and_read_back() {
        let temp = tempfile::tempdir().expect("temp dir");
        let root = Root::open(temp.path()).expect("root");
        assert_eq!(facts(&root).expect("facts").marker, None);
        let private = Private::open(&root).expect("private");
        assert_eq!(facts(&root).expect("facts").marker, None);
        let made = create_marker(&private, "pair", "www").expect("made");
        let found = facts(&root).expect("facts");
        assert_eq!(found.marker, Some(made.clone()));
        assert!(found.is_empty);
        assert!(!found.is_mount_point);
        let again = create_marker(&private, "pair", "www").expect("made");
        assert_ne!(made.id, again.id);
        std::fs::write(temp.path().join("f"), b"").expect("write");
        assert!(!facts(&root).expect("facts").is_empty);
    }

    #[test]
    fn a_damaged_or_later_marker_is_an_error_not_an_absence() {
        let temp = tempfile::tempdir().expect("temp dir");
        let root = Root::open(temp.path()).expect("root");
        Private::open(&root).expect("private");
        let marker = temp.path().join(".tandem/marker");
        std::fs::write(&marker, b"{\"version\":1,").expect("write");
        assert!(matches!(facts(&root), Err(IdentityError::Damaged(_))));
        let later = br#"{"version":9,"id":"00","pair":"p","tree":"t"}"#;
        std::fs::write(&marker, later).expect("write");
        assert_eq!(facts(&root), Err(IdentityError::Version(9)));
    }

    #[test]
    fn the_file_system_is_the_same_in_all_its_directories() {
        let temp = tempfile::tempdir().expect("temp dir");
        std::fs::create_dir(temp.path().join("d")).expect("mkdir");
        let above = Root::open(temp.path()).expect("root");
        let below = Root::open(&temp.path().join("d")).expect("root");
        let id = fs_id(above.fd()).expect("id");
        assert_eq!(id, fs_id(below.fd()).expect("id"));
        let proc = Root::open(std::path::Path::new("/proc")).expect("proc");
        assert_ne!(id, fs_id(proc.fd()).expect("id"));
        assert!(facts(&proc).expect("facts").is_mount_point);
    }
}
