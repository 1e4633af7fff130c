//! The source's side of the worker: local changes become numbered entries, durable before anybody sends them.

use super::clock::{self, ms};
use super::deletions::{Counted, NAMES, lives_on};
use super::dirty::{Dirt, Missing};
use super::lacking::lacking_key;
use super::linked::Names;
use super::look::{Looker, Rest, Sight, Sights};
use super::reading::{Found, LARGE};
use super::restless::{Copies, Restless};
use super::status::Mode;
use super::unverified::unverified_key;
use super::worker::Worker;
use crate::hash::Most;
use crate::index::{IndexError, Observed, Writer};
use crate::path::RelPath;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Paths of one slice: a slice takes some milliseconds when nothing must be read.
pub(super) const SLICE: usize = 512;
/// How long a path that was not at rest, or whose stamp is too young to prove anything, waits for the next look.
const AGAIN: u64 = ms(25);
/// Longest such wait.
const AGAIN_MOST: u64 = ms(1000);
/// Longest wait for a stamp to age. Only a clock that was set back makes one that does not age in so many looks; then the
/// file is not read each second until the clock has caught up. What could not be read waits so long too.
pub(super) const STAMP_MOST: u64 = ms(10_000);
/// A path that was not at rest in so many looks is named as `fuzzy`.
pub(super) const FUZZY: u32 = 8;
/// Files with a young stamp are looked at again together: each round is a commit.
const ROUND: u64 = ms(100);

/// When a path is looked at again that was not at rest (`moving`), or whose stamp is so young that a further change may
/// carry the same one. It always is: an event may have caused this look too, and nothing else would ever read again what
/// another write in the same jiffy left.
fn next_look(now: u64, moving: bool, tries: u32) -> u64 {
    let most = match !moving && tries >= FUZZY {
        true => STAMP_MOST,
        false => AGAIN_MOST,
    };
    let at = now.saturating_add((AGAIN << tries.min(9)).min(most));
    match moving {
        true => at,
        false => at.checked_next_multiple_of(ROUND).unwrap_or(at),
    }
}

impl Worker {
    /// Begins scans that are due, and goes on with what scans found gone.
    pub(super) fn jobs(&mut self) {
        self.end_waits();
        for at in 0..self.trees.len() {
            if !self.trees[at].moves() {
                continue;
            }
            let tree = &mut self.trees[at];
            if tree.rescan && tree.job.as_ref().is_some_and(|job| job.routine) {
                // What is lost is not waited for behind a slow pass, and a scan sees all that the pass would.
                tree.job = None;
            }
            let due = self.trees[at].rescan || self.trees[at].routine;
            if due && self.trees[at].moving.is_none() && self.trees[at].job.is_none() {
                self.scan(at);
            }
            let job = self.trees[at].job.as_mut().filter(|job| job.is_due());
            let Some(gone) = job.and_then(|job| job.gone.as_mut()) else {
                continue;
            };
            let next = gone.take(SLICE).into_iter();
            let paths: Vec<(RelPath, Dirt)> = next.map(|path| (path, Dirt::WALKED)).collect();
            if paths.is_empty() {
                let tree = &mut self.trees[at];
                let job = tree.job.take();
                let routine = job.as_ref().is_some_and(|job| job.routine);
                tree.doubts = 0;
                // What was gone while the walk judged waits for it.
                let waits = !tree.dirty.is_empty();
                let counts = self.shared.index.snapshot().and_then(|s| s.counts(tree.id));
                // An index that fails is met again by the next look.
                if let Ok(counts) = counts {
                    tree.deletes.size(clock::now(), counts.entries());
                }
                tree.walked_at = clock::now();
                tree.walked_since = job.and_then(|job| job.read_since).or(tree.walked_since);
                tree.forget_what_is_not_kept();
                if tree.accepted.take().is_some() {
                    tree.deletes.accept();
                }
                if waits {
                    self.due_now();
                }
                if !routine {
                    tracing::info!(tree = self.trees[at].config.name, "scan complete");
                }
            } else {
                self.look(at, paths, Missing::Recorded);
            }
            self.touch();
        }
        self.read_again();
    }

    /// Passes that are due, and flags that are gone.
    pub(super) fn routine(&mut self) {
        let now = clock::now();
        for tree in self
            .trees
            .iter_mut()
            .filter(|t| t.moves() && t.job.is_none())
        {
            let every = tree.config.poll.unwrap_or(tree.config.pass);
            let every = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX);
            tree.routine |= now.saturating_sub(tree.walked_at) >= every;
        }
        if self.mode == Mode::Replica {
            self.try_flagged();
            self.try_skipped();
            self.try_lacking();
        }
        self.purge_trash();
    }

    /// Calls `work` with a looker on the tree; `None` when the tree is not open.
    pub(super) fn looker<T>(
        &mut self,
        at: usize,
        work: impl FnOnce(&Looker<'_>) -> Result<T, IndexError>,
    ) -> Option<Result<T, IndexError>> {
        let tree = &self.trees[at];
        let (config, open) = (Arc::clone(&tree.config), tree.open.clone()?);
        let snapshot = match self.shared.index.snapshot() {
            Ok(snapshot) => snapshot,
            Err(error) => return Some(Err(error)),
        };
        let receiver = self.mode == Mode::Replica;
        let read_since = tree.read_since;
        // A receiver judges what it finds by its whole content.
        let tails = (!receiver).then_some(&self.shared.tails);
        let acked = self.shared.peer.borrow().acked;
        let copies = Copies::Here;
        let restless = (!receiver).then_some(Restless {
            tree,
            copies,
            acked,
        });
        let looker = Looker {
            read_since,
            tree: tree.id,
            config: &config,
            open: &open,
            index: &snapshot,
            source: &self.shared.index,
            receiver,
            tails,
            chunks: &self.shared.chunks,
            restless,
            ends: &self.shared.reading_ends(receiver),
            most: None,
        };
        Some(work(&looker))
    }

    /// Looks at paths and records what differs.
    pub(super) fn look(&mut self, at: usize, paths: Vec<(RelPath, Dirt)>, missing: Missing) {
        if self.trees[at].is_in_sets() && matches!(self.mode, Mode::Source { .. }) {
            // Only passes look at it.
            return;
        }
        if missing == Missing::WaitsInScan {
            // A change that no event told of.
            for (path, dirt) in &paths {
                self.trees[at].read_anew(path, *dirt);
            }
        }
        let most = match (&self.mode, missing) {
            // A receiver's local changes are judged at once.
            (Mode::Replica, _) => None,
            // A piece of a scan is no longer than that.
            (_, Missing::WaitsInScan) => Some(Most::new(LARGE, u64::MAX)),
            (_, Missing::Waits | Missing::Recorded) => Some(Most::new(LARGE, LARGE)),
        };
        let sights = self.looker(at, |looker| {
            let most = most.as_ref();
            Looker { most, ..*looker }.look_all(&paths)
        });
        self.looked(at, &paths, sights, missing);
    }

    /// Looks at what was read beside the worker.
    pub(super) fn look_at_read(&mut self, at: usize, (path, dirt): (RelPath, Dirt), found: Found) {
        let Found { read, taken } = found;
        let sights = self.looker(at, |looker| {
            let copies = Copies::Beside(taken.as_ref());
            let restless = looker.restless;
            let looker = Looker {
                restless: restless.map(|restless| Restless { copies, ..restless }),
                ..*looker
            };
            let mut sights = Sights::default();
            let entry = looker.index.get(looker.tree, &path)?;
            let mut names = Names::default();
            looker.look(&path, dirt, entry.as_ref(), read, &mut names, &mut sights)?;
            looker.tell_names(names, &mut sights)?;
            Ok(sights)
        });
        self.looked(at, &[(path, dirt)], sights, Missing::Waits);
    }

    /// Records what a look at these paths found.
    fn looked(
        &mut self,
        at: usize,
        paths: &[(RelPath, Dirt)],
        sights: Option<Result<Sights, IndexError>>,
        missing: Missing,
    ) {
        let sights = match sights {
            Some(Ok(sights)) => sights,
            Some(Err(error)) => {
                self.trees[at].mark_forced(paths);
                return self.index_failed(&error);
            }
            None => return self.trees[at].mark_forced(paths),
        };
        let failed: BTreeSet<RelPath> =
            sights.errors.iter().map(|(path, _)| path.clone()).collect();
        let put_off: BTreeSet<RelPath> = sights
            .large
            .iter()
            .chain(&sights.more)
            .map(|(path, _)| path.clone())
            .collect();
        let since = paths.iter().map(|(_, dirt)| dirt.since).min();
        let mut sights = self.note(at, sights, since.unwrap_or_default());
        if missing != Missing::Recorded {
            sights = self.without_vanished(at, sights);
        }
        // Of what went with a directory no event may tell by name.
        let undone = match paths.iter().any(|(_, dirt)| dirt.recursive) {
            true => self.forget_undone(at),
            false => Ok(()),
        };
        let result = undone.and_then(|()| match (&self.mode, self.numbers_changes()) {
            _ if sights.is_empty() => Ok(()),
            (Mode::Replica, false) => self.local_changes(at, sights),
            _ => self.record(at, sights, |_| Ok(())),
        });
        match result {
            Ok(()) if self.trees[at].moves() => {
                let read = paths.iter().filter(|(path, _)| !put_off.contains(path));
                self.trees[at].looked_at(read.clone());
                self.trees[at].wait_no_more(read, &failed, clock::now());
                self.tell_rested(at);
            }
            // A tree that was stopped meanwhile has nothing recorded: what has come to rest in it lifts no mark.
            Ok(()) => self.trees[at].mark_forced(paths),
            Err(error) => {
                self.trees[at].mark_forced(paths);
                self.index_failed(&error);
            }
        }
    }

    /// Keeps everything about sights but the states. What they drag along is as old as the oldest mark that led to them.
    fn note(&mut self, at: usize, sights: Sights, since: u64) -> Vec<Sight> {
        let now = clock::now();
        let tree = &mut self.trees[at];
        for path in sights.readable {
            tree.is_readable(&path);
            // If it still is one it is found again among what was seen.
            tree.local_changes.remove(&path);
        }
        for (path, why) in sights.errors {
            tree.error(&path, why);
        }
        let again = sights.again.iter().map(|(path, _)| path);
        let restless = sights.restless.iter().map(|(path, _)| path);
        let again: BTreeSet<&RelPath> = again.chain(restless).collect();
        for sight in sights.seen.iter().filter(|s| !again.contains(&s.path)) {
            tree.later.remove(&sight.path);
            tree.fuzzy.remove(&sight.path);
        }
        let whole = sights.seen.iter().map(|sight| &sight.path);
        tree.note_grown(
            &sights.grown,
            whole.filter(|path| !again.contains(path)),
            &sights.seen,
        );
        for (path, rest) in &sights.again {
            let tries = tree.later.get(path).map_or(0, |a| a.tries);
            let young = match rest {
                Rest::Moving => None,
                Rest::Young(changed) => Some(*changed),
            };
            if young.is_none() && tries >= FUZZY {
                tree.note_fuzzy(path.clone());
            }
            tree.again(path.clone(), next_look(now, young.is_none(), tries), young);
        }
        for (path, size) in sights.restless {
            tree.note_restless(path, size, now);
        }
        tree.sockets.extend(sights.sockets);
        for (path, dirt) in sights.large {
            tree.mark_large(path, dirt);
        }
        for (path, dirt) in sights.more {
            tree.mark(path, Dirt { since, ..dirt });
        }
        if let Some(job) = &mut tree.job {
            job.bytes += sights.bytes;
        }
        if !self.trees[at].dirty.is_empty() {
            self.due_now();
        }
        self.tell_new_fuzzy(at);
        self.note_unrested(at, sights.unrested, &sights.seen);
        self.note_kept(at, sights.kept);
        self.forget_kept(at);
        sights.seen
    }

    /// Records local changes with new numbers, and what `last` writes with them: nobody sees the one without the other.
    /// Durable when it returns. A tree that is stopped instead records nothing, and `last` is not called.
    pub(super) fn record(
        &mut self,
        at: usize,
        sights: Vec<Sight>,
        last: impl FnOnce(&mut Writer<'_>) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let snapshot = self.shared.index.snapshot()?;
        let Some(mut sights) = self.guard(at, &snapshot, sights)? else {
            return Ok(());
        };
        self.trees[at].as_meant(&snapshot, &mut sights)?;
        drop(snapshot);
        let now = clock::now();
        let (tree, acked) = (self.trees[at].id, self.shared.peer.borrow().acked);
        let mut changes: Vec<Counted> = Vec::new();
        let mut written = Vec::new();
        let marked = self.trees[at].marks.here();
        let unverified = self.trees[at].unverified.to_write();
        let lacking = self.trees[at].lacking.to_write();
        let deletes = &self.trees[at].deletes;
        let head = self.shared.index.write(|w| {
            w.ack(acked);
            if let Some(list) = &unverified {
                w.put_value(&unverified_key(tree), list)?;
            }
            if let Some(list) = &lacking {
                w.put_value(&lacking_key(tree), list)?;
            }
            let before = w.last_seq();
            for sight in sights {
                let is = sight.state.is_some();
                let old = w.get(tree, &sight.path)?;
                let was = old.as_ref().is_some_and(|e| e.current.is_some());
                let moved =
                    was && !is && lives_on(|d, i| w.by_inode(d, i, NAMES), &sight.path, &old)?;
                let Observed::Changed(_) =
                    w.observe(tree, &sight.path, sight.state, sight.local)?
                else {
                    continue;
                };
                if marked.contains(&sight.path) {
                    written.push(sight.path.clone());
                }
                if is != was {
                    let name = deletes.name(&sight.path);
                    changes.push(match (is, moved) {
                        (true, _) => Counted::Appeared(name),
                        (false, true) => Counted::Left(name),
                        (false, false) => Counted::Vanished(name),
                    });
                }
            }
            last(w)?;
            Ok::<_, IndexError>((before, w.last_seq()))
        })?;
        self.trees[at].unverified.written();
        self.trees[at].lacking.written();
        self.count_unverified();
        self.count_changes(at, changes, now)?;
        if head.1 > head.0 {
            self.changed(head.1, now);
            self.shared.head.send_replace(head.1);
            self.touch();
        }
        self.unmark(at, written.iter())
    }

    /// Local changes get numbers: this node is or was the last writer, or nothing was decided yet.
    pub(super) fn numbers_changes(&self) -> bool {
        self.shared
            .index
            .snapshot()
            .is_ok_and(|s| s.mode() != crate::index::Mode::Receiving)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_young_stamp_is_always_looked_at_again_after_it_has_aged() {
        // 20 ms: two jiffies of the slowest clock.
        for (moving, tries) in [(false, 0), (false, 1), (false, 7), (true, 0), (true, 50)] {
            for now in [0, ms(7), ms(12_345)] {
                let wait = next_look(now, moving, tries) - now;
                let most = AGAIN_MOST + if moving { 0 } else { ROUND };
                assert!((ms(20)..=most).contains(&wait), "{now} {moving} {tries}");
            }
        }
        assert_eq!(next_look(0, false, 50), STAMP_MOST);
    }

    #[test]
    fn young_stamps_are_looked_at_together() {
        let of = |at| next_look(ms(at), false, 0);
        assert_eq!(of(1001), of(1049));
        assert_eq!(next_look(u64::MAX, false, 0), u64::MAX);
    }
}
