//! Paths that the filters of this node kept from following. When the filters change, their newest versions are asked for:
//! the source sent them once, and has no reason to send them again.

use super::beyond::MAX_HELD;
use super::worker::Worker;
use crate::path::RelPath;
use crate::tree::TreeId;
use std::collections::BTreeSet;

impl Worker {
    /// Paths that the filters of a former process kept from following.
    pub(super) fn load_skipped(&mut self) {
        let Ok(snapshot) = self.shared.index.snapshot() else {
            return;
        };
        for tree in &mut self.trees {
            let known = snapshot.value(&skipped_key(tree.id)).ok().flatten();
            (tree.skipped, tree.skipped_moved) = (known.unwrap_or_default(), false);
        }
    }

    /// Notes a path that the filters keep from following, told under this number.
    pub(super) fn note_skipped(&mut self, at: usize, path: &RelPath, seq: u64) {
        let tree = &mut self.trees[at];
        if tree.skipped.len() < MAX_HELD {
            tree.skipped_moved |= tree.skipped.insert(path.clone());
        } else if !tree.skipped.contains(path) {
            tree.skipped_others.met(seq);
        }
    }

    /// Asks for paths that the filters do not keep any more.
    pub(super) fn try_skipped(&mut self) {
        for at in 0..self.trees.len() {
            let tree = &mut self.trees[at];
            if !tree.moves() || tree.skipped.is_empty() {
                continue;
            }
            let config = tree.config.clone();
            let kept = |path: &RelPath, is_dir| {
                config.exclude.covers(path, is_dir) || config.protect.covers(path, is_dir)
            };
            // What it would be is not known: both must be free.
            let free = |path: &RelPath| !kept(path, false) && !kept(path, true);
            let (paths, left): (BTreeSet<_>, BTreeSet<_>) =
                tree.skipped.iter().cloned().partition(free);
            if paths.is_empty() {
                continue;
            }
            tracing::info!(
                tree = config.name,
                paths = paths.len(),
                "the filters do not keep these paths any more: asking for them"
            );
            let key = skipped_key(tree.id);
            // First the list of what is asked for: a crash between the two only asks twice.
            let asked = self.list_as_is(at, paths.into_iter().collect());
            match asked.and_then(|()| self.shared.index.write(|w| w.put_value(&key, &left))) {
                Ok(()) => self.trees[at].skipped = left,
                Err(error) => self.index_failed(&error),
            }
        }
    }
}

/// Where the paths that the filters keep are kept in the index.
pub(super) fn skipped_key(tree: TreeId) -> String {
    format!("skipped/{tree}")
}
