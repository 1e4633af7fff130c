//! What the index knows of one path: its state, what the peer has of it, and how to see that it changed.

use crate::path::RelPath;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

mod base;
mod flags;
pub use base::{Acked, Base, Basis, Change};
pub use flags::{FLAGS_NAME, Flags};

/// Longest target of a symbolic link in bytes (`PATH_MAX`, with which Linux bounds it too).
pub const MAX_LINK_TARGET: usize = 4096;
/// Most bytes of names and values of all extended attributes of one file.
pub const MAX_XATTRS: usize = 1 << 20;

/// Why decoded data are not a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Empty, too long or with a NUL byte.
    #[error(
        "a symbolic link's target is empty, longer than {MAX_LINK_TARGET} bytes, or has a NUL byte"
    )]
    LinkTarget,
    /// More than [`MAX_XATTRS`] bytes, or a name that Linux does not allow.
    #[error(
        "extended attributes hold more than {MAX_XATTRS} bytes, or a name is empty, above 255 bytes or has a NUL byte"
    )]
    Xattrs,
    /// Flags that are none, or of which one is not carried.
    #[error("flags that are not known")]
    Flags,
    /// Bits beyond `0o7777`.
    #[error("a mode has bits beyond 07777")]
    Mode,
    /// Beyond what the kernel's 64 bit seconds can hold.
    #[error("a time is out of range")]
    Time,
}

/// Hash of a file's whole content, by BLAKE3: see [`crate::digest`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContentHash(pub [u8; 32]);

impl ContentHash {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = crate::digest::ContentHasher::new();
        hasher.update(bytes);
        hasher.finish()
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The target of a symbolic link: 1 to [`MAX_LINK_TARGET`] bytes without NUL. Never followed by Tandem.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct LinkTarget(Box<[u8]>);

impl TryFrom<Vec<u8>> for LinkTarget {
    type Error = StateError;
    fn try_from(bytes: Vec<u8>) -> Result<Self, StateError> {
        if bytes.is_empty() || bytes.len() > MAX_LINK_TARGET || bytes.contains(&0) {
            return Err(StateError::LinkTarget);
        }
        Ok(LinkTarget(bytes.into()))
    }
}

impl From<LinkTarget> for Vec<u8> {
    fn from(target: LinkTarget) -> Vec<u8> {
        target.0.into()
    }
}

impl Deref for LinkTarget {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for LinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        crate::path::escape(&self.0, f)?;
        f.write_str("\"")
    }
}

/// Extended attributes by name, at most [`MAX_XATTRS`] bytes in all. POSIX ACLs are among them, and in a tree that carries
/// them the [`Flags`] of `chattr`.
#[derive(Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(
    try_from = "BTreeMap<Vec<u8>, Vec<u8>>",
    into = "BTreeMap<Vec<u8>, Vec<u8>>"
)]
pub struct Xattrs(BTreeMap<Vec<u8>, Vec<u8>>);

impl TryFrom<BTreeMap<Vec<u8>, Vec<u8>>> for Xattrs {
    type Error = StateError;
    fn try_from(map: BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Self, StateError> {
        let name_ok = |name: &Vec<u8>| !name.is_empty() && name.len() <= 255 && !name.contains(&0);
        let total: usize = map
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if total > MAX_XATTRS || !map.keys().all(name_ok) {
            return Err(StateError::Xattrs);
        }
        let flags = map.get(FLAGS_NAME).map(|value| Flags::from_value(value));
        if flags == Some(None) {
            return Err(StateError::Flags);
        }
        Ok(Xattrs(map))
    }
}

impl Xattrs {
    /// The flags of `chattr`, which are kept under a name of their own; of a tree that does not carry them: none.
    pub fn flags(&self) -> Flags {
        let value = self.0.get(FLAGS_NAME);
        value
            .and_then(|value| Flags::from_value(value))
            .unwrap_or_default()
    }

    /// The same with these flags. Within the bound: an attribute of the name is there already, or none comes.
    pub(crate) fn with_flags(&self, flags: Flags) -> Xattrs {
        let mut map = self.0.clone();
        match flags.is_empty() {
            true => drop(map.remove(FLAGS_NAME)),
            false => drop(map.insert(FLAGS_NAME.to_vec(), flags.to_value())),
        }
        Xattrs(map)
    }
}

impl From<Xattrs> for BTreeMap<Vec<u8>, Vec<u8>> {
    fn from(xattrs: Xattrs) -> Self {
        xattrs.0
    }
}

impl Deref for Xattrs {
    type Target = BTreeMap<Vec<u8>, Vec<u8>>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl fmt::Debug for Xattrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self
            .0
            .iter()
            .map(|(name, value)| (String::from_utf8_lossy(name), value.len()));
        f.debug_map().entries(shown).finish()
    }
}

/// Metadata that is replicated.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "MetaParts")]
pub struct Meta {
    /// Permission bits, `0o7777` at most. Of no meaning for symbolic links, where it is 0.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Modification time, nanoseconds since 1970. Seconds are within `i64`.
    pub mtime_ns: i128,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

/// [`Meta`] before its values are checked.
#[derive(Deserialize)]
struct MetaParts {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime_ns: i128,
    xattrs: Xattrs,
}

impl TryFrom<MetaParts> for Meta {
    type Error = StateError;
    fn try_from(m: MetaParts) -> Result<Self, StateError> {
        if m.mode & !0o7777 != 0 {
            return Err(StateError::Mode);
        }
        let (seconds, _) = split_ns(m.mtime_ns);
        i64::try_from(seconds).map_err(|_| StateError::Time)?;
        Ok(Meta {
            mode: m.mode,
            uid: m.uid,
            gid: m.gid,
            mtime_ns: m.mtime_ns,
            xattrs: m.xattrs,
        })
    }
}

impl Meta {
    /// The modification time as the kernel takes it: seconds and 0 to 999 999 999 nanoseconds.
    pub fn mtime(&self) -> (i64, u32) {
        let (seconds, nanos) = split_ns(self.mtime_ns);
        // Decoding and reading from the kernel keep the seconds within i64; clamp what a caller made by hand.
        (
            i64::try_from(seconds).unwrap_or(if seconds < 0 { i64::MIN } else { i64::MAX }),
            nanos,
        )
    }
}

/// Kernel time to nanoseconds since 1970.
pub fn join_ns(seconds: i64, nanos: u32) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}

fn split_ns(ns: i128) -> (i128, u32) {
    // The remainder of a Euclidean division by 1e9 is below 1e9 and fits.
    (
        ns.div_euclid(1_000_000_000),
        ns.rem_euclid(1_000_000_000) as u32,
    )
}

/// What kind of thing lies at a path, with its content or what stands for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// Of all bytes.
        hash: ContentHash,
    },
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// Where it points, as stored.
        target: LinkTarget,
    },
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice {
        /// `dev_t` of the device it stands for.
        rdev: u64,
    },
    /// A block device.
    BlockDevice {
        /// `dev_t` of the device it stands for.
        rdev: u64,
    },
    /// One more name of a file of the same tree: of the first name of its group, in path order.
    HardLink {
        /// That first name, whose entry holds content and metadata.
        to: RelPath,
    },
}

/// The kind without its content: what decides whether one thing can replace another by a plain rename.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KindName {
    /// Regular file, or one more name of one.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Device.
    Device,
}

impl Kind {
    /// The kind's name.
    pub fn name(&self) -> KindName {
        match self {
            Kind::File { .. } | Kind::HardLink { .. } => KindName::File,
            Kind::Dir => KindName::Dir,
            Kind::Symlink { .. } => KindName::Symlink,
            Kind::Fifo => KindName::Fifo,
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } => KindName::Device,
        }
    }

    /// True for a directory.
    pub fn is_dir(&self) -> bool {
        matches!(self, Kind::Dir)
    }

    /// Bytes of content that this entry accounts for: 0 for all but regular files, and for further names of a file.
    pub fn size(&self) -> u64 {
        if let Kind::File { size, .. } = self {
            *size
        } else {
            0
        }
    }

    /// A part of the content's hash, by which contents are told apart where a mistake only costs time. For regular files
    /// that are not empty.
    pub(crate) fn content_key(&self) -> Option<u64> {
        let hash = self.hash().filter(|_| self.size() > 0)?;
        let (first, _) = hash.0.split_first_chunk()?;
        Some(u64::from_le_bytes(*first))
    }

    /// The content's hash, for regular files.
    pub fn hash(&self) -> Option<&ContentHash> {
        if let Kind::File { hash, .. } = self {
            Some(hash)
        } else {
            None
        }
    }
}

/// What lies at a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct State {
    /// Kind and content.
    pub kind: Kind,
    /// Metadata. For a [`Kind::HardLink`] the same as that of its first name.
    pub meta: Meta,
}

/// How this node recognises that a path did not change since it was read. Never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LocalKey {
    /// Device number of the file system.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Change time, nanoseconds since 1970. Users cannot set it back.
    pub ctime_ns: i128,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Bytes.
    pub size: u64,
}

/// One path in the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexEntry {
    /// What lies there; `None` is a tombstone: it was there and is gone.
    pub current: Option<State>,
    /// Sequence number of its last change.
    pub seq: u64,
    /// What the peer had of it when it changed; see [`IndexEntry::basis`].
    pub base: Base,
    /// How to see that it changed. `None`: unknown, to be read again.
    pub local: Option<LocalKey>,
}

#[cfg(test)]
pub(crate) mod tests;
