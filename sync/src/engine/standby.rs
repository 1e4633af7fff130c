//! Local versions on the replica: what somebody else wrote here, or what this node wrote as a master.
//!
//! A path is *clean* when its entry has a number and what lies there has the entry's key. Everything else is looked at
//! before it is touched: equal to the source's version, it is only indexed; else it goes to the rescue first.

use super::apply::{Here, Intent, Item, Results, is_same_but_ctime};
use super::look::Sight;
use super::status::Mode;
use super::tree::{Dirt, Open};
use super::worker::Worker;
use crate::entry::{Base, IndexEntry, Kind, LocalKey, Meta, State};
use crate::fault::Fault;
use crate::hash;
use crate::index::{IndexError, Snapshot, Unreplicated};
use crate::lineage::CopyState;
use crate::meta::{self, What};
use crate::path::RelPath;
use crate::rescue::{self, Change, Header, Keep, OpenSet};
use crate::tree::{Deletes, LocalChanges, TreeId};
use std::collections::HashMap;

/// What lies at a path.
struct Lies {
    /// Nothing, if not `exists`; else `None` for a socket.
    state: Option<State>,
    key: Option<LocalKey>,
    exists: bool,
}

/// Paths whose entries are taken out of the index before the plan is made, or replaced by what was found.
type Forget = Vec<(RelPath, Option<(State, LocalKey)>)>;

impl Worker {
    /// What differs from the index although this node only receives.
    pub(super) fn local_changes(
        &mut self,
        at: usize,
        sights: Vec<Sight>,
    ) -> Result<(), IndexError> {
        let repair = self.trees[at].config.local_changes == LocalChanges::Repair;
        self.changed_locally(at, sights, repair)
    }

    fn changed_locally(
        &mut self,
        at: usize,
        sights: Vec<Sight>,
        repair: bool,
    ) -> Result<(), IndexError> {
        let snapshot = self.shared.index.snapshot()?;
        let intent: Intent = snapshot.value(super::apply::INTENT)?.unwrap_or_default();
        let (tree, config) = (self.trees[at].id, self.trees[at].config.clone());
        let mut own = Vec::new();
        let mut keys = Vec::new();
        let mut foreign = Vec::new();
        let mut between = Vec::new();
        let intent: HashMap<&RelPath, (u64, &Option<State>)> = intent
            .0
            .iter()
            .filter(|(t, ..)| *t == tree)
            .map(|(_, path, seq, state)| (path, (*seq, state)))
            .collect();
        for sight in sights {
            let entry = snapshot.get(tree, &sight.path)?;
            let known = entry.as_ref().and_then(|e| e.current.as_ref());
            if same(known, sight.state.as_ref()) {
                keys.push(sight);
                continue;
            }
            if known.is_none() && config.deletes == Deletes::Keep {
                continue;
            }
            match intent.get(&sight.path) {
                Some((seq, state)) if *seq != 0 && same(state.as_ref(), sight.state.as_ref()) => {
                    own.push((sight, *seq, (*state).clone()));
                }
                Some((_, state)) if is_between(&sight, entry.as_ref(), state.as_ref()) => {
                    between.push(sight)
                }
                None if !intent.is_empty() && only_time(&sight, known) => between.push(sight),
                _ => foreign.push((sight, entry)),
            }
        }
        drop(snapshot);
        if !repair {
            for (sight, _) in &foreign {
                if self.trees[at].local_changes.len() < super::tree::MAX_NAMED {
                    self.trees[at].local_changes.insert(sight.path.clone());
                }
            }
            foreign.clear();
        }
        self.shared.index.write(|w| {
            for sight in &keys {
                w.set_local(tree, &sight.path, sight.local)?;
            }
            for (sight, seq, state) in &own {
                w.receive(tree, &sight.path, state.clone(), *seq, sight.local)?;
            }
            for sight in &between {
                list(w, tree, sight, &Unreplicated::nothing())?;
            }
            for (sight, entry) in &foreign {
                list(w, tree, sight, &local_record(sight, entry.as_ref()))?;
            }
            if !(foreign.is_empty() && between.is_empty())
                && w.head(tree)?.state == CopyState::Consistent
            {
                w.fall_behind(tree)?;
            }
            Ok::<_, IndexError>(())
        })?;
        if !foreign.is_empty() {
            tracing::warn!(
                tree = config.name,
                paths = foreign.len(),
                "local changes on the standby are repaired"
            );
        }
        if !(foreign.is_empty() && between.is_empty()) {
            let foreign = foreign.into_iter().map(|(sight, _)| sight);
            let paths = foreign.chain(between).map(|sight| sight.path);
            self.trees[at].unsettled.extend(paths);
            self.shared.unsettled.notify_one();
            self.touch();
        }
        Ok(())
    }

    /// Paths whose content is not what the source has, whatever their stamps say.
    pub(super) fn suspect(&mut self, tree: TreeId, paths: Vec<RelPath>) {
        let Some(at) = self.position(tree).filter(|at| self.trees[*at].moves()) else {
            return;
        };
        if self.mode != Mode::Replica {
            return;
        }
        let paths: Vec<(RelPath, Dirt)> = paths.into_iter().map(|p| (p, Dirt::FORCED)).collect();
        let sights = match self.looker(at, |looker| looker.look_all(&paths)) {
            Some(Ok(sights)) => sights.seen,
            Some(Err(error)) => return self.index_failed(&error),
            None => return,
        };
        // What is as the index says differs from the source's all the same: it is asked for too.
        let rest = paths.into_iter().map(|(path, _)| path).collect();
        let result = self
            .changed_locally(at, sights, true)
            .and_then(|()| self.list_as_is(at, rest));
        if let Err(error) = result {
            self.index_failed(&error);
        }
    }

    /// Puts paths on the list of what is to be settled. What lies there is as the index has it: no local version.
    pub(super) fn list_as_is(&mut self, at: usize, paths: Vec<RelPath>) -> Result<(), IndexError> {
        let tree = self.trees[at].id;
        let unsettled = &mut self.trees[at].unsettled;
        let paths: Vec<RelPath> = paths
            .into_iter()
            .filter(|path| unsettled.insert(path.clone()))
            .collect();
        self.shared.index.write(|w| {
            for path in &paths {
                w.list_unreplicated(tree, path, &Unreplicated::nothing())?;
            }
            Ok::<_, IndexError>(())
        })?;
        self.shared.unsettled.notify_one();
        Ok(())
    }

    /// Compares what lies at the paths of a batch with what the index knows, and puts local versions aside. Gives the
    /// records that are still to be applied.
    pub(super) fn settle_local_versions(
        &mut self,
        at: usize,
        open: &Open,
        items: Vec<Item>,
        results: &mut Results,
    ) -> Result<Vec<Item>, String> {
        let tree = self.trees[at].id;
        let config = self.trees[at].config.clone();
        let snapshot = self.shared.index.snapshot().map_err(|e| e.to_string())?;
        let mut left = Vec::new();
        let mut forget: Forget = Vec::new();
        for item in items {
            let path = &item.record.path;
            let is_dir = item.record.state.as_ref().is_some_and(|s| s.kind.is_dir());
            if path.is_root()
                || config.protect.covers(path, is_dir)
                || config.exclude.covers(path, is_dir)
            {
                left.push(item);
                continue;
            }
            let entry = snapshot.get(tree, path).map_err(|e| e.to_string())?;
            let stat = open.root.stat(path).unwrap_or(None);
            let unsettled = self.trees[at].unsettled.contains(path);
            let listed = if unsettled {
                snapshot.listed(tree, path).map_err(|e| e.to_string())?
            } else {
                None
            };
            if is_clean(entry.as_ref(), stat.map(|s| s.key()))
                && listed.as_ref().is_none_or(Unreplicated::is_nothing)
            {
                if !is_dir
                    && stat.is_some_and(|s| s.is_dir())
                    && let Err(why) = self.put_aside_below(at, open, path, &mut forget)
                {
                    self.trees[at].error(path, why);
                    results.failed.push((tree, path.clone(), Here::Open));
                } else {
                    left.push(item);
                }
                continue;
            }
            let lies = match self.lies(open, path, entry.as_ref()) {
                Ok(lies) => lies,
                Err(why) => {
                    self.trees[at].error(path, why);
                    results.failed.push((tree, path.clone(), Here::Open));
                    continue;
                }
            };
            if same(lies.state.as_ref(), item.record.state.as_ref()) {
                results.received.push((
                    tree,
                    path.clone(),
                    item.record.state.clone(),
                    item.record.seq,
                    lies.key,
                ));
                results.settled.insert((tree, path.clone()));
                continue;
            }
            if item.record.state.is_none() && config.deletes == Deletes::Keep {
                results
                    .received
                    .push((tree, path.clone(), None, item.record.seq, None));
                results.settled.insert((tree, path.clone()));
                continue;
            }
            match self.put_aside(at, open, &item, lies, (entry, listed), &mut forget) {
                Ok(()) => left.push(item),
                Err(why) => {
                    self.trees[at].error(path, why);
                    results.failed.push((tree, path.clone(), Here::Open));
                }
            }
        }
        drop(snapshot);
        if !forget.is_empty() {
            let write = |w: &mut crate::index::Writer<'_>| {
                forget.iter().try_for_each(|(path, found)| {
                    w.remove(tree, path)?;
                    found.as_ref().map_or(Ok(()), |(state, key)| {
                        w.found(tree, path, state.clone(), *key)
                    })
                })
            };
            self.shared
                .index
                .write(write)
                .map_err(|e: IndexError| e.to_string())?;
        }
        Ok(left)
    }
}

impl Worker {
    /// Reads what lies at a path.
    fn lies(
        &self,
        open: &Open,
        path: &RelPath,
        entry: Option<&IndexEntry>,
    ) -> Result<Lies, String> {
        let seen = match meta::read(&open.root, path) {
            Ok(seen) => seen,
            Err(Fault::NotBeneath | Fault::Missing) => None,
            Err(fault) => return Err(fault.to_string()),
        };
        let Some(seen) = seen else {
            return Ok(Lies {
                state: None,
                key: None,
                exists: false,
            });
        };
        let key = seen.key();
        let known = entry
            .filter(|e| e.local == Some(key))
            .and_then(|e| e.current.clone());
        let state = match (&seen.what, known) {
            (What::File(_), Some(known)) => Some(State {
                kind: known.kind,
                meta: seen.meta.clone(),
            }),
            (What::File(_), None) => {
                let hashed =
                    hash::hash_path(&open.root, path, false).map_err(|fault| fault.to_string())?;
                if !hashed.is_stable() || hashed.before != key {
                    return Err("somebody writes here".into());
                }
                seen.state(Some(hashed.hash))
            }
            _ => seen.state(None),
        };
        Ok(Lies {
            state,
            key: Some(key),
            exists: true,
        })
    }

    /// Puts the local version at the item's path into the rescue, durably, so that the path may be changed.
    fn put_aside(
        &mut self,
        at: usize,
        open: &Open,
        item: &Item,
        lies: Lies,
        (entry, listed): (Option<IndexEntry>, Option<Unreplicated>),
        forget: &mut Forget,
    ) -> Result<(), String> {
        let path = &item.record.path;
        let theirs = item.record.state.as_ref();
        let keep = |change, take| Keep {
            path: path.clone(),
            change,
            other: None,
            state: lies.state.clone(),
            take,
        };
        let listed_own = listed.as_ref().is_some_and(|l| !l.is_nothing());
        if !lies.exists {
            let deleted = listed.as_ref().is_some_and(|l| l.ours.is_none()) && listed_own;
            if deleted && theirs.is_some() {
                self.keep(at, open, &[keep(Change::Deleted, false)])?;
            }
            forget.push((path.clone(), None));
            return Ok(());
        }
        let found = lies.state.clone().zip(lies.key);
        if lies.state.as_ref().is_some_and(|s| s.kind.is_dir()) {
            match theirs {
                Some(theirs) if theirs.kind.is_dir() => {
                    if listed_own
                        && !same_but_time(&theirs.meta, lies.state.as_ref().map(|s| &s.meta))
                    {
                        self.keep(at, open, &[keep(Change::Metadata, false)])?;
                    }
                }
                _ => self.put_aside_below(at, open, path, forget)?,
            }
            forget.push((path.clone(), found));
            return Ok(());
        }
        if !listed_own && entry.is_some_and(|e| is_known(&e, &lies, listed.is_some())) {
            forget.push((path.clone(), found));
            return Ok(());
        }
        tracing::info!(tree = self.trees[at].config.name, %path, "a local version goes to the rescue");
        let change = if theirs.is_none() {
            Change::Created
        } else {
            Change::Changed
        };
        self.keep(at, open, &[keep(change, true)])?;
        forget.push((path.clone(), None));
        Ok(())
    }

    /// A directory goes: what lies in it and is not of the pair's history goes to the rescue first.
    fn put_aside_below(
        &mut self,
        at: usize,
        open: &Open,
        dir: &RelPath,
        forget: &mut Forget,
    ) -> Result<(), String> {
        let tree = self.trees[at].id;
        let snapshot = self.shared.index.snapshot().map_err(|e| e.to_string())?;
        let mut keeps = Vec::new();
        for row in snapshot.below(tree, dir).map_err(|e| e.to_string())? {
            let (path, entry) = row.map_err(|e| e.to_string())?;
            let listed = match self.trees[at].unsettled.contains(&path) {
                true => snapshot.listed(tree, &path).map_err(|e| e.to_string())?,
                false => None,
            };
            let ours = listed.map_or(entry.seq == 0, |l| !l.is_nothing());
            let Some(state) = entry.current.filter(|s| ours && !s.kind.is_dir()) else {
                continue;
            };
            if matches!(open.root.stat(&path), Ok(Some(_))) {
                keeps.push(Keep {
                    path: path.clone(),
                    change: Change::Created,
                    other: None,
                    state: Some(state),
                    take: true,
                });
            }
            forget.push((path, None));
        }
        self.keep(at, open, &keeps)
    }

    /// Moves versions into the tree's open rescue set. All or an error.
    fn keep(&mut self, at: usize, open: &Open, versions: &[Keep]) -> Result<(), String> {
        if versions.is_empty() {
            return Ok(());
        }
        let Some(_guard) = self.shared.token.hold() else {
            return Err("the role changed".into());
        };
        let tree = &mut self.trees[at];
        if tree.rescue.is_none() {
            let header = rescue_header(&tree.config.name, &tree.rescue_why);
            tree.rescue = Some(OpenSet::open(&open.private, &header).map_err(|e| e.to_string())?);
        }
        let Some(set) = &mut tree.rescue else {
            return Err("no rescue".into());
        };
        let kept = set.keep(&open.root, versions);
        let name = tree.config.name.clone();
        match kept {
            Ok(results) => {
                let first = results.into_iter().find_map(Result::err);
                self.shared.alarm(
                    Some(&name),
                    "rescue",
                    first
                        .as_ref()
                        .map(|fault| format!("a local version cannot be put aside: {fault}")),
                );
                tree.rescued += versions.len() as u64;
                first.map_or(Ok(()), |fault| {
                    Err(format!("cannot be put into the rescue: {fault}"))
                })
            }
            Err(error) => {
                self.shared
                    .alarm(Some(&name), "rescue", Some(error.to_string()));
                Err(error.to_string())
            }
        }
    }

    /// What lies in a tree that was never copied here and is not at the source: to be put aside too.
    pub(super) fn leftovers(
        &self,
        index: &Snapshot,
        at: usize,
    ) -> Result<Vec<(RelPath, State)>, IndexError> {
        let tree = &self.trees[at];
        let mut found = Vec::new();
        for row in index.entries(tree.id, &RelPath::root())? {
            let (path, entry) = row?;
            let Some(state) = entry.current.filter(|_| entry.seq == 0 && !path.is_root()) else {
                continue;
            };
            if !tree.config.protect.covers(&path, state.kind.is_dir())
                && tree.config.deletes == Deletes::Mirror
            {
                found.push((path, state));
            }
        }
        Ok(found)
    }
}

/// A set is named by its time and tree, and unique on the node because one worker makes them, not faster than a name
/// can change.
fn rescue_header(tree: &str, why: &str) -> Header {
    let made = u64::try_from(hash::now_ns() / 1_000_000).unwrap_or(0);
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let name: String = tree.chars().map(plain).take(40).collect();
    Header {
        version: rescue::manifest::VERSION,
        id: format!("{made}-{name}"),
        tree: tree.to_owned(),
        made_unix_ms: made,
        why: why.to_owned(),
        base_unknown: false,
    }
}

/// What lies there is of the pair's history although its key is not the index's, or is what an apply left unfinished
/// and nobody touched since.
fn is_known(entry: &IndexEntry, lies: &Lies, unfinished: bool) -> bool {
    let (Some(before), Some(now)) = (entry.local, lies.key) else {
        return false;
    };
    let state = entry.seq != 0 && entry.current == lies.state;
    // Another name of the file was made or removed, by this node's own apply as a rule.
    let linked = match (&entry.current, &lies.state) {
        (Some(was), Some(is)) if entry.seq != 0 => {
            matches!(was.kind, Kind::HardLink { .. })
                && was.meta == is.meta
                && is_same_but_ctime(before, now)
        }
        _ => false,
    };
    state || linked || (unfinished && before == now)
}

fn same(a: Option<&State>, b: Option<&State>) -> bool {
    a == b
}

fn same_but_time(a: &Meta, b: Option<&Meta>) -> bool {
    b.is_some_and(|b| (a.mode, a.uid, a.gid, &a.xattrs) == (b.mode, b.uid, b.gid, &b.xattrs))
}

/// What lies there is what the index says, and that is of the pair's history.
fn is_clean(entry: Option<&IndexEntry>, key: Option<LocalKey>) -> bool {
    match (entry, key) {
        (None, None) => true,
        (None, Some(_)) => false,
        (Some(entry), key) => match &entry.current {
            None => key.is_none(),
            // The times of a directory move with what lies in it.
            Some(state) if state.kind.is_dir() => {
                let ino = |key: Option<LocalKey>| key.map(|k| (k.dev, k.ino));
                entry.seq != 0 && key.is_some() && ino(entry.local) == ino(key)
            }
            Some(_) => entry.seq != 0 && key.is_some() && entry.local == key,
        },
    }
}

/// What a crash left of an apply of this path: `entry` before, `becomes` after.
fn is_between(sight: &Sight, entry: Option<&IndexEntry>, becomes: Option<&State>) -> bool {
    let Some(state) = &sight.state else {
        // Room was made for something else.
        return true;
    };
    // A directory is made empty and closed, and gets its attributes at the end; of a file only attributes may be
    // half changed, and its names.
    let kind = |other: Option<&State>| other.is_some_and(|o| o.kind == state.kind);
    let known = entry.and_then(|e| e.current.as_ref());
    let keys = entry.and_then(|e| e.local).zip(sight.local);
    state.kind.is_dir()
        || kind(known)
        || kind(becomes)
        || keys.is_some_and(|(before, now)| is_same_but_ctime(before, now))
}

/// A directory whose time moved with what lies in it.
fn only_time(sight: &Sight, known: Option<&State>) -> bool {
    let dir = |state: Option<&State>| state.filter(|s| s.kind.is_dir()).map(|s| s.meta.clone());
    dir(known).is_some_and(|known| same_but_time(&known, dir(sight.state.as_ref()).as_ref()))
}

fn local_record(sight: &Sight, entry: Option<&IndexEntry>) -> Unreplicated {
    let base = match entry {
        Some(entry) if entry.seq != 0 => Base::Was(entry.current.clone().map(Box::new)),
        _ => Base::Never,
    };
    Unreplicated {
        ours: sight.state.clone(),
        base,
    }
}

/// Puts what lies at a path on the list of what is to be settled, and makes the index say what lies there.
fn list(
    w: &mut crate::index::Writer<'_>,
    tree: TreeId,
    sight: &Sight,
    record: &Unreplicated,
) -> Result<(), IndexError> {
    w.list_unreplicated(tree, &sight.path, record)?;
    w.remove(tree, &sight.path)?;
    match (&sight.state, sight.local) {
        (Some(state), Some(key)) => w.found(tree, &sight.path, state.clone(), key),
        _ => Ok(()),
    }
}
