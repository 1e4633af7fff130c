//! What is around this node, condensed to what the machine has to know.

use super::Running;
use crate::clock;
use crate::driver::Decide;
use crate::health::{Health, all_of};
use crate::input::Input;
use crate::probe::monitor::Summary;
use std::collections::BTreeMap;

/// What is known of the surroundings, condensed for the machine.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Seen {
    network: Option<Health>,
    own_services: Option<Health>,
    peer_services: Option<Health>,
    links: Vec<Option<bool>>,
}

impl<D: Decide> Running<D> {
    /// Tells the machine what has changed around this node.
    pub(super) fn look_around(&mut self, monitors: Summary, carriers: &BTreeMap<String, bool>) {
        let now = clock::now();
        let new = Seen {
            network: Some(self.own_network(monitors.network, carriers)),
            own_services: Some(monitors.own_services),
            peer_services: Some(monitors.peer_services),
            links: self
                .setup
                .links
                .iter()
                .map(|l| carriers.get(&l.device).copied())
                .collect(),
        };
        let old = std::mem::replace(&mut self.seen, new);
        let Seen {
            network,
            own_services,
            peer_services,
            ref links,
        } = self.seen;
        let mut inputs = Vec::new();
        if let Some(health) = network.filter(|_| network != old.network) {
            inputs.push(Input::OwnNetwork(health));
        }
        if let Some(health) = own_services.filter(|_| own_services != old.own_services) {
            inputs.push(Input::OwnServices(health));
        }
        if let Some(health) = peer_services.filter(|_| peer_services != old.peer_services) {
            inputs.push(Input::PeerServices(health));
        }
        for (index, up) in (0_u8..).zip(links) {
            let before = old.links.get(usize::from(index)).copied().flatten();
            if let Some(up) = up.filter(|_| *up != before) {
                inputs.push(Input::LinkCarrier { link: index, up });
            }
        }
        for input in inputs {
            self.feed(now, input);
        }
    }

    /// A floating address's device without carrier is known to fail; with carrier, the monitors say more.
    fn own_network(&self, monitors: Health, carriers: &BTreeMap<String, bool>) -> Health {
        let devices = self
            .setup
            .addresses
            .iter()
            .map(|a| match carriers.get(&a.device) {
                Some(true) => Health::Good,
                // Not listed: absent, once the devices are known at all.
                Some(false) | None if !carriers.is_empty() => Health::Bad,
                Some(false) | None => Health::Unknown,
            });
        all_of(devices.chain([monitors]))
    }
}
