//! What an operator asks for. Each command is answered exactly once.

use super::Machine;
use super::state::{Cause, MoveCause, State};
use crate::effect::{NoticeKind, Ticket};
use crate::input::Command;
use crate::slots::Maintenance;
use crate::time::spoken;
use crate::timer::Timer;
use crate::view::PeerIdentity;
use std::time::Duration;

impl Machine {
    pub(super) fn command(&mut self, ticket: Ticket, command: Command) {
        match command {
            Command::Switchover => self.switchover(ticket),
            Command::Failback => self.failback(ticket),
            Command::ForceTakeover => self.force_takeover(ticket),
            Command::Initialised => {
                self.record(
                    self.phase(),
                    "an operator declared this node the first source".into(),
                );
                let text = "this node is the source; it becomes master when the peer agrees";
                self.answer(Some(ticket), Ok(text.into()));
            }
            Command::AcceptPeer => self.accept_peer(ticket),
            Command::MaintenanceOn(lasting) => {
                self.maintenance(ticket, Some(Maintenance { lasting }))
            }
            Command::MaintenanceOff => self.maintenance(ticket, None),
            Command::Stop => self.stop(ticket),
        }
    }

    /// Ends the wait of the operator who asked for a move.
    pub(super) fn answer_asker(&mut self, result: Result<String, String>) {
        let asker = self.asker.take();
        self.answer(asker, result);
    }

    fn switchover(&mut self, ticket: Ticket) {
        let refusal = match &self.state {
            State::Master(_) => self.move_obstacle(MoveCause::Operator),
            State::Ceding(_) | State::Ceded(_) => Some("a move is already under way".into()),
            State::Taking(_) | State::Claiming(_) => {
                Some("this node is just becoming master".into())
            }
            State::Joining(_) | State::Follow(_) | State::Stopping(_) => {
                Some("this node is not master".into())
            }
        };
        if let Some(why) = refusal {
            self.record(self.phase(), format!("a planned move is refused: {why}"));
            self.answer(Some(ticket), Err(why));
            return;
        }
        self.asker = Some(ticket);
        self.cede(MoveCause::Operator);
    }

    fn failback(&mut self, ticket: Ticket) {
        if !self.policy.preferred {
            self.switchover(ticket);
        } else if Self::acts(self.phase()) {
            self.answer(
                Some(ticket),
                Ok("the preferred node is master already".into()),
            );
        } else {
            self.answer(Some(ticket), Err("this node is not master".into()));
        }
    }

    fn force_takeover(&mut self, ticket: Ticket) {
        if self.serve_without_epoch() {
            let text = "this node serves before its new epoch is durable";
            self.answer(Some(ticket), Ok(text.into()));
            return;
        }
        let refusal = match &self.state {
            State::Joining(_) | State::Follow(_) | State::Ceded(_) => None,
            State::Master(_) => Some("this node is master already"),
            State::Claiming(_) | State::Taking(_) => Some("this node is just becoming master"),
            State::Ceding(_) => Some("a planned move is under way"),
            State::Stopping(_) => Some("the agent is stopping"),
        };
        let unborn = self.known.facts.as_ref().is_none_or(|facts| !facts.born);
        let refusal = refusal.or(unborn.then_some(
            "this node has no data that were declared a source; run `tandem init --source`",
        ));
        if let Some(why) = refusal {
            self.answer(Some(ticket), Err(why.into()));
            return;
        }
        self.answer_asker(Err("an operator forces a takeover instead".into()));
        self.claim(Cause::Forced, 0);
        let text = format!(
            "this node becomes master with term {}",
            self.durable.term_used
        );
        self.answer(Some(ticket), Ok(text));
    }

    /// R6: the remedy. What the peer shows from now on counts.
    fn accept_peer(&mut self, ticket: Ticket) {
        let before = self.durable.identity;
        self.durable.identity = PeerIdentity::Same;
        self.own_key_elsewhere = false;
        self.durable.peer = None;
        self.peer.accept();
        self.record(
            self.phase(),
            "an operator accepted the peer as it is now".into(),
        );
        let text = match before {
            PeerIdentity::Same => {
                "the peer was accepted already; what was remembered of it is forgotten"
            }
            PeerIdentity::Regressed => "the peer is accepted as it is now",
            PeerIdentity::Cloned => {
                "the peer is accepted; if the copy still runs, it is noticed again"
            }
        };
        self.answer(Some(ticket), Ok(text.into()));
    }

    fn maintenance(&mut self, ticket: Ticket, maintenance: Option<Maintenance>) {
        self.durable.maintenance = maintenance;
        self.maintenance_until = maintenance
            .and_then(|m| m.lasting)
            .map(|lasting| self.now + lasting);
        match self.maintenance_until {
            Some(until) => self.timers.set(Timer::Maintenance, until),
            None => self.timers.stop(Timer::Maintenance),
        }
        let text = match maintenance {
            Some(Maintenance {
                lasting: Some(lasting),
            }) => {
                format!(
                    "maintenance is on for {}: no automatic moves",
                    spoken(lasting)
                )
            }
            Some(Maintenance { lasting: None }) => "maintenance is on: no automatic moves".into(),
            None => "maintenance is off".into(),
        };
        self.record(self.phase(), text.clone());
        self.answer(Some(ticket), Ok(text));
        self.beat_now();
    }

    pub(super) fn maintenance_over(&mut self) {
        self.durable.maintenance = None;
        self.maintenance_until = None;
        self.record(self.phase(), "the time of the maintenance is over".into());
    }

    fn stop(&mut self, ticket: Ticket) {
        if self.stop_wanted {
            self.stop_again(ticket);
            return;
        }
        self.stop_wanted = true;
        self.stopper = Some(ticket);
        self.timers
            .set(Timer::Stop, self.now + self.policy.stop_bound());
        match &self.state {
            // A move that is under way ends first; its end is the stop.
            State::Ceding(_) => {
                if let State::Ceding(ceding) = &mut self.state {
                    ceding.cause = MoveCause::Stop;
                }
            }
            State::Master(_) if self.durable.maintenance.is_none() => {
                match self.move_obstacle(MoveCause::Stop) {
                    None => self.cede(MoveCause::Stop),
                    Some(why) => {
                        let text = format!("the agent stops without handing over: {why}");
                        self.record(self.phase(), text.clone());
                        self.notify(NoticeKind::MoveFailed, text);
                        self.stop_now();
                    }
                }
            }
            State::Ceded(_) => self.stop_soon(),
            _ => self.stop_now(),
        }
    }

    /// The role was given away. The peer's announcement is worth a wait, and no longer one than the move itself was.
    pub(super) fn stop_soon(&mut self) {
        self.timers.set(
            Timer::Stop,
            self.now + self.policy.move_timeout.max(Duration::from_secs(1)),
        );
    }

    /// Whoever asks twice does not want to wait for a hand-over. The addresses go all the same, and a role that was
    /// given away durably stays given away.
    fn stop_again(&mut self, ticket: Ticket) {
        let text = match &self.state {
            State::Ceding(ceding) if ceding.step.has_way_back() => {
                self.give_up("the agent was asked again to stop");
                "the hand-over is given up, the addresses are released"
            }
            State::Ceded(_) => {
                self.stop_now();
                "the role is given away; that the other node takes it is not waited for"
            }
            _ => {
                self.answer(Some(ticket), Err("the agent is stopping already".into()));
                return;
            }
        };
        self.answer(Some(ticket), Ok(text.into()));
    }
}
