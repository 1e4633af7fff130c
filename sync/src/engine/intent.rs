//! What is durable before an apply changes anything visible: after a crash the next start knows which paths this node
//! changed itself.

use super::apply::Item;
use super::dirty::Dirt;
use super::status::Mode;
use super::view::names_of;
use super::worker::Worker;
use crate::entry::State;
use crate::index::{Index, IndexError, Snapshot, Writer};
use crate::lineage::CopyState;
use crate::path::RelPath;
use crate::plan::{Action, Plan};
use crate::tree::TreeId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Name of the durable list of what is being applied.
pub(super) const INTENT: &str = "intent";

/// Name of the durable list of paths whose local version is on its way to the rescue.
pub(super) const ASIDE: &str = "aside";

/// These paths. After a crash one that is gone went to the rescue: nobody deleted it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Aside(pub BTreeSet<(TreeId, RelPath)>);

/// What is being applied: every path that a step touches, with what it becomes and that state's number (0: it gets
/// none). After a crash neither these states nor what lies between them and the index are local changes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Intent(pub Vec<(TreeId, RelPath, u64, Option<State>)>);

/// What applies that failed or were cut left, of trees that were not looked at since. In the index too, as long as it is
/// not empty.
#[derive(Debug, Clone, Default)]
pub(super) struct Left {
    pub intent: Intent,
    pub aside: Aside,
}

impl Left {
    fn load(index: &Snapshot) -> Result<Left, IndexError> {
        Ok(Left {
            intent: index.value(INTENT)?.unwrap_or_default(),
            aside: index.value(ASIDE)?.unwrap_or_default(),
        })
    }

    fn paths(&self) -> impl Iterator<Item = (TreeId, &RelPath)> {
        let intent = self.intent.0.iter().map(|(tree, path, ..)| (*tree, path));
        intent.chain(self.aside.0.iter().map(|(tree, path)| (*tree, path)))
    }

    /// Only what belongs to these trees.
    pub fn only(&self, wanted: impl Fn(TreeId) -> bool) -> Left {
        let intent = self.intent.0.iter().filter(|(tree, ..)| wanted(*tree));
        let aside = self.aside.0.iter().filter(|(tree, _)| wanted(*tree));
        Left {
            intent: Intent(intent.cloned().collect()),
            aside: Aside(aside.cloned().collect()),
        }
    }

    /// Replaces what the index has.
    pub fn write(&self, w: &mut Writer<'_>) -> Result<(), IndexError> {
        match self.intent.0.is_empty() {
            true => w.remove_value(INTENT)?,
            false => w.put_value(INTENT, &self.intent)?,
        }
        match self.aside.0.is_empty() {
            true => w.remove_value(ASIDE),
            false => w.put_value(ASIDE, &self.aside),
        }
    }
}

impl Worker {
    /// An apply failed, or was cut: what it left is looked at now, for as long as it is not, a change that somebody makes
    /// at one of its paths looks like the apply's.
    pub(super) fn look_at_left(&mut self) {
        if let Err(error) = self.try_look_at_left() {
            self.index_failed(&error);
        }
    }

    fn try_look_at_left(&mut self) -> Result<(), IndexError> {
        let shared = Arc::clone(&self.shared);
        let snapshot = shared.index.snapshot()?;
        self.left = Left::load(&snapshot)?;
        if self.mode != Mode::Replica {
            return Ok(());
        }
        // Without it a takeover has begun, which makes data of what lies here.
        if let Some(guard) = shared.token.hold() {
            self.finish_made_dirs(&snapshot)?;
            drop(guard);
        }
        let paths = self.left.paths();
        let paths: Vec<(TreeId, RelPath)> = paths.map(|(t, path)| (t, path.clone())).collect();
        for (tree, path) in paths {
            // Its time moved with what came into it.
            if let Some(parent) = path.parent() {
                self.mark(tree, parent, Dirt::WALKED);
            }
            self.mark(tree, path, Dirt::WALKED);
        }
        Ok(())
    }

    /// What was left of trees that were looked at meanwhile is known for what it is. Of a tree that changes by whole sets
    /// the rest of the set is still to come.
    pub(super) fn forget_left(&mut self) -> Result<(), IndexError> {
        if self.mode != Mode::Replica {
            return Ok(());
        }
        let waits = |tree| {
            let tree = self.position(tree).map(|at| &self.trees[at]);
            tree.is_some_and(|t| {
                !t.moves() || t.is_in_sets() || t.is_scanned() || !t.dirty.is_empty()
            })
        };
        if self.left.paths().all(|(tree, _)| waits(tree)) {
            return Ok(());
        }
        let left = self.left.only(waits);
        self.shared.index.write(|w| left.write(w))?;
        self.left = left;
        Ok(())
    }
}

impl Aside {
    /// The path, or a directory above it that something else replaces.
    pub fn covers(&self, tree: TreeId, path: &RelPath) -> bool {
        !self.0.is_empty()
            && std::iter::once(path.clone())
                .chain(path.ancestors())
                .any(|path| self.0.contains(&(tree, path)))
    }
}

impl Intent {
    /// Adds what a plan for a tree is about to change.
    pub(super) fn add(
        &mut self,
        tree: TreeId,
        items: &[Item],
        plan: &Plan,
        index: &Snapshot,
    ) -> Result<(), IndexError> {
        let mut own = BTreeSet::new();
        for Item { record, .. } in items {
            own.insert(&record.path);
            let state = record.state.clone();
            self.0.push((tree, record.path.clone(), record.seq, state));
        }
        let mut further = BTreeMap::new();
        for step in &plan.steps {
            further.extend(names_of(index, tree, &step.path)?);
            if own.contains(&step.path) {
                continue;
            }
            let entry = index.get(tree, &step.path)?;
            let (seq, becomes) = match step.action {
                Action::RemoveFile | Action::RemoveDir => (entry.map_or(0, |e| e.seq), None),
                _ => (0, entry.and_then(|e| e.current)),
            };
            self.0.push((tree, step.path.clone(), seq, becomes));
        }
        let steps: BTreeSet<&RelPath> = plan.steps.iter().map(|s| &s.path).collect();
        further.retain(|path, _| !own.contains(path) && !steps.contains(path));
        let further = further.into_iter();
        self.0
            .extend(further.map(|(path, entry)| (tree, path, 0, entry.current)));
        Ok(())
    }
}

/// Makes it known, and that the files of the tree are of different moments until the apply is done. A `whole` apply leads
/// from one moment to another by a single path. Durable when it returns, unless the batch was `kept`: then a crash brings
/// it back from there.
pub(super) fn write(
    index: &Index,
    tree: TreeId,
    intent: &Intent,
    whole: bool,
    kept: bool,
) -> Result<(), IndexError> {
    let work = |w: &mut Writer<'_>| {
        w.put_value(INTENT, intent)?;
        if !whole && w.head(tree)?.state == CopyState::Consistent {
            w.fall_behind(tree)?;
        }
        Ok(())
    };
    match kept {
        true => index.write_unsynced(work),
        false => index.write(work),
    }
}
