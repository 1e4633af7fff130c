//! How this node's data relate to the peer's, by rule R2, over all trees of the pair.

use serde::{Deserialize, Serialize};

/// Relation of my data to the peer's. The same cases as the failover half's `Relation`; the agent maps one to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// Every tree has the same head and position.
    Equal,
    /// The peer's heads are in my lineages: I send.
    Ahead,
    /// My heads are in the peer's lineages: I receive.
    Behind,
    /// Trees disagree about the direction, or neither head is in the other's lineage.
    Diverged,
    /// No common epoch at all: refused until `tandem adopt`.
    Unrelated,
    /// Neither node has a first epoch: waits for `tandem init --source`.
    BothUnborn,
}
