//! Contents on their way to the replica: staged in the tree's private directory, checked by their hash when complete.

use super::basis::{self, Basis, Known, Old, Start};
use super::pulse::Pulse;
use super::small::{Asides, Small};
use crate::commit::{self, Content, Partial, Redo, Staged, Staging};
use crate::delta;
use crate::engine::command::Shared;
use crate::engine::tree::{Open, Roots};
use crate::entry::{ContentHash, IndexEntry, Kind, Meta};
use crate::fault::Fault;
use crate::holes::Span;
use crate::index::{Index, IndexError, Snapshot};
use crate::path::RelPath;
use crate::tail::Tail;
use crate::tree::{TreeId, Update};
use crate::wire::{Item, Record, Want};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;
use tokio::runtime::Handle;

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

/// Lets the disk begin with a content of a batch of few. Whoever applies it waits for the disk, and sees its errors; what
/// it does until then takes about as long as a disk does.
fn sync_ahead(staged: &mut Staged) {
    if let Ok(runtime) = Handle::try_current()
        && let Some(sync) = staged.sync_ahead()
    {
        runtime.spawn_blocking(sync);
    }
}

/// The content of what lies at a path.
fn hash_of(entry: &IndexEntry) -> Option<ContentHash> {
    entry.current.as_ref()?.kind.hash().copied()
}

/// Names with the same content that are tried as a local source.
const SAME_CONTENT: usize = 8;

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
    /// Trees in which there was no room for a content since the worker was last told.
    no_room: BTreeSet<TreeId>,
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
            no_room: BTreeSet::new(),
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
        for (number, record) in (0u32..).zip(records) {
            let Some(Kind::File { size, hash }) = record.state.as_ref().map(|s| &s.kind) else {
                self.failed.remove(&record.path);
                continue;
            };
            let item = Item {
                batch,
                index: number,
            };
            if record.inline {
                continue;
            }
            self.failed.remove(&record.path);
            let entry = snapshot.get(record.tree, &record.path)?;
            let same = |kind: &Kind| {
                *kind
                    == Kind::File {
                        size: *size,
                        hash: *hash,
                    }
            };
            let in_sets = self.roots.get(record.tree).is_some_and(|open| open.in_sets);
            // A set that waits may change it before this is applied.
            if !self.whole
                && !in_sets
                && entry
                    .as_ref()
                    .and_then(|e| e.current.as_ref())
                    .is_some_and(|s| same(&s.kind))
            {
                continue;
            }
            if !self.whole
                && let Some(staged) = self.local_copy(&snapshot, record.tree, *size, *hash)?
            {
                self.slots
                    .insert(item, Slot::Ready(Content::Staged(staged)));
                continue;
            }
            if let Some((old, tail, redo)) = self.grows(&snapshot, record, entry.as_ref(), *size)? {
                wanted.push((number, old));
                let staging = self.grown_staging(record, redo, tail, *size);
                self.put(item, record, *hash, staging);
                continue;
            }
            // Only what the index knows as the pair's is a basis. What is protected or excluded here is not in it, and
            // the source, which learns a basis' sums, must not learn those. What a transfer left is the source's own.
            let of_the_pair = entry.as_ref().filter(|e| hash_of(e).is_some());
            let found = self.basis(record, *size, of_the_pair);
            let redo = match &found {
                Some(found) => self.in_place(&snapshot, record, entry.as_ref(), &found.basis)?,
                None => None,
            };
            let want = match &found {
                Some(found) => Want::Against(found.sums.clone()),
                None => Want::Whole,
            };
            self.begin(item, record, *size, *hash, found, redo);
            wanted.push((number, want));
        }
        Ok(wanted)
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

    fn staging(
        &self,
        record: &Record,
        size: u64,
        found: Option<basis::Found>,
        redo: Option<Redo>,
    ) -> Option<Result<(Staging, Option<Basis>), Fault>> {
        let private = self.roots.get(record.tree)?.private;
        if size < delta::SMALLEST {
            return Some(Staging::begin(&private, size).map(|staging| (staging, None)));
        }
        let (basis, start, chunks) = match found {
            Some(found) => (Some(found.basis), found.start, found.chunks),
            None => (None, Start::Empty, None),
        };
        // Of what is neither changed in place nor begins as a clone all is read while it is copied.
        let chunks = chunks.filter(|_| redo.is_some() || matches!(start, Start::Clone(_)));
        let know = |mut staging: Staging| {
            chunks.into_iter().for_each(|chunks| staging.know(chunks));
            (staging, basis)
        };
        if let Some(redo) = redo {
            return Some(Staging::begin_in_place(&private, redo, size).map(know));
        }
        let staging = match start {
            Start::Cut(partial, kept) => {
                tracing::info!(tree = %record.tree, path = %record.path, kept, size, "a transfer goes on where it was cut");
                Staging::resume(&private, &record.path, partial, kept, size)
            }
            Start::Clone(clone) => Ok(Staging::over(clone, size)),
            Start::Empty => Staging::begin_lasting(&private, &record.path, size),
        };
        Some(staging.map(know))
    }

    /// A file of this tree with this content, copied: what was renamed or copied at the source is not sent again.
    fn local_copy(
        &self,
        snapshot: &Snapshot,
        tree: TreeId,
        size: u64,
        hash: ContentHash,
    ) -> Result<Option<Staged>, IndexError> {
        let Some(open) = self.roots.get(tree) else {
            return Ok(None);
        };
        for (other, path) in snapshot.by_hash(&hash, SAME_CONTENT)? {
            if other != tree {
                continue;
            }
            let Ok(file) = open.root.open_file(&path) else {
                continue;
            };
            if let Ok(staged) = Staging::same(&open.private, &file, size, hash) {
                return Ok(Some(staged));
            }
        }
        Ok(None)
    }

    /// What is here of the path, as a basis for differences: what an earlier transfer left, and what lies there now.
    fn basis(
        &self,
        record: &Record,
        size: u64,
        of_the_pair: Option<&IndexEntry>,
    ) -> Option<basis::Found> {
        if size < delta::SMALLEST {
            return None;
        }
        let open = self.roots.get(record.tree)?;
        let partial = Partial::take(&open.private, &record.path);
        let old = of_the_pair.filter(|_| !self.whole).and_then(|entry| {
            let file = open.root.open_file(&record.path).ok()?;
            let known = entry.local.zip(hash_of(entry)).map(|(key, hash)| Known {
                key,
                hash,
                chunks: self.shared.chunks.of(&hash),
            });
            Some(Old { file, known })
        });
        // What is changed in place is not cloned.
        let clone = |old: &File| match open.update {
            Update::Atomic => commit::clone_as_partial(&open.private, &record.path, old),
            Update::InPlace => None,
        };
        basis::find(partial, old, clone, size, &self.pulse)
    }

    /// Whether the file is changed in place: in a tree that asks for it, and only if what lies there is the pair's version
    /// with nothing to settle. A local version must be whole for the rescue.
    fn in_place(
        &self,
        index: &Snapshot,
        record: &Record,
        entry: Option<&IndexEntry>,
        basis: &Basis,
    ) -> Result<Option<Redo>, IndexError> {
        let in_place = |open: &Open| open.update == Update::InPlace && !open.in_sets;
        if self.roots.get(record.tree).filter(in_place).is_none() {
            return Ok(None);
        }
        let Some(old) = basis.only_old() else {
            return Ok(None);
        };
        let base = old.try_clone().ok();
        self.redo(index, record, entry, base)
    }

    /// A journal that changes the version that lies there, if that is the pair's with nothing to settle.
    fn redo(
        &self,
        index: &Snapshot,
        record: &Record,
        entry: Option<&IndexEntry>,
        base: Option<File>,
    ) -> Result<Option<Redo>, IndexError> {
        let key = entry.filter(|e| e.seq != 0).and_then(|e| e.local);
        let (Some(key), Some(state)) = (key, record.state.as_ref()) else {
            return Ok(None);
        };
        if index
            .listed(record.tree, &record.path)?
            .is_some_and(|listed| !listed.is_nothing())
        {
            return Ok(None);
        }
        Ok(base.and_then(|base| Redo::new(&record.path, base, key, state)))
    }

    /// Whether the version that lies here has only grown, as far as the source knows: then what is behind it is wanted, and
    /// is appended to it. In every tree: what a reader can meet meanwhile are beginnings of the new version.
    fn grows(
        &self,
        index: &Snapshot,
        record: &Record,
        entry: Option<&IndexEntry>,
        size: u64,
    ) -> Result<Option<(Want, Tail, Redo)>, IndexError> {
        let (Some(from), Some(open)) = (record.grown_from, self.roots.get(record.tree)) else {
            return Ok(None);
        };
        let state = entry.and_then(|e| e.current.as_ref());
        let Some(Kind::File { size: old, hash }) = state.map(|s| &s.kind) else {
            return Ok(None);
        };
        if self.whole || open.in_sets || *old < from || *old >= size {
            return Ok(None);
        }
        let (tree, path) = (record.tree, &record.path);
        let Some(tail) = self.shared.tails.of(tree, path, *old, hash) else {
            return Ok(None);
        };
        let base = open.root.open_file(path).ok();
        let redo = self.redo(index, record, entry, base)?;
        let (size, hash) = (*old, *hash);
        Ok(redo.map(|redo| (Want::Behind { size, hash }, tail, redo)))
    }

    fn grown_staging(
        &self,
        record: &Record,
        redo: Redo,
        tail: Tail,
        size: u64,
    ) -> Option<Result<(Staging, Option<Basis>), Fault>> {
        let private = self.roots.get(record.tree)?.private;
        let staging = Staging::begin_grown(&private, redo, tail, size);
        Some(staging.map(|staging| (staging, None)))
    }

    /// Sees that there is room for an item that begins.
    pub fn reserve(&mut self, item: Item, bytes: u64) {
        let Some(Slot::Coming { tree, staging, .. }) = self.slots.get_mut(&item) else {
            return;
        };
        let Some(open) = self.roots.get(*tree) else {
            return;
        };
        let reserved = staging.reserve(bytes).or_else(|fault| {
            // What other transfers left gives way to what is to be received now.
            match fault.is_no_space() && commit::clear_partials(&open.private).is_ok_and(|n| n > 0)
            {
                true => staging.reserve(bytes),
                false => Err(fault),
            }
        });
        if let Err(fault) = reserved {
            self.give_up(item, &fault);
        }
    }

    fn give_up(&mut self, item: Item, fault: &Fault) {
        if let Some(Slot::Coming {
            staging,
            tree,
            path,
            ..
        }) = self.slots.insert(item, Slot::Failed)
        {
            tracing::debug!(%path, %fault, "a content cannot be staged");
            staging.discard();
            self.fail(tree, path, fault);
        }
    }

    /// Appends zeros that lie on no disk. With `last` the content is checked. False: it cannot be used.
    pub fn hole(&mut self, item: Item, len: u64, last: bool) -> bool {
        if let Some(Slot::Small(_)) = self.slots.get(&item) {
            return self.small(item, Span::Zeros(len), last);
        }
        self.pulse.beat();
        self.add(item, last, |staging, _| staging.hole(len))
    }

    /// Appends bytes. With `last` the content is checked. False: it cannot be used.
    pub fn write(&mut self, item: Item, bytes: &[u8], last: bool) -> bool {
        if let Some(Slot::Small(_)) = self.slots.get(&item) {
            return self.small(item, Span::Bytes(bytes), last);
        }
        self.add(item, last, |staging, _| staging.write(bytes))
    }

    fn small(&mut self, item: Item, bytes: Span<'_>, last: bool) -> bool {
        let Some(Slot::Small(mut small)) = self.slots.insert(item, Slot::Failed) else {
            return false;
        };
        if let Err(fault) = small.write(bytes) {
            tracing::warn!(path = %small.path, %fault, "a content did not arrive as announced");
            return false;
        }
        if !last {
            self.slots.insert(item, Slot::Small(small));
            return true;
        }
        let (tree, path) = (small.tree, small.path.clone());
        let asides = self.asides.entry(item.batch).or_default();
        match small.finish(&self.roots, asides) {
            Ok(complete) => {
                let ready = Slot::Ready(Content::Complete(complete));
                self.slots.insert(item, ready);
                true
            }
            Err(Fault::WrongContent) => {
                tracing::warn!(%path, "a content did not arrive as announced");
                false
            }
            Err(fault) => {
                tracing::debug!(%path, %fault, "a content cannot be staged");
                self.fail(tree, path, &fault);
                false
            }
        }
    }

    /// Appends a part of the basis. With `last` the content is checked. False: it cannot be used.
    pub fn copy(&mut self, item: Item, from: u64, len: u64, last: bool) -> bool {
        let pulse = self.pulse.clone();
        self.add(item, last, |staging, basis| match basis {
            None if from == 0 && staging.may_grow() => staging.take_beginning(len),
            Some(basis) => basis.copy_to(staging, from, len, &pulse),
            None => Err(Fault::WrongContent),
        })
    }

    fn add(
        &mut self,
        item: Item,
        last: bool,
        write: impl FnOnce(&mut Staging, Option<&Basis>) -> Result<(), Fault>,
    ) -> bool {
        let Some(slot) = self.slots.get_mut(&item) else {
            return false;
        };
        let Slot::Coming { staging, basis, .. } = slot else {
            return false;
        };
        if let Err(fault) = write(staging, basis.as_ref()) {
            self.give_up(item, &fault);
            return false;
        }
        if !last {
            return true;
        }
        let Slot::Coming {
            staging,
            hash,
            tree,
            path,
            meta,
            ..
        } = std::mem::replace(slot, Slot::Failed)
        else {
            return false;
        };
        match staging.finish(hash) {
            Ok(mut staged) => {
                if let Some(tail) = staged.take_tail() {
                    self.shared.tails.remember(tree, &path, tail);
                } else if !self.asides.contains_key(&item.batch) {
                    if let Some(meta) = meta.filter(|_| staged.is_new()) {
                        staged.dress(&meta);
                    }
                    sync_ahead(&mut staged);
                }
                if let Some(chunks) = staged.take_chunks() {
                    self.shared.chunks.remember(hash, Arc::new(chunks));
                }
                *slot = Slot::Ready(Content::Staged(staged));
                true
            }
            Err(fault) => {
                tracing::warn!(%fault, "a content did not arrive as announced");
                false
            }
        }
    }

    fn fail(&mut self, tree: TreeId, path: RelPath, fault: &Fault) {
        if fault.is_no_space() {
            self.no_room.insert(tree);
        }
        if self.failed.len() < MAX_FAILED {
            self.failed.insert(path, fault.to_string());
        }
    }

    /// The trees in which there was no room for a content since this was last asked.
    pub fn take_no_room(&mut self) -> BTreeSet<TreeId> {
        std::mem::take(&mut self.no_room)
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

    /// The rsync signature of a part of an item's basis; empty when it cannot be read.
    pub fn signature(&self, item: Item, from: u64, len: u64) -> Vec<u8> {
        let Some(Slot::Coming {
            basis: Some(basis), ..
        }) = self.slots.get(&item)
        else {
            return Vec::new();
        };
        if len > delta::MAX_BASIS {
            return Vec::new();
        }
        // At most MAX_BASIS, little more than a megabyte.
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        match basis.read(&mut bytes, from) {
            Ok(()) => delta::signature_of(&bytes),
            Err(_) => Vec::new(),
        }
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
