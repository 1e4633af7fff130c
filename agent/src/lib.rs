//! The agent and its command line.

pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod descriptors;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
pub mod hooks;
pub mod journal;
pub mod keys;
pub mod link;
pub mod logging;
pub mod notify;
pub mod services;
pub mod systemd;
