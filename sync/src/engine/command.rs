//! What the worker is asked to do, and what it answers.

use super::apply::{Applied, Batch};
use super::error::CommandError;
use super::prepare::Prepared;
use super::receivers::Receiver;
use super::report::{AcceptPrice, InitReport, NotCovered};
use super::sets::Pass;
use super::verified::Verified;
use crate::commit::Purged;
use crate::fault::Fault;
use crate::lineage::NodeHeads;
use crate::path::RelPath;
use crate::tree::{TreeConfig, TreeId};
use crate::wire::{Fuzzy, Idle, Move, Refuse, VerifyAnswer, VerifyPart};
use std::time::Duration;
use tokio::sync::oneshot;

/// A place for an answer.
pub(crate) type Reply<T> = oneshot::Sender<T>;

/// Commands to the worker.
pub(crate) enum Command {
    /// First epoch of every unborn tree.
    Init(Reply<Result<InitReport, CommandError>>),
    /// Become the source.
    BeginSource {
        term: u64,
        reply: Reply<Result<(), CommandError>>,
    },
    /// Become the replica.
    BeginReplica(Reply<Result<(), CommandError>>),
    /// Become neither.
    Idle(Reply<Result<(), CommandError>>),
    /// Look at a path again, then tell the newest number.
    Examine {
        tree: TreeId,
        path: RelPath,
        reply: Reply<u64>,
    },
    /// Record everything that happened before this command, in one tree or in all, then tell the newest number.
    Barrier {
        only: Option<TreeId>,
        reply: Reply<Recorded>,
    },
    /// Classify what is here, then say what the source may send. From now on only this session's batches count.
    Prepare {
        session: u64,
        theirs: NodeHeads,
        /// See [`crate::wire::Hello::floors`].
        floors: Vec<(TreeId, u64)>,
        reply: Reply<Result<Prepared, Refuse>>,
    },
    /// Apply a batch.
    Apply {
        session: u64,
        batch: Box<Batch>,
        /// Hears of it when it is durable before it is applied.
        ahead: Reply<Applied>,
        reply: Reply<Result<Applied, String>>,
    },
    /// "Durable up to here".
    Fresh {
        session: u64,
        idle: Idle,
        source: NodeHeads,
        reply: Reply<Result<Applied, String>>,
    },
    /// What became of a rename that a session was asked to send.
    Moved { tree: TreeId, seq: u64, done: bool },
    /// The source's list of files that never rest.
    Fuzzy { session: u64, list: Fuzzy },
    /// Carry out a rename of the source's. False: not as one.
    Move {
        session: u64,
        one: Move,
        source: NodeHeads,
        reply: Reply<Result<bool, String>>,
    },
    /// Paths that are not settled, of one tree, after this place.
    Unsettled {
        after: Option<(TreeId, RelPath)>,
        reply: Reply<Option<(TreeId, Vec<RelPath>)>>,
    },
    /// The peer holds less than it had: only up to this number.
    PeerLost { kept: u64 },
    /// Compare these paths by their content; what differs from the index goes to the rescue and is asked for.
    Suspect { tree: TreeId, paths: Vec<RelPath> },
    /// A comparison of a file that has grown may have ended, or somebody waits for the next one.
    Compared,
    /// Files that are unverified.
    Unverified(Reply<Vec<NotCovered>>),
    /// The source asked for these paths, and what lies here is what it has.
    Verified { tree: TreeId, paths: Vec<RelPath> },
    /// Keep how far a tree was compared with a receiver's.
    KeepVerified {
        tree: TreeId,
        of: Receiver,
        verified: Box<Verified>,
        reply: Reply<Result<(), CommandError>>,
    },
    /// Pause applying.
    Hold(Reply<Result<(), CommandError>>),
    /// Apply what was spooled and go on.
    Release(Reply<Result<(), CommandError>>),
    /// Give up this node's own history.
    Adopt(Reply<Result<(), CommandError>>),
    /// These are the trees from here on.
    SetTrees {
        trees: Vec<TreeConfig>,
        reply: Reply<Result<(), CommandError>>,
    },
    /// Let the deletions pass that the guard held back.
    Accept {
        tree: String,
        /// Refuse if more than this is gone.
        most: Option<u64>,
        reply: Reply<Result<(), CommandError>>,
    },
    /// What would pass.
    AcceptPrice {
        tree: String,
        reply: Reply<Result<AcceptPrice, CommandError>>,
    },
    /// A pass for a consistent set ended.
    Set(Box<Pass>),
    /// Remove some of what is in a tree's trash: hours that are older, or any. `None`: the tree is not open.
    EmptyTrash {
        tree: TreeId,
        older: Option<Duration>,
        reply: Reply<Option<Result<Purged, Fault>>>,
    },
    /// Show the status as it is, for tests.
    #[cfg(test)]
    Show(Reply<()>),
    /// Read at once what never rested, as nobody should write it any more. The first of it, with its tree.
    ReadRestless(Reply<Option<(String, RelPath)>>),
    /// Single paths that a flush cannot speak for.
    Exceptions(Reply<Vec<NotCovered>>),
}

/// A question of `verify` to the replica.
pub(crate) struct VerifyAsk {
    /// What this node has.
    pub part: VerifyPart,
    /// What differs there.
    pub reply: Reply<VerifyAnswer>,
}

/// Answer to a barrier.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recorded {
    /// Newest number.
    pub head: u64,
    /// What is not recorded.
    pub not_covered: Vec<NotCovered>,
    /// Single paths that could not be, of trees that are.
    pub except: Vec<NotCovered>,
}

/// What is known of the peer by the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Peer {
    /// There is a session.
    pub session: bool,
    /// Durable there with nothing unsettled.
    pub acked: u64,
    /// Applied there.
    pub applied: u64,
    /// Everything known here is durable there.
    pub caught_up: bool,
    /// It is known that it keeps no path as it is.
    pub follows: bool,
    /// It is known that it keeps some.
    pub keeps: bool,
}
