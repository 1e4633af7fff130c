//! What the two ends of a session say to each other, version 1.
//!
//! ```text
//!   source                                   replica
//!     Greeting            <->                Greeting          versions; the highest common one is used
//!     Hello               <->                Hello             who, which trees, their lineages and positions
//!                         <-                 Wait*, then Accept or Refuse
//!     Batch{records}      ->                                   at most WINDOW batches are open
//!     Data (inline files) ->
//!                         <-                 Need              what of the offered files it lacks, and its basis
//!     Room                ->                                   how much of a large file lies on the disk
//!     Data, Copy, SumsOf  ->                 Sums              large files: by differences
//!     Hole                ->                                   zeros that lie on no disk, as their number
//!     Commit{upto}        ->                                   all items of the batch are sent or given up
//!                         <-                 Durable{upto}     applied and durable (or durable in the spool)
//!     Idle{upto}          ->                 Durable           once a second: "durable up to here"
//!     Outlook             ->                                   once a second until all is durable: how much there is to send
//!     Wait                ->                                   once a second while a batch waits for a limit
//!     Move{from, to}      ->                 Moved             a rename, while no batch is open
//!                         <-                 Want{paths}       versions that the replica must have to settle a path
//! ```
//! Every message is one frame: length (u32, little endian), then the message in postcard, then the bytes of a `Data`. A frame is bounded before memory is taken
//! for it, a count inside a frame is bounded by the frame's bytes and then by [`Message::check`]. An unknown variant is
//! an error of the session. The numbers of variants are the wire format: new ones go to the end, with a new version.

use crate::entry::{Kind, State};
use crate::owners::Names;
use crate::path::RelPath;
use crate::progress::Work;
use crate::tree::TreeId;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

mod check;
mod compare;
mod frame;
mod opening;
mod pack;
mod signature;
mod want;
pub use check::BadMessage;
pub use compare::{Differs, VerifyAnswer, VerifyEntry, VerifyPart};
pub use frame::{
    Body, FrameError, begins_with_frame, decode, decode_greeting, encode, encode_into, read_frame,
    take_body,
};
pub use opening::{Accept, End, Greeting, Hello, Refuse};
pub use pack::{MAX_PACK, next_frame, pack, unpack};
pub use signature::Signature;
pub use want::{ChunkSums, Need, Want};

/// Lowest protocol version that this code speaks.
pub const MIN_VERSION: u16 = 1;
/// Highest protocol version that this code speaks.
pub const MAX_VERSION: u16 = 1;
/// Largest frame. One record can hold 1 MiB of extended attributes and two paths of 64 KiB; twice that is enough.
pub const MAX_FRAME: usize = 2 << 20;
/// A batch is closed when its records reach this many bytes.
pub const BATCH_BYTES: usize = 256 << 10;
/// Most records of one batch. Bounds the memory and the time of one commit on the replica.
pub const MAX_RECORDS: usize = 4096;
/// Most contents that one batch names as withheld: those of two batches that wait, and of what was read past for this one.
pub const MAX_WITHHELD: usize = 3 * MAX_RECORDS;
/// A batch is closed when the content that is sent without being asked for reaches this. Bounds what a cut can waste.
pub const INLINE_BATCH_BYTES: u64 = 8 << 20;
/// Files up to this size are sent with their batch when the replica cannot have them.
pub const INLINE_FILE: u64 = 64 << 10;
/// Most content bytes of one `Data`. russh is fastest with writes of this size.
pub const MAX_DATA: usize = 256 << 10;
/// Most zeros of one `Hole`. They cost nothing however many they are: the longest file that Linux knows, all of it a hole, is 8192.
pub const MAX_HOLE: u64 = 1 << 50;
/// Open batches: enough to keep disk and link busy together, few enough to bound what a cut can waste.
pub const WINDOW: usize = 4;
/// Most paths of one `Want`, and most entries of one verify message.
pub const MAX_PATHS: usize = 1024;
/// Most chunk sums of one file: 32768 chunks, 512 KiB in one frame. Larger files use larger chunks.
pub const MAX_SUMS: usize = 32 << 10;
/// Largest rsync signature of one window of a basis.
pub const MAX_SIGNATURE: usize = 256 << 10;
/// A list whose entries have no length of their own is closed when they reach this many bytes. With a last entry of the largest
/// kind, 1 MiB of extended attributes and two paths, it still fits in [`MAX_FRAME`].
pub const LIST_BYTES: usize = 512 << 10;
/// Questions of `verify` that wait for their answers: each has the replica read files in a thread of its own.
pub const MAX_QUESTIONS: usize = 4;
/// Longest text for a person.
pub const MAX_TEXT: usize = 1024;

/// The newest state of one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Tree.
    pub tree: TreeId,
    /// Path.
    pub path: RelPath,
    /// Number of its last change.
    pub seq: u64,
    /// What lies there; `None`: nothing.
    pub state: Option<State>,
    /// The content follows without being asked for.
    pub inline: bool,
    /// It has only grown lately: contents of this file that are as long as this or longer may be its beginning.
    pub grown_from: Option<u64>,
    /// Names of the numbers in the state, of a tree whose owners go by name. On the replica, once it has its own numbers: those
    /// that are not known there, for which the record is not applied.
    pub names: Option<Names>,
}

impl Record {
    /// Bytes of the content of a file; zero for anything else.
    pub fn size(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.kind.size())
    }
}

/// Records, in ascending order of `seq` but for those that had to come early (parents, first names of hard links).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Counts up in a session.
    pub id: u64,
    /// At most [`MAX_RECORDS`].
    pub records: Vec<Record>,
    /// How much the source has, for progress. At most [`MAX_TREES`](crate::tree::MAX_TREES).
    pub totals: Vec<Total>,
    /// Files that lie before what comes from this batch on, and are not sent before it: of trees that the replica does not take,
    /// and of those with a limit. At most [`MAX_TREES`](crate::tree::MAX_TREES).
    pub withheld: Vec<Withheld>,
}

/// Contents of files of a tree that the replica does not get before what follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withheld {
    /// Tree.
    pub tree: TreeId,
    /// The first eight bytes of their hashes, little endian. At most [`MAX_WITHHELD`] in a batch.
    pub contents: Vec<u64>,
}

/// How much there is of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    /// Tree.
    pub tree: TreeId,
    /// Entries.
    pub entries: u64,
    /// Bytes of contents.
    pub bytes: u64,
    /// Of a tree that is sent in sets: the newest one.
    pub set: Option<SetMark>,
}

/// A consistent set: the state of a whole tree at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetMark {
    /// Counts up.
    pub number: u64,
    /// With everything up to here the set is whole.
    pub upto: u64,
    /// When the tree was held still: milliseconds since 1970 by the source's clock.
    pub made_unix_ms: u64,
}

/// How much a session sends of a tree in all, for progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outlook {
    /// Tree.
    pub tree: TreeId,
    /// What is known of it.
    pub total: Work,
    /// That is all: nothing more will be found.
    pub whole: bool,
}

/// Files that never rest: what is read of them may be of no single moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fuzzy {
    /// Tree.
    pub tree: TreeId,
    /// What is not named here any more has come to rest, and with everything up to this number the replica has it as it is.
    pub upto: u64,
    /// At most [`MAX_PATHS`].
    pub paths: Vec<RelPath>,
    /// So many more have no room here.
    pub more: u64,
}

/// An item of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Item {
    /// Batch.
    pub batch: u64,
    /// Index of the record.
    pub index: u32,
}

/// Why a batch may be committed, and up to where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Batch.
    pub batch: u64,
    /// With this batch everything up to here is sent. Never past an item that was given up.
    pub upto: u64,
    /// After this commit the replica's trees equal the source's at one moment of the source's order.
    pub caught_up: bool,
    /// The newest stamp that the source had heard when it read the records; see [`Durable::stamp`].
    pub stamp: u64,
}

/// Everything up to here is sent and answered as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idle {
    /// Sequence number.
    pub upto: u64,
    /// The newest stamp that the source had heard when it looked at its head; or when everything that it had noticed was in its index.
    pub stamp: u64,
}

/// The answer to `Commit` and `Idle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durable {
    /// The commit with this upper end is durable.
    pub upto: u64,
    /// Batch of that commit; `None` for the answer to an `Idle`.
    pub batch: Option<u64>,
    /// Everything up to here is durable, with no path left unsettled.
    pub acked: u64,
    /// Up to here it is also applied, not only spooled.
    pub applied: u64,
    /// The replica's own clock (CLOCK_BOOTTIME, nanoseconds) when it answered. The source repeats the newest one in
    /// its next [`Idle`]: an `Idle` that repeats a stamp was made after it, whatever the two clocks say.
    pub stamp: u64,
    /// No path here is kept as it is against the source's word (an immutable file): `flush` need not ask for such.
    pub follows: bool,
}

/// A message of version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Both ends, first.
    Hello(Hello),
    /// The replica works on its answer (it scans, or waits for the worker); the source keeps waiting.
    Wait,
    /// The replica agrees.
    Accept(Accept),
    /// Either end ends the session before it has begun.
    Refuse(Refuse),
    /// Source.
    Batch(Batch),
    /// Replica.
    Need(Need),
    /// Source: the next bytes of an item.
    Data {
        /// Item.
        item: Item,
        /// At most [`MAX_DATA`]. In the frame they follow the message, so that nobody has to copy them out of it.
        #[serde(skip)]
        bytes: Bytes,
        /// The item is complete.
        last: bool,
    },
    /// Source: the next bytes of an item are these bytes of the basis.
    Copy {
        /// Item.
        item: Item,
        /// Offset in the basis.
        from: u64,
        /// Bytes.
        len: u64,
        /// The item is complete.
        last: bool,
    },
    /// Source: the item changed while it was read, or cannot be read. A newer version follows in a later batch.
    GivenUp(Item),
    /// Source: asks for the rsync signature of a window of the basis.
    SumsOf {
        /// Item.
        item: Item,
        /// Offset in the basis.
        from: u64,
        /// Bytes.
        len: u64,
    },
    /// Replica: the answer.
    Sums {
        /// Item.
        item: Item,
        /// Offset in the basis.
        from: u64,
        /// At most [`MAX_SIGNATURE`]; empty: the basis cannot be read there.
        signature: Signature,
    },
    /// Source.
    Commit(Commit),
    /// Source.
    Idle(Idle),
    /// Replica.
    Durable(Durable),
    /// Replica: send the current version of these paths of a tree in one of the next batches, though they did not change.
    Fetch {
        /// Tree.
        tree: TreeId,
        /// At most [`MAX_PATHS`].
        paths: Vec<RelPath>,
    },
    /// Source.
    Verify(VerifyPart),
    /// Replica.
    Verified(VerifyAnswer),
    /// Source, while no batch is open: what is at a path was renamed. With it everything up to its number is sent.
    Move(Move),
    /// Replica: it was carried out as one and is durable, or nothing was changed and the records are to be sent.
    Moved {
        /// Its number.
        seq: u64,
        /// It was.
        done: bool,
    },
    /// Source: the room that an item needs, of a file that is worth the question. Before anything else of it.
    Room {
        /// Item.
        item: Item,
        /// Bytes that lie on the disk: fewer than the file is long, if it has holes.
        bytes: u64,
    },
    /// Source: the next bytes of an item are zeros, and lie on no disk.
    Hole {
        /// Item.
        item: Item,
        /// At most [`MAX_HOLE`].
        len: u64,
        /// The item is complete.
        last: bool,
    },
    /// Source, each second until everything is durable. At most [`MAX_TREES`](crate::tree::MAX_TREES).
    Outlook(Vec<Outlook>),
    /// Source: its list for a tree, ahead of what is read of a file that is new in it.
    Fuzzy(Fuzzy),
}

/// A rename within a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Tree.
    pub tree: TreeId,
    /// The old path.
    pub from: RelPath,
    /// The new one.
    pub to: RelPath,
    /// Its number in the source's sequence.
    pub seq: u64,
    /// As in [`Commit`].
    pub stamp: u64,
}

/// Bytes that the state of a path takes in a message, rounded up.
pub fn entry_bytes(path: &RelPath, state: Option<&State>, names: Option<&Names>) -> usize {
    /// What is of fixed size.
    const OVERHEAD: usize = 128;
    let of_state = |state: &State| {
        let xattrs = state.meta.xattrs.iter();
        let xattrs: usize = xattrs
            .map(|(name, value)| name.len() + value.len() + 8)
            .sum();
        let target = match &state.kind {
            Kind::Symlink { target } => target.len(),
            Kind::HardLink { to } => to.as_bytes().len(),
            _ => 0,
        };
        xattrs + target
    };
    OVERHEAD + path.as_bytes().len() + state.map_or(0, of_state) + names.map_or(0, Names::bytes)
}

#[cfg(test)]
mod tests;
