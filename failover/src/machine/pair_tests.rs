//! Two machines on one virtual clock: the histories of the pair.

mod histories;
mod moves;
mod random;
mod world;
