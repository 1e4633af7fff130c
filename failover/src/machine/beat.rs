//! Heartbeats out.

use super::Machine;
use super::state::State;
use crate::effect::Effect;
use crate::heartbeat::{Body, Heartbeat, TreeHead};
use crate::time::millis;
use crate::timer::Timer;

impl Machine {
    /// Sends one beat on every link and sets the time of the next.
    pub(super) fn beat(&mut self) {
        self.timers
            .set(Timer::Heartbeat, self.now + self.policy.heartbeat);
        let counter = self.peer.next_beat(self.now);
        let body = self.body();
        for link in 0..self.policy.links {
            let heartbeat = Heartbeat {
                incarnation: self.boot.incarnation,
                counter,
                link,
                echo: self.peer.echo(self.now, link),
                body: body.clone(),
            };
            self.emit(Effect::SendHeartbeat(Box::new(heartbeat)));
        }
    }

    fn body(&self) -> Body {
        let facts = self.known.facts.as_ref();
        let mut heads = facts.map(|facts| facts.heads.clone()).unwrap_or_default();
        heads.truncate(TreeHead::MAX);
        // A record that is not durable yet is not spoken of.
        let ceded = self
            .written
            .ceded
            .filter(|ceded| self.durable.ceded == Some(*ceded));
        let recording = matches!(self.state, State::Ceding(_));
        Body {
            role: self.role(),
            phase: self.phase(),
            term: self.term(),
            term_seen: self.written.highest_term(),
            holding: self.holding && !self.fenced,
            was_master: self.durable.was_master,
            preferred: self.policy.preferred,
            // Shown until its absence is durable: the standby is not eligible before.
            solo: self.durable.solo || self.written.solo,
            grant: self.bond.grant,
            ceded: ceded.filter(|_| !recording),
            against: self.against_takeover().first().copied(),
            network: self.known.own_network,
            services: self.known.own_services,
            peer_services: self.known.peer_services,
            maintenance: self.durable.maintenance.is_some(),
            maintenance_left: self
                .maintenance_until
                .map(|until| millis(until.saturating_duration_since(self.now))),
            hold: self.known.hold,
            lag: facts.and_then(|facts| facts.lag).map(millis),
            born: facts.is_some_and(|facts| facts.born),
            epochs_digest: facts.map_or(0, |facts| facts.epochs_digest),
            seq: facts.map_or(0, |facts| facts.seq),
            config_digest: self.policy.config_digest,
            config_matters: self.policy.config_matters,
            machine: self.boot.machine,
            heads,
        }
    }
}
