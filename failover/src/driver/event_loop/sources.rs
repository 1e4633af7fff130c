//! Everything that can wake the loop.

use crate::clock;
use crate::driver::Setup;
use crate::driver::outbox::Outbox;
use crate::input::Input;
use crate::probe::monitor::{Board, Summary, summary};
use crate::time::Instant;
use std::collections::BTreeMap;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// The loop's ends of its queues. A queue whose other end has died wakes nobody; only the agent's end is missed.
pub(super) struct Sources {
    pub(super) beats: mpsc::Receiver<(Instant, Input)>,
    pub(super) results: mpsc::Receiver<Input>,
    pub(super) inputs: mpsc::Receiver<Input>,
    pub(super) reloads: mpsc::Receiver<Setup>,
    pub(super) carriers: watch::Receiver<BTreeMap<String, bool>>,
    pub(super) board: watch::Receiver<Board>,
    pub(super) stop: CancellationToken,
}

/// Why the loop woke up.
pub(super) enum Wake {
    /// Something came on a link, at this time.
    Heartbeat(Instant, Input),
    /// From the agent, or a result.
    Input(Input),
    Reload(Box<Setup>),
    /// Carrier or monitors changed.
    Surroundings,
    /// The time has come.
    Time,
    /// Something that waited was handed over to the agent.
    Delivered,
    /// The agent wants the end, or is gone.
    End,
}

impl Sources {
    /// Waits for the next thing to do, at most until `wake_at`. Cancel safe.
    pub(super) async fn next(&mut self, outbox: &mut Outbox, wake_at: Instant) -> Wake {
        let sleep = wake_at.saturating_duration_since(clock::now());
        tokio::select! {
            Some((at, input)) = self.beats.recv() => Wake::Heartbeat(at, input),
            Some(input) = self.results.recv() => Wake::Input(input),
            input = self.inputs.recv() => input.map_or(Wake::End, Wake::Input),
            Some(setup) = self.reloads.recv() => Wake::Reload(Box::new(setup)),
            Ok(()) = self.carriers.changed() => Wake::Surroundings,
            Ok(()) = self.board.changed() => Wake::Surroundings,
            () = self.stop.cancelled() => Wake::End,
            () = outbox.deliver() => Wake::Delivered,
            () = tokio::time::sleep(sleep) => Wake::Time,
        }
    }

    /// What the monitors and the devices show now.
    pub(super) fn surroundings(&mut self) -> (Summary, BTreeMap<String, bool>) {
        let monitors = {
            let board = self.board.borrow_and_update();
            summary(&board.states, board.vantage)
        };
        (monitors, self.carriers.borrow_and_update().clone())
    }
}
