//! What `verify` asks and hears: a part of a tree as the source reads it, and what differs of it.

use crate::entry::State;
use crate::owners::Names;
use crate::path::RelPath;
use crate::tree::TreeId;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU64;

/// How `verify` sees one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyEntry {
    /// Path.
    pub path: RelPath,
    /// Freshly read.
    pub state: State,
    /// As in [`super::Record`].
    pub names: Option<Names>,
}

/// A part of a tree, in path order, as the source reads it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyPart {
    /// Number of the question.
    pub id: u64,
    /// Tree.
    pub tree: TreeId,
    /// The part reaches from after the first path (`None`: from the beginning) to the second one (`None`: to the end).
    /// No range: only the paths that are named are compared.
    pub range: Option<(Option<RelPath>, Option<RelPath>)>,
    /// What lies there. At most [`MAX_PATHS`](super::MAX_PATHS).
    pub entries: Vec<VerifyEntry>,
    /// Paths at which nothing lies. At most [`MAX_PATHS`](super::MAX_PATHS).
    pub absent: Vec<RelPath>,
    /// The replica puts what differs into its rescue and asks for the source's versions.
    pub repair: bool,
    /// Bytes each second that the replica reads for it; none: as fast as it goes.
    pub per_second: Option<NonZeroU64>,
}

/// What differs in a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyAnswer {
    /// Number of the question.
    pub id: u64,
    /// Differing paths, at most twice [`MAX_PATHS`](super::MAX_PATHS).
    pub differences: Vec<(RelPath, Differs)>,
}

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Differs {
    /// Content of a file, target of a link, device number.
    Content,
    /// Mode, owner, time or extended attributes.
    Metadata,
    /// One is a directory, the other is not, and so on.
    Kind,
    /// Only the source has it.
    Missing,
    /// Only the replica has it.
    Extra,
    /// The replica could not read it.
    Unreadable,
}
