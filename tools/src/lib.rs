//! Tandem's tools: the demo, and what simulates both halves of the pair together.

pub mod demo;
pub mod simulate;
