//! The local API: HTTP over a Unix socket that only root can open.
//!
//! [`types`] holds everything that crosses the socket; the command line and the console know nothing else of
//! the agent. Paths begin with the API's version (`/v1/...`). A request is JSON, an answer is JSON, and an
//! operation that takes time answers one [`types::Line`] of JSON per event.

pub mod client;
pub mod server;
pub mod types;
