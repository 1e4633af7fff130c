//! Writing: what one transaction can do. All invariants of the index are kept here.

use super::meta::{self, Counts, Mode, Numbers, Unreplicated};
use super::places::Places;
use super::tables::Tables;
use super::{IndexError, key, read};
use crate::entry::{Acked, Change, ContentHash, IndexEntry, Kind, LocalKey, State};
use crate::lineage::NodeHeads;
use crate::path::RelPath;
use crate::tree::TreeId;
use redb::{ReadableTable, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, btree_map};

/// Files of more bytes than this are listed by content, so that a renamed or copied file is not sent again. Smaller ones
/// travel inline with their record.
pub const HASHED_FROM: u64 = 64 << 10;

pub(super) const PEER_HEADS: &str = "peer-heads";

/// What [`Writer::observe`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observed {
    /// Nothing differs.
    Unchanged,
    /// Only the local key is new.
    LocalOnly,
    /// A change, with its number.
    Changed(u64),
}

/// One open transaction; see [`super::Index::write`].
pub struct Writer<'t> {
    pub(super) tables: Tables<'t>,
    pub(super) numbers: Numbers,
    pub(super) places: Places,
    /// The numbers as they are in the file.
    stored: Numbers,
    counts: BTreeMap<TreeId, Counts>,
}

impl<'t> Writer<'t> {
    pub(super) fn new(transaction: &'t WriteTransaction) -> Result<Self, IndexError> {
        let tables = Tables::open(transaction)?;
        let numbers = meta::read_numbers(&tables.meta)?;
        let places = meta::read_places(&tables.meta)?;
        Ok(Writer {
            tables,
            numbers,
            places,
            stored: numbers,
            counts: BTreeMap::new(),
        })
    }

    /// Writes down what was kept in memory.
    pub(super) fn finish(mut self) -> Result<(), IndexError> {
        self.move_positions()?;
        if self.numbers != self.stored {
            meta::write_numbers(&mut self.tables.meta, &self.numbers)?;
        }
        for (tree, counts) in &self.counts {
            meta::write_counts(&mut self.tables.meta, *tree, counts)?;
        }
        Ok(())
    }

    /// What this node does with the newest epochs.
    pub fn mode(&self) -> Mode {
        self.numbers.mode
    }

    /// The newest number given out or received.
    pub fn last_seq(&self) -> u64 {
        self.numbers.last_seq
    }

    /// How far the peer has acknowledged.
    pub fn acked(&self) -> Acked {
        self.numbers.acked
    }

    /// The entry of a path, as this transaction has left it.
    pub fn get(&self, tree: TreeId, path: &RelPath) -> Result<Option<IndexEntry>, IndexError> {
        read::get(&self.tables.entries, &self.places.place(tree, path))
    }

    /// Names of regular files with this device and inode number, as this transaction has left them.
    pub fn by_inode(
        &self,
        dev: u64,
        ino: u64,
        max: usize,
    ) -> Result<Vec<(TreeId, RelPath)>, IndexError> {
        let prefix = key::inode(dev, ino, &[]);
        read::places(&self.tables.by_ino, &self.places, prefix, max)
    }

    /// A new look at a path found `current` (`None`: nothing). A change gets the next number. Only while this node
    /// writes, or before it was decided: a receiver's local changes are no data of the pair.
    pub fn observe(
        &mut self,
        tree: TreeId,
        path: &RelPath,
        current: Option<State>,
        local: Option<LocalKey>,
    ) -> Result<Observed, IndexError> {
        if self.numbers.mode == Mode::Receiving {
            return Err(IndexError::NotWriting);
        }
        let place = self.places.place(tree, path);
        let old = read::get(&self.tables.entries, &place)?;
        let seq = self.numbers.last_seq + 1;
        match IndexEntry::observe(old.as_ref(), &self.numbers.acked, current, local, seq) {
            Change::Unchanged => Ok(Observed::Unchanged),
            Change::LocalOnly(entry) => {
                self.replace(tree, path, &place, old.as_ref(), Some(&entry))?;
                Ok(Observed::LocalOnly)
            }
            Change::Changed(entry) => {
                self.replace(tree, path, &place, old.as_ref(), Some(&entry))?;
                self.numbers.last_seq = seq;
                Ok(Observed::Changed(seq))
            }
        }
    }

    /// A state from the peer, applied and durable here, with the peer's number and the key of what now lies here.
    pub fn receive(
        &mut self,
        tree: TreeId,
        path: &RelPath,
        current: Option<State>,
        seq: u64,
        local: Option<LocalKey>,
    ) -> Result<(), IndexError> {
        self.must_receive()?;
        let place = self.places.place(tree, path);
        let old = read::get(&self.tables.entries, &place)?;
        let entry = IndexEntry::received(current, seq, local);
        self.replace(tree, path, &place, old.as_ref(), Some(&entry))?;
        self.numbers.last_seq = self.numbers.last_seq.max(seq);
        Ok(())
    }

    /// Something found on a receiver that is not of the pair's history: known, without a number. Overwrites nothing
    /// that has one.
    pub fn found(
        &mut self,
        tree: TreeId,
        path: &RelPath,
        state: State,
        local: LocalKey,
    ) -> Result<(), IndexError> {
        let place = self.places.place(tree, path);
        let old = read::get(&self.tables.entries, &place)?;
        if old.as_ref().is_some_and(|old| old.seq != 0) {
            return Ok(());
        }
        self.replace(
            tree,
            path,
            &place,
            old.as_ref(),
            Some(&IndexEntry::found(state, local)),
        )
    }

    /// Replaces only the local key of an entry; `None` makes it be read again. No entry: nothing happens.
    pub fn set_local(
        &mut self,
        tree: TreeId,
        path: &RelPath,
        local: Option<LocalKey>,
    ) -> Result<(), IndexError> {
        let place = self.places.place(tree, path);
        let Some(old) = read::get(&self.tables.entries, &place)? else {
            return Ok(());
        };
        let new = IndexEntry {
            local,
            ..old.clone()
        };
        self.replace(tree, path, &place, Some(&old), Some(&new))
    }

    /// Removes an entry without a tombstone: what became excluded, or was of no history.
    pub fn remove(&mut self, tree: TreeId, path: &RelPath) -> Result<(), IndexError> {
        let place = self.places.place(tree, path);
        let old = read::get(&self.tables.entries, &place)?;
        self.replace(tree, path, &place, old.as_ref(), None)
    }

    /// The peer acknowledged everything up to `seq` as durable. Never more than was given out.
    pub fn ack(&mut self, seq: u64) {
        self.numbers.acked.advance(seq.min(self.numbers.last_seq));
    }

    /// A session begins, and the peer has this node's data up to `seq` (0: nothing). If it acknowledged more before, it
    /// has lost something since: what it acknowledged beyond `seq` says nothing any more.
    pub fn peer_at(&mut self, seq: u64) {
        if seq < self.numbers.acked.upto {
            self.forget_peer();
        }
        self.ack(seq);
    }

    /// The peer holds nothing any more: every base is void.
    pub fn forget_peer(&mut self) {
        self.numbers.acked.forget(self.numbers.last_seq);
    }

    /// Tombstones up to `upto` are removed, at most `max`: while this node writes of those that the peer has acknowledged. Gives how
    /// many were.
    pub fn purge_tombstones(&mut self, upto: u64, max: usize) -> Result<usize, IndexError> {
        let upto = match self.numbers.mode {
            Mode::Receiving => upto,
            _ => upto.min(self.numbers.acked.upto),
        };
        let mut rows = Vec::new();
        for row in self.tables.tombstones.range(..=upto)?.take(max) {
            let (seq, place) = row?;
            rows.push((seq.value(), place.value().to_vec()));
        }
        for (seq, place) in &rows {
            let (tree, path) = self.places.read(place)?;
            let old = read::get(&self.tables.entries, place)?;
            self.replace(tree, &path, place, old.as_ref(), None)?;
            self.numbers.tombstone_floor = self.numbers.tombstone_floor.max(*seq);
        }
        Ok(rows.len())
    }

    /// Puts a path on the list of what is unreplicated.
    pub fn list_unreplicated(
        &mut self,
        tree: TreeId,
        path: &RelPath,
        record: &Unreplicated,
    ) -> Result<(), IndexError> {
        let value = meta::encode(record, "an unreplicated record")?;
        self.tables
            .unreplicated
            .insert(key::entry(tree, path).as_slice(), value.as_slice())?;
        Ok(())
    }

    /// Takes a path off that list: it equals the source's version, or it is in the rescue.
    pub fn settle(&mut self, tree: TreeId, path: &RelPath) -> Result<(), IndexError> {
        self.tables
            .unreplicated
            .remove(key::entry(tree, path).as_slice())?;
        Ok(())
    }

    /// Keeps what the peer shows of itself, for the next comparison (R6).
    pub fn remember_peer(&mut self, heads: &NodeHeads) -> Result<(), IndexError> {
        meta::write(&mut self.tables.meta, PEER_HEADS, heads)
    }

    /// Keeps a value under a name, durable with the transaction. For what belongs beside the index: root identities,
    /// reasons of a stop, marks of the engine.
    pub fn put_value<T: Serialize + ?Sized>(
        &mut self,
        name: &str,
        value: &T,
    ) -> Result<(), IndexError> {
        meta::write(&mut self.tables.meta, &meta::value_key(name), value)
    }

    /// A value kept by [`Writer::put_value`].
    pub fn value<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, IndexError> {
        meta::read(&self.tables.meta, &meta::value_key(name))
    }

    /// Removes such a value.
    pub fn remove_value(&mut self, name: &str) -> Result<(), IndexError> {
        self.tables.meta.remove(meta::value_key(name).as_str())?;
        Ok(())
    }

    /// The trees that this transaction has touched.
    pub(super) fn counted(&self) -> Vec<TreeId> {
        self.counts.keys().copied().collect()
    }

    /// How much of a tree there is, as this transaction leaves it.
    pub(super) fn counts_of(&mut self, tree: TreeId) -> Result<&mut Counts, IndexError> {
        Ok(match self.counts.entry(tree) {
            btree_map::Entry::Occupied(counts) => counts.into_mut(),
            btree_map::Entry::Vacant(empty) => {
                empty.insert(meta::read_counts(&self.tables.meta, tree)?)
            }
        })
    }

    /// Puts `new` in the place of `old` in all tables and counts. `None` removes.
    pub(super) fn replace(
        &mut self,
        tree: TreeId,
        path: &RelPath,
        place: &[u8],
        old: Option<&IndexEntry>,
        new: Option<&IndexEntry>,
    ) -> Result<(), IndexError> {
        self.replace_number(place, old, new)?;
        let (before, after) = (old.and_then(inode_of), new.and_then(inode_of));
        if before != after {
            if let Some((dev, ino)) = before {
                self.tables
                    .by_ino
                    .remove(key::inode(dev, ino, place).as_slice())?;
            }
            if let Some((dev, ino)) = after {
                self.tables
                    .by_ino
                    .insert(key::inode(dev, ino, place).as_slice(), ())?;
            }
        }
        let (before, after) = (old.and_then(hash_of), new.and_then(hash_of));
        if before != after {
            if let Some(hash) = before {
                self.tables
                    .by_hash
                    .remove(key::hash(hash, place).as_slice())?;
            }
            if let Some(hash) = after {
                self.tables
                    .by_hash
                    .insert(key::hash(hash, place).as_slice(), ())?;
            }
        }
        let counts = self.counts_of(tree)?;
        old.into_iter()
            .for_each(|entry| counts.add(entry, path.is_root(), -1));
        new.into_iter()
            .for_each(|entry| counts.add(entry, path.is_root(), 1));
        match new {
            Some(entry) => {
                let value = meta::encode(entry, "an entry")?;
                self.tables.entries.insert(place, value.as_slice())?;
            }
            None => {
                self.tables.entries.remove(place)?;
            }
        }
        Ok(())
    }

    /// The tables that are sorted by number. A number belongs to one path for ever.
    fn replace_number(
        &mut self,
        place: &[u8],
        old: Option<&IndexEntry>,
        new: Option<&IndexEntry>,
    ) -> Result<(), IndexError> {
        let numbered =
            |entry: &IndexEntry| (entry.seq != 0).then_some((entry.seq, entry.current.is_none()));
        let (before, after) = (old.and_then(numbered), new.and_then(numbered));
        if before == after {
            return Ok(());
        }
        if let Some((seq, gone)) = before {
            self.tables.by_seq.remove(seq)?;
            if gone {
                self.tables.tombstones.remove(seq)?;
            }
        }
        if let Some((seq, gone)) = after {
            if self.tables.by_seq.insert(seq, place)?.is_some() {
                return Err(IndexError::NumberTaken { seq });
            }
            if gone {
                self.tables.tombstones.insert(seq, place)?;
            }
        }
        Ok(())
    }
}

/// The inode of a regular file that was looked at.
fn inode_of(entry: &IndexEntry) -> Option<(u64, u64)> {
    let state = entry.current.as_ref()?;
    let regular = matches!(state.kind, Kind::File { .. } | Kind::HardLink { .. });
    entry
        .local
        .filter(|_| regular)
        .map(|local| (local.dev, local.ino))
}

/// The content of a large regular file.
fn hash_of(entry: &IndexEntry) -> Option<&ContentHash> {
    match &entry.current.as_ref()?.kind {
        Kind::File { size, hash } if *size > HASHED_FROM => Some(hash),
        _ => None,
    }
}
