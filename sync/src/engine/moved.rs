//! A rename of the source's, carried out on the replica as one.
//!
//! Order: the intent is durable; the rename is made under the role token and is durable; the position is durable and the
//! source hears of it; the index follows. After a crash the disk says whether the rename was made.

use super::moving::follows_renames;
use super::outcome::Results;
use super::status::Mode;
use super::tree::Open;
use super::worker::Worker;
use crate::beneath::Place;
use crate::commit::key_at;
use crate::entry::{IndexEntry, Kind};
use crate::fault::Fault;
use crate::index::IndexError;
use crate::lineage::{CopyState, NodeHeads};
use crate::meta;
use crate::path::RelPath;
use crate::stat::Stat;
use crate::tree::TreeId;
use crate::wire::{Commit, Move};

/// Name of the durable record of a rename that is being carried out: tree, old and new path.
const RENAME: &str = "rename";

impl Worker {
    /// Carries a rename out. `Ok(false)`: not as one; nothing was changed, and the source sends it as records. When it was
    /// carried out, [`Worker::follow_rename`] is to be called before anything else.
    pub(super) fn apply_move(&mut self, one: &Move, source: &NodeHeads) -> Result<bool, String> {
        if self.mode != Mode::Replica || !self.shared.token.is_granted() {
            return Err("the role changed".into());
        }
        if self.shared.held() || self.is_spooled()? {
            return Ok(false);
        }
        let at = self
            .position(one.tree)
            .filter(|at| self.trees[*at].moves())
            .ok_or("a rename in a tree that is stopped")?;
        let Some(open) = self.trees[at].open.clone() else {
            return Err("a rename in a tree that is stopped".into());
        };
        if !self.can_rename(at, &open, one).map_err(|e| e.to_string())? {
            return Ok(false);
        }
        // Read before anything changes: of a tree that is of different moments now, the rename makes none of one moment.
        let caught_up = self.all_consistent().map_err(|e| e.to_string())?;
        let record = (one.tree, one.from.clone(), one.to.clone());
        let write = |worker: &Self| worker.shared.index.write(|w| w.put_value(RENAME, &record));
        write(self).map_err(|e: IndexError| e.to_string())?;
        crate::cut::here("before a rename");
        let guard = self.shared.token.hold().ok_or("the role changed")?;
        let renamed = rename(&open, one);
        crate::cut::here("after a rename");
        drop(guard);
        if let Err(fault) = renamed {
            tracing::debug!(from = %one.from, to = %one.to, %fault, "not renamed as one");
            self.forget_rename().map_err(|e| e.to_string())?;
            return Ok(false);
        }
        let commit = Commit {
            batch: 0,
            upto: one.seq,
            caught_up,
            stamp: one.stamp,
        };
        self.finish(commit, source, Results::default())
            .map_err(|e| e.to_string())?;
        crate::cut::here("before the index follows a rename");
        Ok(true)
    }

    /// Every tree is of one moment of the source's.
    fn all_consistent(&self) -> Result<bool, IndexError> {
        let snapshot = self.shared.index.snapshot()?;
        for tree in &self.trees {
            if snapshot.head(tree.id)?.state != CopyState::Consistent {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether what lies here is what the source renamed, and nothing in it is treated on its own here.
    fn can_rename(&self, at: usize, open: &Open, one: &Move) -> Result<bool, IndexError> {
        let tree = &self.trees[at];
        let Move { from, to, .. } = one;
        let all_settled = self
            .trees
            .iter()
            .all(|t| t.unsettled.is_empty() && t.moves());
        let own = |path: &RelPath| path.is_at_or_below(from) || path.is_at_or_below(to);
        let plain = follows_renames(&tree.config)
            && !tree.unverified.is_in_the_way(from, to)
            && !tree.marks.are_in_the_way(from, to)
            && !tree.flagged.iter().any(own)
            && !tree.lacking.iter().any(|(path, _)| own(path))
            && !tree.local_changes.iter().any(own)
            && !tree.dirty.keys().any(own);
        if !all_settled || !plain || tree.is_scanned() {
            return Ok(false);
        }
        let index = self.shared.index.snapshot()?;
        let Some(entry) = index.get(tree.id, from)?.filter(|e| e.current.is_some()) else {
            return Ok(false);
        };
        if index.get(tree.id, to)?.is_some_and(|e| e.current.is_some()) {
            return Ok(false);
        }
        let stat = open.root.stat(from).ok().flatten();
        let is_ours = stat.is_some_and(|stat| is_known(&entry, &stat));
        Ok(is_ours && matches!(open.root.stat(to), Ok(None)))
    }

    /// The index follows a rename that was carried out, here or before a crash.
    pub(super) fn follow_rename(&mut self) {
        if let Err(error) = self.try_follow_rename() {
            self.index_failed(&error);
        }
    }

    fn try_follow_rename(&mut self) -> Result<(), IndexError> {
        let index = self.shared.index.snapshot()?;
        let Some((tree, from, to)) = index.value::<(TreeId, RelPath, RelPath)>(RENAME)? else {
            return Ok(());
        };
        let open = self
            .position(tree)
            .and_then(|at| self.trees[at].open.clone());
        let Some(open) = open else {
            // Its root is not there: what lies in it is looked at when it comes back.
            return self.forget_rename();
        };
        let entry = index.get(tree, &from)?;
        let stat = open.root.stat(&to).ok().flatten();
        let made = entry
            .zip(stat)
            .is_some_and(|(entry, stat)| is_renamed(&entry, &stat));
        if !made {
            return self.forget_rename();
        }
        let parents = [from.parent(), to.parent(), Some(to.clone())];
        let index = &self.shared.index;
        index.rename(tree, &from, &to, |w| {
            for path in parents.into_iter().flatten() {
                if let Ok(Some(key)) = key_at(&open.root, &path) {
                    w.set_local(tree, &path, Some(key))?;
                }
            }
            let position = w.head(tree)?.seq;
            w.raise_floor(tree, position)?;
            w.remove_value(RENAME)
        })?;
        tracing::debug!(%from, %to, "renamed as the source did");
        Ok(())
    }

    fn forget_rename(&self) -> Result<(), IndexError> {
        self.shared.index.write(|w| w.remove_value(RENAME))
    }
}

/// The index knows exactly this.
fn is_known(entry: &IndexEntry, stat: &Stat) -> bool {
    let Some((local, state)) = entry.local.zip(entry.current.as_ref()) else {
        return false;
    };
    match state.kind {
        Kind::Dir => stat.is_dir() && (local.dev, local.ino) == (stat.dev, stat.ino),
        Kind::File { .. } => stat.is_file() && local == stat.key() && stat.nlink == 1,
        _ => false,
    }
}

/// The same, after the rename moved its change time.
fn is_renamed(entry: &IndexEntry, stat: &Stat) -> bool {
    let local = entry.local;
    local.is_some_and(|local| (local.dev, local.ino) == (stat.dev, stat.ino))
}

/// One rename, durable; the directories keep their times.
pub(super) fn rename(open: &Open, one: &Move) -> Result<(), Fault> {
    let (from, to) = (open.root.place(&one.from)?, open.root.place(&one.to)?);
    let before = |place: &Place| -> Result<_, Fault> {
        let stat = Stat::of_fd(place.dir())?;
        match stat.protecting_flag() {
            Some(flag) => Err(Fault::Flagged(flag)),
            None => Ok(meta::only_time(stat.mtime_ns)),
        }
    };
    let times = [(&from, before(&from)?), (&to, before(&to)?)];
    from.rename_new(&to)?;
    for (place, time) in &times {
        // Their own records, which follow, set them again.
        if let Err(errno) = meta::set_mtime(place.dir(), time) {
            tracing::debug!(%errno, "the time of a directory could not be kept");
        }
    }
    to.sync_dir()?;
    from.sync_dir()
}
