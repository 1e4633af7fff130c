//! Two machines on one virtual clock: lossy links, disks that forget what was not synced, addresses, services, a
//! client that writes all the time, and data with lineages. Everything comes from one seed.

mod checks;
mod data;
mod effects;

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
    /// The machine does not run; what comes in waits.
    pub paused: bool,
    queue: Vec<Input>,
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
            queue: Vec::new(),
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
        n.queue.clear();
        let life = n.life;
        let lifetime = self.policy[node].address_lifetime;
        self.later(
            lifetime.as_nanos() as u64,
            Event::AddressesExpire { node, life },
        );
    }

    /// A paused machine runs again: first its clock, then what waited, in order.
    pub(super) fn resume(&mut self, node: usize) {
        self.nodes[node].paused = false;
        self.feed(node, Input::Tick);
        for input in std::mem::take(&mut self.nodes[node].queue) {
            self.feed(node, input);
        }
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
                        self.nodes[node].queue.push(input);
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
