//! The agent and its command line.

pub mod api;
pub mod config;
pub mod hooks;
pub mod keys;
pub mod services;
