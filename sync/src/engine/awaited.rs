//! A move between trees creates, and deletes when the other tree has what was created. What is gone at the source stays here while its
//! content is *awaited* in another tree: its record is listed as not applied, and asked for again, like any that cannot be
//! applied. So nothing is acknowledged past it, status names it, and all else goes on.
//!
//! Awaited are contents of files
//! - that could not be applied here (no room, a local version that cannot be put aside), as long as their paths are not settled;
//! - that the source tells of as withheld: of trees that do not come with the session, for they are stopped here, and of trees with a
//!   limit, which others overtake;
//! - that the source gave up while they were sent, until everything has come.
//!
//! A restart forgets them, and the next session tells of all of them again, before it brings what is gone: in the source's order
//! what was created comes first, and what is listed here is asked for when the rest has come.
//!
//! Not so within one tree: there the removal may be what makes the room that lacks. Nor in a tree that changes by whole sets. A file that was
//! changed both before and after its move, while the standby got neither, is not known as one that moved.

use super::apply::Item;
use super::outcome::{Here, Results};
use super::worker::Worker;
use crate::entry::IndexEntry;
use crate::index::{IndexError, Snapshot};
use crate::lineage::NodeHeads;
use crate::path::RelPath;
use crate::tree::{Deletes, TreeId};
use crate::wire::{Record, Withheld};
use std::collections::{HashMap, HashSet};

/// Contents that are kept in mind for each reason, 8 MiB of memory. More are not: what moved then may be removed here before it
/// is there, as anything may that a master has deleted.
const MAX_AWAITED: usize = 1 << 18;
/// Those of paths that could not be applied, each with its path.
const MAX_FAILED: usize = 1 << 16;

/// What a path is called that waits for this.
const WHY: &str = "gone at the source, and kept until its content is in the tree that it moved to";

/// Contents that are elsewhere at the source, and not here yet.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    /// In trees that do not come with the session.
    absent: HashSet<(TreeId, u64)>,
    /// In trees that come, later.
    late: HashSet<(TreeId, u64)>,
    /// Could not be applied at this path.
    failed: HashMap<u64, (TreeId, RelPath)>,
}

fn keep(set: &mut HashSet<(TreeId, u64)>, one: (TreeId, u64)) {
    if set.len() < MAX_AWAITED {
        set.insert(one);
    }
}

/// What is awaited of a record that brings a file.
pub(super) fn content(record: &Record) -> Option<u64> {
    record.state.as_ref()?.kind.content_key()
}

impl Awaited {
    fn is_empty(&self) -> bool {
        self.absent.is_empty() && self.late.is_empty() && self.failed.is_empty()
    }

    /// The source gave it up: a newer version follows.
    pub fn given_up(&mut self, record: &Record) {
        if let Some(content) = content(record) {
            keep(&mut self.late, (record.tree, content));
        }
    }

    /// Before anything of a batch is applied.
    pub fn withheld(&mut self, lists: &[Withheld], source: &NodeHeads) {
        for list in lists {
            let set = match source.get(list.tree) {
                Some(_) => &mut self.late,
                None => &mut self.absent,
            };
            for content in &list.contents {
                keep(set, (list.tree, *content));
            }
        }
    }

    /// Everything of the trees that come is here, but for what failed. `whole`: all trees come.
    pub fn all_came(&mut self, whole: bool) {
        self.late.clear();
        if whole {
            self.absent.clear();
        }
    }

    /// Another session begins, which tells anew what it does not bring.
    pub fn begin(&mut self) {
        self.absent.clear();
        self.late.clear();
    }
}

impl Worker {
    /// These could not be applied.
    pub(super) fn await_failed(&mut self, failed: Vec<(u64, (TreeId, RelPath))>) {
        let known = &mut self.awaited.failed;
        if known.len() + failed.len() > MAX_FAILED {
            let trees = &self.trees;
            known.retain(|_, (tree, path)| {
                let tree = trees.iter().find(|t| t.id == *tree);
                tree.is_some_and(|tree| tree.unsettled.contains(path))
            });
        }
        for (content, path) in failed {
            if known.len() < MAX_FAILED {
                known.insert(content, path);
            }
        }
    }

    fn is_awaited(&self, content: u64, here: TreeId) -> bool {
        let Awaited {
            absent,
            late,
            failed,
        } = &self.awaited;
        let failed = failed.get(&content);
        let mut others = self.trees.iter().filter(|tree| tree.id != here);
        others.any(|tree| {
            let listed =
                |(of, path): &(TreeId, RelPath)| *of == tree.id && tree.unsettled.contains(path);
            let one = (tree.id, content);
            absent.contains(&one) || late.contains(&one) || failed.is_some_and(listed)
        })
    }

    /// Takes out, and lists as not applied, what would remove a content that is awaited in another tree.
    pub(super) fn keep_awaited(
        &mut self,
        at: usize,
        items: Vec<Item>,
        results: &mut Results,
    ) -> Result<Vec<Item>, IndexError> {
        let tree = &self.trees[at];
        if self.awaited.is_empty() || tree.is_in_sets() || tree.config.deletes == Deletes::Keep {
            return Ok(items);
        }
        let snapshot = self.shared.index.snapshot()?;
        let mut left = Vec::with_capacity(items.len());
        for item in items {
            if !self.removes_awaited(at, &snapshot, &item.record)? {
                left.push(item);
                continue;
            }
            let Record { tree, path, .. } = item.record;
            self.trees[at].error(&path, WHY.into());
            results.failed.push((tree, path, Here::Settled));
        }
        Ok(left)
    }

    /// Whether with this record a file goes whose content is awaited.
    fn removes_awaited(
        &self,
        at: usize,
        index: &Snapshot,
        record: &Record,
    ) -> Result<bool, IndexError> {
        let (tree, config) = (record.tree, &self.trees[at].config);
        if record.state.as_ref().is_some_and(|s| s.kind.is_dir()) {
            return Ok(false);
        }
        let outside = |path: &RelPath, is_dir| {
            config.protect.covers(path, is_dir) || config.exclude.covers(path, is_dir)
        };
        let goes = |path: &RelPath, entry: &IndexEntry| {
            let content = entry.current.as_ref().and_then(|s| s.kind.content_key());
            content.is_some_and(|content| !outside(path, false) && self.is_awaited(content, tree))
        };
        let Some(entry) = index.get(tree, &record.path)? else {
            return Ok(false);
        };
        if entry.current.as_ref().is_some_and(|s| s.kind.is_dir()) {
            for row in index.below(tree, &record.path)? {
                let (path, entry) = row?;
                if goes(&path, &entry) {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        Ok(record.state.is_none() && goes(&record.path, &entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::NodeName;

    fn list(tree: &str, contents: impl IntoIterator<Item = u64>) -> Withheld {
        Withheld {
            tree: TreeId::of(tree),
            contents: contents.into_iter().collect(),
        }
    }

    fn nobody() -> NodeHeads {
        NodeHeads::new(NodeName::try_from("n").unwrap(), Vec::new()).unwrap()
    }

    #[test]
    fn what_is_stopped_here_is_awaited_until_all_trees_come() {
        let mut awaited = Awaited::default();
        awaited.withheld(&[list("t", [1])], &nobody());
        awaited.all_came(false);
        assert!(!awaited.is_empty());
        awaited.all_came(true);
        assert!(awaited.is_empty());
        awaited.withheld(&[list("t", [1])], &nobody());
        awaited.begin();
        assert!(awaited.is_empty());
    }

    #[test]
    fn a_source_that_withholds_ever_more_takes_no_more_memory() {
        let mut awaited = Awaited::default();
        for n in 0..3 {
            let from = n * MAX_AWAITED as u64;
            let contents = from..from + MAX_AWAITED as u64;
            awaited.withheld(&[list("t", contents)], &nobody());
        }
        assert_eq!(awaited.absent.len(), MAX_AWAITED);
    }
}
