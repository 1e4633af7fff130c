//! Consistent sets on the replica: what comes of a set is spooled durably until the set is whole, then all of it is applied.
//!
//! ```text
//!   STATE_DIR/sets/TREE/*.batch   what came of the set that is under way, in order
//!   set-redo/TREE in the index    the set is whole: everything in the spool is to be applied
//! ```
//! That one note is the commit. After a crash without it nothing of the set was applied, and a takeover throws it away; with
//! it all of the set is applied, before this node can become master. Applying a batch again is harmless, as for a hold.

use super::apply::{Batch, Item, Numbers};
use super::error::CommandError;
use super::outcome::{Here, Results};
use super::sets::set_key;
use super::tree::Tree;
use super::worker::Worker;
use crate::commit::Content;
use crate::index::IndexError;
use crate::lineage::NodeHeads;
use crate::replica::machine::Ready;
use crate::spool::{Head, Spool};
use crate::tree::TreeId;
use crate::wire::{Commit, Record, SetMark, Total};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The set is whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Redo {
    mark: Option<SetMark>,
    commit: Commit,
    /// The source's lineage of this tree alone.
    source: NodeHeads,
}

fn redo_key(tree: TreeId) -> String {
    format!("set-redo/{tree}")
}

/// What a batch does to trees that are received in sets.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// Whole with it, to be applied.
    pub whole: BTreeSet<TreeId>,
    /// Still under way.
    pub waits: BTreeSet<TreeId>,
}

impl Ends {
    /// The batch itself moves the tree on.
    pub fn moves_on(&self, tree: TreeId) -> bool {
        !self.whole.contains(&tree) && !self.waits.contains(&tree)
    }
}

/// What of a batch belongs to sets.
pub(super) struct Part<'a> {
    pub commit: Commit,
    pub source: &'a NodeHeads,
    pub totals: &'a [Total],
}

impl Worker {
    fn set_spool(&mut self, tree: TreeId) -> Result<&mut Spool, String> {
        use std::collections::btree_map::Entry;
        match self.set_spools.entry(tree) {
            Entry::Occupied(spool) => Ok(spool.into_mut()),
            Entry::Vacant(none) => {
                let dir = self.shared.config.state_dir.join("sets");
                let spool =
                    Spool::open_in(dir.join(tree.to_string())).map_err(|e| e.to_string())?;
                Ok(none.insert(spool))
            }
        }
    }

    /// How far the spool of a tree reaches.
    pub(super) fn set_upto(&self, tree: TreeId) -> u64 {
        self.set_spools
            .get(&tree)
            .map_or(0, |spool| spool.upto(tree))
    }

    /// Looks for parts of sets that an agent before this one, or a session before this one, left.
    pub(super) fn find_sets(&mut self) -> Result<(), String> {
        for at in 0..self.trees.len() {
            if self.trees[at].is_in_sets() {
                let waits = !self.set_spool(self.trees[at].id)?.is_empty();
                self.trees[at].sets.waits = waits;
            }
        }
        Ok(())
    }

    /// The source has nothing that was not answered: what is in the spools is whole.
    pub(super) fn sets_are_whole(
        &mut self,
        commit: Commit,
        source: &NodeHeads,
    ) -> Result<(), String> {
        let part = Part {
            commit,
            source,
            totals: &[],
        };
        let waits = |t: &&Tree| t.sets.waits && source.get(t.id).is_some();
        let trees: Vec<TreeId> = self.trees.iter().filter(waits).map(|t| t.id).collect();
        for tree in trees {
            self.commit_set(tree, &part, None)?;
        }
        self.finish_sets()
    }

    /// Takes the records of sets out of a batch and spools them.
    pub(super) fn spool_sets(
        &mut self,
        part: &Part<'_>,
        by_tree: &mut BTreeMap<TreeId, Vec<Item>>,
        contents: &mut HashMap<u32, Content>,
        results: &Results,
    ) -> Result<Ends, String> {
        let snapshot = self.shared.index.snapshot().map_err(|e| e.to_string())?;
        let mut ends = Ends::default();
        for at in 0..self.trees.len() {
            let (tree, in_sets) = (self.trees[at].id, self.trees[at].is_in_sets());
            if !in_sets || part.source.get(tree).is_none() {
                continue;
            }
            let head = snapshot.head(tree).map_err(|e| e.to_string())?.seq;
            let items = by_tree.remove(&tree).unwrap_or_default();
            // What is of the applied set is a repair of it.
            let (now, later): (Vec<Item>, Vec<Item>) =
                items.into_iter().partition(|item| item.record.seq <= head);
            if !now.is_empty() {
                by_tree.insert(tree, now);
            }
            if let Some((_, path, _)) = results.failed.iter().find(|(t, ..)| *t == tree) {
                return Err(format!("{path}: a content of a set did not arrive"));
            }
            if !later.is_empty() {
                self.add_to_set(tree, part, later, contents)?;
            }
            let empty = self.set_spool(tree)?.is_empty();
            let mark = part
                .totals
                .iter()
                .find(|t| t.tree == tree)
                .and_then(|t| t.set);
            let reached = mark.is_some_and(|mark| part.commit.upto >= mark.upto);
            // A mark up to where the tree is already is older than what waits here, and is not its end.
            let covers = empty || mark.is_some_and(|mark| mark.upto > head);
            let ended = (reached && covers) || part.commit.caught_up;
            let known = mark.is_none() || mark == self.trees[at].sets.newest;
            self.trees[at].sets.waits = !(ended || (empty && known));
            if !ended {
                ends.waits.insert(tree);
            } else if !(empty && known) {
                self.commit_set(tree, part, mark)?;
                ends.whole.insert(tree);
            }
        }
        Ok(ends)
    }

    /// Makes a batch of its own of one tree's records, durable in the tree's spool.
    fn add_to_set(
        &mut self,
        tree: TreeId,
        part: &Part<'_>,
        items: Vec<Item>,
        contents: &mut HashMap<u32, Content>,
    ) -> Result<(), String> {
        let mut records: Vec<Record> = Vec::new();
        let mut files = Vec::new();
        for (number, item) in (0u32..).zip(items) {
            let size = item.record.state.as_ref().map_or(0, |s| s.kind.size());
            if let Some(staged) = contents.remove(&item.number) {
                files.push((number, size, staged));
            }
            records.push(item.record);
        }
        let ready = Ready {
            commit: part.commit,
            records,
            totals: Vec::new(),
            // Heard with the batch that this is a part of.
            withheld: Vec::new(),
            given_up: Vec::new(),
            failed: Vec::new(),
        };
        let sizes = files.iter().map(|(n, size, _)| (*n, *size)).collect();
        let head = Head::new(ready, part.source.only(|t| t == tree), sizes);
        let mut open = Vec::with_capacity(files.len());
        for (_, _, content) in &files {
            open.push(content.open().map_err(|fault| fault.to_string())?);
        }
        let added = self
            .set_spool(tree)?
            .add(&head, &open.iter().collect::<Vec<_>>());
        let why = added.err().map(|e| format!("a set cannot be spooled: {e}"));
        let name = self.position(tree).map(|at| &self.trees[at].config.name);
        self.shared
            .alarm(name.map(String::as_str), "spool-full", why.clone());
        why.map_or(Ok(()), Err)
    }

    fn commit_set(
        &mut self,
        tree: TreeId,
        part: &Part<'_>,
        mark: Option<SetMark>,
    ) -> Result<(), String> {
        let redo = Redo {
            mark,
            commit: part.commit,
            source: part.source.only(|t| t == tree),
        };
        crate::cut::here("before a set is whole");
        let written = self
            .shared
            .index
            .write(|w| w.put_value(&redo_key(tree), &redo));
        crate::cut::here("after a set is whole");
        written.map_err(|e: IndexError| e.to_string())
    }

    /// Applies every set that is whole. Needs the role token.
    pub(super) fn finish_sets(&mut self) -> Result<(), String> {
        for at in 0..self.trees.len() {
            if self.trees[at].is_in_sets() && self.trees[at].moves() {
                let done = self.finish_set(at);
                let name = self.trees[at].config.name.clone();
                let why = done.as_ref().err();
                let text =
                    why.map(|why| format!("a set is applied in part, the rest waits: {why}"));
                self.shared.alarm(Some(&name), "set", text);
                done?;
            }
        }
        Ok(())
    }

    fn finish_set(&mut self, at: usize) -> Result<(), String> {
        let (tree, text) = (self.trees[at].id, |e: IndexError| e.to_string());
        let snapshot = self.shared.index.snapshot().map_err(text)?;
        let Some(redo) = snapshot.value::<Redo>(&redo_key(tree)).map_err(text)? else {
            return Ok(());
        };
        drop(snapshot);
        let nobody = redo.source.only(|_| false);
        let quiet = Commit {
            caught_up: false,
            ..redo.commit
        };
        while let Some(spooled) = self.set_spool(tree)?.first().map_err(|e| e.to_string())? {
            let Batch {
                ready,
                mut contents,
                ..
            } = self.unspool(&spooled)?;
            let items: Vec<Item> = (0u32..)
                .zip(ready.records)
                .map(|(number, record)| Item { number, record })
                .collect();
            let mut numbers = Numbers::new(&self.shared.index).map_err(text)?;
            let mut results = Results::default();
            let mut left = Vec::with_capacity(items.len());
            for item in items {
                match numbers.are_taken(&item.record).map_err(text)? {
                    true => results.failed.push((tree, item.record.path, Here::Open)),
                    false => left.push(item),
                }
            }
            let mut intent = self.left.intent.clone();
            self.apply_tree(at, left, &quiet, &mut intent, &mut contents, &mut results)?;
            crate::cut::here("before the result of a set");
            self.write_results(quiet, &nobody, results).map_err(text)?;
            self.set_spool(tree)?
                .remove(&spooled)
                .map_err(|e| e.to_string())?;
        }
        let last = Commit {
            caught_up: true,
            ..redo.commit
        };
        self.write_results(last, &redo.source, Results::default())
            .map_err(text)?;
        crate::cut::here("before a set is noted");
        self.shared
            .index
            .write(|w| {
                if let Some(mark) = &redo.mark {
                    w.put_value(&set_key(tree), mark)?;
                }
                w.remove_value(&redo_key(tree))
            })
            .map_err(text)?;
        let sets = &mut self.trees[at].sets;
        sets.newest = redo.mark.or(sets.newest);
        sets.waits = false;
        self.touch();
        Ok(())
    }

    /// Nothing of a set that is not whole is of use: its tree goes another way.
    pub(super) fn forget_set(&mut self, tree: TreeId) -> Result<(), CommandError> {
        let snapshot = self.shared.index.snapshot();
        let redo = snapshot.and_then(|s| s.value::<Redo>(&redo_key(tree)));
        if redo.map_err(super::commands::index)?.is_some() {
            let why = "a set is applied in part and its tree is stopped";
            return Err(CommandError::Spool(why.into()));
        }
        if let Some(at) = self.position(tree) {
            self.trees[at].sets.waits = false;
        }
        let cleared = self
            .set_spool(tree)
            .and_then(|spool| match spool.is_empty() {
                true => Ok(()),
                false => spool.clear().map_err(|e| e.to_string()),
            });
        cleared.map_err(CommandError::Spool)
    }

    /// Before this node writes: sets that are whole are applied, the others are given up.
    pub(super) fn end_sets_for_takeover(&mut self) -> Result<(), CommandError> {
        self.finish_sets().map_err(CommandError::Spool)?;
        for at in 0..self.trees.len() {
            if self.trees[at].is_in_sets() {
                self.forget_set(self.trees[at].id)?;
            }
        }
        Ok(())
    }
}
