//! Bursts of deletions: the guard judges them whole.
//!
//! `rm -rf` of a tree arrives as many small steps. Were each judged by itself, everything up to the limit of `max_delete`
//! would be deleted on the standby before the guard objects. So when many of the paths that are to be looked at are
//! gone, the tree waits until the burst is over, and the guard is asked for all of it before any of it is recorded.
//! What is still coming after [`LONGEST`] is judged step by step, with what went before.

use super::clock::{self, ms};
use super::local::SLICE;
use super::status::Mode;
use super::worker::Worker;
use crate::guard::{DELETE_FLOOR, limit};
use crate::index::IndexError;
use crate::path::RelPath;
use std::collections::BTreeSet;

/// Without an event for so long, a burst is over. `rm` needs some microseconds for each name, and now and then waits for
/// a disk.
const QUIET: u64 = ms(50);
/// Longest wait of the tree's changes for the end of a burst: some ten thousand names go in that time. It is lag.
const LONGEST: u64 = ms(1000);
/// The same while somebody waits for what is there to be recorded: a planned move does so behind its fence, where every
/// moment is one without service.
const LONGEST_AWAITED: u64 = ms(200);
/// Where a tree stands in a burst of deletions. Times are CLOCK_BOOTTIME nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Burst {
    /// There is none.
    #[default]
    None,
    /// It began then and is not over.
    Coming { since: u64 },
    /// The guard let it pass: what is marked now is recorded without further waiting.
    Passing,
}

/// When a burst that began at `since` is judged, if the last event came at `newest`.
fn judged_at(since: u64, newest: u64, longest: u64) -> u64 {
    let quiet = newest.max(since).saturating_add(QUIET);
    quiet.min(since.saturating_add(longest))
}

impl Worker {
    /// Whether the tree's dirty paths must wait: a burst of deletions is coming, or the guard has stopped the tree
    /// because of it.
    pub(super) fn waits_for_burst(&mut self, at: usize) -> bool {
        // Only what gets numbers here is deleted elsewhere.
        if self.mode == Mode::Replica {
            self.trees[at].burst = Burst::None;
            return false;
        }
        if self.trees[at].is_doubted() {
            // The walk judges first.
            return true;
        }
        let now = clock::now();
        let burst = self.trees[at].burst;
        let since = match burst {
            Burst::Passing => return false,
            Burst::Coming { since } => since,
            Burst::None if self.many_are_gone(at) => now,
            Burst::None => return false,
        };
        self.trees[at].burst = Burst::Coming { since };
        let longest = match self.barriers.is_empty() {
            true => LONGEST,
            false => LONGEST_AWAITED,
        };
        let due = judged_at(since, self.trees[at].marked_at, longest);
        if now < due {
            self.due_at(due);
            return true;
        }
        self.trees[at].burst = Burst::Passing;
        let dirty: Vec<RelPath> = self.trees[at].dirty.keys().cloned().collect();
        let gone = match self.gone_of(at, dirty.iter(), usize::MAX) {
            Some(Ok(gone)) => gone,
            Some(Err(error)) => {
                self.index_failed(&error);
                return true;
            }
            None => return true,
        };
        !self.may_go(at, &gone.iter().collect())
    }

    /// Whether a burst of deletions seems to begin: more of the next paths are gone than may go unseen.
    fn many_are_gone(&mut self, at: usize) -> bool {
        let Some(many) = self.may_go_unseen(at) else {
            return false;
        };
        let next: Vec<RelPath> = self.trees[at].dirty.keys().take(SLICE).cloned().collect();
        let gone = self.gone_of(at, next.iter(), many + 1);
        // An index that fails is met again by the look that follows.
        matches!(gone, Some(Ok(gone)) if gone.len() > many)
    }

    /// So many deletions at once are nothing that the guard could object to, nor half of what there is. `None`: the index
    /// fails, which the look that follows meets again.
    fn may_go_unseen(&self, at: usize) -> Option<usize> {
        let tree = &self.trees[at];
        let counts = self.shared.index.snapshot().ok()?.counts(tree.id).ok()?;
        let entries = counts.entries();
        let many = limit(tree.config.max_delete, entries).min(entries / 2);
        usize::try_from(many.min(DELETE_FLOOR)).ok()
    }

    /// What the index knows at and below these paths and is gone: at least `enough` of it if there is so much.
    fn gone_of<'p>(
        &mut self,
        at: usize,
        paths: impl Iterator<Item = &'p RelPath>,
        enough: usize,
    ) -> Option<Result<BTreeSet<RelPath>, IndexError>> {
        self.looker(at, |looker| {
            let mut gone = BTreeSet::new();
            for path in paths {
                if gone.len() >= enough {
                    break;
                }
                looker.add_gone(path, &mut gone)?;
            }
            Ok(gone)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_judged_when_it_is_quiet_or_too_long() {
        let began = ms(7000);
        for (newest, judged) in [
            // The events lie before: the look that found it came later.
            (ms(6990), ms(7000) + QUIET),
            (ms(7000), ms(7000) + QUIET),
            (ms(7400), ms(7400) + QUIET),
            (ms(7999), ms(7000) + LONGEST),
            (ms(9000), ms(7000) + LONGEST),
        ] {
            assert_eq!(judged_at(began, newest, LONGEST), judged, "{newest}");
        }
        let awaited = judged_at(began, ms(9000), LONGEST_AWAITED);
        assert_eq!(awaited, began + LONGEST_AWAITED);
    }
}
