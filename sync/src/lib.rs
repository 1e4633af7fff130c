//! Making trees equal.

pub mod beneath;
pub mod commit;
pub mod delta;
pub mod diff;
pub mod dirty;
pub mod engine;
pub mod entry;
pub mod fault;
pub mod filter;
pub mod guard;
pub mod hash;
pub mod identity;
#[allow(clippy::disallowed_methods)]
pub mod index;
pub mod lineage;
pub mod meta;
pub mod path;
pub mod plan;
pub mod private;
pub mod progress;
pub mod replica;
pub mod rescue;
pub mod scan;
pub mod source;
pub mod stat;
pub mod token;
pub mod tree;
pub mod verify;
pub mod watch;
pub mod wire;
pub mod writers;
