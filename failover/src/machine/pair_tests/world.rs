//! Two machines on one virtual clock: lossy links, disks that forget what was not synced, addresses, services, a
//! client that writes all the time, and data with lineages. Everything comes from one seed.

use super::super::evidence::Verdict;
use super::super::{Boot, Machine};
use crate::effect::{DataCommand, Decision, Effect, Notice, ServiceCommand, Ticket};
use crate::health::Health;
use crate::heartbeat::{Heartbeat, Incarnation, KeyId, MachineId, PairId};
use crate::input::{Command, DataFacts, DataReport, Input, ProbeAnswers, Relation};
use crate::policy::Policy;
use crate::role::Phase;
use crate::slots::Durable;
use crate::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(super) const MS: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1000 * MS;
const PAIR: PairId = PairId([1; 16]);

/// xorshift64*: enough to vary schedules, the same everywhere.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Event {
    Tick {
        node: usize,
        life: u64,
    },
    Input {
        node: usize,
        life: u64,
        input: Input,
    },
    Written {
        node: usize,
        life: u64,
        generation: u64,
        durable: Box<Durable>,
    },
    AddressesExpire {
        node: usize,
        life: u64,
    },
    Replicate,
    Client,
}

/// What a node's data are.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Store {
    /// Epochs with the length of the log at which each began.
    pub lineage: Vec<(u64, usize)>,
    /// Ids of writes.
    pub log: Vec<u64>,
    pub rescue: BTreeSet<u64>,
    pub consistent: bool,
}

#[derive(Debug)]
pub(super) struct Node {
    pub machine: Option<Machine>,
    pub host_up: bool,
    pub disk: Durable,
    pub disk_broken: bool,
    disk_free: u64,
    pub data: Store,
    /// Replica or source, as the machine last said.
    receiving: bool,
    sending: bool,
    fresh_until: Option<Instant>,
    relation: Relation,
    told: Option<DataFacts>,
    told_health: [Option<Health>; 3],
    pub addresses: bool,
    pub fenced: bool,
    pub services: bool,
    pub service_broken: bool,
    pub public: bool,
    life: u64,
    next_tick: Option<Instant>,
    pub hold: bool,
    pub exited: bool,
    highest_used: u64,
    pub paused: bool,
}

#[derive(Debug)]
pub(super) struct World {
    pub now: u64,
    pub dice: Dice,
    events: BTreeMap<(u64, u64), Event>,
    order: u64,
    pub nodes: [Node; 2],
    /// Way from the node, per link: link 0 carries data.
    pub link: [[bool; 2]; 2],
    pub loss_percent: u64,
    pub policy: [Policy; 2],
    pub arp_owner: Option<usize>,
    pub acknowledged: BTreeSet<u64>,
    next_write: u64,
    next_epoch: u64,
    pub decisions: Vec<(u64, usize, Decision)>,
    pub notices: Vec<(u64, usize, Notice)>,
    pub answers: Vec<(Ticket, Result<String, String>)>,
    /// Time during which both served at once.
    pub overlap: u64,
    /// Crash of a node when it emits this step for the n-th time.
    pub trap: Option<Trap>,
    pub hits: usize,
}

/// A crash before or after the effect that matches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trap {
    pub node: usize,
    pub at: usize,
    pub host: bool,
    pub victim: usize,
}

impl World {
    /// Two nodes with equal, born data; nothing started. Node 0 is preferred.
    pub(super) fn new(seed: u64) -> Self {
        let keys = [KeyId([10; 8]), KeyId([20; 8])];
        let policy = |own: usize| Policy {
            preferred: own == 0,
            links: 2,
            ..Policy::new(PAIR, keys[own], keys[1 - own])
        };
        let data = Store {
            lineage: vec![(1, 0)],
            log: vec![1, 2, 3],
            consistent: true,
            ..Store::default()
        };
        let node = || Node {
            machine: None,
            host_up: false,
            disk: Durable::new(PAIR),
            disk_broken: false,
            disk_free: 0,
            data: data.clone(),
            receiving: false,
            sending: false,
            fresh_until: None,
            relation: Relation::Unknown,
            told: None,
            told_health: [None; 3],
            addresses: false,
            fenced: false,
            services: false,
            service_broken: false,
            public: true,
            life: 0,
            next_tick: None,
            hold: false,
            exited: false,
            highest_used: 0,
            paused: false,
        };
        let mut world = Self {
            now: SECOND,
            dice: Dice::new(seed),
            events: BTreeMap::new(),
            order: 0,
            nodes: [node(), node()],
            link: [[true; 2]; 2],
            loss_percent: 0,
            policy: [policy(0), policy(1)],
            arp_owner: None,
            acknowledged: BTreeSet::new(),
            next_write: 100,
            next_epoch: 100,
            decisions: Vec::new(),
            notices: Vec::new(),
            answers: Vec::new(),
            overlap: 0,
            trap: None,
            hits: 0,
        };
        world.later(0, Event::Replicate);
        world.later(0, Event::Client);
        world
    }

    fn later(&mut self, delay: u64, event: Event) {
        self.order += 1;
        self.events.insert((self.now + delay, self.order), event);
    }

    fn result(&mut self, node: usize, delay: u64, input: Input) {
        let life = self.nodes[node].life;
        self.later(delay, Event::Input { node, life, input });
    }

    // What happens to nodes.

    pub(super) fn boot(&mut self, node: usize) {
        self.nodes[node].host_up = true;
        self.start_agent(node);
    }

    pub(super) fn start_agent(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        assert!(n.host_up && n.machine.is_none());
        n.disk = n.disk.clone().started();
        n.life += 1;
        n.exited = false;
        n.fresh_until = None;
        n.relation = Relation::Unknown;
        n.told = None;
        n.told_health = [None; 3];
        (n.receiving, n.sending) = (false, false);
        let mut nonce = [node as u8; 16];
        nonce[..8].copy_from_slice(&(self.dice.roll(u64::MAX >> 1)).to_le_bytes());
        let boot = Boot {
            incarnation: Incarnation {
                counter: n.disk.incarnation,
                nonce,
            },
            machine: MachineId {
                machine: node as u64 + 1,
                root: node as u64 + 1,
                boot: n.life,
            },
        };
        let machine = Machine::new(
            self.policy[node].clone(),
            n.disk.clone(),
            boot,
            Instant::from_nanos(self.now),
        );
        n.machine = Some(machine);
        self.feed(node, Input::Tick);
    }

    /// The agent dies; addresses, services and the kernel stay.
    pub(super) fn kill_agent(&mut self, node: usize) {
        let survives = self.dice.roll(2) == 0;
        let mut pending = Vec::new();
        self.events.retain(|_, event| match event {
            Event::Written {
                node: n, durable, ..
            } if *n == node => {
                pending.push((**durable).clone());
                false
            }
            Event::Tick { node: n, .. } | Event::Input { node: n, .. } => *n != node,
            _ => true,
        });
        let n = &mut self.nodes[node];
        if let (Some(last), true) = (pending.pop(), survives) {
            n.disk = last;
        }
        n.machine = None;
        n.next_tick = None;
        n.paused = false;
        let life = n.life;
        let lifetime = self.policy[node].address_lifetime;
        self.later(
            lifetime.as_nanos() as u64,
            Event::AddressesExpire { node, life },
        );
    }

    pub(super) fn power_cut(&mut self, node: usize) {
        self.kill_agent(node);
        let n = &mut self.nodes[node];
        n.host_up = false;
        n.addresses = false;
        n.fenced = false;
        n.services = false;
    }

    pub(super) fn command(&mut self, node: usize, command: Command) {
        let ticket = Ticket(1_000_000 + self.answers.len() as u64);
        self.feed(node, Input::Operator { ticket, command });
    }

    // The run.

    pub(super) fn run(&mut self, nanos: u64) {
        self.run_until(nanos, |_| false);
    }

    /// Runs until `done`; answers whether it came within `nanos`.
    pub(super) fn run_until(&mut self, nanos: u64, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + nanos;
        while !done(self) {
            let Some((&(at, _), _)) = self.events.first_key_value() else {
                break;
            };
            if at > end {
                break;
            }
            let Some(((at, _), event)) = self.events.pop_first() else {
                break;
            };
            if self.serves(0) && self.serves(1) {
                self.overlap += at - self.now;
            }
            self.now = at;
            self.happen(event);
            self.check();
        }
        if !done(self) {
            self.now = end.max(self.now);
        }
        done(self)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick { node, life } => {
                let n = &self.nodes[node];
                let due = n.next_tick.is_some_and(|at| at.as_nanos() <= self.now);
                if n.life == life && n.machine.is_some() && due && !n.paused {
                    self.feed(node, Input::Tick);
                }
            }
            Event::Input { node, life, input } => {
                let n = &self.nodes[node];
                if n.life == life && n.machine.is_some() {
                    if n.paused {
                        // It waits in the queue until the machine runs again.
                        self.later(10 * MS, Event::Input { node, life, input });
                    } else {
                        self.feed(node, input);
                    }
                }
            }
            Event::Written {
                node,
                life,
                generation,
                durable,
            } => {
                let n = &mut self.nodes[node];
                if n.life == life && n.machine.is_some() {
                    let result = if n.disk_broken {
                        Err("I/O error".into())
                    } else {
                        Ok(())
                    };
                    if result.is_ok() {
                        n.disk = *durable;
                    }
                    self.feed(node, Input::Persisted { generation, result });
                }
            }
            Event::AddressesExpire { node, life } => {
                let n = &mut self.nodes[node];
                if n.life == life && n.machine.is_none() {
                    n.addresses = false;
                }
            }
            Event::Replicate => {
                self.replicate();
                self.health();
                self.later(20 * MS, Event::Replicate);
            }
            Event::Client => {
                self.client();
                self.later(25 * MS, Event::Client);
            }
        }
    }

    pub(super) fn feed(&mut self, node: usize, input: Input) {
        let now = Instant::from_nanos(self.now);
        let Some(machine) = &mut self.nodes[node].machine else {
            return;
        };
        let before = machine.term();
        let acted = Machine::acts(machine.phase());
        let effects = machine.handle(now, input);
        let acts = Machine::acts(machine.phase());
        assert!(
            machine.term() >= before || (!acted && acts),
            "the term went back"
        );
        let deadline = machine.next_deadline();
        for effect in effects {
            if let Some(trap) = self.trap
                && trap.node == node
                && is_step(&effect)
            {
                self.hits += 1;
                if self.hits == trap.at {
                    self.trap = None;
                    if trap.host {
                        self.power_cut(trap.victim)
                    } else {
                        self.kill_agent(trap.victim)
                    };
                    if trap.victim == node {
                        return;
                    }
                }
            }
            self.carry_out(node, effect);
        }
        let n = &mut self.nodes[node];
        if n.machine.is_some() && n.next_tick != Some(deadline) {
            n.next_tick = Some(deadline);
            let (life, delay) = (n.life, deadline.as_nanos().saturating_sub(self.now));
            self.later(delay, Event::Tick { node, life });
        }
    }

    fn carry_out(&mut self, node: usize, effect: Effect) {
        let other = 1 - node;
        match effect {
            Effect::SendHeartbeat(heartbeat) => self.send(node, &heartbeat),
            Effect::Persist {
                generation,
                durable,
            } => {
                // One write after the other, as the driver does it.
                let took = MS + self.dice.roll(5 * MS);
                let done = self.nodes[node].disk_free.max(self.now) + took;
                self.nodes[node].disk_free = done;
                let life = self.nodes[node].life;
                let event = Event::Written {
                    node,
                    life,
                    generation,
                    durable,
                };
                self.later(done - self.now, event);
            }
            Effect::AddAddresses { ticket } => {
                self.may_act(node);
                self.nodes[node].addresses = true;
                self.result(
                    node,
                    MS,
                    Input::AddressesDone {
                        ticket,
                        result: Ok(()),
                    },
                );
            }
            Effect::RemoveAddresses { ticket } => {
                self.nodes[node].addresses = false;
                self.result(
                    node,
                    MS,
                    Input::AddressesDone {
                        ticket,
                        result: Ok(()),
                    },
                );
            }
            Effect::RefreshAddresses => {
                self.may_act(node);
                self.nodes[node].addresses = true;
            }
            Effect::Announce { .. } => {
                self.may_act(node);
                if self.nodes[node].public {
                    self.arp_owner = Some(node);
                }
            }
            Effect::Fence { ticket } => {
                self.nodes[node].fenced = true;
                self.result(
                    node,
                    MS,
                    Input::FenceDone {
                        ticket,
                        result: Ok(()),
                    },
                );
            }
            Effect::Unfence { ticket } => {
                self.nodes[node].fenced = false;
                self.result(
                    node,
                    MS,
                    Input::FenceDone {
                        ticket,
                        result: Ok(()),
                    },
                );
            }
            Effect::FencePeer { ticket } => {
                self.power_cut(other);
                self.result(
                    node,
                    MS,
                    Input::PeerFenced {
                        ticket,
                        result: Ok(()),
                    },
                );
            }
            Effect::ProbePeer { ticket, within } => {
                let public = self.nodes[node].public && self.nodes[other].public;
                let ways = (0..2).any(|l| self.link[node][l] && self.link[other][l]);
                let kernel = self.nodes[other].host_up && (ways || public);
                let service = public
                    && self.serves(other)
                    && self.nodes[other].services
                    && !self.nodes[other].service_broken;
                let answers = ProbeAnswers {
                    icmp: kernel,
                    arp: kernel,
                    tcp: kernel,
                    service,
                };
                let delay = if answers.any() {
                    MS
                } else {
                    within.as_nanos() as u64
                };
                self.result(node, delay, Input::ProbeDone { ticket, answers });
            }
            Effect::ProbeConflict { ticket, within } => {
                let public = self.nodes[node].public && self.nodes[other].public;
                let answered = public && self.serves(other);
                let delay = if answered {
                    MS
                } else {
                    within.as_nanos() as u64
                };
                self.result(node, delay, Input::ConflictDone { ticket, answered });
            }
            Effect::Data { ticket, command } => self.data_command(node, ticket, command),
            Effect::Services { ticket, command } => {
                match command {
                    ServiceCommand::Start => self.nodes[node].services = true,
                    ServiceCommand::Stop => self.nodes[node].services = false,
                    ServiceCommand::Freeze | ServiceCommand::Thaw => {}
                }
                self.result(
                    node,
                    20 * MS,
                    Input::ServicesDone {
                        ticket,
                        result: Ok(()),
                    },
                );
            }
            Effect::Notify(notice) => self.notices.push((self.now, node, notice)),
            Effect::Record(decision) => self.decisions.push((self.now, node, *decision)),
            Effect::Answer { ticket, result } => self.answers.push((ticket, result)),
            Effect::Exit => {
                self.nodes[node].exited = true;
                self.kill_agent(node);
            }
        }
    }

    fn send(&mut self, node: usize, heartbeat: &Heartbeat) {
        let other = 1 - node;
        // Through the real bytes.
        let bytes = crate::heartbeat::encode(PAIR, self.policy[node].own, heartbeat, |_| [0; 64])
            .expect("a heartbeat fits");
        let (_, heartbeat) =
            crate::heartbeat::decode(PAIR, &bytes, |_, _, _| Some(true)).expect("it comes back");
        let link = usize::from(heartbeat.link);
        let copies = 1 + u64::from(self.loss_percent > 0 && self.dice.roll(10) == 0);
        for _ in 0..copies {
            let lost = self.dice.roll(100) < self.loss_percent;
            let up = self.link[node][link]
                && (link == 0 || (self.nodes[0].public && self.nodes[1].public));
            if lost || !up || self.nodes[other].machine.is_none() {
                continue;
            }
            let jitter = if self.loss_percent > 0 { 300 * MS } else { MS };
            let delay = MS / 5 + self.dice.roll(jitter);
            let input = Input::Heartbeat {
                link: link as u8,
                heartbeat: Box::new(heartbeat.clone()),
            };
            self.result(other, delay, input);
        }
    }

    fn data_link(&self) -> bool {
        self.link[0][0]
            && self.link[1][0]
            && (0..2).all(|n| self.nodes[n].machine.is_some() && !self.nodes[n].paused)
    }

    fn data_command(&mut self, node: usize, ticket: Ticket, command: DataCommand) {
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
            heads_digest: head(data),
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
    fn replicate_from(&mut self, source: usize) -> bool {
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

    fn replicate(&mut self) {
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

    fn tell_facts(&mut self) {
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
                heads_digest: head(&n.data),
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

    fn health(&mut self) {
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
    fn client(&mut self) {
        let Some(node) = self.arp_owner else { return };
        let n = &mut self.nodes[node];
        let works = n.services && !n.service_broken && n.public && !n.paused;
        if n.host_up && n.addresses && !n.fenced && works {
            self.next_write += 1;
            n.data.log.push(self.next_write);
            self.acknowledged.insert(self.next_write);
        }
    }

    // What must always hold.

    pub(super) fn serves(&self, node: usize) -> bool {
        let n = &self.nodes[node];
        n.host_up && n.addresses && !n.fenced
    }

    fn may_act(&self, node: usize) {
        let machine = self.nodes[node]
            .machine
            .as_ref()
            .expect("it acts, so it runs");
        assert!(
            Machine::acts(machine.phase()),
            "addresses in phase {}",
            machine.phase()
        );
    }

    fn check(&mut self) {
        for node in 0..2 {
            let n = &mut self.nodes[node];
            let Some(machine) = &n.machine else { continue };
            let phase = machine.phase();
            if Machine::acts(phase) {
                let used = machine.term();
                let durable = n.disk.term_used.max(n.disk.term_armed);
                assert!(
                    durable >= used,
                    "node {node} acts with term {used}, durable is {durable}"
                );
                assert!(
                    used >= n.highest_used,
                    "node {node} acts with an older term"
                );
                n.highest_used = used;
                assert!(!n.receiving, "node {node} applies while it acts");
            }
            if phase == Phase::Standby {
                assert!(!n.addresses, "a standby holds addresses");
                assert!(!n.services, "a standby runs services");
            }
            if phase == Phase::Ceded {
                assert!(n.fenced || !n.addresses, "a node that ceded answers");
            }
        }
    }

    // What tests ask.

    pub(super) fn phase(&self, node: usize) -> Option<Phase> {
        self.nodes[node].machine.as_ref().map(Machine::phase)
    }

    pub(super) fn term(&self, node: usize) -> u64 {
        self.nodes[node].machine.as_ref().map_or(0, Machine::term)
    }

    pub(super) fn is_pair(&self, master: usize) -> bool {
        self.phase(master) == Some(Phase::Master)
            && self.phase(1 - master) == Some(Phase::Standby)
            && self.nodes[1 - master]
                .machine
                .as_ref()
                .is_some_and(|m| m.against_takeover().is_empty())
            && self.serves(master)
    }

    pub(super) fn any_pair(&self) -> bool {
        self.is_pair(0) || self.is_pair(1)
    }

    pub(super) fn master(&self) -> Option<usize> {
        (0..2).find(|n| self.phase(*n) == Some(Phase::Master))
    }

    pub(super) fn eligible(&self, node: usize) -> bool {
        self.nodes[node]
            .machine
            .as_ref()
            .is_some_and(|m| m.against_takeover().is_empty())
    }

    pub(super) fn verdict(&self, node: usize) -> Option<Verdict> {
        use super::super::state::Suspicion;
        match self.nodes[node].machine.as_ref()?.suspicion {
            Suspicion::Answered(verdict, _) => Some(verdict),
            Suspicion::Calm => None,
        }
    }

    /// Every write that a client was told is safe is in some log or some rescue.
    pub(super) fn assert_nothing_lost(&self) {
        let data = || self.nodes.iter().map(|n| &n.data);
        let kept: BTreeSet<u64> = data()
            .flat_map(|d| d.log.iter().chain(&d.rescue))
            .copied()
            .collect();
        let lost: Vec<&u64> = self.acknowledged.difference(&kept).collect();
        assert!(
            lost.is_empty(),
            "writes {lost:?} are lost\n{}",
            self.story()
        );
    }

    /// The decisions of both nodes, for a failed test.
    pub(super) fn story(&self) -> String {
        let line = |(at, node, d): &(u64, usize, Decision)| {
            format!(
                "{:>9.3} s  node {node}  term {}  {} -> {}  {}",
                *at as f64 / 1e9,
                d.term,
                d.from,
                d.to,
                d.why
            )
        };
        let mut lines: Vec<String> = self.decisions.iter().map(line).collect();
        for node in 0..2 {
            let n = &self.nodes[node];
            lines.push(format!(
                "node {node}: phase {:?} addresses {} fenced {} services {} disk {:?} told {:?} waiting {:?} against {:?}",
                self.phase(node), n.addresses, n.fenced, n.services, n.disk, n.told,
                n.machine.as_ref().map(|m| m.waiting.clone()),
                n.machine.as_ref().map(Machine::against_takeover),
            ));
        }
        lines.join("\n")
    }
}

/// Whether the effect is a step of a takeover or move: a place to crash at.
fn is_step(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Persist { .. }
            | Effect::AddAddresses { .. }
            | Effect::RemoveAddresses { .. }
            | Effect::Announce { .. }
            | Effect::Fence { .. }
            | Effect::Unfence { .. }
            | Effect::Data { .. }
            | Effect::Services { .. }
            | Effect::Answer { .. }
    )
}

fn head(data: &Store) -> u64 {
    data.lineage.last().map_or(0, |(epoch, _)| *epoch)
}

/// R2 for a single tree.
pub(super) fn relation(mine: &Store, peers: &Store) -> Relation {
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
