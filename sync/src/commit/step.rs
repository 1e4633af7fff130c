//! The vocabulary of an apply: what is to be done, what is expected to be there, and what came of it.

use std::collections::BTreeMap;

use super::stage::Staged;
use crate::entry::{LinkTarget, LocalKey, Meta};
use crate::fault::Fault;
use crate::path::RelPath;

/// What must lie at a path just before it is changed. Anything else is [`Fault::Changed`], and nothing is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Absent,
    /// This version. Change times are not compared for an inode that the same apply has touched through another name.
    Key(LocalKey),
    /// A directory, whatever its times: its own change times move with its entries.
    Dir,
    /// Not checked. Only for what was just moved to the rescue, or is known to be without value.
    Unchecked,
}

/// One change of one path.
#[derive(Debug)]
pub struct Step {
    /// Where.
    pub path: RelPath,
    /// What must be there.
    pub expect: Expect,
    /// What to do.
    pub action: Action,
}

/// What is done at a path. All but [`Action::Meta`] and [`Action::Remove`] appear complete, in one rename.
#[derive(Debug)]
pub enum Action {
    /// A file whose content was staged and verified.
    File {
        /// The content.
        staged: Staged,
        /// Its metadata.
        meta: Meta,
    },
    /// A directory. If there is one already, only its metadata is applied.
    Dir {
        /// Its metadata; the modification time is set after everything in it.
        meta: Meta,
    },
    /// A symbolic link.
    Symlink {
        /// Its target.
        target: LinkTarget,
        /// Its metadata.
        meta: Meta,
    },
    /// A named pipe.
    Fifo {
        /// Its metadata.
        meta: Meta,
    },
    /// A device.
    Device {
        /// A block device; otherwise a character device.
        block: bool,
        /// The device's number.
        rdev: u64,
        /// Its metadata.
        meta: Meta,
    },
    /// One more name of the regular file at `to`, which lies in the same tree and is complete.
    HardLink {
        /// The other name.
        to: RelPath,
    },
    /// New metadata for what is there.
    Meta {
        /// The metadata.
        meta: Meta,
    },
    /// The entry at `from`, with all below it if it is a directory, gets this name.
    Rename {
        /// The old name.
        from: RelPath,
        /// What must be there.
        from_expect: Expect,
    },
    /// The entry goes; a directory only when it is empty.
    Remove,
}

/// What came of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Where.
    pub path: RelPath,
    /// The new version, `None` if nothing is there any more. Or why nothing was done.
    pub result: Result<Option<LocalKey>, Fault>,
    /// Attributes that could not be applied although the step was carried out; by name.
    pub missed: Vec<Fault>,
}

/// What came of an apply. Everything reported as done is durable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// One for each step, in the order of the steps.
    pub outcomes: Vec<Outcome>,
    /// The new versions of directories whose entries changed and that had no step of their own. Their modification
    /// times are as before.
    pub dirs: BTreeMap<RelPath, LocalKey>,
    /// Why the rest was not tried: no room ([`Fault::NoSpace`]), the role changed ([`Fault::Revoked`]), or the result
    /// cannot be made durable. The steps that were not tried carry the same fault. If durability failed, all do.
    pub stopped: Option<Fault>,
}

impl Report {
    /// The steps that were not carried out, with the reason.
    pub fn failures(&self) -> impl Iterator<Item = (&RelPath, &Fault)> {
        self.outcomes
            .iter()
            .filter_map(|outcome| Some((&outcome.path, outcome.result.as_ref().err()?)))
    }
}
