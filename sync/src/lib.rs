//! Making trees equal.

pub mod engine;
