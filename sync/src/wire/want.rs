//! What the replica lacks of a batch, and how it wants it.

use crate::entry::ContentHash;
use serde::{Deserialize, Serialize};

/// How the replica wants the content of an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// All of it.
    Whole,
    /// By differences to a basis with these sums: what lies at the path, or what a transfer left that was cut.
    Against(ChunkSums),
    /// What is behind this content, with which it begins if it has only grown. The source begins with a [`Message::Copy`](super::Message::Copy) of it,
    /// or with other bytes if it has not.
    Behind {
        /// Bytes.
        size: u64,
        /// Of all of them.
        hash: ContentHash,
    },
}

/// Short hashes of the aligned chunks of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkSums {
    /// Bytes of the basis.
    pub size: u64,
    /// Bytes of a chunk: a power of two from 64 KiB to 1 GiB. The last chunk may be shorter.
    pub chunk: u32,
    /// First 16 bytes of each chunk's hash as a content. At most [`MAX_SUMS`](super::MAX_SUMS).
    pub sums: Vec<[u8; 16]>,
}

impl Want {
    /// Bytes that it adds to a message, rounded up.
    pub fn bytes(&self) -> usize {
        match self {
            Want::Against(sums) => 64 + 16 * sums.sums.len(),
            Want::Whole | Want::Behind { .. } => 64,
        }
    }
}

/// What the replica lacks of a batch. One message per batch ends with `last`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// Batch.
    pub batch: u64,
    /// (index of the record in the batch, how). At most [`MAX_RECORDS`](super::MAX_RECORDS).
    pub items: Vec<(u32, Want)>,
    /// No further `Need` for this batch.
    pub last: bool,
}
