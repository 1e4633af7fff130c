//! The configuration: one TOML file, the same on both nodes.

pub mod types;
