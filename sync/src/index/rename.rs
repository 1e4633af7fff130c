//! A rename: entries come to other paths, and stay what they are.

use super::write::Writer;
use super::{Index, IndexError, key, read};
use crate::entry::{IndexEntry, Kind};
use crate::path::RelPath;
use crate::tree::TreeId;
use redb::ReadableTable;

/// Entries of one transaction. Bounds the memory.
const CHUNK: usize = 8192;
/// Most names of one file that are corrected when its first name moves.
const MAX_NAMES: usize = 4096;

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
    /// carried out too: no tombstones are left. `each` hears the old and the new path of all that moved.
    ///
    /// In several transactions, so that memory does not grow with the directory. The directory itself comes with the
    /// last one, of which `last` is a part: until then a rename that was cut can be gone on with.
    pub fn rename(
        &self,
        tree: TreeId,
        from: &RelPath,
        to: &RelPath,
        each: &mut dyn FnMut(&RelPath, &RelPath),
        last: impl FnOnce(&mut Writer<'_>) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let mut last = Some(last);
        let mut after = None;
        loop {
            let done = self.write(|w| {
                let done = w.rename_some(tree, from, to, after.as_ref(), each)?;
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
    fn rename_some(
        &mut self,
        tree: TreeId,
        from: &RelPath,
        to: &RelPath,
        after: Option<&RelPath>,
        each: &mut dyn FnMut(&RelPath, &RelPath),
    ) -> Result<Renamed, IndexError> {
        let (mut start, end) = key::below(tree, from);
        if let Some(after) = after {
            start = key::entry(tree, after);
            // The smallest key behind it.
            start.push(0);
        }
        let mut paths = Vec::new();
        let range = self
            .tables
            .entries
            .range::<&[u8]>(start.as_slice()..end.as_slice())?;
        for row in range.take(CHUNK) {
            paths.push(key::read_entry(row?.0.value())?.1);
        }
        for path in &paths {
            self.rename_one(tree, path, from, to, each)?;
        }
        if paths.len() == CHUNK
            && let Some(last) = paths.pop()
        {
            return Ok(Renamed::UpTo(last));
        }
        self.rename_one(tree, from, from, to, each)?;
        Ok(Renamed::All)
    }

    /// Moves one entry, if anything lies there.
    fn rename_one(
        &mut self,
        tree: TreeId,
        path: &RelPath,
        from: &RelPath,
        to: &RelPath,
        each: &mut dyn FnMut(&RelPath, &RelPath),
    ) -> Result<(), IndexError> {
        let place = key::entry(tree, path);
        let Some(entry) = read::get(&self.tables.entries, &place)? else {
            return Ok(());
        };
        let (Some(state), Some(new)) = (&entry.current, renamed(path, from, to)) else {
            return Ok(());
        };
        let mut after = entry.clone();
        if let Some(state) = &mut after.current
            && let Kind::HardLink { to: first } = &mut state.kind
            && let Some(first_now) = renamed(first, from, to)
        {
            *first = first_now;
        }
        if matches!(state.kind, Kind::File { .. }) {
            self.follow_first_name(tree, path, &entry, from, &new)?;
        }
        let new_place = key::entry(tree, &new);
        let before = read::get(&self.tables.entries, &new_place)?;
        self.replace(tree, path, &place, Some(&entry), None)?;
        self.replace(tree, &new, &new_place, before.as_ref(), Some(&after))?;
        each(path, &new);
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
            let place = key::entry(tree, &name);
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

/// Where a path is after the rename; `None` if it is not at or below `from`, or would be longer than a path may be.
pub(crate) fn renamed(path: &RelPath, from: &RelPath, to: &RelPath) -> Option<RelPath> {
    if path == from {
        return Some(to.clone());
    }
    let rest = path
        .is_below(from)
        .then(|| &path.as_bytes()[from.as_bytes().len() + 1..])?;
    RelPath::from_bytes(&[to.as_bytes(), b"/", rest].concat()).ok()
}
