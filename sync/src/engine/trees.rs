//! Trees that come, go and change while the engine runs.

use super::commands::index;
use super::error::CommandError;
use super::roles::{random_epoch, unsettle};
use super::shared::Shared;
use super::status::Mode;
use super::tree::Tree;
use super::worker::Worker;
use crate::lineage::EpochId;
use crate::path::RelPath;
use crate::tree::{TreeConfig, TreeId};
use std::sync::Arc;

impl Worker {
    /// These are the trees from here on. What can fail comes first: an error leaves everything as it was.
    pub(super) fn set_trees(&mut self, new: Vec<TreeConfig>) -> Result<(), CommandError> {
        let goes = |t: &Tree| !new.iter().any(|n| n.id() == t.id);
        let spooled = self.shared.held() || self.shared.spooled() > 0;
        if spooled && self.trees.iter().any(goes) {
            let why = "a tree cannot go while a hold keeps changes for it: end the hold first";
            return Err(CommandError::Trees(why.into()));
        }
        let comes = |n: &&TreeConfig| self.position(n.id()).is_none();
        let added: Vec<TreeId> = new.iter().filter(comes).map(TreeConfig::id).collect();
        if let Mode::Source { term } = self.mode {
            self.begin_added(&added, term)?;
        }
        let shared = Arc::clone(&self.shared);
        let mut old = std::mem::take(&mut self.trees);
        for config in &new {
            match old.iter().position(|t| t.id == config.id()) {
                Some(at) => {
                    let mut tree = old.swap_remove(at);
                    if tree.config.differs_only_in_limits(config) {
                        // What lies there is the same.
                        tree.config = Arc::new(config.clone());
                    } else if *tree.config != *config {
                        tree.take_config(config.clone(), &shared);
                    }
                    self.trees.push(tree);
                }
                None => {
                    tracing::info!(tree = config.name, "tree added");
                    self.trees.push(Tree::new(config.clone()));
                }
            }
        }
        for tree in old {
            self.let_go(&tree);
        }
        self.load_flagged();
        self.load_skipped();
        self.load_lacking();
        self.load_beyond();
        self.load_marks();
        self.begin_marks(&added).map_err(index)?;
        self.load_sets().map_err(index)?;
        self.load_read_since().map_err(index)?;
        // What is watched, and how often, may be something else now.
        self.watcher = None;
        shared.set_trees(new);
        self.end_session();
        self.shared.receivers.end_all();
        self.prove_all();
        if self.mode == Mode::Replica {
            self.load_unsettled().map_err(index)?;
            self.try_skipped();
        }
        let last = self.shared.index.snapshot().map_err(index)?.last_seq();
        self.shared.head.send_replace(last);
        self.tell_scanned();
        Ok(())
    }

    /// Trees that a source is given: one without history gets its first epoch, one that was here before a new one.
    fn begin_added(&self, added: &[TreeId], term: u64) -> Result<(), CommandError> {
        if added.is_empty() {
            return Ok(());
        }
        let snapshot = self.shared.index.snapshot().map_err(index)?;
        let (mut unborn, mut known) = (Vec::new(), Vec::new());
        for tree in added {
            let head = snapshot.head(*tree).map_err(index)?;
            let list = match head.lineage.is_unborn() {
                true => &mut unborn,
                false => &mut known,
            };
            list.push((*tree, random_epoch()?));
        }
        let unsettled = snapshot.unreplicated(None, usize::MAX).map_err(index)?;
        drop(snapshot);
        let node = self.node.clone();
        let begin = |w: &mut crate::index::Writer<'_>| {
            for (tree, path, _) in unsettled.iter().filter(|(t, ..)| added.contains(t)) {
                unsettle(w, *tree, path)?;
            }
            for (tree, id) in &unborn {
                w.init(*tree, *id, term, &node)?;
            }
            match known.is_empty() {
                true => Ok(()),
                false => w.begin(&known, term, &node).map(drop),
            }
        };
        self.shared.index.write(begin).map_err(index)
    }

    /// A source that starts again in its own term with trees that were not there before: as [`Worker::set_trees`].
    pub(super) fn bear_added(&self, term: u64) -> Result<(), CommandError> {
        let snapshot = self.shared.index.snapshot().map_err(index)?;
        if snapshot.mode() != crate::index::Mode::Writing {
            return Ok(());
        }
        let (mut unborn, mut writes): (Vec<(TreeId, EpochId)>, bool) = (Vec::new(), false);
        for tree in &self.trees {
            let head = snapshot.head(tree.id).map_err(index)?;
            match head.lineage.head() {
                None => unborn.push((tree.id, random_epoch()?)),
                Some(epoch) => writes |= epoch.term == term && epoch.node == self.node,
            }
        }
        drop(snapshot);
        if !writes || unborn.is_empty() {
            return Ok(());
        }
        let node = self.node.clone();
        let begin = |w: &mut crate::index::Writer<'_>| {
            let mut unborn = unborn.iter();
            unborn.try_for_each(|(tree, id)| w.init(*tree, *id, term, &node).map(drop))
        };
        self.shared.index.write(begin).map_err(index)
    }

    /// The tree is none of Tandem's any more. Its files, its rescue and what the index knows of it stay.
    fn let_go(&mut self, tree: &Tree) {
        tracing::info!(tree = tree.config.name, "tree removed");
        if let Some(open) = &tree.open
            && let Err(fault) = crate::commit::clear_partials(&open.private)
        {
            tracing::debug!(%fault, "partial contents cannot be removed");
        }
        self.shared.roots.set(tree.id, None);
        self.shared.end_alarms(&tree.config.name);
        for barrier in self.barriers.values_mut() {
            barrier.trees.remove(&tree.id);
        }
    }
}

impl Tree {
    /// The same tree with another configuration: it is scanned, and its root opened anew if that is another one.
    fn take_config(&mut self, config: TreeConfig, shared: &Shared) {
        let opened = |config: &TreeConfig| (config.root.clone(), config.flags);
        let other_root = opened(&self.config) != opened(&config);
        self.config = Arc::new(config);
        self.rescan = true;
        self.job = None;
        self.reading = None;
        self.contents.end();
        self.unverified.end();
        let exclude = &self.config.exclude;
        let outside = |path: &RelPath| exclude.covers(path, false) || exclude.covers(path, true);
        self.errors.retain(|path, _| !outside(path));
        self.later.retain(|path, _| !outside(path));
        self.fuzzy.retain(|path| !outside(path));
        if self.is_in_sets() {
            self.owe_fuzzy();
        }
        // Found again by the scan, as far as they are.
        self.local_changes.clear();
        self.kept.clear();
        if self.errors.is_empty() {
            self.last_error = None;
        }
        if let Some(open) = &mut self.open {
            (open.update, open.in_sets) = (self.config.update, self.config.freeze.is_some());
            shared.roots.set(self.id, Some(open.clone()));
        }
        if other_root {
            shared.roots.set(self.id, None);
            (self.open, self.stop, self.cleaned) = (None, None, false);
        }
    }
}
