//! One machine: the table of states and inputs, random operations with invariants, and the agreement.

mod agreement;
mod identity;
mod puppet;
mod random;
mod table;
