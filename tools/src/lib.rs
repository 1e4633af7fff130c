//! Tandem's tools: the demo, the benchmarks, and what simulates both halves of the pair together.

pub mod bench;
pub mod demo;
mod signals;
pub mod simulate;
mod text;
