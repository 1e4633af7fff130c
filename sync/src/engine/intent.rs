//! What is durable before an apply changes anything visible: after a crash the next start knows which paths this node
//! changed itself.

use super::apply::Item;
use super::view::names_of;
use crate::entry::State;
use crate::index::{Index, IndexError, Snapshot, Writer};
use crate::lineage::CopyState;
use crate::path::RelPath;
use crate::plan::{Action, Plan};
use crate::tree::TreeId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

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
