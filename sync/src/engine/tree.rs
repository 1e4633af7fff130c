//! One tree as the worker holds it: its opened root, its identity, what waits to be examined.

use super::beyond::Others;
use super::burst::Burst;
use super::contents::Contents;
use super::dirty::Dirt;
use super::fuzzy::Marks;
use super::gone::Gone;
use super::lacking::Lacking;
use super::later::{Again, Later};
use super::moving::{Moving, Rename};
use super::read_only;
use super::reading::Reading;
use super::restless::Unrested;
use super::room::Room;
use super::scanning::Scan;
use super::sets::Sets;
use super::told::Told;
use super::trash::Keeping;
use super::unverified::Unverified;
use crate::beneath::Root;
use crate::entry::ContentHash;
use crate::guard::{DeleteWindow, Name};
use crate::path::RelPath;
use crate::private::Private;
use crate::rescue::OpenSet;
use crate::tree::{TreeConfig, TreeId, Update};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

/// The opened root with its private directory.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    /// The root.
    pub root: Arc<Root>,
    /// `.tandem` in it.
    pub private: Arc<Private>,
    /// How files are updated in it.
    pub update: Update,
    /// It changes by whole sets only.
    pub in_sets: bool,
}

/// Roots that sessions may read from, by tree. Only the worker changes it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Roots(Arc<RwLock<BTreeMap<TreeId, Open>>>);

impl Roots {
    /// The opened root of a tree, if it is open and proven.
    pub fn get(&self, tree: TreeId) -> Option<Open> {
        // The map is changed by single inserts and removes; a panic elsewhere cannot leave it half changed.
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&tree)
            .cloned()
    }

    /// All opened roots.
    pub fn all(&self) -> BTreeMap<TreeId, Open> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Opened, or closed by `None`.
    pub fn set(&self, tree: TreeId, open: Option<Open>) {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match open {
            Some(open) => map.insert(tree, open),
            None => map.remove(&tree),
        };
    }
}

/// Why a tree does not move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The root is missing or is not the one that the index was made for. Ends by itself when it is back.
    Identity(String),
    /// Too much is gone. Ends by `tandem tree accept`.
    Deletes(String),
    /// A file was changed in place only in part: nothing is done until its journal is carried out, which is tried again.
    Unfinished(String),
    /// There is no room for what is received. Tried again at intervals.
    Full(String),
    /// The file system takes no changes, and this node is to make some. Tried again at intervals.
    ReadOnly(String),
    /// Something else that is tried again.
    Fault(String),
}

impl Stop {
    /// For the operator.
    pub fn why(&self) -> &str {
        match self {
            Stop::Identity(why)
            | Stop::Deletes(why)
            | Stop::Unfinished(why)
            | Stop::Full(why)
            | Stop::ReadOnly(why)
            | Stop::Fault(why) => why,
        }
    }

    /// Name of the alarm.
    pub fn kind(&self) -> &'static str {
        match self {
            Stop::Identity(_) => "identity",
            Stop::Deletes(_) => "guard",
            Stop::Unfinished(_) => "journal",
            Stop::Full(_) => "no-room",
            Stop::ReadOnly(_) => read_only::ALARM,
            Stop::Fault(_) => "root",
        }
    }
}

/// What is wrong with a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It could not be read or applied.
    Failed(String),
    /// It was applied, without something that cannot be set here. That it can be read says nothing of that.
    Incomplete(String),
}

impl Wrong {
    /// For the operator.
    pub fn why(&self) -> &str {
        match self {
            Wrong::Failed(why) | Wrong::Incomplete(why) => why,
        }
    }
}

/// A scan of the tree that runs. What it finds is handled in pieces, so that commands are answered in between.
#[derive(Debug)]
pub(crate) struct Job {
    /// The walk.
    pub scan: Scan,
    /// The walk is over, and this is gone and not yet looked at, in path order.
    pub gone: Option<Gone>,
    /// What is gone waits for what happened until the walk's end.
    pub waits: Option<Told>,
    /// A pass for what causes no events, on a tree that is known.
    pub routine: bool,
    /// It reads what changed since, see [`Tree::read_since`].
    pub read_since: Option<i128>,
    /// For progress: paths looked at so far.
    pub done: u64,
    /// For progress: bytes read so far.
    pub bytes: u64,
    /// CLOCK_BOOTTIME nanoseconds.
    pub started: u64,
}

impl Job {
    /// What is gone is looked at next.
    pub fn is_due(&self) -> bool {
        self.gone.is_some() && self.waits.is_none()
    }

    /// A scan that begins.
    pub fn new(scan: Scan, routine: bool, read_since: Option<i128>, started: u64) -> Self {
        Job {
            scan,
            read_since,
            gone: None,
            waits: None,
            routine,
            done: 0,
            bytes: 0,
            started,
        }
    }
}

/// A tree and what is known of it in memory.
pub(crate) struct Tree {
    /// Configuration.
    pub config: Arc<TreeConfig>,
    /// Id.
    pub id: TreeId,
    /// The opened root, if it is proven.
    pub open: Option<Open>,
    /// Staging holds nothing of an earlier process.
    pub cleaned: bool,
    /// Consistent sets of it.
    pub sets: Sets,
    /// Why it does not move.
    pub stop: Option<Stop>,
    /// There is room for what is received, or not.
    pub room: Room,
    /// Its file system takes no changes, which whoever only reads it can do without.
    pub read_only: bool,
    /// Paths to be looked at.
    pub dirty: BTreeMap<RelPath, Dirt>,
    /// The last round of looks; the worker counts them, for all trees.
    pub round: u64,
    /// When a path was last marked (CLOCK_BOOTTIME nanoseconds).
    pub marked_at: u64,
    /// Many of them are gone.
    pub burst: Burst,
    /// Renames that events told of.
    pub renames: VecDeque<Rename>,
    /// The one that the replica is asked to carry out. Until then nothing else of the tree is looked at.
    pub moving: Option<Moving>,
    /// Paths to be looked at again at a time (CLOCK_BOOTTIME nanoseconds).
    pub later: Later,
    /// Files among them that were not at rest.
    pub unrested: Unrested,
    /// The whole tree must be walked before anything can be said of it.
    pub rescan: bool,
    /// A pass over the tree is due, for what causes no events.
    pub routine: bool,
    /// When the last walk ended (CLOCK_BOOTTIME nanoseconds).
    pub walked_at: u64,
    /// The rolling comparison of contents.
    pub contents: Contents,
    /// Paths that were not applied because of a flag; tried again when it is gone.
    pub flagged: BTreeSet<RelPath>,
    /// More of them.
    pub flagged_others: Others,
    /// Paths that were applied without something that cannot be set here.
    pub lacking: Lacking,
    /// Paths that were not applied because of a filter of this node; asked for when it covers them no more.
    pub skipped: BTreeSet<RelPath>,
    /// More of them.
    pub skipped_others: Others,
    /// What the source removed and stays here, because of a filter or by `deletes`. At most [`MAX_NAMED`].
    pub kept: BTreeSet<RelPath>,
    /// How long what is in the trash has been there.
    pub trash: Keeping,
    /// More of them than the index knows of.
    pub skipped_moved: bool,
    /// Files that changed since are read by the next scan even if their keys say that nothing changed (nanoseconds of the wall
    /// clock): the machine stopped uncleanly, or what was to be read is too much to be named.
    pub read_since: Option<i128>,
    /// A walk has named those that changed since, and some may be unread.
    pub walked_since: Option<i128>,
    /// A walk's work.
    pub job: Option<Job>,
    /// A large content that is read.
    pub reading: Option<Reading>,
    /// Some may be marked to be read, or as found by a scan and not read.
    pub has_large: bool,
    /// Deletions that `accept` lets pass once.
    pub accepted: Option<BTreeSet<Name>>,
    /// What vanished lately, so that many small steps count as one.
    pub deletes: DeleteWindow,
    /// How often the whole tree was to be looked at again because so much was gone.
    pub doubts: u8,
    /// Paths that could not be read or applied, with the reason.
    pub errors: BTreeMap<RelPath, Wrong>,
    /// The newest of them.
    pub last_error: Option<String>,
    /// Local changes that the policy leaves alone.
    pub local_changes: BTreeSet<RelPath>,
    /// Mounts below the root.
    pub mounts: BTreeSet<RelPath>,
    /// Sockets.
    pub sockets: BTreeSet<RelPath>,
    /// Files that never rest.
    pub fuzzy: BTreeSet<RelPath>,
    /// Files of which what lies here may be of no single moment.
    pub marks: Marks,
    /// Copies of them, to be sent.
    pub copies: BTreeMap<RelPath, ContentHash>,
    /// Files that have grown and were not read whole since.
    pub unverified: Unverified,
    /// Entries in the rescue, as last counted.
    pub rescued: u64,
    /// Paths whose local version is not settled with the source's yet; the durable list is in the index.
    pub unsettled: BTreeSet<RelPath>,
    /// A session that fills it was accepted.
    pub receives: bool,
    /// The rescue set of this session.
    pub rescue: Option<OpenSet>,
    /// On what occasion things go to the rescue now.
    pub rescue_why: String,
    /// And it is not known what the pair had of what lies here.
    pub base_unknown: bool,
}

/// Most paths kept by name for status and retries; more are only counted by a rescan.
pub(crate) const MAX_NAMED: usize = 10_000;
/// Walks of a tree before it is stopped for what is gone. One may run beside a rename and see neither name; the next one
/// began after that. Bounds how long such deletions are held back.
pub(crate) const MAX_DOUBTS: u8 = 2;
/// Dirty paths of one tree that are kept; beyond that the tree is walked.
pub(crate) const MAX_DIRTY: usize = 100_000;

impl Tree {
    /// A tree that is not opened yet.
    pub fn new(config: TreeConfig) -> Self {
        Tree {
            id: config.id(),
            config: Arc::new(config),
            open: None,
            cleaned: false,
            sets: Sets::default(),
            stop: None,
            room: Room::default(),
            read_only: false,
            dirty: BTreeMap::new(),
            round: 1,
            marked_at: 0,
            burst: Burst::None,
            renames: VecDeque::new(),
            moving: None,
            later: Later::default(),
            unrested: Unrested::default(),
            rescan: false,
            routine: false,
            walked_at: 0,
            contents: Contents::default(),
            flagged: BTreeSet::new(),
            flagged_others: Others::default(),
            lacking: Lacking::default(),
            skipped: BTreeSet::new(),
            skipped_others: Others::default(),
            skipped_moved: false,
            kept: BTreeSet::new(),
            trash: Keeping::default(),
            read_since: None,
            walked_since: None,
            job: None,
            reading: None,
            has_large: false,
            accepted: None,
            deletes: DeleteWindow::default(),
            doubts: 0,
            errors: BTreeMap::new(),
            last_error: None,
            local_changes: BTreeSet::new(),
            mounts: BTreeSet::new(),
            sockets: BTreeSet::new(),
            fuzzy: BTreeSet::new(),
            marks: Marks::default(),
            copies: BTreeMap::new(),
            unverified: Unverified::default(),
            rescued: 0,
            unsettled: BTreeSet::new(),
            receives: false,
            rescue: None,
            rescue_why: "local changes on the standby".into(),
            base_unknown: false,
        }
    }

    /// Whether it can be read and changed.
    pub fn moves(&self) -> bool {
        self.stop.is_none() && self.open.is_some()
    }

    /// Not everything that lies in it is known: a scan is due or runs. A pass over a tree that is known does not count.
    pub fn is_scanned(&self) -> bool {
        let scans = self.rescan || self.job.as_ref().is_some_and(|job| !job.routine);
        scans || self.reads_for_scan()
    }

    /// More is gone than may be: before the tree is stopped it is walked, which finds everything that is there before it
    /// judges what is not. False: it was.
    pub fn doubt(&mut self) -> bool {
        if self.doubts >= MAX_DOUBTS {
            return false;
        }
        self.doubts += 1;
        self.job = None;
        self.rescan = true;
        self.burst = Burst::None;
        self.dirty
            .retain(|_, dirt| dirt.gone.is_none() || dirt.force);
        true
    }

    /// Until the walk has ended nothing is recorded as gone.
    pub fn is_doubted(&self) -> bool {
        let walks = self.job.as_ref().is_some_and(|job| job.gone.is_none());
        self.doubts > 0 && (self.rescan || walks)
    }

    /// The names by which the guard counts what is gone, without those that a person accepted.
    pub fn counted(&self, gone: &Gone) -> Vec<Name> {
        let accepted = |path: &RelPath| {
            let accepted = self.accepted.as_ref();
            accepted.is_some_and(|set| set.contains(&Name::of(path)))
        };
        let counted = gone.iter().filter(|path| !accepted(path));
        counted.map(|path| self.deletes.name(&path)).collect()
    }

    /// Marks a path to be looked at again at a time, whatever its key says if its stamp is `young`. Beyond the bound a scan does,
    /// which finds what was not at rest by its key, and reads what changed since the oldest of the young stamps.
    pub fn again(&mut self, path: RelPath, at: u64, young: Option<i128>) {
        if self.later.len() >= MAX_DIRTY && !self.later.contains_key(&path) {
            let all = self.later.values().filter_map(|again| again.young);
            let oldest = all.chain(young).min();
            self.read_from(oldest);
            self.later.clear();
            self.rescan = true;
            return;
        }
        let again = self.later.get(&path).copied().unwrap_or_default();
        let again = Again {
            at: Some(at),
            tries: again.tries + 1,
            young: young.or(again.young),
        };
        self.later.put(path, again);
    }

    /// Has a path that could not be read looked at again at a time. Whether it rests is not known. Beyond the bound the error alone
    /// names it.
    pub fn wait(&mut self, path: RelPath, at: u64) {
        if self.later.len() < MAX_DIRTY || self.later.contains_key(&path) {
            let again = self.later.get(&path).copied().unwrap_or_default();
            let at = Some(at);
            self.later.put(path, Again { at, ..again });
        }
    }

    /// The next scan reads what changed since, whatever the keys say.
    pub fn read_from(&mut self, since: Option<i128>) {
        self.read_since = self.read_since.into_iter().chain(since).min();
    }

    /// Notes a path that could not be read or applied.
    pub fn error(&mut self, path: &RelPath, why: String) {
        self.wrong(path, Wrong::Failed(why));
    }

    /// Notes what is wrong with a path.
    pub fn wrong(&mut self, path: &RelPath, wrong: Wrong) {
        self.last_error = Some(format!("{path}: {}", wrong.why()));
        let named = self.errors.len() < MAX_NAMED || self.errors.contains_key(path);
        if named && self.errors.insert(path.clone(), wrong).is_none() {
            tracing::warn!(
                tree = self.config.name,
                error = self.last_error,
                "path with an error"
            );
        }
    }

    /// Notes what the source removed and stays here.
    pub fn keep(&mut self, path: &RelPath) {
        if self.kept.len() < MAX_NAMED {
            self.kept.insert(path.clone());
        }
    }

    /// What was kept and is gone now is not counted any more.
    pub fn forget_what_is_not_kept(&mut self) {
        if let Some(open) = &self.open {
            self.kept
                .retain(|path| !matches!(open.root.stat(path), Ok(None)));
        }
    }

    /// The path can be read now.
    pub fn is_readable(&mut self, path: &RelPath) {
        // That does not mean that it could be applied.
        let open = self.flagged.contains(path) || self.unsettled.contains(path);
        if !open && let Some(Wrong::Failed(_)) = self.errors.get(path) {
            self.no_error(path);
        }
    }

    /// What lies there has everything that it is to have: somebody else set it.
    pub fn is_complete(&mut self, path: &RelPath) {
        self.lacking.done(path);
        if let Some(Wrong::Incomplete(_)) = self.errors.get(path) {
            self.no_error(path);
        }
    }

    /// Of what could not be set on what was received, only what is known by name can end on a node that writes itself.
    pub fn is_own(&mut self) {
        let lacking = &self.lacking;
        self.errors
            .retain(|path, wrong| matches!(wrong, Wrong::Failed(_)) || lacking.contains(path));
        if self.errors.is_empty() {
            self.last_error = None;
        }
    }

    /// The path is in order now.
    pub fn no_error(&mut self, path: &RelPath) {
        self.errors.remove(path);
        if self.errors.is_empty() {
            self.last_error = None;
        }
    }
}
