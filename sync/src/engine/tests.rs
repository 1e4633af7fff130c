//! Two engines in one process, real directories, a stream between them.

mod compare;
mod copy;
mod cuts;
mod hostile;
mod keeping;
mod order;
mod pair;
mod policy;
mod resume;
mod reversal;
mod trees;
