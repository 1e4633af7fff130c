//! Carrying out changes on a tree, durable, so that a reader sees each entry whole: the old one or the new one.
//!
//! An apply has five phases:
//! 1. prepare: everything new is made in the staging directory, complete with its metadata;
//! 2. first durability: what was staged is on the disk before any name leads to it (few files: each by `fsync`; many:
//!    one `syncfs`), and so is what the caller writes meanwhile;
//! 3. make visible, in the order of the steps, with the role token held: the expected state of each path is checked
//!    again just before, then one rename (an exchange where a directory and something else change places). Directories whose
//!    mode only becomes stricter have it before: what comes into them was written behind it;
//! 4. the modification times of all directories whose entries changed; last, where the tree carries them, the flags of
//!    `chattr`, of which the protecting ones were taken away from what phase 3 had to change;
//! 5. second durability, then the new local keys are read.
//!
//! A large file of a tree that is updated in place is no rename but a journal that is carried out: see `commit/inplace.rs`.
//!
//! A fault stops its own path only, with four exceptions: no room, a tree that takes no changes, a file that is changed in part, and
//! the loss of the role token.
//!
//! Between the check and the rename another process of this machine can still change the entry; the kernel has no
//! conditional rename. The window is two system calls long.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::beneath::Root;
use crate::chattr::Freed;
use crate::cut;
use crate::entry::{Flags, LocalKey};
use crate::fault::Fault;
use crate::path::RelPath;
use crate::private::Private;
use crate::token::RoleToken;

mod carry;
mod complete;
mod inplace;
mod kept;
mod partial;
mod prepare;
mod settle;
mod stage;
mod step;
pub(crate) mod trash;

pub use complete::{Aside, Complete, Content};
pub use inplace::{IN_PLACE_FROM, Redo, finish_journals};
pub(crate) use kept::holds_only;
pub use partial::{Partial, clear_partials, clone_as_partial, new_partial};
pub use stage::{Staged, Staging};
pub use step::{Outcome, Report, Work};
pub(crate) use trash::{Purged, Which, purge, purge_oldest};

/// Up to this many paths are made durable one by one. An `fsync` costs about 0.3 ms, a `syncfs` writes whatever else is
/// dirty on the file system.
pub const FEW: usize = 16;

/// Where and under which rules changes are carried out.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The tree.
    pub root: &'a Root,
    /// Its private directory.
    pub private: &'a Private,
    /// What must never be changed or removed here (invariant 6). What is missing may be made.
    pub protect: &'a dyn Fn(&RelPath, bool) -> bool,
    /// What is removed goes to the trash, as of this time (seconds since 1970). `None`: it is gone.
    pub trash: Option<u64>,
}

impl Target<'_> {
    /// After this nothing more can be done in the tree.
    fn ends_with(&self, fault: &Fault) -> bool {
        // A mount below the root may be read-only alone.
        fault.ends_apply() || (*fault == Fault::ReadOnly && self.private.is_read_only())
    }
}

impl std::fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

/// Carries out the steps in their order. Everything that the report calls done is durable when this returns.
///
/// The order is that of the plan: a directory before what it holds, a hard link after the file, what a directory holds
/// before its removal. Blocks for as long as the disk needs; holds the role token for phases 3 to 5 and gives up between two paths
/// when it is revoked.
///
/// `meanwhile` makes durable what must be known before the first change is visible. It runs beside phase 2, so that both
/// wait for the disk together. `visible` is called between phases 4 and 5, when all steps are done and none has failed.
///
/// # Errors
/// Those of `meanwhile`: then nothing was changed.
pub fn apply<E>(
    target: &Target<'_>,
    work: Vec<Work>,
    token: &RoleToken,
    meanwhile: impl FnOnce() -> Result<(), E>,
    visible: impl FnOnce(),
) -> Result<Report, E> {
    let by_one = work.len() <= FEW && work.iter().all(prepare::syncs_by_itself);
    let mut prepared = prepare::all(target, work);
    let (first, known) = if prepared.stopped.is_some() {
        (Ok(()), meanwhile())
    } else {
        settle::first_beside(target.root, &mut prepared, by_one, meanwhile)
    };
    known?;
    let guard = token.hold();
    let refuse = match (&first, &guard) {
        (Err(fault), _) => Some(fault.clone()),
        (Ok(()), None) => Some(Fault::Revoked),
        (Ok(()), Some(_)) => None,
    };
    if let Some(fault) = refuse {
        prepared.refuse_rest(&fault);
    }
    let mut run = Run::new(target);
    let mut report = Report {
        stopped: prepared.stopped.take(),
        ..Report::default()
    };
    if report.stopped.is_none() {
        run.tighten(&prepared.items);
    }
    for item in prepared.items {
        if report.stopped.is_none() && !guard.as_ref().is_some_and(|guard| guard.is_valid()) {
            report.stopped = Some(Fault::Revoked);
        }
        cut::here("before a step");
        let outcome = match &report.stopped {
            // What failed by itself keeps its own reason.
            Some(fault) if item.ready.is_ok() => Outcome {
                path: item.path,
                result: Err(fault.clone()),
                missed: Vec::new(),
            },
            _ => run.carry(item),
        };
        if let Err(fault) = &outcome.result
            && report.stopped.is_none()
            && target.ends_with(fault)
        {
            report.stopped = Some(fault.clone());
        }
        report.outcomes.push(outcome);
    }
    cut::here("after the steps");
    settle::directory_times(&mut run, &mut report);
    settle::flags(&mut run, &mut report);
    cut::here("after the times");
    if report.stopped.is_none() && report.outcomes.iter().all(Outcome::is_whole) {
        visible();
    }
    let second = settle::second(&run, &report, by_one).map_err(|fault| {
        // A journal that stays open would be carried out again later, over what is newer then.
        match run.journals.is_empty() {
            true => fault,
            false => inplace::unfinished(&fault),
        }
    });
    let second = second.and_then(|()| inplace::retire(target.private, &run.journals));
    if let Err(fault) = second {
        for outcome in report.outcomes.iter_mut().filter(|o| o.result.is_ok()) {
            outcome.result = Err(fault.clone());
        }
        report.stopped = Some(fault);
        report.unsure = true;
    }
    settle::keys(&run, &mut report);
    drop(guard);
    Ok(report)
}

/// What an apply has done so far.
struct Run<'a> {
    target: &'a Target<'a>,
    /// Directories whose entries changed, with the stat from before the first change.
    parents: BTreeMap<RelPath, Parent>,
    /// Inodes that were touched through one of their names: their change time moved.
    touched: BTreeSet<(u64, u64)>,
    /// Paths whose step failed: nothing is built on them.
    failed: BTreeMap<RelPath, Fault>,
    /// Paths where a step put something.
    made: BTreeSet<RelPath>,
    /// What files were when they came to these paths; their change time moves with the rename.
    put: HashMap<RelPath, LocalKey>,
    /// Keys of files that came with the directory that they lie in.
    keys: HashMap<RelPath, LocalKey>,
    /// The modification times that steps asked for directories.
    dir_times: BTreeMap<RelPath, crate::entry::Meta>,
    /// Flags that steps asked for, and the inode that they are for.
    wanted: BTreeMap<RelPath, (Flags, (u64, u64))>,
    /// The inode that the step which is carried out put or changed.
    changed_here: Option<(u64, u64)>,
    /// What lost its protecting flags for this apply and is still there at its end.
    freed: Vec<Freed>,
    /// What lost them for the step that is carried out.
    freed_here: Option<Freed>,
    /// Flags were changed after what they belong to had become durable.
    reflagged: bool,
    /// Of files that were changed in place: to be retired when all is durable.
    journals: Vec<inplace::Open>,
    /// Where what is removed goes.
    trash: Option<trash::Trash<'a>>,
}

/// A directory whose entries changed.
struct Parent {
    dir: std::os::fd::OwnedFd,
    before: crate::stat::Stat,
}

impl<'a> Run<'a> {
    fn new(target: &'a Target<'a>) -> Run<'a> {
        Run {
            target,
            parents: BTreeMap::new(),
            touched: BTreeSet::new(),
            failed: BTreeMap::new(),
            made: BTreeSet::new(),
            put: HashMap::new(),
            keys: HashMap::new(),
            dir_times: BTreeMap::new(),
            wanted: BTreeMap::new(),
            changed_here: None,
            freed: Vec::new(),
            freed_here: None,
            reflagged: false,
            journals: Vec::new(),
            trash: target
                .trash
                .map(|now| trash::Trash::new(target.private, now)),
        }
    }
}

/// The local key of what lies at a path now.
pub fn key_at(root: &Root, path: &RelPath) -> Result<Option<LocalKey>, Fault> {
    Ok(root.stat(path)?.map(|stat| stat.key()))
}

#[cfg(test)]
mod tests;
