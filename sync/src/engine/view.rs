//! What an apply is planned with: the index as the plan reads it, steps with their contents.

use crate::commit::{Content, Work};
use crate::entry::{IndexEntry, Kind, LocalKey, State};
use crate::index::{IndexError, Snapshot};
use crate::path::RelPath;
use crate::plan::{Action, Known, Plan};
use crate::tree::TreeId;
use std::collections::{BTreeSet, HashMap};

/// Pairs the plan's steps with contents. Steps that lack one are left out, and named.
pub(super) fn with_contents(
    plan: &Plan,
    numbers: &HashMap<&RelPath, u32>,
    contents: &mut HashMap<u32, Content>,
) -> (Vec<Work>, BTreeSet<RelPath>) {
    let mut lacking = BTreeSet::new();
    let mut work = Vec::new();
    for step in &plan.steps {
        let is_file = matches!(
            &step.action,
            Action::Put(State {
                kind: Kind::File { .. },
                ..
            })
        );
        let content = if is_file {
            numbers
                .get(&step.path)
                .and_then(|number| contents.remove(number))
        } else {
            None
        };
        if is_file && content.is_none() {
            lacking.insert(step.path.clone());
        } else {
            work.push(Work {
                step: step.clone(),
                content,
            });
        }
    }
    // What must make room for something that lacks its content stays too.
    work.retain(|w| !lacking.iter().any(|path| w.step.path.is_at_or_below(path)));
    (work, lacking)
}

/// The other names of the file that the index knows at a path.
pub(super) fn names_of(
    index: &Snapshot,
    tree: TreeId,
    path: &RelPath,
) -> Result<Vec<(RelPath, IndexEntry)>, IndexError> {
    const MOST: usize = 4096;
    let Some(IndexEntry {
        current:
            Some(State {
                kind: Kind::File { .. } | Kind::HardLink { .. },
                ..
            }),
        local: Some(local),
        ..
    }) = index.get(tree, path)?
    else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for (other, name) in index.by_inode(local.dev, local.ino, MOST)? {
        if other == tree
            && name != *path
            && let Some(entry) = index.get(tree, &name)?
        {
            names.push((name, entry));
        }
    }
    Ok(names)
}

/// The same content of the same file, with another name or other attributes.
pub(super) fn is_same_but_ctime(a: LocalKey, b: LocalKey) -> bool {
    a == LocalKey {
        ctime_ns: a.ctime_ns,
        ..b
    }
}

/// The index as the plan reads it.
pub(super) struct IndexView<'a> {
    pub tree: TreeId,
    pub index: &'a Snapshot,
}

impl Known for IndexView<'_> {
    type Error = IndexError;

    fn entry(&self, path: &RelPath) -> Result<Option<IndexEntry>, IndexError> {
        self.index.get(self.tree, path)
    }

    fn below(&self, dir: &RelPath) -> Result<Vec<(RelPath, IndexEntry)>, IndexError> {
        self.index.below(self.tree, dir)?.collect()
    }

    fn names(&self, local: &LocalKey) -> Result<Vec<RelPath>, IndexError> {
        const MOST: usize = 4096;
        let all = self.index.by_inode(local.dev, local.ino, MOST)?;
        Ok(all
            .into_iter()
            .filter(|(tree, _)| *tree == self.tree)
            .map(|(_, path)| path)
            .collect())
    }
}
