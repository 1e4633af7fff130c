//! An index that failed: the disk of the state directory is full, or broken.
//!
//! Nothing is recorded, sent or applied then: every tree is stopped, sessions end, and one alarm says why. The index is opened anew at
//! intervals, in the same process. Once that works everything goes on as after a crash: from what is durable, which is all that was ever
//! told to the peer. The trees are scanned, and what was answered out of the slot is applied from there.

use super::clock::{self, ms};
use super::status::{EngineStatus, Mode, TreeState};
use super::tree::Stop;
use super::worker::Worker;
use crate::index::IndexError;

/// Time to the first try. It doubles with each that fails: a try writes a megabyte, and may walk the whole index.
const AGAIN: u64 = ms(1000);
/// Longest time between two tries: for so long, at most, the node waits when there is room again.
const AGAIN_MOST: u64 = ms(if cfg!(test) { 4000 } else { 30_000 });

/// How long an index must have worked until a failure is a new one. One that fails before goes on with the waits of the last, or a
/// disk on which there is room for a moment only would make alarms, scans and sessions each second.
const WORKS: u64 = ms(60_000);

/// An index that failed, until it is opened anew.
#[derive(Debug, Default)]
pub(super) struct Failing {
    /// The next try, while it is closed.
    next: Option<Tries>,
    /// How long it was waited last, and when it was opened anew after that.
    last: Option<Tries>,
}

#[derive(Debug, Clone, Copy)]
struct Tries {
    /// When it is due, or was done.
    at: u64,
    /// How long it was waited for.
    wait: u64,
}

impl Failing {
    fn failed(&mut self, now: u64) {
        let wait = match self.last {
            Some(last) if now.saturating_sub(last.at) < WORKS => longer(last.wait),
            _ => AGAIN,
        };
        self.wait(wait, now);
    }

    fn wait(&mut self, wait: u64, now: u64) {
        let at = now.saturating_add(wait);
        self.next = Some(Tries { at, wait });
    }

    fn works(&mut self, now: u64) {
        let tried = self.next.take();
        self.last = tried.map(|tried| Tries { at: now, ..tried });
    }
}

fn longer(wait: u64) -> u64 {
    wait.saturating_mul(2).min(AGAIN_MOST)
}

impl Worker {
    /// The index did not take a change, or could not be read: nothing is lost, the trees are scanned when it works again.
    pub(super) fn index_failed(&mut self, error: &IndexError) {
        let failure = self.shared.index.failure();
        let why = failure.clone().unwrap_or_else(|| error.to_string());
        if failure.is_none() {
            tracing::error!(%error, "the index failed");
        } else if self.failing.next.is_none() {
            let path = self.shared.config.state_dir.display();
            let text = format!(
                "the state directory {path} does not take what is written, tried again by itself: {why}"
            );
            self.shared.alarm(None, "index", Some(text));
            self.failing.failed(clock::now());
            // Each would end by itself at its next use of the index.
            self.end_session();
            self.shared.receivers.end_all();
        }
        for at in 0..self.trees.len() {
            if self.trees[at].stop.is_none() {
                self.stop(at, Stop::Fault(format!("index: {why}")));
            }
        }
    }

    /// Whether the index takes changes. One that failed is opened anew when that is due.
    pub(super) fn index_works(&mut self) -> bool {
        let Some(why) = self.shared.index.failure() else {
            return true;
        };
        if self.failing.next.is_none() {
            // It failed somebody else than the worker.
            self.index_failed(&IndexError::Failed { why });
        }
        let now = clock::now();
        let wait = match &self.failing.next {
            Some(tries) if tries.at <= now => tries.wait,
            _ => return false,
        };
        match self.shared.index.reopen() {
            Ok(()) => self.go_on_with_index(),
            Err(error) => {
                tracing::debug!(%error, "the index cannot be opened anew yet");
                self.failing.wait(longer(wait), now);
            }
        }
        self.failing.next.is_none()
    }

    /// What the trees keep in mind is what the index has: what was noted with the write that failed is met again.
    fn load_lists(&mut self) -> Result<(), IndexError> {
        self.load_flagged();
        self.load_skipped();
        self.load_lacking();
        self.load_beyond();
        self.load_unverified();
        self.load_marks();
        match self.mode {
            Mode::Replica => self.load_unsettled(),
            Mode::Source { .. } | Mode::Idle => Ok(()),
        }
    }

    /// It was opened anew: what a start does with what is durable.
    fn go_on_with_index(&mut self) {
        let last = match self.shared.index.snapshot() {
            Ok(snapshot) => snapshot.last_seq(),
            Err(error) => {
                self.failing.wait(AGAIN_MOST, clock::now());
                return self.index_failed(&error);
            }
        };
        self.failing.works(clock::now());
        self.shared.alarm(None, "index", None);
        tracing::info!("the index was opened anew");
        // A transaction may have been durable although nobody was told so.
        if last > *self.shared.head.borrow() {
            self.changed(last, clock::now());
        }
        self.shared.head.send_replace(last);
        self.prove_all();
        if let Err(error) = self.load_lists() {
            return self.index_failed(&error);
        }
        (self.ahead, self.spool) = (None, None);
        self.look_at_left();
        self.follow_rename();
        self.find_spool();
    }

    /// The status while the index cannot be read: what was known, of which nothing is claimed any more.
    pub(super) fn show_without_index(&self, error: &IndexError) {
        let failure = self.shared.index.failure();
        let why = format!("index: {}", failure.unwrap_or_else(|| error.to_string()));
        tracing::debug!(why, "the index cannot be read");
        let alarms = self.shared.alarms();
        let mode: Mode = self.mode;
        self.shared.status.send_modify(|status| {
            status.mode = mode;
            status.nothing_holds(&why, alarms);
        });
    }
}

impl EngineStatus {
    /// Nothing is recorded, sent or applied any more.
    pub(super) fn nothing_holds(&mut self, why: &str, alarms: Vec<super::status::Alarm>) {
        self.consistent = false;
        self.catching_up_only = false;
        self.reason = Some(why.to_owned());
        self.fresh_at = None;
        self.lag = None;
        for tree in &mut self.trees {
            tree.state = TreeState::Stopped {
                why: why.to_owned(),
            };
        }
        self.alarms = alarms;
    }
}
