//! The trash of trees with `deletes = "trash"`: what is old goes, and it gives way when room is needed.

mod operator;

use super::clock::{self, ms};
use super::tree::Open;
use super::worker::Worker;
use crate::commit::{self, Which};
use crate::hash;
use crate::tree::Deletes;

/// Most entries that go at once: some ten milliseconds of the worker, each second.
const STEP: usize = 2000;
/// Between two looks for what is old.
const PAUSE: u64 = ms(60_000);

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    u64::try_from(hash::now_ns() / 1_000_000_000).unwrap_or(0)
}

impl Worker {
    /// Removes what is older than its tree keeps it, a step at a time. Also of trees that have no trash any more.
    pub(super) fn purge_trash(&mut self) {
        let at = clock::now();
        for tree in self.trees.iter_mut().filter(|tree| tree.purge_at <= at) {
            let Some(open) = &tree.open else {
                continue;
            };
            let age = tree.config.trash_age.as_secs();
            let purged = commit::purge(&open.private, Which::Older { now: now(), age }, STEP);
            let more = purged.as_ref().is_ok_and(|purged| purged.more);
            tree.purge_at = if more { at } else { at + PAUSE };
            let stays = match purged {
                Ok(purged) => purged.stays,
                Err(fault) => Some(fault),
            };
            if let Some(fault) = &stays
                && tree.trash_stays != stays
            {
                let tree = &tree.config.name;
                tracing::warn!(tree, %fault, "the trash cannot be emptied");
            }
            if !more {
                tree.trash_stays = stays;
            }
        }
    }

    /// There is no room in a tree: what cut transfers left goes, on its file system, and if that is nothing, some of the oldest of
    /// the trash, before its time.
    pub(super) fn make_room(&mut self, at: usize) {
        let Some(open) = self.trees[at].open.clone() else {
            return;
        };
        let device = |open: &Open| open.root.opened_as().dev;
        let here = self.trees.iter().filter_map(|tree| tree.open.as_ref());
        let here = here.filter(|other| device(other) == device(&open));
        let cleared: usize = here
            .map(|open| commit::clear_partials(&open.private).unwrap_or(0))
            .sum();
        if cleared > 0 {
            tracing::info!(cleared, "no room: what cut transfers left was removed");
        } else if self.trees[at].config.deletes == Deletes::Trash {
            let tree = &self.trees[at].config.name;
            match commit::purge_oldest(&open.private, STEP).map(|purged| purged.removed) {
                Ok(0) => {}
                Ok(removed) => {
                    tracing::warn!(tree, removed, "no room: the oldest of the trash goes")
                }
                Err(fault) => tracing::warn!(tree, %fault, "the trash cannot be emptied"),
            }
        }
    }
}
