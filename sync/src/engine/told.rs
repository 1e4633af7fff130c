//! What is gone is recorded behind what happened before it was missed, in every tree: what moved is at its new place before it
//! leaves the old one, even if its move is only in events that nobody has read yet.
//!
//! ```text
//!   missing: marked as gone (or kept by the scan that missed it)
//!   the watcher is asked, in every tree       ── sentinels ──>
//!   it told of all that happened before       <── events, then the sentinels
//!   what those events marked is recorded
//!   recorded as gone
//! ```

use super::clock;
use super::tree::Tree;
use super::worker::Worker;
use crate::tree::TreeId;
use crate::watch::Detector;
use std::collections::BTreeSet;

/// How long the events are waited for. They take less than a millisecond, on a busy machine some; a watcher that tells nothing for
/// so long is broken, and a deletion is not held up for ever by it.
const EVENTS: u64 = clock::ms(20_000);

/// Waits for the watcher to tell what happened up to a moment.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    /// Of the barriers behind those events.
    token: u64,
    /// The round of looks in which it was asked.
    pub asked: u64,
    /// Trees of which it has not told.
    trees: BTreeSet<TreeId>,
    /// The round in which it had told all.
    came: Option<u64>,
    /// When it is not waited for any longer (CLOCK_BOOTTIME nanoseconds).
    pub until: u64,
}

impl Told {
    fn told(&mut self, tree: TreeId, token: u64, round: u64) {
        if self.token == token {
            self.trees.remove(&tree);
        }
        if self.trees.is_empty() {
            self.came.get_or_insert(round);
        }
    }

    /// Whether all of it is recorded. The oldest mark at which something lies was made in the round `here`.
    fn is_recorded(&self, here: Option<u64>, now: u64) -> bool {
        let behind = |came: u64| here.is_none_or(|here| came < here);
        self.came.is_some_and(behind) || self.until <= now
    }
}

impl Worker {
    /// Has the watcher tell when everything that happened so far was reported.
    pub(super) fn ask_events(&mut self) -> Told {
        let token = self.next_token;
        self.next_token += 1;
        let mut trees = BTreeSet::new();
        for tree in self.trees.iter().filter(|tree| tree.moves()) {
            let Some(watcher) = &self.watcher else {
                break;
            };
            // Without events another pass is all that a barrier could bring.
            let events = watcher
                .watching(tree.id)
                .is_some_and(|how| how.detector != Detector::Poll);
            if events && watcher.barrier(tree.id, token).is_ok() {
                trees.insert(tree.id);
            }
        }
        let came = trees.is_empty().then_some(self.round);
        Told {
            token,
            asked: self.round,
            trees,
            came,
            until: clock::now() + EVENTS,
        }
    }

    /// The watcher told everything of the tree that happened before it was asked.
    pub(super) fn events_came(&mut self, tree: TreeId, token: u64) {
        let scans = self.trees.iter_mut().filter_map(|t| t.job.as_mut());
        let scans = scans.filter_map(|job| job.waits.as_mut());
        for told in scans.chain(self.gone.as_mut()) {
            told.told(tree, token, self.round);
        }
        self.dirty_due = Some(0);
    }

    /// Up to which round what was found gone may be recorded. The oldest mark at which something lies was made in the round `here`.
    pub(super) fn gone_may_go(&self, here: Option<u64>) -> Option<u64> {
        let now = clock::now();
        let told = self
            .gone
            .as_ref()
            .filter(|told| told.is_recorded(here, now));
        told.map(|told| told.asked)
    }

    /// Asks about what was found gone since it asked last, when that is recorded.
    pub(super) fn ask_about_gone(&mut self) {
        let moving = || self.trees.iter().filter(|tree| tree.moves());
        let waits = |told: &Told| moving().any(|tree| tree.has_gone(told.asked));
        if self.gone.as_ref().is_some_and(waits) {
            return;
        }
        self.gone = match moving().any(|tree| tree.has_gone(self.round)) {
            true => Some(self.ask_events()),
            false => None,
        };
        if self.gone.as_ref().is_some_and(|told| told.trees.is_empty()) {
            self.due_now();
        }
    }

    /// Ends the waits of scans.
    pub(super) fn end_waits(&mut self) {
        let waits = |t: &Tree| t.job.as_ref().is_some_and(|job| job.waits.is_some());
        if !self.trees.iter().any(waits) {
            return;
        }
        let moving = self.trees.iter().filter(|t| t.moves());
        let (here, now) = (moving.filter_map(Tree::oldest_here).min(), clock::now());
        for job in self.trees.iter_mut().filter_map(|t| t.job.as_mut()) {
            job.waits = job.waits.take().filter(|told| !told.is_recorded(here, now));
        }
    }

    /// When something is not waited for any longer.
    pub(super) fn told_by(&self) -> Option<u64> {
        let scans = self.trees.iter().filter_map(|t| t.job.as_ref());
        let scans = scans.filter_map(|job| job.waits.as_ref());
        scans.chain(&self.gone).map(|told| told.until).min()
    }
}
