//! What the engine shows of itself. Published by a watch channel, so that reading it never waits for the worker.

use super::receivers::Receiver;
use crate::progress::Work;
use crate::tree::TreeId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What the engine does with the trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "mode")]
pub enum Mode {
    /// Neither sends nor applies.
    Idle,
    /// Master: records local changes and sends them.
    Source {
        /// Term in which this node became master.
        term: u64,
    },
    /// Follows: applies what the master sends.
    Replica,
}

/// State of one tree. The first four are durable in the index; `Stopped` is laid over them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum TreeState {
    /// No epoch yet: never source, never promoted (R5).
    Unborn,
    /// The first copy is not complete.
    Copying,
    /// Was complete once; the changes received since then are not all applied.
    CatchingUp,
    /// Equal to the master's tree at one moment of the master's order.
    Consistent,
    /// A guard stopped it: nothing is recorded, sent or applied until `tandem tree accept`, or until the reason is gone.
    Stopped {
        /// Why, in words for the operator.
        why: String,
    },
}

/// Progress of a copy or a scan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is done: `scan`, `copy`, `catch-up`, `verify`.
    pub what: String,
    /// Done.
    pub done: Work,
    /// To be done in all, as far as known; `None`: nothing is known of it.
    pub total: Option<Work>,
    /// There may be more than `total`.
    pub at_least: bool,
    /// Entries per second over the last seconds.
    pub entries_per_second: u64,
    /// Bytes per second over the last seconds.
    pub bytes_per_second: u64,
    /// Time left at these rates; `None` when there is no basis to say.
    pub left: Option<Duration>,
}

/// One tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeStatus {
    /// Configured name.
    pub name: String,
    /// Root directory.
    pub root: String,
    /// State.
    pub state: TreeState,
    /// The root is the one that the index was made for: marker and file system are as recorded.
    pub proven: bool,
    /// Head epoch, 32 hex digits; `None` when unborn.
    pub epoch: Option<String>,
    /// Term of the head epoch.
    pub epoch_term: Option<u64>,
    /// Highest sequence number of this tree that is durable here.
    pub seq: u64,
    /// Entries that exist (tombstones not counted).
    pub files: u64,
    /// Sum of the sizes of its files.
    pub bytes: u64,
    /// Paths that wait to be examined, sent or applied.
    pub queue: u64,
    /// Paths with local changes that are not settled with the master's version yet.
    pub dirty: u64,
    /// Paths that could not be read or applied and are tried again.
    pub errors: u64,
    /// The newest of these errors, with its path.
    pub last_error: Option<String>,
    /// Replica: paths that somebody changed here, of a tree whose policy is `report`.
    pub local_changes: u64,
    /// How changes are seen: `fanotify`, `inotify`, `poll`; empty while nothing is watched.
    pub detector: String,
    /// Why no better detector is used. `None`: it is the best one.
    pub detector_because: Option<String>,
    /// Interval at which it is walked besides, for writers that cause no events.
    pub poll: Option<Duration>,
    /// The comparison of contents; `None` where there is none.
    pub contents: Option<ContentsStatus>,
    /// Source: the comparisons with the receivers; nothing of one with which nothing was compared and nothing is to be.
    pub verified: Vec<VerifyStatus>,
    /// First copy, catching up, scan or verify, while one runs.
    pub progress: Option<Progress>,
    /// Files in the rescue.
    pub rescued: u64,
    /// Mount points and subvolumes below the root, which are no part of it.
    pub mounts_below: Vec<String>,
    /// What the source removed and stays here: by `deletes`, or because it holds what is protected or excluded. In order.
    pub kept: u64,
    /// Sockets, which are not copied.
    pub sockets_skipped: u64,
    /// Of a tree that is sent in sets: the newest one that was recorded (source) or applied (replica).
    pub set: Option<SetStatus>,
    /// Files that have grown and of which what lies before the new end was not read again since.
    pub unverified: u64,
    /// Files that change faster than they can be read (source), or of which what lies here was read while they did (replica, and
    /// a source that was one): it may be a mixture of versions.
    pub fuzzy: Vec<String>,
    /// Further ones without a name here.
    pub fuzzy_more: u64,
    /// The large file whose content is read now, on which others may wait.
    pub reading: Option<String>,
    /// Counts above that are not what there is, and what they are.
    pub inexact: BTreeMap<Counted, Inexact>,
}

/// A count of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Counted {
    /// [`TreeStatus::queue`].
    Queue,
    /// [`TreeStatus::errors`].
    Errors,
    /// [`TreeStatus::local_changes`].
    LocalChanges,
    /// [`TreeStatus::kept`].
    Kept,
    /// [`TreeStatus::unverified`].
    Unverified,
}

/// What the number of a count is that is not exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Inexact {
    /// It ended at its bound: there may be more.
    AtLeast,
    /// Of some it is known how often one was met, and not how many there are.
    About,
}

/// The newest consistent set of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetStatus {
    /// Counts up.
    pub number: u64,
    /// When the tree was held still: milliseconds since 1970 by the source's clock.
    pub made_unix_ms: u64,
    /// Source: it is durable and applied on the peer.
    pub there: bool,
    /// Source: the time until the next one, if it is known.
    pub next: Option<Duration>,
}

/// How far the rolling comparison of contents is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ContentsStatus {
    /// Files compared in this round.
    pub files: u64,
    /// Bytes compared in this round.
    pub bytes: u64,
    /// Files whose content differed from the index in this round although their times had not moved.
    pub differed: u64,
    /// The round before, once there is one.
    pub last: Option<ContentsRound>,
}

/// A complete round of the comparison of contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentsRound {
    /// When it began, milliseconds since 1970.
    pub begun_unix_ms: u64,
    /// When it ended, milliseconds since 1970.
    pub ended_unix_ms: u64,
    /// Files compared.
    pub files: u64,
    /// Files whose content differed from the index although their times had not moved.
    pub differed: u64,
}

/// How far the comparison with a receiver is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyStatus {
    /// Who it is.
    pub receiver: Receiver,
    /// Entries compared in this round.
    pub entries: u64,
    /// Bytes compared in this round.
    pub bytes: u64,
    /// Paths that differed in this round.
    pub differ: u64,
    /// The first of them.
    pub named: Vec<String>,
    /// The round before, once there is one.
    pub last: Option<VerifyRound>,
}

/// A complete comparison with a receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyRound {
    /// When it began, milliseconds since 1970.
    pub begun_unix_ms: u64,
    /// When it ended, milliseconds since 1970.
    pub ended_unix_ms: u64,
    /// Entries compared.
    pub entries: u64,
    /// Bytes compared.
    pub bytes: u64,
    /// Paths that differed and were not repaired.
    pub differ: u64,
    /// The first of them.
    pub named: Vec<String>,
}

/// The session with the peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Protocol version in use.
    pub version: u16,
    /// Batches sent and not yet durable on the peer (source), or received and not yet applied (replica).
    pub in_flight: u32,
    /// Bytes of file contents sent or received by this session.
    pub bytes: u64,
    /// Everything is sent and durable (source), or the last commit was caught up (replica).
    pub caught_up: bool,
}

/// A replica that this node feeds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Its name.
    pub name: String,
    /// The session with it, while there is one.
    pub session: Option<SessionStatus>,
    /// Trees that it does not take in this session: it is not in sync then.
    pub lacks: BTreeSet<TreeId>,
    /// It keeps paths as they are there against this node's word, because of a flag: it is not in sync then.
    pub keeps: bool,
    /// Highest sequence number that it answered as durable; 0: not heard since this node began to send.
    pub acked: u64,
    /// Age of the oldest change that is not durable there. `None`: not heard since this node began to send.
    pub lag: Option<Duration>,
}

/// Something that a person should hear of. Stays listed until the reason is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// Tree it is about, if it is about one.
    pub tree: Option<String>,
    /// Stable short name: `guard`, `identity`, `writers`, `rescue`, `no-room`, `read-only`, `spool-full`, `diverged`,
    /// `index`, `watch`, `worker`, `verify`, `fuzzy`.
    pub kind: String,
    /// One sentence.
    pub text: String,
}

/// The whole engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineStatus {
    /// What it does.
    pub mode: Mode,
    /// Every tree has a first epoch.
    pub born: bool,
    /// Every tree is `consistent`, not stopped, and its root identity is proven (R3).
    pub consistent: bool,
    /// Every tree that is not consistent is `catching-up`: the one doubt that policy may accept.
    pub catching_up_only: bool,
    /// First reason why these data cannot be promoted, in words for the operator.
    pub reason: Option<String>,
    /// Highest sequence number that is durable here (the replica: applied; what is only spooled is not counted).
    pub seq: u64,
    /// Highest sequence number that the peer answered as durable (source), or that this node answered (replica).
    pub acked: u64,
    /// Digest over the newest epochs of all trees: where it is equal, `seq` tells who has more.
    pub epochs_digest: u64,
    /// Source: the standby said that it keeps paths as they are there against this node's word, because of a flag.
    pub peer_keeps: bool,
    /// Source: age of the oldest change that is not durable on the peer; zero when there is none. `None` otherwise.
    pub lag: Option<Duration>,
    /// Receiver: CLOCK_BOOTTIME nanoseconds of this node at which the master's last "durable up to here" was made,
    /// never later than the truth. `None`: unknown since this agent started. Data are fresh until this plus `max_stale`.
    pub fresh_at: Option<u64>,
    /// Applying is paused by `hold`.
    pub hold: bool,
    /// Bytes in the spool.
    pub spooled: u64,
    /// The session, while there is one.
    pub session: Option<SessionStatus>,
    /// Source: the replicas besides the standby, by name.
    pub replicas: Vec<ReplicaStatus>,
    /// Name of the node at the other end of the newest session in which this one received.
    pub from: Option<String>,
    /// Trees in configured order.
    pub trees: Vec<TreeStatus>,
    /// Open alarms.
    pub alarms: Vec<Alarm>,
}
