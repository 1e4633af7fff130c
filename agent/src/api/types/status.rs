//! The status: everything that an operator may want to know of a node, in one answer.

use super::tree::TreeStatus;
use serde::{Deserialize, Serialize};

/// What a node is to the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Not yet agreed with the peer who is master.
    Joining,
    /// Receives and watches.
    Standby,
    /// Holds the floating IPs and is the source of the data.
    Master,
    /// Receives some trees, and has no part in failover.
    Replica,
    /// Follows, but could not serve: its own public network or services fail.
    Fault,
    /// A role of a newer agent.
    #[serde(other)]
    Unknown,
}

impl Role {
    /// The word for it, as in the configuration and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Standby => "standby",
            Self::Master => "master",
            Self::Replica => "replica",
            Self::Fault => "fault",
            Self::Unknown => "unknown",
        }
    }
}

/// Health of something watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Answers.
    Good,
    /// Answered once, and fails now.
    Bad,
    /// Never succeeded since it was configured, or a word of a newer agent: evidence of nothing.
    #[serde(other)]
    Unknown,
}

/// One node's view of itself, its peer and its data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// [`super::API_VERSION`] of the answering agent.
    pub api: u32,
    /// Version of the agent.
    pub version: String,
    /// Name of the pair.
    pub pair: String,
    /// Name of this node.
    pub node: String,
    /// Its role.
    pub role: Role,
    /// Where the role machine is, in words (`following`, `taking: addresses`).
    pub phase: String,
    /// Term in use here, or of the master that is followed.
    pub term: u64,
    /// Term that is durably armed for a takeover.
    pub term_armed: u64,
    /// When the role was taken.
    pub since_unix_ms: u64,
    /// When the agent was started.
    pub started_unix_ms: u64,
    /// Name of the preferred node.
    pub preferred: String,
    /// How these data relate to the peer's: `equal`, `ahead`, `behind`, `diverged`, `unrelated`, `both-unborn`, `unknown`.
    pub relation: String,
    /// Each link, as this node sees it.
    pub links: Vec<LinkStatus>,
    /// The data session with the peer.
    pub session: SessionStatus,
    /// What was last heard from the peer.
    pub peer: PeerStatus,
    /// Each monitor.
    pub monitors: Vec<MonitorStatus>,
    /// Each tree.
    pub trees: Vec<TreeStatus>,
    /// The configuration in use, here and there.
    pub config: ConfigStatus,
    /// Whether the standby of this pair could take over now.
    pub takeover: TakeoverStatus,
    /// No automatic moves, if set.
    pub maintenance: Option<MaintenanceStatus>,
    /// Applying is paused, if set.
    pub hold: Option<HoldStatus>,
    /// Each floating IP.
    pub addresses: Vec<AddressStatus>,
    /// The most recent decision.
    pub last_decision: Option<DecisionReport>,
    /// Each service that follows the role.
    pub services: Vec<ServiceStatus>,
    /// Each replica that this master feeds.
    #[serde(default)]
    pub replicas: Vec<ReplicaStatus>,
    /// What a person should look at, most important first.
    pub alarms: Vec<String>,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Name.
    pub name: String,
    /// This end's device.
    pub device: String,
    /// This end's address.
    pub local: String,
    /// The other end's address.
    pub remote: String,
    /// Bulk data may use it.
    pub data: bool,
    /// The device has a carrier. `None`: not known.
    pub carrier: Option<bool>,
    /// Heartbeats arrive.
    pub up: bool,
    /// How long ago one arrived. `None`: never.
    pub heard_ms: Option<u64>,
    /// Whether the peer says that it hears this node on it.
    pub heard_by_peer: bool,
    /// Round trip of heartbeats, microseconds.
    pub rtt_us: Option<u64>,
    /// Heartbeats lost of the last hundred, per cent.
    pub loss_percent: Option<f32>,
}

/// The authenticated session over which data go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// It is up.
    pub up: bool,
    /// The link it uses.
    pub link: Option<String>,
    /// Why it is not up.
    pub why: Option<String>,
}

/// A replica, as the master that feeds it sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub address: String,
    /// The trees that it gets.
    pub trees: Vec<String>,
    /// There is a session with it.
    pub up: bool,
    /// Everything known here is durable there.
    pub in_sync: bool,
    /// Age of the oldest change that is not durable there. `None`: not heard since this node is master.
    pub lag_ms: Option<u64>,
    /// Durable there up to here.
    pub acked: u64,
    /// Why there is no session, or why it cannot get in sync with the one that there is.
    pub why: Option<String>,
}

/// The peer, as last heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name.
    pub node: String,
    /// Its agent is heard now.
    pub alive: bool,
    /// How long ago it was heard on any link. `None`: never since this agent started.
    pub heard_ms: Option<u64>,
    /// Its role.
    pub role: Option<Role>,
    /// Its term.
    pub term: Option<u64>,
    /// It could take over.
    pub eligible: Option<bool>,
    /// Why not.
    pub reasons: Vec<String>,
    /// Its services, as its own monitors say.
    pub services: Health,
    /// Its public network, as its own monitors say.
    pub network: Health,
    /// It is `regressed` or `cloned` (the identity rule), in words.
    pub identity: Option<String>,
}

/// One monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorStatus {
    /// Name.
    pub name: String,
    /// What it asks, for example `http 192.0.2.74:80/`.
    pub target: String,
    /// `service` or `network`.
    pub counts_for: String,
    /// What it says.
    pub health: Health,
    /// Failures in a row.
    pub failures: u32,
    /// Since when it says so.
    pub since_unix_ms: Option<u64>,
    /// The last failure, in words.
    pub last_error: Option<String>,
}

/// The configurations of both nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// File.
    pub file: String,
    /// Digest here.
    pub mine: String,
    /// Digest there. `None`: not heard.
    pub peer: Option<String>,
    /// Equal. `None`: not known.
    pub equal: Option<bool>,
    /// Equal in what matters for a takeover: floating IPs, trees, the policy of `[pair]`. `None`: not known.
    pub matters_equal: Option<bool>,
    /// The file on disk differs from the configuration in use.
    pub file_changed: bool,
}

/// Whether the standby could take over now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeoverStatus {
    /// The node that would take over.
    pub node: Option<String>,
    /// It could, by itself, now.
    pub possible: bool,
    /// Why not, most important first.
    pub reasons: Vec<String>,
}

/// No automatic moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceStatus {
    /// It was switched on at this node. Otherwise only at the other one, and until when is known there.
    #[serde(default)]
    pub here: bool,
    /// Until when. `None`: until it is switched off.
    pub until_unix_ms: Option<u64>,
}

/// Applying is paused on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldStatus {
    /// Since when.
    pub since_unix_ms: u64,
    /// Until when. `None`: until its command ends.
    pub until_unix_ms: Option<u64>,
    /// Bytes in the spool.
    pub spooled_bytes: u64,
}

/// One floating IP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressStatus {
    /// Address with prefix length.
    pub address: String,
    /// Device.
    pub device: String,
    /// Label.
    pub label: Option<String>,
    /// It is on this node: the kernel has it.
    pub held: bool,
    /// Why it cannot be held here, in words, if it should be.
    #[serde(default)]
    pub error: Option<String>,
    /// Another machine answers for it, in words.
    pub conflict: Option<String>,
}

/// One recorded decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionReport {
    /// When.
    pub at_unix_ms: u64,
    /// What was decided and why.
    pub why: String,
    /// What was known, one fact each.
    pub inputs: Vec<String>,
}

/// One service that follows the role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Name.
    pub name: String,
    /// What was last done: `started`, `stopped`, `failed`, `unknown`.
    pub state: String,
    /// When.
    pub since_unix_ms: Option<u64>,
    /// The failure, in words.
    pub last_error: Option<String>,
}
