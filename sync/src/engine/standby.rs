//! Local versions on the replica: what somebody else wrote here, or what this node wrote as a master.
//!
//! A path is *clean* when its entry has a number and what lies there has the entry's key. Everything else is looked at
//! before it is touched: equal to the source's version, it is only indexed; else it goes to the rescue first.

use super::apply::{ASIDE, Aside, Here, Intent, Item, Results};
use super::aside::{Forget, Lies, Unkept};
use super::judge::{
    is_between, is_clean, is_name_of, is_untouched_name, local_record, only_time, same,
};
use super::look::Sight;
use super::status::Mode;
use super::tree::{Dirt, Open};
use super::view::{is_same_but_ctime, names_of};
use super::worker::Worker;
use crate::entry::{IndexEntry, Kind, LocalKey, State};
use crate::fault::Fault;
use crate::index::{IndexError, Snapshot, Unreplicated};
use crate::lineage::CopyState;
use crate::path::RelPath;
use crate::tree::{Deletes, LocalChanges, TreeId};
use std::collections::{BTreeSet, HashMap};

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

    pub(super) fn changed_locally(
        &mut self,
        at: usize,
        sights: Vec<Sight>,
        repair: bool,
    ) -> Result<(), IndexError> {
        let snapshot = self.shared.index.snapshot()?;
        let (tree, config) = (self.trees[at].id, self.trees[at].config.clone());
        let Changes {
            own,
            keys,
            between,
            mut foreign,
        } = self.sort_out(at, &snapshot, sights)?;
        let further = self.further_names(at, &snapshot, &foreign)?;
        drop(snapshot);
        crate::cut::here("before local changes are listed");
        if !repair {
            for (sight, _) in &foreign {
                if self.trees[at].local_changes.len() < super::tree::MAX_NAMED {
                    self.trees[at].local_changes.insert(sight.path.clone());
                }
            }
            foreign.clear();
        }
        let further = if repair { further } else { BTreeSet::new() };
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
            for name in &further {
                w.list_unreplicated(tree, name, &Unreplicated::nothing())?;
            }
            if !(foreign.is_empty() && between.is_empty())
                && w.head(tree)?.state == CopyState::Consistent
            {
                w.fall_behind(tree)?;
            }
            Ok::<_, IndexError>(())
        })?;
        crate::cut::here("after local changes were listed");
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
            self.trees[at].unsettled.extend(paths.chain(further));
            self.shared.unsettled.notify_one();
            self.touch();
        }
        Ok(())
    }

    /// Whose change each of them is.
    fn sort_out(
        &self,
        at: usize,
        snapshot: &Snapshot,
        sights: Vec<Sight>,
    ) -> Result<Changes, IndexError> {
        let intent: Intent = snapshot.value(super::apply::INTENT)?.unwrap_or_default();
        let tree = self.trees[at].id;
        let keeps = self.trees[at].config.deletes == Deletes::Keep;
        let aside: Aside = snapshot.value(ASIDE)?.unwrap_or_default();
        let open = self.trees[at].open.clone();
        let mut changes = Changes::default();
        let intent: HashMap<&RelPath, (u64, &Option<State>)> = intent
            .0
            .iter()
            .filter(|(t, ..)| *t == tree)
            .map(|(_, path, seq, state)| (path, (*seq, state)))
            .collect();
        for sight in sights {
            let entry = snapshot.get(tree, &sight.path)?;
            let known = entry.as_ref().and_then(|e| e.current.as_ref());
            if same(known, sight.state.as_ref()) || is_untouched_name(entry.as_ref(), &sight) {
                changes.keys.push(sight);
                continue;
            }
            if known.is_none() && keeps {
                continue;
            }
            let moved = sight.state.is_none() && aside.covers(tree, &sight.path);
            let listed = snapshot.listed(tree, &sight.path)?;
            let unfinished = listed.is_some_and(|listed| listed.is_nothing());
            match intent.get(&sight.path) {
                _ if moved => changes.between.push(sight),
                Some((seq, state)) if *seq != 0 && same(state.as_ref(), sight.state.as_ref()) => {
                    changes.own.push((sight, *seq, (*state).clone()));
                }
                Some((_, state))
                    if is_between(&sight, entry.as_ref(), state.as_ref())
                        || is_name_of(open.as_ref(), &sight, state.as_ref()) =>
                {
                    changes.between.push(sight)
                }
                None if !intent.is_empty() && only_time(&sight, known) => {
                    changes.between.push(sight)
                }
                _ if open
                    .as_ref()
                    .zip(entry.as_ref())
                    .is_some_and(|(open, entry)| {
                        self.is_name_of_known(at, open, entry, sight.local, unfinished)
                    }) =>
                {
                    changes.between.push(sight);
                }
                _ => changes.foreign.push((sight, entry)),
            }
        }
        Ok(changes)
    }

    /// Further names of files whose content is to be replaced, which the entries of those names do not show: they must
    /// become names of the new file, so they are asked for too.
    fn further_names(
        &self,
        at: usize,
        index: &Snapshot,
        foreign: &[(Sight, Option<IndexEntry>)],
    ) -> Result<BTreeSet<RelPath>, IndexError> {
        let tree = &self.trees[at];
        let foreign: BTreeSet<&RelPath> = foreign.iter().map(|(sight, _)| &sight.path).collect();
        let mut further = BTreeSet::new();
        for path in &foreign {
            for (name, _) in names_of(index, tree.id, path)? {
                if !foreign.contains(&name) && !tree.unsettled.contains(&name) {
                    further.insert(name);
                }
            }
        }
        Ok(further)
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
        let snapshot = self.shared.index.snapshot().map_err(|e| e.to_string())?;
        let (mut left, mut local) = (Vec::new(), Vec::new());
        for item in items {
            let path = item.record.path.clone();
            match self.compare(at, open, &snapshot, &item, results) {
                Ok(Found::Clean) => left.push(item),
                Ok(Found::Settled) => {}
                Ok(Found::Local(version)) => local.push((item, version)),
                Err(Unread::Index(error)) => return Err(error.to_string()),
                Err(Unread::Path(why)) => self.still_open(at, &path, why, results),
            }
        }
        drop(snapshot);
        if local.is_empty() {
            return Ok(left);
        }
        self.write_aside(at, &local).map_err(|e| e.to_string())?;
        let mut forget: Forget = Vec::new();
        let mut nothing = None;
        for (item, version) in local {
            let put = match *version {
                Local::Below => self.put_aside_below(at, open, &item.record.path, &mut forget),
                Local::Here(lies, entry, listed) => {
                    self.put_aside(at, open, &item, lies, (entry, listed), &mut forget)
                }
            };
            match put {
                Ok(()) => left.push(item),
                Err(Unkept::Path(why)) => self.still_open(at, &item.record.path, why, results),
                Err(Unkept::Nothing(why)) => {
                    nothing = Some(why);
                    break;
                }
            }
        }
        // Also of a batch that is not applied: what was moved until then is not where the index says any more.
        self.forget(at, open, &forget).map_err(|e| e.to_string())?;
        nothing.map_or(Ok(left), Err)
    }

    /// A path whose local version could not be looked at or put aside: it stays, and the source's version waits.
    fn still_open(&mut self, at: usize, path: &RelPath, why: String, results: &mut Results) {
        let tree = &mut self.trees[at];
        tree.error(path, why);
        results.failed.push((tree.id, path.clone(), Here::Open));
    }

    /// What a record meets.
    fn compare(
        &self,
        at: usize,
        open: &Open,
        index: &Snapshot,
        item: &Item,
        results: &mut Results,
    ) -> Result<Found, Unread> {
        let (tree, config) = (self.trees[at].id, &self.trees[at].config);
        let (path, theirs) = (&item.record.path, &item.record.state);
        let is_dir = theirs.as_ref().is_some_and(|s| s.kind.is_dir());
        if path.is_root()
            || config.protect.covers(path, is_dir)
            || config.exclude.covers(path, is_dir)
        {
            return Ok(Found::Clean);
        }
        let entry = index.get(tree, path)?;
        let stat = match open.root.stat(path) {
            Ok(stat) => stat,
            Err(Fault::NotBeneath | Fault::Missing) => None,
            // What lies there is not known: it is not touched.
            Err(fault) => return Err(Unread::Path(fault.to_string())),
        };
        let listed = match self.trees[at].unsettled.contains(path) {
            true => index.listed(tree, path)?,
            false => None,
        };
        if is_clean(entry.as_ref(), stat.map(|s| s.key()))
            && listed.as_ref().is_none_or(Unreplicated::is_nothing)
        {
            let goes = !is_dir && stat.is_some_and(|s| s.is_dir());
            return Ok(if goes {
                Found::Local(Box::new(Local::Below))
            } else {
                Found::Clean
            });
        }
        let lies = self
            .lies(open, path, entry.as_ref())
            .map_err(Unread::Path)?;
        let kept = theirs.is_none() && config.deletes == Deletes::Keep;
        if same(lies.state.as_ref(), theirs.as_ref()) || kept {
            let key = lies.key.filter(|_| !kept);
            let (seq, state) = (item.record.seq, theirs.clone());
            results.received.push((tree, path.clone(), state, seq, key));
            results.settled.insert((tree, path.clone()));
            return Ok(Found::Settled);
        }
        Ok(Found::Local(Box::new(Local::Here(lies, entry, listed))))
    }

    /// Makes durable which paths are about to lose their local version to the rescue.
    fn write_aside(&self, at: usize, local: &[(Item, Box<Local>)]) -> Result<(), IndexError> {
        let tree = self.trees[at].id;
        // A directory that stays one loses nothing.
        let stays = |item: &Item, version: &Local| match version {
            Local::Below => false,
            Local::Here(lies, ..) => {
                let dir = |state: &Option<State>| state.as_ref().is_some_and(|s| s.kind.is_dir());
                dir(&lies.state) && dir(&item.record.state)
            }
        };
        let goes = local.iter().filter(|(item, version)| !stays(item, version));
        let paths: Vec<RelPath> = goes.map(|(item, _)| item.record.path.clone()).collect();
        self.shared.index.write(|w| {
            let mut aside: Aside = w.value(ASIDE)?.unwrap_or_default();
            aside.0.extend(paths.into_iter().map(|path| (tree, path)));
            w.put_value(ASIDE, &aside)
        })
    }

    /// What lies there is a further name of a file that is as the index says: what differs came by its first name, whose
    /// record was applied before this one's. `unfinished`: an apply listed this name, to be asked for again.
    pub(super) fn is_name_of_known(
        &self,
        at: usize,
        open: &Open,
        entry: &IndexEntry,
        key: Option<LocalKey>,
        unfinished: bool,
    ) -> bool {
        let Some(Kind::HardLink { to }) = entry.current.as_ref().map(|s| &s.kind) else {
            return false;
        };
        let Ok(snapshot) = self.shared.index.snapshot() else {
            return false;
        };
        let first = snapshot.get(self.trees[at].id, to).ok().flatten();
        let there = open.root.stat(to).ok().flatten().map(|stat| stat.key());
        let inode = |key: Option<LocalKey>| key.map(|key| (key.dev, key.ino));
        (entry.seq != 0 || unfinished)
            && key.is_some()
            && inode(there) == inode(key)
            && is_clean(first.as_ref(), there)
    }

    /// Other names of files that were put aside, and their keys now: the move has changed the file's change time.
    fn names_of_moved(
        &self,
        tree: TreeId,
        open: &Open,
        forget: &Forget,
    ) -> Result<Vec<(RelPath, LocalKey)>, IndexError> {
        let snapshot = self.shared.index.snapshot()?;
        let mut moved = Vec::new();
        for (path, _) in forget.iter().filter(|(_, found)| found.is_none()) {
            for (name, entry) in names_of(&snapshot, tree, path)? {
                let now = open.root.stat(&name).ok().flatten().map(|s| s.key());
                if let (Some(before), Some(now)) = (entry.local, now)
                    && is_same_but_ctime(before, now)
                {
                    moved.push((name, now));
                }
            }
        }
        Ok(moved)
    }

    /// What was put aside is no longer what the index says.
    fn forget(&mut self, at: usize, open: &Open, forget: &Forget) -> Result<(), IndexError> {
        let tree = self.trees[at].id;
        if forget.is_empty() {
            return Ok(());
        }
        let moved = self.names_of_moved(tree, open, forget)?;
        let unsettled = &self.trees[at].unsettled;
        let mut listed = Vec::new();
        self.shared.index.write(|w| {
            for (name, key) in &moved {
                w.set_local(tree, name, Some(*key))?;
            }
            forget.iter().try_for_each(|(path, found)| {
                let entry = w.get(tree, path)?.filter(|e| e.seq != 0);
                if let (Some(entry), Some((state, key))) = (entry, found)
                    && entry.current.as_ref() == Some(state)
                {
                    // Only its key is new: it stays of the pair's history.
                    return w.set_local(tree, path, Some(*key));
                }
                w.remove(tree, path)?;
                let Some((state, key)) = found else {
                    return Ok(());
                };
                w.found(tree, path, state.clone(), *key)?;
                // Its number is gone: without this, a crash before the plan would leave what looks like somebody's own.
                if !unsettled.contains(path) {
                    w.list_unreplicated(tree, path, &Unreplicated::nothing())?;
                    listed.push(path.clone());
                }
                Ok(())
            })
        })?;
        crate::cut::here("after what lies there was indexed");
        self.trees[at].unsettled.extend(listed);
        Ok(())
    }
}

/// What differs from the index on a node that only receives.
#[derive(Default)]
struct Changes {
    /// As the intent of an apply that was cut says: with the number and the state that it was to have.
    own: Vec<(Sight, u64, Option<State>)>,
    /// Only the key is new.
    keys: Vec<Sight>,
    /// Left half done by an apply that was cut.
    between: Vec<Sight>,
    /// Somebody else's, with what the index says.
    foreign: Vec<(Sight, Option<IndexEntry>)>,
}

/// What a record meets at its path.
enum Found {
    /// What the index says, or what is not to be looked at.
    Clean,
    /// The source's version, or a deletion that is not carried out here.
    Settled,
    /// Something of this node's own.
    Local(Box<Local>),
}

/// Something of this node's own. Boxed: nearly every record meets none.
#[expect(clippy::large_enum_variant, reason = "nearly all are the large one")]
enum Local {
    /// A directory that goes; perhaps something lies in it.
    Below,
    /// What lies there, what the index says and what is listed.
    Here(Lies, Option<IndexEntry>, Option<Unreplicated>),
}

/// Why a path could not be compared.
enum Unread {
    Index(IndexError),
    Path(String),
}

impl From<IndexError> for Unread {
    fn from(error: IndexError) -> Self {
        Unread::Index(error)
    }
}

/// Puts what lies at a path on the list of what is to be settled, and makes the index say what lies there.
pub(super) fn list(
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
