//! The trees in the status.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One tree on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TreeStatus {
    /// Name.
    pub name: String,
    /// Root.
    pub path: String,
    /// State of the copy here.
    pub state: TreeState,
    /// For `stopped`: why, and what resumes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// The root is the one that was registered (marker and file system).
    pub proven: bool,
    /// Head epoch, hexadecimal; `None` while unborn.
    pub epoch: Option<String>,
    /// Epochs in the lineage.
    pub lineage_length: u64,
    /// Highest position that is durable here.
    pub seq: u64,
    /// Highest position that the other side acknowledged as durable.
    pub acked: u64,
    /// Age of the oldest change that is not durable on the other side. `None`: not known (no session).
    pub lag_ms: Option<u64>,
    /// On a standby: age of the master's last "durable up to here". `None`: not known.
    #[serde(default)]
    pub stale_ms: Option<u64>,
    /// Entries waiting to be sent or applied.
    pub queue: u64,
    /// Files in the index.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Problems with single paths now.
    pub errors: u64,
    /// The most recent of them, with its path escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// How changes are noticed: `fanotify`, `inotify`, `poll`, `none`.
    pub detector: String,
    /// Why a better detector is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detector_because: Option<String>,
    /// Pause between two looks at the whole tree, if `poll` is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll_ms: Option<u64>,
    /// The rolling comparison of contents on this node; absent if it is switched off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contents: Option<Contents>,
    /// On the master: the comparisons with the receivers, the standby first; nothing of one with which there was none and
    /// none is to be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verified: Vec<Verified>,
    /// A scan or a copy that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Entries in the rescue of this tree here.
    pub rescued: u64,
    /// The newest consistent set, of a tree that is sent in sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<TreeSet>,
    /// Mount points below the root that are not part of the tree.
    #[serde(default)]
    pub mounts_below: Vec<String>,
    /// Paths that somebody changed on this node and that are left as they are until the master changes them, of a tree with
    /// `local_changes = "report"`.
    #[serde(default)]
    pub local_changes: u64,
    /// What the master removed and stays here: by `deletes`, or because it holds what is protected or excluded. This is in
    /// order, and no difference.
    #[serde(default)]
    pub kept: u64,
    /// Sockets in the tree, which are not copied.
    #[serde(default)]
    pub sockets_skipped: u64,
    /// Files that have grown and of which what lies before was not compared again since.
    #[serde(default)]
    pub unverified: u64,
    /// Files that change faster than they can be read, not in sync while they do (master); or of which what lies here was read
    /// while they did, and may be torn (standby, and a master that was one).
    #[serde(default)]
    pub fuzzy: Vec<String>,
    /// Further ones, of which this node does not know the names.
    #[serde(default)]
    pub fuzzy_more: u64,
    /// The large file whose content this node reads now, on which deletions and flushes may wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reading: Option<String>,
    /// Counts above whose number is not what there is, and what it is. Those that are not here are exact.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inexact: BTreeMap<Counted, Inexact>,
}

/// A count of a tree, named as its field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counted {
    /// Entries waiting to be sent or applied.
    Queue,
    /// Problems with single paths.
    Errors,
    /// Paths that somebody changed on this node.
    LocalChanges,
    /// What the master removed and stays.
    Kept,
    /// Files that have grown.
    Unverified,
    /// A count of a newer agent.
    #[serde(other)]
    Unknown,
}

/// What the number of a count is that is not exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Inexact {
    /// It ended at its bound: there may be more.
    AtLeast,
    /// Of some it is known how often one was met, and not how many there are.
    About,
    /// Something of a newer agent.
    #[serde(other)]
    Unknown,
}

/// A consistent set of a tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TreeSet {
    /// Counts up.
    pub number: u64,
    /// How long ago the tree was held still for it, by this node's clock; on a standby of the newest set with changes.
    pub age_ms: u64,
    /// On the master: the standby has it.
    pub there: bool,
    /// On the master: time until the next one, unless it waits for the standby.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<u64>,
}

/// How far the rolling comparison of contents is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Files compared in this round.
    pub files: u64,
    /// Bytes compared in this round.
    pub bytes: u64,
    /// Files of this round whose content differed from the index although their times had not moved.
    pub differed: u64,
    /// When the last complete round ended, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ended_unix_ms: Option<u64>,
    /// Files compared in it.
    #[serde(default)]
    pub last_files: u64,
    /// Files that differed in it.
    #[serde(default)]
    pub last_differed: u64,
}

/// How far the comparison of a tree with a receiver's is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Name of the machine that receives.
    pub receiver: String,
    /// Bytes compared in the round of the schedule that is under way.
    pub bytes: u64,
    /// Paths that differed in it.
    pub differ: u64,
    /// When the last complete comparison ended, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ended_unix_ms: Option<u64>,
    /// Entries compared in it.
    #[serde(default)]
    pub last_entries: u64,
    /// Paths that differed in it and were not repaired.
    #[serde(default)]
    pub last_differ: u64,
    /// The first of the differing paths.
    #[serde(default)]
    pub named: Vec<String>,
}

/// State of the copy of a tree on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TreeState {
    /// No first epoch: never source, never master.
    Unborn,
    /// The first copy is not complete.
    Copying,
    /// It was complete once and is behind.
    CatchingUp,
    /// Complete.
    Consistent,
    /// A guard stopped it, or its root is gone.
    Stopped,
    /// A state of a newer agent.
    #[serde(other)]
    Unknown,
}

/// How far a scan or copy is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// What is done: `scanning`, `sending`, `receiving`, `reversing`.
    pub what: String,
    /// Files done.
    pub files_done: u64,
    /// Files in all, as far as known.
    pub files_total: Option<u64>,
    /// Bytes done.
    pub bytes_done: u64,
    /// Bytes in all, as far as known.
    pub bytes_total: Option<u64>,
    /// There may be more than these totals: it is still being found out.
    #[serde(default)]
    pub at_least: bool,
    /// Files each second, over the last few seconds.
    #[serde(default)]
    pub files_per_second: u64,
    /// Bytes each second, over the last few seconds.
    pub bytes_per_second: u64,
    /// Expected time left.
    pub eta_ms: Option<u64>,
}
