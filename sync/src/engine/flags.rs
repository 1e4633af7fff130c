//! Paths that an immutable or append-only flag keeps from following (invariant 6).

use super::clock;
use super::worker::Worker;
use crate::chattr;
use crate::index::{IndexError, Snapshot};
use crate::path::RelPath;
use crate::tree::TreeId;
use std::collections::BTreeSet;
use std::os::fd::AsFd;

impl Worker {
    /// Paths that a flag protected when a former process met them.
    pub(super) fn load_flagged(&mut self) {
        let Ok(snapshot) = self.shared.index.snapshot() else {
            return;
        };
        for tree in &mut self.trees {
            let known = snapshot.value(&flagged_key(tree.id)).ok().flatten();
            tree.flagged = known.unwrap_or_default();
        }
    }

    /// Whether a directory in which something was applied has the flags that the index says. What it had was taken away for that
    /// and given back: by the directory's new key alone somebody else's flag would count as known from now on.
    pub(super) fn has_its_flags(
        &self,
        at: usize,
        index: &Snapshot,
        dir: &RelPath,
    ) -> Result<bool, IndexError> {
        let tree = &self.trees[at];
        let Some(open) = tree.open.as_ref().filter(|open| open.root.flags()) else {
            return Ok(true);
        };
        let known = index.get(tree.id, dir)?.and_then(|entry| entry.current);
        let found = open.root.open_path(dir);
        let found = found.and_then(|held| chattr::read(held.as_fd()));
        // What is gone or cannot be read is looked at for that.
        let both = known.zip(found.ok());
        Ok(both.is_none_or(|(known, found)| known.meta.xattrs.flags() == found))
    }

    /// Asks anew for paths whose flag is gone.
    pub(super) fn try_flagged(&mut self) {
        let (now, mut told_again) = (clock::now(), false);
        for at in 0..self.trees.len() {
            let tree = &mut self.trees[at];
            told_again |= tree.moves() && tree.flagged_others.falls_due(now);
            let (Some(open), true) = (&tree.open, tree.stop.is_none()) else {
                continue;
            };
            let flag = |path: &RelPath| {
                let stat = open.root.stat(path).ok().flatten();
                !open.root.flags() && stat.is_some_and(|s| s.protecting_flag().is_some())
            };
            let free = |path: &RelPath| !flag(path) && !path.parent().is_some_and(|p| flag(&p));
            let (paths, left): (BTreeSet<_>, BTreeSet<_>) =
                tree.flagged.iter().cloned().partition(free);
            if paths.is_empty() {
                continue;
            }
            tree.flagged_others.want();
            let key = flagged_key(tree.id);
            // First the list of what is asked for: a crash between the two only asks twice.
            let asked = self.list_as_is(at, paths.into_iter().collect());
            match asked.and_then(|()| self.shared.index.write(|w| w.put_value(&key, &left))) {
                Ok(()) => self.trees[at].flagged = left,
                Err(error) => self.index_failed(&error),
            }
        }
        if told_again {
            tracing::info!(
                "flags may be gone from more paths than are known by name: asking for all of them"
            );
            self.end_session();
        }
    }
}

/// Where the paths that a flag protects are kept in the index.
pub(super) fn flagged_key(tree: TreeId) -> String {
    format!("flagged/{tree}")
}
