//! Events of the operations that take time. Each type says which event is the last of its stream.

use super::status::Role;
use serde::{Deserialize, Serialize};

/// Events of `failback`, `switchover` and `takeover`. `Done` and `GivenUp` are last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveEvent {
    /// A step was reached.
    Step {
        /// Short stable name, e.g. `drain`, `fence`, `last-flush`, `ceded`.
        step: String,
        /// One sentence.
        text: String,
        /// Since the beginning.
        at_ms: u64,
    },
    /// The role moved.
    Done {
        /// Name of the master now.
        master: String,
        /// Its term.
        term: u64,
        /// Since the beginning.
        took_ms: u64,
        /// False: there was nothing to move, the role was there already.
        #[serde(default = "yes")]
        moved: bool,
    },
    /// It was given up before its last point of return; everything is as before.
    GivenUp {
        /// Why.
        reason: String,
    },
}

/// Events of `hold`. `Ended` is last; closing the connection ends the hold without one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldEvent {
    /// Nothing is applied from now on; what arrives is spooled durably.
    Held {
        /// This node's role.
        role: Role,
        /// When the hold ends by itself.
        until_unix_ms: Option<u64>,
    },
    /// The hold is over.
    Ended {
        /// Why.
        why: HoldEnd,
        /// In words.
        text: String,
    },
}

/// Why a hold ended although its connection was open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldEnd {
    /// This node takes over: the spool is applied first.
    Takeover,
    /// The node's role changed in another way.
    RoleChanged,
    /// The asked time is over.
    Expired,
    /// The spool reached its bound.
    SpoolFull,
    /// The agent stops.
    AgentStopping,
    /// A reason of a newer agent.
    #[serde(other)]
    Unknown,
}

/// Events of `verify`. `Done` is last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyEvent {
    /// How far it is; at most a few each second.
    Progress {
        /// Name of the tree.
        tree: String,
        /// Entries compared.
        done: u64,
        /// Entries in all.
        total: u64,
    },
    /// One entry differs.
    Difference {
        /// Name of the tree.
        tree: String,
        /// Name of the machine with which it was compared.
        receiver: String,
        /// Path below its root, escaped.
        path: String,
        /// How.
        what: DifferenceKind,
        /// The master's version was put in place.
        repaired: bool,
    },
    /// Something cannot be vouched for.
    NotCovered {
        /// Name of the tree; `None`: all of them.
        tree: Option<String>,
        /// Name of the machine with which it was to be compared.
        receiver: String,
        /// Why.
        why: String,
    },
    /// The comparison is complete.
    Done {
        /// Entries compared.
        entries: u64,
        /// Bytes of contents compared.
        bytes: u64,
        /// Entries that differ.
        differences: u64,
        /// Of these, repaired.
        repaired: u64,
    },
}

/// How an entry differs between the master and a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DifferenceKind {
    /// On the master only.
    Missing,
    /// On the receiver only.
    Extra,
    /// A file here, a directory there, and so on.
    Kind,
    /// Different bytes.
    Contents,
    /// Mode, owner, time, extended attributes.
    Metadata,
    /// The receiver cannot read it.
    Unreadable,
    /// A difference of a newer agent.
    #[serde(other)]
    Unknown,
}

/// Events of `rescue restore` and `trash restore`. `Done` is last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreEvent {
    /// One entry is in place on the master.
    Restored {
        /// Path below the tree's root, escaped.
        path: String,
    },
    /// One entry could not be restored.
    Failed {
        /// Path below the tree's root, escaped.
        path: String,
        /// Why.
        why: String,
    },
    /// All were tried.
    Done {
        /// How many are in place.
        restored: u64,
        /// How many are not.
        failed: u64,
    },
}

/// What an agent meant that did not say it.
fn yes() -> bool {
    true
}
