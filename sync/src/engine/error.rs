//! Errors at the border of the engine.

use super::receivers::Receiver;
use crate::path::RelPath;
use thiserror::Error;

/// The engine could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The configuration of the trees cannot be used.
    #[error("trees: {0}")]
    Config(String),
    /// The index cannot be opened or read.
    #[error("index {path}: {why}")]
    Index {
        /// File.
        path: String,
        /// What happened.
        why: String,
    },
    /// The state directory cannot be used.
    #[error("state directory {path}: {source}")]
    StateDir {
        /// Directory.
        path: String,
        /// What happened.
        source: std::io::Error,
    },
    /// The worker thread cannot be started.
    #[error("worker thread: {0}")]
    Thread(std::io::Error),
}

/// A command could not be carried out.
#[derive(Debug, Error)]
pub enum CommandError {
    /// No such tree in the configuration.
    #[error("no tree named {0:?}")]
    NoSuchTree(String),
    /// More is gone than the operator was shown.
    #[error("{now} entries are gone now, {shown} were shown: look again")]
    MoreGone {
        /// As it was shown.
        shown: u64,
        /// As it is.
        now: u64,
    },
    /// Only a source can do this.
    #[error("this node is not the source")]
    NotSource,
    /// Only a node that is not source can do this.
    #[error("this node is the source")]
    IsSource,
    /// Only a node of the pair can do this.
    #[error("this node is a replica: it only receives")]
    Replica,
    /// A tree has no first epoch (R5).
    #[error(
        "tree {0:?} is unborn: it was never copied here and `tandem init --source` was not run"
    )]
    Unborn(String),
    /// The list of trees cannot be used now.
    #[error("the trees cannot be changed: {0}")]
    Trees(String),
    /// There is no session with the peer.
    #[error("no session with the peer")]
    NoSession,
    /// No such replica in the configuration.
    #[error("no replica named {0:?}")]
    NoSuchReplica(String),
    /// A receiver does not get a tree.
    #[error("{by} does not get tree {tree:?}")]
    NotReceived {
        /// Tree.
        tree: String,
        /// Receiver.
        by: Receiver,
    },
    /// There is no session with a replica.
    #[error("not compared: replica {0} is away")]
    ReplicaAway(String),
    /// A replica has not what it is to be compared with.
    #[error("not compared: replica {0} did not have everything within {1:?}")]
    ReplicaBehind(String, std::time::Duration),
    /// A file does not rest although nobody is served any more: the peer may not have what was written last.
    #[error(
        "{path} in the tree {tree} changes faster than it can be read, also {within:?} after clients were shut out: stop what writes it, \
         by a hook with on = \"freeze\" for example, or give the move more time to read it"
    )]
    NeverRests {
        /// The tree.
        tree: String,
        /// The first of such files.
        path: RelPath,
        /// For how long it was waited for.
        within: std::time::Duration,
    },
    /// It was not done within the bound.
    #[error("not done within {0:?}: {1}")]
    Timeout(std::time::Duration, String),
    /// The root of a tree cannot be used or is not the expected one.
    #[error("tree {tree:?}: {why}")]
    Root {
        /// Tree.
        tree: String,
        /// Why.
        why: String,
    },
    /// A file cannot be written or read.
    #[error("{path}: {source}")]
    File {
        /// Path, escaped for display.
        path: String,
        /// What happened.
        source: std::io::Error,
    },
    /// The path is not one of a tree.
    #[error("path: {0}")]
    BadPath(String),
    /// The durable index failed.
    #[error("index: {0}")]
    Index(String),
    /// The rescue failed.
    #[error("rescue: {0}")]
    Rescue(String),
    /// No such set in the rescue of this node, or no such entry in the set.
    #[error("the rescue has no {0}")]
    NotInRescue(String),
    /// The trash of a tree cannot be read.
    #[error("trash of tree {tree:?}: {why}")]
    Trash {
        /// Tree.
        tree: String,
        /// What happened.
        why: String,
    },
    /// There is no such thing in the trash of this node.
    #[error("the trash has no {0}")]
    NotInTrash(String),
    /// More lies below a path than one command puts back.
    #[error("{0}: more than {1} entries are there: put back one part after the other")]
    TooMuch(String, usize),
    /// Something else is at the path, and was not to be replaced.
    #[error("{0}: another version is there")]
    Occupied(String),
    /// The spool failed.
    #[error("spool: {0}")]
    Spool(String),
    /// The engine has ended.
    #[error("the engine has ended")]
    Ended,
}

/// A session ended with an error. The next session starts from what is durable.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The stream failed.
    #[error("stream: {0}")]
    Stream(#[from] std::io::Error),
    /// The peer sent something that the protocol does not allow.
    #[error("protocol: {0}")]
    Protocol(String),
    /// No protocol version in common.
    #[error(
        "the peer speaks versions {theirs_min}..={theirs_max}, this node {ours_min}..={ours_max}"
    )]
    Version {
        /// Lowest here.
        ours_min: u16,
        /// Highest here.
        ours_max: u16,
        /// Lowest there.
        theirs_min: u16,
        /// Highest there.
        theirs_max: u16,
    },
    /// The peer's data and mine do not allow this direction.
    #[error("direction: {0}")]
    Direction(String),
    /// The peer was silent for too long.
    #[error("the peer was silent for {0:?} while {1}")]
    Silent(std::time::Duration, &'static str),
    /// Something on this node failed: a tree, the index, the spool.
    #[error("local: {0}")]
    Local(String),
    /// The role does not allow this session.
    #[error("this node may not {0} now")]
    Role(&'static str),
}
