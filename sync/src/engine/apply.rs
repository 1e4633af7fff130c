//! The replica's side of the worker: a batch becomes visible in the trees and durable in the index.
//!
//! Order, per batch: what lies at each path is compared with what the index knows; a local version goes to the rescue;
//! the intent is durable; the plan is carried out under the role token; the result is durable. So a crash at any point
//! leaves each path whole, and the next start knows which paths it changed itself.

use super::ahead::Ahead;
use super::beyond::MAX_HELD;
use super::dirty::Dirt;
use super::foreign::is_free;
use super::intent::{self, Intent};
use super::look::Sight;
use super::set_apply::Part;
use super::status::Mode;
use super::trash;
use super::tree::Wrong;
use super::view::{IndexView, is_same_but_ctime, names_of, with_contents};
use super::worker::Worker;
use crate::commit::{self, Content, Report, Target};
use crate::entry::{Kind, LocalKey, State};
use crate::fault::Fault;
use crate::index::{Index, IndexError, Snapshot};
use crate::lineage::NodeHeads;
use crate::meta;
use crate::path::RelPath;
use crate::plan::{self, Action, Incoming, Plan, PlanError, Policy, Why};
use crate::replica::machine::Ready;
use crate::tree::{Deletes, TreeId};
use crate::wire::{Commit, Record};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokio::sync::oneshot;

/// Why a record is asked for again.
const TAKEN: &str = "the source sent it with the number of another path";

/// A batch with its contents, for the worker.
pub(crate) struct Batch {
    /// Records and commit.
    pub ready: Ready,
    /// Complete contents by record.
    pub contents: HashMap<u32, Content>,
    /// Trees in which there was no room for a content.
    pub no_room: BTreeSet<TreeId>,
    /// The source's lineages.
    pub source: NodeHeads,
}

/// What came of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Durable, nothing unsettled below.
    pub acked: u64,
    /// Applied.
    pub applied: u64,
    /// Paths that are not settled yet.
    pub unsettled: usize,
}

/// One record that is to be applied.
pub(super) struct Item {
    pub number: u32,
    pub record: Record,
}

/// What became of a local version at a path that could not be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Here {
    /// There was none, or it is in the rescue.
    Settled,
    /// It was not looked at, or is still there.
    Open,
}

/// What a path is by the source's word: (tree, path, state, number, key).
pub(super) type Received = (TreeId, RelPath, Option<State>, u64, Option<LocalKey>);

/// The changes to the index that follow from an apply.
#[derive(Default)]
pub(super) struct Results {
    /// (tree, path, state, number, key).
    pub received: Vec<Received>,
    /// Only the key is new.
    pub keys: Vec<(TreeId, RelPath, Option<LocalKey>)>,
    /// Directories made on the way, of no number until their own records come.
    pub found: Vec<(TreeId, Sight)>,
    /// Settled: equal now.
    pub settled: BTreeSet<(TreeId, RelPath)>,
    /// Not applied, to be asked for again.
    pub failed: Vec<(TreeId, RelPath, Here)>,
    /// Applied but for an attribute, whose error stays.
    pub missed: BTreeSet<(TreeId, RelPath)>,
}

impl Worker {
    /// Applies one batch, or spools it while applying is held. Durable when it returns.
    /// `ahead` may hear before that it is.
    pub(super) fn apply(
        &mut self,
        batch: Batch,
        ahead: oneshot::Sender<Applied>,
    ) -> Result<Applied, String> {
        if self.shared.held() {
            return self.spool_batch(batch);
        }
        // What came before is applied before.
        self.apply_spool()?;
        self.apply_answered(batch, ahead)
    }

    /// Applies one batch. Durable when it returns.
    pub(super) fn apply_now(&mut self, batch: Batch) -> Result<Applied, String> {
        let applied = self.apply_batch(batch);
        if applied.is_err() {
            self.look_at_left();
        }
        applied
    }

    fn apply_batch(&mut self, batch: Batch) -> Result<Applied, String> {
        if self.mode != Mode::Replica || !self.shared.token.is_granted() {
            return Err("the role changed".into());
        }
        let Batch {
            ready,
            mut contents,
            no_room,
            source,
        } = batch;
        let commit = ready.commit;
        self.finish_sets()?;
        for at in no_room
            .iter()
            .filter_map(|tree| self.position(*tree))
            .collect::<Vec<_>>()
        {
            self.lacks_room(at, "no room for what is received");
        }
        let skip: BTreeSet<u32> = ready
            .given_up
            .iter()
            .chain(&ready.failed)
            .copied()
            .collect();
        let mut results = Results::default();
        let mut numbers = Numbers::new(&self.shared.index).map_err(|e| e.to_string())?;
        let mut by_tree: BTreeMap<TreeId, Vec<Item>> = BTreeMap::new();
        for (number, record) in (0u32..).zip(ready.records) {
            if ready.failed.contains(&number) {
                results.failed.push((record.tree, record.path, Here::Open));
            } else if skip.contains(&number) {
                // A newer version follows.
            } else if let Some(why) = self.refused(&record) {
                self.path_error(record.tree, &record.path, why);
                results.failed.push((record.tree, record.path, Here::Open));
            } else if numbers.are_taken(&record).map_err(|e| e.to_string())? {
                self.path_error(record.tree, &record.path, TAKEN.into());
                results.failed.push((record.tree, record.path, Here::Open));
                self.ahead.iter_mut().for_each(Ahead::withdraw);
            } else {
                by_tree
                    .entry(record.tree)
                    .or_default()
                    .push(Item { number, record });
            }
        }
        let part = Part {
            commit,
            source: &source,
            totals: &ready.totals,
        };
        let ends = self.spool_sets(&part, &mut by_tree, &mut contents, &results)?;
        let mut intent = self.left.intent.clone();
        for (tree, items) in by_tree {
            let at = self
                .position(tree)
                .filter(|at| self.trees[*at].moves())
                .ok_or("a record for a tree that is stopped")?;
            self.apply_tree(at, items, &commit, &mut intent, &mut contents, &mut results)?;
        }
        crate::cut::here("before the result");
        // A tree that waits for the rest of a set stays where it is; one whose set is whole advances with that.
        let now = source.only(|tree| ends.moves_on(tree));
        self.write_results(commit, &now, results)
            .map_err(|e| e.to_string())?;
        if !ends.whole.is_empty() {
            self.finish_sets()?;
        }
        Ok(self.after_batch(commit))
    }

    pub(super) fn apply_tree(
        &mut self,
        at: usize,
        items: Vec<Item>,
        commit: &Commit,
        intent: &mut Intent,
        contents: &mut HashMap<u32, Content>,
        results: &mut Results,
    ) -> Result<(), String> {
        let open = self.trees[at]
            .open
            .clone()
            .ok_or("a record for a tree that is stopped")?;
        let all = items.len();
        let items = self.settle_local_versions(at, &open, items, results)?;
        if let Some(ahead) = self.ahead.as_mut().filter(|_| items.len() < all) {
            ahead.withdraw();
        }
        if items.is_empty() {
            return Ok(());
        }
        let snapshot = self.shared.index.snapshot().map_err(|e| e.to_string())?;
        let config = self.trees[at].config.clone();
        let incoming: Vec<Incoming<'_>> = items
            .iter()
            .map(|i| Incoming {
                path: &i.record.path,
                state: i.record.state.as_ref(),
            })
            .collect();
        let known = IndexView {
            tree: self.trees[at].id,
            index: &snapshot,
        };
        let policy = Policy {
            deletes: config.deletes,
            protect: &config.protect,
            exclude: &config.exclude,
        };
        crate::cut::here("before the plan");
        let plan = plan::plan(&incoming, policy, &known).map_err(|e| match e {
            PlanError::Known(error) => error.to_string(),
            other => other.to_string(),
        })?;
        let whole = commit.caught_up && items.len() == 1;
        let tree = self.trees[at].id;
        intent
            .add(tree, &items, &plan, &snapshot)
            .map_err(|e| e.to_string())?;
        let numbers: HashMap<&RelPath, u32> =
            items.iter().map(|i| (&i.record.path, i.number)).collect();
        let grown: BTreeSet<RelPath> = items
            .iter()
            .filter(|i| contents.get(&i.number).is_some_and(Content::only_grows))
            .map(|i| i.record.path.clone())
            .collect();
        let (work, lacking) = with_contents(&plan, &numbers, contents);
        let actions: Vec<(RelPath, Action)> = work
            .iter()
            .map(|w| (w.step.path.clone(), w.step.action.clone()))
            .collect();
        let protect = |path: &RelPath, is_dir: bool| {
            config.protect.covers(path, is_dir) || config.exclude.covers(path, is_dir)
        };
        let target = Target {
            root: &open.root,
            private: &open.private,
            protect: &protect,
            trash: (config.deletes == Deletes::Trash).then(trash::now),
        };
        if let Some(ahead) = &mut self.ahead
            && !(lacking.is_empty() && plan.skipped.is_empty() && plan.kept.is_empty())
        {
            ahead.withdraw();
        }
        let ahead = RefCell::new(&mut self.ahead);
        let known = || {
            let kept = ahead.borrow_mut().as_mut().is_some_and(Ahead::keep);
            intent::write(&self.shared.index, tree, intent, whole, kept)?;
            crate::cut::here("after the intent");
            Ok::<(), IndexError>(())
        };
        let visible = || {
            if let Some(ahead) = ahead.borrow_mut().as_mut() {
                ahead.answer(&self.shared);
            }
        };
        let report = commit::apply(&target, work, &self.shared.token, known, visible);
        let report = report.map_err(|e| e.to_string())?;
        self.ended_early(at, &report)?;
        self.collect(
            at, &snapshot, &items, &plan, &actions, report, &lacking, results,
        )
        .map_err(|e| e.to_string())?;
        self.note_applied(at, &actions, &grown, results);
        Ok(())
    }

    /// Files that were only appended to are unverified from here on; those that came whole are not.
    fn note_applied(
        &mut self,
        at: usize,
        actions: &[(RelPath, Action)],
        grown: &BTreeSet<RelPath>,
        results: &Results,
    ) {
        let tree = &mut self.trees[at];
        if grown.is_empty() && tree.unverified.len() == 0 {
            return;
        }
        let now = super::clock::now();
        let applied = results.received.iter().filter(|(id, ..)| *id == tree.id);
        let applied: BTreeSet<&RelPath> = applied.map(|(_, path, ..)| path).collect();
        for (path, action) in actions.iter().filter(|(path, _)| applied.contains(path)) {
            match action {
                Action::Put(_) if grown.contains(path) => tree.unverified.grew(path, now),
                Action::Put(_) | Action::RemoveFile => tree.unverified.done(path),
                _ => {}
            }
        }
    }

    /// Reads out of the report what the index must learn.
    #[expect(
        clippy::too_many_arguments,
        reason = "the last step of apply_tree, which holds all of this"
    )]
    pub(super) fn collect(
        &mut self,
        at: usize,
        index: &Snapshot,
        items: &[Item],
        plan: &Plan,
        actions: &[(RelPath, Action)],
        report: Report,
        lacking: &BTreeSet<RelPath>,
        results: &mut Results,
    ) -> Result<(), IndexError> {
        let tree = self.trees[at].id;
        let mut keys: HashMap<RelPath, Option<LocalKey>> = HashMap::new();
        let mut faults: HashMap<RelPath, Fault> = HashMap::new();
        for outcome in report.outcomes {
            for missed in outcome.missed {
                let missed = Wrong::Incomplete(missed.to_string());
                self.trees[at].wrong(&outcome.path, missed);
                results.missed.insert((tree, outcome.path.clone()));
            }
            match outcome.result {
                Ok(key) => drop(keys.insert(outcome.path, key)),
                Err(fault) => drop(faults.entry(outcome.path).or_insert(fault)),
            }
        }
        for path in &plan.kept {
            self.trees[at].keep(path);
        }
        let skipped: HashMap<&RelPath, Why> = plan
            .skipped
            .iter()
            .map(|(path, why)| (path, *why))
            .collect();
        let removed: BTreeSet<&RelPath> = actions
            .iter()
            .filter(|(path, action)| {
                matches!(action, Action::RemoveFile | Action::RemoveDir) && keys.contains_key(path)
            })
            .map(|(path, _)| path)
            .collect();
        let mut own: BTreeSet<&RelPath> = BTreeSet::new();
        for Item { record, .. } in items {
            let path = &record.path;
            own.insert(path);
            let failed = skipped.contains_key(path) || faults.contains_key(path);
            if failed && removed.contains(path) {
                self.room_was_made(at, index, path, results)?;
            }
            if let Some(why) = skipped.get(path) {
                self.skipped(at, record, *why, results);
            } else if lacking.contains(path) {
                results.failed.push((tree, path.clone(), Here::Settled));
            } else if let (Some(Fault::Kept), None) = (faults.get(path), &record.state) {
                self.stays(at, path, record.seq, results);
            } else if let Some(fault) = faults.get(path) {
                self.step_failed(at, (path, record.seq), fault, results);
            } else {
                let key = keys.get(path).copied().flatten();
                let key = if record.state.is_some() && key.is_none() {
                    index.get(tree, path)?.and_then(|e| e.local)
                } else {
                    key
                };
                results
                    .received
                    .push((tree, path.clone(), record.state.clone(), record.seq, key));
                results.settled.insert((tree, path.clone()));
            }
        }
        for (path, action) in actions.iter().filter(|(path, _)| !own.contains(path)) {
            if faults.get(path) == Some(&Fault::Kept) {
                let seq = index.get(tree, path)?.map_or(0, |e| e.seq);
                self.stays(at, path, seq, results);
                continue;
            }
            if let Some(fault) = faults.get(path) {
                // No record of the batch speaks of it, so nothing else would bring it up again.
                self.step_failed(at, (path, 0), fault, results);
                continue;
            }
            let key = keys.get(path).copied().flatten();
            let entry = index.get(tree, path)?;
            match (action, key) {
                (Action::RemoveFile | Action::RemoveDir, _) => {
                    let seq = entry.map_or(0, |e| e.seq);
                    results.received.push((tree, path.clone(), None, seq, None));
                }
                (Action::MakeDir { .. }, Some(key)) => {
                    if let Ok(Some(seen)) = meta::read(self.open_root(at)?.as_ref(), path)
                        && let Some(state) = seen.state(None)
                    {
                        let sight = Sight {
                            path: path.clone(),
                            state: Some(state),
                            local: Some(key),
                        };
                        results.found.push((tree, sight));
                    }
                }
                (_, key) => match self.has_its_flags(at, index, path)? {
                    true => results.keys.push((tree, path.clone(), key)),
                    false => self.mark(tree, path.clone(), Dirt::default()),
                },
            }
        }
        for (path, key) in report.dirs {
            match self.has_its_flags(at, index, &path)? {
                true => results.keys.push((tree, path, Some(key))),
                false => self.mark(tree, path, Dirt::default()),
            }
        }
        self.other_names(at, index, actions, results)
    }

    /// A step was not taken: its path is asked for again, but for what must not be changed here.
    /// The source told of it under this number (0: of another one).
    fn step_failed(
        &mut self,
        at: usize,
        (path, seq): (&RelPath, u64),
        fault: &Fault,
        results: &mut Results,
    ) {
        let tree = &mut self.trees[at];
        if !fault.is_no_space() {
            // Of room there is one alarm, and not an error of each path.
            tree.error(path, fault.to_string());
        }
        match fault {
            Fault::Protected => {}
            Fault::Flagged(_) if tree.flagged.len() < MAX_HELD => {
                tree.flagged.insert(path.clone());
            }
            Fault::Flagged(_) if tree.flagged.contains(path) => {}
            Fault::Flagged(_) => tree.flagged_others.met(seq),
            _ => results.failed.push((tree.id, path.clone(), Here::Settled)),
        }
    }

    /// Why a record is not applied on this node, whatever lies there.
    pub(super) fn refused(&self, record: &Record) -> Option<String> {
        if let Some(unknown) = &record.names {
            return Some(unknown.to_string());
        }
        let kind = record.state.as_ref().map(|state| &state.kind);
        let device = matches!(
            kind,
            Some(Kind::CharDevice { .. } | Kind::BlockDevice { .. })
        );
        let at = self.position(record.tree).filter(|_| device)?;
        let allowed = self.trees[at].config.devices;
        (!allowed).then(|| "a device node, which `devices = false` forbids".to_owned())
    }

    fn path_error(&mut self, tree: TreeId, path: &RelPath, why: String) {
        if let Some(at) = self.position(tree) {
            self.trees[at].error(path, why);
        }
    }

    /// What is gone at the source stays here, and is no part of the pair's data any more.
    fn stays(&mut self, at: usize, path: &RelPath, seq: u64, results: &mut Results) {
        let tree = &mut self.trees[at];
        tree.keep(path);
        results
            .received
            .push((tree.id, path.clone(), None, seq, None));
        results.settled.insert((tree.id, path.clone()));
    }

    /// A path whose record is still to come again, but where a step of this apply already made room: nothing lies there,
    /// and nobody here deleted it.
    fn room_was_made(
        &self,
        at: usize,
        index: &Snapshot,
        path: &RelPath,
        results: &mut Results,
    ) -> Result<(), IndexError> {
        let tree = self.trees[at].id;
        let nothing = matches!(
            self.open_root(at)?.stat(path),
            Ok(None) | Err(Fault::Missing | Fault::NotBeneath)
        );
        let entry = index.get(tree, path)?.filter(|e| e.current.is_some());
        if let Some(entry) = entry.filter(|_| nothing) {
            let gone = (tree, path.clone(), None, entry.seq, None);
            results.received.push(gone);
        }
        Ok(())
    }

    /// Making or removing a name moves the change time of the file, and so the keys of its other names.
    pub(super) fn other_names(
        &self,
        at: usize,
        index: &Snapshot,
        actions: &[(RelPath, Action)],
        results: &mut Results,
    ) -> Result<(), IndexError> {
        let tree = self.trees[at].id;
        let root = self.open_root(at)?;
        let mut known: BTreeSet<RelPath> = actions.iter().map(|(path, _)| path.clone()).collect();
        for (path, action) in actions {
            let first = match action {
                Action::Link { to } => Some(to),
                _ => None,
            };
            for path in [Some(path), first].into_iter().flatten() {
                for (name, entry) in names_of(index, tree, path)? {
                    if !known.insert(name.clone()) {
                        continue;
                    }
                    let now = root.stat(&name).ok().flatten().map(|stat| stat.key());
                    if let (Some(now), Some(before)) = (now, entry.local)
                        && is_same_but_ctime(before, now)
                    {
                        results.keys.push((tree, name, Some(now)));
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn open_root(
        &self,
        at: usize,
    ) -> Result<std::sync::Arc<crate::beneath::Root>, IndexError> {
        let open = self.trees[at].open.as_ref();
        open.map(|o| o.root.clone())
            .ok_or_else(|| IndexError::Damaged {
                what: "the root was closed".into(),
            })
    }

    pub(super) fn skipped(&mut self, at: usize, record: &Record, why: Why, results: &mut Results) {
        let tree = self.trees[at].id;
        match why {
            Why::Kept => return self.stays(at, &record.path, record.seq, results),
            Why::Occupied => self.trees[at].error(&record.path, why.to_string()),
            Why::NoParent => {
                return results
                    .failed
                    .push((tree, record.path.clone(), Here::Settled));
            }
            Why::Protected | Why::Excluded => self.note_skipped(at, &record.path, record.seq),
        }
        results.settled.insert((tree, record.path.clone()));
    }
}

/// The numbers of the records of a batch.
pub(super) struct Numbers {
    index: Snapshot,
    seen: BTreeSet<u64>,
}

impl Numbers {
    pub fn new(index: &Index) -> Result<Numbers, IndexError> {
        Ok(Numbers {
            index: index.snapshot()?,
            seen: BTreeSet::new(),
        })
    }

    /// The number of a record is another path's. Such a record could not be written down: it is asked for again, so that
    /// nothing that was spooled or answered stands in the way for ever.
    pub fn are_taken(&mut self, record: &Record) -> Result<bool, IndexError> {
        let Record {
            tree, path, seq, ..
        } = record;
        // What was never known has none.
        Ok(*seq != 0 && !(self.seen.insert(*seq) && is_free(&self.index, *tree, path, *seq)?))
    }
}

impl Results {
    /// The paths that now are as the source has them, in all that could be applied, and whether something lies there.
    pub(super) fn applied(&self) -> HashMap<(TreeId, &RelPath), bool> {
        let received = self.received.iter();
        received
            .map(|(tree, path, state, ..)| ((*tree, path), state.is_some()))
            .collect()
    }

    /// An attribute of the path could not be applied.
    pub(super) fn lacks(&self, tree: TreeId, path: &RelPath) -> bool {
        !self.missed.is_empty() && self.missed.contains(&(tree, path.clone()))
    }
}
