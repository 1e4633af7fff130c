//! Requests and single answers of the commands.

use super::status::Role;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU64;

/// A request without content: `{}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// It was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// One sentence for a person.
    pub message: String,
}

/// The answer to "who are you now", the cheapest question there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleReport {
    /// This node's role.
    pub role: Role,
    /// The term it acts in.
    pub term: u64,
    /// Its name.
    pub node: String,
}

/// `tandem init --source`: this node's data are the first ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitRequest {
    /// Always true: the caller means this node as the source.
    pub source: bool,
}

/// What `init` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitReport {
    /// One line for each tree: its name, and its first epoch in hexadecimal digits.
    pub trees: Vec<InitTree>,
}

/// A tree that got its first epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitTree {
    /// Name.
    pub tree: String,
    /// Its first epoch, hexadecimal.
    pub epoch: String,
}

/// What a takeover by force would cost now. Shown to the operator before it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeoverPrice {
    /// This node.
    pub node: String,
    /// Its role now.
    pub role: Role,
    /// It could take over by itself: nothing is known to be lost.
    pub free: bool,
    /// Why it would not take over by itself, most important first.
    pub reasons: Vec<String>,
    /// The peer's agent is heard: two masters are possible until they see each other.
    pub peer_heard: bool,
    /// The peer's role when it was last heard.
    pub peer_role: Option<Role>,
    /// How long ago the peer was last heard on any link.
    pub peer_silent_ms: Option<u64>,
    /// What is known about each tree.
    pub trees: Vec<TreePrice>,
}

/// What is known to be missing, or not known, of one tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreePrice {
    /// Name.
    pub tree: String,
    /// Its state here.
    pub state: super::TreeState,
    /// Age of the master's last "durable up to here". Writes younger than this may be missing. `None`: not known.
    pub stale_ms: Option<u64>,
    /// In words, what would be lost or not known.
    pub note: String,
}

/// `takeover --force`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeoverRequest {
    /// The price was shown and accepted. Refused when false.
    pub force: bool,
}

/// `flush`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlushRequest {
    /// Bound of the wait.
    pub timeout_ms: u64,
    /// Wait also until files that have grown are compared whole on both nodes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verified: bool,
}

/// What a flush covers: everything written before the call in the trees of `covered` is durable on the other side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlushReport {
    /// Trees that are covered.
    pub covered: Vec<FlushedTree>,
    /// Trees, or parts of them, that are not, and why.
    pub not_covered: Vec<NotCovered>,
    /// How long it took.
    pub took_ms: u64,
}

/// A tree that is covered by a flush.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlushedTree {
    /// Name.
    pub tree: String,
    /// Durable on the other side up to here.
    pub seq: u64,
    /// In this epoch, hexadecimal.
    pub epoch: String,
}

/// What a flush cannot vouch for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotCovered {
    /// Name of the tree.
    pub tree: String,
    /// Why.
    pub why: String,
}

/// `hold`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRequest {
    /// Hold only if this node has this role; else refused as `wrong-role`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Ends by itself after this. The agent has a bound of its own on the spool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_ms: Option<u64>,
}

/// `verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyRequest {
    /// The replica to compare with; `None`: the standby.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
    /// Only this tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<String>,
    /// Put the master's version where the two differ.
    #[serde(default)]
    pub repair: bool,
    /// Bytes each second that each side reads at most; else what the configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<NonZeroU64>,
}

/// `tree accept`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptRequest {
    /// Name of the stopped tree.
    pub tree: String,
    /// The number of entries that was shown as the price; refused when more are gone by now. `None`: whatever is gone.
    #[serde(default)]
    pub most: Option<u64>,
}

/// What would `tree accept` let go?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptPriceRequest {
    /// Name of the tree.
    pub tree: String,
}

/// What `tree accept` lets go, shown to the operator before it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptPrice {
    /// Name of the tree.
    pub tree: String,
    /// Node on which it is stopped, or this one.
    pub node: String,
    /// Why it is stopped; `None`: it is not.
    pub why: Option<String>,
    /// Entries that are gone here and that the other node then removes too.
    pub gone: u64,
    /// The first of them in path order, at most 20.
    pub examples: Vec<String>,
}

/// `adopt`: this node gives up its own lineage and receives what the other one has; its own goes to the rescue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptRequest {
    /// The consequence was shown and accepted. Refused when false.
    pub force: bool,
}

/// `maintenance`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceRequest {
    /// On or off.
    pub on: bool,
    /// Ends by itself after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_ms: Option<u64>,
}

/// What `reload` did. It is applied whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// What changed, one sentence each; empty when nothing did.
    pub changes: Vec<String>,
    /// What differs but needs `tandem restart`; when this is not empty nothing was applied.
    pub needs_restart: Vec<String>,
    /// Digest of the configuration now in use.
    pub digest: String,
    /// What was applied and did not succeed, such as a service that cannot be started; one sentence each.
    #[serde(default)]
    pub failed: Vec<String>,
}
