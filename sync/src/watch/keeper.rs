//! The thread beside the detectors: polls trees without events, looks whether the roots are still there, and delivers what
//! the consumer had no room for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::report::{Reach, Reporter};
use crate::path::RelPath;

/// How often the roots are looked at: one `statx` each.
const ROOT_INTERVAL: Duration = Duration::from_secs(1);
/// How often a full consumer is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Keeper {
    reporter: Arc<Reporter>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    pub(super) fn start(reporter: &Arc<Reporter>) -> Result<Keeper, std::io::Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("tandem-keeper".into());
        let thread = thread.spawn({
            let (reporter, stop) = (Arc::clone(reporter), Arc::clone(&stop));
            move || run(&reporter, &stop)
        })?;
        Ok(Keeper {
            reporter: Arc::clone(reporter),
            stop,
            thread: Some(thread),
        })
    }
}

impl Keeper {
    /// Its thread runs.
    pub(super) fn is_alive(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        {
            // Under the lock, so that the thread cannot miss the wake-up.
            let _state = self.reporter.lock();
            self.stop.store(true, Ordering::Relaxed);
        }
        self.reporter.pending.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the watch keeper thread panicked");
        }
    }
}

fn run(reporter: &Reporter, stop: &AtomicBool) {
    let mut next_look = Instant::now() + ROOT_INTERVAL;
    let after = |tree: usize| Instant::now() + reporter.trees()[tree].poll;
    // One for each tree: that one is polled often costs the others nothing.
    let mut next_poll: Vec<Instant> = (0..reporter.trees().len()).map(after).collect();
    loop {
        let mut state = reporter.lock();
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let until = next_poll.iter().copied().fold(next_look, Instant::min);
        let mut wait = until.saturating_duration_since(Instant::now());
        if reporter.retry(&mut state) {
            wait = wait.min(RETRY_INTERVAL);
        }
        let waited = reporter.pending.wait_timeout(state, wait);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        let now = Instant::now();
        if now >= next_look {
            next_look = now + ROOT_INTERVAL;
            for (tree, what) in reporter.trees().iter().enumerate() {
                reporter.root_is(tree, what.root.still_there());
            }
        }
        for (tree, next) in next_poll.iter_mut().enumerate() {
            if now >= *next {
                *next = after(tree);
                if reporter.is_polled(tree) {
                    reporter.dirty(tree, RelPath::root(), Reach::Below);
                }
            }
        }
    }
}
