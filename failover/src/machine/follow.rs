//! Following: getting rid of a master's things, then watching the master.

use super::Machine;
use super::evidence::{Verdict, judge};
use super::state::{Cause, Claiming, Follow, Release, State, Suspicion};
use crate::effect::{DataCommand, Effect, NoticeKind, ServiceCommand, Ticket};
use crate::health::Health;
use crate::input::ProbeAnswers;
use crate::role::Phase;
use crate::time::spoken;
use crate::timer::Timer;
use std::time::Duration;

/// Distance of confirmation rounds while the peer's agent stays silent.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Addresses that could not be removed are tried again after this time: they must not stay.
const ADDRESSES_AGAIN: Duration = Duration::from_secs(1);
/// Services that could not be stopped are tried again after this time.
const SERVICES_AGAIN: Duration = Duration::from_secs(5);
/// How long a record of `ceded` that this node cannot adopt may stand before it gives the role back:
/// longer than the way of the data half's last facts to here.
const DOUBT: Duration = Duration::from_secs(3);

impl Machine {
    /// Becomes (or stays) a follower: addresses off first, then everything else.
    pub(super) fn follow(&mut self, why: impl Into<String>) {
        if matches!(self.state, State::Stopping(_)) {
            return;
        }
        let why = why.into();
        self.answer_asker(Err(format!("this node follows: {why}")));
        Self::no_longer_master(&mut self.durable);
        let acted = Self::acts(self.phase());
        if acted {
            self.data(DataCommand::Idle);
        }
        self.unbind();
        let ticket = self.remove_addresses();
        self.enter(
            State::Follow(Follow {
                release: Release::Addresses(ticket),
                doubt: None,
            }),
            why,
        );
        self.step_within(self.policy.step_timeout);
    }

    /// A takeover was called off before its term was used: nothing but applying has to begin again.
    pub(super) fn call_off(&mut self, why: &str) {
        self.data(DataCommand::BeginReplica);
        self.enter(
            State::Follow(Follow {
                release: Release::Done,
                doubt: None,
            }),
            why,
        );
    }

    pub(super) fn remove_addresses(&mut self) -> Ticket {
        self.holding = false;
        self.missing = None;
        let ticket = self.ticket();
        self.emit(Effect::RemoveAddresses { ticket });
        ticket
    }

    fn release(&mut self, release: Release) {
        if let State::Follow(follow) = &mut self.state {
            follow.release = release;
        }
        self.timers.stop(Timer::Step);
        self.timers.stop(Timer::Retry);
        match release {
            Release::Addresses(_) | Release::Unfence(_) => {
                self.step_within(self.policy.step_timeout)
            }
            // The services' own bounds are the agent's; this one is for a lost result.
            Release::Services(_) => self.step_within(self.policy.step_timeout.saturating_mul(4)),
            Release::AddressesAgain => self.retry_in(ADDRESSES_AGAIN),
            Release::ServicesAgain => self.retry_in(SERVICES_AGAIN),
            Release::Done => self.released(),
        }
    }

    fn released(&mut self) {
        if self.stop_wanted {
            self.stopped();
            return;
        }
        self.data(DataCommand::BeginReplica);
        self.beat_now();
    }

    pub(super) fn release_addresses_done(&mut self, result: Result<(), String>) {
        if result.is_ok()
            && let Some(contact) = self.contact.take()
        {
            let overlap = self.now.saturating_duration_since(contact);
            let why = format!(
                "two masters: the addresses of this one went {overlap:?} after the first contact"
            );
            self.record(self.phase(), why);
        }
        match result {
            Ok(()) if self.fenced => {
                let ticket = self.unfence();
                self.release(Release::Unfence(ticket));
            }
            Ok(()) => self.release_services(),
            Err(error) => {
                self.trouble("the floating addresses cannot be removed", &error);
                self.release(Release::AddressesAgain);
            }
        }
    }

    pub(super) fn release_services(&mut self) {
        let ticket = self.services(ServiceCommand::Stop);
        self.release(Release::Services(ticket));
    }

    pub(super) fn release_services_done(&mut self, result: Result<(), String>) {
        match result {
            Ok(()) => {
                self.services_up = false;
                self.frozen = false;
                self.release(Release::Done);
            }
            Err(error) => {
                self.trouble("services cannot be stopped, so nothing is applied", &error);
                self.release(Release::ServicesAgain);
            }
        }
    }

    pub(super) fn follow_retry(&mut self) {
        let State::Follow(follow) = &self.state else {
            return;
        };
        match follow.release {
            Release::Addresses(_) | Release::AddressesAgain => {
                let ticket = self.remove_addresses();
                self.release(Release::Addresses(ticket));
            }
            Release::Unfence(_) | Release::Services(_) | Release::ServicesAgain => {
                self.release_services();
            }
            Release::Done => self.stray_retry(),
        }
    }

    /// A step failed: said once per state, tried again.
    pub(super) fn trouble(&mut self, what: &str, error: &str) {
        let text = format!("{what}: {error}");
        if self.last_decision.as_deref() != Some(text.as_str()) {
            self.record(self.phase(), text.clone());
            self.notify(NoticeKind::Trouble, text);
        }
    }

    pub(super) fn advance_follow(&mut self) {
        if self.peer_heard() {
            self.follow_peer();
            return;
        }
        let Suspicion::Answered(verdict, _) = self.suspicion else {
            return;
        };
        if verdict == Verdict::Dead {
            self.unbind();
        }
        if verdict.allows_takeover() {
            self.takeover_due(verdict);
        }
    }

    /// The peer is heard: whether it still serves.
    fn follow_peer(&mut self) {
        let Some(peer) = self.peer.body() else { return };
        if Self::acts(peer.phase) {
            self.unbind();
            self.waiting.clear();
            return;
        }
        if self.phase() == Phase::Standby {
            self.agree();
        }
    }

    /// The evidence is complete. What remains is whether this node may.
    fn takeover_due(&mut self, verdict: Verdict) {
        let against = self.against_takeover();
        if against.is_empty() && self.phase() == Phase::Standby {
            let cause = if verdict == Verdict::Hung {
                Cause::Hung
            } else {
                Cause::Dead
            };
            self.take_over(Claiming {
                term: self.written.term_armed,
                cause,
                followed: true,
                away: false,
            });
        } else if self.refused.as_ref().map(|(why, _)| why) != Some(&against) {
            let text = format!(
                "{verdict}, but this standby does not take over: {}",
                self.why_against()
            );
            self.record(self.phase(), text.clone());
            self.notify(NoticeKind::Refused, text.clone());
            self.refused = Some((against, text));
        }
    }

    /// A record of `ceded` for this node that it cannot adopt yet.
    pub(super) fn doubt_ceded(&mut self) -> bool {
        let now = self.now;
        let State::Follow(follow) = &mut self.state else {
            return false;
        };
        let since = *follow.doubt.get_or_insert(now);
        now.saturating_duration_since(since) < DOUBT
    }

    // The peer's silence.

    /// Every link has been silent for the dead time, or it is time to ask again.
    pub(super) fn silence_due(&mut self) {
        let Some(silence) = self.silence() else {
            return;
        };
        if silence < self.policy.dead_after {
            self.set_silence_timer();
            return;
        }
        if !std::mem::replace(&mut self.peer_lost, true) {
            let text = format!(
                "the peer's agent is silent on every link for {}",
                spoken(silence)
            );
            self.record(self.phase(), text.clone());
            self.notify(NoticeKind::Peer, text);
        }
        let wanted = match &self.state {
            State::Follow(_) | State::Ceded(_) | State::Joining(_) => true,
            State::Claiming(_) | State::Taking(_) | State::Master(_) | State::Ceding(_) => false,
            State::Stopping(_) => return,
        };
        if !wanted {
            return;
        }
        let (ticket, within) = (self.ticket(), self.policy.confirm);
        self.asked = Some(ticket);
        self.timers
            .set(Timer::Probe, self.now + within.saturating_mul(4));
        self.emit(Effect::ProbePeer { ticket, within });
    }

    pub(super) fn probe_done(&mut self, ticket: Ticket, answers: ProbeAnswers) {
        if self.asked != Some(ticket) {
            return;
        }
        self.asked = None;
        self.timers.stop(Timer::Probe);
        if self.peer_heard() {
            return;
        }
        self.known.probes = Some(answers);
        let verdict = judge(answers, self.services_of_peer(), self.known.own_network);
        let new = !matches!(self.suspicion, Suspicion::Answered(old, _) if old == verdict);
        self.suspicion = Suspicion::Answered(verdict, answers);
        self.timers.set(Timer::Silence, self.now + ASK_AGAIN);
        if new && !verdict.allows_takeover() {
            self.record(self.phase(), verdict.to_string());
        }
    }

    /// The peer's services as this node found them, or as the peer itself said last where this node's own monitors know nothing:
    /// they have never succeeded since its agent was started.
    fn services_of_peer(&self) -> Health {
        match (self.known.peer_services, self.peer.body()) {
            (Health::Unknown, Some(peer)) => peer.services,
            (seen, _) => seen,
        }
    }

    /// A round without a result is no evidence: it is asked again.
    pub(super) fn probe_late(&mut self) {
        self.asked = None;
        self.suspicion = Suspicion::Calm;
        self.timers
            .set(Timer::Silence, self.now + self.policy.confirm);
    }

    pub(super) fn peer_services(&mut self, health: Health) {
        let failed = health == Health::Bad && self.known.peer_services != Health::Bad;
        self.known.peer_services = health;
        if failed && matches!(self.suspicion, Suspicion::Answered(..)) && self.asked.is_none() {
            self.timers.set(Timer::Silence, self.now);
        }
    }
}
