//! What all detectors share: handing events to the consumer without losing the knowledge that some were lost.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Detector, Event, MAX_BARRIERS, Sink, WatchTree, Watching, touch_sentinel};
use crate::fault::Fault;
use crate::path::RelPath;
use crate::tree::TreeId;

pub(super) struct Reporter {
    trees: Vec<WatchTree>,
    sink: Sink,
    state: Mutex<Vec<TreeState>>,
    /// Wakes the keeper when something waits to be delivered.
    pub(super) pending: Condvar,
}

/// What a change of a path says of what lies below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Nothing.
    Path,
    /// It may be another.
    Below,
    /// There was nothing: a new directory, and what comes into it has events of its own.
    Made,
}

#[derive(Debug, Default)]
pub(super) struct TreeState {
    watching: Option<Watching>,
    /// Events were lost and the consumer does not know yet. Until it does, further ones are covered by it.
    overflow: bool,
    /// The root is gone and the consumer does not know yet.
    gone: bool,
    /// The consumer was told that the root is gone.
    gone_told: bool,
    /// Barriers whose sentinel was made and not yet seen.
    issued: BTreeSet<u64>,
    /// Barriers that passed and could not be delivered yet, after the overflow if there is one.
    passed: BTreeSet<u64>,
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter")
            .field("trees", &self.trees.len())
            .finish_non_exhaustive()
    }
}

impl Reporter {
    pub(super) fn new(trees: Vec<WatchTree>, sink: Sink) -> Reporter {
        let state = trees.iter().map(|_| TreeState::default()).collect();
        Reporter {
            trees,
            sink,
            state: Mutex::new(state),
            pending: Condvar::new(),
        }
    }

    pub(super) fn trees(&self) -> &[WatchTree] {
        &self.trees
    }

    pub(super) fn index_of(&self, id: TreeId) -> Option<usize> {
        self.trees.iter().position(|tree| tree.id == id)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<TreeState>> {
        // Only plain flags and sets, each changed by one call: a panic in the sink leaves them whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn watching(&self, tree: usize) -> Watching {
        self.lock()[tree].watching.clone().unwrap_or(Watching {
            detector: Detector::Poll,
            because: None,
        })
    }

    /// Why a better detector does not work for this tree. Kept for status.
    pub(super) fn refused(&self, tree: usize, detector: Detector, why: &str) {
        let because = format!("{detector}: {why}");
        tracing::debug!(tree = %self.trees[tree].id, %because, "detector not used");
        let mut state = self.lock();
        let before = state[tree].watching.take().and_then(|w| w.because);
        state[tree].watching = Some(Watching {
            detector: Detector::Poll,
            because: Some(before.map_or(because.clone(), |b| format!("{b}; {because}"))),
        });
    }

    /// A detector works for this tree.
    pub(super) fn armed(&self, tree: usize, detector: Detector) {
        let mut state = self.lock();
        let because = state[tree].watching.take().and_then(|w| w.because);
        state[tree].watching = Some(Watching { detector, because });
    }

    pub(super) fn is_armed(&self, tree: usize) -> bool {
        let state = self.lock();
        let watching = state[tree].watching.as_ref();
        watching.is_some_and(|w| w.detector != Detector::Poll)
    }

    /// From now on this tree is polled; what happened until now may have been missed.
    pub(super) fn poll_instead(&self, tree: usize, why: Option<(Detector, &str)>) {
        if let Some((detector, why)) = why {
            self.refused(tree, detector, why);
            self.lost(tree);
        } else {
            self.armed(tree, Detector::Poll);
        }
    }

    pub(super) fn is_polled(&self, tree: usize) -> bool {
        !self.is_armed(tree)
    }

    pub(super) fn dirty(&self, tree: usize, path: RelPath, reach: Reach) {
        let mut state = self.lock();
        self.deliver(tree, &mut state[tree]);
        if state[tree].overflow {
            return;
        }
        let id = self.trees[tree].id;
        let dirty = |recursive| Event::Dirty {
            tree: id,
            path: path.clone(),
            recursive,
        };
        let event = match reach {
            Reach::Path => dirty(false),
            Reach::Below => dirty(true),
            Reach::Made => Event::Made { tree: id, path },
        };
        if !(self.sink)(event) {
            state[tree].overflow = true;
            self.pending.notify_all();
        }
    }

    /// Whoever wrote a file has closed it. A hint: without room for it nothing is lost.
    pub(super) fn closed(&self, tree: usize, path: RelPath) {
        let state = self.lock();
        let id = self.trees[tree].id;
        if !state[tree].is_pending() {
            (self.sink)(Event::Closed { tree: id, path });
        }
    }

    /// A rename within the tree, ahead of the news of its two paths. False: there was no room for it.
    pub(super) fn moved(&self, tree: usize, from: RelPath, to: RelPath) -> bool {
        let state = self.lock();
        let id = self.trees[tree].id;
        !state[tree].is_pending() && (self.sink)(Event::Moved { tree: id, from, to })
    }

    /// Events of this tree were lost. Barriers that are on their way are answered after the overflow.
    pub(super) fn lost(&self, tree: usize) {
        let mut state = self.lock();
        let state = &mut state[tree];
        state.overflow = true;
        state.passed.append(&mut state.issued);
        self.deliver(tree, state);
        self.pending.notify_all();
    }

    /// Whether the root is there, from the keeper's look.
    pub(super) fn root_is(&self, tree: usize, there: bool) {
        let mut state = self.lock();
        let state = &mut state[tree];
        if there {
            state.gone = false;
            state.gone_told = false;
        } else if !state.gone_told {
            state.gone = true;
            self.deliver(tree, state);
        }
    }

    /// Makes the sentinel of a barrier. For a polled tree, and one in which none can be made because it is read-only, the whole
    /// tree is reported, then the barrier.
    pub(super) fn issue(&self, tree: usize, token: u64) -> Result<(), Fault> {
        {
            let mut state = self.lock();
            let state = &mut state[tree];
            if state.issued.len() + state.passed.len() >= MAX_BARRIERS {
                return Err(Fault::Os {
                    call: "barrier",
                    errno: libc::EAGAIN,
                });
            }
            state.issued.insert(token);
        }
        if self.is_polled(tree) {
            self.report_whole(tree, token);
            return Ok(());
        }
        match touch_sentinel(&self.trees[tree].private, token) {
            // Nothing happens in it any more, and what happened is found as in a polled tree.
            Err(Fault::ReadOnly) => self.report_whole(tree, token),
            Err(fault) => {
                self.lock()[tree].issued.remove(&token);
                return Err(fault);
            }
            Ok(()) => {}
        }
        Ok(())
    }

    /// Reports the whole tree, then the barrier.
    fn report_whole(&self, tree: usize, token: u64) {
        self.dirty(tree, RelPath::root(), Reach::Below);
        self.sentinel_seen(tree, token);
    }

    /// The event of a sentinel came through.
    pub(super) fn sentinel_seen(&self, tree: usize, token: u64) {
        let mut state = self.lock();
        let state = &mut state[tree];
        if state.issued.remove(&token) {
            state.passed.insert(token);
            self.deliver(tree, state);
            self.pending.notify_all();
        }
    }

    /// Makes a sentinel and waits for its event: shows that the detector works for this tree.
    pub(super) fn prove(&self, tree: usize, within: Duration) -> Result<(), String> {
        let token = TEST_TOKENS + tree as u64;
        self.lock()[tree].issued.insert(token);
        let made = touch_sentinel(&self.trees[tree].private, token);
        let deadline = Instant::now() + within;
        let mut state = self.lock();
        while made.is_ok() && state[tree].issued.contains(&token) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.pending.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let missing = state[tree].issued.remove(&token);
        match made {
            Err(fault) => Err(format!("no sentinel can be made: {fault}")),
            Ok(()) if missing => Err("a change in the tree caused no event".to_owned()),
            Ok(()) => Ok(()),
        }
    }

    /// Tries again to deliver what the consumer had no room for. True when something still waits.
    pub(super) fn retry(&self, state: &mut [TreeState]) -> bool {
        for (tree, state) in state.iter_mut().enumerate() {
            self.deliver(tree, state);
        }
        state.iter().any(TreeState::is_pending)
    }

    fn deliver(&self, tree: usize, state: &mut TreeState) {
        let id = self.trees[tree].id;
        if state.gone && (self.sink)(Event::RootGone { tree: id }) {
            state.gone = false;
            state.gone_told = true;
        }
        if state.overflow && (self.sink)(Event::Overflow { tree: id }) {
            state.overflow = false;
        }
        while !state.overflow
            && let Some(token) = state.passed.first().copied()
        {
            // The tokens of the detectors' own tests are nobody's.
            if token < TEST_TOKENS && !(self.sink)(Event::Barrier { tree: id, token }) {
                break;
            }
            state.passed.remove(&token);
        }
    }
}

/// Tokens from here on belong to the detectors' tests of themselves.
pub(super) const TEST_TOKENS: u64 = u64::MAX - 0xffff;

impl TreeState {
    fn is_pending(&self) -> bool {
        self.overflow || self.gone || !self.passed.is_empty()
    }
}
