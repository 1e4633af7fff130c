//! A rename: entries come to other paths, and stay what they are.

use super::write::Writer;
use super::{Index, IndexError, key, meta, read};
use crate::entry::{IndexEntry, Kind};
use crate::path::RelPath;
use crate::tree::TreeId;
use redb::ReadableTable;

/// Entries of one transaction. Bounds the memory.
const CHUNK: usize = 8192;
/// Most names of one file that are corrected when its first name moves.
const MAX_NAMES: usize = 4096;

/// A directory with more entries than this stays where it lies, and only its name changes; so many are written anew in
/// milliseconds. Keeps the few places that there are for directories that are worth one.
const FEW: usize = 1024;

/// How far a rename has come.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Renamed {
    /// Everything is at its new path.
    All,
    /// What lies beneath, up to this old path.
    UpTo(RelPath),
}

impl Index {
    /// What was at `from` and below is at `to` and below, with the numbers that it had. Only for a rename that the peer
    /// carried out too: no tombstones are left.
    ///
    /// A large directory costs one small transaction. Others, and those with further names of files, in several
    /// transactions, so that memory does not grow with the directory. The directory itself comes with the last one, of
    /// which `last` is a part: until then a rename that was cut can be gone on with.
    pub fn rename(
        &self,
        tree: TreeId,
        from: &RelPath,
        to: &RelPath,
        last: impl FnOnce(&mut Writer<'_>) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        self.rename_with(FEW, tree, from, to, last)
    }

    pub(super) fn rename_with(
        &self,
        few: usize,
        tree: TreeId,
        from: &RelPath,
        to: &RelPath,
        last: impl FnOnce(&mut Writer<'_>) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let mut last = Some(last);
        let mut after = None;
        loop {
            let done = self.write(|w| {
                let whole = after.is_none() && w.rename_whole(few, tree, from, to)?;
                let done = match whole {
                    true => Renamed::All,
                    false => w.rename_some(tree, from, to, after.as_ref())?,
                };
                if done == Renamed::All
                    && let Some(last) = last.take()
                {
                    last(w)?;
                }
                Ok::<_, IndexError>(done)
            })?;
            match done {
                Renamed::All => return Ok(()),
                Renamed::UpTo(path) => after = Some(path),
            }
        }
    }
}

impl Writer<'_> {
    /// Lets the new path lead to where the entries lie. False: nothing was changed, they are to be moved one by one.
    fn rename_whole(
        &mut self,
        few: usize,
        tree: TreeId,
        from: &RelPath,
        to: &RelPath,
    ) -> Result<bool, IndexError> {
        let is_dir = self.get(tree, from)?.and_then(|entry| entry.current);
        let is_dir = is_dir.is_some_and(|state| state.kind.is_dir());
        // Their entries name other paths.
        let links = self.counts_of(tree)?.links;
        if !is_dir || links > 0 || self.paths_below(tree, from, None, few + 1)?.len() <= few {
            return Ok(false);
        }
        // What is gone at the new path is of no more use where something is now, and stays known elsewhere.
        let mut gone = self.paths_below(tree, to, None, few + 1)?;
        gone.push(to.clone());
        if gone.len() > few || !self.all_fit(tree, from, to)? {
            return Ok(false);
        }
        let mut places = self.places.clone();
        if !places.rename(tree, from, to) {
            places
                .tidy(|start, end| Ok(self.tables.entries.range(start..end)?.next().is_none()))?;
            if !places.rename(tree, from, to) {
                return Ok(false);
            }
        }
        let mut tombstones = Vec::new();
        for path in gone {
            let place = self.places.place(tree, &path);
            if let Some(entry) = read::get(&self.tables.entries, &place)? {
                self.replace(tree, &path, &place, Some(&entry), None)?;
                tombstones.push((path, entry));
            }
        }
        self.places = places;
        meta::write_places(&mut self.tables.meta, &self.places)?;
        for (path, entry) in tombstones {
            let place = self.places.place(tree, &path);
            if read::get(&self.tables.entries, &place)?.is_none() {
                self.replace(tree, &path, &place, None, Some(&entry))?;
            }
        }
        Ok(true)
    }

    /// No path beneath becomes longer than a path may be.
    fn all_fit(&self, tree: TreeId, from: &RelPath, to: &RelPath) -> Result<bool, IndexError> {
        let size = |path: &RelPath| (path.as_bytes().len(), path.depth());
        let ((length, depth), (old_length, old_depth)) = (size(to), size(from));
        if length <= old_length && depth <= old_depth {
            return Ok(true);
        }
        let (start, end) = key::below(tree, from);
        for part in self.places.parts(start, end) {
            let range = part.start.as_slice()..part.end.as_slice();
            for row in self.tables.entries.range::<&[u8]>(range)? {
                let (_, path) = key::read_entry(&part.key(row?.0.value()))?;
                if path.moved(from, to).is_none() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The paths beneath a directory, at most `max`, those behind `after` only.
    fn paths_below(
        &self,
        tree: TreeId,
        dir: &RelPath,
        after: Option<&RelPath>,
        max: usize,
    ) -> Result<Vec<RelPath>, IndexError> {
        let (mut start, end) = key::below(tree, dir);
        if let Some(after) = after {
            start = key::entry(tree, after);
            // The smallest key behind it.
            start.push(0);
        }
        let mut paths = Vec::new();
        for part in self.places.parts(start, end) {
            let range = part.start.as_slice()..part.end.as_slice();
            let rows = self.tables.entries.range::<&[u8]>(range)?;
            for row in rows.take(max - paths.len()) {
                paths.push(key::read_entry(&part.key(row?.0.value()))?.1);
            }
        }
        Ok(paths)
    }

    fn rename_some(
        &mut self,
        tree: TreeId,
        from: &RelPath,
        to: &RelPath,
        after: Option<&RelPath>,
    ) -> Result<Renamed, IndexError> {
        let mut paths = self.paths_below(tree, from, after, CHUNK)?;
        for path in &paths {
            self.rename_one(tree, path, from, to)?;
        }
        if paths.len() == CHUNK
            && let Some(last) = paths.pop()
        {
            return Ok(Renamed::UpTo(last));
        }
        self.rename_one(tree, from, from, to)?;
        Ok(Renamed::All)
    }

    /// Moves one entry, if anything lies there.
    fn rename_one(
        &mut self,
        tree: TreeId,
        path: &RelPath,
        from: &RelPath,
        to: &RelPath,
    ) -> Result<(), IndexError> {
        let place = self.places.place(tree, path);
        let Some(entry) = read::get(&self.tables.entries, &place)? else {
            return Ok(());
        };
        let (Some(state), Some(new)) = (&entry.current, path.moved(from, to)) else {
            return Ok(());
        };
        let mut after = entry.clone();
        if let Some(state) = &mut after.current
            && let Kind::HardLink { to: first } = &mut state.kind
            && let Some(first_now) = first.moved(from, to)
        {
            *first = first_now;
        }
        if matches!(state.kind, Kind::File { .. }) {
            self.follow_first_name(tree, path, &entry, from, &new)?;
        }
        let new_place = self.places.place(tree, &new);
        let before = read::get(&self.tables.entries, &new_place)?;
        self.replace(tree, path, &place, Some(&entry), None)?;
        self.replace(tree, &new, &new_place, before.as_ref(), Some(&after))?;
        Ok(())
    }

    /// Further names outside of what moves point to the first one.
    fn follow_first_name(
        &mut self,
        tree: TreeId,
        path: &RelPath,
        entry: &IndexEntry,
        from: &RelPath,
        new: &RelPath,
    ) -> Result<(), IndexError> {
        let Some(local) = entry.local else {
            return Ok(());
        };
        for (other, name) in self.by_inode(local.dev, local.ino, MAX_NAMES)? {
            if other != tree || name == *path || name.is_at_or_below(from) {
                continue;
            }
            let place = self.places.place(tree, &name);
            let Some(old) = read::get(&self.tables.entries, &place)? else {
                continue;
            };
            let mut after = old.clone();
            if let Some(state) = &mut after.current
                && let Kind::HardLink { to: first } = &mut state.kind
                && first == path
            {
                *first = new.clone();
                self.replace(tree, &name, &place, Some(&old), Some(&after))?;
            }
        }
        Ok(())
    }

    /// Something of a tree up to `seq` left no record: changes alone bring nobody up to date who has less.
    pub fn raise_floor(&mut self, tree: TreeId, seq: u64) -> Result<(), IndexError> {
        let name = floor_key(tree);
        let floor = self.value::<u64>(&name)?.unwrap_or(0);
        self.put_value(&name, &floor.max(seq))
    }

    /// A number for a change that no entry carries. Only while this node writes.
    pub fn number(&mut self) -> Result<u64, IndexError> {
        if self.numbers.mode == super::Mode::Receiving {
            return Err(IndexError::NotWriting);
        }
        self.numbers.last_seq += 1;
        Ok(self.numbers.last_seq)
    }
}

/// Name of the value that says of a tree what [`Writer::raise_floor`] noted.
pub(super) fn floor_key(tree: TreeId) -> String {
    format!("floor/{tree}")
}
