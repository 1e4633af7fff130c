//! Kernel, monitors, service and client: what goes on around the agents.

use super::node::Node;
use super::reach::Class;
use super::world::World;
use tandem_failover::health::Health;
use tandem_failover::input::Input;

impl World {
    /// One turn of everything that is not an agent.
    pub(super) fn pulse(&mut self) {
        self.expire_addresses();
        self.watch_contact();
        self.monitors();
        self.client();
        self.exchange_lineages();
        self.replicate();
        for node in 0..2 {
            if self.dice.chance(5) {
                self.nodes[node].data.sync();
            }
        }
    }

    fn expire_addresses(&mut self) {
        for node in 0..2 {
            let over = self.nodes[node].addresses.is_some_and(|at| at <= self.now);
            if over {
                self.nodes[node].addresses = None;
                if self.nodes[node].machine.is_none() {
                    self.reached(Class::LifetimeOver);
                }
                if self.nodes[node].awake() {
                    self.result(node, 0, Input::AddressRemoved);
                }
            }
        }
    }

    fn monitors(&mut self) {
        for node in 0..2 {
            if !self.nodes[node].awake() {
                continue;
            }
            let (n, other) = (&self.nodes[node], &self.nodes[1 - node]);
            let judged = |good: bool, was: Option<Health>| match (good, was) {
                (true, _) => Health::Good,
                (false, Some(Health::Good | Health::Bad)) => Health::Bad,
                (false, _) => Health::Unknown,
            };
            let peers = n.public && other.public && other.answers() && other.works();
            let own = if n.services {
                judged(n.works(), n.health[1])
            } else {
                Health::Unknown
            };
            let new = [
                judged(n.public, n.health[0]),
                own,
                judged(peers, n.health[2]),
            ];
            for (index, health) in new.into_iter().enumerate() {
                if self.nodes[node].health[index] == Some(health) {
                    continue;
                }
                self.nodes[node].health[index] = Some(health);
                let input = match index {
                    0 => Input::OwnNetwork(health),
                    1 => Input::OwnServices(health),
                    _ => Input::PeerServices(health),
                };
                self.result(node, 0, input);
            }
        }
    }

    /// A client writes through the floating IP, where its ARP cache says. Now and then something on a node itself
    /// writes too: a cron job, an administrator.
    fn client(&mut self) {
        if self.quiet {
            return;
        }
        if self.dice.chance(40) {
            let serves = |n: &Node| n.public && n.answers() && n.works();
            match self.arp {
                Some(node) if serves(&self.nodes[node]) => self.write(node),
                // No answer: it asks who has the address.
                _ => {
                    let first = self.dice.node();
                    let found = [first, 1 - first]
                        .into_iter()
                        .find(|n| serves(&self.nodes[*n]));
                    self.arp = found;
                }
            }
        }
        if self.dice.chance(1) {
            let node = self.dice.node();
            if self.nodes[node].powered {
                self.write(node);
            }
        }
    }

    /// A confirmed write. One in eight was not synced before it was confirmed.
    pub(super) fn write(&mut self, node: usize) {
        self.writes += 1;
        let synced = !self.dice.chance(12);
        let tree = usize::from(self.dice.chance(30));
        self.nodes[node].data.write(tree, self.writes, synced);
        self.acknowledged.insert(self.writes);
    }

    /// Since when the nodes can talk without hindrance.
    fn watch_contact(&mut self) {
        let calm = self.loss == 0 && !self.wild;
        let link = self.connected(0) || self.connected(1);
        self.contact = match self.contact {
            since @ Some(_) if calm && link => since,
            None if calm && link => Some(self.now),
            _ => None,
        };
    }
}
