//! The commands that move the role, as the operator sees them: steps, and one end.

use super::Daemon;
use super::forward::Forwarded;
use super::status::millis;
use crate::api::server::{Lines, STREAM_QUEUE};
use crate::api::types::{ApiError, ErrorCode, Line, MoveEvent};
use std::sync::Arc;
use std::time::Duration;
use tandem_failover::input::Command;
use tandem_failover::role::{Phase, Role};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Longer than every bound of the role machine within one move: each step there has its own deadline.
const MOVE_BOUND: Duration = Duration::from_secs(120);

/// Some heartbeats at their longest usual interval.
const READY_WAIT: Duration = Duration::from_secs(2);

impl Daemon {
    /// Gives a command to the role machine and waits for its answer.
    pub async fn ask_machine(&self, command: Command) -> Result<String, ApiError> {
        self.ask_machine_within(command, MOVE_BOUND).await
    }

    /// The same with another bound.
    pub async fn ask_machine_within(
        &self,
        command: Command,
        within: Duration,
    ) -> Result<String, ApiError> {
        let Some((ticket, answer)) = self.tickets.issue() else {
            return Err(ApiError::new(
                ErrorCode::Busy,
                "too many commands are waiting",
            ));
        };
        self.tell(tandem_failover::input::Input::Operator { ticket, command })
            .await?;
        match tokio::time::timeout(within, answer).await {
            Ok(Ok(Ok(done))) => Ok(done),
            Ok(Ok(Err(why))) => Err(ApiError::new(ErrorCode::Refused, why)),
            Ok(Err(_)) => Err(ApiError::new(ErrorCode::Stopping, "the agent is stopping")),
            Err(_) => Err(ApiError::new(
                ErrorCode::Timeout,
                "the role machine did not answer",
            )),
        }
    }

    /// Gives a planned move to the role machine.
    pub async fn ask_move(&self, command: Command) -> Result<String, ApiError> {
        self.wait_for_standby().await;
        self.ask_machine(command).await
    }

    /// A standby that has just become ready says so with its next heartbeat: that is waited for, a moment, so that a move,
    /// or a stop that may begin with one, is not refused for what is over already. A silent one is not waited for. When
    /// the time is over the machine says why not.
    pub async fn wait_for_standby(&self) {
        let mut views = self.views();
        let ready = views.wait_for(|view| {
            let peer = view.peer.as_ref();
            view.role != Role::Master || peer.is_none_or(|p| !p.heard || p.eligible.is_ok())
        });
        let _ = tokio::time::timeout(READY_WAIT, ready).await;
    }

    /// `failback`: to the preferred node, asked of whoever is master.
    pub fn failback_lines(self: &Arc<Self>) -> Lines<MoveEvent> {
        self.move_lines(Command::Failback, Forwarded::Failback)
    }

    /// `switchover`: to the node that is not master.
    pub fn switchover_lines(self: &Arc<Self>) -> Lines<MoveEvent> {
        self.move_lines(Command::Switchover, Forwarded::Switchover)
    }

    fn move_lines(self: &Arc<Self>, here: Command, there: Forwarded) -> Lines<MoveEvent> {
        let daemon = self.clone();
        self.lines(async move {
            if daemon.view().role == Role::Master {
                daemon.ask_move(here).await
            } else {
                daemon.forwarded::<String>(there, MOVE_BOUND).await
            }
        })
    }

    /// `takeover --force`, on this node. The machine answers when the takeover begins; here it ends when this node serves,
    /// or does not.
    pub fn takeover_lines(self: &Arc<Self>) -> Lines<MoveEvent> {
        let daemon = self.clone();
        self.lines(async move {
            let mut views = daemon.views();
            let answer = daemon.ask_machine(Command::ForceTakeover).await?;
            let mut begun = false;
            let over = views.wait_for(|view| {
                let on_its_way = matches!(
                    view.phase,
                    Phase::Claiming | Phase::Preparing | Phase::Taking
                );
                begun |= on_its_way;
                view.phase == Phase::Master || (begun && !on_its_way)
            });
            let over = tokio::time::timeout(MOVE_BOUND, over).await;
            let phase = over.map(|view| view.map(|view| view.phase));
            match phase {
                Ok(Ok(Phase::Master)) => Ok(answer),
                Ok(Ok(phase)) => Err(ApiError::new(
                    ErrorCode::Refused,
                    format!("the takeover was given up, this node is {phase}: see `tandem status`"),
                )),
                Ok(Err(_)) => Err(ApiError::new(ErrorCode::Stopping, "the agent is stopping")),
                Err(_) => Err(ApiError::new(
                    ErrorCode::Timeout,
                    "the takeover has not ended: see `tandem status`",
                )),
            }
        })
    }

    /// Runs `work` and tells every phase that this node passes meanwhile. The work goes on when nobody listens:
    /// a move that was begun is finished.
    fn lines(
        self: &Arc<Self>,
        work: impl Future<Output = Result<String, ApiError>> + Send + 'static,
    ) -> Lines<MoveEvent> {
        let (sender, lines) = mpsc::channel(STREAM_QUEUE);
        let daemon = self.clone();
        let begun = Instant::now();
        tokio::spawn(async move {
            let mut views = daemon.views();
            let (mut last, term) = {
                let view = views.borrow_and_update();
                (view.phase, view.term)
            };
            tokio::pin!(work);
            let outcome = loop {
                tokio::select! {
                    outcome = &mut work => break outcome,
                    changed = views.changed() => {
                        if changed.is_err() {
                            break Err(ApiError::new(ErrorCode::Stopping, "the agent is stopping"));
                        }
                        let phase = views.borrow_and_update().phase;
                        if phase != last {
                            last = phase;
                            let _ = sender.try_send(Line::Event(step(phase, begun)));
                        }
                    }
                }
            };
            let end = daemon.end_of_move(outcome, begun, term).await;
            // The operator may have left.
            let _ = sender.send(end).await;
        });
        lines
    }

    async fn end_of_move(
        &self,
        outcome: Result<String, ApiError>,
        begun: Instant,
        term_before: u64,
    ) -> Line<MoveEvent> {
        match outcome {
            Ok(_) => {
                let view = self.view();
                let config = self.config();
                let node = |mine: bool| {
                    let index = if mine { self.own } else { 1 - self.own };
                    config.config.nodes[index].name.clone()
                };
                Line::Event(MoveEvent::Done {
                    master: node(view.role == Role::Master),
                    term: view.term,
                    took_ms: millis(begun.elapsed()),
                    moved: view.term != term_before,
                })
            }
            Err(error) if error.code == ErrorCode::Refused => Line::Event(MoveEvent::GivenUp {
                reason: error.message,
            }),
            Err(error) => Line::Error(error),
        }
    }
}

fn step(phase: Phase, begun: Instant) -> MoveEvent {
    let text = match phase {
        Phase::Joining => "not agreed who is master",
        Phase::Claiming => "makes the new term durable",
        Phase::Releasing => "releases addresses and services",
        Phase::Standby => "follows",
        Phase::Preparing => "stops applying",
        Phase::Taking => "begins its epoch and takes the addresses",
        Phase::Master => "serves",
        Phase::Ceding => "drains the queue and fences the addresses",
        Phase::Ceded => "gave the role away; waits for the other node to announce it",
        Phase::Stopping => "stops",
    };
    MoveEvent::Step {
        step: phase.to_string(),
        text: text.to_owned(),
        at_ms: millis(begun.elapsed()),
    }
}
