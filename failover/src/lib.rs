//! Who is master.
//!
//! The role machine and its vocabulary are pure: they do no I/O, read no clock and draw no randomness.
//! The modules with I/O carry out what the machine decides. This crate knows nothing of files and trees;
//! what it needs to know about the data reaches it as [`input::DataFacts`].

pub mod address;
pub mod announce;
pub mod clock;
pub mod effect;
pub mod iface;
pub mod input;
pub mod role;
mod sock;
#[cfg(test)]
mod testnet;
pub mod time;
