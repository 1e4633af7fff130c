//! How much there is to send, and how much of it is through: told to the replica each second.

use super::{Session, held};
use crate::engine::SessionError;
use crate::engine::clock;
use crate::progress::Work;
use crate::source::outlook;
use crate::wire::Message;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Time between two words of how much there is to send (nanoseconds).
const OUTLOOK: u64 = clock::ms(1000);

impl Session<'_> {
    /// A batch is through.
    pub(super) fn through(&self, batch: u64) {
        let records = self.machine.records(batch).unwrap_or_default();
        let sizes = records.iter().map(|r| (r.tree, r.size()));
        held(&self.transfers).batch(clock::now(), batch, sizes);
    }

    /// Keeps up what there is to send in all, and tells the replica.
    pub(super) fn look_out(&mut self, cancel: &CancellationToken) -> Result<(), SessionError> {
        let now = clock::now();
        if self.machine.caught_up() {
            self.outlooks.caught_up(now);
            *held(&self.transfers) = self.outlooks.transfers(now);
            self.outlook_at = now + OUTLOOK;
        }
        // What waits for a link that takes nothing says enough.
        if now < self.outlook_at || !self.out.is_empty() {
            return Ok(());
        }
        self.outlook_at = now + OUTLOOK;
        if self.outlooks.begin_count(now) {
            self.count(cancel.clone());
        }
        let snapshot = self.shared.index.snapshot();
        let snapshot = snapshot.map_err(|e| SessionError::Local(e.to_string()))?;
        let there = |tree| {
            let counts = snapshot.counts(tree).unwrap_or_default();
            Work {
                entries: counts.entries(),
                bytes: counts.bytes,
            }
        };
        let all = self.outlooks.all(there, *self.shared.scanned.borrow());
        let mut transfers = held(&self.transfers);
        for one in &all {
            transfers.set_total(one.tree, one.total, one.whole);
        }
        self.out.push_back(Message::Outlook(all));
        Ok(())
    }

    /// Counts what is not in a batch yet, aside of the session.
    fn count(&self, cancel: CancellationToken) {
        let (shared, counts) = (Arc::clone(self.shared), self.counts.clone());
        let after = self.machine.cursor();
        tokio::task::spawn_blocking(move || {
            let begun = clock::now();
            match outlook::count(&shared.index, after, &cancel) {
                // The session may have ended.
                Ok(Some(left)) => drop(counts.blocking_send((left, clock::now() - begun))),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "what is to be sent cannot be counted"),
            }
        });
    }
}
