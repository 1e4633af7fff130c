//! A tree's durable position, and the only ways in which it moves.

use super::{Branch, CopyState, EpochId, Lineage, LineageError, NodeName};
use crate::lineage::chain::Leaves;
use serde::{Deserialize, Serialize};

/// Why a position may not move as asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdvanceError {
    /// What arrived ends before what is here.
    #[error("the source's data end at {upto}, before this node's position {seq}")]
    Backwards {
        /// This node's position.
        seq: u64,
        /// What was to be recorded.
        upto: u64,
    },
    /// The source left this epoch earlier: what was written here past it must go to the rescue first.
    #[error("this node is at {seq} of epoch {epoch}, which the source left at {left}: not rewound")]
    NotRewound {
        /// The head here.
        epoch: EpochId,
        /// This node's position.
        seq: u64,
        /// Where the source left that epoch.
        left: u64,
    },
    /// The source's lineage does not hold this node's head.
    #[error("the source does not know epoch {0}, in which this node is")]
    Foreign(EpochId),
    /// The source has no epoch (R5).
    #[error("an unborn source sends nothing")]
    UnbornSource,
    /// A rewind to a place that is not behind this node in its own lineage.
    #[error("{to:?} is not behind position {seq} of this node's lineage")]
    NotBehind {
        /// The wished place.
        to: Branch,
        /// This node's position.
        seq: u64,
    },
}

/// Where a tree is: lineage, position in its last epoch, completeness. Durable in the index.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Head {
    /// The epochs.
    pub lineage: Lineage,
    /// Position in the last of them.
    pub seq: u64,
    /// How complete the copy is.
    pub state: CopyState,
}

impl Head {
    /// The very first epoch of an unborn tree, by `tandem init --source`, at `seq`, the last number given out.
    pub fn init(
        &self,
        id: EpochId,
        term: u64,
        node: NodeName,
        seq: u64,
    ) -> Result<Head, LineageError> {
        if !self.lineage.is_unborn() {
            return Err(LineageError::Born);
        }
        Ok(Head {
            lineage: Lineage::first(id, term, node),
            seq,
            state: CopyState::Consistent,
        })
    }

    /// A new epoch at this position: this node begins to write. From here on its state is by definition the data.
    pub fn begin(&self, id: EpochId, term: u64, node: NodeName) -> Result<Head, LineageError> {
        let lineage = self.lineage.begin(id, term, node, self.seq)?;
        Ok(Head {
            lineage,
            seq: self.seq,
            state: CopyState::Consistent,
        })
    }

    /// This node wrote up to `seq` in its own epoch.
    pub fn wrote(&mut self, seq: u64) {
        debug_assert!(!self.lineage.is_unborn(), "an unborn tree has no position");
        self.seq = self.seq.max(seq);
    }

    /// What was written here past `to` has been put into the rescue: from now on this node only has what lies before.
    pub fn rewind(&self, to: Branch) -> Result<Head, AdvanceError> {
        let refused = AdvanceError::NotBehind { to, seq: self.seq };
        let shared = self
            .lineage
            .leaves(to.epoch)
            .ok_or(refused)?
            .or_position(self.seq);
        if to.seq > shared {
            return Err(refused);
        }
        let lineage = self.lineage.cut_behind(to.epoch).ok_or(refused)?;
        Ok(Head {
            lineage,
            seq: to.seq,
            state: self.state.min_catching_up(),
        })
    }

    /// Everything of `source` up to `upto` has arrived and is durable; with `caught_up` that is all the source had at
    /// one moment. A heartbeat or a promise is never a reason to call this.
    pub fn advance(
        &self,
        source: &Lineage,
        upto: u64,
        caught_up: bool,
    ) -> Result<Head, AdvanceError> {
        if source.is_unborn() {
            return Err(AdvanceError::UnbornSource);
        }
        if let Some(head) = self.lineage.head() {
            let leaves = source
                .leaves(head.id)
                .ok_or(AdvanceError::Foreign(head.id))?;
            if let Leaves::At(left) = leaves
                && self.seq > left
            {
                return Err(AdvanceError::NotRewound {
                    epoch: head.id,
                    seq: self.seq,
                    left,
                });
            }
            if upto < self.seq {
                return Err(AdvanceError::Backwards {
                    seq: self.seq,
                    upto,
                });
            }
        }
        let state = match (caught_up, self.state) {
            (true, _) => CopyState::Consistent,
            (false, CopyState::Unborn | CopyState::Copying) => CopyState::Copying,
            (false, CopyState::CatchingUp | CopyState::Consistent) => CopyState::CatchingUp,
        };
        Ok(Head {
            lineage: source.upto(upto),
            seq: upto,
            state,
        })
    }

    /// This node is about to be brought up to date: until it is, its files are of different moments.
    pub fn behind(&self) -> Head {
        Head {
            state: self.state.min_catching_up(),
            ..self.clone()
        }
    }

    /// The place of this position, `None` while unborn.
    pub fn place(&self) -> Option<Branch> {
        self.lineage.head().map(|epoch| Branch {
            epoch: epoch.id,
            seq: self.seq,
        })
    }
}

impl CopyState {
    fn min_catching_up(self) -> CopyState {
        match self {
            CopyState::Consistent => CopyState::CatchingUp,
            other => other,
        }
    }
}
