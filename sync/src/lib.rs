//! Making trees equal.

#[allow(clippy::disallowed_methods)]
pub(crate) mod accounts;
#[allow(clippy::disallowed_methods)]
pub mod beneath;
#[allow(clippy::disallowed_methods)]
pub(crate) mod chattr;
pub mod chunks;
#[allow(clippy::disallowed_methods)]
pub mod commit;
mod cut;
pub mod delta;
pub mod diff;
pub mod digest;
pub mod dirty;
pub mod engine;
pub mod entry;
pub mod fault;
pub mod filter;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
pub mod guard;
#[allow(clippy::disallowed_methods)]
pub mod hash;
pub mod heap;
mod helper;
#[allow(clippy::disallowed_methods)]
pub(crate) mod holes;
#[allow(clippy::disallowed_methods)]
pub mod identity;
#[allow(clippy::disallowed_methods)]
pub mod index;
pub mod limit;
pub mod lineage;
#[allow(clippy::disallowed_methods)]
pub mod meta;
pub mod owners;
pub mod path;
pub mod plan;
#[allow(clippy::disallowed_methods)]
pub mod private;
pub mod progress;
pub mod redo;
pub mod replica;
#[allow(clippy::disallowed_methods)]
pub mod rescue;
#[allow(clippy::disallowed_methods)]
pub mod scan;
#[allow(clippy::disallowed_methods)]
pub(crate) mod set;
pub mod source;
#[allow(clippy::disallowed_methods)]
pub(crate) mod spool;
#[allow(clippy::disallowed_methods)]
pub mod stat;
#[allow(clippy::disallowed_methods)]
pub(crate) mod subvolume;
pub mod tail;
#[allow(clippy::disallowed_methods)]
pub mod token;
pub mod tree;
pub mod verify;
#[allow(clippy::disallowed_methods)]
pub mod watch;
pub mod wire;
#[allow(clippy::disallowed_methods)]
pub mod writers;
