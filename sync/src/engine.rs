//! The engine: everything a node does about its trees, behind one handle.
//!
//! One worker thread is the only writer of the index and of the trees. Sessions (one stream to the peer each) read
//! the index by snapshots and hand finished batches to the worker. The agent talks to the engine by the handle.

mod ahead;
pub(crate) mod apply;
mod aside;
mod awaited;
mod barrier;
mod beyond;
mod burst;
#[allow(clippy::disallowed_methods)]
pub mod clock;
pub(crate) mod command;
mod commands;
#[allow(clippy::disallowed_methods)]
mod compare;
#[allow(clippy::disallowed_methods)]
mod contents;
#[allow(clippy::disallowed_methods)]
mod deletions;
mod dirty;
#[allow(clippy::disallowed_methods)]
mod duty;
pub mod error;
mod exceptions;
mod failing;
mod finish;
mod flags;
mod foreign;
pub(crate) mod fuzzy;
mod gone;
#[allow(clippy::disallowed_methods)]
mod handle;
mod hold;
mod intent;
mod judge;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod keeping;
mod lacking;
mod later;
mod linked;
mod local;
#[allow(clippy::disallowed_methods)]
pub(crate) mod localtime;
mod look;
mod made;
mod moved;
pub(crate) mod moving;
mod outcome;
mod owners;
#[allow(clippy::disallowed_methods)]
pub(crate) mod paced;
pub(crate) mod prepare;
mod read_only;
mod reading;
#[allow(clippy::disallowed_methods)]
mod reboot;
pub(crate) mod receivers;
pub mod report;
mod restless;
#[allow(clippy::disallowed_methods)]
mod roles;
#[allow(clippy::disallowed_methods)]
pub(crate) mod rolling;
mod room;
mod root;
mod scanning;
mod set_apply;
#[allow(clippy::disallowed_methods)]
mod sets;
pub(crate) mod shared;
mod show;
mod skipped;
mod standby;
pub mod status;
#[cfg(feature = "fuzz")]
pub(crate) mod stored;
#[allow(clippy::disallowed_methods)]
pub(crate) mod stream;
mod told;
mod tombstones;
#[allow(clippy::disallowed_types)]
mod trash;
pub(crate) mod tree;
mod trees;
#[allow(clippy::disallowed_methods)]
mod unverified;
mod verified;
#[allow(clippy::disallowed_methods)]
mod verify;
mod view;
mod walk;
#[allow(clippy::disallowed_methods)]
mod worker;

pub use crate::wire::Differs;
pub use error::{CommandError, OpenError, SessionError};
pub use handle::Engine;
pub use receivers::Receiver;
pub use report::{
    AcceptPrice, FlushReport, InitReport, NotCovered, PutEntry, PutFile, PutReport, RescueSet,
    RevokeReport, SessionEnd, TrashContent, TrashEmptied, TrashItem, TrashKind, TrashListing,
    Trashed, VerifyDifference, VerifyReport,
};
pub use sets::FreezeHooks;
pub(crate) use sets::set_key;
pub use status::{
    Alarm, ContentsRound, ContentsStatus, Counted, EngineStatus, Inexact, Mode, Progress,
    ReplicaStatus, SessionStatus, SetStatus, TreeState, TreeStatus, VerifyRound, VerifyStatus,
};
pub use stream::{Gauge, LinkUse};

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests;
