//! What the machine shows of itself: for the status command, and for the parts that follow it.

use crate::health::Health;
use crate::heartbeat::TreeHead;
use crate::input::ProbeAnswers;
use crate::role::{Phase, Reason, Role};
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A snapshot. Cheap to make; the driver publishes it after every input that changed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Role as operators see it.
    pub role: Role,
    /// Exact phase.
    pub phase: Phase,
    /// The term in force as far as this node knows.
    pub term: u64,
    /// The term that is armed for the next takeover.
    pub term_armed: u64,
    /// Since when this phase lasts.
    pub since: Instant,
    /// Why a node stays `joining`, or why a step is tried again.
    pub waiting: Vec<Reason>,
    /// Whether this standby could take over now, and if not why.
    pub eligible: Result<(), Vec<Reason>>,
    /// Maintenance here or at the peer, and until when if it was limited here.
    pub maintenance: Option<MaintenanceView>,
    /// Applying is paused by `tandem hold`.
    pub hold: bool,
    /// This node believes that it holds the floating addresses.
    pub addresses_held: bool,
    /// The floating addresses are fenced.
    pub fenced: bool,
    /// The durable `solo` mark (R4).
    pub solo: bool,
    /// Own public network.
    pub own_network: Health,
    /// Own services.
    pub own_services: Health,
    /// The peer's services.
    pub peer_services: Health,
    /// Whether the two configurations are equal as a whole; `None` before the peer was heard.
    pub config_equal: Option<bool>,
    /// Whether they are equal where it matters (R7); `None` before the peer was heard.
    pub config_matters_equal: Option<bool>,
    /// The links.
    pub links: Vec<LinkView>,
    /// The peer; `None` before its first proven heartbeat.
    pub peer: Option<PeerView>,
    /// The last decision, in words.
    pub last_decision: Option<String>,
    /// What needs a person.
    pub trouble: TroubleView,
}

/// What needs a person, apart from the reasons against a takeover.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TroubleView {
    /// Whether the peer is the one that was known (R6). Lasts over the peer's silence and this agent's restarts.
    pub identity: PeerIdentity,
    /// Another machine uses this node's own key.
    pub own_key_elsewhere: bool,
    /// What answered when the silent peer was last questioned; `None` while it is heard, or not yet questioned.
    pub probes: Option<ProbeAnswers>,
    /// The durable state cannot be written: no new term can be used, and no move can end.
    pub write_failed: bool,
    /// A takeover or hand-over that was due and refused, in words, for as long as its occasion lasts.
    pub refused: Option<String>,
}

/// Maintenance as shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceView {
    /// Switched on at this node.
    pub here: bool,
    /// Switched on at the peer.
    pub peer: bool,
    /// When it ends here; `None` without limit.
    pub until: Option<Instant>,
}

/// One link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkView {
    /// Carrier of this end; `None` before the driver said.
    pub carrier: Option<bool>,
    /// When a heartbeat last came on it.
    pub last_heard: Option<Instant>,
    /// Whether the peer says that it hears this node on it.
    pub heard_by_peer: bool,
    /// Round trip, measured with heartbeats, without the time that the peer waited before it answered.
    pub rtt: Option<Duration>,
    /// Heartbeats lost among the last ones, per mille.
    pub loss_per_mille: u16,
}

/// Whether the peer is the one that was known (R6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerIdentity {
    /// The one that was known, or the first one ever seen.
    #[default]
    Same,
    /// It shows less than it showed before: restored or rolled back. No data session is opened with it.
    Regressed,
    /// Two of it, or two of this node. No data session is opened.
    Cloned,
}

/// What is known of the peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerView {
    /// Whether it is heard now.
    pub heard: bool,
    /// Whether it is the one that was known.
    pub identity: PeerIdentity,
    /// Its role.
    pub role: Role,
    /// Its phase.
    pub phase: Phase,
    /// Its term.
    pub term: u64,
    /// When it was last heard on any link.
    pub last_heard: Option<Instant>,
    /// Whether it could take over, and its first reason if not.
    pub eligible: Result<(), Reason>,
    /// Its own public network.
    pub network: Health,
    /// Its own services.
    pub services: Health,
    /// Heads of its trees, as it last said.
    pub heads: Vec<TreeHead>,
    /// Its highest durable sequence number.
    pub seq: u64,
    /// Its lag as source.
    pub lag: Option<Duration>,
    /// Its applying is paused.
    pub hold: bool,
    /// Digest of its configuration.
    pub config_digest: u64,
}
