//! The planned move: of the master up to the last point of return and beyond, and of the node that adopts.

use super::Machine;
use super::evidence::Verdict;
use super::state::{
    Cause, CedeStep, CededState, Ceding, Epoch, Master, MoveCause, State, Suspicion,
};
use crate::effect::{DataCommand, NoticeKind, ServiceCommand, Ticket};
use crate::health::Health;
use crate::heartbeat::{Body, Ceded};
use crate::input::DataReport;
use crate::role::{Phase, Reason};
use crate::timer::Timer;
use crate::view::PeerIdentity;
use std::time::Duration;

/// A role that was given away and is not taken within this time raises an alarm.
const NOT_TAKEN: Duration = Duration::from_secs(5);

impl Machine {
    /// Step 0: what stands against a planned move, in words.
    pub(super) fn move_obstacle(&self, cause: MoveCause) -> Option<String> {
        let State::Master(master) = &self.state else {
            return Some("it is not master".into());
        };
        let Some(peer) = self.peer.body().filter(|_| self.both_hear()) else {
            return Some("the standby is not heard".into());
        };
        let facts = self.known.facts.as_ref();
        let lag = facts.and_then(|facts| facts.lag).unwrap_or_default();
        // Maintenance stops automatic moves only, and is the last reason: alone when it is the first.
        let manual = matches!(cause, MoveCause::Operator | MoveCause::Stop);
        let against = peer
            .against
            .filter(|reason| !(manual && *reason == Reason::Maintenance));
        let obstacles = [
            (
                self.durable.identity != PeerIdentity::Same,
                "the peer is not the one that was known",
            ),
            (
                peer.config_matters != self.policy.config_matters,
                "the two configurations differ",
            ),
            (
                peer.phase != Phase::Standby,
                "the peer is not a standby (yet)",
            ),
            (
                peer.network == Health::Bad,
                "the peer's public network fails",
            ),
            (
                peer.hold || self.known.hold,
                "applying is paused by `tandem hold`",
            ),
            (
                facts.is_none_or(|facts| !facts.born || !facts.consistent),
                "the data is not consistent",
            ),
            (
                lag > self.policy.move_lag,
                "the standby lags too far behind",
            ),
            (master.recheck.is_some(), "this node has just been away"),
            (master.epoch.is_some(), "the new epoch is not durable yet"),
            (
                master.starting.is_some() && manual,
                "the services are still starting",
            ),
        ];
        if let Some(reason) = against {
            return Some(format!("the standby could not take over: {reason}"));
        }
        obstacles
            .iter()
            .find(|(stands, _)| *stands)
            .map(|(_, why)| (*why).to_owned())
    }

    /// Step 1: the move begins. The obstacles were looked at.
    pub(super) fn cede(&mut self, cause: MoveCause) {
        let State::Master(master) = &self.state else {
            return;
        };
        let master = Master {
            contest: None,
            starting: None,
            ..master.clone()
        };
        self.frozen = true;
        let ticket = self.services(ServiceCommand::Freeze);
        let until = self.now + self.policy.move_timeout;
        let step = CedeStep::Freeze(ticket);
        let why = format!("the role is handed over: {cause}");
        self.enter(
            State::Ceding(Ceding {
                cause,
                step,
                until,
                master,
            }),
            why,
        );
        self.timers.set(Timer::Step, until);
        self.refresh_due();
    }

    fn cede_step(&mut self, step: CedeStep) {
        if let State::Ceding(ceding) = &mut self.state {
            ceding.step = step;
        }
    }

    fn within(&self) -> Duration {
        match &self.state {
            State::Ceding(ceding) => ceding.until.saturating_duration_since(self.now),
            _ => Duration::ZERO,
        }
    }

    pub(super) fn ceding_services_done(&mut self, ticket: Ticket, result: Result<(), String>) {
        if !matches!(&self.state, State::Ceding(c) if c.step == CedeStep::Freeze(ticket)) {
            return;
        }
        if let Err(error) = result {
            self.give_up(&format!("the freeze hook failed: {error}"));
            return;
        }
        let within = self.within();
        let ticket = self.data(DataCommand::Drain { within });
        self.cede_step(CedeStep::Drain(ticket));
    }

    pub(super) fn ceding_data_done(&mut self, ticket: Ticket, result: Result<DataReport, String>) {
        let State::Ceding(ceding) = &self.state else {
            return;
        };
        match (ceding.step, result) {
            (CedeStep::Drain(expected), Ok(_)) if expected == ticket => {
                let ticket = self.fence();
                self.cede_step(CedeStep::Fence(ticket));
            }
            (CedeStep::Flush(expected), Ok(report)) if expected == ticket => self.cross(report),
            (CedeStep::Drain(expected) | CedeStep::Flush(expected), Err(error))
                if expected == ticket =>
            {
                self.give_up(&format!(
                    "the standby could not be brought up to date: {error}"
                ));
            }
            _ => {}
        }
    }

    pub(super) fn ceding_fence_done(&mut self, ticket: Ticket, result: Result<(), String>) {
        if !matches!(&self.state, State::Ceding(c) if c.step == CedeStep::Fence(ticket)) {
            return;
        }
        if let Err(error) = result {
            self.give_up(&format!("the floating addresses cannot be fenced: {error}"));
            return;
        }
        let within = self.within();
        let ticket = self.data(DataCommand::FinalFlush { within });
        self.cede_step(CedeStep::Flush(ticket));
    }

    /// Step 4: everything is on the other side. The record decides.
    fn cross(&mut self, report: DataReport) {
        let ceded = Ceded {
            term: self.highest_term().saturating_add(1),
            to: self.policy.peer,
            epochs_digest: report.epochs_digest,
            seq: report.seq,
        };
        self.durable.ceded = Some(ceded);
        self.durable.was_master = false;
        self.durable.solo = false;
        self.cede_step(CedeStep::Record(ceded));
        self.timers
            .set(Timer::Step, self.now + self.policy.move_timeout);
        self.record(
            Phase::Ceding,
            format!(
                "the record that gives the role away with term {} is written",
                ceded.term
            ),
        );
    }

    /// Before the last point of return: everything as it was.
    pub(super) fn give_up(&mut self, why: &str) {
        let State::Ceding(ceding) = &self.state else {
            return;
        };
        let (cause, mut master) = (ceding.cause, ceding.master.clone());
        self.thaw();
        let text = format!("the move is given up: {why}");
        if cause == MoveCause::Stop {
            // Nobody is answered again in between: behind the fence the addresses go.
            self.record(Phase::Ceding, text.clone());
            self.notify(NoticeKind::MoveFailed, text);
            self.stop_now();
            return;
        }
        if self.fenced {
            self.unfence();
        }
        if matches!(master.epoch, Some(Epoch::Asked(_))) {
            master.epoch = Some(Epoch::Again);
        }
        master.settled = self.now + self.policy.settle;
        self.enter(State::Master(master), text.clone());
        self.refresh_due();
        self.timers
            .set(Timer::Solo, self.now + self.policy.solo_after());
        self.announce(1);
        self.announce_later();
        self.notify(NoticeKind::MoveFailed, text.clone());
        self.answer_asker(Err(text));
    }

    fn thaw(&mut self) {
        if std::mem::take(&mut self.frozen) {
            self.services(ServiceCommand::Thaw);
        }
    }

    /// The move's time is over.
    pub(super) fn ceding_late(&mut self) {
        let State::Ceding(ceding) = &self.state else {
            return;
        };
        match ceding.step {
            CedeStep::Record(_) => {
                // The record may be durable or not. It was never spoken of: its opposite takes it back.
                Self::no_longer_master(&mut self.durable);
                self.durable.was_master = true;
                self.cede_step(CedeStep::Unrecord);
                let why = "the record could not be written in time: it is taken back";
                self.record(Phase::Ceding, why.into());
            }
            CedeStep::Unrecord => {}
            CedeStep::Freeze(_) | CedeStep::Drain(_) | CedeStep::Fence(_) | CedeStep::Flush(_) => {
                self.give_up("it took too long");
                return;
            }
        }
        self.write_late();
    }

    pub(super) fn ceding_away(&mut self) {
        if matches!(&self.state, State::Ceding(c) if c.step.has_way_back()) {
            self.give_up("this node was away");
            if matches!(self.state, State::Master(_)) {
                self.recheck();
            }
        }
    }

    pub(super) fn advance_ceding(&mut self) {
        let State::Ceding(ceding) = &self.state else {
            return;
        };
        match ceding.step {
            CedeStep::Record(ceded) if self.written.ceded == Some(ceded) => self.ceded(ceded),
            CedeStep::Unrecord if self.is_written() => {
                self.give_up("the record could not be written in time");
            }
            CedeStep::Record(_) | CedeStep::Unrecord => {}
            CedeStep::Freeze(_) | CedeStep::Drain(_) | CedeStep::Fence(_) | CedeStep::Flush(_) => {
                if !self.peer_heard() {
                    self.give_up("the standby is not heard any more");
                }
            }
        }
    }

    /// The last point of return is passed: this node neither serves nor writes.
    fn ceded(&mut self, ceded: Ceded) {
        self.data(DataCommand::Idle);
        let fresh_until = self.now + self.policy.max_stale;
        let state = CededState {
            ceded,
            fresh_until,
            told: false,
        };
        self.enter(
            State::Ceded(state),
            format!("the role is given to the peer with term {}", ceded.term),
        );
        self.step_within(NOT_TAKEN);
        if self.stop_wanted {
            self.stop_soon();
        }
    }

    pub(super) fn ceded_late(&mut self) {
        let State::Ceded(state) = &mut self.state else {
            return;
        };
        if !std::mem::replace(&mut state.told, true) {
            let text = "the peer does not take the role that was given to it";
            self.record(Phase::Ceded, text.into());
            self.notify(NoticeKind::Trouble, text);
            self.answer_asker(Err(format!("{text}; it still may")));
        }
    }

    /// Step 6, or the way back by a new term.
    pub(super) fn advance_ceded(&mut self) {
        let State::Ceded(state) = self.state else {
            return;
        };
        let Some(peer) = self.peer.body().cloned() else {
            return;
        };
        // A lower term than the ceded one: it took over by itself while the record was being written.
        if peer.term > self.durable.term_used && Self::acts(peer.phase) && peer.holding {
            let asker = self.asker.take();
            let text = format!("the peer is master with term {}", peer.term);
            self.notify(NoticeKind::Moved, text.clone());
            self.answer(asker, Ok(text.clone()));
            self.follow(text);
        } else if self.peer_heard() {
            // A peer that was restarted meanwhile claims by agreement, or grants the role back.
            self.agree();
        } else if let Suspicion::Answered(verdict, _) = self.suspicion
            && verdict == Verdict::Dead
            && self.against_takeover().is_empty()
        {
            self.claim(Cause::Returned, state.ceded.term + 1);
        }
    }

    /// Step 5: the peer ceded to this node. Answers whether that decides what is to be done now.
    pub(super) fn adopt(&mut self, peer: &Body) -> bool {
        let Some(ceded) = peer.ceded.filter(|ceded| ceded.to == self.policy.own) else {
            return false;
        };
        let outdated = ceded.term <= self.durable.term_used || ceded.term < self.term();
        if outdated || self.bond.grant.is_some() || self.bond.withdrawn.is_some() {
            return false;
        }
        if self.durable.identity != PeerIdentity::Same || self.own_key_elsewhere {
            return false;
        }
        let has_all = self.known.facts.as_ref().is_some_and(|facts| {
            let same = facts.epochs_digest == ceded.epochs_digest && facts.seq >= ceded.seq;
            same && facts.born && facts.consistent
        });
        if has_all {
            self.claim(Cause::Moved, ceded.term);
            return true;
        }
        self.doubt_ceded()
    }
}
