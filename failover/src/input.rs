//! What the machine is told. Each input is a fact; none is a request to believe something later.

use crate::effect::Ticket;
use crate::health::Health;
use crate::heartbeat::{Heartbeat, Incarnation, TreeHead};
use crate::policy::Policy;
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One fact, delivered by the driver with the time at which it was learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The deadline that [`crate::machine::Machine::next_deadline`] named has been reached.
    Tick,
    /// The loop was away for `gap` (it measured that itself, for example by a second clock). The machine
    /// also finds a stall by itself when it is called late.
    Resumed {
        /// Length of the absence.
        gap: Duration,
    },
    /// A heartbeat whose signature was verified with the peer's pinned key.
    Heartbeat {
        /// Index of the link on which it came.
        link: u8,
        /// Its content.
        heartbeat: Box<Heartbeat>,
    },
    /// A heartbeat signed with this node's own key came from outside (R6: cloned).
    OwnKeyElsewhere {
        /// Incarnation that it names.
        incarnation: Incarnation,
    },
    /// Carrier of this node's end of a link; shown, never evidence (a cross-cable has none when the peer is off).
    LinkCarrier {
        /// Index of the link.
        link: u8,
        /// Whether it has carrier.
        up: bool,
    },
    /// This node's own public network: carrier of the floating IPs' devices and the `network` monitors.
    OwnNetwork(Health),
    /// As master: the `service` monitors asked locally.
    OwnServices(Health),
    /// As standby: the `service` monitors asked at the floating IP, through the public interface, at the peer's MAC.
    PeerServices(Health),
    /// Result of [`crate::effect::Effect::ProbePeer`].
    ProbeDone {
        /// Of which request.
        ticket: Ticket,
        /// Who answered.
        answers: ProbeAnswers,
    },
    /// Result of [`crate::effect::Effect::ProbeConflict`].
    ConflictDone {
        /// Of which request.
        ticket: Ticket,
        /// Whether another machine answered ARP/NS for a floating IP, or why that could not be asked for each of them.
        answered: Result<bool, String>,
    },
    /// Result of [`crate::effect::Effect::AddAddresses`] or [`crate::effect::Effect::RemoveAddresses`].
    AddressesDone {
        /// Of which request.
        ticket: Ticket,
        /// Why it failed. Addresses were added if at least one was; what is missing is told by
        /// [`Input::AddressTrouble`].
        result: Result<(), String>,
    },
    /// Somebody else removed a floating address of this node.
    AddressRemoved,
    /// A floating address came to this node, and it was not this agent that added it.
    AddressAppeared,
    /// Which floating addresses cannot be held here, and why; `None`: none of those that were asked for. Told when it
    /// changes.
    AddressTrouble(Option<String>),
    /// Another machine was seen using a floating IP (an unasked ARP or NA).
    AddressConflict,
    /// Result of [`crate::effect::Effect::Fence`] or [`crate::effect::Effect::Unfence`].
    FenceDone {
        /// Of which request.
        ticket: Ticket,
        /// Why it failed.
        result: Result<(), String>,
    },
    /// Result of [`crate::effect::Effect::FencePeer`].
    PeerFenced {
        /// Of which request.
        ticket: Ticket,
        /// Why it failed.
        result: Result<(), String>,
    },
    /// Result of [`crate::effect::Effect::Persist`].
    Persisted {
        /// Generation that was written; every earlier one is superseded.
        generation: u64,
        /// Why it failed.
        result: Result<(), String>,
    },
    /// New facts about the data; they replace the previous ones.
    Data(Box<DataFacts>),
    /// Result of [`crate::effect::Effect::Data`].
    DataDone {
        /// Of which request.
        ticket: Ticket,
        /// What was reached, or why it failed.
        result: Result<DataReport, String>,
    },
    /// Result of [`crate::effect::Effect::Services`].
    ServicesDone {
        /// Of which request.
        ticket: Ticket,
        /// Why it failed.
        result: Result<(), String>,
    },
    /// Applying is paused on this node by `tandem hold`, or no longer.
    Hold {
        /// Whether it is paused.
        active: bool,
    },
    /// The configuration was changed; the role is kept.
    Policy(Box<Policy>),
    /// An operator's command.
    Operator {
        /// Names the request in the [`crate::effect::Effect::Answer`].
        ticket: Ticket,
        /// What is asked.
        command: Command,
    },
}

/// Who answered one confirmation round. Anything that answers shows that the peer's kernel runs. The default is a round in which
/// nothing was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct ProbeAnswers {
    /// At least one question to the peer left this node. Else its silence says nothing.
    #[serde(default)]
    pub asked: bool,
    /// ICMP echo of a real address of the peer.
    pub icmp: bool,
    /// ARP or neighbour discovery of a real address of the peer.
    pub arp: bool,
    /// Any TCP answer (also a refusal) of a real address of the peer.
    pub tcp: bool,
    /// ARP or neighbour discovery of a floating address, on a device on which the peer has no real address that is asked: whoever
    /// holds it serves.
    #[serde(default)]
    pub floating: bool,
    /// A service asked once at the floating IP, at the peer's MAC: it serves.
    pub service: bool,
    /// This node's own public network, asked in the same round: bad if no `network` monitor of it was answered, unknown without one.
    /// What monitors found before the silence may be older than the cut that made it.
    #[serde(default)]
    pub network: Health,
}

impl ProbeAnswers {
    /// Everything was asked, and nothing answers.
    pub const SILENT: Self = Self {
        asked: true,
        icmp: false,
        arp: false,
        tcp: false,
        floating: false,
        service: false,
        network: Health::Unknown,
    };

    /// Whether anything answered.
    pub fn any(self) -> bool {
        self.icmp || self.arp || self.tcp || self.floating || self.service
    }
}

/// How my data relates to the peer's, by the lineage rule R2. Computed by the sync half, never here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// The peer's lineages have not been heard since this agent started.
    #[default]
    Unknown,
    /// Every tree has the same head and position.
    Equal,
    /// The peer's heads are in my lineages (or it has none): I send.
    Ahead,
    /// My heads are in the peer's lineages (or I have none): I receive.
    Behind,
    /// Trees disagree about the direction, or neither head is in the other's lineage.
    Diverged,
    /// No common epoch at all: refused until `tandem adopt`.
    Unrelated,
    /// Neither node has a first epoch, and both or neither have files: waits for `tandem init --source`.
    BothUnborn,
    /// Neither node has a first epoch, and only this one has files.
    BothUnbornMineFilled,
    /// Neither node has a first epoch, and only the peer has files.
    BothUnbornPeersFilled,
}

/// What the sync half says about this node's data. Replaces the previous facts as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DataFacts {
    /// Every tree has a first epoch (R5: else never source, never master).
    pub born: bool,
    /// Every tree is `consistent` and its root identity is proven (R3).
    pub consistent: bool,
    /// Every tree that is not consistent is `catching-up`: the one doubt that policy may accept.
    pub catching_up_only: bool,
    /// As a receiver: until when the data counts as fresh, that is the time at which the master's last
    /// "durable up to here" becomes older than `max_stale`. `None`: unknown, not eligible.
    pub fresh_until: Option<Instant>,
    /// Relation of my data to the peer's.
    pub relation: Relation,
    /// First reason why this data cannot be promoted, in words for the operator.
    pub reason: Option<String>,
    /// Heads and states of the trees, sorted by tree; at most [`TreeHead::MAX`].
    pub heads: Vec<TreeHead>,
    /// Digest over the newest epochs of all trees. Where it is equal on two nodes, `seq` tells who has more.
    pub epochs_digest: u64,
    /// Highest sequence number that is durable here.
    pub seq: u64,
    /// Age of the oldest change that is not durable on the other side (source only).
    pub lag: Option<Duration>,
}

/// What a data command reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DataReport {
    /// Digest over the newest epochs of all trees afterwards.
    pub epochs_digest: u64,
    /// Sequence number that is durable (after a flush: on the peer).
    pub seq: u64,
}

/// What an operator asked for. Each is answered by exactly one [`crate::effect::Effect::Answer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Planned move of the master role to the other node. Given to the master.
    Switchover,
    /// Planned move to the preferred node. Given to the master.
    Failback,
    /// Become master now, whatever the data and the peer say; the price was shown and accepted.
    ForceTakeover,
    /// The operator declared this node the first source (R2); the epoch is durable already.
    Initialised,
    /// R6: the peer as it is now is the right one; forget what was remembered of it.
    AcceptPeer,
    /// No automatic moves until switched off or the time is over.
    MaintenanceOn(Option<Duration>),
    /// Automatic moves again.
    MaintenanceOff,
    /// The agent is asked to stop: hand over first if the standby is ready, else release the addresses.
    Stop,
}
