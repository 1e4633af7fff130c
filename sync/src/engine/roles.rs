//! What the worker does when this node becomes the source, the replica or neither.

use super::beyond::Others;
use super::clock;
use super::commands::index;
use super::error::CommandError;
use super::flags::flagged_key;
use super::intent::Left;
use super::read_only::Needs;
use super::report::InitReport;
use super::status::Mode;
use super::tree::{Stop, Tree};
use super::worker::Worker;
use crate::entry::Kind;
use crate::index::IndexError;
use crate::lineage::EpochId;
use crate::path::RelPath;
use crate::progress::LagQueue;
use crate::tree::{Part, TreeId};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a role change waits for an apply in flight. The failover half revokes earlier, with its own bound.
pub(super) const REVOKE: Duration = Duration::from_secs(2);

impl Worker {
    pub(super) fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
        // What a tree needs is something else now.
        self.read_only_due = 0;
        self.forget_moves();
        self.lag = LagQueue::default();
        // Before a session can see the new mode.
        self.shared.scanned.send_replace(false);
        self.shared.late.store(false, Ordering::Release);
        self.turn_marks();
        self.shared.mode.send_replace(mode);
        for tree in &mut self.trees {
            tree.rescan = true;
            tree.job = None;
            tree.reading = None;
            tree.keep_forced();
            tree.unrested.clear();
            tree.unverified.end();
            tree.rescue = None;
            tree.receives = false;
            // A master has its tree as it is; a standby's scan finds what it keeps.
            tree.kept.clear();
            if let Mode::Source { .. } = mode {
                tree.is_own();
            }
        }
    }

    /// A replica only receives.
    fn may_send(&self) -> Result<(), CommandError> {
        match self.shared.config.part {
            Part::Node { .. } => Ok(()),
            Part::Replica => Err(CommandError::Replica),
        }
    }

    pub(super) fn init(&mut self) -> Result<InitReport, CommandError> {
        self.may_send()?;
        if self.mode == Mode::Replica {
            self.shared.token.revoke(REVOKE);
            self.set_mode(Mode::Idle);
        }
        let mut report = InitReport { born: Vec::new() };
        let snapshot = self.shared.index.snapshot().map_err(index)?;
        let mut unborn = Vec::new();
        for tree in &self.trees {
            if let Some(stop) = &tree.stop {
                return Err(CommandError::Root {
                    tree: tree.config.name.clone(),
                    why: stop.why().to_owned(),
                });
            }
            if snapshot.head(tree.id).map_err(index)?.lineage.is_unborn() {
                unborn.push((tree.id, random_epoch()?));
                report.born.push(tree.config.name.clone());
            }
        }
        drop(snapshot);
        let node = self.node.clone();
        self.shared
            .index
            .write(|w| {
                unborn
                    .iter()
                    .try_for_each(|(tree, id)| w.init(*tree, *id, 0, &node).map(drop))
            })
            .map_err(index)?;
        Ok(report)
    }

    pub(super) fn begin_source(&mut self, term: u64) -> Result<(), CommandError> {
        self.may_send()?;
        if self.mode == (Mode::Source { term }) {
            return Ok(());
        }
        self.open_full();
        self.end_hold_for_takeover()?;
        self.shared.token.revoke(REVOKE);
        self.finish_journals()?;
        self.bear_added(term)?;
        let snapshot = self.shared.index.snapshot().map_err(index)?;
        let mut epochs = Vec::new();
        let mut same_epoch = snapshot.mode() == crate::index::Mode::Writing;
        for tree in &self.trees {
            let head = snapshot.head(tree.id).map_err(index)?;
            let Some(epoch) = head.lineage.head() else {
                return Err(CommandError::Unborn(tree.config.name.clone()));
            };
            same_epoch &= epoch.term == term && epoch.node == self.node;
            epochs.push((tree.id, random_epoch()?));
        }
        let unsettled = snapshot.unreplicated(None, usize::MAX).map_err(index)?;
        self.finish_made_dirs(&snapshot).map_err(index)?;
        drop(snapshot);
        let flagged: Vec<(TreeId, RelPath)> = self
            .trees
            .iter()
            .flat_map(|tree| tree.flagged.iter().map(|path| (tree.id, path.clone())))
            .collect();
        let node = self.node.clone();
        // An agent that starts again in its own term goes on in its epoch.
        if !same_epoch || !unsettled.is_empty() {
            let begin = |w: &mut crate::index::Writer<'_>| {
                unsettled
                    .iter()
                    .try_for_each(|(tree, path, _)| unsettle(w, *tree, path))?;
                // What a flag kept old is this node's version from now on: under its old number nobody would hear of it.
                for (tree, path) in &flagged {
                    unsettle(w, *tree, path)?;
                    w.remove_value(&flagged_key(*tree))?;
                }
                self.own_beyond(w, |w, tree| unsettle(w, tree, &RelPath::root()))?;
                // What an apply left unfinished is data now.
                w.remove_value(super::intent::INTENT)?;
                w.remove_value(super::intent::ASIDE)?;
                w.begin(&epochs, term, &node).map(|_| w.last_seq())
            };
            self.shared.index.write(begin).map_err(index)?;
            self.left = Left::default();
            for tree in &mut self.trees {
                tree.flagged.clear();
                tree.flagged_others = Others::default();
            }
        }
        // What still waits is of a stopped tree, whose history goes on without it: the peer rescues its own.
        self.give_up_ahead().map_err(CommandError::Spool)?;
        let last = self.shared.index.snapshot().map_err(index)?.last_seq();
        self.shared.head.send_replace(last);
        let acked = self.shared.index.snapshot().map_err(index)?.acked().upto;
        self.shared.receivers.reset();
        self.set_mode(Mode::Source { term });
        if acked < last {
            // How old these are is not known any more; they count from now on.
            self.lag.push(last, clock::now());
        }
        Ok(())
    }

    /// A file that was changed in place only in part is completed before this node writes, or it does not begin.
    fn finish_journals(&mut self) -> Result<(), CommandError> {
        let shared = Arc::clone(&self.shared);
        let unfinished = |t: &&mut Tree| matches!(t.stop, Some(Stop::Unfinished(_)));
        for tree in self.trees.iter_mut().filter(unfinished) {
            let (pair, index) = (&shared.config.pair, &shared.index);
            tree.prove(Needs::Reading, pair, index, &shared.roots);
            if let Some(Stop::Unfinished(why)) = &tree.stop {
                return Err(CommandError::Root {
                    tree: tree.config.name.clone(),
                    why: why.clone(),
                });
            }
        }
        self.watch_anew();
        Ok(())
    }

    /// What was spooled was answered as durable: it is applied before this node writes.
    pub(super) fn end_hold_for_takeover(&mut self) -> Result<(), CommandError> {
        self.shared.held.store(false, Ordering::Release);
        let spooled = self.is_spooled().map_err(CommandError::Spool)?;
        if !spooled && !self.trees.iter().any(Tree::is_in_sets) {
            return Ok(());
        }
        let mode = std::mem::replace(&mut self.mode, Mode::Replica);
        self.shared.token.grant();
        let applied = self.apply_spool().map_err(CommandError::Spool);
        let applied = applied.and_then(|()| self.end_sets_for_takeover());
        self.shared.token.revoke(REVOKE);
        self.mode = mode;
        applied
    }

    /// `tandem adopt`: what lies here becomes of no history, and the peer's trees are received.
    pub(super) fn adopt(&mut self) -> Result<(), CommandError> {
        if matches!(self.mode, Mode::Source { .. }) {
            return Err(CommandError::IsSource);
        }
        let trees: Vec<TreeId> = self.trees.iter().map(|t| t.id).collect();
        // Of the history that is given up: applied to what has none, it would look like all of the source's.
        self.give_up_spool().map_err(CommandError::Spool)?;
        for at in 0..self.trees.len() {
            if self.trees[at].is_in_sets() {
                self.forget_set(self.trees[at].id)?;
            }
        }
        let unsettled = self
            .shared
            .index
            .snapshot()
            .and_then(|s| s.unreplicated(None, usize::MAX))
            .map_err(index)?;
        self.shared
            .index
            .write(|w| {
                unsettled
                    .iter()
                    .try_for_each(|(tree, path, _)| w.settle(*tree, path))?;
                Left::default().write(w)?;
                trees.iter().try_for_each(|tree| w.forget_tree(*tree))
            })
            .map_err(index)?;
        self.left = Left::default();
        let mode = self.mode;
        self.set_mode(mode);
        for tree in &mut self.trees {
            tree.unsettled.clear();
        }
        Ok(())
    }

    pub(super) fn begin_replica(&mut self) -> Result<(), CommandError> {
        if self.mode != Mode::Replica {
            self.shared.fresh_at.store(0, Ordering::Release);
            self.set_mode(Mode::Replica);
        }
        self.shared.token.grant();
        // One that a crash left is the only state that this node can be promoted with.
        if let Err(why) = self.finish_sets() {
            tracing::warn!(why, "a set cannot be applied yet");
        }
        self.look_at_left();
        Ok(())
    }
}

/// A path that was not settled before this node became the source: what lies here now is the data, whatever this node's
/// position says. Without its number the entry gets a new one from the scan that follows; a deletion needs an entry,
/// so that the scan finds it gone.
pub(super) fn unsettle(
    w: &mut crate::index::Writer<'_>,
    tree: TreeId,
    path: &RelPath,
) -> Result<(), IndexError> {
    let nothing = crate::entry::LocalKey {
        dev: 0,
        ino: 0,
        ctime_ns: 0,
        mtime_ns: 0,
        size: 0,
    };
    let meta = crate::entry::Meta {
        mode: 0,
        uid: 0,
        gid: 0,
        mtime_ns: 0,
        xattrs: Default::default(),
    };
    let stand_in = crate::entry::State {
        kind: Kind::Fifo,
        meta,
    };
    let (state, local) = match w.get(tree, path)?.map(|e| (e.current, e.local)) {
        Some((Some(state), local)) => (state, local.unwrap_or(nothing)),
        _ => (stand_in, nothing),
    };
    w.settle(tree, path)?;
    w.remove(tree, path)?;
    w.found(tree, path, state, local)
}

pub(super) fn random_epoch() -> Result<EpochId, CommandError> {
    let mut bytes = [0u8; 16];
    // Up to 256 bytes come whole once the kernel's generator is ready, which the default flags wait for.
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| CommandError::Index(format!("no random bytes: {e}")))?;
    Ok(EpochId(u128::from_le_bytes(bytes)))
}
