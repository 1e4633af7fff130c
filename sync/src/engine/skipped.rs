//! Paths that the filters of this node kept from following. When the filters change, their newest versions are asked for:
//! the source sent them once, and has no reason to send them again.

use super::beyond::MAX_HELD;
use super::worker::Worker;
use crate::path::RelPath;
use crate::tree::TreeId;

impl Worker {
    /// Paths that the filters of a former process kept from following.
    pub(super) fn load_skipped(&mut self) {
        let Ok(snapshot) = self.shared.index.snapshot() else {
            return;
        };
        for tree in &mut self.trees {
            if let Ok(Some(skipped)) = snapshot.value(&skipped_key(tree.id)) {
                tree.skipped = skipped;
            }
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
            let free = |path: &&RelPath| !kept(path, false) && !kept(path, true);
            let paths: Vec<RelPath> = tree.skipped.iter().filter(free).cloned().collect();
            if paths.is_empty() {
                continue;
            }
            tracing::info!(
                tree = config.name,
                paths = paths.len(),
                "the filters do not keep these paths any more: asking for them"
            );
            for path in &paths {
                tree.skipped.remove(path);
            }
            let (key, left) = (skipped_key(tree.id), tree.skipped.clone());
            // First the list of what is asked for: a crash between the two only asks twice.
            let asked = self.list_as_is(at, paths);
            if let Err(error) =
                asked.and_then(|()| self.shared.index.write(|w| w.put_value(&key, &left)))
            {
                self.index_failed(&error);
            }
        }
    }
}

/// Where the paths that the filters keep are kept in the index.
pub(super) fn skipped_key(tree: TreeId) -> String {
    format!("skipped/{tree}")
}
