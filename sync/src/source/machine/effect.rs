//! What the machine has done for it, and what it is told of the result.

use crate::engine::moving::MoveOrder;
use crate::path::RelPath;
use crate::tree::TreeId;
use crate::wire::{Item, Message, Record, Total, Want, Withheld};
use thiserror::Error;

/// The replica broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Violation(pub &'static str);

/// What the session has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Read these records and call [`SourceMachine::fetched`](super::SourceMachine::fetched).
    Fetch(Reads),
    /// Remember these paths for [`Reads::Asked`].
    Asked {
        /// Tree.
        tree: TreeId,
        /// Paths.
        paths: Vec<RelPath>,
    },
    /// Send this.
    Send(Message),
    /// Send the content of an item and call [`SourceMachine::sent`](super::SourceMachine::sent).
    SendContent {
        /// Item.
        item: Item,
        /// How the replica wants it.
        want: Want,
    },
    /// Have the worker look at the path again and call [`SourceMachine::examined`](super::SourceMachine::examined).
    Examine {
        /// Tree.
        tree: TreeId,
        /// Path.
        path: RelPath,
        /// Number of what could not be sent.
        seq: u64,
    },
    /// The rename was carried out by the replica, or is to be sent as records.
    MoveEnded {
        /// The order.
        order: MoveOrder,
        /// It was.
        done: bool,
    },
    /// The replica holds everything up to here.
    Acked {
        /// Durable, nothing unsettled.
        acked: u64,
        /// Applied as well.
        applied: u64,
        /// The stream up to here is durable, but for what the replica must still settle.
        durable: u64,
        /// See [`Durable::follows`](crate::wire::Durable::follows).
        follows: bool,
    },
}

/// What to read from the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// The next records.
    Next {
        /// Exclusive.
        after: u64,
        /// Those of trees without a limit are sent up to here.
        ahead: u64,
        /// Not past `ahead`: what follows there is to overtake what is read now.
        only_behind: bool,
    },
    /// The next records of trees without a limit.
    Ahead {
        /// Exclusive.
        after: u64,
    },
    /// Paths that the replica asked for.
    Asked,
}

/// Records read from the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// In the order of the batch.
    pub records: Vec<Record>,
    /// With these records everything up to here has been sent.
    pub upto: u64,
    /// `upto` was the newest number when they were read: the trees at one moment.
    pub at_head: bool,
    /// How much there is.
    pub totals: Vec<Total>,
    /// Files that lie before `upto` and are not sent now.
    pub withheld: Vec<Withheld>,
}
