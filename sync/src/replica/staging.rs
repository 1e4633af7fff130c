//! Contents on their way to the replica: staged in the tree's private directory, checked by their hash when complete.

use super::basis::{self, Basis};
use super::pulse::Pulse;
use super::small::{Asides, Small};
use crate::commit::{self, Content, Redo, Staging};
use crate::delta;
use crate::engine::shared::Shared;
use crate::engine::tree::Roots;
use crate::entry::{ContentHash, IndexEntry, Kind, Meta};
use crate::fault::{Fault, Unput};
use crate::index::{Index, IndexError, Snapshot};
use crate::path::RelPath;
use crate::tree::TreeId;
use crate::wire::{Item, Record, Want};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

mod arrive;
mod find;

/// The large files of a batch, of which what came of one version serves the next one.
pub(crate) fn large_files(records: &[Record]) -> HashSet<(TreeId, RelPath)> {
    let large = |r: &&Record| {
        r.state
            .as_ref()
            .is_some_and(|s| s.kind.size() >= delta::SMALLEST)
    };
    records
        .iter()
        .filter(large)
        .map(|r| (r.tree, r.path.clone()))
        .collect()
}

/// The content of what lies at a path.
fn hash_of(entry: &IndexEntry) -> Option<ContentHash> {
    entry.current.as_ref()?.kind.hash().copied()
}

/// One content. Few are open at a time: those of the batches in flight.
#[expect(clippy::large_enum_variant)]
enum Slot {
    /// Being written. The basis is open while the content comes by differences.
    Coming {
        staging: Staging,
        hash: ContentHash,
        basis: Option<Basis>,
        tree: TreeId,
        path: RelPath,
        meta: Option<Meta>,
    },
    /// Small, and with its batch; whatever of it has come is in memory.
    Small(Box<Small>),
    /// Complete and correct.
    Ready(Content),
    /// Cannot be used; what still comes of it is thrown away.
    Failed,
}

/// Paths whose failure is remembered: an alarm names one and counts the others.
const MAX_FAILED: usize = 1000;

/// All contents of the open batches of a session.
pub(crate) struct Contents {
    shared: Arc<Shared>,
    roots: Roots,
    slots: HashMap<Item, Slot>,
    /// New directories of the batches that come.
    asides: HashMap<u64, Asides>,
    /// Paths whose content could not be put on the disk when it last came, and why.
    failed: BTreeMap<RelPath, String>,
    /// Trees in which no content could be put since the worker was last told.
    unput: BTreeMap<TreeId, Unput>,
    /// Spooling: nothing that is here is relied on, for it may change before the batch is applied.
    whole: bool,
    /// Tells the source that this end is at work.
    pulse: Pulse,
}

impl Contents {
    /// None yet.
    pub fn new(shared: Arc<Shared>, pulse: Pulse) -> Self {
        Contents {
            roots: shared.roots.clone(),
            shared,
            slots: HashMap::new(),
            asides: HashMap::new(),
            failed: BTreeMap::new(),
            unput: BTreeMap::new(),
            whole: false,
            pulse,
        }
    }

    /// Removes what earlier transfers left and no transfer holds now: everything was received, so nothing goes on with it.
    pub fn clear_partials(&self) {
        for (tree, open) in self.roots.all() {
            match commit::clear_partials(&open.private) {
                Ok(0) => {}
                Ok(files) => {
                    tracing::info!(%tree, files, "partial contents that nobody needs were removed")
                }
                // They take room and are in nobody's way; the next time they are tried again.
                Err(fault) => tracing::warn!(%tree, %fault, "partial contents cannot be removed"),
            }
        }
    }

    /// Prepares a place for every file of the batch whose content comes without being asked for.
    pub fn expect_inline(
        &mut self,
        held: bool,
        batch: u64,
        records: &[Record],
        index: &Index,
    ) -> Result<(), IndexError> {
        // Few files are made durable one by one, for which they must be open.
        let many = !held && records.len() > commit::FEW;
        if many {
            let asides = Asides::of(records, &index.snapshot()?)?;
            self.asides.insert(batch, asides);
        }
        for (index, record) in (0u32..).zip(records).filter(|(_, record)| record.inline) {
            let item = Item { batch, index };
            if let Some(small) = Small::of(record).filter(|_| many) {
                self.failed.remove(&record.path);
                self.slots.insert(item, Slot::Small(Box::new(small)));
            } else if let Some(Kind::File { size, hash }) = record.state.as_ref().map(|s| &s.kind) {
                self.begin(item, record, *size, *hash, None, None);
            }
        }
        Ok(())
    }

    /// Prepares a place for every offered file of the batch that is not here, and says how each is wanted.
    pub fn look_up(
        &mut self,
        held: bool,
        batch: u64,
        records: &[Record],
        index: &Index,
    ) -> Result<Vec<(u32, Want)>, IndexError> {
        let snapshot = index.snapshot()?;
        self.whole = held;
        let mut wanted = Vec::new();
        for (index, record) in (0u32..).zip(records) {
            let Some(Kind::File { size, hash }) = record.state.as_ref().map(|s| &s.kind) else {
                self.failed.remove(&record.path);
                continue;
            };
            if record.inline {
                continue;
            }
            let want = self.want(&snapshot, Item { batch, index }, record, *size, *hash)?;
            wanted.extend(want.map(|want| (index, want)));
        }
        Ok(wanted)
    }

    /// Prepares a place for an offered file and says how it is wanted. None: it is here.
    fn want(
        &mut self,
        snapshot: &Snapshot,
        item: Item,
        record: &Record,
        size: u64,
        hash: ContentHash,
    ) -> Result<Option<Want>, IndexError> {
        self.failed.remove(&record.path);
        let entry = snapshot.get(record.tree, &record.path)?;
        let entry = entry.as_ref();
        let in_sets = self.roots.get(record.tree).is_some_and(|open| open.in_sets);
        let current = entry.and_then(|e| e.current.as_ref());
        let is_same = current.is_some_and(|state| state.kind == Kind::File { size, hash });
        // A set that waits may change it before this is applied.
        if is_same && !self.whole && !in_sets {
            return Ok(None);
        }
        if !self.whole
            && let Some(staged) = self.local_copy(snapshot, record.tree, size, hash)?
        {
            let ready = Slot::Ready(Content::Staged(staged));
            self.slots.insert(item, ready);
            return Ok(None);
        }
        if let Some((behind, tail, redo)) = self.grows(snapshot, record, entry, size)? {
            let staging = self.grown_staging(record, redo, tail, size);
            self.put(item, record, hash, staging);
            return Ok(Some(behind));
        }
        // Only what the index knows as the pair's is a basis. What is protected or excluded here is not in it, and
        // the source, which learns a basis' sums, must not learn those. What a transfer left is the source's own.
        let of_the_pair = entry.filter(|e| hash_of(e).is_some());
        let found = self.basis(record, size, of_the_pair);
        let redo = match &found {
            Some(found) => self.in_place(snapshot, record, entry, &found.basis)?,
            None => None,
        };
        let want = match &found {
            Some(found) => Want::Against(found.sums.clone()),
            None => Want::Whole,
        };
        self.begin(item, record, size, hash, found, redo);
        Ok(Some(want))
    }

    fn begin(
        &mut self,
        item: Item,
        record: &Record,
        size: u64,
        hash: ContentHash,
        found: Option<basis::Found>,
        redo: Option<Redo>,
    ) {
        self.failed.remove(&record.path);
        let staging = self.staging(record, size, found, redo);
        self.put(item, record, hash, staging);
    }

    fn put(
        &mut self,
        item: Item,
        record: &Record,
        hash: ContentHash,
        staging: Option<Result<(Staging, Option<Basis>), Fault>>,
    ) {
        let path = record.path.clone();
        let meta = record.state.as_ref().map(|state| state.meta.clone());
        let slot = match staging {
            Some(Ok((staging, basis))) => Slot::Coming {
                staging,
                hash,
                basis,
                tree: record.tree,
                path,
                meta,
            },
            Some(Err(fault)) => {
                tracing::debug!(%path, %fault, "a file cannot be staged");
                self.fail(record.tree, path, &fault);
                Slot::Failed
            }
            None => Slot::Failed,
        };
        self.slots.insert(item, slot);
    }

    fn fail(&mut self, tree: TreeId, path: RelPath, fault: &Fault) {
        if let Some(why) = Unput::of(fault) {
            // The worse one counts.
            let known = self.unput.entry(tree).or_insert(why);
            *known = why.max(*known);
        }
        if self.failed.len() < MAX_FAILED {
            self.failed.insert(path, fault.to_string());
        }
    }

    /// The trees in which no content could be put since this was last asked.
    pub fn take_unput(&mut self) -> BTreeMap<TreeId, Unput> {
        std::mem::take(&mut self.unput)
    }

    /// What cannot be put on this node's disk now, for a person. It is sent again until it can.
    pub fn trouble(&self) -> Option<String> {
        let (path, why) = self.failed.first_key_value()?;
        let others = match self.failed.len() - 1 {
            0 => String::new(),
            n => format!(", and {n} more"),
        };
        Some(format!("{path} cannot be received: {why}{others}"))
    }

    /// Forgets an item.
    pub fn discard(&mut self, item: Item) {
        self.slots.remove(&item);
    }

    /// The complete contents of a batch, by record.
    pub fn take(&mut self, batch: u64) -> HashMap<u32, Content> {
        self.asides.remove(&batch);
        let items: Vec<Item> = self
            .slots
            .keys()
            .filter(|item| item.batch == batch)
            .copied()
            .collect();
        let mut ready = HashMap::new();
        for item in items {
            if let Some(Slot::Ready(staged)) = self.slots.remove(&item) {
                ready.insert(item.index, staged);
            }
        }
        ready
    }
}
