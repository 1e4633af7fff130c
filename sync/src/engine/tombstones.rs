//! Removed paths leave a tombstone in the index, so that whoever was away hears of it. In time it is of no use any more.
//!
//! A source removes those that the standby and every replica have acknowledged. A receiver needs its own only for those whom it
//! would feed after a takeover: its old source, which has them, and replicas. Both keep them for [`AGE`] in any case, so that a
//! replica that was away for less is not compared whole after a change of master. Whoever is below what was removed (the index's
//! floor) begins anew, by contents: nothing stays behind on anybody.

use super::status::Mode;
use super::worker::Worker;
use crate::hash;
use crate::index::IndexError;
use serde::{Deserialize, Serialize};

/// They are kept for this and at most twice as long, in seconds.
const AGE: u64 = 7 * 24 * 3600;
/// Most that are removed in one transaction, each second at most: some ten milliseconds of the worker.
const STEP: usize = 1000;
/// Name of the mark in the index.
const MARK: &str = "tombstones/mark";

/// All numbers up to `seq` were given out or received before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    seq: u64,
    /// Seconds since 1970.
    at: u64,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    /// A new mark.
    Mark,
    /// Tombstones up to this number may go, then a new mark.
    Purge(u64),
}

/// A clock that went back says nothing of an age.
fn due(mark: Option<Mark>, now: u64) -> Due {
    match mark.map(|mark| (mark, now.checked_sub(mark.at))) {
        Some((_, Some(age))) if age < AGE => Due::Nothing,
        Some((mark, Some(_))) => Due::Purge(mark.seq),
        Some((_, None)) | None => Due::Mark,
    }
}

impl Worker {
    /// Removes tombstones that nobody needs, a step at a time, while nothing else is to be done.
    pub(super) fn purge_tombstones(&mut self) {
        let busy = self
            .trees
            .iter()
            .any(|tree| tree.job.is_some() || tree.moving.is_some())
            || self.dirty_due.is_some()
            || self.preparing.is_some()
            || !self.barriers.is_empty();
        if busy {
            return;
        }
        if let Err(error) = self.try_purge_tombstones() {
            self.index_failed(&error);
        }
    }

    fn try_purge_tombstones(&mut self) -> Result<(), IndexError> {
        let fed = match self.mode {
            Mode::Source { .. } => self.shared.receivers.least_acked(),
            // Before a session has begun what this node deleted as source may not be known to anybody else.
            Mode::Replica if self.receiving.is_some() => None,
            Mode::Replica | Mode::Idle => return Ok(()),
        };
        let snapshot = self.shared.index.snapshot()?;
        let now = u64::try_from(hash::now_ns() / 1_000_000_000).unwrap_or(0);
        let upto = match due(snapshot.value(MARK)?, now) {
            Due::Nothing => return Ok(()),
            Due::Mark => None,
            Due::Purge(upto) => Some(fed.map_or(upto, |fed| fed.min(upto))),
        };
        let seq = snapshot.last_seq();
        drop(snapshot);
        let removed = self.shared.index.write(|w| {
            let removed = match upto {
                Some(upto) => w.purge_tombstones(upto, STEP)?,
                None => 0,
            };
            if removed < STEP {
                w.put_value(MARK, &Mark { seq, at: now })?;
            }
            Ok::<_, IndexError>(removed)
        })?;
        if removed > 0 {
            tracing::debug!(removed, upto, "tombstones were removed");
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::index::Index;

    /// Everything that is there now was there long ago.
    pub fn age(index: &Index) {
        let seq = index.snapshot().unwrap().last_seq();
        let mark = Mark { seq, at: 0 };
        let kept = index.write(|w| w.put_value(MARK, &mark));
        kept.unwrap();
    }

    /// Whether the worker has looked at what was old.
    pub fn is_seen(index: &Index) -> bool {
        let mark: Option<Mark> = index.snapshot().unwrap().value(MARK).unwrap();
        mark.is_some_and(|mark| mark.at > 0)
    }

    #[test]
    fn they_are_kept_for_their_time_and_a_clock_that_went_back_says_nothing() {
        let mark = Mark { seq: 5, at: 1000 };
        assert_eq!(due(None, 1000), Due::Mark);
        assert_eq!(due(Some(mark), 1000 + AGE - 1), Due::Nothing);
        assert_eq!(due(Some(mark), 1000 + AGE), Due::Purge(5));
        assert_eq!(due(Some(mark), 999), Due::Mark);
    }
}
