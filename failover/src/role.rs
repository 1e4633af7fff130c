//! The roles that a node can have, and the reasons why a standby could not take over.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a node is to the pair, as operators see it. Maintenance is no role: a node in maintenance is
/// still master or standby, and is shown with the mark beside its role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Started, and not yet agreed with the peer who is master.
    Joining,
    /// Receives the data and watches the master.
    Standby,
    /// Holds the floating IPs and is the source of the data.
    Master,
    /// Follows, but could not serve: its own public network fails.
    Fault,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Joining => "joining",
            Self::Standby => "standby",
            Self::Master => "master",
            Self::Fault => "fault",
        })
    }
}

/// Where a node is on its way through the state diagram of [`crate::machine`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Not yet agreed who is master.
    Joining,
    /// Agreed with the peer; makes the new term durable.
    Claiming,
    /// Removes addresses and stops services before it follows.
    Releasing,
    /// Follows.
    Standby,
    /// A takeover begins: applying is being stopped. The term is not yet used.
    Preparing,
    /// The term is used: addresses, announcement, epoch and services come one after the other.
    Taking,
    /// Serves.
    Master,
    /// A planned move is on its way, before its last point of return.
    Ceding,
    /// The master role was given to the peer and is not taken back; the addresses are fenced.
    Ceded,
    /// The agent stops.
    Stopping,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Joining => "joining",
            Self::Claiming => "claiming",
            Self::Releasing => "releasing",
            Self::Standby => "standby",
            Self::Preparing => "preparing",
            Self::Taking => "taking",
            Self::Master => "master",
            Self::Ceding => "ceding",
            Self::Ceded => "ceded",
            Self::Stopping => "stopping",
        })
    }
}

/// Why this node could not take over now, or stays `joining`. Travels in heartbeats: a new variant is
/// added at the end and needs a new protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// It does not follow a master (yet).
    NotFollowing,
    /// It is still stopping services and removing addresses.
    Releasing,
    /// The data half has said nothing yet.
    DataUnknown,
    /// A tree has no first epoch (R5).
    Unborn,
    /// A tree is half-copied, stopped by a guard, or its root is unproven (R3).
    NotConsistent,
    /// The data is older than `max_stale`, or their age is unknown since the last start (R3).
    Stale,
    /// The data has no settled direction to the peer's (diverged or unrelated, R2).
    NoDirection,
    /// The configurations differ where it matters (R7).
    ConfigDiffers,
    /// The peer is not the one that was known: restored or rolled back (R6).
    PeerRegressed,
    /// The peer's or this node's key is in use twice (R6).
    Cloned,
    /// The peer still carries its durable `solo` mark: it could start alone (R4).
    PeerSolo,
    /// The next term is not yet durable on this node.
    NotArmed,
    /// This node's own public network fails.
    OwnNetwork,
    /// Maintenance is on: no automatic moves.
    Maintenance,
    /// The peer is not heard.
    PeerSilent,
    /// The peer does not (yet) grant the master role.
    NoGrant,
    /// Neither node has data that were declared the source: `tandem init --source`.
    NeedsInit,
    /// Another machine answers for a floating IP.
    AddressInUse,
    /// It cannot be asked whether another machine answers for a floating IP.
    AddressUnasked,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotFollowing => "it does not follow a master",
            Self::Releasing => "it is still stopping services and removing addresses",
            Self::DataUnknown => "the state of its data is not known yet",
            Self::Unborn => "a tree has no first epoch",
            Self::NotConsistent => "a tree is not consistent",
            Self::Stale => "its data is older than max_stale, or their age is unknown",
            Self::NoDirection => "the two nodes' data have no settled direction",
            Self::ConfigDiffers => "the two configurations differ in addresses, trees or the policy of [pair]",
            Self::PeerRegressed => {
                "the peer was restored or rolled back; see `tandem status`, then `tandem adopt`"
            }
            Self::Cloned => {
                "a node's key is in use twice; stop the copy and give it a new key with `tandem keygen`"
            }
            Self::PeerSolo => "the master has not yet cleared its solo mark",
            Self::NotArmed => "the next term is not yet durable",
            Self::OwnNetwork => "its own public network fails",
            Self::Maintenance => "maintenance is on",
            Self::PeerSilent => {
                "the peer is not heard, and this node may not start alone (boot_alone is off)"
            }
            Self::NoGrant => "the peer does not grant the master role yet",
            Self::NeedsInit => "no data was declared the source; run `tandem init --source`",
            Self::AddressInUse => "another machine answers for a floating IP",
            Self::AddressUnasked => {
                "it cannot be asked whether another machine answers for a floating IP"
            }
        })
    }
}
