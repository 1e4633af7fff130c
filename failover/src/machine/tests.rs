//! One machine: the table of states and inputs, random operations with invariants, and the agreement.

mod addresses;
mod agreement;
mod away;
mod identity;
mod order;
mod puppet;
mod random;
mod table;
