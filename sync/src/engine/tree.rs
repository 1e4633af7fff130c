//! One tree as the worker holds it: its opened root, its identity, what waits to be examined.

use crate::beneath::Root;
use crate::identity::{self, FsId};
use crate::index::{Index, IndexError, Snapshot};
use crate::path::RelPath;
use crate::private::Private;
use crate::rescue::OpenSet;
use crate::tree::{TreeConfig, TreeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

/// What identified the root when the index was made for it. Durable in the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootRecord {
    /// The marker's random identity.
    pub marker: String,
    /// Its file system.
    pub fs: FsId,
    /// It was the root of a mount.
    pub mount_point: bool,
}

impl RootRecord {
    fn key(tree: TreeId) -> String {
        format!("root/{tree}")
    }
}

/// The opened root with its private directory.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    /// The root.
    pub root: Arc<Root>,
    /// `.tandem` in it.
    pub private: Arc<Private>,
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

    fn set(&self, tree: TreeId, open: Option<Open>) {
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
    /// Something else that is tried again.
    Fault(String),
}

impl Stop {
    /// For the operator.
    pub fn why(&self) -> &str {
        match self {
            Stop::Identity(why) | Stop::Deletes(why) | Stop::Fault(why) => why,
        }
    }

    /// Name of the alarm.
    pub fn kind(&self) -> &'static str {
        match self {
            Stop::Identity(_) => "identity",
            Stop::Deletes(_) => "guard",
            Stop::Fault(_) => "root",
        }
    }
}

/// A path that must be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Dirt {
    /// Everything below too.
    pub recursive: bool,
    /// Read the content even if the local key says that nothing changed.
    pub force: bool,
    /// It comes from a walk, which lists everything below by itself.
    pub walked: bool,
}

impl Dirt {
    /// Read the content in any case.
    pub const FORCED: Dirt = Dirt {
        recursive: false,
        force: true,
        walked: false,
    };
    /// Found by a walk.
    pub const WALKED: Dirt = Dirt {
        recursive: false,
        force: false,
        walked: true,
    };

    fn merge(&mut self, other: Dirt) {
        self.walked &= other.walked;
        self.recursive |= other.recursive;
        self.force |= other.force;
    }
}

/// What a walk found to do. Handled in slices, so that commands are answered in between.
#[derive(Debug, Default)]
pub(crate) struct Job {
    /// Paths to look at, in path order.
    pub look: VecDeque<RelPath>,
    /// For progress.
    pub total: u64,
    /// For progress: bytes read so far.
    pub bytes: u64,
    /// CLOCK_BOOTTIME nanoseconds.
    pub started: u64,
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
    cleaned: bool,
    /// Why it does not move.
    pub stop: Option<Stop>,
    /// Paths to be looked at.
    pub dirty: BTreeMap<RelPath, Dirt>,
    /// Paths to be looked at again at a time (CLOCK_BOOTTIME nanoseconds).
    pub later: BTreeMap<RelPath, Again>,
    /// The whole tree must be walked before anything can be said of it.
    pub rescan: bool,
    /// A walk's work.
    pub job: Option<Job>,
    /// Deletions that `accept` lets pass once.
    pub accepted: Option<BTreeSet<RelPath>>,
    /// Deletions that the guard held back.
    pub held_back: BTreeSet<RelPath>,
    /// (CLOCK_BOOTTIME nanoseconds, deletions) of the last time, so that many small steps count as one.
    pub recent_deletes: VecDeque<(u64, u64)>,
    /// Paths that could not be read or applied, with the reason.
    pub errors: BTreeMap<RelPath, String>,
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
}

/// A path that is looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Again {
    /// When (CLOCK_BOOTTIME nanoseconds).
    pub at: u64,
    /// How often it was not at rest.
    pub tries: u32,
}

/// Most paths kept by name for status and retries; more are only counted by a rescan.
pub(crate) const MAX_NAMED: usize = 10_000;
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
            stop: None,
            dirty: BTreeMap::new(),
            later: BTreeMap::new(),
            rescan: false,
            job: None,
            accepted: None,
            held_back: BTreeSet::new(),
            recent_deletes: VecDeque::new(),
            errors: BTreeMap::new(),
            last_error: None,
            local_changes: BTreeSet::new(),
            mounts: BTreeSet::new(),
            sockets: BTreeSet::new(),
            fuzzy: BTreeSet::new(),
            rescued: 0,
            unsettled: BTreeSet::new(),
            receives: false,
            rescue: None,
            rescue_why: "local changes on the standby".into(),
        }
    }

    /// Opens the root and proves it against the index. On success the tree moves again.
    pub fn prove(&mut self, pair: &str, index: &Index, roots: &Roots) {
        let verdict = self.try_open(pair, index);
        match verdict {
            Ok(open) => {
                self.clean(&open);
                roots.set(self.id, Some(open.clone()));
                self.open = Some(open);
                if matches!(self.stop, Some(Stop::Identity(_) | Stop::Fault(_))) {
                    self.stop = None;
                    self.rescan = true;
                }
            }
            Err(stop) => self.close(stop, roots),
        }
    }

    /// Removes what an apply left in staging that was cut by a crash. Only once: sessions of this process stage there.
    fn clean(&mut self, open: &Open) {
        if self.cleaned {
            return;
        }
        match open.private.clean_staging() {
            Ok(0) => self.cleaned = true,
            Ok(entries) => {
                self.cleaned = true;
                tracing::info!(
                    tree = self.config.name,
                    entries,
                    "left-overs were removed from staging"
                );
            }
            // They take room and are in nobody's way: their names are not given out again.
            Err(fault) => {
                tracing::warn!(tree = self.config.name, %fault, "staging cannot be cleaned")
            }
        }
    }

    /// Stops the tree and lets go of its root.
    pub fn close(&mut self, stop: Stop, roots: &Roots) {
        if self.stop.as_ref() != Some(&stop) {
            tracing::error!(
                tree = self.config.name,
                why = stop.why(),
                "the tree is stopped"
            );
        }
        roots.set(self.id, None);
        self.open = None;
        self.job = None;
        self.stop = Some(stop);
    }

    fn try_open(&self, pair: &str, index: &Index) -> Result<Open, Stop> {
        let broken = |what: &str, e: &dyn std::fmt::Display| Stop::Fault(format!("{what}: {e}"));
        let root = Root::open(&self.config.root, self.config.cross_mounts).map_err(|e| {
            Stop::Identity(format!(
                "the root {} cannot be opened: {e}",
                self.config.root.display()
            ))
        })?;
        let facts = identity::facts(&root).map_err(|e| broken("the root", &e))?;
        let snapshot = index.snapshot().map_err(|e| broken("index", &e))?;
        let known: Option<RootRecord> = snapshot
            .value(&RootRecord::key(self.id))
            .map_err(|e| broken("index", &e))?;
        if let Some(known) = known {
            if let Some(why) = mismatch(&known, &facts) {
                return Err(Stop::Identity(why));
            }
            let private = Private::open(&root).map_err(|e| broken(".tandem", &e))?;
            return Ok(Open {
                root: Arc::new(root),
                private: Arc::new(private),
            });
        }
        let private = Private::open(&root).map_err(|e| broken(".tandem", &e))?;
        let marker = match facts.marker {
            Some(marker) if marker.pair == pair && marker.tree == self.config.name => marker,
            _ => identity::create_marker(&private, pair, &self.config.name)
                .map_err(|e| broken("marker", &e))?,
        };
        let record = RootRecord {
            marker: marker.id,
            fs: facts.fs,
            mount_point: facts.is_mount_point,
        };
        let key = RootRecord::key(self.id);
        index
            .write(|w| w.put_value(&key, &record))
            .map_err(|e: IndexError| broken("index", &e))?;
        Ok(Open {
            root: Arc::new(root),
            private: Arc::new(private),
        })
    }

    /// Whether the held root is still what the configured path leads to and still is the recorded one. Asked before
    /// deletions are recorded (invariant 4).
    pub fn still_proven(&self, snapshot: &Snapshot) -> Result<(), Stop> {
        let gone = || {
            Stop::Identity(format!(
                "{} no longer leads to the recorded root",
                self.config.root.display()
            ))
        };
        let open = self.open.as_ref().ok_or_else(gone)?;
        if !open.root.still_there() {
            return Err(gone());
        }
        let facts =
            identity::facts(&open.root).map_err(|e| Stop::Fault(format!("the root: {e}")))?;
        let known: Option<RootRecord> = snapshot
            .value(&RootRecord::key(self.id))
            .map_err(|e| Stop::Fault(format!("index: {e}")))?;
        match known.and_then(|known| mismatch(&known, &facts)) {
            Some(why) => Err(Stop::Identity(why)),
            None => Ok(()),
        }
    }

    /// Whether it can be read and changed.
    pub fn moves(&self) -> bool {
        self.stop.is_none() && self.open.is_some()
    }

    /// Marks a path to be looked at.
    pub fn mark(&mut self, path: RelPath, dirt: Dirt) {
        if self.dirty.len() >= MAX_DIRTY {
            self.dirty.clear();
            self.rescan = true;
        }
        if !self.rescan || dirt.force {
            self.dirty.entry(path).or_insert(dirt).merge(dirt);
        }
    }

    /// Marks a path to be looked at again after `delay` nanoseconds.
    pub fn again(&mut self, path: RelPath, now: u64, delay: u64) {
        if self.later.len() >= MAX_DIRTY {
            self.later.clear();
            self.rescan = true;
            return;
        }
        let again = self
            .later
            .entry(path)
            .or_insert(Again { at: now, tries: 0 });
        again.at = now.saturating_add(delay);
        again.tries += 1;
    }

    /// Notes a path that could not be read or applied.
    pub fn error(&mut self, path: &RelPath, why: String) {
        self.last_error = Some(format!("{path}: {why}"));
        let named = self.errors.len() < MAX_NAMED || self.errors.contains_key(path);
        if named && self.errors.insert(path.clone(), why).is_none() {
            tracing::warn!(
                tree = self.config.name,
                error = self.last_error,
                "path with an error"
            );
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

/// Why a root is not the recorded one; `None`: it is.
fn mismatch(known: &RootRecord, facts: &identity::RootFacts) -> Option<String> {
    match &facts.marker {
        None if facts.is_empty => {
            return Some("the root is empty and has no marker: not mounted, or replaced".into());
        }
        None => return Some("the root has no marker: replaced, or restored from elsewhere".into()),
        Some(marker) if marker.id != known.marker => {
            return Some("the root has the marker of another directory".into());
        }
        Some(_) => {}
    }
    if facts.fs != known.fs {
        return Some(format!(
            "the root lies on file system {}, not on {}",
            facts.fs, known.fs
        ));
    }
    if known.mount_point && !facts.is_mount_point {
        return Some("the root was a mount point and is none now".into());
    }
    None
}
