//! What the machine wants done outside of itself and of the driver. Results come back as inputs.

use crate::role::Role;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Identifies one request, so that a late result of an obsolete one is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket(pub u64);

/// What the data half is asked to do. The agent carries it out; the result is
/// `Input::DataDone { ticket, result }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataCommand {
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
    /// Neither send nor apply (joining, ceding).
    Idle,
    /// Planned move, step 1 and 2: send until less than one batch is left.
    Drain {
        /// Bound of the wait.
        within: Duration,
    },
    /// Planned move, step 3: everything up to now durable on the peer.
    FinalFlush {
        /// Bound of the wait.
        within: Duration,
    },
    /// R2: exactly one side has data and both are unborn, and it is this one: make the first epoch.
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
    /// Stable short name, e.g. `takeover`, `not-eligible`, `peer-lost`.
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
    /// The role was moved as planned.
    Moved,
    /// A planned move was given up.
    MoveFailed,
    /// This node stopped being master.
    SteppedDown,
    /// A takeover would be due and is refused; the text says why.
    Refused,
    /// The standby lost or regained its ability to take over.
    Eligibility,
    /// The peer's agent is silent or back.
    Peer,
    /// Two masters were seen.
    SplitBrain,
    /// The peer is regressed or cloned (R6).
    PeerIdentity,
    /// Another machine answers for a floating IP.
    AddressConflict,
}
