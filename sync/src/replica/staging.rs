//! Contents on their way to the replica: staged in the tree's private directory, checked by their hash when complete.

use crate::commit::{Staged, Staging};
use crate::delta::{self, SumsBuilder};
use crate::engine::tree::Roots;
use crate::entry::{ContentHash, Kind};
use crate::fault::Fault;
use crate::index::{Index, IndexError, Snapshot};
use crate::path::RelPath;
use crate::tree::TreeId;
use crate::wire::{ChunkSums, Item, Record, Want};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Names with the same content that are tried as a local source.
const SAME_CONTENT: usize = 8;
/// Bytes per read of a basis.
const CHUNK: usize = 256 << 10;

/// One content. Few are open at a time: those of the batches in flight.
#[expect(clippy::large_enum_variant)]
enum Slot {
    /// Being written. The basis is open while the content comes by differences.
    Coming {
        staging: Staging,
        hash: ContentHash,
        basis: Option<File>,
    },
    /// Complete and correct.
    Ready(Staged),
    /// Cannot be used; what still comes of it is thrown away.
    Failed,
}

/// All contents of the open batches of a session.
pub(crate) struct Contents {
    roots: Roots,
    slots: HashMap<Item, Slot>,
    /// Spooling: nothing that is here is relied on, for it may change before the batch is applied.
    whole: bool,
}

impl Contents {
    /// None yet.
    pub fn new(roots: Roots) -> Self {
        Contents {
            roots,
            slots: HashMap::new(),
            whole: false,
        }
    }

    /// Prepares a place for every file of the batch that is not here, and says how each is wanted.
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
                continue;
            };
            let item = Item {
                batch,
                index: number,
            };
            if record.inline {
                self.begin(item, record.tree, *size, *hash, None);
                continue;
            }
            let entry = snapshot.get(record.tree, &record.path)?;
            let same = |kind: &Kind| {
                *kind
                    == Kind::File {
                        size: *size,
                        hash: *hash,
                    }
            };
            if !self.whole
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
                self.slots.insert(item, Slot::Ready(staged));
                continue;
            }
            // Only what the index knows as the pair's is a basis. What is protected or excluded here is not in it, and
            // the source, which learns a basis' sums, must not learn those.
            let known = entry.as_ref().and_then(|e| e.current.as_ref());
            let basis = known
                .filter(|state| state.kind.hash().is_some())
                .and_then(|_| self.basis(record.tree, &record.path, *size));
            let (want, basis) = match basis {
                Some((sums, file)) => (Want::Against(sums), Some(file)),
                None => (Want::Whole, None),
            };
            self.begin(item, record.tree, *size, *hash, basis);
            wanted.push((number, want));
        }
        Ok(wanted)
    }

    fn begin(
        &mut self,
        item: Item,
        tree: TreeId,
        size: u64,
        hash: ContentHash,
        basis: Option<File>,
    ) {
        let slot = match self
            .roots
            .get(tree)
            .map(|open| Staging::begin(&open.private, size))
        {
            Some(Ok(staging)) => Slot::Coming {
                staging,
                hash,
                basis,
            },
            Some(Err(fault)) => {
                tracing::warn!(%fault, "a file cannot be staged");
                Slot::Failed
            }
            None => Slot::Failed,
        };
        self.slots.insert(item, slot);
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
            let copied = Staging::begin(&open.private, size).and_then(|mut staging| {
                staging.copy_from(&file, 0, size)?;
                staging.finish(hash)
            });
            if let Ok(staged) = copied {
                return Ok(Some(staged));
            }
        }
        Ok(None)
    }

    /// What lies at the path now, as a basis for differences.
    fn basis(&self, tree: TreeId, path: &RelPath, size: u64) -> Option<(ChunkSums, File)> {
        if size < delta::SMALLEST || self.whole {
            return None;
        }
        let file = self.roots.get(tree)?.root.open_file(path).ok()?;
        let have = file.metadata().ok()?.len();
        if have < delta::SMALLEST {
            return None;
        }
        let mut builder = SumsBuilder::new(delta::chunk_size(have)?);
        let mut buffer = vec![0; CHUNK];
        let mut at = 0;
        while at < have {
            let want = usize::try_from(have - at).unwrap_or(CHUNK).min(CHUNK);
            let got = file
                .read_at(&mut buffer[..want], at)
                .ok()
                .filter(|n| *n > 0)?;
            if !builder.update(&buffer[..got]) {
                return None;
            }
            at += got as u64;
        }
        Some((builder.finish()?, file))
    }

    /// Appends bytes. With `last` the content is checked. False: it cannot be used.
    pub fn write(&mut self, item: Item, bytes: &[u8], last: bool) -> bool {
        self.add(item, last, |staging, _| staging.write(bytes))
    }

    /// Appends a part of the basis. With `last` the content is checked. False: it cannot be used.
    pub fn copy(&mut self, item: Item, from: u64, len: u64, last: bool) -> bool {
        self.add(item, last, |staging, basis| match basis {
            Some(basis) => staging.copy_from(basis, from, len),
            None => Err(Fault::WrongContent),
        })
    }

    fn add(
        &mut self,
        item: Item,
        last: bool,
        write: impl FnOnce(&mut Staging, Option<&File>) -> Result<(), Fault>,
    ) -> bool {
        let Some(slot) = self.slots.get_mut(&item) else {
            return false;
        };
        let Slot::Coming { staging, basis, .. } = slot else {
            return false;
        };
        if let Err(fault) = write(staging, basis.as_ref()) {
            tracing::warn!(%fault, "a content cannot be staged");
            *slot = Slot::Failed;
            return false;
        }
        if !last {
            return true;
        }
        let Slot::Coming { staging, hash, .. } = std::mem::replace(slot, Slot::Failed) else {
            return false;
        };
        match staging.finish(hash) {
            Ok(staged) => {
                *slot = Slot::Ready(staged);
                true
            }
            Err(fault) => {
                tracing::warn!(%fault, "a content did not arrive as announced");
                false
            }
        }
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
        match basis.read_exact_at(&mut bytes, from) {
            Ok(()) => delta::signature_of(&bytes),
            Err(_) => Vec::new(),
        }
    }

    /// Forgets an item.
    pub fn discard(&mut self, item: Item) {
        self.slots.remove(&item);
    }

    /// The complete contents of a batch, by record.
    pub fn take(&mut self, batch: u64) -> HashMap<u32, Staged> {
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
