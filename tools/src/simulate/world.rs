//! Two hosts, their network, a client, and the virtual clock that drives them.

use super::dice::Dice;
use super::effects::FenceDevice;
use super::event::{Event, Mutation};
use super::node::Node;
use super::reach::{Class, Reach};
use super::steps::Trap;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tandem_failover::heartbeat::{KeyId, PairId};
use tandem_failover::input::{Command, Input};
use tandem_failover::machine::Machine;
use tandem_failover::policy::Policy;
use tandem_failover::slots::Durable;
use tandem_failover::time::Instant;
use tandem_sync::lineage::NodeName;

/// Nanoseconds of a millisecond.
pub const MS: u64 = 1_000_000;
/// Nanoseconds of a second.
pub const SECOND: u64 = 1000 * MS;
/// How often the data half, the monitors and the client do something.
pub const PULSE: u64 = 100 * MS;

/// Everything.
#[derive(Debug)]
pub struct World {
    /// Virtual time, nanoseconds.
    pub now: u64,
    /// All randomness.
    pub dice: Dice,
    events: BTreeMap<(u64, u64), Event>,
    order: u64,
    /// The two hosts; node 0 is the preferred one.
    pub nodes: [Node; 2],
    /// Their policies.
    pub policy: [Policy; 2],
    /// Way from the node, per link: link 0 is the private one and carries data, link 1 is the public network.
    pub open: [[bool; 2]; 2],
    /// Datagrams lost, per cent.
    pub loss: u64,
    /// Datagrams are late, doubled and overtake each other.
    pub wild: bool,
    /// Whose MAC the client's ARP cache holds.
    pub arp: Option<usize>,
    /// Writes that were confirmed to their writer.
    pub acknowledged: BTreeSet<u64>,
    /// Writes that may be missing, and why.
    pub excused: BTreeMap<u64, &'static str>,
    /// Number of the last write.
    pub writes: u64,
    /// Since when both nodes can talk without loss.
    pub contact: Option<u64>,
    /// What was reached.
    pub reach: Reach,
    /// A crash that waits for its step.
    pub trap: Option<Trap>,
    /// The first broken promise.
    pub violation: Option<String>,
    /// What happened.
    pub story: Vec<(u64, String)>,
    /// What is broken on purpose.
    pub mutation: Option<Mutation>,
    /// Nodes that were master and lost their power or agent, and have not come back as standby.
    pub fallen: [bool; 2],
    /// The device that cuts off a host, where the policies name one.
    pub fence_device: FenceDevice,
    /// Nobody writes any more.
    pub quiet: bool,
    /// Since when two masters have been in contact.
    pub two_since: Option<u64>,
    /// Virtual time during which both nodes answered for the floating address.
    pub overlap: u64,
    /// Of it, the part during which they could hear each other.
    pub in_contact: u64,
}

/// Times are shortened, so that a history of many minutes fits into one.
fn policy(own: usize) -> Policy {
    let keys = [KeyId([10; 8]), KeyId([20; 8])];
    Policy {
        preferred: own == 0,
        links: 2,
        heartbeat: Duration::from_millis(250),
        dead_after: Duration::from_millis(800),
        max_stale: Duration::from_secs(6),
        boot_wait: Duration::from_secs(2),
        address_lifetime: Duration::from_secs(4),
        apply_stop: Duration::from_millis(500),
        spool: Duration::from_secs(1),
        move_timeout: Duration::from_secs(3),
        step_timeout: Duration::from_secs(5),
        epoch_wait: Duration::from_secs(1),
        settle: Duration::from_secs(4),
        ..Policy::new(PairId([1; 16]), keys[own], keys[1 - own])
    }
}

impl World {
    /// Two hosts without power; nothing has ever run.
    pub fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let node = |index: usize, name: &str| {
            // The names are short and not empty.
            let name = NodeName::try_from(name).expect("a short name");
            Node::new(name, Durable::new(PairId([1; 16])), index as u64 + 1)
        };
        let mut world = Self {
            now: SECOND,
            dice: Dice::new(seed),
            events: BTreeMap::new(),
            order: 0,
            nodes: [node(0, "alpha"), node(1, "beta")],
            policy: [policy(0), policy(1)],
            open: [[true; 2]; 2],
            loss: 0,
            wild: false,
            arp: None,
            acknowledged: BTreeSet::new(),
            excused: BTreeMap::new(),
            writes: 0,
            contact: None,
            reach: Reach::default(),
            trap: None,
            violation: None,
            story: Vec::new(),
            mutation,
            fallen: [false; 2],
            fence_device: FenceDevice::Works,
            quiet: false,
            two_since: None,
            overlap: 0,
            in_contact: 0,
        };
        world.later(0, Event::Pulse);
        world
    }

    /// Adds a line to the story.
    pub fn tell(&mut self, line: impl Into<String>) {
        self.story.push((self.now, line.into()));
    }

    /// A class of histories was reached.
    pub fn reached(&mut self, class: Class) {
        self.reach.count(class);
    }

    /// A promise is broken: the run ends here.
    pub fn blame(&mut self, what: impl Into<String>) {
        if self.violation.is_none() {
            let what = what.into();
            self.tell(format!("BROKEN: {what}"));
            self.violation = Some(what);
        }
    }

    /// Schedules an event.
    pub fn later(&mut self, delay: u64, event: Event) {
        self.order += 1;
        self.events.insert((self.now + delay, self.order), event);
    }

    /// Schedules a fact for this life of an agent.
    pub fn result(&mut self, node: usize, delay: u64, input: Input) {
        let life = self.nodes[node].life;
        let input = Box::new(input);
        self.later(delay, Event::Input { node, life, input });
    }

    /// Takes away what was meant for an agent that is gone; answers its slot writes that were under way.
    pub fn drop_events_of(&mut self, node: usize) -> Vec<Durable> {
        let mut pending = Vec::new();
        self.events.retain(|_, event| {
            let mine = event.of_agent() == Some(node);
            if let (true, Event::Written { durable, .. }) = (mine, &*event) {
                pending.push((**durable).clone());
            }
            !mine
        });
        pending
    }

    /// Lets `nanos` pass.
    pub fn run(&mut self, nanos: u64) {
        self.run_until(nanos, |_| false);
    }

    /// Runs until `done`, at most `nanos`; answers whether it came to that.
    pub fn run_until(&mut self, nanos: u64, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + nanos;
        while self.violation.is_none() && !done(self) {
            let due = self.events.first_key_value().map(|(key, _)| *key);
            let Some(key) = due.filter(|(at, _)| *at <= end) else {
                self.now = end;
                return done(self);
            };
            if self.nodes.iter().all(Node::answers) {
                self.overlap += key.0 - self.now;
                if self.contact.is_some() {
                    self.in_contact += key.0 - self.now;
                }
            }
            self.now = key.0;
            if let Some(event) = self.events.remove(&key) {
                self.happen(event);
            }
            self.check();
        }
        self.violation.is_none()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick { node, life } => {
                let n = &self.nodes[node];
                let due = n.next_tick.is_some_and(|at| at <= self.now);
                if n.life == life && n.awake() && due {
                    self.feed(node, Input::Tick);
                }
            }
            Event::Input { node, life, input } => {
                let n = &self.nodes[node];
                if n.life != life || n.machine.is_none() {
                } else if n.paused {
                    // It waits in the queue until the agent gets the processor again.
                    self.later(PULSE, Event::Input { node, life, input });
                } else {
                    self.feed(node, *input);
                }
            }
            Event::Written {
                node,
                life,
                generation,
                durable,
            } => self.written(node, life, generation, *durable),
            Event::Batch {
                node,
                life,
                token,
                made,
                batch,
            } => {
                if self.nodes[node].life == life {
                    self.batch_arrives(node, token, made, &batch);
                }
            }
            Event::Lineages {
                node,
                life,
                from,
                heads,
            } => {
                if self.nodes[node].life == life {
                    self.lineages_arrive(node, from, *heads);
                }
            }
            Event::Pulse => {
                self.later(PULSE, Event::Pulse);
                self.pulse();
            }
        }
    }

    fn written(&mut self, node: usize, life: u64, generation: u64, durable: Durable) {
        let n = &mut self.nodes[node];
        if n.life != life || n.machine.is_none() {
            return;
        }
        let result = if n.slots_broken {
            Err("I/O error".to_owned())
        } else {
            n.slots = durable;
            Ok(())
        };
        self.result(node, 0, Input::Persisted { generation, result });
    }

    /// Gives a machine a fact and carries out what it wants.
    pub fn feed(&mut self, node: usize, input: Input) {
        let now = Instant::from_nanos(self.now);
        let n = &mut self.nodes[node];
        let Some(machine) = &mut n.machine else {
            return;
        };
        let before = machine.phase();
        let effects = machine.handle(now, input);
        let (after, deadline) = (machine.phase(), machine.next_deadline().as_nanos());
        n.phase = Some(after);
        n.acted = Machine::acts(before) || Machine::acts(after);
        let life = n.life;
        self.phase_changed(node, before, after);
        for effect in effects {
            if self.sprung(node, &effect) {
                return;
            }
            self.carry_out(node, effect);
            if self.nodes[node].life != life {
                return;
            }
        }
        if self.nodes[node].next_tick != Some(deadline) {
            self.nodes[node].next_tick = Some(deadline);
            let delay = deadline.saturating_sub(self.now);
            self.later(delay, Event::Tick { node, life });
        }
    }

    /// An operator types a command at a node.
    pub fn command(&mut self, node: usize, command: Command) {
        if !self.nodes[node].awake() {
            return;
        }
        self.tell(format!("operator at {}: {command:?}", name(node)));
        if command == Command::ForceTakeover {
            self.nodes[node].forced = true;
        }
        let ticket = tandem_failover::effect::Ticket(1 << 40 | self.order);
        self.feed(node, Input::Operator { ticket, command });
    }

    /// Who acts as master.
    pub fn master(&self) -> Option<usize> {
        (0..2).find(|n| self.nodes[*n].acts())
    }

    /// The machine of a node, if it runs.
    pub fn machine(&self, node: usize) -> Option<&Machine> {
        self.nodes[node].machine.as_ref()
    }
}

/// What the story calls a node.
pub fn name(node: usize) -> &'static str {
    ["alpha", "beta"][node]
}
