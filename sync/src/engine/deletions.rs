//! What vanished from a tree (invariant 4): whether it may be recorded as deleted, what is counted for that, and what a person
//! accepts.

use super::clock;
use super::error::CommandError;
use super::gone::Gone;
use super::look::Sight;
use super::report::{ACCEPT_EXAMPLES, AcceptPrice};
use super::status::Mode;
use super::tree::{Stop, Tree};
use super::worker::Worker;
use crate::entry::{IndexEntry, Kind};
use crate::guard::Name;
use crate::index::{IndexError, Snapshot};
use crate::path::RelPath;
use crate::tree::TreeId;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Names of a file that are looked through for one that it has now.
pub(super) const NAMES: usize = 64;

/// What a recorded change is for the guard.
pub(super) enum Counted {
    Appeared(Name),
    /// Its file has another name now.
    Left(Name),
    Vanished(Name),
}

/// Whether the file that was at the path is known under another name: it was moved, and nothing vanished.
pub(super) fn lives_on(
    names: impl Fn(u64, u64) -> Result<Vec<(TreeId, RelPath)>, IndexError>,
    path: &RelPath,
    old: &Option<IndexEntry>,
) -> Result<bool, IndexError> {
    let Some(IndexEntry {
        current: Some(state),
        local: Some(local),
        ..
    }) = old
    else {
        return Ok(false);
    };
    if !matches!(state.kind, Kind::File { .. }) {
        return Ok(false);
    }
    Ok(names(local.dev, local.ino)?
        .iter()
        .any(|(_, name)| name != path))
}

/// What may be recorded while nothing is recorded as gone: not what lies in the place of a directory that was not empty
/// either, for that would delete it.
fn without_gone(sights: Vec<Sight>, gone: &BTreeSet<RelPath>) -> Vec<Sight> {
    let replaces = |sight: &Sight| {
        let is_dir = sight.state.as_ref().is_some_and(|s| s.kind.is_dir());
        !is_dir && gone.iter().any(|path| path.is_at_or_below(&sight.path))
    };
    let stays = |sight: &Sight| sight.state.is_some() && !replaces(sight);
    sights.into_iter().filter(stays).collect()
}

impl Worker {
    /// What was recorded, for the guard.
    pub(super) fn count_changes(
        &mut self,
        at: usize,
        changes: Vec<Counted>,
        now: u64,
    ) -> Result<(), IndexError> {
        let tree = self.trees[at].id;
        let live = self.shared.index.snapshot()?.counts(tree)?.entries();
        let Tree {
            deletes,
            accepted,
            job,
            dirty,
            ..
        } = &mut self.trees[at];
        for change in changes {
            match change {
                Counted::Appeared(name) => deletes.appeared(now, name),
                Counted::Left(name) => deletes.left(name),
                Counted::Vanished(name)
                    if accepted.as_ref().is_some_and(|set| set.contains(&name)) =>
                {
                    deletes.excused(1);
                }
                Counted::Vanished(name) => deletes.vanished(now, name),
            }
        }
        let whole = job.is_none() && !dirty.values().any(|dirt| dirt.gone.is_some());
        if whole {
            deletes.size(now, live);
        }
        Ok(())
    }

    /// Invariant 4: nothing is recorded as deleted on the word of a root that is not proven, or beyond the limit.
    /// `None`: the tree is stopped, nothing is recorded.
    pub(super) fn guard(
        &mut self,
        at: usize,
        index: &Snapshot,
        sights: Vec<Sight>,
    ) -> Result<Option<Vec<Sight>>, IndexError> {
        let mut gone = BTreeSet::new();
        for sight in sights.iter().filter(|s| s.state.is_none()) {
            if index
                .get(self.trees[at].id, &sight.path)?
                .is_some_and(|e| e.current.is_some())
            {
                gone.insert(sight.path.clone());
            }
        }
        if gone.is_empty() {
            return Ok(Some(sights));
        }
        if let Err(stop) = self.trees[at].still_proven(&self.shared.config.pair, index) {
            self.stop(at, stop);
            return Ok(None);
        }
        // Counted once when they are recorded; a walk asks for all of its deletions before.
        if !self.trees[at].is_doubted() && self.may_go(at, &gone.iter().collect()) {
            return Ok(Some(sights));
        }
        if self.trees[at].stop.is_some() {
            return Ok(None);
        }
        let here = without_gone(sights, &gone);
        // A walk that is past it does not see that it is gone.
        self.trees[at].mark_gone(gone);
        Ok(Some(here))
    }

    /// Whether so much may be recorded as deleted. If not, the tree is looked at again as a whole, and stopped when that
    /// says the same: under load a renamed directory is missed at its old place before it is found at the new one. A node
    /// that receives only lists what it finds gone, so there nothing can be lost by it.
    pub(super) fn may_go(&mut self, at: usize, gone: &Gone) -> bool {
        if self.mode == Mode::Replica {
            return true;
        }
        let entries = self
            .shared
            .index
            .snapshot()
            .and_then(|s| s.counts(self.trees[at].id));
        let entries = match entries {
            Ok(counts) => counts.entries(),
            Err(error) => {
                self.index_failed(&error);
                return false;
            }
        };
        let now = clock::now();
        let counted = self.trees[at].counted(gone);
        let tree = &mut self.trees[at];
        let max = tree.config.max_delete;
        if tree.deletes.check(now, counted, entries, max).is_ok() {
            return true;
        }
        let all = gone.len() as u64;
        let gone = match self.without_moved(at, gone) {
            Ok(gone) => gone,
            Err(error) => {
                self.index_failed(&error);
                return false;
            }
        };
        let counted = self.trees[at].counted(&gone);
        let tree = &mut self.trees[at];
        // What moved is there twice until it has left its old place.
        let entries = entries.saturating_sub(all - gone.len() as u64);
        let checked = tree.deletes.check(now, counted, entries, max);
        let Err(vanished) = checked else { return true };
        let (config, why) = (Arc::clone(&tree.config), vanished.to_string());
        let name = &config.name;
        // What is in sets is held still while it is looked at: nothing can be on its way.
        if !tree.is_in_sets() && tree.doubt() {
            tracing::info!(
                tree = name,
                why,
                "the tree is looked at again before it is stopped"
            );
            self.due_now();
            return false;
        }
        tracing::error!(tree = name, why, "the tree is stopped");
        tree.job = None;
        tree.rescan = false;
        tree.doubts = 0;
        tree.stop = Some(Stop::Deletes(why));
        self.touch();
        false
    }

    /// Without the files that have only left a name for another one, which was recorded before.
    fn without_moved(&self, at: usize, gone: &Gone) -> Result<Gone, IndexError> {
        let (tree, index) = (self.trees[at].id, self.shared.index.snapshot()?);
        let mut left = Gone::default();
        for path in gone.iter() {
            let entry = index.get(tree, &path)?;
            if !lives_on(|d, i| index.by_inode(d, i, NAMES), &path, &entry)? {
                left.push(&path);
            }
        }
        Ok(left)
    }

    /// `tandem tree accept`: exactly what is gone now may be recorded as deleted; a root that is another one is taken
    /// for the right one.
    pub(super) fn accept(&mut self, name: &str, most: Option<u64>) -> Result<(), CommandError> {
        let at = self.named(name)?;
        match self.trees[at].stop {
            Some(Stop::Deletes(_)) => {
                let gone = self.gone_now(at)?;
                let now = gone.len() as u64;
                if let Some(shown) = most.filter(|shown| *shown < now) {
                    return Err(CommandError::MoreGone { shown, now });
                }
                let tree = &mut self.trees[at];
                tracing::info!(tree = name, gone = now, "deletions are accepted");
                tree.accepted = Some(gone.iter().map(|path| Name::of(&path)).collect());
                tree.stop = None;
                tree.rescan = true;
            }
            Some(Stop::Identity(_)) => {
                let shared = Arc::clone(&self.shared);
                let needs = self.needs();
                let tree = &mut self.trees[at];
                tree.accept_root(needs, &shared.config.pair, &shared.index, &shared.roots);
                self.prove_all();
            }
            Some(Stop::Unfinished(_) | Stop::Full(_) | Stop::ReadOnly(_) | Stop::Fault(_))
            | None => {}
        }
        self.touch();
        Ok(())
    }

    /// What accepting would let go.
    pub(super) fn accept_price(&mut self, name: &str) -> Result<AcceptPrice, CommandError> {
        let at = self.named(name)?;
        let gone = match self.trees[at].stop {
            Some(Stop::Deletes(_)) => self.gone_now(at)?,
            _ => Gone::default(),
        };
        Ok(AcceptPrice {
            why: self.trees[at].stop.as_ref().map(|s| s.why().to_owned()),
            gone: gone.len() as u64,
            examples: gone.iter().take(ACCEPT_EXAMPLES).collect(),
        })
    }

    fn named(&self, name: &str) -> Result<usize, CommandError> {
        let at = self.trees.iter().position(|t| t.config.name == name);
        at.ok_or_else(|| CommandError::NoSuchTree(name.to_owned()))
    }

    /// What the index has and the tree has not, in path order.
    fn gone_now(&mut self, at: usize) -> Result<Gone, CommandError> {
        let name = self.trees[at].config.name.clone();
        let pass = &mut |_| std::ops::ControlFlow::Continue(());
        let walk = self.looker(at, |looker| looker.walk(&RelPath::root(), pass));
        let walk = walk.ok_or_else(|| CommandError::Root {
            tree: name,
            why: "its root is not open".into(),
        })?;
        Ok(walk.map_err(super::commands::index)?.gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::State;

    #[test]
    fn what_is_held_back_is_not_deleted_by_what_lies_in_its_place() {
        let path = |name: &str| RelPath::new(name).unwrap();
        let sight = |name: &str, kind: Option<Kind>| Sight {
            path: path(name),
            state: kind.map(|kind| State {
                kind,
                meta: crate::entry::Meta {
                    mode: 0o644,
                    uid: 0,
                    gid: 0,
                    mtime_ns: 0,
                    xattrs: crate::entry::Xattrs::default(),
                },
            }),
            local: None,
        };
        let sights = vec![
            sight("dir", Some(Kind::Dir)),
            sight("dir/gone", None),
            sight("new", Some(Kind::Fifo)),
            sight("was-dir", Some(Kind::Fifo)),
            sight("was-dir/gone", None),
        ];
        let gone = BTreeSet::from([path("dir/gone"), path("was-dir/gone")]);
        let left = without_gone(sights, &gone);
        let left: Vec<RelPath> = left.into_iter().map(|sight| sight.path).collect();
        assert_eq!(left, [path("dir"), path("new")]);
    }
}
