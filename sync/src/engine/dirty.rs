//! Paths that are to be looked at, and their order: what is there first, then what is gone.

use super::burst::Burst;
use super::clock;
use super::later::Again;
use super::local::{SLICE, STAMP_MOST};
use super::look::Sight;
use super::reboot::EVERYTHING;
use super::tree::{MAX_DIRTY, Open, Tree};
use super::worker::Worker;
use crate::fault::Fault;
use crate::path::RelPath;
use std::cell::LazyCell;
use std::collections::BTreeSet;

/// A path that must be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Dirt {
    /// Everything below too.
    pub recursive: bool,
    /// Read the content even if the local key says that nothing changed.
    pub force: bool,
    /// And all of it, even if it has only grown.
    pub whole: bool,
    /// It is a name of a file of which another name is gone: its names are told of anew even if the local key says that nothing
    /// changed. It is read only if its content is known under no name.
    pub names: bool,
    /// What lies below is told by itself: it comes from a walk, or a directory was made there.
    pub walked: bool,
    /// A walk has just seen a regular file there.
    pub file: bool,
    /// Nothing was there in this round of looks.
    pub gone: Option<u64>,
    /// A content lies there that is too large for the worker, and is read beside it.
    pub large: bool,
    /// A scan found it.
    pub scanned: bool,
    /// The round of looks that was the last one when it was marked first; of a mark that is yet to be made, 0.
    pub since: u64,
    /// When a change was noticed there first (CLOCK_BOOTTIME nanoseconds). `None`: there may be none, it is only to be read.
    pub noticed: Option<u64>,
}

impl Dirt {
    /// Read the content in any case.
    pub const FORCED: Dirt = Dirt {
        recursive: false,
        force: true,
        whole: true,
        names: false,
        walked: false,
        file: false,
        gone: None,
        large: false,
        scanned: false,
        since: 0,
        noticed: None,
    };
    /// It was not at rest, or its stamp was too young: read again, but for what has only grown.
    pub const AGAIN: Dirt = Dirt {
        whole: false,
        ..Dirt::FORCED
    };
    /// Another name of the file is gone.
    pub const NAMES: Dirt = Dirt {
        force: false,
        names: true,
        ..Dirt::FORCED
    };
    /// Found by a walk, or made just now.
    pub const WALKED: Dirt = Dirt {
        recursive: false,
        force: false,
        whole: false,
        names: false,
        walked: true,
        file: false,
        gone: None,
        large: false,
        scanned: false,
        since: 0,
        noticed: None,
    };

    /// It is to be looked at next.
    fn is_due(&self) -> bool {
        self.gone.is_none() && !self.large
    }

    /// A content that was read for the other mark may not be all that is to be read for this one.
    pub(super) fn asks_more_than(&self, other: &Dirt) -> bool {
        self.force && !other.force || self.whole && !other.whole
    }

    /// A scan may see nothing new there.
    fn insists(&self) -> bool {
        self.force || self.names
    }

    /// A scan that takes the mark's place reads what changed since, whatever the keys say. `None`: it needs none of that. `again`:
    /// the file waited for the look.
    fn read_since(&self, again: Option<&Again>) -> Option<i128> {
        match (self.force, self.whole, again) {
            (false, ..) => None,
            (true, false, Some(again)) => again.young,
            (true, ..) => Some(EVERYTHING),
        }
    }

    fn is_gone(&self, upto: u64) -> bool {
        self.gone.is_some_and(|round| round <= upto)
    }

    pub(super) fn merge(&mut self, other: Dirt) {
        self.walked &= other.walked;
        self.recursive |= other.recursive;
        self.force |= other.force;
        self.whole |= other.whole;
        self.names |= other.names;
        self.file = other.file;
        self.gone = other.gone;
        self.large = other.large;
        self.scanned |= other.scanned;
        self.since = self.since.min(other.since);
        self.noticed = self.noticed.into_iter().chain(other.noticed).min();
    }
}

/// What becomes of a path at which a look finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It is recorded as gone.
    Recorded,
    /// It waits, marked as gone, like what was missing before the look.
    Waits,
    /// The same, of a piece of a scan: it is read whole, with the look.
    WaitsInScan,
}

/// Takes what vanished out of what a look found, except beneath what lies in the place of a directory: the two are one change.
fn take_vanished(sights: &mut Vec<Sight>) -> Vec<RelPath> {
    let file = |s: &Sight| s.state.as_ref().is_some_and(|s| !s.kind.is_dir());
    let there: BTreeSet<RelPath> = match sights.iter().any(|s| s.state.is_none()) {
        true => sights
            .iter()
            .filter(|s| file(s))
            .map(|s| s.path.clone())
            .collect(),
        false => return Vec::new(),
    };
    let replaced = |path: &RelPath| path.ancestors().any(|above| there.contains(&above));
    let vanished = |s: &mut Sight| s.state.is_none() && !replaced(&s.path);
    sights.extract_if(.., vanished).map(|s| s.path).collect()
}

/// Nothing lies at the path. What cannot be looked at is named by the look that follows.
fn is_missing(open: &Open, path: &RelPath) -> bool {
    let found = open.root.stat(path);
    matches!(found, Ok(None) | Err(Fault::Missing | Fault::NotBeneath))
}

impl Tree {
    /// Marks a path to be looked at.
    pub fn mark(&mut self, path: RelPath, dirt: Dirt) {
        let dirt = self.dated(dirt);
        self.read_anew(&path, dirt);
        self.put_mark(path, dirt);
    }

    /// The same, where what is being read of the path tells of it.
    pub(super) fn put_mark(&mut self, path: RelPath, dirt: Dirt) {
        let dirt = self.dated(dirt);
        let insists = dirt.insists();
        if !insists && self.waits_restless(&path) && !self.is_missing(&path) {
            return;
        }
        let dirt = Dirt {
            // What has happened may have left the key that is known.
            force: dirt.force || (dirt.gone.is_none() && self.has_young_key(&path)),
            ..dirt
        };
        if self.dirty.len() >= MAX_DIRTY && !self.dirty.contains_key(&path) {
            self.let_scan_find();
        }
        if !self.rescan || insists {
            self.dirty.entry(path).or_insert(dirt).merge(dirt);
        }
    }

    fn has_young_key(&self, path: &RelPath) -> bool {
        self.later.get(path).is_some_and(Again::is_young)
    }

    fn is_missing(&self, path: &RelPath) -> bool {
        let open = self.open.as_ref();
        open.is_some_and(|open| is_missing(open, path))
    }

    /// The mark, as one that is made now if it has not been made before.
    pub(super) fn dated(&self, dirt: Dirt) -> Dirt {
        let since = match dirt.since {
            0 => self.round,
            since => since,
        };
        let noticed = match dirt.noticed {
            None if !dirt.insists() => Some(clock::now()),
            noticed => noticed,
        };
        Dirt {
            since,
            noticed,
            ..dirt
        }
    }

    /// There are too many marks: a scan finds what they are for, but for those that insist, which stay. Are these alone too many,
    /// the scan reads what changed since the oldest young stamp among them; or everything, if a content is to be read for another
    /// reason. That another name of a file is gone has moved the file's time of change, which the scan sees.
    fn let_scan_find(&mut self) {
        self.rescan = true;
        self.dirty
            .retain(|_, dirt| dirt.insists() && dirt.gone.is_none());
        if self.dirty.len() < MAX_DIRTY {
            return;
        }
        let marks = std::mem::take(&mut self.dirty);
        let since = |(path, dirt): (&RelPath, &Dirt)| dirt.read_since(self.later.get(path));
        let since = marks.iter().filter_map(since).min();
        self.read_from(since);
        self.later.retain(|_, again| again.at.is_some());
    }

    /// Marks that were made in another role are of no use, but for what is to be read: the scan that follows compares keys.
    pub fn keep_forced(&mut self) {
        self.dirty
            .retain(|_, dirt| dirt.force && dirt.gone.is_none());
        for dirt in self.dirty.values_mut() {
            (dirt.large, dirt.scanned) = (false, false);
        }
        let dirty = &self.dirty;
        self.later.retain(|path, again| {
            again.young.is_some() && (again.at.is_some() || dirty.contains_key(path))
        });
    }

    /// What was to be read and could not be recorded is marked again.
    pub(super) fn mark_forced(&mut self, paths: &[(RelPath, Dirt)]) {
        let forced = |dirt: &Dirt| dirt.force && dirt.gone.is_none();
        for (path, dirt) in paths.iter().filter(|(_, dirt)| forced(dirt)) {
            self.mark(path.clone(), *dirt);
        }
    }

    /// These were looked at, and what was found is settled. What waited for that look waits no more; what was to be read in any case
    /// and `failed` waits for the next one.
    pub(super) fn wait_no_more<'p>(
        &mut self,
        paths: impl Iterator<Item = &'p (RelPath, Dirt)>,
        failed: &BTreeSet<RelPath>,
        now: u64,
    ) {
        for (path, dirt) in paths {
            let waited = self.later.get(path).copied();
            let has_time = waited.is_some_and(|again| again.at.is_some());
            if has_time || self.dirty.contains_key(path) {
                continue;
            }
            let fails = failed.contains(path);
            if fails && (dirt.force || waited.is_some()) {
                self.wait(path.clone(), now.saturating_add(STAMP_MOST));
            } else if !fails {
                self.later.remove(path);
            }
        }
    }

    /// Not everything that happened was told: a scan finds it, and what is gone behind what is there.
    pub fn events_lost(&mut self) {
        self.rescan = true;
        self.dirty.retain(|_, dirt| dirt.gone.is_none());
        self.job.take_if(|job| job.waits.is_some());
    }

    /// Something may have happened at the path, or to all that lies there.
    pub fn is_marked(&self, path: &RelPath) -> bool {
        let all = |dirt: &Dirt| dirt.recursive || dirt.gone.is_some();
        let marks_all = |above| self.dirty.get(&above).is_some_and(all);
        self.dirty.contains_key(path) || path.ancestors().any(marks_all)
    }

    /// Something that was marked up to this round is yet to be looked at.
    pub fn has_marks_upto(&self, round: u64) -> bool {
        self.dirty.values().any(|dirt| dirt.since <= round)
    }

    /// When the oldest change was noticed that is not recorded (CLOCK_BOOTTIME nanoseconds). One of a file that never rests is named
    /// instead.
    pub fn oldest_change(&self) -> Option<u64> {
        let rests = |path: &RelPath| self.fuzzy.is_empty() || !self.fuzzy.contains(path);
        let marks = self.dirty.iter().filter(|(path, _)| rests(path));
        marks.filter_map(|(_, dirt)| dirt.noticed).min()
    }

    /// The round of the oldest mark at which something may lie.
    pub fn oldest_here(&self) -> Option<u64> {
        let here = self.dirty.values().filter(|dirt| dirt.gone.is_none());
        here.map(|dirt| dirt.since).min()
    }

    /// Marks paths at which nothing lies.
    pub fn mark_gone(&mut self, paths: impl IntoIterator<Item = RelPath>) {
        let dirt = Dirt {
            gone: Some(self.round),
            ..Dirt::default()
        };
        for path in paths {
            self.mark(path, dirt);
        }
    }

    /// Takes up to `most` dirty paths at which something lies, or which are not `known`. Of the others it is marked that nothing
    /// does, and they stay.
    fn next_here(&mut self, most: usize, known: impl Fn(&RelPath) -> bool) -> Vec<(RelPath, Dirt)> {
        let Some(open) = self.open.clone() else {
            return Vec::new();
        };
        let mut paths = Vec::new();
        for (path, dirt) in self.dirty.iter_mut().filter(|(_, d)| d.is_due()) {
            if paths.len() == most {
                break;
            }
            match is_missing(&open, path) && known(path) {
                true => dirt.gone = Some(self.round),
                false => paths.push((path.clone(), *dirt)),
            }
        }
        for (path, _) in &paths {
            self.dirty.remove(path);
        }
        paths
    }

    /// There are paths that were found gone up to this round.
    pub fn has_gone(&self, upto: u64) -> bool {
        self.dirty.values().any(|dirt| dirt.is_gone(upto))
    }

    /// Takes up to `most` of them.
    fn next_gone(&mut self, most: usize, upto: u64) -> Vec<(RelPath, Dirt)> {
        let next = self.dirty.iter().filter(|(_, dirt)| dirt.is_gone(upto));
        let next = next.map(|(path, dirt)| (path.clone(), *dirt));
        let paths: Vec<(RelPath, Dirt)> = next.take(most).collect();
        for (path, _) in &paths {
            self.dirty.remove(path);
        }
        paths
    }
}

impl Worker {
    /// Looks at all dirty paths of all trees, at most a slice of each tree: at what is there first, then at what is gone.
    pub(super) fn look_at_dirty(&mut self) {
        self.round += 1;
        for tree in &mut self.trees {
            tree.round = self.round;
        }
        let mut waits = vec![false; self.trees.len()];
        for (at, waits) in waits.iter_mut().enumerate() {
            if !self.trees[at].moves() || self.trees[at].dirty.is_empty() {
                continue;
            }
            *waits = self.moves_first(at);
            if !*waits {
                self.look_at_what_is_here(at);
            }
        }
        let looked_at = self.trees.iter().zip(&waits);
        let looked_at = looked_at.filter(|(tree, waits)| tree.moves() && !**waits);
        let here = looked_at.filter_map(|(tree, _)| tree.oldest_here()).min();
        let gone = self.gone_may_go(here);
        for (at, waits) in waits.iter_mut().enumerate() {
            let next = gone.filter(|upto| self.trees[at].moves() && self.trees[at].has_gone(*upto));
            if let Some(upto) = next
                && !*waits
            {
                *waits = self.waits_for_burst(at);
                if !*waits {
                    let paths = self.trees[at].next_gone(SLICE, upto);
                    self.look(at, paths, Missing::Recorded);
                }
            }
            let tree = &mut self.trees[at];
            let more = tree.dirty.values().any(Dirt::is_due)
                || gone.is_some_and(|upto| tree.has_gone(upto));
            match tree.dirty.is_empty() {
                true => tree.burst = Burst::None,
                false if *waits || !more => {}
                false => self.due_now(),
            }
        }
        self.ask_about_gone();
    }

    fn look_at_what_is_here(&mut self, at: usize) {
        let id = self.trees[at].id;
        let index = self.shared.index.clone();
        // Opened only for what is gone, once. An index that fails is met again by the look.
        let snapshot = LazyCell::new(|| index.snapshot());
        let known = |path: &RelPath| match snapshot.as_ref().map(|s| s.get(id, path)) {
            Ok(Ok(entry)) => entry.is_some_and(|e| e.current.is_some()),
            _ => true,
        };
        let paths = self.trees[at].next_here(SLICE, known);
        if !paths.is_empty() {
            self.look(at, paths, Missing::Waits);
        }
    }

    /// Leaves out what vanished while it was looked at: marked as gone, it waits like what had been gone before.
    pub(super) fn without_vanished(&mut self, at: usize, mut sights: Vec<Sight>) -> Vec<Sight> {
        let vanished = take_vanished(&mut sights);
        if !vanished.is_empty() {
            self.trees[at].mark_gone(vanished);
            self.due_now();
        }
        sights
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_reads_what_was_to_be_read_for_a_mark() {
        let waits = |young| {
            Some(Again {
                young,
                ..Again::default()
            })
        };
        let table = [
            (Dirt::AGAIN, waits(Some(7)), Some(7)),
            // Its key tells.
            (Dirt::AGAIN, waits(None), None),
            (Dirt::AGAIN, None, Some(EVERYTHING)),
            (Dirt::FORCED, waits(Some(7)), Some(EVERYTHING)),
            (Dirt::FORCED, None, Some(EVERYTHING)),
            (Dirt::NAMES, waits(Some(7)), None),
            (Dirt::WALKED, None, None),
        ];
        for (dirt, again, since) in table {
            assert_eq!(dirt.read_since(again.as_ref()), since, "{dirt:?} {again:?}");
        }
    }
}
