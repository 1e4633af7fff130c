//! Reading: a view of one moment, usable from any thread.

use super::meta::{self, Counts, Mode, Numbers, Unreplicated};
use super::places::{Part, Places};
use super::tables::Views;
use super::{IndexError, key};
use crate::entry::{Acked, ContentHash, IndexEntry};
use crate::lineage::{Head, NodeHeads};
use crate::path::RelPath;
use crate::tree::TreeId;
use redb::{ReadTransaction, ReadableTable};
use serde::de::DeserializeOwned;
use std::collections::VecDeque;

/// An entry with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Which tree.
    pub tree: TreeId,
    /// Where in it.
    pub path: RelPath,
    /// What is known of it.
    pub entry: IndexEntry,
}

/// A view of one moment. All methods block for disk only where pages are not cached.
pub struct Snapshot {
    views: Views,
    numbers: Numbers,
    places: Places,
}

impl Snapshot {
    pub(super) fn new(transaction: &ReadTransaction) -> Result<Self, IndexError> {
        let views = Views::open(transaction)?;
        let numbers = meta::read_numbers(&views.meta)?;
        let places = meta::read_places(&views.meta)?;
        Ok(Snapshot {
            views,
            numbers,
            places,
        })
    }

    /// What this node does with the newest epochs.
    pub fn mode(&self) -> Mode {
        self.numbers.mode
    }

    /// The newest sequence number given out or received.
    pub fn last_seq(&self) -> u64 {
        self.numbers.last_seq
    }

    /// How far the peer has acknowledged.
    pub fn acked(&self) -> Acked {
        self.numbers.acked
    }

    /// Tombstones up to this number may be missing: a receiver whose position is below cannot be brought up to date by
    /// changes alone, it needs the list of all that is here.
    pub fn tombstone_floor(&self) -> u64 {
        self.numbers.tombstone_floor
    }

    /// Whoever has less than this of a tree cannot be brought up to date by changes alone: tombstones that were removed, or
    /// a rename that was carried out as one, are not among them.
    pub fn floor(&self, tree: TreeId) -> Result<u64, IndexError> {
        let renamed = self.value::<u64>(&super::rename::floor_key(tree))?;
        Ok(renamed.unwrap_or(0).max(self.numbers.tombstone_floor))
    }

    /// Where a tree is. Unborn if nothing is known of it.
    pub fn head(&self, tree: TreeId) -> Result<Head, IndexError> {
        meta::read_head(&self.views.meta, tree)
    }

    /// How much of a tree there is.
    pub fn counts(&self, tree: TreeId) -> Result<Counts, IndexError> {
        meta::read_counts(&self.views.meta, tree)
    }

    /// What the peer last showed of itself (R6); `None` if nothing was written down.
    pub fn peer_heads(&self) -> Result<Option<NodeHeads>, IndexError> {
        meta::read(&self.views.meta, super::write::PEER_HEADS)
    }

    /// A value kept by [`super::Writer::put_value`].
    pub fn value<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, IndexError> {
        meta::read(&self.views.meta, &meta::value_key(name))
    }

    /// The entry of a path.
    pub fn get(&self, tree: TreeId, path: &RelPath) -> Result<Option<IndexEntry>, IndexError> {
        get(&self.views.entries, &self.places.place(tree, path))
    }

    /// Entries with a number above `after`, in its order, at most `max`.
    pub fn changes(&self, after: u64, max: usize) -> Result<Vec<Located>, IndexError> {
        let mut all = Vec::new();
        let Some(first) = after.checked_add(1) else {
            return Ok(all);
        };
        for row in self.views.by_seq.range(first..)?.take(max) {
            let (_, place) = row?;
            let damaged = || IndexError::Damaged {
                what: "by_seq names an entry that is not there".into(),
            };
            let entry = get(&self.views.entries, place.value())?.ok_or_else(damaged)?;
            let (tree, path) = self.places.read(place.value())?;
            all.push(Located { tree, path, entry });
        }
        Ok(all)
    }

    /// How many changes lie above `after`. Counts them: only for what is not much.
    pub fn count_changes(&self, after: u64, max: usize) -> Result<usize, IndexError> {
        let Some(first) = after.checked_add(1) else {
            return Ok(0);
        };
        Ok(self.views.by_seq.range(first..)?.take(max).count())
    }

    /// All entries of a tree in path order, from `from` on (included), tombstones too.
    pub fn entries(&self, tree: TreeId, from: &RelPath) -> Result<Entries, IndexError> {
        self.range(key::entry(tree, from), key::tree_end(tree))
    }

    /// All entries beneath `dir`, without itself, in path order, tombstones too.
    pub fn below(&self, tree: TreeId, dir: &RelPath) -> Result<Entries, IndexError> {
        let (start, end) = key::below(tree, dir);
        self.range(start, end)
    }

    /// [`Snapshot::below`], from behind the path `after` on, which lies beneath `dir`.
    pub fn below_after(
        &self,
        tree: TreeId,
        dir: &RelPath,
        after: &RelPath,
    ) -> Result<Entries, IndexError> {
        let (_, end) = key::below(tree, dir);
        let mut start = key::entry(tree, after);
        // The smallest key behind it: what lies beneath it begins with this too.
        start.push(0);
        self.range(start, end)
    }

    fn range(&self, start: Vec<u8>, end: Vec<u8>) -> Result<Entries, IndexError> {
        let parts = self.places.parts(start, end).into_iter().map(|part| {
            let range = part.start.as_slice()..part.end.as_slice();
            let rows = self.views.entries.range::<&[u8]>(range)?;
            Ok((part, rows))
        });
        Ok(Entries {
            parts: parts.collect::<Result<_, IndexError>>()?,
        })
    }

    /// The entries directly in `dir`, in order of their names, tombstones too, at most `max`, those after the name
    /// `after` only. Does not read what lies deeper.
    pub fn children(
        &self,
        tree: TreeId,
        dir: &RelPath,
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(RelPath, IndexEntry)>, IndexError> {
        let (mut start, end) = key::below(tree, dir);
        let prefix = if dir.is_root() {
            start.len() - 1
        } else {
            start.len()
        };
        if let Some(name) = after {
            start.truncate(prefix);
            start.extend_from_slice(name);
            start.push(1);
        }
        let mut all = Vec::new();
        while all.len() < max {
            let mut rows = self.range(start, end.clone())?;
            let Some(row) = rows.next_row() else { break };
            let (found, value) = row?;
            let name = found[prefix..]
                .split(|b| *b == 0)
                .next()
                .unwrap_or_default();
            let child = &found[..prefix + name.len()];
            if child.len() == found.len() {
                all.push((key::read_entry(child)?.1, decode(value.value())?));
            }
            // Names have no byte 0, so this is behind the child and all beneath it, and before the next name.
            start = child.to_vec();
            start.push(1);
        }
        Ok(all)
    }

    /// Names of regular files that had this device and inode number when they were last looked at, at most `max`.
    pub fn by_inode(
        &self,
        dev: u64,
        ino: u64,
        max: usize,
    ) -> Result<Vec<(TreeId, RelPath)>, IndexError> {
        places(
            &self.views.by_ino,
            &self.places,
            key::inode(dev, ino, &[]),
            max,
        )
    }

    /// Regular files with this content, at most `max`. Only files larger than [`super::write::HASHED_FROM`] are listed.
    pub fn by_hash(
        &self,
        hash: &ContentHash,
        max: usize,
    ) -> Result<Vec<(TreeId, RelPath)>, IndexError> {
        places(&self.views.by_hash, &self.places, key::hash(hash, &[]), max)
    }

    /// What is listed of one path as unreplicated.
    pub fn listed(&self, tree: TreeId, path: &RelPath) -> Result<Option<Unreplicated>, IndexError> {
        let row = self
            .views
            .unreplicated
            .get(key::entry(tree, path).as_slice())?;
        row.map(|value| read_listed(value.value(), path))
            .transpose()
    }

    /// The work list of a reversal after `after`, in path order within a tree, at most `max`.
    pub fn unreplicated(
        &self,
        after: Option<(TreeId, &RelPath)>,
        max: usize,
    ) -> Result<Vec<(TreeId, RelPath, Unreplicated)>, IndexError> {
        let mut start = after
            .map(|(tree, path)| key::entry(tree, path))
            .unwrap_or_default();
        if after.is_some() {
            // The smallest key after this one.
            start.push(0);
        }
        let mut all = Vec::new();
        for row in self
            .views
            .unreplicated
            .range::<&[u8]>(start.as_slice()..)?
            .take(max)
        {
            let (place, value) = row?;
            let (tree, path) = key::read_entry(place.value())?;
            let record = read_listed(value.value(), &path)?;
            all.push((tree, path, record));
        }
        Ok(all)
    }
}

/// An iterator over entries in path order.
pub struct Entries {
    parts: VecDeque<(Part, Rows)>,
}

type Rows = redb::Range<'static, &'static [u8], &'static [u8]>;

/// An entry as it is stored.
type Row = redb::AccessGuard<'static, &'static [u8]>;

impl Entries {
    /// The next key, and the entry.
    fn next_row(&mut self) -> Option<Result<(Vec<u8>, Row), IndexError>> {
        loop {
            let (part, rows) = self.parts.front_mut()?;
            if let Some(row) = rows.next() {
                let row = row.map_err(IndexError::from);
                return Some(row.map(|(place, value)| (part.key(place.value()), value)));
            }
            self.parts.pop_front();
        }
    }
}

impl Iterator for Entries {
    type Item = Result<(RelPath, IndexEntry), IndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.next_row()?;
        Some(row.and_then(|(key, value)| {
            let (_, path) = key::read_entry(&key)?;
            Ok((path, decode(value.value())?))
        }))
    }
}

fn read_listed(bytes: &[u8], path: &RelPath) -> Result<Unreplicated, IndexError> {
    postcard::from_bytes(bytes).map_err(|_| IndexError::Damaged {
        what: format!("the unreplicated record of {path}"),
    })
}

pub(super) fn get(
    entries: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &[u8],
) -> Result<Option<IndexEntry>, IndexError> {
    entries
        .get(key)?
        .map(|value| decode(value.value()))
        .transpose()
}

pub(super) fn decode(bytes: &[u8]) -> Result<IndexEntry, IndexError> {
    postcard::from_bytes(bytes).map_err(|_| IndexError::Damaged {
        what: "an entry".into(),
    })
}

/// The paths that a table lists behind a prefix.
pub(super) fn places(
    table: &impl ReadableTable<&'static [u8], ()>,
    places: &Places,
    prefix: Vec<u8>,
    max: usize,
) -> Result<Vec<(TreeId, RelPath)>, IndexError> {
    let end = key::after_all(prefix.clone());
    let mut all = Vec::new();
    for row in table
        .range::<&[u8]>(prefix.as_slice()..end.as_slice())?
        .take(max)
    {
        let (place, ()) = row.map(|(k, v)| (k, v.value()))?;
        all.push(places.read(&place.value()[prefix.len()..])?);
    }
    Ok(all)
}
