//! Making trees equal.

pub mod engine;
pub mod entry;
pub mod filter;
pub mod lineage;
pub mod path;
pub mod tree;
