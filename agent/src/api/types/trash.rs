//! What the master deleted and this node keeps for a while.

use serde::{Deserialize, Serialize};

/// `trash list`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashListRequest {
    /// Only of this tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<String>,
    /// Only at or below this path, escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Events of `trash list`. `Done` is last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrashEvent {
    /// One entry. The newest hour comes first; a directory is an entry where nothing is in it.
    Entry(TrashEntry),
    /// That is all.
    Done {
        /// Further entries, which were only counted.
        beyond: u64,
        /// Bytes of all files.
        bytes: u64,
        /// All was counted. False: there is still more.
        whole: bool,
    },
}

/// One entry of the trash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashEntry {
    /// Name of the tree.
    pub tree: String,
    /// The directory of the trash that it is in, for example `2026-11-28T03`: when it was deleted.
    pub hour: String,
    /// How long it stays, unless room is needed. Absent: the agent has not seen that directory yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goes_in_ms: Option<u64>,
    /// Path below the tree's root, escaped.
    pub path: String,
    /// What it is.
    pub kind: TrashKind,
    /// Bytes of contents; 0 for what is not a file.
    pub size: u64,
    /// Its modification time.
    pub mtime_unix_ms: i64,
}

/// What an entry of the trash is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrashKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Anything else, or a kind of a newer agent.
    #[serde(other)]
    Other,
}

/// `trash restore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashRestoreRequest {
    /// Name of the tree.
    pub tree: String,
    /// What, with all that is below it; escaped.
    pub path: String,
    /// From this directory of the trash. Without it: the newest versions of the newest hour that has the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Where to, escaped. Without it: where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Whether another version on the master gives way. Without it such an entry fails.
    #[serde(default)]
    pub replace: bool,
}

/// `trash empty`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashEmptyRequest {
    /// Name of the tree.
    pub tree: String,
    /// Only hours of which all is older than this. Without it: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_ms: Option<u64>,
}
