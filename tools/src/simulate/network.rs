//! Links, the public network, and what a node learns by asking.

use super::event::Mutation;
use super::world::{MS, World};
use std::time::Duration;
use tandem_failover::effect::Ticket;
use tandem_failover::heartbeat::Heartbeat;
use tandem_failover::input::{Input, ProbeAnswers};

impl World {
    /// Whether a datagram of `from` gets through a link at all.
    pub fn way(&self, link: usize, from: usize) -> bool {
        let cables = link == 0 || self.nodes.iter().all(|n| n.public);
        let hosts = self.nodes.iter().all(|n| n.powered);
        self.open[from][link] && cables && hosts
    }

    /// Whether a link works in both directions.
    pub fn both_ways(&self, link: usize) -> bool {
        self.way(link, 0) && self.way(link, 1)
    }

    /// Whether the floating network of both is connected.
    fn public(&self) -> bool {
        self.nodes.iter().all(|n| n.public && n.powered)
    }

    /// Both agents run, and a link works in both directions.
    pub fn connected(&self, link: usize) -> bool {
        self.both_ways(link) && self.nodes.iter().all(super::node::Node::awake)
    }

    /// A heartbeat goes out.
    pub(super) fn send(&mut self, node: usize, heartbeat: &Heartbeat) {
        let (other, link) = (1 - node, usize::from(heartbeat.link));
        let copies = 1 + u64::from(self.wild && self.dice.chance(15));
        for _ in 0..copies {
            let lost = self.loss > 0 && self.dice.chance(self.loss);
            let deaf = self.mutation == Some(Mutation::DeafToPeer) && node == 0;
            if lost || deaf || !self.way(link, node) || self.nodes[other].machine.is_none() {
                continue;
            }
            let jitter = if self.wild { 400 * MS } else { MS };
            let delay = MS / 5 + self.dice.roll(jitter);
            let input = Input::Heartbeat {
                link: heartbeat.link,
                heartbeat: Box::new(heartbeat.clone()),
            };
            self.result(other, delay, input);
        }
    }

    pub(super) fn probe_peer(&mut self, node: usize, ticket: Ticket, within: Duration) {
        let other = &self.nodes[1 - node];
        let kernel = other.powered && (self.both_ways(0) || self.both_ways(1) || self.public());
        let service = self.public() && other.answers() && other.works();
        let answers = ProbeAnswers {
            icmp: kernel && !self.dice.chance(10),
            arp: kernel,
            tcp: kernel && !self.dice.chance(10),
            service,
            ..ProbeAnswers::SILENT
        };
        let delay = if answers.any() { MS } else { nanos(within) };
        self.result(node, delay, Input::ProbeDone { ticket, answers });
    }

    pub(super) fn probe_conflict(&mut self, node: usize, ticket: Ticket, within: Duration) {
        let answered = self.public() && self.nodes[1 - node].answers();
        let delay = if answered { MS } else { nanos(within) };
        self.result(
            node,
            delay,
            Input::ConflictDone {
                ticket,
                answered: Ok(answered),
            },
        );
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
