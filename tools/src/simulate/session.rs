//! The data half between the nodes: who is heard of whose lineages, sessions, and the facts for the machine.

use super::event::{Event, Mutation};
use super::node::DataRole;
use super::reach::Class;
use super::world::{MS, PULSE, SECOND, World, name};
use std::time::Duration;
use tandem::daemon::facts;
use tandem_failover::input::{DataFacts, Input, Relation};
use tandem_failover::time::Instant;
use tandem_failover::view::PeerIdentity;
use tandem_sync::lineage::{CopyState, NodeHeads};

impl World {
    /// The agents tell each other where their trees are, when that changed.
    pub(super) fn exchange_lineages(&mut self) {
        let connected = self.connected(0) || self.connected(1);
        for node in 0..2 {
            if !connected {
                self.nodes[node].peer.sent = None;
                continue;
            }
            let heads = self.nodes[node].data.heads();
            if self.nodes[node].peer.sent.as_ref() == Some(&heads) {
                continue;
            }
            self.nodes[node].peer.sent = Some(heads.clone());
            let event = Event::Lineages {
                node: 1 - node,
                life: self.nodes[1 - node].life,
                from: self.nodes[node].life,
                heads: Box::new(heads),
            };
            let delay = MS + self.dice.roll(20 * MS);
            self.later(delay, event);
        }
    }

    /// As the agent takes the peer's word (`daemon/peer.rs`).
    pub(super) fn lineages_arrive(&mut self, node: usize, from: u64, heads: NodeHeads) {
        let mine = self.nodes[node].data.heads();
        let peer = &mut self.nodes[node].peer;
        if peer.heads.is_none() || peer.life != from {
            peer.life = from;
            peer.restored = facts::peer_lost(&mine, &heads);
        }
        peer.heads = Some(heads);
        self.tell_facts(node);
    }

    /// Neither side takes the other for a copy or a rolled-back one (R6).
    fn trusted(&self) -> bool {
        let now = Instant::from_nanos(self.now);
        self.nodes.iter().all(|n| {
            let view = n.machine.as_ref().map(|machine| machine.view(now));
            view.and_then(|view| view.peer)
                .is_none_or(|peer| peer.identity == PeerIdentity::Same)
        })
    }

    /// Whether `source` can send now.
    fn session(&self, source: usize) -> bool {
        let (from, to) = (&self.nodes[source], &self.nodes[1 - source]);
        let roles = from.role == DataRole::Source && to.role == DataRole::Replica;
        roles && self.connected(0) && !to.hold && self.trusted()
    }

    /// One turn of the data half: local changes get numbers, the source sends.
    pub(super) fn replicate(&mut self) {
        for source in 0..2 {
            if self.nodes[source].awake() && self.nodes[source].role == DataRole::Source {
                self.nodes[source].data.scan();
                self.measure_lag(source);
            }
            if self.session(source) && self.prepare(source) {
                let (replica, limit) = (1 - source, 1 + self.dice.roll(3) as usize);
                if self.rescue(source, limit) {
                    let most = 1 + self.dice.roll(12) as usize;
                    let batch = self.nodes[source]
                        .data
                        .batch(&self.nodes[replica].data, most);
                    let event = Event::Batch {
                        node: replica,
                        life: self.nodes[replica].life,
                        token: self.nodes[replica].token,
                        made: self.now,
                        batch: Box::new(batch),
                    };
                    let delay = MS + self.dice.roll(PULSE - 2 * MS);
                    self.later(delay, event);
                }
            }
        }
        for node in 0..2 {
            if self.nodes[node].awake() {
                self.tell_facts(node);
            }
        }
    }

    fn measure_lag(&mut self, source: usize) {
        let peer = &self.nodes[1 - source].data;
        let mine = &self.nodes[source].data;
        let done = peer.digest() == mine.digest()
            && peer.trees.iter().all(|t| t.head.seq >= mine.last_seq)
            && self.connected(0);
        let now = self.now;
        let since = &mut self.nodes[source].behind_since;
        *since = if done { None } else { since.or(Some(now)) };
    }

    /// The replica looks at the source's Hello.
    fn prepare(&mut self, source: usize) -> bool {
        let hello = self.nodes[source].data.heads();
        match self.nodes[1 - source].data.prepare(&hello) {
            Ok(()) => true,
            Err(why) => {
                let line = format!("{} refuses the session: {why}", name(1 - source));
                if self.story.iter().rev().take(8).all(|(_, old)| *old != line) {
                    self.tell(line);
                }
                false
            }
        }
    }

    fn rescue(&mut self, source: usize, limit: usize) -> bool {
        let [first, second] = &mut self.nodes;
        let (from, to) = match source {
            0 => (&first.data, &mut second.data),
            _ => (&second.data, &mut first.data),
        };
        let before = to.rescue.len();
        let done = to.rescue_some(from, limit);
        let rescued: Vec<u64> = to.rescue.iter().copied().collect();
        let new = rescued.len() - before;
        if self.mutation == Some(Mutation::NoRescue) {
            to.rescue.clear();
        }
        if new > 0 {
            self.reached(Class::Rescued);
            self.tell(format!(
                "{} puts {new} writes into the rescue",
                name(1 - source)
            ));
        }
        done
    }

    /// Changes arrive at the replica.
    pub(super) fn batch_arrives(
        &mut self,
        node: usize,
        token: u64,
        made: u64,
        batch: &super::data::Batch,
    ) {
        let n = &mut self.nodes[node];
        let unguarded = self.mutation == Some(Mutation::TokenKept);
        if n.paused || n.token != token || (n.role != DataRole::Replica && !unguarded) {
            return;
        }
        if n.acts() {
            self.blame(format!("{} applies while it acts as master", name(node)));
            return;
        }
        match n.data.apply(batch) {
            Ok(true) if batch.caught_up => n.fresh_at = Some(made),
            Ok(_) => {}
            Err(error) => self.blame(format!("{} cannot advance: {error}", name(node))),
        }
        self.tell_facts(node);
    }

    /// Everything up to now, durable at the peer. Answers whether it could be done.
    pub(super) fn flush(&mut self, source: usize) -> bool {
        self.nodes[source].data.scan();
        if !self.session(source) || !self.prepare(source) || !self.rescue(source, usize::MAX) {
            return false;
        }
        let replica = 1 - source;
        let batch = self.nodes[source]
            .data
            .batch(&self.nodes[replica].data, usize::MAX);
        let token = self.nodes[replica].token;
        self.batch_arrives(replica, token, self.now, &batch);
        self.nodes[source].behind_since = None;
        true
    }

    /// The facts about a node's data, as its agent maps them (`daemon/facts.rs`).
    pub(super) fn tell_facts(&mut self, node: usize) {
        let max_stale = self.policy[node].max_stale;
        let n = &self.nodes[node];
        if !n.awake() {
            return;
        }
        let whole = n.data.consistent() || self.mutation == Some(Mutation::LyingConsistency);
        let fresh = match self.mutation {
            Some(Mutation::LyingConsistency) => Some(self.now),
            _ => n.fresh_at.filter(|_| n.role == DataRole::Replica),
        };
        let lag = |since: Option<u64>| {
            let age = since.map_or(0, |at| self.now.saturating_sub(at));
            Duration::from_secs(age / SECOND)
        };
        let mut facts = DataFacts {
            born: n.data.born(),
            consistent: whole,
            catching_up_only: n.data.catching_up_only(),
            fresh_until: fresh.map(|at| Instant::from_nanos(at) + max_stale),
            epochs_digest: n.data.digest(),
            seq: n.data.last_seq,
            lag: (n.role == DataRole::Source).then(|| lag(n.behind_since)),
            ..DataFacts::default()
        };
        let heads = &n.peer.heads;
        facts.relation = match (heads, self.mutation) {
            (None, _) => Relation::Unknown,
            (Some(_), Some(Mutation::LyingRelation)) => Relation::Equal,
            (Some(theirs), None | Some(_)) => {
                facts::relation(&n.data.heads(), theirs, n.peer.restored)
            }
        };
        if n.told.as_ref() != Some(&facts) {
            self.see_states(node);
            self.nodes[node].told = Some(facts.clone());
            self.result(node, 0, Input::Data(Box::new(facts)));
        }
    }

    fn see_states(&mut self, node: usize) {
        let state = |s| {
            self.nodes[node]
                .data
                .trees
                .iter()
                .any(|t| t.head.state == s)
        };
        let (copying, catching_up) = (state(CopyState::Copying), state(CopyState::CatchingUp));
        if copying {
            self.reached(Class::Copying);
        }
        if catching_up {
            self.reached(Class::CatchingUp);
        }
    }
}
