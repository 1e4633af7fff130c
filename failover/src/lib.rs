//! Who is master.
//!
//! The role machine and its vocabulary are pure: they do no I/O, read no clock and draw no randomness.
//! The modules with I/O carry out what the machine decides. This crate knows nothing of files and trees;
//! what it needs to know about the data reaches it as [`input::DataFacts`].

#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod address;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod announce;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod clock;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod driver;
pub mod effect;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod fence;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod fuzz;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod guardian;
pub mod health;
pub mod heartbeat;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod heartbeat_io;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod identity;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod iface;
pub mod input;
pub mod machine;
pub mod peer;
pub mod policy;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod probe;
pub mod role;
pub mod slots;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod sock;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod store;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
#[cfg(test)]
mod testnet;
pub mod time;
pub mod timer;
pub mod view;
