//! A tree for which there is no room, neither blocks nor inodes.
//!
//! What cannot be put there is listed and asked for again, as any path that cannot be applied. So the other trees go on, on
//! whatever disks they are, and so do deletions in this one, which may make the room that lacks. When too many paths wait for it the
//! tree is stopped: it is left out of sessions, and is looked at again at intervals.

use super::clock::{self, ms};
use super::read_only::Needs;
use super::tree::{MAX_NAMED, Stop, Tree};
use super::worker::Worker;
use crate::commit::Report;
use crate::fault::{Fault, Unput};
use crate::tree::TreeId;
use std::collections::BTreeMap;

/// Paths of a tree that may wait for room. Their list is in memory.
const MAX_WAITING: usize = if cfg!(test) { 50 } else { MAX_NAMED };
/// Time between two tries of a tree that is stopped: each ends the session, with all of its trees.
pub(super) const AGAIN: u64 = ms(if cfg!(test) { 1000 } else { 30_000 });
/// For how long no path may have lacked room until the alarm ends although paths wait for something else. Those that wait
/// are tried each second.
const OVER: u64 = ms(60_000);

/// What a tree knows of its lack of room.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// When it last lacked (CLOCK_BOOTTIME nanoseconds). `None`: it does not.
    lacked: Option<u64>,
}

impl Room {
    /// It lacks now.
    pub(super) fn lacks(&mut self) {
        self.lacked = Some(clock::now());
    }
}

impl Worker {
    /// An apply did not come to its end. `Ok`: what was not applied waits for room, and the rest of the batch counts. `Err`:
    /// nothing of the batch counts, and the session ends.
    pub(super) fn ended_early(&mut self, at: usize, report: &Report) -> Result<(), String> {
        let Some(fault) = &report.stopped else {
            return Ok(());
        };
        let why = fault.to_string();
        if matches!(fault, Fault::Unfinished { .. }) {
            self.stop(at, Stop::Unfinished(why.clone()));
        }
        match Unput::of(fault) {
            Some(Unput::NoRoom) => {}
            Some(Unput::ReadOnly) => {
                self.stop_if_read_only(at);
                return Err(why);
            }
            None => return Err(why),
        }
        self.lacks_room(at, &why);
        // Half of a set, or what is visible and may not last, is not to be gone on from.
        if report.unsure || self.trees[at].is_in_sets() {
            self.stop_for_room(at, why.clone());
            return Err(why);
        }
        Ok(())
    }

    /// Something could not be put into the tree. What can make room there goes.
    pub(super) fn lacks_room(&mut self, at: usize, why: &str) {
        self.make_room(at);
        let tree = &mut self.trees[at];
        tree.room.lacks();
        let name = &tree.config.name;
        self.shared
            .alarm(Some(name), "no-room", Some(why.to_owned()));
    }

    /// The tree is left out of sessions, and tried again after a while.
    pub(super) fn stop_for_room(&mut self, at: usize, why: String) {
        self.stop_for_now(at, Stop::Full(why));
    }

    /// The tree takes nothing. It is left out of sessions, and tried again after a while.
    pub(super) fn stop_for_now(&mut self, at: usize, stop: Stop) {
        // The stop is the alarm.
        let tree = &mut self.trees[at];
        tree.room.lacks();
        self.shared.alarm(Some(&tree.config.name), "no-room", None);
        self.stop(at, stop);
    }

    /// What sessions could not put into trees while a batch came.
    pub(super) fn note_unput(&mut self, unput: &BTreeMap<TreeId, Unput>) -> Result<(), String> {
        for (tree, why) in unput {
            let Some(at) = self.position(*tree) else {
                continue;
            };
            match why {
                Unput::NoRoom => self.lacks_room(at, "no room for what is received"),
                Unput::ReadOnly if self.stop_if_read_only(at) => {
                    return Err("a tree is read-only".into());
                }
                // It was, for a moment.
                Unput::ReadOnly => {}
            }
        }
        Ok(())
    }

    /// After a batch and each second: trees of which too much waits are stopped, and alarms end whose reason is gone.
    pub(super) fn judge_room(&mut self) {
        let now = clock::now();
        for at in 0..self.trees.len() {
            let tree = &mut self.trees[at];
            let Some(lacked) = tree.room.lacked.filter(|_| tree.stop.is_none()) else {
                continue;
            };
            let waiting = tree.unsettled.len();
            if waiting > MAX_WAITING {
                self.stop_for_room(
                    at,
                    format!("no room: more than {MAX_WAITING} paths wait for it"),
                );
                self.end_session();
            } else if waiting == 0 || now.saturating_sub(lacked) > OVER {
                tree.room.lacked = None;
                let name = &tree.config.name;
                self.shared.alarm(Some(name), "no-room", None);
            }
        }
    }

    /// Before this node writes: what lies in a tree that takes nothing is data all the same.
    pub(super) fn open_full(&mut self) {
        let shared = std::sync::Arc::clone(&self.shared);
        let full = |tree: &&mut Tree| matches!(tree.stop, Some(Stop::Full(_) | Stop::ReadOnly(_)));
        for tree in self.trees.iter_mut().filter(full) {
            let (pair, index) = (&shared.config.pair, &shared.index);
            tree.prove(Needs::Reading, pair, index, &shared.roots);
        }
    }
}

impl Tree {
    /// It is stopped for a reason that may be gone by itself, and is to be opened again.
    pub fn is_worth_a_try(&self, now: u64) -> bool {
        match &self.stop {
            Some(Stop::Identity(_) | Stop::Unfinished(_) | Stop::Fault(_)) => true,
            Some(Stop::Full(_) | Stop::ReadOnly(_)) => !self.waits_for_room(now),
            Some(Stop::Deletes(_)) | None => false,
        }
    }

    /// It is stopped because nothing can be put there, and was tried a moment ago.
    pub fn waits_for_room(&self, now: u64) -> bool {
        let lacked = self.room.lacked.unwrap_or(0);
        matches!(self.stop, Some(Stop::Full(_) | Stop::ReadOnly(_)))
            && now.saturating_sub(lacked) < AGAIN
    }
}
