//! What the peer has of a path: the acknowledged base, which may lag but never leads.
//!
//! ```text
//!   entry.seq <= acked.upto  ->  the peer has exactly `current`            (Basis::Current)
//!   entry.seq <= acked.void  ->  what it acknowledged is lost there        (Basis::Never)
//!   else                     ->  what was written down when it changed     (Never, Was, Unknown)
//! ```
//! So an acknowledgement costs one number, not one write per entry.

use super::{IndexEntry, LocalKey, State};
use serde::{Deserialize, Serialize};

/// How far the peer has acknowledged this node's changes as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Acked {
    /// Every entry with a sequence number up to this is durable at the peer as it is here.
    pub upto: u64,
    /// Bases of entries up to this number say nothing any more: the peer that acknowledged them lost its data.
    pub void: u64,
}

impl Acked {
    /// The peer acknowledged everything up to `seq`. Never goes back.
    pub fn advance(&mut self, seq: u64) {
        self.upto = self.upto.max(seq);
    }

    /// The peer holds nothing any more (a new disk, a lost state): every base up to `last`, the newest sequence
    /// number given out, is void.
    pub fn forget(&mut self, last: u64) {
        *self = Acked {
            upto: 0,
            void: last.max(self.void),
        };
    }
}

/// What was written down about the peer when an entry changed. Read it through [`IndexEntry::basis`] only.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Base {
    /// The peer never acknowledged anything at this path.
    #[default]
    Never,
    /// The peer acknowledged this; `None`: that there is nothing.
    Was(Option<Box<State>>),
    /// The index was lost; whatever differs counts as unreplicated.
    Unknown,
}

/// What the peer is known to have of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis<'a> {
    /// Exactly the entry's current state.
    Current,
    /// Nothing that it acknowledged.
    Never,
    /// This older state; it may have more by now. `None`: nothing lies there.
    Was(Option<&'a State>),
    /// Not known: the index was lost.
    Unknown,
}

/// What a new look at a path means for its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Nothing to write.
    Unchanged,
    /// The same state; only the local key is new. Keeps its sequence number and is not sent.
    LocalOnly(IndexEntry),
    /// A change with its new sequence number.
    Changed(IndexEntry),
}

impl IndexEntry {
    /// What the peer has of this entry, given how far it acknowledged.
    pub fn basis(&self, acked: &Acked) -> Basis<'_> {
        if self.seq == 0 {
            // Found on a receiver before its first copy: of no history.
            return Basis::Never;
        }
        if self.seq <= acked.upto {
            return Basis::Current;
        }
        if self.seq <= acked.void {
            return Basis::Never;
        }
        match &self.base {
            Base::Never => Basis::Never,
            Base::Was(state) => Basis::Was(state.as_deref()),
            Base::Unknown => Basis::Unknown,
        }
    }

    /// True if this node would lose something that the pair has not acknowledged if the entry were overwritten.
    ///
    /// With [`Basis::Was`] that holds even for a state equal to the base: the peer may have received, and not yet
    /// acknowledged, a version between the two. A returning master passes the branch point as `acked.upto`.
    pub fn is_unreplicated(&self, acked: &Acked) -> bool {
        match self.basis(acked) {
            Basis::Current => false,
            Basis::Never => self.current.is_some(),
            Basis::Was(_) | Basis::Unknown => true,
        }
    }

    /// What a new look at a path, which found `current` (`None`: nothing) with key `local`, makes of its old entry.
    /// `seq` is the number that the change gets, above every number given out before.
    pub fn observe(
        old: Option<&IndexEntry>,
        acked: &Acked,
        current: Option<State>,
        local: Option<LocalKey>,
        seq: u64,
    ) -> Change {
        let Some(old) = old else {
            return match current {
                None => Change::Unchanged,
                some => Change::Changed(IndexEntry {
                    current: some,
                    seq,
                    base: Base::Never,
                    local,
                }),
            };
        };
        debug_assert!(seq > old.seq, "sequence numbers only grow");
        if old.current == current && old.seq != 0 {
            return if old.local == local {
                Change::Unchanged
            } else {
                Change::LocalOnly(IndexEntry {
                    local,
                    ..old.clone()
                })
            };
        }
        let base = match old.basis(acked) {
            Basis::Current => Base::Was(old.current.clone().map(Box::new)),
            Basis::Never => Base::Never,
            Basis::Was(state) => Base::Was(state.cloned().map(Box::new)),
            Basis::Unknown => Base::Unknown,
        };
        Change::Changed(IndexEntry {
            current,
            seq,
            base,
            local,
        })
    }

    /// The entry for a state that came from the peer with the peer's sequence number.
    pub fn received(current: Option<State>, seq: u64, local: Option<LocalKey>) -> Self {
        IndexEntry {
            current,
            seq,
            base: Base::Never,
            local,
        }
    }

    /// The entry for something found on a receiver that has no history yet: no sequence number, not sent.
    pub fn found(current: State, local: LocalKey) -> Self {
        IndexEntry {
            current: Some(current),
            seq: 0,
            base: Base::Never,
            local: Some(local),
        }
    }
}
