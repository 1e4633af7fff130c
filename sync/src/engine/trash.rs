//! The trash of trees with `deletes = "trash"`: what is old goes, and it gives way when room is needed.

use super::clock::{self, ms};
use super::worker::Worker;
use crate::commit;
use crate::hash;
use crate::tree::Deletes;
use crate::wire::Record;

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
            tree.purge_at = match commit::purge(&open.private, now(), age, STEP) {
                Ok(true) => at,
                Ok(false) => at + PAUSE,
                Err(fault) => {
                    let tree = &tree.config.name;
                    tracing::warn!(tree, %fault, "the trash cannot be emptied");
                    at + PAUSE
                }
            };
        }
    }

    /// A content could not be received. If there is no room for it, the oldest of the trash goes.
    pub(super) fn room_by_trash(&mut self, record: &Record) {
        let Some(at) = self.position(record.tree) else {
            return;
        };
        let wanted = record.state.as_ref().map_or(0, |state| state.kind.size());
        let room = self.trees[at].open.as_ref().map(|open| {
            let found = rustix::fs::fstatvfs(open.root.fd());
            found.map_or(u64::MAX, |f| f.f_bavail.saturating_mul(f.f_frsize))
        });
        if room.is_some_and(|room| room < wanted.max(1 << 20)) {
            self.trash_gives_way(at);
        }
    }

    /// There is no room: the oldest of the trash goes, before its time.
    pub(super) fn trash_gives_way(&mut self, at: usize) {
        let tree = &self.trees[at];
        let (true, Some(open)) = (tree.config.deletes == Deletes::Trash, &tree.open) else {
            return;
        };
        let tree = &tree.config.name;
        match commit::purge_oldest(&open.private) {
            Ok(true) => tracing::warn!(tree, "no room: the oldest of the trash was removed"),
            Ok(false) => {}
            Err(fault) => tracing::warn!(tree, %fault, "the trash cannot be emptied"),
        }
    }
}
