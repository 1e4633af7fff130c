//! Whole-system tests: real agents in namespaces. `cases/mod.rs` says which test shows what.

tandem_lab::before_main!();

mod cases;
mod harness;
