//! Consistent sets on the source: at intervals the tree is held still, everything that changed in it is read and kept, and
//! the tree goes on. Then all of it is recorded at once, so its numbers are one run, and the mark behind it says where the
//! set ends. Changes between two sets get no numbers.
//!
//! The pass has a thread of its own: other trees go on meanwhile. A durable note says that the tree is held still, so that
//! `after` is run even if the agent dies in between.

mod taking;

pub(crate) use taking::Pass;

use super::clock::{self, ms};
use super::command::Command;
use super::look::Sight;
use super::status::{Mode, SetStatus};
use super::tree::Tree;
use super::worker::Worker;
use crate::index::IndexError;
use crate::path::RelPath;
use crate::set;
use crate::tree::{Freeze, TreeId};
use crate::wire::SetMark;
use std::sync::Arc;
use std::time::Duration;
use taking::Taking;

/// Time between two tries of a hook that lets a tree go on.
const THAW_AGAIN: u64 = ms(10_000);

/// Runs the commands that hold a tree still and let it go on. They block the caller, at most for the bound.
pub trait FreezeHooks: Send + Sync {
    /// Runs `argv` for the tree; `event` is `freeze` or `thaw`.
    ///
    /// # Errors
    /// It failed or did not end in time, in words.
    fn run(
        &self,
        tree: &str,
        event: &'static str,
        argv: &[String],
        timeout: Duration,
    ) -> Result<(), String>;
}

/// Where the newest set of a tree is noted.
pub(crate) fn set_key(tree: TreeId) -> String {
    format!("set/{tree}")
}

/// Where it is noted that a tree is held still.
fn frozen_key(tree: TreeId) -> String {
    format!("frozen/{tree}")
}

/// What a tree that is sent in sets has of them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sets {
    /// The newest one that was recorded or, on a replica, applied.
    pub newest: Option<SetMark>,
    /// When the next one is due (CLOCK_BOOTTIME nanoseconds).
    pub due: u64,
    /// A pass is under way.
    pub running: bool,
    /// Passes that were begun, and those that have ended, since the engine was opened.
    pub begun: u64,
    pub ended: u64,
    /// A flush waits for the pass of this number.
    pub wanted: u64,
    /// The last one brought no set.
    pub failed: bool,
    /// `after` must still be run.
    pub frozen: bool,
    /// The source has contents of it that the peer may need.
    pub kept: bool,
    /// Contents of the newest one are lost: another one is taken although the peer has not got this one.
    pub lost: bool,
    /// On a replica: a part of a set waits for the rest.
    pub waits: bool,
}

impl Tree {
    /// It is sent in sets.
    pub fn is_in_sets(&self) -> bool {
        self.config.freeze.is_some()
    }
}

impl Worker {
    /// Reads what is known of sets.
    pub(super) fn load_sets(&mut self) -> Result<(), IndexError> {
        let snapshot = self.shared.index.snapshot()?;
        for tree in self.trees.iter_mut().filter(|t| t.is_in_sets()) {
            tree.sets.newest = snapshot.value(&set_key(tree.id))?;
            tree.sets.frozen |= snapshot.value(&frozen_key(tree.id))?.unwrap_or(false);
            // What an agent before this one kept, if anything.
            tree.sets.kept = true;
        }
        Ok(())
    }

    /// On a source the trees that are sent in sets are looked at by passes only.
    pub(super) fn rest_trees_in_sets(&mut self) {
        if !matches!(self.mode, Mode::Source { .. }) {
            return;
        }
        for tree in self.trees.iter_mut().filter(|t| t.is_in_sets()) {
            tree.dirty.clear();
            tree.later.clear();
            tree.unrested.clear();
            (tree.rescan, tree.routine, tree.job) = (false, false, None);
            (tree.reading, tree.walked_since) = (None, None);
        }
    }

    /// When the next pass is due. One that is due and waits for the peer is tried with every work that is done.
    pub(super) fn next_set(&self) -> Option<u64> {
        let now = clock::now();
        let waits = |t: &&Tree| t.is_in_sets() && !t.sets.running && t.sets.due > now;
        self.trees.iter().filter(waits).map(|t| t.sets.due).min()
    }

    /// Begins passes that are due.
    pub(super) fn begin_sets(&mut self) {
        if self.shared.freeze_hooks().is_none() {
            return;
        }
        let peer = *self.shared.peer.borrow();
        let source = matches!(self.mode, Mode::Source { .. });
        let now = clock::now();
        for at in 0..self.trees.len() {
            let tree = &mut self.trees[at];
            let Some(freeze) = tree.config.freeze.clone() else {
                continue;
            };
            if tree.sets.running || now < tree.sets.due {
                continue;
            }
            if tree.sets.frozen {
                // Whatever stopped the tree: its writers are held.
                self.begin_pass(at, freeze, false);
                continue;
            }
            if !tree.moves() {
                continue;
            }
            let there = tree.sets.newest.is_some_and(|set| peer.acked >= set.upto);
            if there || !source {
                tree.clear_kept();
            }
            let next = there || tree.sets.newest.is_none() || tree.sets.lost;
            if source && peer.session && next {
                self.begin_pass(at, freeze, true);
            }
        }
    }

    /// In a thread of its own; the answer is a command. `look` false: only lets the tree go on.
    fn begin_pass(&mut self, at: usize, freeze: Freeze, look: bool) {
        if look {
            let key = frozen_key(self.trees[at].id);
            let noted = self.shared.index.write(|w| w.put_value(&key, &true));
            crate::cut::here("before a tree is held still");
            if let Err(error) = noted {
                return self.index_failed(&error);
            }
        }
        let tree = &mut self.trees[at];
        let open = tree.open.clone();
        (tree.sets.running, tree.sets.frozen, tree.sets.lost) = (true, true, false);
        tree.sets.kept |= look;
        tree.sets.begun += u64::from(look);
        let (shared, config) = (Arc::clone(&self.shared), Arc::clone(&tree.config));
        let forced = tree.owed().clone();
        let work = move || {
            let taking = Taking {
                shared: &shared,
                config: &config,
                freeze: &freeze,
                open: open.as_ref(),
                forced: &forced,
            };
            let pass = taking.pass(look);
            // An engine that ended needs it no more.
            let _ = shared.commands.blocking_send(Command::Set(Box::new(pass)));
        };
        let thread = std::thread::Builder::new().name("tandem-set".into());
        match thread.spawn(work) {
            Ok(thread) => self.pass_threads.push(thread),
            Err(error) => {
                tracing::error!(%error, "a set cannot be taken");
                tree.sets.running = false;
                tree.sets.due = clock::now() + THAW_AGAIN;
            }
        }
    }

    /// The engine ends: a tree that is held still is let go before.
    pub(super) fn wait_for_passes(&mut self) {
        for thread in self.pass_threads.drain(..) {
            // One that panicked has nothing left to do.
            let _ = thread.join();
        }
    }

    /// A pass ended.
    pub(super) fn end_pass(&mut self, pass: Pass) {
        let Some(at) = self.position(pass.tree) else {
            return;
        };
        let name = self.trees[at].config.name.clone();
        let now = clock::now();
        let tree = &mut self.trees[at];
        tree.sets.running = false;
        self.pass_threads.retain(|thread| !thread.is_finished());
        let wanted = tree.sets.wanted > tree.sets.begun;
        // A tree that is not in sets any more has the next one as soon as it is again.
        let every = tree.config.freeze.as_ref().filter(|_| !wanted);
        let every = every.map_or(Duration::ZERO, |freeze| freeze.every);
        tree.sets.due = now + u64::try_from(every.as_nanos()).unwrap_or(u64::MAX / 2);
        let thawed = pass.thawed.and_then(|()| {
            let key = frozen_key(pass.tree);
            let written = self.shared.index.write(|w| w.remove_value(&key));
            written.map_err(|e: IndexError| e.to_string())
        });
        match thawed {
            Ok(()) => tree.sets.frozen = false,
            Err(_) => tree.sets.due = now + THAW_AGAIN,
        }
        let text = thawed.as_ref().err().map(|why| {
            format!("the tree {name} may still be held still, its `after` failed: {why}")
        });
        self.shared.alarm(Some(&name), "thaw", text);
        self.trees[at].sets.ended = self.trees[at].sets.begun;
        self.trees[at].sets.failed = true;
        let tree = &self.trees[at];
        if !matches!(self.mode, Mode::Source { .. }) || !tree.moves() || !tree.is_in_sets() {
            return;
        }
        let recorded = match pass.found {
            Ok(sights) => self
                .record_set(at, sights, pass.made_unix_ms)
                .inspect(|()| {
                    self.trees[at].read_in_set(&pass.forced);
                    self.tell_rested(at);
                }),
            Err(why) => Err(why),
        };
        self.trees[at].sets.failed = recorded.is_err();
        let text = recorded
            .err()
            .map(|why| format!("no set of the tree {name} could be taken: {why}"));
        self.shared.alarm(Some(&name), "set", text);
    }

    /// All changes at once, and the mark behind them.
    fn record_set(&mut self, at: usize, sights: Vec<Sight>, made: u64) -> Result<(), String> {
        let text = |e: IndexError| e.to_string();
        let id = self.trees[at].id;
        let changes = sights.len();
        let number = self.trees[at].sets.newest.map_or(0, |set| set.number) + 1;
        let mut mark = None;
        // In one transaction: a session that read the changes without their mark would end a set in the midst of this one.
        self.record(at, sights, |w| {
            let new = SetMark {
                number,
                upto: w.last_seq(),
                made_unix_ms: made,
            };
            mark = Some(new);
            w.put_value(&set_key(id), &new)
        })
        .map_err(text)?;
        let tree = &mut self.trees[at];
        if let Some(stop) = &tree.stop {
            return Err(stop.why().to_owned());
        }
        // Without a stop it was written.
        tree.sets.newest = mark.or(tree.sets.newest);
        tracing::info!(
            tree = tree.config.name,
            set = number,
            changes,
            "a set was taken"
        );
        self.touch();
        Ok(())
    }

    /// A set that begins after this call is wanted now. Gives the number of its pass, or why there will be none.
    pub(super) fn want_set(&mut self, at: usize) -> Result<u64, &'static str> {
        if !self.shared.peer.borrow().session {
            return Err("no set is taken while the standby is away");
        }
        let sets = &mut self.trees[at].sets;
        (sets.due, sets.wanted) = (0, sets.begun + 1);
        Ok(sets.wanted)
    }

    pub(super) fn set_status(&self, tree: &Tree, acked: u64) -> Option<SetStatus> {
        let mark = tree.sets.newest.filter(|_| tree.is_in_sets())?;
        let source = matches!(self.mode, Mode::Source { .. });
        let wait = Duration::from_nanos(tree.sets.due.saturating_sub(clock::now()));
        Some(SetStatus {
            number: mark.number,
            made_unix_ms: mark.made_unix_ms,
            there: source && acked >= mark.upto,
            next: (source && self.shared.peer.borrow().session).then_some(wait),
        })
    }

    /// The content of a path of the newest set cannot be read as it was. What was kept of it is of no use (a crash may have
    /// emptied it), and the file in the tree may be unchanged: that is read from here on.
    pub(super) fn set_is_lost(&mut self, at: usize, path: &RelPath) -> Result<(), IndexError> {
        let tree = &mut self.trees[at];
        tree.sets.lost = true;
        let entry = self.shared.index.snapshot()?.get(tree.id, path)?;
        let state = entry.and_then(|entry| entry.current);
        if let (Some(open), Some(hash)) = (&tree.open, state.as_ref().and_then(|s| s.kind.hash()))
            && let Err(fault) = set::remove(&open.private, *hash)
        {
            tracing::warn!(tree = tree.config.name, %path, %fault, "a kept content cannot be removed");
        }
        Ok(())
    }
}

impl Tree {
    fn clear_kept(&mut self) {
        if let Some(open) = self.open.as_ref().filter(|_| self.sets.kept) {
            match set::clear(&open.private) {
                Ok(()) => self.sets.kept = false,
                Err(fault) => tracing::debug!(%fault, "contents of a set cannot be removed"),
            }
        }
    }
}
