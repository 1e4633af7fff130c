//! What a node put aside before it overwrote it.

use serde::{Deserialize, Serialize};

/// All sets of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RescueList {
    /// Oldest first.
    pub sets: Vec<RescueSet>,
}

/// What was put aside on one occasion in one tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RescueSet {
    /// Name of the set, unique on this node.
    pub id: String,
    /// Name of the tree.
    pub tree: String,
    /// When.
    pub made_unix_ms: u64,
    /// On what occasion.
    pub why: String,
    /// Entries.
    pub items: u64,
    /// Bytes of contents.
    pub bytes: u64,
    /// Where its files lie on this node.
    pub directory: String,
    /// It was not known what the peer had acknowledged, so every differing file is here.
    #[serde(default)]
    pub base_unknown: bool,
}

/// `rescue show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RescueShowRequest {
    /// Name of the set.
    pub set: String,
}

/// The content of one rescued file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RescueFileRequest {
    /// Name of the set.
    pub set: String,
    /// [`RescueItem::number`].
    pub item: u64,
}

/// A set, or some items of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RescueSelection {
    /// Name of the set.
    pub set: String,
    /// Numbers of the items; empty means all of them.
    #[serde(default)]
    pub items: Vec<u64>,
}

/// `rescue restore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRequest {
    /// What.
    #[serde(flatten)]
    pub selection: RescueSelection,
    /// Whether another version on the master gives way. Without it such an entry fails.
    #[serde(default)]
    pub replace: bool,
}

/// One rescued entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RescueItem {
    /// Number in its set, from 1.
    pub number: u64,
    /// Path below the tree's root, escaped.
    pub path: String,
    /// What this node had done that the pair had not acknowledged.
    pub change: RescueChange,
    /// Bytes of contents; 0 for what is not a file.
    pub size: u64,
    /// Modification time of the rescued version.
    pub mtime_unix_ms: Option<i64>,
    /// For a rename: the other name, escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<String>,
}

/// What had happened to a rescued entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RescueChange {
    /// It was new here.
    Created,
    /// Its contents were changed here.
    Changed,
    /// It was deleted here: there is nothing to show, the deletion itself is the record.
    Deleted,
    /// It was renamed here.
    Renamed,
    /// Only its metadata were changed here.
    Metadata,
    /// It differs and the base is not known.
    Differs,
    /// A change of a newer agent.
    #[serde(other)]
    Unknown,
}
