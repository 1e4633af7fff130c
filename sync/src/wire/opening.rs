//! The first words of a session: which version, who speaks, what it has, and the replica's answer.

use super::{MAX_VERSION, MIN_VERSION};
use crate::lineage::NodeHeads;
use crate::tree::TreeId;
use serde::{Deserialize, Serialize};

/// First words of each end. Its format never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// [`Greeting::MAGIC`].
    pub magic: [u8; 8],
    /// Lowest version spoken.
    pub min: u16,
    /// Highest version spoken.
    pub max: u16,
}

impl Greeting {
    /// Says what this is.
    pub const MAGIC: [u8; 8] = *b"tandem-s";

    /// This code's greeting.
    pub fn ours() -> Self {
        Greeting {
            magic: Self::MAGIC,
            min: MIN_VERSION,
            max: MAX_VERSION,
        }
    }

    /// The highest version that both speak.
    pub fn common(&self, theirs: &Greeting) -> Option<u16> {
        let version = self.max.min(theirs.max);
        (theirs.magic == Self::MAGIC && version >= self.min && version >= theirs.min)
            .then_some(version)
    }
}

/// The end of the stream that somebody stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// Sends its trees.
    Source,
    /// Receives.
    Replica,
}

/// Who speaks, and what it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Which end the sender takes.
    pub end: End,
    /// Name of the pair.
    pub pair: String,
    /// The node and its trees: lineages, positions, completeness.
    pub heads: NodeHeads,
    /// Source, per tree: changes alone bring nobody up to date who has less than this, for something that left no record
    /// came before it. Such a receiver begins anew, by contents. A tree that is not named has no such number. At most
    /// [`MAX_TREES`](crate::tree::MAX_TREES).
    pub floors: Vec<(TreeId, u64)>,
}

/// The replica agrees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accept {
    /// Per tree: what it has already, as a sequence number of the source's. A tree that is not named is not sent.
    pub from: Vec<(TreeId, u64)>,
    /// Small files may come with their batch: it is unlikely that the replica has them already.
    pub inline: bool,
    /// Clock stamp for [`Idle`](super::Idle); see [`Durable::stamp`](super::Durable::stamp).
    pub stamp: u64,
}

/// This end does not go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refuse {
    /// Why, for a person.
    pub why: String,
    /// The reason goes away by itself.
    pub retry: bool,
}
