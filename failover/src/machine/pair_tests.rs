//! Two machines on one virtual clock: the histories of the pair.

mod boots;
mod cuts;
mod histories;
mod moves;
mod random;
mod world;
