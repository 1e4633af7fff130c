//! One simulated host: machine, disk, kernel, service, data.

use super::data::Data;
use tandem_failover::health::Health;
use tandem_failover::input::DataFacts;
use tandem_failover::machine::Machine;
use tandem_failover::role::Phase;
use tandem_failover::slots::Durable;
use tandem_sync::lineage::{NodeHeads, NodeName};

/// What the agent knows of the peer's data; gone with the agent.
#[derive(Debug, Clone, Default)]
pub struct PeerData {
    /// Its lineages, as it last said.
    pub heads: Option<NodeHeads>,
    /// Which life of it said so.
    pub life: u64,
    /// That life began with less than the one before had written.
    pub restored: bool,
    /// What was last sent to it.
    pub sent: Option<NodeHeads>,
}

/// What the data half was told to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DataRole {
    /// Neither sends nor applies.
    #[default]
    Idle,
    /// Sends.
    Source,
    /// Applies.
    Replica,
}

/// A whole machine image.
#[derive(Debug, Clone)]
pub struct Image {
    slots: Durable,
    data: Data,
}

/// One host.
#[derive(Debug)]
pub struct Node {
    /// The agent, while it runs.
    pub machine: Option<Machine>,
    /// The host has power.
    pub powered: bool,
    /// Counts the lives of the agent: events of an earlier one are void.
    pub life: u64,
    /// Identity of the file system that holds the state (R6).
    pub root: u64,
    /// The term slots.
    pub slots: Durable,
    /// Writes to the slots fail.
    pub slots_broken: bool,
    /// Until when the disk is busy with earlier slot writes.
    pub slots_busy: u64,
    /// Trees, index, rescue.
    pub data: Data,
    /// What the data half does.
    pub role: DataRole,
    /// The role token: batches sent under an earlier one may not commit.
    pub token: u64,
    /// When the source's last "durable up to here" was made.
    pub fresh_at: Option<u64>,
    /// Source: since when something is not durable at the peer, whole seconds.
    pub behind_since: Option<u64>,
    /// What is known of the peer's data.
    pub peer: PeerData,
    /// Facts and health as the machine was last told.
    pub told: Option<DataFacts>,
    /// Own network, own services, peer's services.
    pub health: [Option<Health>; 3],
    /// When the kernel removes the floating addresses by itself.
    pub addresses: Option<u64>,
    /// Packets for the floating addresses are dropped.
    pub fenced: bool,
    /// The service runs.
    pub services: bool,
    /// It has died.
    pub service_broken: bool,
    /// The public cable is plugged in.
    pub public: bool,
    /// The agent does not get the processor.
    pub paused: bool,
    /// Applying is paused by `tandem hold`.
    pub hold: bool,
    /// Which tick is awaited.
    pub next_tick: Option<u64>,
    /// Highest term with which this host ever acted, as its own slots can know.
    pub highest_used: u64,
    /// An operator forced the takeover under way.
    pub forced: bool,
    /// Phase after the last input.
    pub phase: Option<Phase>,
    /// It acted as master before or after it: one input may lead through several phases, in the order of the effects.
    pub acted: bool,
    /// An image taken earlier.
    pub image: Option<Image>,
}

impl Node {
    /// A host without power, with unborn and empty trees.
    pub fn new(name: NodeName, slots: Durable, root: u64) -> Self {
        Self {
            machine: None,
            powered: false,
            life: 0,
            root,
            slots,
            slots_broken: false,
            slots_busy: 0,
            data: Data::new(name),
            role: DataRole::Idle,
            token: 0,
            fresh_at: None,
            behind_since: None,
            peer: PeerData::default(),
            told: None,
            health: [None; 3],
            addresses: None,
            fenced: false,
            services: false,
            service_broken: false,
            public: true,
            paused: false,
            hold: false,
            next_tick: None,
            highest_used: 0,
            forced: false,
            phase: None,
            acted: false,
            image: None,
        }
    }

    /// The agent runs and gets the processor.
    pub fn awake(&self) -> bool {
        self.machine.is_some() && !self.paused
    }

    /// Its agent acts as master.
    pub fn acts(&self) -> bool {
        self.phase.is_some_and(Machine::acts)
    }

    /// Somebody who asks at its MAC for a floating address gets an answer.
    pub fn answers(&self) -> bool {
        self.powered && self.addresses.is_some() && !self.fenced
    }

    /// Its service does its work.
    pub fn works(&self) -> bool {
        self.powered && self.services && !self.service_broken
    }

    /// The agent is gone; kernel and service stay as they are.
    pub fn agent_gone(&mut self) {
        self.machine = None;
        self.phase = None;
        self.next_tick = None;
        self.paused = false;
        self.hold = false;
        self.role = DataRole::Idle;
        self.token += 1;
        self.forced = false;
        self.life += 1;
    }

    /// Before a new life of the agent: nothing is known yet.
    pub fn agent_begins(&mut self) {
        self.life += 1;
        self.slots = self.slots.clone().started();
        self.fresh_at = None;
        self.behind_since = None;
        self.peer = PeerData::default();
        self.told = None;
        self.health = [None; 3];
    }

    /// Keeps an image of the whole machine.
    pub fn take_image(&mut self) {
        self.image = Some(Image {
            slots: self.slots.clone(),
            data: self.data.clone(),
        });
    }

    /// Ids of the writes on this machine, files and rescue.
    pub fn writes(&self) -> Vec<u64> {
        let files = self.data.trees.iter().flat_map(|t| t.files.keys());
        files.chain(&self.data.rescue).copied().collect()
    }

    /// The machine's image is put back; answers whether there was one.
    pub fn restore_image(&mut self) -> bool {
        let Some(image) = self.image.clone() else {
            return false;
        };
        self.slots = image.slots;
        self.data = image.data;
        self.highest_used = self.slots.term_used;
        true
    }

    /// Only the files of an image are put back, on a fresh file system: the roots' identity is unproven.
    pub fn restore_trees(&mut self) -> bool {
        let Some(image) = &self.image else {
            return false;
        };
        for (tree, old) in self.data.trees.iter_mut().zip(&image.data.trees) {
            tree.files = old.files.keys().map(|id| (*id, true)).collect();
            tree.proven = false;
        }
        true
    }
}
