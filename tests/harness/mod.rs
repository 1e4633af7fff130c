//! What the cases share: the pair in the lab, its status as the command line gives it, bounded waiting, and
//! comparisons of trees.

mod compare;
mod damage;
mod freeze;
mod scene;
mod wait;

pub use compare::{assert_equal_trees, rsync_sees_no_difference};
pub use damage::damage;
pub use freeze::Frozen;
pub use scene::{Scene, SceneOptions, brief, exists};
pub use wait::{eventually, holds_for, seed};

use std::time::Duration;

/// First of the two nodes, the preferred one.
pub const ONE: usize = 0;
/// Second of the two nodes.
pub const TWO: usize = 1;

/// Bound of what takes a few seconds at most. It is reached only when a test fails, so it allows for a busy
/// machine.
pub const SOON: Duration = Duration::from_secs(30);
/// Bound of what may include a whole copy.
pub const LONG: Duration = Duration::from_secs(90);
