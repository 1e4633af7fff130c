//! The data half at the role machine's command: which direction it works in, and the session that goes with it.

use super::feeds::Feeds;
use crate::link::{DataStream, Link};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tandem_failover::effect::DataCommand;
use tandem_failover::input::DataReport;
use tandem_failover::view::{PeerIdentity, View};
use tandem_sync::engine::{CommandError, Engine, SessionEnd, SessionError};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Shortest and longest pause before a data session is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// A link that was silent for so long had failed; some lost heartbeats are shorter.
const SILENT: Duration = Duration::from_secs(1);

/// How long a session must have lasted for the next one to be tried without a pause.
const SETTLED: Duration = Duration::from_secs(5);

/// Carries out the machine's data commands. Clones share everything.
#[derive(Clone)]
pub struct DataHalf {
    engine: Engine,
    link: Arc<Link>,
    feeds: Feeds,
    /// Ends the sessions of the current direction.
    direction: Arc<Mutex<CancellationToken>>,
    /// Something changed for which it is worth dialing again at once.
    wake: Arc<Notify>,
    /// The role machine's view, for the peer's identity.
    views: watch::Receiver<View>,
}

/// Whether data may go between the two: not with a copy, nor with a rolled-back one (R6).
pub fn trusted(view: &View) -> bool {
    view.trouble.identity == PeerIdentity::Same && !view.trouble.own_key_elsewhere
}

impl DataHalf {
    /// Nothing is begun by this.
    pub fn new(
        engine: Engine,
        link: Arc<Link>,
        feeds: Feeds,
        views: watch::Receiver<View>,
    ) -> Self {
        Self {
            engine,
            link,
            feeds,
            direction: Arc::default(),
            wake: Arc::default(),
            views,
        }
    }

    /// The peer is there, or something else changed: dial now instead of later.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// The replicas.
    pub fn feeds(&self) -> &Feeds {
        &self.feeds
    }

    /// Carries out one command. Not cancel safe: the engine finishes what was begun, the session may be missing.
    pub async fn carry_out(&self, command: DataCommand) -> Result<DataReport, String> {
        let engine = &self.engine;
        let text = |e: CommandError| e.to_string();
        match command {
            DataCommand::EndHold { within } => engine.end_hold(within).await.map_err(text)?,
            DataCommand::RevokeApply { within } => {
                // What an agent that died during a hold left in its spool comes before the address. Nothing is there
                // otherwise; what takes longer is applied before this node's first write.
                if let Err(error) = engine.end_hold(within / 2).await {
                    tracing::warn!(error = %error, "the spool is not applied yet");
                }
                let engine = engine.clone();
                let report = tokio::task::spawn_blocking(move || engine.revoke(within))
                    .await
                    .map_err(|e| e.to_string())?;
                self.turn();
                if !report.clean {
                    return Err(format!("the apply in flight did not end within {within:?}"));
                }
            }
            DataCommand::BeginSource { term } => {
                let cancel = self.turn();
                engine.begin_source(term).await.map_err(text)?;
                tokio::spawn(self.feeds.clone().feed(cancel.clone()));
                tokio::spawn(self.clone().keep_sending(cancel));
            }
            DataCommand::BeginReplica => {
                self.turn();
                engine.begin_replica().await.map_err(text)?;
            }
            DataCommand::Idle => {
                self.turn();
                engine.idle().await.map_err(text)?;
            }
            DataCommand::Drain { within } => {
                engine.drain(within).await.map_err(text)?;
            }
            DataCommand::FinalFlush { within } => {
                let report = engine.final_flush(within).await.map_err(text)?;
                return Ok(DataReport {
                    seq: report.seq,
                    ..self.report()
                });
            }
            DataCommand::BearFirstEpoch => {
                engine.init_source().await.map_err(text)?;
            }
        }
        Ok(self.report())
    }

    /// Ends the session. For the end of the agent.
    pub fn stop(&self) {
        self.turn().cancel();
    }

    /// A data stream that the peer opened: this node receives, if the engine agrees.
    pub async fn receive(self, stream: DataStream) {
        let cancel = self.current();
        if !trusted(&self.views.borrow()) {
            tracing::warn!("data session refused: the peer's identity is in doubt");
            return;
        }
        let result = tokio::select! {
            result = self.engine.run_replica_session(stream, cancel) => result,
            () = self.doubted() => {
                tracing::warn!("data session ended: the peer's identity is in doubt");
                return;
            }
        };
        log_end("receive", &result);
    }

    /// Returns when the peer's identity is in doubt.
    async fn doubted(&self) {
        let mut views = self.views.clone();
        if views.wait_for(|view| !trusted(view)).await.is_err() {
            // The agent ends, and its sessions with it.
            std::future::pending::<()>().await;
        }
    }

    /// Returns when it is not in doubt, or the agent ends.
    async fn believed(&self) {
        let mut views = self.views.clone();
        // An error is the end of the agent.
        let _ = views.wait_for(trusted).await;
    }

    fn report(&self) -> DataReport {
        let status = self.engine.status();
        DataReport {
            epochs_digest: status.epochs_digest,
            seq: status.seq,
        }
    }

    fn current(&self) -> CancellationToken {
        self.direction
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Ends the sessions of the old direction and gives the token of the new one.
    fn turn(&self) -> CancellationToken {
        let mut direction = self
            .direction
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        direction.cancel();
        *direction = CancellationToken::new();
        direction.clone()
    }

    /// Keeps one source session with the peer until the direction changes.
    async fn keep_sending(self, cancel: CancellationToken) {
        tokio::select! {
            () = self.send_on(&cancel) => {}
            () = self.wake_by_links() => {}
        }
    }

    /// A link that is heard again is worth a dial at once. Never returns.
    async fn wake_by_links(&self) {
        let mut views = self.views.clone();
        let heard = |view: &View| -> Vec<_> { view.links.iter().map(|l| l.last_heard).collect() };
        let mut before = heard(&views.borrow_and_update());
        while views.changed().await.is_ok() {
            let now = heard(&views.borrow_and_update());
            let back = now.iter().zip(&before).any(|(now, before)| {
                let gap = now
                    .zip(*before)
                    .map(|(n, b)| n.saturating_duration_since(b));
                gap.is_some_and(|gap| gap >= SILENT)
            });
            if back {
                self.wake();
            }
            before = now;
        }
        std::future::pending().await
    }

    async fn send_on(&self, cancel: &CancellationToken) {
        let mut pause = RETRY.0;
        while !cancel.is_cancelled() {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.believed() => {}
            }
            let begun = tokio::time::Instant::now();
            tokio::select! {
                () = self.send_once(cancel) => {}
                () = self.doubted() => {
                    tracing::warn!("data session ended: the peer's identity is in doubt");
                }
            }
            pause = next_pause(pause, begun.elapsed());
            tokio::select! {
                () = cancel.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
                () = self.wake.notified() => pause = RETRY.0,
            }
        }
    }
}

impl DataHalf {
    /// One session, or an attempt at one.
    async fn send_once(&self, cancel: &CancellationToken) {
        match self.link.dial_data(cancel).await {
            Ok(stream) => {
                let cancel = cancel.clone();
                let gauge = Some(stream.gauge());
                let sent = self.engine.run_source_session(stream, gauge, cancel);
                let result = sent.await;
                log_end("send", &result);
            }
            Err(error) => tracing::debug!(error = %error, "no data session"),
        }
    }
}

/// The pause after a session, or an attempt at one, that lasted for `lasted`, when the one before it was `pause`.
pub(super) fn next_pause(pause: Duration, lasted: Duration) -> Duration {
    match lasted > SETTLED {
        true => RETRY.0,
        false => (pause * 2).clamp(RETRY.0, RETRY.1),
    }
}

pub(super) fn log_end(direction: &'static str, result: &Result<SessionEnd, SessionError>) {
    match result {
        Ok(SessionEnd::Cancelled | SessionEnd::RoleChanged) => {
            tracing::debug!(direction, "data session ended with the role");
        }
        Ok(SessionEnd::PeerClosed) => tracing::info!(direction, "data session closed by the peer"),
        Ok(SessionEnd::Refused { why, retry }) => {
            tracing::warn!(direction, why, retry, "data session refused by the peer");
        }
        // Both ends learn of a change of role, one after the other: until then one of them turns the other away.
        Err(error @ SessionError::Role(_)) => {
            tracing::debug!(direction, error = %error, "data session ended");
        }
        Err(error) => tracing::info!(direction, error = %error, "data session ended"),
    }
}
