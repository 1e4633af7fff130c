//! The trash of trees with `deletes = "trash"`: what is old goes, and it gives way when room is needed.

mod ages;
mod operator;

use super::clock::{self, ms};
use super::tree::Open;
use super::worker::Worker;
use crate::commit::{self, Purged, Which};
use crate::fault::Fault;
use crate::hash;
use crate::index::{IndexError, Snapshot};
use crate::tree::{Deletes, TreeId};
use ages::Ages;

/// Most entries that go at once: some ten milliseconds of the worker, each second.
const STEP: usize = 2000;
/// Between two looks for what is old.
const PAUSE: u64 = ms(60_000);
/// Between two notes of the time that passed, if there is nothing else to note: a reboot forgets no more of it.
const NOTE: u64 = ms(600_000);

/// What the worker knows of a tree's trash.
#[derive(Debug, Default)]
pub(crate) struct Keeping {
    /// When it is looked at next (CLOCK_BOOTTIME nanoseconds).
    at: u64,
    /// Why something could not be removed, so that it is said once.
    stays: Option<Fault>,
    /// As the index has it; `None`: not loaded.
    ages: Option<Ages>,
    /// When it was noted last (CLOCK_BOOTTIME nanoseconds).
    noted: u64,
}

/// Seconds since 1970.
fn now() -> u64 {
    u64::try_from(hash::now_ns() / 1_000_000_000).unwrap_or(0)
}

fn key(tree: TreeId) -> String {
    format!("trash/{tree}")
}

/// What is noted of a tree's trash, as of now.
fn load(index: &Snapshot, tree: TreeId) -> Result<Ages, IndexError> {
    let ages: Option<Ages> = index.value(&key(tree))?;
    let mut ages = ages.unwrap_or_default();
    ages.pass(clock::now() / ms(1000));
    Ok(ages)
}

/// For tests: so many seconds passed, which the index of an engine that does not run is told.
#[cfg(test)]
pub(super) fn let_pass(index: &crate::index::Index, tree: TreeId, seconds: u64) {
    let ages: Option<Ages> = index.snapshot().unwrap().value(&key(tree)).unwrap();
    let later = ages.unwrap().later(seconds);
    let noted = index.write(|w| w.put_value(&key(tree), &later));
    noted.unwrap();
}

impl Worker {
    /// Removes what its tree has kept for long enough, a step at a time. Also of trees that have no trash any more.
    pub(super) fn purge_trash(&mut self) {
        let now = clock::now();
        for at in 0..self.trees.len() {
            let tree = &self.trees[at];
            let Some(open) = tree.open.clone().filter(|_| tree.trash.at <= now) else {
                continue;
            };
            match self.purge_tree(at, &open) {
                Ok(purged) => self.purged(at, now, purged),
                Err(error) => self.index_failed(&error),
            }
        }
    }

    fn purge_tree(&mut self, at: usize, open: &Open) -> Result<Result<Purged, Fault>, IndexError> {
        let there = match commit::trash::hours(&open.private) {
            Ok(hours) => hours.into_iter().map(|hour| hour.hour).collect(),
            Err(fault) => return Ok(Err(fault)),
        };
        let ages = self.ages(at)?;
        let mut noted = ages.clone();
        if noted.found(&there) || !noted.is_empty() && self.is_unnoted(at) {
            self.note_ages(at, noted)?;
        }
        let age = self.trees[at].config.trash_age.as_secs();
        let ages = self.ages(at)?;
        let old = |hour: u64| ages.left(hour, age) == Some(0);
        Ok(commit::purge(&open.private, Which::These(&old), STEP))
    }

    fn purged(&mut self, at: usize, now: u64, purged: Result<Purged, Fault>) {
        let (more, stays) = match purged {
            Ok(purged) => (purged.more, purged.stays),
            Err(fault) => (false, Some(fault)),
        };
        let tree = &mut self.trees[at];
        tree.trash.at = if more { now } else { now + PAUSE };
        if let Some(fault) = &stays
            && tree.trash.stays != stays
        {
            let tree = &tree.config.name;
            tracing::warn!(tree, %fault, "the trash cannot be emptied");
        }
        if !more {
            tree.trash.stays = stays;
        }
    }

    /// The time as of which a tree's trash takes what is removed now (seconds since 1970), if it has one. That its hour is kept from
    /// now on is durable before anything is put there.
    pub(super) fn trash_takes(&mut self, at: usize) -> Result<Option<u64>, IndexError> {
        if self.trees[at].config.deletes != Deletes::Trash {
            return Ok(None);
        }
        let now = now();
        let mut ages = self.ages(at)?.clone();
        if ages.put(now / commit::trash::SECONDS) {
            self.note_ages(at, ages)?;
        }
        Ok(Some(now))
    }

    fn is_unnoted(&self, at: usize) -> bool {
        clock::now().saturating_sub(self.trees[at].trash.noted) >= NOTE
    }

    /// As of now.
    fn ages(&mut self, at: usize) -> Result<&Ages, IndexError> {
        let tree = &mut self.trees[at];
        let mut ages = match tree.trash.ages.take() {
            Some(ages) => ages,
            None => load(&self.shared.index.snapshot()?, tree.id)?,
        };
        ages.pass(clock::now() / ms(1000));
        Ok(tree.trash.ages.insert(ages))
    }

    fn note_ages(&mut self, at: usize, ages: Ages) -> Result<(), IndexError> {
        let tree = &mut self.trees[at];
        self.shared
            .index
            .write(|w| w.put_value(&key(tree.id), &ages))?;
        tree.trash.ages = Some(ages);
        tree.trash.noted = clock::now();
        Ok(())
    }

    /// There is no room in a tree: what cut transfers left goes, on its file system, and if that is nothing, some of the oldest of
    /// the trash, before its time.
    pub(super) fn make_room(&mut self, at: usize) {
        let Some(open) = self.trees[at].open.clone() else {
            return;
        };
        let device = |open: &Open| open.root.opened_as().dev;
        let here = self.trees.iter().filter_map(|tree| tree.open.as_ref());
        let here = here.filter(|other| device(other) == device(&open));
        let cleared: usize = here
            .map(|open| commit::clear_partials(&open.private).unwrap_or(0))
            .sum();
        if cleared > 0 {
            tracing::info!(cleared, "no room: what cut transfers left was removed");
        } else if self.trees[at].config.deletes == Deletes::Trash {
            let tree = &self.trees[at].config.name;
            match commit::purge_oldest(&open.private, STEP).map(|purged| purged.removed) {
                Ok(0) => {}
                Ok(removed) => {
                    tracing::warn!(tree, removed, "no room: the oldest of the trash goes")
                }
                Err(fault) => tracing::warn!(tree, %fault, "the trash cannot be emptied"),
            }
        }
    }
}
