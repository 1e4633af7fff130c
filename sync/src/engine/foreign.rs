//! What a look finds changed on a node that only receives: listed durably, to be asked for and settled with the source's
//! version.

use super::dirty::Dirt;
use super::intent::{ASIDE, Aside, INTENT, Intent};
use super::judge::{
    is_between, is_clean, is_name_of, is_untouched_name, local_record, only_flags, only_time, same,
};
use super::look::Sight;
use super::status::Mode;
use super::tree::{MAX_NAMED, Open};
use super::view::names_of;
use super::worker::Worker;
use crate::commit::holds_only;
use crate::entry::{IndexEntry, Kind, LocalKey, State};
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
            kept,
            mended,
            mut foreign,
        } = self.sort_out(at, &snapshot, sights)?;
        kept.iter().for_each(|path| self.trees[at].keep(path));
        for path in &mended {
            self.trees[at].is_complete(path);
        }
        let further = self.further_names(at, &snapshot, &foreign)?;
        drop(snapshot);
        crate::cut::here("before local changes are listed");
        if !repair {
            for (sight, entry) in &foreign {
                let known = entry.as_ref().and_then(|entry| entry.current.as_ref());
                // A directory's own time says only that something in it was changed, which may have been taken back.
                if self.trees[at].local_changes.len() < MAX_NAMED && !only_time(sight, known) {
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
            self.show_now();
        }
        Ok(())
    }

    /// Forgets what somebody made here and removed again: a walk does not meet it, and the index never knew it.
    pub(super) fn forget_undone(&mut self, at: usize) -> Result<(), IndexError> {
        let tree = &mut self.trees[at];
        let Some(open) = tree.open.clone().filter(|_| !tree.local_changes.is_empty()) else {
            return Ok(());
        };
        let snapshot = self.shared.index.snapshot()?;
        for path in std::mem::take(&mut tree.local_changes) {
            let known = snapshot.get(tree.id, &path)?;
            let known = known.is_some_and(|entry| entry.current.is_some());
            if known || !matches!(open.root.stat(&path), Ok(None)) {
                tree.local_changes.insert(path);
            }
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
        let intent: Intent = snapshot.value(INTENT)?.unwrap_or_default();
        let tree = self.trees[at].id;
        let of_tree = intent.0.iter().filter(|(t, ..)| *t == tree);
        let mut asked = Asked {
            snapshot,
            intent: of_tree
                .map(|(_, path, seq, state)| (path, (*seq, state)))
                .collect(),
            taken: BTreeSet::new(),
            aside: snapshot.value(ASIDE)?.unwrap_or_default(),
        };
        let mut changes = Changes::default();
        for sight in sights {
            let entry = snapshot.get(tree, &sight.path)?;
            match self.whose(at, &sight, entry.as_ref(), &mut asked)? {
                Whose::Mended => {
                    changes.mended.push(sight.path.clone());
                    changes.keys.push(sight);
                }
                Whose::Nobodys => changes.keys.push(sight),
                Whose::Kept => changes.kept.push(sight.path),
                Whose::Own(seq, state) => changes.own.push((sight, seq, state)),
                Whose::Between => changes.between.push(sight),
                Whose::Foreign => changes.foreign.push((sight, entry)),
            }
        }
        Ok(changes)
    }

    fn whose(
        &self,
        at: usize,
        sight: &Sight,
        entry: Option<&IndexEntry>,
        asked: &mut Asked<'_>,
    ) -> Result<Whose, IndexError> {
        let (tree, snapshot) = (&self.trees[at], asked.snapshot);
        let known = entry.and_then(|e| e.current.as_ref());
        let seen = sight.state.as_ref();
        if same(known, seen) {
            return Ok(Whose::Mended);
        }
        // What cannot be set here is missed, and nobody took it away.
        let meant = tree.lacking.as_meant(known, sight);
        if meant.is_some() && same(known, meant.as_ref()) || is_untouched_name(entry, sight) {
            return Ok(Whose::Nobodys);
        }
        let keeps = tree.config.deletes == Deletes::Keep;
        if known.is_none() && (keeps || self.is_kept(at, sight)) {
            return Ok(Whose::Kept);
        }
        if seen.is_none() && asked.aside.covers(tree.id, &sight.path) {
            return Ok(Whose::Between);
        }
        let listed = snapshot.listed(tree.id, &sight.path)?;
        let unfinished = listed.as_ref().is_some_and(Unreplicated::is_nothing);
        let somebodys = listed.is_some() && !unfinished;
        let open = tree.open.as_ref();
        match asked.intent.get(&sight.path).copied() {
            Some((seq, state))
                if same(state.as_ref(), seen)
                    && is_free(snapshot, tree.id, &sight.path, seq)?
                    && asked.taken.insert(seq) =>
            {
                return Ok(Whose::Own(seq, state.clone()));
            }
            Some((_, state))
                if is_between(sight, entry, state.as_ref())
                    || is_name_of(open, sight, state.as_ref()) =>
            {
                return Ok(Whose::Between);
            }
            None if !asked.intent.is_empty() && only_time(sight, known) => {
                return Ok(Whose::Between);
            }
            _ => {}
        }
        if only_flags(known, seen) {
            // A tree that does not carry them any more is not asked for them. What is listed as somebody's stays that.
            return Ok(match tree.config.flags {
                true if somebodys => Whose::Foreign,
                true => Whose::Between,
                false => Whose::Nobodys,
            });
        }
        let is_name = open.zip(entry).is_some_and(|(open, entry)| {
            self.is_name_of_known(at, open, entry, sight.local, unfinished)
        });
        Ok(if is_name {
            Whose::Between
        } else {
            Whose::Foreign
        })
    }

    /// A directory that nothing but what is protected or excluded keeps from going.
    fn is_kept(&self, at: usize, sight: &Sight) -> bool {
        let (tree, dir) = (&self.trees[at], sight.state.as_ref());
        let outside = |path: &RelPath, is_dir| {
            tree.config.exclude.covers(path, is_dir) || tree.config.protect.covers(path, is_dir)
        };
        let filters = !tree.config.exclude.is_empty() || !tree.config.protect.is_empty();
        let open = tree.open.as_ref().filter(|_| filters);
        dir.is_some_and(|state| state.kind.is_dir())
            && open.is_some_and(|open| holds_only(&open.root, &sight.path, &outside))
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
        let listed = &self.trees[at].unsettled;
        let new = paths.into_iter().filter(|path| !listed.contains(path));
        let new: BTreeSet<RelPath> = new.collect();
        self.shared.index.write(|w| {
            for path in &new {
                w.list_unreplicated(tree, path, &Unreplicated::nothing())?;
            }
            Ok(())
        })?;
        self.trees[at].unsettled.extend(new);
        self.shared.unsettled.notify_one();
        self.show_now();
        Ok(())
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
}

/// Whether a path may have this number: one that belongs to another path is an error of the source's.
pub(super) fn is_free(
    index: &Snapshot,
    tree: TreeId,
    path: &RelPath,
    seq: u64,
) -> Result<bool, IndexError> {
    if seq > index.last_seq() {
        return Ok(true);
    }
    let Some(before) = seq.checked_sub(1) else {
        return Ok(false);
    };
    let next = index.changes(before, 1)?;
    let owner = next.first().filter(|row| row.entry.seq == seq);
    Ok(owner.is_none_or(|row| row.tree == tree && row.path == *path))
}

/// What is asked of whose changes a look has found.
struct Asked<'a> {
    snapshot: &'a Snapshot,
    /// What an apply that was cut was to make of the paths of the tree, with the numbers.
    intent: HashMap<&'a RelPath, (u64, &'a Option<State>)>,
    /// Numbers of the intent that were given to a path.
    taken: BTreeSet<u64>,
    aside: Aside,
}

/// Whose change something is.
enum Whose {
    /// It is as the index says, in everything.
    Mended,
    /// Only its key is new.
    Nobodys,
    /// The source has not got it, and it stays here.
    Kept,
    /// That of an apply that was cut: with the number and the state that it was to have.
    Own(u64, Option<State>),
    /// Left half done by such an apply.
    Between,
    /// Somebody else's.
    Foreign,
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
    /// What the source has not and stays here.
    kept: Vec<RelPath>,
    /// As the index says, in everything.
    mended: Vec<RelPath>,
    /// Somebody else's, with what the index says.
    foreign: Vec<(Sight, Option<IndexEntry>)>,
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
