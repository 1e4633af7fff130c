//! What the machine wants done. Results come back as inputs; nothing here is waited for by the machine
//! without a deadline.

use crate::health::Health;
use crate::heartbeat::Heartbeat;
use crate::input::{DataFacts, ProbeAnswers};
use crate::role::{Phase, Reason, Role};
use crate::slots::Durable;
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Identifies one request, so that a late result of an obsolete one is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket(pub u64);

/// One thing to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Sign and send this heartbeat on its link.
    SendHeartbeat(Box<Heartbeat>),
    /// Write this to the term slots. A newer generation supersedes an older one that is not yet begun.
    Persist {
        /// Counts up with every write of this agent's life.
        generation: u64,
        /// What to write.
        durable: Box<Durable>,
    },
    /// Add every floating address (those that exist already count as added).
    AddAddresses {
        /// Names the result.
        ticket: Ticket,
    },
    /// Remove every floating address (those that do not exist count as removed).
    RemoveAddresses {
        /// Names the result.
        ticket: Ticket,
    },
    /// Renew the kernel lifetime of the floating addresses; adds one that is missing.
    RefreshAddresses,
    /// Announce every floating address by gratuitous ARP and unsolicited NA.
    Announce {
        /// How many times.
        times: u8,
        /// Distance between two.
        every: Duration,
    },
    /// Drop every packet to the floating addresses of this node, ARP and NS included.
    Fence {
        /// Names the result.
        ticket: Ticket,
    },
    /// Take the fence away.
    Unfence {
        /// Names the result.
        ticket: Ticket,
    },
    /// Cut off the peer with the configured device. Without success nothing is taken over.
    FencePeer {
        /// Names the result.
        ticket: Ticket,
    },
    /// One confirmation round: ICMP, ARP/NS and TCP at the peer's real addresses, the services once at the
    /// floating IP; all at once.
    ProbePeer {
        /// Names the result.
        ticket: Ticket,
        /// Bound of the round.
        within: Duration,
    },
    /// Ask by ARP/NS whether another machine answers for a floating IP.
    ProbeConflict {
        /// Names the result.
        ticket: Ticket,
        /// Bound of the round.
        within: Duration,
    },
    /// For the data half.
    Data {
        /// Names the result.
        ticket: Ticket,
        /// What.
        command: DataCommand,
    },
    /// For the services and hooks.
    Services {
        /// Names the result.
        ticket: Ticket,
        /// What.
        command: ServiceCommand,
    },
    /// A person should hear of this.
    Notify(Notice),
    /// Goes into the journal of decisions.
    Record(Box<Decision>),
    /// Answer of a command.
    Answer {
        /// Ticket of the command.
        ticket: Ticket,
        /// What was done, or why not; both in words.
        result: Result<String, String>,
    },
    /// The agent may end now. Only after [`crate::input::Command::Stop`].
    Exit,
}

/// What the data half is asked to do. The agent carries it out; the result is
/// [`crate::input::Input::DataDone`] with the same ticket. A later command supersedes an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataCommand {
    /// End a `hold`: signal its command and put the spool into the trees.
    EndHold {
        /// Bound of the wait.
        within: Duration,
    },
    /// Revoke the role token: no apply may commit after this; wait for the one in flight at most `within`.
    RevokeApply {
        /// Bound of the wait.
        within: Duration,
    },
    /// This node is master with `term`: make the new epoch durable, send from here.
    BeginSource {
        /// The term that this node uses.
        term: u64,
    },
    /// This node follows: apply what the master sends.
    BeginReplica,
    /// Neither send nor apply (joining, ceded).
    Idle,
    /// Planned move, step 2: send until less than one batch is left.
    Drain {
        /// Bound of the wait.
        within: Duration,
    },
    /// Planned move, step 3: everything up to now durable on the peer.
    FinalFlush {
        /// Bound of the wait.
        within: Duration,
    },
    /// R2: exactly one side has files and both are unborn, and it is this one: make the first epoch.
    BearFirstEpoch,
}

/// What happens to the services and hooks of the role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ServiceCommand {
    /// Became master: start services, then the `master` hooks.
    Start,
    /// No longer master: stop services, then the `standby` hooks.
    Stop,
    /// Before a planned move: freeze hook.
    Freeze,
    /// The planned move was given up: thaw hook.
    Thaw,
}

/// Something that a person should hear of (mail, log at WARN).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// What it is about.
    pub kind: NoticeKind,
    /// One sentence.
    pub text: String,
    /// Role at that moment.
    pub role: Role,
    /// Term at that moment.
    pub term: u64,
}

/// Kinds of notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoticeKind {
    /// This node became master without the other's consent.
    Takeover,
    /// The role was moved as planned, or agreed at start.
    Moved,
    /// A planned move was given up.
    MoveFailed,
    /// This node stopped being master.
    SteppedDown,
    /// A takeover would be due and is refused; the text says why.
    Refused,
    /// The standby lost its ability to take over.
    Ineligible,
    /// It could take over again.
    Eligible,
    /// The peer's agent is silent or back.
    Peer,
    /// Two masters were seen.
    SplitBrain,
    /// The peer is regressed or cloned (R6).
    PeerIdentity,
    /// Another machine answers for a floating IP.
    AddressConflict,
    /// A step failed and is tried again: addresses, services, epoch or durable state.
    Trouble,
}

/// A decision with what it was based on (invariant 10).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// When.
    pub at: Instant,
    /// Phase before.
    pub from: Phase,
    /// Phase after; the same as `from` for a refusal.
    pub to: Phase,
    /// Term after the decision.
    pub term: u64,
    /// What was decided and why, one sentence.
    pub why: String,
    /// What was known.
    pub inputs: Inputs,
}

/// What the machine knew when it decided.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Inputs {
    /// How long the peer had been silent on every link. `None`: never heard since the start.
    pub silence: Option<Duration>,
    /// Last confirmation round, if the silence led to one.
    pub probes: Option<ProbeAnswers>,
    /// Own public network.
    pub own_network: Health,
    /// Own services.
    pub own_services: Health,
    /// The peer's services.
    pub peer_services: Health,
    /// Phase and term that the peer last said.
    pub peer: Option<(Phase, u64)>,
    /// Own data.
    pub data: Option<DataFacts>,
    /// Reasons against a takeover.
    pub against: Vec<Reason>,
}
