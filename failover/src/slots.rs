//! The durable state of the machine and its form on disk.
//!
//! # Format
//! One file with two slots of [`SLOT_LEN`] bytes. Generation `g` is written to slot `g % 2`, so that a torn
//! write hurts only the older state. A slot:
//!
//! | offset | length | content |
//! |---|---|---|
//! | 0 | 4 | magic `TDTM` |
//! | 4 | 2 | format version, little endian |
//! | 6 | 2 | length n of the content, little endian |
//! | 8 | 8 | generation, little endian |
//! | 16 | n | [`Durable`], postcard |
//! | 16 + n | 32 | BLAKE3 over all bytes before it |
//!
//! The rest is zero. A file of zeros (preallocated, never written) is an empty state.

use crate::heartbeat::{Ceded, Incarnation, MachineId, PairId};
use crate::view::PeerIdentity;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Length of a slot, bytes: one page, so that a slot is written with one block.
pub const SLOT_LEN: usize = 4096;
/// Format version that this code writes.
pub const FORMAT: u16 = 1;

const MAGIC: [u8; 4] = *b"TDTM";
const HEAD_LEN: usize = 16;
const HASH_LEN: usize = 32;

/// What the machine must remember across crashes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Durable {
    /// The pair to which this state belongs.
    pub pair: PairId,
    /// Grows with every start of the agent; durable before the first heartbeat.
    pub incarnation: u64,
    /// Highest term that this node used as master.
    pub term_used: u64,
    /// Term armed for the next takeover: may have been used.
    pub term_armed: u64,
    /// Highest term heard of.
    pub term_seen: u64,
    /// This node was master when it was last heard of.
    pub was_master: bool,
    /// R4: it was master, and the peer had been silent for so long that it cannot have taken over by itself.
    pub solo: bool,
    /// Planned move: the role was given away.
    pub ceded: Option<Ceded>,
    /// Maintenance is on.
    pub maintenance: Option<Maintenance>,
    /// R6: what the peer showed at its highest.
    pub peer: Option<PeerMemory>,
    /// R6: what is wrong with the peer, until an operator accepts it.
    pub identity: PeerIdentity,
}

/// Maintenance, durable. Its time counts anew after a start of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintenance {
    /// For how long; `None` without limit.
    pub lasting: Option<Duration>,
}

/// R6: the highest that the peer ever showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerMemory {
    /// Its life.
    pub incarnation: Incarnation,
    /// Its highest term.
    pub term: u64,
    /// Digest over the newest epochs of its trees.
    pub epochs_digest: u64,
    /// Its highest sequence number with these epochs.
    pub seq: u64,
    /// Which machine it was.
    pub machine: MachineId,
}

impl Durable {
    /// The state of a pair that never ran.
    pub fn new(pair: PairId) -> Self {
        Self {
            pair,
            ..Self::default()
        }
    }

    /// The state for a new life of the agent. The caller makes it durable before it builds the machine.
    #[must_use]
    pub fn started(mut self) -> Self {
        self.incarnation = self.incarnation.saturating_add(1);
        self
    }

    /// Highest term that may have been used anywhere, as far as this node knows.
    pub fn highest_term(&self) -> u64 {
        let ceded = self.ceded.map_or(0, |c| c.term);
        self.term_used
            .max(self.term_armed)
            .max(self.term_seen)
            .max(ceded)
    }
}

/// What a slot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    /// Never written: all zero.
    Empty,
    /// A whole state.
    Written {
        /// Its generation.
        generation: u64,
        /// It.
        durable: Box<Durable>,
    },
}

/// Why a slot cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// Torn or damaged; the other slot decides.
    #[error("torn or damaged")]
    Damaged,
    /// Written by a newer version of this program.
    #[error("written in format {0}, this program reads up to format {FORMAT}")]
    Newer(u16),
}

/// Why no state can be had from the two slots. The agent does not start: guessing could make two masters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    /// Neither slot is whole.
    #[error(
        "both copies of the term state are damaged: if the other node runs, move this file away and start again, then \
         accept this node there with `tandem adopt`; never do it on both nodes"
    )]
    BothDamaged,
    /// A slot was written by a newer version.
    #[error(transparent)]
    Newer(SlotError),
    /// The state belongs to another pair.
    #[error("the term state belongs to another pair")]
    OtherPair,
}

/// Which slot takes `generation`: 0 or 1.
pub fn slot_of(generation: u64) -> usize {
    usize::from(generation % 2 == 1)
}

/// The bytes of a slot.
pub fn encode(generation: u64, durable: &Durable) -> [u8; SLOT_LEN] {
    let mut slot = [0; SLOT_LEN];
    slot[..4].copy_from_slice(&MAGIC);
    slot[4..6].copy_from_slice(&FORMAT.to_le_bytes());
    slot[8..16].copy_from_slice(&generation.to_le_bytes());
    // Durable holds fixed-size fields only: a few hundred bytes at most, checked by a test.
    let len = postcard::to_slice(durable, &mut slot[HEAD_LEN..SLOT_LEN - HASH_LEN])
        .map_or(0, |used| used.len());
    slot[6..8].copy_from_slice(&u16::try_from(len).unwrap_or(0).to_le_bytes());
    let hash = blake3::hash(&slot[..HEAD_LEN + len]);
    slot[HEAD_LEN + len..HEAD_LEN + len + HASH_LEN].copy_from_slice(hash.as_bytes());
    slot
}

/// Reads a slot.
///
/// # Errors
/// [`SlotError`].
pub fn decode(slot: &[u8; SLOT_LEN]) -> Result<Slot, SlotError> {
    if slot.iter().all(|byte| *byte == 0) {
        return Ok(Slot::Empty);
    }
    let len = usize::from(u16::from_le_bytes([slot[6], slot[7]]));
    let end = HEAD_LEN + len;
    if slot[..4] != MAGIC || end + HASH_LEN > SLOT_LEN {
        return Err(SlotError::Damaged);
    }
    if slot[end..end + HASH_LEN] != *blake3::hash(&slot[..end]).as_bytes() {
        return Err(SlotError::Damaged);
    }
    let format = u16::from_le_bytes([slot[4], slot[5]]);
    if format > FORMAT {
        return Err(SlotError::Newer(format));
    }
    let mut generation = [0; 8];
    generation.copy_from_slice(&slot[8..16]);
    let durable = postcard::from_bytes(&slot[HEAD_LEN..end]).map_err(|_| SlotError::Damaged)?;
    Ok(Slot::Written {
        generation: u64::from_le_bytes(generation),
        durable: Box::new(durable),
    })
}

/// The state of both slots: the newer whole one, or a new one when nothing was ever written. Answers the
/// generation that the next write gets, and the state.
///
/// # Errors
/// [`ChooseError`].
pub fn choose(
    pair: PairId,
    slots: [Result<Slot, SlotError>; 2],
) -> Result<(u64, Durable), ChooseError> {
    let mut newest: Option<(u64, Durable)> = None;
    let mut damaged = 0;
    for slot in slots {
        match slot {
            Err(error @ SlotError::Newer(_)) => return Err(ChooseError::Newer(error)),
            Err(SlotError::Damaged) => damaged += 1,
            Ok(Slot::Empty) => {}
            Ok(Slot::Written {
                generation,
                durable,
            }) => {
                if newest.as_ref().is_none_or(|(known, _)| generation > *known) {
                    newest = Some((generation, *durable));
                }
            }
        }
    }
    match newest {
        Some((_, durable)) if durable.pair != pair => Err(ChooseError::OtherPair),
        Some((generation, durable)) => Ok((generation.saturating_add(1), durable)),
        // The very first write goes to slot 0 (generation 0). If it was torn, nothing was ever promised.
        None if damaged < 2 => Ok((0, Durable::new(pair))),
        None => Err(ChooseError::BothDamaged),
    }
}

#[cfg(test)]
mod tests;
