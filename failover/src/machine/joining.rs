//! From the start to a role: by agreement with the peer, or alone under R4.

use super::agreement::{self, Verdict};
use super::state::{Alone, Cause, Claiming, State, Suspicion};
use super::{Leftover, Machine};
use crate::effect::{DataCommand, Effect, Ticket};
use crate::health::Health;
use crate::heartbeat::{Body, Grant};
use crate::input::Relation;
use crate::role::{Phase, Reason};
use crate::time::Instant;
use crate::timer::Timer;
use crate::view::PeerIdentity;
use std::time::Duration;

/// A first epoch that was asked for and has not come is asked for again after this time.
const EPOCH_AGAIN: Duration = Duration::from_secs(5);

impl Machine {
    pub(super) fn advance_joining(&mut self) {
        if let Suspicion::Answered(super::evidence::Verdict::Dead, _) = self.suspicion {
            // The peer to which the role was granted is dead: nothing binds any more.
            self.unbind();
        }
        if self.peer_heard() {
            self.agree();
            return;
        }
        self.waiting = self.alone_against();
        if let State::Joining(Alone::Refused(reason)) = self.state {
            self.waiting.push(reason);
        }
        if self.timers.get(Timer::BootWait).is_none() {
            self.timers
                .set(Timer::BootWait, self.now + self.policy.boot_wait);
        }
    }

    /// The boot agreement, also for a standby whose master is none any more.
    pub(super) fn agree(&mut self) {
        let Some(peer) = self.peer.body().cloned() else {
            return;
        };
        if self.adopt(&peer) {
            return;
        }
        let partner = matches!(
            peer.phase,
            Phase::Joining | Phase::Claiming | Phase::Releasing | Phase::Standby | Phase::Ceded
        );
        if !partner {
            return;
        }
        match self.agreement(&peer) {
            Verdict::Wait(reason) => {
                self.waiting = vec![reason];
                self.withdraw();
            }
            Verdict::Grant => {
                self.waiting = Vec::new();
                self.grant();
            }
            Verdict::Bear => {
                self.waiting = vec![Reason::NeedsInit];
                self.bear_first_epoch();
            }
            Verdict::Claim => self.try_claim(&peer),
        }
    }

    fn agreement(&self, peer: &Body) -> Verdict {
        match self.durable.identity {
            PeerIdentity::Same if !self.own_key_elsewhere => {}
            PeerIdentity::Regressed => return Verdict::Wait(Reason::PeerRegressed),
            PeerIdentity::Same | PeerIdentity::Cloned => return Verdict::Wait(Reason::Cloned),
        }
        if !self.both_hear() {
            return Verdict::Wait(Reason::PeerSilent);
        }
        let own = agreement::Own {
            preferred: self.policy.preferred,
            wins_tie: self.policy.own.wins_tie(self.policy.peer),
            was_master: self.durable.was_master,
            term: self.term(),
            follows: matches!(self.state, State::Follow(_)),
            ceded: self.durable.ceded.is_some(),
            network: self.known.own_network != Health::Bad,
            granted: self.granted_by(peer),
            facts: self.known.facts.as_ref(),
        };
        agreement::verdict(&own, peer)
    }

    /// The peer grants the role to this life of this node. A grant whose term was used is spent: the peer's last
    /// heartbeat may be older than that use.
    pub(super) fn granted_by(&self, peer: &Body) -> bool {
        peer.grant.is_some_and(|grant| {
            grant.to == self.boot.incarnation.nonce && grant.term > self.durable.term_used
        })
    }

    /// A grant binds this node, or one that was withdrawn still does.
    fn bound(&self) -> bool {
        self.bond.grant.is_some() || self.bond.withdrawn.is_some()
    }

    pub(super) fn unbind(&mut self) {
        self.bond.grant = None;
        self.bond.withdrawn = None;
    }

    /// Lets the peer be master. What a former life left behind goes before the peer hears of it.
    fn grant(&mut self) {
        let Some(peer) = self.peer.incarnation() else {
            return;
        };
        if matches!(self.state, State::Joining(_)) && !self.leftovers_gone() {
            return;
        }
        let term = self.highest_term().saturating_add(1);
        let spent = self.peer.body().is_some_and(|body| {
            let used = self.bond.grant.is_some_and(|grant| grant.term <= body.term);
            used && body.phase != Phase::Claiming
        });
        let new = spent || self.bond.grant.is_none_or(|grant| grant.to != peer.nonce);
        if new {
            self.bond.grant = Some(Grant {
                to: peer.nonce,
                term,
            });
            self.record(
                self.phase(),
                "the master role is granted to the peer".into(),
            );
            self.beat_now();
        }
    }

    fn leftovers_gone(&mut self) -> bool {
        let late = |at: Instant| self.now.saturating_duration_since(at) >= self.policy.step_timeout;
        match self.bond.leftover {
            Leftover::Gone => return true,
            Leftover::Removing(_, at) if !late(at) => {}
            Leftover::Removing(..) | Leftover::Unknown => {
                let ticket = self.remove_addresses();
                self.bond.leftover = Leftover::Removing(ticket, self.now);
            }
        }
        false
    }

    pub(super) fn leftovers_done(&mut self, ticket: Ticket, result: &Result<(), String>) {
        if matches!(self.bond.leftover, Leftover::Removing(asked, _) if asked == ticket) {
            self.bond.leftover = if result.is_ok() {
                Leftover::Gone
            } else {
                Leftover::Unknown
            };
        }
    }

    /// Takes the grant back. It binds until the peer has heard of that without claiming.
    fn withdraw(&mut self) {
        if self.bond.grant.take().is_some() {
            self.bond.withdrawn = Some(self.peer.beat() + 1);
            self.beat_now();
        }
    }

    fn try_claim(&mut self, peer: &Body) {
        self.waiting = vec![Reason::NoGrant];
        if self.bound() {
            self.withdraw();
            return;
        }
        let Some(grant) = peer.grant.filter(|_| self.granted_by(peer)) else {
            return;
        };
        self.claim(Cause::Agreed, grant.term);
    }

    /// Makes a new term durable, at least `least`, and then becomes master with it.
    pub(super) fn claim(&mut self, cause: Cause, least: u64) {
        let term = match cause {
            Cause::Moved => least,
            _ => least.max(self.highest_term().saturating_add(1)),
        };
        let followed = matches!(self.state, State::Follow(_) | State::Ceded(_));
        if matches!(self.state, State::Ceded(_)) {
            self.answer_asker(Err(format!(
                "the peer did not take the role that was given to it: this node takes it again, {cause}"
            )));
        }
        self.unbind();
        self.durable.term_used = term;
        self.durable.term_armed = self.durable.term_armed.max(term);
        self.durable.was_master = true;
        self.durable.ceded = None;
        self.enter(
            State::Claiming(Claiming {
                term,
                cause,
                followed,
                away: false,
            }),
            cause.to_string(),
        );
        self.step_within(self.policy.step_timeout);
    }

    pub(super) fn advance_claiming(&mut self) {
        let State::Claiming(claiming) = self.state else {
            return;
        };
        if self.written.term_used >= claiming.term {
            self.take_over(claiming);
        }
    }

    fn bear_first_epoch(&mut self) {
        let asked = self.bond.asked_epoch;
        if asked.is_none_or(|at| self.now.saturating_duration_since(at) >= EPOCH_AGAIN) {
            self.bond.asked_epoch = Some(self.now);
            self.data(DataCommand::BearFirstEpoch);
            let why = "both nodes are unborn and only this one has files: it makes the first epoch";
            self.record(self.phase(), why.into());
        }
    }

    /// R4: what stands against starting alone now.
    fn alone_against(&self) -> Vec<Reason> {
        let mut against = Vec::new();
        let facts = self.known.facts.as_ref();
        if facts.is_none() {
            against.push(Reason::DataUnknown);
        } else if facts.is_some_and(|facts| !facts.born) {
            against.push(Reason::Unborn);
        } else if facts.is_some_and(|facts| !facts.consistent) {
            against.push(Reason::NotConsistent);
        }
        let diverged = facts.is_some_and(|facts| {
            matches!(facts.relation, Relation::Diverged | Relation::Unrelated)
        });
        if diverged {
            against.push(Reason::NoDirection);
        }
        if self.durable.identity == PeerIdentity::Cloned || self.own_key_elsewhere {
            against.push(Reason::Cloned);
        }
        if self.known.own_network == Health::Bad {
            against.push(Reason::OwnNetwork);
        }
        let allowed = self.durable.solo || self.policy.boot_alone;
        if !allowed || self.bound() || self.durable.ceded.is_some() {
            against.push(Reason::PeerSilent);
        }
        against
    }

    /// A start alone was begun on an answer that is too old by now: it is asked again.
    pub(super) fn listen_again(&mut self, why: &str) {
        self.enter(State::Joining(Alone::Listening), why);
    }

    pub(super) fn boot_wait_over(&mut self) {
        if !matches!(self.state, State::Joining(_)) || self.peer_heard() {
            return;
        }
        self.timers
            .set(Timer::BootWait, self.now + self.policy.boot_wait);
        if self.alone_against().is_empty() {
            let ticket = self.ticket();
            self.state = State::Joining(Alone::Asking(ticket));
            self.emit(Effect::ProbeConflict {
                ticket,
                within: self.policy.confirm,
            });
        } else {
            self.state = State::Joining(Alone::Listening);
        }
    }

    pub(super) fn alone_conflict(&mut self, ticket: Ticket, answered: &Result<bool, String>) {
        if self.state != State::Joining(Alone::Asking(ticket)) {
            return;
        }
        let refused = match answered {
            Ok(false) => None,
            Ok(true) => Some((Reason::AddressInUse, Reason::AddressInUse.to_string())),
            Err(error) => Some((
                Reason::AddressUnasked,
                format!("{}: {error}", Reason::AddressUnasked),
            )),
        };
        self.state = State::Joining(Alone::Listening);
        if let Some((reason, text)) = refused {
            self.state = State::Joining(Alone::Refused(reason));
            self.record(Phase::Joining, text);
        } else if !self.peer_heard() && self.alone_against().is_empty() {
            let cause = if self.durable.solo {
                Cause::Solo
            } else {
                Cause::BootAlone
            };
            self.claim(cause, 0);
        }
    }
}
