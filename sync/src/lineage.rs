//! Who has the data (rules R1, R2 and R5): lineages, positions, and the direction that follows from them.
//!
//! A *lineage* is the chain of epochs that a tree's data went through. An *epoch* begins when a node begins to write as
//! master, at a *branch point*: the sequence number up to which the epoch shares the data of its parent. A *position*
//! in a lineage is a sequence number of its last epoch, the head. Terms play no part in any direction (R1).
//!
//! ```text
//!        epoch a            epoch b (parent a, 100)
//!   ────────────────100──┬──────────────────────120     the peer's head is b, position 120
//!                        └───────150                    my head is a, position 150: I receive, 101..150 is unreplicated
//! ```
//! A machine image that is restored while it runs, and goes on in the same epoch, cannot be told by lineages: the failover
//! half sees it by its incarnation (R6). A restart always begins a new epoch.
//!
//! A lineage advances only by [`Head::advance`], which is told what arrived and is durable.

use crate::tree::{MAX_NAME, TreeId};
use serde::{Deserialize, Serialize};
use std::fmt;

mod chain;
mod head;
mod relation;

pub use chain::{Leaves, Lineage, LineageError, MAX_EPOCHS};
pub use head::{AdvanceError, Head};
pub use relation::{
    Direction, HeadsError, NodeHeads, PairRelation, Regress, Side, TreeHead, TreeRelation, combine,
    compare, first_source, left_behind, regressed,
};

/// Highest sequence number that is believed when the peer says that it sends it. A node counts one for each change, so
/// that nobody ever gets there by counting.
pub const MAX_SEQ: u64 = 1 << 62;
/// How far one session may lead a receiver on. Nobody makes so many changes while another node is away: at ten thousand a
/// second it takes three years.
pub const MAX_LEAP: u64 = 1 << 40;
/// Highest position in a lineage: as many numbers again, for a node that went on counting from the highest one that it
/// believed. What is added to a position cannot overflow.
const MAX_POSITION: u64 = 2 * MAX_SEQ;

/// 128 random bits that name an epoch. Drawn outside: pure code draws no randomness.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EpochId(pub u128);

impl fmt::Display for EpochId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for EpochId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A node's name, 1 to [`MAX_NAME`] bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

impl NodeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NodeName {
    type Error = LineageError;
    fn try_from(name: String) -> Result<Self, LineageError> {
        if name.is_empty() || name.len() > MAX_NAME {
            Err(LineageError::NodeName)
        } else {
            Ok(NodeName(name))
        }
    }
}

impl TryFrom<&str> for NodeName {
    type Error = LineageError;
    fn try_from(name: &str) -> Result<Self, LineageError> {
        NodeName::try_from(name.to_owned())
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> String {
        name.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A place where one epoch leaves another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Branch {
    /// The epoch that is left.
    pub epoch: EpochId,
    /// The last sequence number that both share.
    pub seq: u64,
}

/// One stretch of writing by one master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// Its name.
    pub id: EpochId,
    /// The term in which it began. For people; no direction follows from it.
    pub term: u64,
    /// Who wrote it.
    pub node: NodeName,
    /// Where it began; `None` for the very first.
    pub parent: Option<Branch>,
}

/// How complete the copy of a tree is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum CopyState {
    /// No epoch yet: never source, never master (R5).
    #[default]
    Unborn,
    /// The first copy is under way.
    Copying,
    /// Behind the source; the files are of different moments.
    CatchingUp,
    /// As the source was at one moment.
    Consistent,
}

impl fmt::Display for CopyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CopyState::Unborn => "unborn",
            CopyState::Copying => "copying",
            CopyState::CatchingUp => "catching-up",
            CopyState::Consistent => "consistent",
        })
    }
}

/// The tree a relation is about, for messages that name it.
pub type Named<T> = (TreeId, T);

#[cfg(test)]
mod tests;
