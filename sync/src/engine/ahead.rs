//! A batch of few small changes is answered as soon as it is visible: what makes its names lead to it for good is durable
//! before, in one place on the disk.
//!
//! ```text
//!   the batch, in the slot ──> visible ──> answered ──> names durable ──> the index, durable: the slot is done
//!        │ a cut, or a role that changes meanwhile
//!        └──> the spool: applied before anything else is received here, or before this node writes
//! ```
//! The contents are on the disk before their names are, as always. So a change waits for the disk once before it is
//! answered, and not for its directory and the index too.

use super::apply::{Applied, Batch};
use super::intent::{INTENT, Intent};
use super::shared::Shared;
use super::tree::Tree;
use super::view::names_of;
use super::worker::Worker;
use crate::commit::Content;
use crate::entry::Kind;
use crate::index::{IndexError, Mode, Snapshot};
use crate::lineage::CopyState;
use crate::path::RelPath;
use crate::replica::machine::Ready;
use crate::spool::Head;
use crate::spool::Spool;
use crate::spool::ahead::{MAX_BATCH, Slot};
use crate::tree::Deletes;
use crate::wire::Record;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

/// Name of the durable (id, number) up to which the batches of the slot are done.
const DONE: &str = "ahead";
/// Records of a batch that is answered ahead. With more, one wait for the disk is a small part of what it takes.
const MAX_RECORDS: usize = 64;

/// The slot of a worker.
#[derive(Debug)]
pub(super) struct Ahead {
    slot: Slot,
    holds: Holds,
    /// The batch at hand, until it is answered.
    offer: Option<Offer>,
}

/// What is in the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// Nothing that matters.
    Nothing,
    /// What was answered and is not applied, of a tree that is stopped: it waits until that moves.
    Waiting,
    /// The batch that is being applied.
    AtHand,
    /// A batch whose writing failed. It may be on the disk all the same, and was answered to nobody.
    Spoiled,
}

/// A batch that may be answered when it is visible.
#[derive(Debug)]
struct Offer {
    bytes: Vec<u8>,
    upto: u64,
    reply: oneshot::Sender<Applied>,
}

impl Ahead {
    /// Opens it. What a former process answered and did not finish is to be handed over.
    pub fn open(worker: &Worker) -> Result<Ahead, String> {
        let slot = Slot::open(&worker.shared.config.state_dir).map_err(|e| e.to_string())?;
        let index = worker.shared.index.snapshot().map_err(|e| e.to_string())?;
        let done = index.value::<(u64, u64)>(DONE).map_err(|e| e.to_string())?;
        // Of another file nothing is known to this index: neither was anything answered from it. And what was not written
        // whole was not answered.
        let is_ours = done.is_some_and(|(id, number)| id == slot.id() && number < slot.number());
        let waits = is_ours && slot.batch().map_err(|e| e.to_string())?.is_some();
        let mut ahead = Ahead {
            slot,
            holds: Holds::Waiting,
            offer: None,
        };
        if !waits {
            ahead.note_done(worker, None)?;
        }
        Ok(ahead)
    }

    /// What is in it goes to the spool, and the index knows again what an apply of it may have left in the trees. What
    /// belongs to a stopped tree stays.
    fn hand_over(&mut self, worker: &Worker, spool: &mut Spool) -> Result<(), String> {
        match self.holds {
            Holds::Nothing => return Ok(()),
            Holds::Spoiled => return self.note_done(worker, None),
            Holds::Waiting | Holds::AtHand => {}
        }
        let batch = self.slot.batch().map_err(|e| e.to_string())?;
        let batch = batch.ok_or("a batch that was answered cannot be read any more")?;
        let head = crate::spool::head_of(&batch).map_err(|e| e.to_string())?;
        let index = worker.shared.index.snapshot().map_err(|e| e.to_string())?;
        let Some(tree) = head.records.first().map(|record| record.tree) else {
            return self.note_done(worker, None);
        };
        let Some(at) = worker.position(tree) else {
            // No tree of the pair any more.
            return self.note_done(worker, None);
        };
        let position = index.head(tree).map_err(|e| e.to_string())?.seq;
        let writes = index.mode() == Mode::Writing;
        if writes || position.max(spool.upto(tree)) >= head.commit.upto {
            // This node began a history without it, or it is here, or what came after it is.
            return self.note_done(worker, None);
        }
        if !worker.trees[at].moves() {
            self.holds = Holds::Waiting;
            return Ok(());
        }
        spool.add_answered(&batch).map_err(|e| e.to_string())?;
        let records = head.records.into_iter();
        let mut intent = worker.left.intent.clone();
        let records = records.map(|r| (r.tree, r.path, r.seq, r.state));
        intent.0.extend(records);
        self.note_done(worker, Some(&intent))
    }

    /// What is in the slot is applied, in the spool, or nothing to anybody.
    fn note_done(&mut self, worker: &Worker, intent: Option<&Intent>) -> Result<(), String> {
        let done = (self.slot.id(), self.slot.number());
        let noted = worker.shared.index.write(|w| {
            if let Some(intent) = intent {
                w.put_value(INTENT, intent)?;
            }
            w.put_value(DONE, &done)
        });
        noted.map_err(|e: IndexError| e.to_string())?;
        self.holds = Holds::Nothing;
        Ok(())
    }

    /// Makes the batch at hand durable in the slot, if one is offered. False: it is not.
    pub fn keep(&mut self) -> bool {
        let Some(offer) = self.offer.take() else {
            return false;
        };
        if let Err(error) = self.slot.write(&offer.bytes) {
            tracing::debug!(%error, "the slot cannot be written");
            self.holds = Holds::Spoiled;
            return false;
        }
        crate::cut::here("after a batch was kept");
        (self.holds, self.offer) = (Holds::AtHand, Some(offer));
        true
    }

    /// Not all of the batch at hand will be visible with it.
    pub fn withdraw(&mut self) {
        self.offer = None;
    }

    /// The batch at hand is visible, and durable if it was kept.
    pub fn answer(&mut self, shared: &Shared) {
        let Some(offer) = self.offer.take().filter(|_| self.holds == Holds::AtHand) else {
            return;
        };
        crate::cut::here("before a batch is answered");
        let before = shared.answered.fetch_max(offer.upto, Ordering::AcqRel);
        let applied = Applied {
            acked: offer.upto.max(before),
            applied: *shared.head.borrow(),
            unsettled: 0,
        };
        // The session may have ended.
        let _ = offer.reply.send(applied);
        crate::cut::here("after a batch was answered");
    }

    /// What is to be noted with the result of the batch in the slot, or of one that should have been there.
    pub fn done(&self) -> Option<(&'static str, (u64, u64))> {
        let ends = matches!(self.holds, Holds::AtHand | Holds::Spoiled);
        ends.then(|| (DONE, (self.slot.id(), self.slot.number())))
    }

    /// It was noted.
    pub fn noted(&mut self) {
        self.holds = Holds::Nothing;
    }
}

impl Worker {
    /// Applies a batch. When it is one of few small changes, `reply` hears earlier that it is durable and visible.
    pub(super) fn apply_answered(
        &mut self,
        batch: Batch,
        reply: oneshot::Sender<Applied>,
    ) -> Result<Applied, String> {
        let upto = batch.ready.commit.upto;
        if let Some(bytes) = self.ahead_of(&batch)
            && let Some(ahead) = &mut self.ahead
        {
            ahead.offer = Some(Offer { bytes, upto, reply });
        }
        let applied = self.apply_now(batch);
        let Some(ahead) = &mut self.ahead else {
            return applied;
        };
        let answered = ahead.offer.take().is_none();
        if ahead.holds != Holds::AtHand {
            return applied;
        }
        if !answered {
            self.with_ahead(|ahead, worker, _| ahead.note_done(worker, None))?;
            return applied;
        }
        self.settle_ahead()?;
        // The session ends: the next one says anew how far this node is.
        Err(match applied {
            Ok(_) => "a change that was answered as durable could not be recorded".to_owned(),
            Err(why) => why,
        })
    }

    /// The bytes of a batch that can be answered before all of it is durable in the tree.
    fn ahead_of(&self, batch: &Batch) -> Option<Vec<u8>> {
        let Batch {
            ready, contents, ..
        } = batch;
        let whole = ready.failed.is_empty() && ready.given_up.is_empty();
        let free = |t: &Tree| t.moves() && t.unsettled.is_empty() && !t.is_in_sets();
        let is_free = |ahead: &Ahead| ahead.holds == Holds::Nothing;
        if !self.ahead.as_ref().is_some_and(is_free)
            || !whole
            || ready.records.len() > MAX_RECORDS
            || !self.trees.iter().all(free)
            || contents.values().any(Content::is_redo)
            || ready
                .records
                .iter()
                .any(|r| r.tree != ready.records[0].tree)
            || !self.are_plain(&ready.records).unwrap_or(false)
        {
            return None;
        }
        let size = |index: u32| {
            let record = ready.records.get(index as usize);
            record
                .and_then(|r| r.state.as_ref())
                .map_or(0, |s| s.kind.size())
        };
        let mut sizes: Vec<(u32, u64)> = contents.keys().map(|n| (*n, size(*n))).collect();
        sizes.sort_unstable();
        let all: u64 = sizes.iter().map(|(_, size)| size).sum();
        if all > MAX_BATCH as u64 {
            return None;
        }
        let again = Ready {
            commit: ready.commit,
            records: ready.records.clone(),
            totals: ready.totals.clone(),
            withheld: ready.withheld.clone(),
            given_up: Vec::new(),
            failed: Vec::new(),
        };
        let head = Head::new(again, batch.source.clone(), sizes.clone());
        let mut bytes = head.encode().ok()?;
        for (index, size) in sizes {
            let from = bytes.len();
            bytes.resize(from + usize::try_from(size).ok()?, 0);
            let file = contents.get(&index)?.open().ok()?;
            file.read_exact_at(&mut bytes[from..], 0).ok()?;
        }
        (bytes.len() <= MAX_BATCH).then_some(bytes)
    }

    /// Nothing in these can turn out to be more than it looks like: files of one name in directories that are here, those
    /// directories themselves, and files that are gone.
    fn are_plain(&self, records: &[Record]) -> Result<bool, IndexError> {
        let index = self.shared.index.snapshot()?;
        for tree in &self.trees {
            // At its end a first copy finds what lies here and is not the source's.
            let state = index.head(tree.id)?.state;
            if matches!(state, CopyState::Unborn | CopyState::Copying) {
                return Ok(false);
            }
        }
        for record in records {
            if !self.is_plain(&index, record)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_plain(&self, index: &Snapshot, record: &Record) -> Result<bool, IndexError> {
        let Some(tree) = self.position(record.tree).map(|at| &self.trees[at]) else {
            return Ok(false);
        };
        let kind = |path: &RelPath| {
            let state = index.get(tree.id, path)?.and_then(|entry| entry.current);
            Ok::<_, IndexError>(state.map(|state| state.kind))
        };
        let path = &record.path;
        let old = kind(path)?;
        let is_plain = match (&old, record.state.as_ref().map(|state| &state.kind)) {
            (None | Some(Kind::File { .. }), Some(Kind::File { .. }))
            | (Some(Kind::Dir), Some(Kind::Dir))
            | (None, None) => true,
            (Some(Kind::File { .. }), None) => tree.config.deletes == Deletes::Mirror,
            _ => false,
        };
        let is_here = match path.parent().filter(|dir| !dir.is_root()) {
            Some(dir) => matches!(kind(&dir)?, Some(Kind::Dir)),
            None => true,
        };
        let is_dir = matches!(old, Some(Kind::Dir));
        let config = &tree.config;
        let outside = config.protect.covers(path, is_dir) || config.exclude.covers(path, is_dir);
        let own = outside
            || tree.flagged.contains(path)
            || tree.lacking.contains(path)
            || tree.local_changes.contains(path)
            || tree.dirty.contains_key(path);
        let single = names_of(index, tree.id, path)?.is_empty();
        Ok(is_plain && is_here && single && !own && self.refused(record).is_none())
    }

    /// What was answered and is not applied is in the spool when this returns, unless its tree is stopped.
    pub(super) fn settle_ahead(&mut self) -> Result<(), String> {
        if self
            .ahead
            .as_ref()
            .is_none_or(|a| a.holds == Holds::Nothing)
        {
            return Ok(());
        }
        let handed = self.with_ahead(Ahead::hand_over);
        let why = handed.as_ref().err().map(|why| {
            format!("nothing is received: a change that was answered cannot be spooled: {why}")
        });
        self.shared.alarm(None, "spool-full", why);
        handed?;
        self.look_at_left();
        Ok(())
    }

    /// What waits in the slot belongs to a history that is given up.
    pub(super) fn give_up_ahead(&mut self) -> Result<(), String> {
        self.with_ahead(|ahead, worker, _| match ahead.holds {
            Holds::Nothing => Ok(()),
            Holds::Waiting | Holds::AtHand | Holds::Spoiled => ahead.note_done(worker, None),
        })
    }

    /// Without room for what it writes, slot and spool are opened anew by whoever needs them next: this comes first then.
    fn with_ahead(
        &mut self,
        work: impl FnOnce(&mut Ahead, &Worker, &mut Spool) -> Result<(), String>,
    ) -> Result<(), String> {
        let (Some(mut ahead), Some(mut spool)) = (self.ahead.take(), self.spool.take()) else {
            return Ok(());
        };
        work(&mut ahead, self, &mut spool)?;
        self.shared.spooled.store(spool.bytes(), Ordering::Release);
        (self.ahead, self.spool) = (Some(ahead), Some(spool));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::handle::open::prepare;
    use crate::engine::tests::pair::Node;
    use crate::engine::tests::trees::data;

    /// The disk says no, and has it all the same: after a restart it is no batch that was answered.
    #[tokio::test]
    async fn a_batch_whose_writing_failed_is_not_taken_for_answered() {
        let mut node = Node::new("b", |_| {});
        node.stop().await;
        let opened = || prepare(node.config(vec![data(&node)])).unwrap().0;
        let mut worker = opened();
        worker.is_spooled().unwrap();
        let bytes = b"a batch".to_vec();
        let (reply, _heard) = oneshot::channel();
        let ahead = worker.ahead.as_mut().unwrap();
        ahead.offer = Some(Offer {
            bytes: bytes.clone(),
            upto: 1,
            reply,
        });
        ahead.slot.refuse(&node.state()).unwrap();
        assert!(!ahead.keep());
        Slot::open(&node.state()).unwrap().write(&bytes).unwrap();
        worker.settle_ahead().unwrap();
        drop(worker);
        let mut worker = opened();
        assert!(!worker.is_spooled().unwrap());
        assert_eq!(worker.ahead.as_ref().unwrap().holds, Holds::Nothing);
    }
}
