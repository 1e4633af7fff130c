//! In which order a batch of one tree is applied, and what of it is not.
//!
//! ```text
//!   1 removals that make room    a directory that becomes something else, deepest first
//!   2 directories                parents first, 0700 until the end
//!   3 contents                   by rename, each path whole at every moment
//!   4 further names              hard links, after what they point to
//!   5 metadata only
//!   6 removals                   deepest first, after everything that could still use their content
//!   7 metadata of directories    deepest first; times last, for every step above changed some
//! ```
//! Pure: what lies on the receiver is told by [`Known`]. The one who carries the plan out checks what each step expects
//! just before it, beneath the root.

use crate::entry::{IndexEntry, Kind, KindName, LocalKey, Meta, State};
use crate::filter::Filter;
use crate::path::RelPath;
use crate::tree::Deletes;
use std::collections::{BTreeMap, BTreeSet};

mod make;

/// One record of a batch, of the tree that is planned.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// Where.
    pub path: &'a RelPath,
    /// What lies there at the source; `None`: nothing.
    pub state: Option<&'a State>,
}

/// What the receiver's index holds.
pub trait Known {
    /// Why it could not be read.
    type Error;
    /// The entry of a path.
    fn entry(&self, path: &RelPath) -> Result<Option<IndexEntry>, Self::Error>;
    /// Everything beneath a directory, in path order; tombstones may be among it.
    fn below(&self, dir: &RelPath) -> Result<Vec<(RelPath, IndexEntry)>, Self::Error>;
    /// The paths in this tree of regular files with this device and inode number.
    fn names(&self, local: &LocalKey) -> Result<Vec<RelPath>, Self::Error>;
}

/// The receiver's own settings for a tree.
#[derive(Debug, Clone, Copy)]
pub struct Policy<'a> {
    /// Whether deletes are carried out.
    pub deletes: Deletes,
    /// Never changed or removed (invariant 6).
    pub protect: &'a Filter,
    /// In no tree: neither changed nor removed.
    pub exclude: &'a Filter,
}

/// What must lie at a path just before a step; anything else means that somebody wrote here, and the step is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing, or what an earlier step of the same plan left there.
    Nothing,
    /// This kind of thing, with this key. No key: the index does not know it, so it must be compared first.
    Known(KindName, Option<LocalKey>),
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Removes anything but a directory. Already gone is fine.
    RemoveFile,
    /// Removes an empty directory. Not empty: something excluded or unknown keeps it alive. Already gone is fine.
    RemoveDir,
    /// Makes a directory, mode 0700, its owner the agent, in place of anything expected that is no directory. Its metadata come with [`Action::FinishDir`]; without one
    /// (`implied`) its own record is still to come.
    MakeDir {
        /// No record of the batch asks for it: it is needed for what lies beneath.
        implied: bool,
    },
    /// Stages a file, symbolic link, fifo or device with its metadata and renames it to the path.
    Put(State),
    /// One more name for the file at `to`, made beside and renamed to the path.
    Link {
        /// First name of the group, which an earlier step may have made.
        to: RelPath,
    },
    /// Only the metadata of something that is not a directory.
    SetMeta(Meta),
    /// All metadata of a directory, its modification time last.
    FinishDir(Meta),
    /// Puts back the modification time of a directory that only changed by what was done in it.
    RestoreTime(Meta),
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where.
    pub path: RelPath,
    /// What.
    pub action: Action,
    /// What must lie there just before.
    pub expect: Expect,
}

/// Why a record is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// It matches `protect`, or lies in a directory that does.
    Protected,
    /// It matches `exclude` here.
    Excluded,
    /// It is a delete, and `deletes = "keep"`.
    Kept,
    /// A directory should become something else, but something in it is protected or kept.
    Occupied,
    /// The batch says that the directory it lies in is gone.
    NoParent,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Why::Protected => "protected here",
            Why::Excluded => "excluded here",
            Why::Kept => "deletes are kept here",
            Why::Occupied => "the directory here holds something protected or kept",
            Why::NoParent => "its directory is gone",
        })
    }
}

/// The plan of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In the order in which they are taken.
    pub steps: Vec<Step>,
    /// Records that are not carried out.
    pub skipped: Vec<(RelPath, Why)>,
    /// Directories that the source removed and that stay, for something protected lies in them.
    pub kept: Vec<RelPath>,
}

impl Plan {
    /// How many entries it removes: for the guard of invariant 4.
    pub fn removals(&self) -> u64 {
        let removes = |s: &&Step| matches!(s.action, Action::RemoveFile | Action::RemoveDir);
        self.steps.iter().filter(removes).count() as u64
    }
}

/// Why a batch cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError<E> {
    /// The index could not be read.
    #[error(transparent)]
    Known(#[from] E),
    /// A path in Tandem's own directory, a root that is not a directory, a hard link to such a place or to itself. No
    /// source sends that: the peer is not one of ours.
    #[error("the peer sent {0}, which no source sends")]
    Forbidden(RelPath),
    /// Two records for one path.
    #[error("the peer sent {0} twice in one batch")]
    Twice(RelPath),
}

/// Orders the records of a batch. Nothing is read but `known`.
pub fn plan<K: Known>(
    records: &[Incoming<'_>],
    policy: Policy<'_>,
    known: &K,
) -> Result<Plan, PlanError<K::Error>> {
    let mut by_path = BTreeMap::new();
    for record in records {
        if is_forbidden(record) {
            return Err(PlanError::Forbidden(record.path.clone()));
        }
        if by_path.insert(record.path, record.state).is_some() {
            return Err(PlanError::Twice(record.path.clone()));
        }
    }
    make::Maker::new(&by_path, policy, known).run()
}

fn is_forbidden(record: &Incoming<'_>) -> bool {
    let private = |path: &RelPath| path.is_root() || path.is_private();
    match record.state.map(|state| &state.kind) {
        Some(Kind::Dir) => record.path.is_private(),
        Some(Kind::HardLink { to }) => private(record.path) || private(to) || to == record.path,
        _ => private(record.path),
    }
}

/// The steps of each phase, and what was decided besides.
#[derive(Default)]
struct Phases {
    make_room: BTreeMap<RelPath, (Action, Expect)>,
    dirs: BTreeMap<RelPath, (Action, Expect)>,
    puts: BTreeMap<RelPath, (Action, Expect)>,
    links: BTreeMap<RelPath, (Action, Expect)>,
    metas: BTreeMap<RelPath, (Action, Expect)>,
    removals: BTreeMap<RelPath, (Action, Expect)>,
    finish: BTreeMap<RelPath, (Action, Expect)>,
    skipped: Vec<(RelPath, Why)>,
    kept: BTreeSet<RelPath>,
}

impl Phases {
    /// Whether a step changes the names in a directory.
    fn changed_names(&self) -> impl Iterator<Item = &RelPath> {
        [
            &self.make_room,
            &self.dirs,
            &self.puts,
            &self.links,
            &self.removals,
        ]
        .into_iter()
        .flat_map(BTreeMap::keys)
    }

    fn into_plan(self) -> Plan {
        let step = |(path, (action, expect))| Step {
            path,
            action,
            expect,
        };
        // Path order is parents first, so its reverse is deepest first.
        let mut steps: Vec<Step> = self.make_room.into_iter().rev().map(step).collect();
        for phase in [self.dirs, self.puts, self.links, self.metas] {
            steps.extend(phase.into_iter().map(step));
        }
        for phase in [self.removals, self.finish] {
            steps.extend(phase.into_iter().rev().map(step));
        }
        Plan {
            steps,
            skipped: self.skipped,
            kept: self.kept.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests;
