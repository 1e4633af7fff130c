//! How the machine speaks: tickets, notices, decisions, and the change of state.

use super::Machine;
use super::state::{State, Suspicion};
use crate::effect::{
    DataCommand, Decision, Effect, Inputs, Notice, NoticeKind, ServiceCommand, Ticket,
};
use crate::role::{Phase, Role};
use crate::slots::Durable;
use crate::time::Instant;
use crate::timer::Timer;
use std::time::Duration;

impl Machine {
    pub(super) fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    pub(super) fn emit(&mut self, effect: Effect) {
        self.out.push(effect);
    }

    pub(super) fn data(&mut self, command: DataCommand) -> Ticket {
        let ticket = self.ticket();
        self.emit(Effect::Data { ticket, command });
        ticket
    }

    pub(super) fn services(&mut self, command: ServiceCommand) -> Ticket {
        let ticket = self.ticket();
        self.emit(Effect::Services { ticket, command });
        ticket
    }

    pub(super) fn announce(&mut self, times: u8) {
        if self.holding && !self.fenced {
            self.emit(Effect::Announce {
                times,
                every: self.policy.announce_every,
            });
        }
    }

    pub(super) fn fence(&mut self) -> Ticket {
        let ticket = self.ticket();
        self.fenced = true;
        self.unfencing = None;
        self.emit(Effect::Fence { ticket });
        ticket
    }

    pub(super) fn unfence(&mut self) -> Ticket {
        let ticket = self.ticket();
        self.fenced = false;
        self.unfencing = Some(ticket);
        self.emit(Effect::Unfence { ticket });
        ticket
    }

    pub(super) fn notify(&mut self, kind: NoticeKind, text: impl Into<String>) {
        let (role, term) = (self.role(), self.term());
        self.emit(Effect::Notify(Notice {
            kind,
            text: text.into(),
            role,
            term,
        }));
    }

    pub(super) fn answer(&mut self, ticket: Option<Ticket>, result: Result<String, String>) {
        if let Some(ticket) = ticket {
            self.emit(Effect::Answer { ticket, result });
        }
    }

    /// Deadline of the present step.
    pub(super) fn step_within(&mut self, bound: Duration) {
        self.timers.set(Timer::Step, self.now + bound);
    }

    pub(super) fn retry_in(&mut self, distance: Duration) {
        self.timers.set(Timer::Retry, self.now + distance);
    }

    /// A heartbeat goes out with this input: the peer learns of a change at once.
    pub(super) fn beat_now(&mut self) {
        self.timers.set(Timer::Heartbeat, self.now);
    }

    /// Changes the state; records the decision with what was known.
    pub(super) fn enter(&mut self, state: State, why: impl Into<String>) {
        let from = self.phase();
        for timer in [
            Timer::Step,
            Timer::Retry,
            Timer::BootWait,
            Timer::Contest,
            Timer::Refresh,
            Timer::Announce,
            Timer::Recheck,
        ] {
            self.timers.stop(timer);
        }
        self.state = state;
        self.since = self.now;
        self.waiting.clear();
        self.refused = None;
        // Another state asks again, for its own reasons.
        self.suspicion = Suspicion::Calm;
        self.asked = None;
        self.timers.stop(Timer::Probe);
        self.set_silence_timer();
        self.record(from, why.into());
        self.beat_now();
    }

    pub(super) fn record(&mut self, from: Phase, why: String) {
        self.last_decision = Some(why.clone());
        let decision = Decision {
            at: self.now,
            from,
            to: self.phase(),
            term: self.term(),
            why,
            inputs: Inputs {
                silence: self.silence(),
                probes: self.known.probes,
                own_network: self.known.own_network,
                own_services: self.known.own_services,
                peer_services: self.known.peer_services,
                peer: self.peer.body().map(|body| (body.phase, body.term)),
                data: self.known.facts.clone(),
                against: self.against_takeover(),
            },
        };
        self.emit(Effect::Record(Box::new(decision)));
    }

    /// The term in force as far as this node knows: the one that it acts with, else used here or heard of.
    pub fn term(&self) -> u64 {
        if Self::acts(self.phase()) {
            return self.durable.term_used;
        }
        self.durable.term_used.max(self.durable.term_seen)
    }

    /// Highest term that may have been used by either node.
    pub(super) fn highest_term(&self) -> u64 {
        let peers = self
            .peer
            .body()
            .map_or(0, |body| body.term_seen.max(body.term));
        self.durable.highest_term().max(peers)
    }

    /// How long the peer has been silent on every link, not counting the time that this node was away.
    pub(super) fn silence(&self) -> Option<Duration> {
        let heard = self.peer.heard()?;
        Some(
            self.now
                .saturating_duration_since(heard)
                .saturating_sub(self.away),
        )
    }

    /// The proven peer is heard now.
    pub(super) fn peer_heard(&self) -> bool {
        self.silence()
            .is_some_and(|silence| silence < self.policy.dead_after)
    }

    /// Both nodes hear each other now.
    pub(super) fn both_hear(&self) -> bool {
        let fresh = |at: Instant| {
            self.now.saturating_duration_since(at) < self.policy.dead_after.saturating_mul(2)
        };
        self.peer_heard() && self.peer.hears_me().is_some_and(fresh)
    }

    /// The state of the diagram that this node is in.
    pub fn phase(&self) -> Phase {
        use super::state::Release;
        match &self.state {
            State::Joining(_) => Phase::Joining,
            State::Claiming(_) => Phase::Claiming,
            State::Follow(follow) if follow.release == Release::Done => Phase::Standby,
            State::Follow(_) => Phase::Releasing,
            State::Taking(taking) if taking.term_used() => Phase::Taking,
            State::Taking(_) => Phase::Preparing,
            State::Master(_) => Phase::Master,
            State::Ceding(_) => Phase::Ceding,
            State::Ceded(_) => Phase::Ceded,
            State::Stopping(_) => Phase::Stopping,
        }
    }

    pub(super) fn role(&self) -> Role {
        use crate::health::Health;
        let standby = if self.known.own_network == Health::Bad {
            Role::Fault
        } else {
            Role::Standby
        };
        match &self.state {
            State::Joining(_) => Role::Joining,
            State::Claiming(claiming) if claiming.followed => standby,
            State::Claiming(_) => Role::Joining,
            State::Taking(taking) if taking.serves() => Role::Master,
            State::Taking(taking) if taking.followed => standby,
            State::Taking(_) => Role::Joining,
            State::Master(_) | State::Ceding(_) => Role::Master,
            State::Follow(_) | State::Ceded(_) | State::Stopping(_) => standby,
        }
    }

    /// Whether this node acts as master: what the peer compares terms with.
    pub fn acts(phase: Phase) -> bool {
        matches!(phase, Phase::Taking | Phase::Master | Phase::Ceding)
    }

    /// Records what becomes of the durable state when this node follows.
    pub(super) fn no_longer_master(durable: &mut Durable) {
        durable.was_master = false;
        durable.solo = false;
        if let Some(ceded) = durable.ceded.take() {
            // Its term may have been used. It must not be forgotten with the record (R6).
            durable.term_armed = durable.term_armed.max(ceded.term);
        }
    }
}
