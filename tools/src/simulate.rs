//! `cargo simulate`: both pure cores, composed with everything around them that can fail, on one virtual clock.
//!
//! Two hosts run the real role machine (`tandem_failover::machine`) and the real lineages
//! (`tandem_sync::lineage`), joined by the agent's own mapping of facts (`tandem::daemon::facts`). Disks, page
//! caches, kernels, cables, monitors, services, a client and a person are models. One seed gives one history; an
//! oracle looks at it after every event. A class of histories that no seed reached fails the run.
//!
//! ```text
//! cargo simulate -- --seeds 10000 --from 0     totals, and what was reached
//! cargo simulate -- --seed 4711 --story        one history, line by line
//! ```

mod command;
mod data;
mod dice;
mod effects;
mod event;
mod history;
mod life;
mod network;
mod node;
mod oracle;
mod peace;
mod reach;
mod session;
mod steps;
mod surroundings;
mod world;

pub use command::main;
pub use event::Mutation;
pub use history::play;
pub use reach::{Class, Reach};
pub use world::World;

#[cfg(test)]
mod tests;
