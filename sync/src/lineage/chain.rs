//! The chain of epochs.

use super::{Branch, Epoch, EpochId, MAX_POSITION, NodeName};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Most epochs that are kept. Older ones are folded away: about 50 KiB in a Hello per tree at most, and a node that was
/// away for more than a thousand changes of master needs `tandem adopt`.
pub const MAX_EPOCHS: usize = 1024;

/// Why something is not a lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineageError {
    /// More than [`MAX_EPOCHS`].
    #[error("a lineage of {0} epochs, more than {MAX_EPOCHS}")]
    TooLong(usize),
    /// An epoch whose parent is not the epoch before it, or lies before that epoch began.
    #[error("epoch {0} does not continue the epoch before it")]
    Broken(EpochId),
    /// A number that nobody can have reached.
    #[error("epoch {0} begins beyond any number that can have been reached")]
    Beyond(EpochId),
    /// An epoch twice.
    #[error("epoch {0} is there twice")]
    Twice(EpochId),
    /// A node name that is empty or too long.
    #[error("a node name is empty or too long")]
    NodeName,
    /// R5: an unborn tree cannot begin an epoch, it can only receive or be initialised.
    #[error("an unborn tree cannot begin to write")]
    Unborn,
    /// The first epoch of a tree that has one.
    #[error("the tree has its first epoch already")]
    Born,
}

/// The epochs of a tree, oldest first. Empty: the tree is unborn.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Parts")]
pub struct Lineage {
    /// How many epochs before the first one here were folded away.
    folded: u64,
    epochs: Vec<Epoch>,
}

/// [`Lineage`] before it is checked.
#[derive(Deserialize)]
struct Parts {
    folded: u64,
    epochs: Vec<Epoch>,
}

impl TryFrom<Parts> for Lineage {
    type Error = LineageError;
    fn try_from(parts: Parts) -> Result<Self, LineageError> {
        Lineage::checked(parts.folded, parts.epochs)
    }
}

impl Lineage {
    /// The lineage of an unborn tree.
    pub fn unborn() -> Self {
        Lineage::default()
    }

    /// The lineage of a tree that has its very first epoch.
    pub fn first(id: EpochId, term: u64, node: NodeName) -> Self {
        Lineage {
            folded: 0,
            epochs: vec![Epoch {
                id,
                term,
                node,
                parent: None,
            }],
        }
    }

    fn checked(folded: u64, epochs: Vec<Epoch>) -> Result<Self, LineageError> {
        if epochs.len() > MAX_EPOCHS {
            return Err(LineageError::TooLong(epochs.len()));
        }
        let mut seen = HashSet::new();
        let mut before: Option<&Epoch> = None;
        for epoch in &epochs {
            if folded > MAX_POSITION || start(epoch) > MAX_POSITION {
                return Err(LineageError::Beyond(epoch.id));
            }
            let continues = match (before, epoch.parent) {
                (None, None) => folded == 0,
                (None, Some(_)) => folded > 0,
                (Some(_), None) => false,
                (Some(before), Some(branch)) => {
                    branch.epoch == before.id && branch.seq >= start(before)
                }
            };
            if !continues {
                return Err(LineageError::Broken(epoch.id));
            }
            if !seen.insert(epoch.id) || epoch.parent.is_some_and(|b| b.epoch == epoch.id) {
                return Err(LineageError::Twice(epoch.id));
            }
            before = Some(epoch);
        }
        let folded = if epochs.is_empty() { 0 } else { folded };
        Ok(Lineage { folded, epochs })
    }

    /// The lineage after a master begins to write at position `seq` of this one. `id` is 128 fresh random bits.
    pub fn begin(
        &self,
        id: EpochId,
        term: u64,
        node: NodeName,
        seq: u64,
    ) -> Result<Self, LineageError> {
        let head = self.head().ok_or(LineageError::Unborn)?;
        if self.leaves(id).is_some() {
            return Err(LineageError::Twice(id));
        }
        if seq < start(head) {
            return Err(LineageError::Broken(id));
        }
        let parent = Some(Branch {
            epoch: head.id,
            seq,
        });
        let mut next = self.clone();
        if next.epochs.len() == MAX_EPOCHS {
            next.epochs.remove(0);
            next.folded += 1;
        }
        next.epochs.push(Epoch {
            id,
            term,
            node,
            parent,
        });
        Ok(next)
    }

    /// True if there is no epoch.
    pub fn is_unborn(&self) -> bool {
        self.epochs.is_empty()
    }

    /// The epochs that are kept, oldest first.
    pub fn epochs(&self) -> &[Epoch] {
        &self.epochs
    }

    /// How many older epochs were folded away.
    pub fn folded(&self) -> u64 {
        self.folded
    }

    /// The last epoch.
    pub fn head(&self) -> Option<&Epoch> {
        self.epochs.last()
    }

    /// Where this lineage leaves the epoch `id`. `None`: it does not hold that epoch (or folded it away).
    pub fn leaves(&self, id: EpochId) -> Option<Leaves> {
        let at = match self.epochs.iter().rposition(|e| e.id == id) {
            Some(at) => at + 1,
            // The last folded epoch is still known as the parent of the first one kept.
            None => self
                .epochs
                .first()?
                .parent
                .filter(|b| b.epoch == id)
                .map(|_| 0)?,
        };
        Some(match self.epochs.get(at) {
            None => Leaves::Never,
            // Every epoch but the very first has a parent.
            Some(next) => Leaves::At(start(next)),
        })
    }

    /// The epoch that follows `id` here.
    pub fn after(&self, id: EpochId) -> Option<&Epoch> {
        self.epochs
            .iter()
            .find(|e| e.parent.is_some_and(|b| b.epoch == id))
    }

    /// This lineage as far as somebody has it who holds everything up to `seq` and nothing more.
    pub fn upto(&self, seq: u64) -> Self {
        let mut kept = self.clone();
        while kept.epochs.len() > 1 && kept.epochs.last().is_some_and(|e| start(e) > seq) {
            kept.epochs.pop();
        }
        kept
    }

    /// This lineage cut behind the epoch `id`. `None` if it does not hold it.
    pub fn cut_behind(&self, id: EpochId) -> Option<Self> {
        let at = self.epochs.iter().position(|e| e.id == id)?;
        Some(Lineage {
            folded: self.folded,
            epochs: self.epochs[..=at].to_vec(),
        })
    }

    /// The last epoch that both hold. Two lineages that tell different stories about one epoch share nothing.
    pub fn last_common(&self, other: &Lineage) -> Option<EpochId> {
        let epoch = self
            .epochs
            .iter()
            .rev()
            .find(|mine| other.epochs.iter().any(|theirs| theirs.id == mine.id));
        match epoch {
            Some(mine) => other
                .epochs
                .iter()
                .any(|theirs| theirs == mine)
                .then_some(mine.id),
            None => self
                .common_by_fold(other)
                .or_else(|| other.common_by_fold(self)),
        }
    }

    /// The last epoch that `self` folded away, if `other` ends with it.
    fn common_by_fold(&self, other: &Lineage) -> Option<EpochId> {
        let folded = self.epochs.first()?.parent?.epoch;
        other
            .epochs
            .iter()
            .any(|e| e.id == folded)
            .then_some(folded)
    }
}

/// The position at which an epoch begins: everything up to it is its parent's.
fn start(epoch: &Epoch) -> u64 {
    epoch.parent.map_or(0, |branch| branch.seq)
}

/// Where a lineage leaves one of its epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaves {
    /// It is the head: the lineage is still in it.
    Never,
    /// The next epoch began at this sequence number.
    At(u64),
}

impl Leaves {
    /// The last number of the epoch that a node at position `seq` of the lineage shares.
    pub fn or_position(self, seq: u64) -> u64 {
        match self {
            Leaves::Never => seq,
            Leaves::At(at) => at.min(seq),
        }
    }
}
