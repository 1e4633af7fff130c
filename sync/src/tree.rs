//! What is replicated: trees and the pair, as the configuration gives them.

use crate::filter::Filter;
use crate::limit::Limit;
use crate::watch::Detector;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

/// Longest name of a tree, a node or a pair in bytes.
pub const MAX_NAME: usize = 64;
/// Most trees of one pair. Bounds what a peer's Hello can hold.
pub const MAX_TREES: usize = 256;
/// Most replicas of one pair. Each costs the source a session: a thread and some MiB of queues.
pub const MAX_REPLICAS: usize = 32;

/// A tree's identity on the wire and in the index: the first 16 bytes of the BLAKE3 hash of its name.
/// Both nodes have the same names, so both compute the same ids.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TreeId(pub [u8; 16]);

impl TreeId {
    /// The id of the tree called `name`.
    pub fn of(name: &str) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..16]);
        TreeId(id)
    }
}

impl fmt::Display for TreeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TreeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a delete on the master does on the standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Deletes {
    /// It is deleted there too.
    #[default]
    Mirror,
    /// It is kept there (rsync without `--delete`).
    Keep,
    /// It is moved to the trash there, and goes when it is [`TreeConfig::trash_age`] old.
    Trash,
}

/// What becomes of local changes on the standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LocalChanges {
    /// The local version goes to the rescue, the master's version is put back.
    #[default]
    Repair,
    /// Left alone until the master changes that path.
    Keep,
    /// Left alone, and shown.
    Report,
}

/// How a changed file takes the place of its old version on the standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Update {
    /// By a rename: a reader sees the old version or the new one.
    #[default]
    Atomic,
    /// Large files get their new blocks written into them, through a durable redo journal. A reader can see a mixture; after a
    /// crash the file is completed before this node can become master.
    InPlace,
}

/// What says who owns an entry on the other node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owners {
    /// Its numbers, whoever has them there.
    #[default]
    Number,
    /// The names that its numbers have, by the files of users and groups of each node.
    Name,
}

/// How a tree is held still while a consistent set is taken of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// Makes the tree hold still; an argument vector. Until `after` nothing in it may change.
    pub before: Vec<String>,
    /// Lets it go on. Run in any case, also after a crash of the agent.
    pub after: Vec<String>,
    /// Bound of the whole freeze, hooks included. A set that takes longer is given up.
    pub timeout: Duration,
    /// From the begin of one set to the next one.
    pub every: Duration,
    /// What is read in place of the tree, which goes on meanwhile.
    pub snapshot: Option<Snapshot>,
}

/// What a set is read from, if not from the tree itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Snapshot {
    /// The tree is a btrfs subvolume: a snapshot is made and removed by Tandem. `after` is run as soon as it is there.
    Btrfs,
    /// `before` makes a snapshot of the tree's file system and mounts it, so that the tree lies here; `after` removes it.
    At(PathBuf),
}

/// How much of a tree may vanish at once before the tree is stopped (invariant 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MaxDelete {
    /// Per cent of the tree's entries; never fires at or below [`crate::guard::DELETE_FLOOR`] entries.
    Percent(u8),
    /// Entries.
    Count(u64),
}

impl Default for MaxDelete {
    fn default() -> Self {
        MaxDelete::Percent(50)
    }
}

/// One replicated directory hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeConfig {
    /// Name, unique in the pair, 1 to [`MAX_NAME`] bytes.
    pub name: String,
    /// Absolute path of its root.
    pub root: PathBuf,
    /// What is not replicated, and on the receiver neither changed nor removed.
    pub exclude: Filter,
    /// What is never changed or removed on the receiver (invariant 6). The source still sends it.
    pub protect: Filter,
    /// What a delete on the master does here.
    pub deletes: Deletes,
    /// How long what is in the trash stays there.
    pub trash_age: Duration,
    /// What becomes of local changes while this node is standby.
    pub local_changes: LocalChanges,
    /// How a changed file takes the place of its old version while this node is standby.
    pub update: Update,
    /// What says who owns an entry on the other node.
    pub owners: Owners,
    /// Whether the flags of `chattr` are part of what an entry is.
    pub flags: bool,
    /// Whether device nodes are made on the receiver.
    pub devices: bool,
    /// The standby changes it only by consistent sets, taken while it is held still. `None`: by single changes.
    pub freeze: Option<Freeze>,
    /// Guard of invariant 4.
    pub max_delete: MaxDelete,
    /// Pause between two passes by `statx` for writers that cause no events; the files are made durable before they are
    /// read. `None`: there are no such writers that matter, and [`TreeConfig::pass`] counts.
    pub poll: Option<Duration>,
    /// Pause between two slow passes by `statx`, which bound what events do not tell.
    pub pass: Duration,
    /// Within how long the contents of all files are compared with the index once. `None`: never.
    pub compare_contents: Option<Duration>,
    /// How fast contents are sent while this node is master. The first one that applies counts; at most
    /// [`crate::limit::MAX_LIMITS`].
    pub limits: Vec<Limit>,
    /// Within how long the tree is compared with the standby's once. `None`: only when asked for.
    pub verify: Option<Duration>,
    /// Bytes each second that a comparison with the standby reads on each side. `None`: as fast as it goes.
    pub verify_rate: Option<NonZeroU64>,
}

/// Default of [`TreeConfig::trash_age`].
pub const TRASH_AGE: Duration = Duration::from_secs(7 * 86_400);
/// Default of [`TreeConfig::pass`].
pub const PASS: Duration = Duration::from_secs(600);
/// Default of [`TreeConfig::compare_contents`].
pub const COMPARE_CONTENTS: Duration = Duration::from_secs(7 * 86_400);

impl TreeConfig {
    /// A tree with the default of every setting.
    pub fn new(name: impl Into<String>, root: impl Into<PathBuf>) -> Self {
        TreeConfig {
            name: name.into(),
            root: root.into(),
            exclude: Filter::default(),
            protect: Filter::default(),
            deletes: Deletes::default(),
            trash_age: TRASH_AGE,
            local_changes: LocalChanges::default(),
            update: Update::default(),
            owners: Owners::default(),
            flags: false,
            devices: true,
            freeze: None,
            max_delete: MaxDelete::default(),
            poll: None,
            pass: PASS,
            compare_contents: Some(COMPARE_CONTENTS),
            limits: Vec::new(),
            verify: None,
            verify_rate: None,
        }
    }

    /// Only how fast it is sent is different.
    pub fn differs_only_in_limits(&self, other: &TreeConfig) -> bool {
        let limits = self.limits.clone();
        let same = TreeConfig {
            limits,
            ..other.clone()
        };
        self.limits != other.limits && *self == same
    }

    /// The tree's id.
    pub fn id(&self) -> TreeId {
        TreeId::of(&self.name)
    }
}

/// What this node is to the pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// One of its two nodes. While it is the source it sends to these replicas besides the other node.
    Node {
        /// At most [`MAX_REPLICAS`].
        replicas: Vec<ReplicaConfig>,
    },
    /// A replica: it receives from whoever is the source, and never is one.
    Replica,
}

impl Part {
    /// A node of a pair without replicas.
    pub fn node() -> Self {
        Part::Node {
            replicas: Vec::new(),
        }
    }
}

/// A further receiver of some trees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaConfig {
    /// Its name.
    pub name: String,
    /// Names of the trees that it gets. None of them is sent in sets.
    pub trees: Vec<String>,
}

/// All that the sync half needs to know about the pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairConfig {
    /// Name of the pair; an index made for another pair is refused.
    pub pair: String,
    /// This node's name.
    pub node: String,
    /// What it is to the pair.
    pub part: Part,
    /// The trees, at most [`MAX_TREES`].
    pub trees: Vec<TreeConfig>,
    /// Directory of the users and groups of this node, `passwd` and `group`: `/etc`.
    pub etc: PathBuf,
    /// Directory of the durable state (index, spool).
    pub state_dir: PathBuf,
    /// Nothing better than this watches the trees. Only tests want less than the best.
    pub detector: Detector,
    /// R3: how old the master's last "durable up to here" may be at an automatic takeover.
    pub max_stale: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_from_names_alone() {
        assert_eq!(TreeId::of("www"), TreeConfig::new("www", "/srv/www").id());
        assert_eq!(TreeId::of("www"), TreeConfig::new("www", "/other").id());
        assert_ne!(TreeId::of("www"), TreeId::of("wwv"));
        // Fixed for ever: the id is on disk and on the wire.
        assert_eq!(
            TreeId::of("www").to_string(),
            &blake3::hash(b"www").to_hex()[..32]
        );
    }

    #[test]
    fn configuration_survives_its_encodings() {
        let mut tree = TreeConfig::new("etc", "/etc");
        tree.exclude = Filter::parse(["/mtab", "*.lock"]).unwrap();
        tree.poll = Some(Duration::from_secs(2));
        let bytes = postcard::to_stdvec(&tree).unwrap();
        assert_eq!(postcard::from_bytes::<TreeConfig>(&bytes).unwrap(), tree);
    }
}
