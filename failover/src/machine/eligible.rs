//! Whether this standby could take over now (R3, R5, R6, R7), and the alarm when that changes.

use super::Machine;
use super::state::{Follow, Release, State};
use crate::effect::NoticeKind;
use crate::health::Health;
use crate::input::{DataFacts, Relation};
use crate::role::Reason;
use crate::timer::Timer;
use crate::view::PeerIdentity;
use std::time::Duration;

impl Machine {
    /// Reasons against an automatic takeover now; none means that it could. Maintenance is the last one, so
    /// that it is the first of a list only when it is the only one.
    pub(super) fn against_takeover(&self) -> Vec<Reason> {
        let mut against = Vec::new();
        let mut check = |bad: bool, reason: Reason| {
            if bad {
                against.push(reason);
            }
        };
        match &self.known.facts {
            None => check(true, Reason::DataUnknown),
            Some(facts) => {
                check(!facts.born, Reason::Unborn);
                check(!self.promotable(facts), Reason::NotConsistent);
                let stale = facts.fresh_until.is_none_or(|until| until < self.now);
                check(stale && !self.has_ceded(), Reason::Stale);
                let undirected = matches!(facts.relation, Relation::Diverged | Relation::Unrelated);
                check(undirected, Reason::NoDirection);
            }
        }
        let peer = self.peer.body();
        check(
            peer.is_some_and(|p| p.config_matters != self.policy.config_matters),
            Reason::ConfigDiffers,
        );
        check(
            self.durable.identity == PeerIdentity::Regressed,
            Reason::PeerRegressed,
        );
        let cloned = self.durable.identity == PeerIdentity::Cloned || self.own_key_elsewhere;
        check(cloned, Reason::Cloned);
        check(peer.is_some_and(|p| p.solo), Reason::PeerSolo);
        check(self.known.own_network == Health::Bad, Reason::OwnNetwork);
        match &self.state {
            State::Follow(Follow {
                release: Release::Done,
                ..
            }) => {
                check(!self.armed(), Reason::NotArmed);
            }
            State::Follow(_) => check(true, Reason::Releasing),
            State::Ceded(_) => {}
            _ => check(true, Reason::NotFollowing),
        }
        check(self.durable.maintenance.is_some(), Reason::Maintenance);
        check(self.peer_maintenance(), Reason::Maintenance);
        against.dedup();
        against
    }

    /// Maintenance is on at the peer, as it last said. One that was limited ends by itself, also after the peer's death.
    pub(super) fn peer_maintenance(&self) -> bool {
        let Some((peer, heard)) = self.peer.body().zip(self.peer.heard()) else {
            return false;
        };
        let left = peer.maintenance_left.map(u64::from);
        let is_over = left.is_some_and(|ms| heard + Duration::from_millis(ms) <= self.now);
        peer.maintenance && !is_over
    }

    fn promotable(&self, facts: &DataFacts) -> bool {
        facts.consistent || (self.policy.allow_catching_up && facts.catching_up_only)
    }

    /// After ceding, this node's own data were whole when it stopped.
    fn has_ceded(&self) -> bool {
        matches!(&self.state, State::Ceded(ceded) if self.now < ceded.fresh_until)
    }

    /// The armed term is durable, and higher than every term that was heard of.
    pub(super) fn armed(&self) -> bool {
        self.armed_here
            && self.written.term_armed == self.durable.term_armed
            && self.written.term_armed > self.term()
    }

    /// Tells when this standby loses or regains the ability to take over: before it is needed.
    pub(super) fn watch_eligibility(&mut self) {
        self.against = self.against_takeover();
        match self
            .known
            .facts
            .as_ref()
            .and_then(|facts| facts.fresh_until)
        {
            // One nanosecond after the last fresh moment.
            Some(until) if until >= self.now => {
                self.timers
                    .set(Timer::Fresh, until + Duration::from_nanos(1));
            }
            _ => self.timers.stop(Timer::Fresh),
        }
        let standby = matches!(&self.state, State::Follow(f) if f.release == Release::Done);
        if !standby {
            self.was_eligible = None;
            self.timers.stop(Timer::Grace);
            return;
        }
        let eligible = self.against.is_empty();
        let before = self.was_eligible;
        match (before, eligible) {
            (None, true) => self.was_eligible = Some(true),
            (None, false) => {
                // A first copy or the first data after a start take their time: said once they are late.
                if self.timers.get(Timer::Grace).is_none() {
                    self.timers
                        .set(Timer::Grace, self.now + self.policy.max_stale);
                }
                return;
            }
            // One write away: said if the disk does not take it.
            (Some(true), false) if self.against == [Reason::NotArmed] => {
                if self.timers.get(Timer::Grace).is_none() {
                    self.timers
                        .set(Timer::Grace, self.now + self.policy.step_timeout);
                }
                return;
            }
            (Some(true), false) => self.not_eligible(),
            (Some(false), true) => {
                self.was_eligible = Some(true);
                self.record(self.phase(), "this standby can take over again".into());
                self.notify(NoticeKind::Eligible, "this standby can take over again");
            }
            (Some(_), _) => {}
        }
        self.timers.stop(Timer::Grace);
    }

    fn not_eligible(&mut self) {
        self.was_eligible = Some(false);
        let text = format!("this standby could not take over: {}", self.why_against());
        self.record(self.phase(), text.clone());
        self.notify(NoticeKind::Ineligible, text);
    }

    pub(super) fn grace_over(&mut self) {
        if self.was_eligible != Some(false) && !self.against_takeover().is_empty() {
            self.not_eligible();
        }
    }

    /// The reasons against a takeover in words, with the data half's own words where it gave some.
    pub(super) fn why_against(&self) -> String {
        let mut words: Vec<String> = self
            .against_takeover()
            .iter()
            .map(ToString::to_string)
            .collect();
        if let Some(reason) = self
            .known
            .facts
            .as_ref()
            .and_then(|facts| facts.reason.as_ref())
        {
            words.push(reason.clone());
        }
        words.join("; ")
    }
}
