//! Answers of the engine to the agent's commands.

use crate::entry::Meta;
use crate::owners::Names;
use crate::path::RelPath;
use crate::wire::Differs;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Answer to `init --source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitReport {
    /// Trees that got their first epoch now. Empty: all had one already.
    pub born: Vec<String>,
}

/// Answer to a revocation of the role token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeReport {
    /// No apply was in flight, or the one in flight ended within the bound.
    pub clean: bool,
    /// How long it took.
    pub took: Duration,
}

/// Something that a flush could not cover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotCovered {
    /// Tree, or `None` when it holds for all trees.
    pub tree: Option<String>,
    /// Why, in words for the operator.
    pub why: String,
}

/// Answer to `flush`, `drain` and the final flush of a planned move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlushReport {
    /// Everything up to this number is durable on the peer.
    pub seq: u64,
    /// Head epoch per tree at that moment: (tree, 32 hex digits).
    pub epochs: Vec<(String, String)>,
    /// Trees for which everything written before the call is durable on the peer.
    pub covered: Vec<String>,
    /// What is not.
    pub not_covered: Vec<NotCovered>,
    /// Single paths of covered trees that are not: what cannot be read, and files that never rest. They do not keep a
    /// planned move from going on.
    pub except: Vec<NotCovered>,
    /// The peer keeps no path as it is: all that it was sent is what it has.
    pub peer_follows: bool,
    /// How long it took.
    pub took: Duration,
}

/// One difference found by `verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyDifference {
    /// Tree.
    pub tree: String,
    /// Path within the tree, escaped for display.
    pub path: String,
    /// What differs there.
    pub what: Differs,
}

/// Answer to `verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Entries compared.
    pub compared: u64,
    /// Bytes of contents read on this side.
    pub bytes: u64,
    /// Differences, at most [`VerifyReport::MAX_LISTED`].
    pub differences: Vec<VerifyDifference>,
    /// Differences in all.
    pub found: u64,
    /// A repair was asked for, and everything that differed is equal now.
    pub repaired: bool,
    /// What could not be compared.
    pub not_covered: Vec<NotCovered>,
    /// How long it took.
    pub took: Duration,
}

impl VerifyReport {
    /// A list for people; more would only fill memory.
    pub const MAX_LISTED: usize = 1000;
}

/// What `put_file` writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutFile {
    /// Where.
    pub path: RelPath,
    /// Owner, permission bits, time, ACLs and attributes. Of these the bits by which something runs as somebody else, the flags of
    /// `chattr` and what belongs to a security module are left out.
    pub meta: Meta,
    /// The names that the numbers of owners have on the node that it comes from, in a tree whose owners go by name.
    pub names: Option<Names>,
    /// Whether another version that is there gives way.
    pub replace: bool,
}

/// What `put_entry` makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutEntry {
    /// A directory. One that is there already is left as it is.
    Directory,
    /// A symbolic link to this.
    Symlink(Vec<u8>),
}

/// What lies in the trash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrashListing {
    /// The first of it.
    pub items: Vec<TrashItem>,
    /// How many more there are.
    pub beyond: u64,
    /// Bytes of the files, those beyond included.
    pub bytes: u64,
    /// All was counted. False: there is still more.
    pub whole: bool,
}

/// One entry of the trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrashItem {
    /// Tree.
    pub tree: String,
    /// The directory of the trash: when it was removed from the tree.
    pub hour: String,
    /// How long it stays at most, unless room is needed. `None`: that is not known yet, within the next minute.
    pub goes_in: Option<Duration>,
    /// Where it was in the tree.
    pub path: RelPath,
    /// What it is.
    pub kind: TrashKind,
    /// Bytes of a file.
    pub size: u64,
    /// Its modification time.
    pub mtime_unix_ms: i64,
}

/// What an entry of the trash is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrashKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Anything else.
    Other,
}

/// An entry of the trash, opened.
#[derive(Debug)]
pub struct Trashed {
    /// Owner, permission bits, time, ACLs and attributes.
    pub meta: Meta,
    /// Bytes of a file.
    pub size: u64,
    /// What it holds.
    pub content: TrashContent,
}

/// What an entry of the trash holds.
#[derive(Debug)]
pub enum TrashContent {
    /// A regular file.
    File(std::fs::File),
    /// A directory.
    Directory,
    /// A symbolic link to this.
    Symlink(Vec<u8>),
    /// Anything else.
    Other,
}

/// What emptying the trash did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrashEmptied {
    /// Entries that are gone, directories included.
    pub removed: u64,
    /// Why something that was to go is still there.
    pub stays: Option<String>,
}

/// Answer to `put_file`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutReport {
    /// Bytes written.
    pub bytes: u64,
}

/// One set in the rescue: what one reversal, repair or first copy put aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RescueSet {
    /// Tree.
    pub tree: String,
    /// Name of the set.
    pub id: String,
    /// When it was begun.
    pub made_unix_ms: u64,
    /// On what occasion.
    pub why: String,
    /// It was not known what the peer had acknowledged, so every differing file is here.
    pub base_unknown: bool,
    /// Where it is.
    pub directory: std::path::PathBuf,
    /// Entries in it.
    pub entries: u64,
    /// Bytes of file contents in it.
    pub bytes: u64,
}

/// What `tandem tree accept` lets go, before it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptPrice {
    /// Why the tree is stopped; `None`: it is not.
    pub why: Option<String>,
    /// Entries that are gone now and that the standby loses with it.
    pub gone: u64,
    /// The first of them in path order, at most [`ACCEPT_EXAMPLES`].
    pub examples: Vec<RelPath>,
}

/// Examples of an [`AcceptPrice`]: what fits a screen.
pub const ACCEPT_EXAMPLES: usize = 20;

/// How a session ended without an error of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "end")]
pub enum SessionEnd {
    /// The cancel token fired.
    Cancelled,
    /// The role changed: this node may no longer send or apply.
    RoleChanged,
    /// The peer closed the stream between two messages.
    PeerClosed,
    /// The peer refused the session.
    Refused {
        /// Why, as the peer said it.
        why: String,
        /// The reason goes away by itself (for example a writable descriptor beneath a tree): dial again after a second.
        retry: bool,
    },
}
