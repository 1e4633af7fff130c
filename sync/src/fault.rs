//! What can go wrong with one path of a tree.
//!
//! A fault belongs to one path and never stops the others, with two exceptions: [`Fault::NoSpace`] stops an apply, and so does
//! [`Fault::ReadOnly`] of a whole tree, because everything after it would fail too and would only hide the reason.

use rustix::io::Errno;

/// Why an operation on one path of a tree was not carried out.
///
/// Comparable and cloneable, so that status can show it and tests can name it. It holds no path: whoever
/// reports it adds the path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A component of the path is a symbolic link, or is not a directory. Never followed, never replaced.
    #[error("a component of the path is a symbolic link or not a directory")]
    NotBeneath,
    /// The path lies on another mount below the root, and the tree does not cross mounts.
    #[error("the path is on another mount below the root of the tree")]
    MountBelow,
    /// The entry does not exist.
    #[error("the entry does not exist")]
    Missing,
    /// The entry is not in the state that the caller expected; nothing was changed.
    #[error("the entry changed since it was examined: {0}")]
    Changed(&'static str),
    /// The entry, or the directory that holds it, has the immutable or the append-only flag.
    #[error("protected by the {0} flag")]
    Flagged(&'static str),
    /// The configuration protects this path on the receiver.
    #[error("protected by the configuration")]
    Protected,
    /// A directory that should go still has entries that are not part of the change.
    #[error("the directory is not empty")]
    NotEmpty,
    /// A directory that should go holds nothing but what is protected or excluded here. It stays, and that is in order.
    #[error("kept, for what it holds is protected or excluded here")]
    Kept,
    /// The content has not the announced hash or size.
    #[error("the content does not have the announced size and hash")]
    WrongContent,
    /// The step needs a content that was not staged.
    #[error("its content has not arrived")]
    NoContent,
    /// An owner, mode, time or extended attribute could not be applied.
    #[error("{what} cannot be applied: {}", describe(*errno))]
    Attribute {
        /// The attribute, for example `owner 1000:1000` or `xattr trusted.x`.
        what: String,
        /// The system's error number.
        errno: i32,
    },
    /// The file system or the quota is full.
    #[error("no room: {}", describe(*errno))]
    NoSpace {
        /// `ENOSPC` or `EDQUOT`.
        errno: i32,
    },
    /// The file system takes no changes: the tree's own, or another one below its root.
    #[error("the file system is read-only")]
    ReadOnly,
    /// A file was changed in place only in part, and its redo journal is open. The tree stands still until the journal
    /// is carried out.
    #[error("a file is changed in part, its redo journal completes it: {}", describe(*errno))]
    Unfinished {
        /// The system's error number.
        errno: i32,
    },
    /// A redo journal cannot be read: the file that it is for may be half one version and half the next.
    #[error(
        "the redo journal .tandem/redo/{name} {why}: remove it, and the file is repaired from the master"
    )]
    Journal {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: crate::redo::BadJournal,
    },
    /// The role token was revoked before this path was reached; it was left as it was.
    #[error("not applied: the role changed")]
    Revoked,
    /// Any other refusal of the operating system.
    #[error("{call}: {}", describe(*errno))]
    Os {
        /// The system call or step.
        call: &'static str,
        /// The system's error number.
        errno: i32,
    },
}

impl Fault {
    /// The fault for a system call that failed with `errno`.
    pub fn os(call: &'static str, errno: Errno) -> Fault {
        match errno {
            Errno::NOSPC | Errno::DQUOT => Fault::NoSpace {
                errno: errno.raw_os_error(),
            },
            Errno::ROFS => Fault::ReadOnly,
            Errno::LOOP | Errno::NOTDIR => Fault::NotBeneath,
            Errno::XDEV => Fault::MountBelow,
            Errno::NOENT => Fault::Missing,
            Errno::NOTEMPTY => Fault::NotEmpty,
            _ => Fault::Os {
                call,
                errno: errno.raw_os_error(),
            },
        }
    }

    /// The fault for a failed call of the standard library.
    pub fn io(call: &'static str, error: &std::io::Error) -> Fault {
        let raw = error.raw_os_error().unwrap_or(libc::EIO);
        Fault::os(call, Errno::from_raw_os_error(raw))
    }

    /// True for [`Fault::NoSpace`]: the caller stops applying.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Fault::NoSpace { .. })
    }

    /// True for what leaves the rest of an apply no sense: no room, or a file that is half changed.
    pub fn ends_apply(&self) -> bool {
        self.is_no_space() || matches!(self, Fault::Unfinished { .. })
    }

    /// The system's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Fault::Attribute { errno, .. }
            | Fault::NoSpace { errno }
            | Fault::Unfinished { errno }
            | Fault::Os { errno, .. } => Some(*errno),
            Fault::ReadOnly => Some(libc::EROFS),
            _ => None,
        }
    }
}

/// Why nothing can be put into a tree, whatever its path. The worse one is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unput {
    /// There is no room.
    NoRoom,
    /// It takes no changes.
    ReadOnly,
}

impl Unput {
    /// What a fault in the tree's private directory says of all of it.
    pub fn of(fault: &Fault) -> Option<Unput> {
        match fault {
            Fault::NoSpace { .. } => Some(Unput::NoRoom),
            Fault::ReadOnly => Some(Unput::ReadOnly),
            _ => None,
        }
    }
}

fn describe(errno: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno)
}
