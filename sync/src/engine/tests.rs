//! Two engines in one process, real directories, a stream between them.

pub(super) mod compare;
mod copy;
mod cuts;
mod flush;
mod hostile;
mod in_place;
mod keeping;
mod kept;
mod limits;
mod logs;
mod order;
mod owners;
pub(super) mod pair;
mod policy;
mod receivers;
mod reflinks;
mod renames;
mod resume;
mod reversal;
mod rsync_filters;
mod sets;
mod silent;
mod sparse;
mod stores;
mod trash;
mod trees;
mod verify;
