//! A rename: entries come to other paths, and stay what they are.

use super::write::Writer;
use super::{IndexError, key, read};
use crate::entry::{IndexEntry, Kind};
use crate::path::RelPath;
use crate::tree::TreeId;
use redb::ReadableTable;

/// Rows that are read at once. Bounds the memory.
const CHUNK: usize = 4096;
/// Most names of one file that are corrected when its first name moves.
const MAX_NAMES: usize = 4096;

impl Writer<'_> {
    /// What was at `from` and below is at `to` and below, with the numbers that it had. Only for a rename that the peer
    /// carried out too: no tombstones are left. `each` hears the old and the new path of all that moved.
    pub fn rename(
        &mut self,
        tree: TreeId,
        from: &RelPath,
        to: &RelPath,
        each: &mut dyn FnMut(&RelPath, &RelPath),
    ) -> Result<(), IndexError> {
        self.rename_one(tree, from, from, to, each)?;
        let (mut start, end) = key::below(tree, from);
        loop {
            let mut rows = Vec::new();
            let range = self
                .tables
                .entries
                .range::<&[u8]>(start.as_slice()..end.as_slice())?;
            for row in range.take(CHUNK) {
                rows.push(row?.0.value().to_vec());
            }
            let Some(last) = rows.last() else {
                return Ok(());
            };
            // The smallest key behind it.
            start = last.clone();
            start.push(0);
            for place in rows {
                let (_, path) = key::read_entry(&place)?;
                self.rename_one(tree, &path, from, to, each)?;
            }
        }
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

    /// A number for a change that no entry carries. Only while this node writes.
    pub fn number(&mut self) -> Result<u64, IndexError> {
        if self.numbers.mode == super::Mode::Receiving {
            return Err(IndexError::NotWriting);
        }
        self.numbers.last_seq += 1;
        Ok(self.numbers.last_seq)
    }
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
