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
    /// The round of looks in which it was asked.
    pub asked: u64,
    answer: Answer,
    /// When the answer is not waited for any longer (CLOCK_BOOTTIME nanoseconds).
    until: u64,
}

#[derive(Debug, Clone)]
enum Answer {
    /// Trees of which it has not told, and the token of the barriers behind those events.
    Awaited { token: u64, trees: BTreeSet<TreeId> },
    /// The round in which it had told all.
    Came(u64),
}

impl Told {
    /// Of some trees there is nothing more to wait for, or of none after so long.
    fn told(&mut self, round: u64, now: u64, is_told: impl Fn(TreeId, u64) -> bool) -> bool {
        let Answer::Awaited { token, trees } = &mut self.answer else {
            return false;
        };
        trees.retain(|tree| !is_told(*tree, *token));
        if self.until <= now && !trees.is_empty() {
            tracing::error!(trees = trees.len(), "a watcher does not answer");
            trees.clear();
        }
        let all = trees.is_empty();
        if all {
            self.answer = Answer::Came(round);
        }
        all
    }

    fn is_awaited(&self) -> bool {
        matches!(self.answer, Answer::Awaited { .. })
    }

    /// Whether all of it is recorded. The oldest mark at which something lies was made in the round `here`.
    fn is_recorded(&self, here: Option<u64>) -> bool {
        match self.answer {
            Answer::Awaited { .. } => false,
            // However long it takes: a large content is read.
            Answer::Came(came) => here.is_none_or(|here| came < here),
        }
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
        let answer = match trees.is_empty() {
            true => Answer::Came(self.round),
            false => Answer::Awaited { token, trees },
        };
        Told {
            asked: self.round,
            answer,
            until: clock::now() + EVENTS,
        }
    }

    fn told(&mut self, is_told: impl Fn(TreeId, u64) -> bool) {
        let now = clock::now();
        let scans = self.trees.iter_mut().filter_map(|t| t.job.as_mut());
        let scans = scans.filter_map(|job| job.waits.as_mut());
        for told in scans.chain(self.gone.as_mut()) {
            if told.told(self.round, now, &is_told) {
                self.dirty_due = Some(0);
            }
        }
    }

    /// The watcher told everything of the tree that happened before it was asked.
    pub(super) fn events_came(&mut self, tree: TreeId, token: u64) {
        self.told(|of, asked| (of, asked) == (tree, token));
    }

    /// A tree that was stopped meanwhile may not be watched any more, and an answer may never come.
    pub(super) fn end_told(&mut self) {
        if self.told_by().is_none() {
            return;
        }
        let moving = self.trees.iter().filter(|tree| tree.moves());
        let moving: BTreeSet<TreeId> = moving.map(|tree| tree.id).collect();
        self.told(|tree, _| !moving.contains(&tree));
    }

    /// What the watcher was asked it will not answer: it is another one now, and the trees are scanned. What is gone is found
    /// by the scans, behind what is there.
    pub(super) fn forget_asked(&mut self) {
        self.gone = None;
        for tree in &mut self.trees {
            tree.events_lost();
        }
        for barrier in self.barriers.values_mut() {
            let trees = std::mem::take(&mut barrier.trees);
            barrier
                .marked
                .extend(trees.into_iter().map(|tree| (tree, self.round)));
        }
    }

    /// Up to which round what was found gone may be recorded. The oldest mark at which something lies was made in the round `here`.
    pub(super) fn gone_may_go(&self, here: Option<u64>) -> Option<u64> {
        let told = self.gone.as_ref();
        told.filter(|told| told.is_recorded(here))
            .map(|told| told.asked)
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
        if self.gone.as_ref().is_some_and(|told| !told.is_awaited()) {
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
        let here = moving.filter_map(Tree::oldest_here).min();
        for job in self.trees.iter_mut().filter_map(|t| t.job.as_mut()) {
            job.waits = job.waits.take().filter(|told| !told.is_recorded(here));
        }
    }

    /// When an answer is not waited for any longer.
    pub(super) fn told_by(&self) -> Option<u64> {
        let scans = self.trees.iter().filter_map(|t| t.job.as_ref());
        let scans = scans.filter_map(|job| job.waits.as_ref());
        let told = scans.chain(&self.gone).filter(|told| told.is_awaited());
        told.map(|told| told.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::dirty::Dirt;
    use crate::engine::handle::open::prepare;
    use crate::engine::tests::pair::Node;
    use crate::engine::tests::trees::both;
    use crate::engine::tree::Stop;
    use crate::path::RelPath;

    /// A worker that nobody runs, with two trees, and a path of the first that is marked as gone, about which it has asked.
    async fn asked() -> (Node, Worker) {
        let mut node = Node::new("a", |_| {});
        node.engine().set_trees(both(&node)).await.unwrap();
        node.engine().init_source().await.unwrap();
        node.stop().await;
        let (mut worker, _) = prepare(node.config(both(&node))).unwrap();
        assert!(worker.trees.iter().all(Tree::moves));
        for tree in &mut worker.trees {
            tree.rescan = false;
        }
        worker.trees[0].mark_gone([RelPath::new("f").unwrap()]);
        worker.ask_about_gone();
        let told = worker.gone.as_ref().unwrap();
        if matches!(told.answer, Answer::Came(_)) {
            tandem_lab::skipped("no detector that tells events");
        }
        (node, worker)
    }

    fn token(worker: &Worker) -> u64 {
        match worker.gone.as_ref().unwrap().answer {
            Answer::Awaited { token, .. } => token,
            Answer::Came(_) => 0,
        }
    }

    #[tokio::test]
    async fn what_is_gone_does_not_wait_for_a_tree_that_was_stopped() {
        let (_node, mut worker) = asked().await;
        assert_eq!(token(&worker) == 0, worker.gone_may_go(None).is_some());
        worker.events_came(worker.trees[0].id, token(&worker));
        worker.stop(1, Stop::Fault("a test".into()));
        worker.dirty_due = None;
        worker.end_told();
        assert_eq!(worker.gone_may_go(None), Some(worker.round));
    }

    #[tokio::test]
    async fn what_is_gone_does_not_wait_for_a_mark_of_a_tree_that_was_stopped() {
        let (_node, mut worker) = asked().await;
        for at in 0..2 {
            worker.events_came(worker.trees[at].id, token(&worker));
        }
        let large = Dirt {
            large: true,
            since: worker.round,
            ..Dirt::default()
        };
        worker.trees[1].put_mark(RelPath::new("large").unwrap(), large);
        worker.dirty_due = None;
        worker.stop(1, Stop::Deletes("a test".into()));
        assert!(worker.dirty_due.is_some(), "nothing else may ever happen");
    }

    #[tokio::test]
    async fn an_answer_that_never_comes_is_not_waited_for_in_a_loop() {
        let (_node, mut worker) = asked().await;
        if token(&worker) == 0 {
            return;
        }
        worker.gone.as_mut().unwrap().until = clock::now();
        worker.dirty_due = None;
        worker.end_told();
        assert_eq!(worker.gone_may_go(None), Some(worker.round));
        assert_eq!(worker.told_by(), None);
        assert_eq!(worker.dirty_due, Some(0), "it is looked at");
    }

    #[tokio::test]
    async fn a_new_watcher_is_not_waited_for_but_a_scan() {
        let (_node, mut worker) = asked().await;
        worker.scan(1);
        let told = worker.ask_events();
        worker.trees[1].job.as_mut().unwrap().waits = Some(told);
        let (reply, _answer) = tokio::sync::oneshot::channel();
        worker.barrier(None, reply);
        worker.watch();
        assert!(worker.gone.is_none());
        for tree in &worker.trees {
            assert!(tree.rescan && tree.dirty.is_empty() && tree.job.is_none());
        }
        assert!(worker.barriers.values().all(|b| b.trees.is_empty()));
    }
}
