//! A rename at the source that the replica can carry out as one: names are sent, no data.
//!
//! ```text
//!   worker                          session                    replica
//!   the event names both paths
//!   nothing of it is under way
//!   number N, durable
//!                     ── order ──>  everything below N is through
//!                                   Move{N}            ──>     rename, durable, position N
//!                     <─ Moved ──   Moved{N}           <──
//!   the index follows                                          the index follows
//! ```
//! While this goes on, nothing else of the tree is looked at. Whatever speaks against it, or a cut, and the two paths are
//! looked at like any other change: what the replica has then already renamed, it finds to be as the records say.

use super::clock::{self, ms};
use super::dirty::{Dirt, Missing};
use super::status::Mode;
use super::tree::Tree;
use super::worker::Worker;
use crate::entry::{IndexEntry, Kind};
use crate::index::{IndexError, Snapshot};
use crate::path::RelPath;
use crate::stat::Stat;
use crate::tree::{Deletes, TreeId};
use crate::wire::INLINE_FILE;
use std::sync::atomic::Ordering;

/// Renames of a tree that wait to be looked at. Further ones are changes like any other.
const MAX_SEEN: usize = 64;
/// Changes that the peer has not acknowledged and that are looked through for what concerns the rename. With more, the
/// rename is one of many changes of a busy moment.
const MAX_UNDER_WAY: usize = 1024;
/// How long the answer may take, behind which the tree waits. A rename takes milliseconds.
const PATIENCE: u64 = ms(2000);

/// A rename that an event told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rename {
    /// The old path.
    pub from: RelPath,
    /// The new one.
    pub to: RelPath,
}

/// A rename that the replica is asked to carry out.
#[derive(Debug)]
pub(crate) struct Moving {
    rename: Rename,
    seq: u64,
    /// CLOCK_BOOTTIME nanoseconds.
    pub until: u64,
}

/// The same, for the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveOrder {
    /// Tree.
    pub tree: TreeId,
    /// The old path.
    pub from: RelPath,
    /// The new one.
    pub to: RelPath,
    /// Its number.
    pub seq: u64,
}

impl Tree {
    /// An event told of a rename. Both paths are marked besides; what lies beneath the new one is not.
    pub fn saw_rename(&mut self, from: RelPath, to: RelPath) {
        match self.renames.len() < MAX_SEEN {
            true => self.renames.push_back(Rename { from, to }),
            false => self.not_as_one(to),
        }
    }

    /// What was renamed is looked at like anything that is new.
    fn not_as_one(&mut self, to: RelPath) {
        let dirt = Dirt {
            recursive: true,
            ..Dirt::default()
        };
        self.mark(to, dirt);
    }

    /// What was to be looked at beneath the old path is looked at beneath the new one.
    fn marks_follow(&mut self, Rename { from, to }: &Rename) {
        let below = |path: &RelPath| path.moved(from, to).filter(|_| path != from);
        let again = self.later.keys().filter_map(below);
        let mut marks: Vec<_> = again.map(|path| (path, Dirt::AGAIN)).collect();
        let dirty = self.dirty.iter();
        marks.extend(dirty.filter_map(|(path, dirt)| {
            let dirt = Dirt {
                gone: None,
                ..*dirt
            };
            below(path).map(|path| (path, dirt))
        }));
        for (path, dirt) in marks {
            self.mark(path, dirt);
        }
    }
}

impl Worker {
    /// Begins with the next rename of the tree that can be carried out as one. True: the tree waits for it.
    pub(super) fn moves_first(&mut self, at: usize) -> bool {
        if self.trees[at].moving.is_some() {
            return true;
        }
        while let Some(rename) = self.trees[at].renames.pop_front() {
            self.look_at_new_parents(at, &rename.to);
            match self.begin_move(at, &rename) {
                Ok(Some(seq)) => {
                    let until = clock::now() + PATIENCE;
                    self.trees[at].moving = Some(Moving { rename, seq, until });
                    self.due_at(until);
                    return true;
                }
                Ok(None) => self.trees[at].not_as_one(rename.to),
                Err(error) => {
                    self.trees[at].not_as_one(rename.to);
                    self.index_failed(&error);
                    return true;
                }
            }
        }
        false
    }

    /// Directories that are as new as the rename are recorded before it.
    fn look_at_new_parents(&mut self, at: usize, to: &RelPath) {
        let dirty = &mut self.trees[at].dirty;
        let above = to.ancestors().filter(|dir| !dir.is_root());
        let mut marked: Vec<(RelPath, Dirt)> = above
            .filter_map(|dir| dirty.contains_key(&dir).then_some((dir, Dirt::WALKED)))
            .collect();
        marked.reverse();
        if !marked.is_empty() {
            self.look(at, marked, Missing::Waits);
        }
    }

    fn begin_move(&mut self, at: usize, rename: &Rename) -> Result<Option<u64>, IndexError> {
        let Some(mover) = self.shared.mover() else {
            return Ok(None);
        };
        let source = matches!(self.mode, Mode::Source { .. });
        // Their numbers stay what they are, so that nobody else would hear of it.
        if self.shared.receivers.any_gets(self.trees[at].id) {
            return Ok(None);
        }
        let known = self.trees.iter().all(|t| t.moves() && !t.is_scanned());
        // What waits for the rest of its set would be passed over.
        let in_sets = self.trees.iter().any(Tree::is_in_sets);
        if !source || !known || in_sets {
            return Ok(None);
        }
        let snapshot = self.shared.index.snapshot()?;
        if !self.is_one_rename(at, &snapshot, rename)? {
            return Ok(None);
        }
        // A pass over what is known does not stand in the way: it begins again behind the rename.
        self.trees[at].routine |= self.trees[at].job.take().is_some();
        let (tree, seq) = (self.trees[at].id, snapshot.last_seq() + 1);
        let Ok(permit) = mover.try_reserve() else {
            return Ok(None);
        };
        // Before the number is there, so that no session claims it with what lies below.
        self.shared.move_at.store(seq, Ordering::Release);
        let acked = self.shared.peer.borrow().acked;
        let given = self.shared.index.write(|w| {
            w.ack(acked);
            w.number()
        });
        if let Err(error) = given {
            self.shared.move_at.store(0, Ordering::Release);
            return Err(error);
        }
        permit.send(MoveOrder {
            tree,
            from: rename.from.clone(),
            to: rename.to.clone(),
            seq,
        });
        self.changed(seq, clock::now());
        self.shared.head.send_replace(seq);
        Ok(Some(seq))
    }

    /// Whether index and disk agree that this and nothing else happened, and the peer has what was renamed as it was.
    fn is_one_rename(
        &self,
        at: usize,
        index: &Snapshot,
        rename: &Rename,
    ) -> Result<bool, IndexError> {
        let tree = &self.trees[at];
        let Some(open) = &tree.open else {
            return Ok(false);
        };
        let Rename { from, to } = rename;
        let Some(entry) = index.get(tree.id, from)? else {
            return Ok(false);
        };
        let now = open.root.stat(to).ok().flatten();
        let left = open.root.stat(from).ok().flatten();
        let same = |stat: &Stat| is_entry(&entry, stat);
        if !now.as_ref().is_some_and(same)
            || left.as_ref().is_some_and(same)
            || !is_worth_it(&entry)
            || index.get(tree.id, to)?.is_some_and(|e| e.current.is_some())
            || to.is_at_or_below(from)
            || tree.unverified.is_in_the_way(from, to)
            || tree.marks.are_in_the_way(from, to)
            || tree
                .lacking
                .iter()
                .any(|(path, _)| path.is_at_or_below(from))
            || tree.fuzzy.iter().any(|path| path.is_at_or_below(from))
        {
            return Ok(false);
        }
        let parent = to.parent().filter(|dir| !dir.is_root());
        if let Some(parent) = parent
            && !index
                .get(tree.id, &parent)?
                .is_some_and(|e| e.current.is_some_and(|state| state.kind.is_dir()))
        {
            return Ok(false);
        }
        let outside =
            |path: &RelPath, is_dir| path.is_private() || tree.config.exclude.covers(path, is_dir);
        let is_dir = entry.current.as_ref().is_some_and(|s| s.kind.is_dir());
        if outside(from, is_dir) || outside(to, is_dir) {
            return Ok(false);
        }
        if !tree.config.exclude.is_empty() {
            for row in index.below(tree.id, from)? {
                let (path, entry) = row?;
                let is_dir = entry.current.is_some_and(|s| s.kind.is_dir());
                if path
                    .moved(from, to)
                    .is_none_or(|path| outside(&path, is_dir))
                {
                    return Ok(false);
                }
            }
        }
        let peer = *self.shared.peer.borrow();
        let under_way = index.changes(peer.acked, MAX_UNDER_WAY)?;
        let concerns = |path: &RelPath| path.is_at_or_below(from) || path.is_at_or_below(to);
        let free = under_way.len() < MAX_UNDER_WAY
            && !under_way
                .iter()
                .any(|row| row.tree == tree.id && concerns(&row.path));
        Ok(peer.session && free)
    }

    /// The replica has carried a rename out, or not, or it is not known.
    pub(super) fn moved(&mut self, tree: TreeId, seq: u64, done: bool) {
        let Some(at) = self.position(tree) else {
            return;
        };
        let Some(moving) = self.trees[at].moving.take_if(|m| m.seq == seq) else {
            return;
        };
        self.end_move(at, moving, done);
    }

    fn end_move(&mut self, at: usize, moving: Moving, done: bool) {
        let tree = self.trees[at].id;
        if done {
            // A replica that was told of since then must not go past the number: it begins below the new floor.
            self.shared.receivers.end_sessions(tree);
        }
        self.shared.move_at.store(0, Ordering::Release);
        let rename = moving.rename;
        if done {
            self.trees[at].marks_follow(&rename);
        } else {
            self.trees[at].not_as_one(rename.to.clone());
        }
        let Rename { from, to } = rename;
        if done {
            self.trees[at].deletes.renamed(clock::now(), &from, &to);
            let renamed = self.shared.index.rename(tree, &from, &to, |w| {
                w.ack(moving.seq);
                w.raise_floor(tree, moving.seq)
            });
            if let Err(error) = renamed {
                return self.index_failed(&error);
            }
            tracing::debug!(%from, %to, "renamed on both sides");
        }
        // The session goes on past the number.
        self.shared.head.send_modify(|_| {});
        self.due_at(clock::now());
    }

    /// Renames whose answer does not come.
    pub(super) fn moves_overdue(&mut self, now: u64) {
        for at in 0..self.trees.len() {
            if let Some(moving) = self.trees[at].moving.take_if(|m| m.until <= now) {
                self.end_move(at, moving, false);
            }
        }
    }

    /// Nothing is asked of a replica any more. A scan follows, which finds what was renamed.
    pub(super) fn forget_moves(&mut self) {
        self.shared.move_at.store(0, Ordering::Release);
        for tree in &mut self.trees {
            tree.moving = None;
            tree.renames.clear();
        }
    }
}

/// The entry is of what this stat is of.
fn is_entry(entry: &IndexEntry, stat: &Stat) -> bool {
    let Some((local, state)) = entry.local.zip(entry.current.as_ref()) else {
        return false;
    };
    let same = (local.dev, local.ino) == (stat.dev, stat.ino);
    match state.kind {
        Kind::Dir => same && stat.is_dir(),
        // A rename moves the change time and nothing else of it.
        _ => {
            let version = (local.mtime_ns, local.size) == (stat.mtime_ns, stat.size);
            same && stat.is_file() && version && stat.nlink == 1
        }
    }
}

/// A small file is as soon sent as renamed.
fn is_worth_it(entry: &IndexEntry) -> bool {
    match entry.current.as_ref().map(|state| &state.kind) {
        Some(Kind::Dir) => true,
        Some(Kind::File { size, .. }) => *size > INLINE_FILE,
        _ => false,
    }
}

/// Whether a receiver with these settings can follow a rename as one: nothing below may be treated on its own.
pub(super) fn follows_renames(config: &crate::tree::TreeConfig) -> bool {
    config.deletes != Deletes::Keep && config.protect.is_empty() && config.exclude.is_empty()
}
