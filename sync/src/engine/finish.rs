//! The end of a batch: its results become durable in the index, and the trees advance.

use super::ahead::Ahead;
use super::apply::Applied;
use super::flags::flagged_key;
use super::foreign::list;
use super::lacking::{Lack, lacking_key};
use super::outcome::{Here, Results};
use super::skipped::skipped_key;
use super::status::Mode;
use super::tree::Tree;
use super::unverified::unverified_key;
use super::worker::Worker;
use crate::entry::{Base, State};
use crate::index::{IndexError, Unreplicated, Writer};
use crate::lineage::{CopyState, NodeHeads};
use crate::path::RelPath;
use crate::tree::TreeId;
use crate::wire::{Commit, Idle};
use std::collections::{BTreeMap, BTreeSet};

/// What is not settled after a batch.
struct Rest {
    /// All of it, by tree.
    unsettled: BTreeMap<TreeId, BTreeSet<RelPath>>,
    /// What of it this batch left, to be written down.
    unfinished: Vec<(TreeId, RelPath)>,
    /// What lies here at the end of a first copy, and is not at the source.
    leftovers: Vec<(TreeId, RelPath, State)>,
}

impl Rest {
    fn is_settled(&self, tree: TreeId) -> bool {
        self.unsettled.get(&tree).is_none_or(BTreeSet::is_empty)
    }

    fn write(&self, w: &mut Writer<'_>) -> Result<(), IndexError> {
        for (tree, path) in &self.unfinished {
            w.list_unreplicated(*tree, path, &Unreplicated::nothing())?;
        }
        for (tree, path, state) in &self.leftovers {
            let record = Unreplicated {
                ours: Some(state.clone()),
                base: Base::Never,
            };
            w.list_unreplicated(*tree, path, &record)?;
        }
        Ok(())
    }
}

/// Paths that the trees keep in mind, as the index keeps them.
struct Lists {
    flagged: Vec<(TreeId, BTreeSet<RelPath>)>,
    skipped: Vec<(TreeId, BTreeSet<RelPath>)>,
    lacking: Vec<(TreeId, BTreeMap<RelPath, Lack>)>,
    unverified: Vec<(TreeId, BTreeSet<RelPath>)>,
}

impl Lists {
    /// Those that are others than the index has.
    fn of(trees: &[Tree]) -> Lists {
        let flagged = trees.iter().filter(|t| !t.flagged.is_empty());
        let skipped = trees.iter().filter(|t| t.skipped_moved);
        let (lacking, unverified) = (trees.iter(), trees.iter());
        Lists {
            flagged: flagged.map(|t| (t.id, t.flagged.clone())).collect(),
            skipped: skipped.map(|t| (t.id, t.skipped.clone())).collect(),
            lacking: lacking
                .filter_map(|t| Some((t.id, t.lacking.to_write()?)))
                .collect(),
            unverified: unverified
                .filter_map(|t| Some((t.id, t.unverified.to_write()?)))
                .collect(),
        }
    }

    fn write(&self, w: &mut Writer<'_>) -> Result<(), IndexError> {
        for (tree, flagged) in &self.flagged {
            w.put_value(&flagged_key(*tree), flagged)?;
        }
        for (tree, skipped) in &self.skipped {
            w.put_value(&skipped_key(*tree), skipped)?;
        }
        for (tree, lacking) in &self.lacking {
            w.put_value(&lacking_key(*tree), lacking)?;
        }
        for (tree, unverified) in &self.unverified {
            w.put_value(&unverified_key(*tree), unverified)?;
        }
        Ok(())
    }
}

impl Results {
    fn write(&self, w: &mut Writer<'_>) -> Result<(), IndexError> {
        for (tree, sight) in &self.found {
            list(w, *tree, sight, &Unreplicated::nothing())?;
        }
        for (tree, path, state, seq, key) in &self.received {
            w.receive(*tree, path, state.clone(), *seq, *key)?;
        }
        for (tree, path, key) in &self.keys {
            w.set_local(*tree, path, *key)?;
        }
        for (tree, path) in &self.settled {
            w.settle(*tree, path)?;
        }
        Ok(())
    }
}

/// A tree has what the commit says, if nothing of it is left to be settled.
fn advance(
    w: &mut Writer<'_>,
    tree: TreeId,
    source: &NodeHeads,
    commit: Commit,
    settled: bool,
) -> Result<(), IndexError> {
    let Some(theirs) = source.get(tree) else {
        return Ok(());
    };
    let here = w.head(tree)?;
    if here.seq > commit.upto {
        return Ok(());
    }
    // A node that lacks a path does not have everything up to there: if it took over, its epoch would begin past what only
    // the old master has, and that would not go to the rescue. (A first copy is never taken over from, and goes on where
    // it was.)
    let copying = matches!(here.state, CopyState::Unborn | CopyState::Copying);
    let upto = match settled || copying {
        true => commit.upto,
        false => here.seq,
    };
    let complete = commit.caught_up && settled;
    w.advance(tree, &theirs.head.lineage, upto, complete)?;
    Ok(())
}

impl Worker {
    /// Makes the result of a batch durable.
    pub(super) fn finish(
        &mut self,
        commit: Commit,
        source: &NodeHeads,
        results: Results,
    ) -> Result<Applied, IndexError> {
        self.write_results(commit, source, results)?;
        Ok(self.after_batch(commit))
    }

    /// The same, of the trees in `source`, before the batch is over.
    pub(super) fn write_results(
        &mut self,
        commit: Commit,
        source: &NodeHeads,
        mut results: Results,
    ) -> Result<(), IndexError> {
        let awaited = std::mem::take(&mut results.awaited);
        let mut rest = self.rest(commit, source, &results)?;
        let moving = self.trees.iter().filter(|t| t.moves());
        let moving: Vec<TreeId> = moving.map(|t| t.id).collect();
        self.note_complete(&results);
        let lists = Lists::of(&self.trees);
        if commit.caught_up {
            self.end_passes(|tree| source.get(tree).is_some());
        }
        // What could not be applied stays to be applied.
        let ahead = self.ahead.as_ref().and_then(Ahead::done);
        let ahead = ahead.filter(|_| rest.unsettled.values().all(BTreeSet::is_empty));
        // Of a tree that is stopped it is looked at when that moves again.
        let stays = |tree| {
            self.position(tree)
                .is_some_and(|at| !self.trees[at].moves())
        };
        let left = self.left.only(stays);
        let written = self.shared.index.write(|w| {
            if let Some((name, done)) = &ahead {
                w.put_value(name, done)?;
            }
            lists.write(w)?;
            self.write_beyond(w)?;
            results.write(w)?;
            rest.write(w)?;
            for tree in moving {
                advance(w, tree, source, commit, rest.is_settled(tree))?;
            }
            left.write(w)
        });
        crate::cut::here("after the result");
        for tree in &mut self.trees {
            tree.unsettled = rest.unsettled.remove(&tree.id).unwrap_or_default();
        }
        written?;
        self.beyond_written();
        self.left = left;
        if ahead.is_some()
            && let Some(own) = &mut self.ahead
        {
            own.noted();
        }
        for tree in &mut self.trees {
            tree.skipped_moved = false;
            tree.lacking.written();
            tree.unverified.written();
        }
        self.count_unverified();
        self.note_settled(&results);
        self.await_failed(awaited);
        Ok(())
    }

    /// What is not settled after the batch.
    fn rest(
        &mut self,
        commit: Commit,
        source: &NodeHeads,
        results: &Results,
    ) -> Result<Rest, IndexError> {
        let taken = self.trees.iter_mut();
        let taken = taken.map(|t| (t.id, std::mem::take(&mut t.unsettled)));
        let mut unsettled: BTreeMap<TreeId, BTreeSet<RelPath>> = taken.collect();
        for (tree, path) in &results.settled {
            unsettled.entry(*tree).or_default().remove(path);
        }
        let mut unfinished = Vec::new();
        for (tree, path, here) in &results.failed {
            let new = unsettled.entry(*tree).or_default().insert(path.clone());
            if new || *here == Here::Settled {
                unfinished.push((*tree, path.clone()));
            }
        }
        for (tree, sight) in &results.found {
            let paths = unsettled.entry(*tree).or_default();
            paths.insert(sight.path.clone());
        }
        let mut leftovers = match commit.caught_up {
            true => self.all_leftovers(source, results)?,
            false => Vec::new(),
        };
        // What is asked for already is no version of somebody's own, or its record says so.
        leftovers.retain(|(tree, path, _)| {
            let asked = unsettled.get(tree);
            !asked.is_some_and(|paths| paths.contains(path))
        });
        for (tree, path, _) in &leftovers {
            unsettled.entry(*tree).or_default().insert(path.clone());
        }
        Ok(Rest {
            unsettled,
            unfinished,
            leftovers,
        })
    }

    /// What was applied whole lacks nothing any more.
    fn note_complete(&mut self, results: &Results) {
        for (id, path, ..) in &results.received {
            if !results.lacks(*id, path)
                && let Some(at) = self.position(*id)
            {
                self.trees[at].lacking.done(path);
            }
        }
    }

    /// What the trees remember of paths that are settled now.
    fn note_settled(&mut self, results: &Results) {
        let applied = results.applied();
        for (id, path) in &results.settled {
            let Some(at) = self.position(*id) else {
                continue;
            };
            let tree = &mut self.trees[at];
            tree.local_changes.remove(path);
            let is_there = applied.get(&(*id, path));
            if is_there == Some(&true) {
                tree.kept.remove(path);
            }
            if is_there.is_some() {
                tree.flagged.remove(path);
                if !results.lacks(*id, path) {
                    tree.no_error(path);
                }
            }
        }
    }

    /// The source says that everything up to here was answered. A tree that only waited for that is consistent now.
    pub(super) fn fresh(&mut self, idle: Idle, source: &NodeHeads) -> Result<Applied, String> {
        if self.mode != Mode::Replica || !self.shared.token.is_granted() {
            return Err("the role changed".into());
        }
        if self.is_spooled()? || self.shared.held() {
            return self.fresh_spool(idle);
        }
        let commit = Commit {
            batch: 0,
            upto: idle.upto,
            caught_up: true,
            stamp: idle.stamp,
        };
        self.sets_are_whole(commit, source)?;
        let snapshot = self.shared.index.snapshot().map_err(|e| e.to_string())?;
        let mut waits = self.a_pass_runs();
        for tree in self.trees.iter().filter(|t| t.moves()) {
            let head = snapshot.head(tree.id).map_err(|e| e.to_string())?;
            waits |= head.state != CopyState::Consistent && tree.unsettled.is_empty();
        }
        drop(snapshot);
        if waits {
            return self
                .finish(commit, source, Results::default())
                .map_err(|e| e.to_string());
        }
        Ok(self.after_batch(commit))
    }

    /// At the end of a first copy: what lies here and is not at the source.
    pub(super) fn all_leftovers(
        &self,
        source: &NodeHeads,
        results: &Results,
    ) -> Result<Vec<(TreeId, RelPath, State)>, IndexError> {
        let snapshot = self.shared.index.snapshot()?;
        let mut all = Vec::new();
        let applied = results.applied();
        for at in 0..self.trees.len() {
            let tree = self.trees[at].id;
            if source.get(tree).is_none() {
                continue;
            }
            if !matches!(
                snapshot.head(tree)?.state,
                CopyState::Unborn | CopyState::Copying
            ) {
                continue;
            }
            for (path, state) in self.leftovers(&snapshot, at)? {
                let comes = applied.contains_key(&(tree, &path));
                if !comes && !results.settled.contains(&(tree, path.clone())) {
                    all.push((tree, path, state));
                }
            }
        }
        Ok(all)
    }

    pub(super) fn after_batch(&mut self, commit: Commit) -> Applied {
        self.judge_room();
        self.tell_follows();
        let unsettled: usize = self.trees.iter().map(|t| t.unsettled.len()).sum();
        // What waits for the rest of its set is thrown away by a takeover: it is not the pair's yet.
        let stopped = self.trees.iter().any(|t| !t.moves() || t.sets.waits);
        let before = self.shared.answered();
        if commit.caught_up {
            self.awaited.all_came(!stopped);
        }
        let acked = if unsettled == 0 && !stopped {
            commit.upto.max(before)
        } else {
            before
        };
        self.shared
            .answered
            .store(acked, std::sync::atomic::Ordering::Release);
        if commit.caught_up && unsettled == 0 && !stopped {
            // Both nodes have the same again, and what was this node's own is listed in its rescue.
            self.shared.alarm(None, "diverged", None);
            self.shared
                .fresh_at
                .fetch_max(commit.stamp, std::sync::atomic::Ordering::AcqRel);
        }
        self.shared.head.send_replace(commit.upto);
        if let Err(error) = self.let_go_of_marks(commit.upto) {
            self.index_failed(&error);
        }
        self.touch();
        Applied {
            acked,
            applied: commit.upto,
            unsettled,
        }
    }
}
