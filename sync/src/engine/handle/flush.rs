//! Waiting until the peer has what was written here: flush, and the last steps of a planned move.

use super::Engine;
use crate::engine::command::{Command, Recorded};
use crate::engine::error::CommandError;
use crate::engine::report::{FlushReport, NotCovered};
use crate::engine::shared::{Shared, heads};
use crate::engine::status::Mode;
use crate::wire::MAX_RECORDS;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What a flush without time left still waits for the worker to name what it cannot cover.
const ASKING: Duration = Duration::from_millis(200);

impl Engine {
    /// Returns when everything written before the call is durable on the peer, or names what is not. During a `hold` that
    /// is in the peer's spool, which is applied before anything else happens to the trees.
    ///
    /// # Errors
    /// [`CommandError::NotSource`], or not done within `timeout`.
    pub async fn flush(&self, timeout: Duration) -> Result<FlushReport, CommandError> {
        let report = self.flushed(timeout).await;
        // It is shown soon. Nobody waits for that: the worker has the next change at hand.
        self.shared.shows.notify_one();
        report
    }

    async fn flushed(&self, timeout: Duration) -> Result<FlushReport, CommandError> {
        let begun = Instant::now();
        if !matches!(*self.shared.mode.borrow(), Mode::Source { .. }) {
            return Err(CommandError::NotSource);
        }
        let mut barrier = None;
        let work = async {
            let recorded = barrier.insert(self.recorded().await?);
            let mut peer = self.shared.peer.subscribe();
            // Also without a session: a healed cable brings one within seconds.
            let reached = peer.wait_for(|p| p.acked >= recorded.head).await;
            Ok::<bool, CommandError>(reached.is_ok())
        };
        let durable = tokio::time::timeout(timeout, work).await;
        let peer = *self.shared.peer.borrow();
        let recorded = match barrier {
            Some(recorded) => recorded,
            None => {
                self.unrecorded(timeout.saturating_sub(begun.elapsed()))
                    .await?
            }
        };
        let durable = durable.unwrap_or(Ok(peer.acked >= recorded.head && recorded.head > 0))?;
        let mut not_covered = recorded.not_covered;
        if !durable {
            let why = match peer.session {
                false => "no session with the peer".to_owned(),
                true => format!("not durable on the peer within {timeout:?}"),
            };
            not_covered.push(NotCovered { tree: None, why });
        }
        let heads = heads(&self.shared)?;
        let mut report = FlushReport {
            seq: peer.acked.min(recorded.head),
            epochs: Vec::new(),
            covered: Vec::new(),
            not_covered,
            except: recorded.except,
            peer_follows: peer.follows,
            took: begun.elapsed(),
        };
        for tree in self.shared.trees().iter() {
            if let Some(epoch) = heads.get(tree.id()).and_then(|t| t.head.lineage.head()) {
                report
                    .epochs
                    .push((tree.name.clone(), epoch.id.to_string()));
            }
            let named = |n: &NotCovered| n.tree.as_ref() == Some(&tree.name);
            if durable && !report.not_covered.iter().any(named) {
                report.covered.push(tree.name.clone());
            }
        }
        Ok(report)
    }

    /// Everything that was written before the call is recorded, or it is named.
    async fn recorded(&self) -> Result<Recorded, CommandError> {
        let only = None;
        self.shared
            .ask(|reply| Command::Barrier { only, reply })
            .await
    }

    /// What is said of a flush whose barrier did not end in time.
    async fn unrecorded(&self, left: Duration) -> Result<Recorded, CommandError> {
        let except = match self.exceptions(left.max(ASKING)).await {
            Err(CommandError::Timeout(..)) => vec![NotCovered {
                tree: None,
                why: "whether every path can be read is not known: this node is busy".into(),
            }],
            asked => asked?,
        };
        Ok(Recorded {
            except,
            ..Recorded::default()
        })
    }

    /// As [`Engine::flush`], and returns when every file that has grown was read whole on this node and compared with the
    /// peer's, or names those that were not.
    ///
    /// # Errors
    /// As there.
    pub async fn flush_verified(&self, timeout: Duration) -> Result<FlushReport, CommandError> {
        let begun = Instant::now();
        let _waits = Waits::begin(&self.shared);
        let mut report = self.flush(timeout).await?;
        let mut unverified = self.shared.unverified.subscribe();
        let ask = Command::Compared;
        self.shared
            .commands
            .send(ask)
            .await
            .map_err(|_| CommandError::Ended)?;
        let left = timeout.saturating_sub(begun.elapsed());
        let none = async { unverified.wait_for(|files| *files == 0).await.is_ok() };
        let verified = tokio::time::timeout(left, none).await;
        if verified != Ok(true) {
            let named = self.shared.ask(Command::Unverified).await?;
            report
                .covered
                .retain(|name| !named.iter().any(|n| n.tree.as_ref() == Some(name)));
            report.not_covered.extend(named);
        }
        report.took = begun.elapsed();
        Ok(report)
    }

    /// Planned move, step 2: sends until less than one batch is left, while this node still serves and writes, at most
    /// `within`. What it leaves is what the last flush behind the fence has to send.
    ///
    /// # Errors
    /// [`CommandError::NotSource`], [`CommandError::NoSession`], [`CommandError::Timeout`].
    pub async fn drain(&self, within: Duration) -> Result<(), CommandError> {
        let begun = Instant::now();
        loop {
            let left = within.saturating_sub(begun.elapsed());
            self.flush_all(left).await?;
            let recorded = self.recorded().await?;
            let acked = self.shared.peer.borrow().acked;
            if recorded.head.saturating_sub(acked) < MAX_RECORDS as u64 {
                return Ok(());
            }
        }
    }

    /// Planned move, step 3, behind the fence: everything that was written before the call is durable on the peer within
    /// `within`, or it is an error. Also what never rested: it is read once more now that nobody is to write it.
    ///
    /// # Errors
    /// As [`Engine::drain`], and [`CommandError::NeverRests`].
    pub async fn final_flush(&self, within: Duration) -> Result<FlushReport, CommandError> {
        let begun = Instant::now();
        loop {
            let restless = self.shared.ask(Command::ReadRestless).await?;
            let left = within.saturating_sub(begun.elapsed());
            let report = self.flush_all(left).await;
            match restless {
                None => return report,
                Some((tree, path)) if begun.elapsed() >= within => {
                    return Err(CommandError::NeverRests { tree, path, within });
                }
                // Whether it rests now, the next question tells.
                Some(_) => drop(report?),
            }
        }
    }

    /// Everything that was written before the call is durable on the peer, but for what never rests.
    async fn flush_all(&self, within: Duration) -> Result<FlushReport, CommandError> {
        let _lifted = self.shared.lift_limits();
        let report = self.flushed(within).await?;
        if report.covered.len() == self.shared.trees().len() {
            return Ok(report);
        }
        if !self.shared.peer.borrow().session {
            return Err(CommandError::NoSession);
        }
        let why: Vec<String> = report.not_covered.iter().map(|n| n.why.clone()).collect();
        Err(CommandError::Timeout(within, why.join("; ")))
    }
}

/// Somebody waits until no file is unverified: none is left to rest first.
struct Waits<'s>(&'s Shared);

impl<'s> Waits<'s> {
    fn begin(shared: &'s Shared) -> Self {
        shared.waiting_for_verified.fetch_add(1, Ordering::AcqRel);
        Waits(shared)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting_for_verified.fetch_sub(1, Ordering::AcqRel);
    }
}
