//! The end of a batch: its results become durable in the index, and the trees advance.

use super::ahead::Ahead;
use super::apply::Applied;
use super::flags::flagged_key;
use super::foreign::list;
use super::outcome::{Here, Results};
use super::skipped::skipped_key;
use super::status::Mode;
use super::unverified::unverified_key;
use super::worker::Worker;
use crate::entry::State;
use crate::index::{IndexError, Unreplicated};
use crate::lineage::{CopyState, NodeHeads};
use crate::path::RelPath;
use crate::tree::TreeId;
use crate::wire::{Commit, Idle};
use std::collections::{BTreeMap, BTreeSet};

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
        results: Results,
    ) -> Result<(), IndexError> {
        let mut unsettled: BTreeMap<TreeId, BTreeSet<RelPath>> = self
            .trees
            .iter_mut()
            .map(|t| (t.id, std::mem::take(&mut t.unsettled)))
            .collect();
        for (tree, path) in &results.settled {
            unsettled.entry(*tree).or_default().remove(path);
        }
        let mut unfinished = Vec::new();
        for (tree, path, here) in &results.failed {
            let new = unsettled.entry(*tree).or_default().insert(path.clone());
            if new || *here == Here::Settled {
                unfinished.push((*tree, path));
            }
        }
        for (tree, sight) in &results.found {
            unsettled
                .entry(*tree)
                .or_default()
                .insert(sight.path.clone());
        }
        let mut leftovers = if commit.caught_up {
            self.all_leftovers(source, &results)?
        } else {
            Vec::new()
        };
        // What is asked for already is no version of somebody's own, or its record says so.
        leftovers.retain(|(tree, path, _)| {
            let asked = unsettled.get(tree);
            !asked.is_some_and(|paths| paths.contains(path))
        });
        for (tree, path, _) in &leftovers {
            unsettled.entry(*tree).or_default().insert(path.clone());
        }
        let moving: Vec<TreeId> = self
            .trees
            .iter()
            .filter(|t| t.moves())
            .map(|t| t.id)
            .collect();
        let flagged: Vec<(TreeId, BTreeSet<RelPath>)> = self
            .trees
            .iter()
            .filter(|t| !t.flagged.is_empty())
            .map(|t| (t.id, t.flagged.clone()))
            .collect();
        let skipped: Vec<(TreeId, BTreeSet<RelPath>)> = self
            .trees
            .iter()
            .filter(|t| t.skipped_moved)
            .map(|t| (t.id, t.skipped.clone()))
            .collect();
        let unverified: Vec<(TreeId, BTreeSet<RelPath>)> = self
            .trees
            .iter()
            .filter_map(|t| Some((t.id, t.unverified.to_write()?)))
            .collect();
        if commit.caught_up {
            self.end_passes(|tree| source.get(tree).is_some());
        }
        // What could not be applied stays to be applied.
        let ahead = self.ahead.as_ref().and_then(Ahead::done);
        let ahead = ahead.filter(|_| unsettled.values().all(BTreeSet::is_empty));
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
            for (tree, unverified) in &unverified {
                w.put_value(&unverified_key(*tree), unverified)?;
            }
            self.write_beyond(w)?;
            for (tree, skipped) in &skipped {
                w.put_value(&skipped_key(*tree), skipped)?;
            }
            for (tree, sight) in &results.found {
                list(w, *tree, sight, &Unreplicated::nothing())?;
            }
            for (tree, path, state, seq, key) in &results.received {
                w.receive(*tree, path, state.clone(), *seq, *key)?;
            }
            for (tree, path, key) in &results.keys {
                w.set_local(*tree, path, *key)?;
            }
            for (tree, path) in &results.settled {
                w.settle(*tree, path)?;
            }
            for (tree, path) in unfinished {
                w.list_unreplicated(tree, path, &Unreplicated::nothing())?;
            }
            for (tree, path, state) in &leftovers {
                let record = Unreplicated {
                    ours: Some(state.clone()),
                    base: crate::entry::Base::Never,
                };
                w.list_unreplicated(*tree, path, &record)?;
            }
            for tree in moving {
                let Some(theirs) = source.get(tree) else {
                    continue;
                };
                let here = w.head(tree)?;
                if here.seq > commit.upto {
                    continue;
                }
                let settled = unsettled.get(&tree).is_none_or(BTreeSet::is_empty);
                // A node that lacks a path does not have everything up to there: if it took over, its epoch would begin
                // past what only the old master has, and that would not go to the rescue. (A first copy is never taken
                // over from, and goes on where it was.)
                let copying = matches!(here.state, CopyState::Unborn | CopyState::Copying);
                let upto = match settled || copying {
                    true => commit.upto,
                    false => here.seq,
                };
                let complete = commit.caught_up && settled;
                w.advance(tree, &theirs.head.lineage, upto, complete)?;
            }
            for (tree, flagged) in &flagged {
                w.put_value(&flagged_key(*tree), flagged)?;
            }
            left.write(w)
        });
        crate::cut::here("after the result");
        for tree in &mut self.trees {
            tree.unsettled = unsettled.remove(&tree.id).unwrap_or_default();
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
            tree.unverified.written();
        }
        self.count_unverified();
        let applied = results.applied();
        for (tree_id, path) in &results.settled {
            if let Some(at) = self.position(*tree_id) {
                let tree = &mut self.trees[at];
                tree.local_changes.remove(path);
                let is_there = applied.get(&(*tree_id, path));
                if is_there == Some(&true) {
                    tree.kept.remove(path);
                }
                if is_there.is_some() {
                    tree.flagged.remove(path);
                    if !results.lacks(*tree_id, path) {
                        tree.no_error(path);
                    }
                }
            }
        }
        Ok(())
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
                .store(commit.stamp, std::sync::atomic::Ordering::Release);
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
