//! Applying paused: batches are spooled, durably, and applied when the hold ends.

use super::ahead::Ahead;
use super::apply::{Applied, Batch};
use super::error::CommandError;
use super::status::Mode;
use super::tree::Tree;
use super::worker::Worker;
use crate::commit::{Content, Staging};
use crate::entry::Kind;
use crate::holes;
use crate::replica::machine::Ready;
use crate::spool::{Head, Spool, Spooled};
use crate::wire::{Commit, Idle, Record};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::sync::atomic::Ordering;

impl Worker {
    /// Pauses applying, from the next batch on.
    pub(super) fn hold(&mut self) -> Result<(), CommandError> {
        self.open_spool()?;
        self.shared.held.store(true, Ordering::Release);
        Ok(())
    }

    /// Looks for what an agent that died during a hold left behind. It is applied before anything else happens here; an
    /// error comes again then.
    pub(super) fn find_spool(&mut self) {
        if let Err(error) = self.open_spool() {
            tracing::debug!(%error, "the spool cannot be opened yet");
        }
    }

    /// Ends the hold and applies what was spooled.
    pub(super) fn release(&mut self) -> Result<(), CommandError> {
        if !matches!(self.mode, Mode::Replica) {
            // Nobody sends: what was answered as durable is put into the trees all the same.
            return self.end_hold_for_takeover();
        }
        self.shared.held.store(false, Ordering::Release);
        self.apply_spool().map_err(CommandError::Spool)
    }

    fn open_spool(&mut self) -> Result<&mut Spool, CommandError> {
        if self.spool.is_none() {
            let spool = Spool::open(&self.shared.config.state_dir)
                .map_err(|e| CommandError::Spool(e.to_string()))?;
            self.ahead = Some(Ahead::open(self).map_err(CommandError::Spool)?);
            self.shared.spooled.store(spool.bytes(), Ordering::Release);
            self.spool = Some(spool);
            self.settle_ahead().map_err(CommandError::Spool)?;
        }
        self.spool.as_mut().ok_or(CommandError::Ended)
    }

    /// Whether something waits in the spool.
    pub(super) fn is_spooled(&mut self) -> Result<bool, String> {
        self.open_spool().map_err(|e| e.to_string())?;
        self.settle_ahead()?;
        self.open_spool()
            .map(|spool| !spool.is_empty())
            .map_err(|e| e.to_string())
    }

    /// Throws away what was spooled and what waits in the slot.
    pub(super) fn give_up_spool(&mut self) -> Result<(), String> {
        let cleared = self.open_spool().map(Spool::clear);
        cleared
            .map_err(|e| e.to_string())?
            .map_err(|e| e.to_string())?;
        self.shared.spooled.store(0, Ordering::Release);
        self.shared.alarm(None, "spool-full", None);
        self.give_up_ahead()
    }

    /// Spools a batch instead of applying it.
    pub(super) fn spool_batch(&mut self, batch: Batch) -> Result<Applied, String> {
        // What came before is spooled before.
        self.is_spooled()?;
        let Batch {
            mut ready,
            mut contents,
            source,
            ..
        } = batch;
        // What changes a file in place was made before the hold began; the whole content is asked for.
        let redo = contents.extract_if(|_, content| content.is_redo());
        ready.failed.extend(redo.map(|(index, _)| index));
        let mut list = Vec::with_capacity(contents.len());
        for (index, content) in &contents {
            list.push((*index, content.open().map_err(|fault| fault.to_string())?));
        }
        list.sort_by_key(|(index, _)| *index);
        let size = |index: u32| {
            ready
                .records
                .get(index as usize)
                .and_then(|r| r.state.as_ref())
                .map_or(0, |s| s.kind.size())
        };
        let sizes = list
            .iter()
            .map(|(index, _)| (*index, size(*index)))
            .collect();
        let files: Vec<&File> = list.iter().map(|(_, file)| file).collect();
        let commit = ready.commit;
        let head = Head::new(ready, source, sizes);
        let spool = self.open_spool().map_err(|e| e.to_string())?;
        let added = spool.add(&head, &files);
        let bytes = spool.bytes();
        self.shared.spooled.store(bytes, Ordering::Release);
        let why = added
            .as_ref()
            .err()
            .map(|e| format!("changes cannot be spooled while applying is held: {e}"));
        self.shared.alarm(None, "spool-full", why.clone());
        if let Some(why) = why {
            return Err(why);
        }
        self.after_spooled(commit);
        self.touch();
        let applied = self
            .shared
            .index
            .snapshot()
            .map_err(|e| e.to_string())?
            .last_seq();
        Ok(Applied {
            acked: self.shared.answered(),
            applied,
            unsettled: 0,
        })
    }

    /// What is answered of what is spooled: nothing as long as a content is lacking, in the spool or before it.
    fn after_spooled(&mut self, commit: Commit) {
        let lacks = self.spool.as_ref().is_some_and(Spool::lacks);
        let unsettled = self.trees.iter().any(|t| !t.unsettled.is_empty());
        let stopped = self.trees.iter().any(|t| !t.moves() || t.sets.waits);
        // Without its end a takeover throws a set away, also out of this spool.
        let part = !commit.caught_up && self.trees.iter().any(Tree::is_in_sets);
        if lacks || unsettled || stopped || part {
            return;
        }
        self.shared
            .answered
            .fetch_max(commit.upto, Ordering::AcqRel);
        if commit.caught_up {
            self.shared
                .fresh_at
                .fetch_max(commit.stamp, Ordering::AcqRel);
        }
    }

    /// The source says that everything up to here was answered, while applying is held or something is spooled.
    pub(super) fn fresh_spool(&mut self, idle: Idle) -> Result<Applied, String> {
        // Whether the last batch ended the sets that are in the spool, what was answered says.
        let sets = self.is_spooled()? && self.trees.iter().any(Tree::is_in_sets);
        self.after_spooled(Commit {
            batch: 0,
            upto: idle.upto,
            caught_up: !sets || self.shared.answered() >= idle.upto,
            stamp: idle.stamp,
        });
        let snapshot = self.shared.index.snapshot().map_err(|e| e.to_string())?;
        Ok(Applied {
            acked: self.shared.answered(),
            applied: snapshot.last_seq(),
            unsettled: 0,
        })
    }

    /// Applies what is spooled, oldest first. What cannot be applied stays.
    pub(super) fn apply_spool(&mut self) -> Result<(), String> {
        self.is_spooled()?;
        loop {
            let spool = self.open_spool().map_err(|e| e.to_string())?;
            let Some(spooled) = spool.first().map_err(|e| e.to_string())? else {
                break;
            };
            if !self.is_applied(&spooled.head)? {
                let batch = self.unspool(&spooled)?;
                self.apply_now(batch)?;
            }
            let spool = self.open_spool().map_err(|e| e.to_string())?;
            spool.remove(&spooled).map_err(|e| e.to_string())?;
            let bytes = spool.bytes();
            self.shared.spooled.store(bytes, Ordering::Release);
        }
        // Nothing waits for room any more.
        self.shared.alarm(None, "spool-full", None);
        self.touch();
        Ok(())
    }

    /// Its trees are at its end already, or past it: it was removed, and came back with a crash. Newer things may lie there.
    fn is_applied(&self, head: &Head) -> Result<bool, String> {
        let index = self.shared.index.snapshot().map_err(|e| e.to_string())?;
        for record in &head.records {
            let Some(at) = self.position(record.tree) else {
                continue;
            };
            let position = index.head(record.tree).map_err(|e| e.to_string())?.seq;
            let is_there = position >= head.commit.upto.max(record.seq);
            // What is asked for once more has an old number.
            if !is_there || !self.trees[at].unsettled.is_empty() {
                return Ok(false);
            }
        }
        Ok(!head.records.is_empty())
    }

    pub(super) fn unspool(&self, spooled: &Spooled) -> Result<Batch, String> {
        let head = &spooled.head;
        let mut contents = HashMap::new();
        let mut at = spooled.begin;
        // Nobody waits for what belongs to no tree of the pair any more.
        let is_ours = |record: &Record| self.position(record.tree).is_some();
        for (index, bytes) in &head.contents {
            let record = head
                .records
                .get(*index as usize)
                .ok_or("a spooled content without record")?;
            if !is_ours(record) {
                at += bytes;
                continue;
            }
            let Some(Kind::File { hash, .. }) = record.state.as_ref().map(|s| &s.kind) else {
                return Err("a spooled content of what is no file".into());
            };
            let open = self
                .shared
                .roots
                .get(record.tree)
                .ok_or("a tree of the spool is stopped")?;
            let staged = Staging::begin(&open.private, *bytes).and_then(|mut staging| {
                staging.reserve(holes::room(&spooled.file, *bytes))?;
                staging.copy_from(&spooled.file, at, *bytes)?;
                staging.finish(*hash)
            });
            contents.insert(
                *index,
                Content::Staged(staged.map_err(|fault| format!("{}: {fault}", record.path))?),
            );
            at += bytes;
        }
        let mut ready = Ready {
            commit: head.commit,
            records: head.records.clone(),
            totals: head.totals.clone(),
            withheld: head.withheld.clone(),
            given_up: head.given_up.clone(),
            failed: head.failed.clone(),
        };
        let others = (0u32..).zip(&head.records);
        let others = others.filter(|(_, record)| !is_ours(record));
        ready.given_up.extend(others.map(|(index, _)| index));
        ready.failed.retain(|index| !ready.given_up.contains(index));
        Ok(Batch {
            ready,
            contents,
            unput: BTreeMap::new(),
            source: head.source.clone(),
        })
    }
}
