//! A sign of life while the session's thread reads or copies a huge file: the source takes silence for a dead end.

use crate::engine::clock::{self, ms};
use crate::engine::stream::Outgoing;
use crate::wire::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Time between two signs: a small part of the source's patience of 60 s.
const EVERY: u64 = ms(5000);

/// Cheap to clone; clones share their rhythm.
#[derive(Clone)]
pub(crate) struct Pulse {
    outgoing: Outgoing,
    last: Arc<AtomicU64>,
}

impl Pulse {
    /// Over this way to the source.
    pub fn new(outgoing: Outgoing) -> Pulse {
        let last = Arc::new(AtomicU64::new(clock::now()));
        Pulse { outgoing, last }
    }

    /// Says that this end is at work, if it is time.
    pub fn beat(&self) {
        let now = clock::now();
        if now.saturating_sub(self.last.load(Ordering::Relaxed)) >= EVERY {
            self.last.store(now, Ordering::Relaxed);
            // A full queue says the same; a closed one is seen by the session's loop.
            self.outgoing.try_send(&Message::Wait);
        }
    }
}
