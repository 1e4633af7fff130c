//! What the machine shows of itself.

use super::Machine;
use super::state::State;
use crate::heartbeat::Body;
use crate::time::Instant;
use crate::view::{LinkView, MaintenanceView, PeerView, TroubleView, View};
use std::time::Duration;

impl Machine {
    /// A snapshot as of `now`.
    pub fn view(&self, now: Instant) -> View {
        let peer = self.peer.body();
        let phase = self.phase();
        View {
            role: self.role(),
            phase,
            term: self.term(),
            term_armed: self.written.term_armed,
            since: self.since,
            waiting: self.waiting.clone(),
            eligible: if self.against.is_empty() {
                Ok(())
            } else {
                Err(self.against.clone())
            },
            maintenance: self.maintenance_view(),
            hold: self.known.hold,
            addresses_held: self.holding,
            fenced: self.fenced && self.holding,
            solo: self.durable.solo,
            own_network: self.known.own_network,
            own_services: self.known.own_services,
            peer_services: self.known.peer_services,
            config_equal: peer.map(|peer| peer.config_digest == self.policy.config_digest),
            config_matters_equal: peer
                .map(|peer| peer.config_matters == self.policy.config_matters),
            links: self.link_views(now),
            peer: peer.map(|peer| self.peer_view(peer)),
            last_decision: self.last_decision.clone(),
            trouble: self.trouble_view(),
        }
    }

    fn trouble_view(&self) -> TroubleView {
        let master = match &self.state {
            State::Master(master) => Some(master),
            _ => None,
        };
        TroubleView {
            identity: self.durable.identity,
            own_key_elsewhere: self.own_key_elsewhere,
            probes: self.known.probes,
            write_failed: self.write_failed,
            refused: match (&self.refused, master) {
                (Some((_, text)), _) => Some(text.clone()),
                (None, Some(master)) => master.refused.clone(),
                (None, None) => None,
            },
        }
    }

    fn maintenance_view(&self) -> Option<MaintenanceView> {
        let here = self.durable.maintenance.is_some();
        let there = self.peer_maintenance();
        (here || there).then_some(MaintenanceView {
            here,
            peer: there,
            until: self.maintenance_until,
        })
    }

    fn link_views(&self, now: Instant) -> Vec<LinkView> {
        let fresh = |at: Option<Instant>| {
            at.is_some_and(|at| now.saturating_duration_since(at) < self.policy.dead_after)
        };
        self.peer
            .links()
            .iter()
            .enumerate()
            .map(|(index, link)| LinkView {
                carrier: self.known.carrier.get(index).copied().flatten(),
                last_heard: link.heard,
                heard_by_peer: fresh(link.heard) && fresh(link.heard_by_peer),
                rtt: link.rtt,
                loss_per_mille: link.loss_per_mille(),
            })
            .collect()
    }

    fn peer_view(&self, peer: &Body) -> PeerView {
        PeerView {
            heard: self.peer_heard(),
            identity: if self.own_key_elsewhere {
                crate::view::PeerIdentity::Cloned
            } else {
                self.durable.identity
            },
            role: peer.role,
            phase: peer.phase,
            term: peer.term,
            last_heard: self.peer.heard(),
            eligible: peer.against.map_or(Ok(()), Err),
            network: peer.network,
            services: peer.services,
            heads: peer.heads.clone(),
            seq: peer.seq,
            lag: peer.lag.map(|ms| Duration::from_millis(u64::from(ms))),
            hold: peer.hold,
            config_digest: peer.config_digest,
        }
    }
}
