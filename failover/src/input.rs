//! What the machine is told.

use crate::time::Instant;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How my data relates to the peer's, by the lineage rule R2. Computed by the sync half, never here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// The peer's lineages have not been heard since this agent started.
    Unknown,
    /// Every tree has the same head and position.
    Equal,
    /// The peer's heads are in my lineages: I send.
    Ahead,
    /// My heads are in the peer's lineages: I receive.
    Behind,
    /// Trees disagree about the direction, or neither head is in the other's lineage.
    Diverged,
    /// No common epoch at all: refused until `tandem adopt`.
    Unrelated,
    /// Neither node has a first epoch: waits for `tandem init --source`.
    BothUnborn,
}

/// What the sync half says about this node's data. Replaces the previous facts as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// First reason why these data cannot be promoted, in words for the operator.
    pub reason: Option<String>,
    /// Digest over heads and states of all trees.
    pub heads_digest: u64,
    /// Highest sequence number that is durable here.
    pub seq: u64,
    /// Age of the oldest change that is not durable on the other side (source only).
    pub lag: Option<Duration>,
}

/// Health of something watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Never succeeded since it was configured: never evidence of anything.
    Unknown,
    /// Answers.
    Good,
    /// Answered once, and fails now.
    Bad,
}

/// What an operator asked for. Each is answered by exactly one [`crate::effect::Effect::Answer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Planned move of the master role to the other node.
    Switchover,
    /// Planned move to the preferred node.
    Failback,
    /// Become master now, whatever the data and the peer say; the price was shown and accepted.
    ForceTakeover,
    /// The operator declared this node the first source (R2); the epoch is durable already.
    Initialised,
    /// No automatic moves until switched off or the time is over.
    MaintenanceOn(Option<Duration>),
    /// Automatic moves again.
    MaintenanceOff,
    /// The agent is asked to stop: hand over first if the standby is ready, else release the addresses.
    Stop,
}
