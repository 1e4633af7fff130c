//! What came of an apply: the changes to the index that follow from it, and the paths that are asked for again.

use super::apply::Item;
use super::awaited;
use super::beyond::MAX_HELD;
use super::dirty::Dirt;
use super::look::Sight;
use super::view::{is_same_but_ctime, names_of};
use super::worker::Worker;
use crate::beneath::Root;
use crate::commit::Report;
use crate::entry::{LocalKey, Meta, State};
use crate::fault::Fault;
use crate::index::{IndexError, Snapshot};
use crate::meta;
use crate::path::RelPath;
use crate::plan::{Action, Plan, Why};
use crate::tree::TreeId;
use crate::wire::Record;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What became of a local version at a path that could not be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Here {
    /// There was none, or it is in the rescue.
    Settled,
    /// It was not looked at, or is still there.
    Open,
}

/// What the source's batch said of a path at which a step was not taken.
#[derive(Debug, Clone, Copy)]
enum Told {
    /// Something is there, told under this number.
    There { seq: u64 },
    /// Nothing is there, told under this number.
    Gone { seq: u64 },
    /// Nothing: it makes way for what was told of others, so nothing else would bring it up again. The index knows it under this
    /// number.
    OfOthers { known: u64 },
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
    /// Contents of files among these.
    pub awaited: Vec<(u64, (TreeId, RelPath))>,
    /// Applied but for an attribute, whose error stays.
    pub missed: BTreeSet<(TreeId, RelPath)>,
}

/// A plan that was carried out.
pub(super) struct Done<'a> {
    /// The index as it was before.
    pub index: &'a Snapshot,
    pub items: &'a [Item],
    pub plan: &'a Plan,
    /// The steps that were tried.
    pub actions: &'a [(RelPath, Action)],
    /// Paths whose content had not come.
    pub lacking: &'a BTreeSet<RelPath>,
}

impl Done<'_> {
    /// The attributes that a path is to have, and the number under which the source told of them (0: of another path).
    fn wanted(&self, tree: TreeId, path: &RelPath) -> Result<(Option<Meta>, u64), IndexError> {
        let own = self.items.iter().find(|item| item.record.path == *path);
        let (state, seq) = match own {
            Some(Item { record, .. }) => (record.state.clone(), record.seq),
            None => match self.index.get(tree, path)? {
                Some(entry) => (entry.current, entry.seq),
                None => (None, 0),
            },
        };
        Ok((state.map(|state| state.meta), seq))
    }

    /// The paths at which a step removed what was there.
    fn removed(&self, steps: &Steps) -> BTreeSet<&RelPath> {
        let is_removed = |(path, action): &&(RelPath, Action)| {
            matches!(action, Action::RemoveFile | Action::RemoveDir)
                && steps.keys.contains_key(path)
        };
        let removed = self.actions.iter().filter(is_removed);
        removed.map(|(path, _)| path).collect()
    }
}

/// What came of each step.
#[derive(Default)]
struct Steps {
    keys: HashMap<RelPath, Option<LocalKey>>,
    faults: HashMap<RelPath, Fault>,
}

impl Steps {
    fn key(&self, path: &RelPath) -> Option<LocalKey> {
        self.keys.get(path).copied().flatten()
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

    /// What a record brings is not applied, and is to be asked for again.
    pub(super) fn fail(&mut self, record: &Record, here: Here) {
        self.failed.push((record.tree, record.path.clone(), here));
        self.is_awaited(record);
    }

    fn is_awaited(&mut self, record: &Record) {
        if let Some(content) = awaited::content(record) {
            self.awaited
                .push((content, (record.tree, record.path.clone())));
        }
    }

    /// An attribute of the path could not be applied.
    pub(super) fn lacks(&self, tree: TreeId, path: &RelPath) -> bool {
        !self.missed.is_empty() && self.missed.contains(&(tree, path.clone()))
    }
}

impl Worker {
    /// Files that were only appended to are unverified from here on; those that came whole are not.
    pub(super) fn note_applied(
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
    pub(super) fn collect(
        &mut self,
        at: usize,
        done: &Done<'_>,
        report: Report,
        results: &mut Results,
    ) -> Result<(), IndexError> {
        let tree = self.trees[at].id;
        let mut steps = Steps::default();
        for outcome in report.outcomes {
            if !outcome.missed.is_empty() {
                let missed: Vec<String> = outcome.missed.iter().map(Fault::to_string).collect();
                let want = done.wanted(tree, &outcome.path)?;
                self.note_lack(at, &outcome.path, want, missed.join("; "));
                results.missed.insert((tree, outcome.path.clone()));
            }
            match outcome.result {
                Ok(key) => drop(steps.keys.insert(outcome.path, key)),
                Err(fault) => drop(steps.faults.entry(outcome.path).or_insert(fault)),
            }
        }
        for path in &done.plan.kept {
            self.trees[at].keep(path);
        }
        self.records_done(at, done, &steps, results)?;
        self.other_steps_done(at, done, &steps, results)?;
        for (path, key) in report.dirs {
            self.new_key(at, done, path, Some(key), results)?;
        }
        self.other_names(at, done, results)
    }

    /// What came of the records.
    fn records_done(
        &mut self,
        at: usize,
        done: &Done<'_>,
        steps: &Steps,
        results: &mut Results,
    ) -> Result<(), IndexError> {
        let tree = self.trees[at].id;
        let skipped = done.plan.skipped.iter();
        let skipped: HashMap<&RelPath, Why> = skipped.map(|(path, why)| (path, *why)).collect();
        let removed = done.removed(steps);
        for Item { record, .. } in done.items {
            let path = &record.path;
            let (fault, before) = (steps.faults.get(path), results.failed.len());
            let failed = skipped.contains_key(path) || fault.is_some();
            if failed && removed.contains(path) {
                self.room_was_made(at, done.index, path, results)?;
            }
            if let Some(why) = skipped.get(path) {
                self.skipped(at, record, *why, results);
            } else if done.lacking.contains(path) {
                results.failed.push((tree, path.clone(), Here::Settled));
            } else if let Some(fault) = fault {
                let told = match record.state {
                    Some(_) => Told::There { seq: record.seq },
                    None => Told::Gone { seq: record.seq },
                };
                self.step_failed(at, (path, told), fault, results);
            } else {
                let key = match steps.key(path) {
                    None if record.state.is_some() => {
                        done.index.get(tree, path)?.and_then(|e| e.local)
                    }
                    key => key,
                };
                let received = (tree, path.clone(), record.state.clone(), record.seq, key);
                results.received.push(received);
                results.settled.insert((tree, path.clone()));
            }
            if results.failed.len() > before {
                results.is_awaited(record);
            }
        }
        Ok(())
    }

    /// What came of the steps of which no record speaks.
    fn other_steps_done(
        &mut self,
        at: usize,
        done: &Done<'_>,
        steps: &Steps,
        results: &mut Results,
    ) -> Result<(), IndexError> {
        let tree = self.trees[at].id;
        let own: BTreeSet<&RelPath> = done.items.iter().map(|i| &i.record.path).collect();
        let others = done.actions.iter().filter(|(path, _)| !own.contains(path));
        for (path, action) in others {
            let seq = || Ok::<_, IndexError>(done.index.get(tree, path)?.map_or(0, |e| e.seq));
            match (steps.faults.get(path), action, steps.key(path)) {
                (Some(fault), ..) => {
                    let told = Told::OfOthers { known: seq()? };
                    self.step_failed(at, (path, told), fault, results);
                }
                (None, Action::RemoveFile | Action::RemoveDir, _) => {
                    let gone = (tree, path.clone(), None, seq()?, None);
                    results.received.push(gone);
                }
                (None, Action::MakeDir { .. }, Some(key)) => {
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
                (None, _, key) => self.new_key(at, done, path.clone(), key, results)?,
            }
        }
        Ok(())
    }

    /// Only the key of a path is new; what has not the flags that it should is looked at.
    fn new_key(
        &mut self,
        at: usize,
        done: &Done<'_>,
        path: RelPath,
        key: Option<LocalKey>,
        results: &mut Results,
    ) -> Result<(), IndexError> {
        let tree = self.trees[at].id;
        match self.has_its_flags(at, done.index, &path)? {
            true => results.keys.push((tree, path, key)),
            false => self.mark(tree, path, Dirt::default()),
        }
        Ok(())
    }

    /// A step was not taken: its path is asked for again, but for what stays here, or must not be changed here.
    fn step_failed(
        &mut self,
        at: usize,
        (path, told): (&RelPath, Told),
        fault: &Fault,
        results: &mut Results,
    ) {
        let (goes, seq) = match told {
            Told::There { seq } => (None, seq),
            Told::Gone { seq } => (Some(seq), seq),
            Told::OfOthers { known } => (Some(known), 0),
        };
        if let (Fault::Kept, Some(seq)) = (fault, goes) {
            return self.stays(at, path, seq, results);
        }
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
    fn other_names(
        &self,
        at: usize,
        done: &Done<'_>,
        results: &mut Results,
    ) -> Result<(), IndexError> {
        let tree = self.trees[at].id;
        let root = self.open_root(at)?;
        let mut known: BTreeSet<RelPath> =
            done.actions.iter().map(|(path, _)| path.clone()).collect();
        for (path, action) in done.actions {
            let first = match action {
                Action::Link { to } => Some(to),
                _ => None,
            };
            for path in [Some(path), first].into_iter().flatten() {
                for (name, entry) in names_of(done.index, tree, path)? {
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

    fn open_root(&self, at: usize) -> Result<Arc<Root>, IndexError> {
        let open = self.trees[at].open.as_ref();
        open.map(|o| o.root.clone())
            .ok_or_else(|| IndexError::Damaged {
                what: "the root was closed".into(),
            })
    }

    fn skipped(&mut self, at: usize, record: &Record, why: Why, results: &mut Results) {
        let tree = self.trees[at].id;
        match why {
            Why::Kept => return self.stays(at, &record.path, record.seq, results),
            Why::Occupied | Why::NoParent => {
                if why == Why::Occupied {
                    self.trees[at].error(&record.path, why.to_string());
                }
                let failed = (tree, record.path.clone(), Here::Settled);
                return results.failed.push(failed);
            }
            Why::Protected | Why::Excluded => self.note_skipped(at, &record.path, record.seq),
        }
        results.settled.insert((tree, record.path.clone()));
    }
}
