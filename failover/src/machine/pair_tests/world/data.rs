//! The data half, the monitors and the client.

use super::*;

impl World {
    pub(in crate::machine::pair_tests) fn data_link(&self) -> bool {
        self.link[0][0]
            && self.link[1][0]
            && (0..2).all(|n| self.nodes[n].machine.is_some() && !self.nodes[n].paused)
    }

    pub(in crate::machine::pair_tests) fn data_command(
        &mut self,
        node: usize,
        ticket: Ticket,
        command: DataCommand,
    ) {
        let other = 1 - node;
        let (mut delay, mut result) = (2 * MS, Ok(()));
        let n = &mut self.nodes[node];
        match command {
            DataCommand::EndHold { .. } => n.hold = false,
            DataCommand::RevokeApply { .. } | DataCommand::Idle => {
                (n.receiving, n.sending) = (false, false);
                n.fresh_until = None;
            }
            DataCommand::BeginSource { .. } => {
                self.next_epoch += 1;
                n.data.lineage.push((self.next_epoch, n.data.log.len()));
                (n.receiving, n.sending) = (false, true);
            }
            DataCommand::BeginReplica => (n.receiving, n.sending) = (true, false),
            DataCommand::Drain { within } | DataCommand::FinalFlush { within } => {
                if !(self.data_link() && self.nodes[other].receiving && self.replicate_from(node)) {
                    delay = within.as_nanos() as u64;
                    result = Err("the standby is not connected".to_owned());
                }
            }
            DataCommand::BearFirstEpoch => {
                self.next_epoch += 1;
                n.data.lineage.push((self.next_epoch, 0));
                n.data.consistent = true;
            }
        }
        let data = &self.nodes[node].data;
        let report = DataReport {
            epochs_digest: head(data),
            seq: data.log.len() as u64,
        };
        self.tell_facts();
        self.result(
            node,
            delay,
            Input::DataDone {
                ticket,
                result: result.map(|()| report),
            },
        );
    }

    /// The source sends everything to the replica, if their lineages allow it.
    pub(in crate::machine::pair_tests) fn replicate_from(&mut self, source: usize) -> bool {
        let target = 1 - source;
        let acting = self.nodes[target]
            .machine
            .as_ref()
            .is_some_and(|m| Machine::acts(m.phase()));
        assert!(!acting, "applied while master");
        let [first, second] = &mut self.nodes;
        let (from, to) = if source == 0 {
            (&first.data, &mut second.data)
        } else {
            (&second.data, &mut first.data)
        };
        let common = to.lineage.iter().any(|e| from.lineage.contains(e));
        if !common && !to.lineage.is_empty() {
            return false;
        }
        if from.log.starts_with(&to.log) {
            to.log.extend_from_slice(&from.log[to.log.len()..]);
        } else {
            let theirs: BTreeSet<u64> = from.log.iter().copied().collect();
            to.rescue
                .extend(to.log.iter().filter(|write| !theirs.contains(write)));
            to.log.clone_from(&from.log);
        }
        to.lineage.clone_from(&from.lineage);
        to.consistent = true;
        let stale = self.policy[target].max_stale;
        self.nodes[target].fresh_until = Some(Instant::from_nanos(self.now) + stale);
        true
    }

    pub(in crate::machine::pair_tests) fn replicate(&mut self) {
        if self.data_link() {
            for source in 0..2 {
                let same = |n: usize| {
                    let machine = self.nodes[n].machine.as_ref().expect("both run");
                    machine
                        .view(Instant::from_nanos(self.now))
                        .peer
                        .is_none_or(|p| p.identity == crate::view::PeerIdentity::Same)
                };
                if self.nodes[source].sending
                    && self.nodes[1 - source].receiving
                    && same(0)
                    && same(1)
                {
                    self.replicate_from(source);
                }
            }
        }
        self.tell_facts();
    }

    pub(in crate::machine::pair_tests) fn tell_facts(&mut self) {
        let contact = self.data_link();
        for node in 0..2 {
            if self.nodes[node].machine.is_none() || self.nodes[node].paused {
                continue;
            }
            if contact {
                self.nodes[node].relation =
                    relation(&self.nodes[node].data, &self.nodes[1 - node].data);
            }
            let n = &self.nodes[node];
            let facts = DataFacts {
                born: !n.data.lineage.is_empty(),
                consistent: n.data.consistent,
                fresh_until: n.fresh_until,
                relation: n.relation,
                epochs_digest: head(&n.data),
                seq: n.data.log.len() as u64,
                lag: n.sending.then_some(Duration::from_millis(20)),
                ..DataFacts::default()
            };
            if n.told.as_ref() != Some(&facts) {
                self.nodes[node].told = Some(facts.clone());
                self.result(node, MS, Input::Data(Box::new(facts)));
            }
        }
    }

    pub(in crate::machine::pair_tests) fn health(&mut self) {
        for node in 0..2 {
            let (n, other) = (&self.nodes[node], &self.nodes[1 - node]);
            let good = |good: bool, was: Option<Health>| match (good, was) {
                (true, _) => Health::Good,
                (false, Some(Health::Good | Health::Bad)) => Health::Bad,
                (false, _) => Health::Unknown,
            };
            let serves =
                |n: &Node| n.host_up && n.addresses && !n.fenced && n.services && !n.service_broken;
            let own = n.services && !n.service_broken;
            let peers = n.public && other.public && serves(other);
            let new = [
                good(n.public, n.told_health[0]),
                if n.services {
                    good(own, n.told_health[1])
                } else {
                    Health::Unknown
                },
                good(peers, n.told_health[2]),
            ];
            for (index, health) in new.into_iter().enumerate() {
                if self.nodes[node].told_health[index] != Some(health) && !self.nodes[node].paused {
                    self.nodes[node].told_health[index] = Some(health);
                    let input = match index {
                        0 => Input::OwnNetwork(health),
                        1 => Input::OwnServices(health),
                        _ => Input::PeerServices(health),
                    };
                    self.result(node, MS, input);
                }
            }
        }
    }

    /// The client writes through the floating IP, where its ARP cache says.
    pub(in crate::machine::pair_tests) fn client(&mut self) {
        let Some(node) = self.arp_owner else { return };
        let n = &mut self.nodes[node];
        let works = n.services && !n.service_broken && n.public && !n.paused;
        if n.host_up && n.addresses && !n.fenced && works {
            self.next_write += 1;
            n.data.log.push(self.next_write);
            self.acknowledged.insert(self.next_write);
        }
    }
}

fn head(data: &Store) -> u64 {
    data.lineage.last().map_or(0, |(epoch, _)| *epoch)
}

/// R2 for a single tree.
pub(in crate::machine::pair_tests) fn relation(mine: &Store, peers: &Store) -> Relation {
    match (mine.lineage.last(), peers.lineage.last()) {
        (None, None) => match (mine.log.is_empty(), peers.log.is_empty()) {
            (false, true) => Relation::BothUnbornMineFilled,
            (true, false) => Relation::BothUnbornPeersFilled,
            _ => Relation::BothUnborn,
        },
        (None, Some(_)) => Relation::Behind,
        (Some(_), None) => Relation::Ahead,
        (Some(my), Some(their)) if my == their => match mine.log.len().cmp(&peers.log.len()) {
            std::cmp::Ordering::Equal => Relation::Equal,
            std::cmp::Ordering::Greater => Relation::Ahead,
            std::cmp::Ordering::Less => Relation::Behind,
        },
        (Some(my), Some(_)) if peers.lineage.contains(my) => Relation::Behind,
        (Some(_), Some(their)) if mine.lineage.contains(their) => Relation::Ahead,
        _ if mine.lineage.iter().any(|e| peers.lineage.contains(e)) => Relation::Diverged,
        _ => Relation::Unrelated,
    }
}
