//! Small files that come with their batch: kept in memory until they are whole, then made at once. Files of directories
//! that are new are made in these, aside of the tree.

use crate::commit::{Aside, Complete};
use crate::engine::tree::Roots;
use crate::entry::{ContentHash, Kind, Meta};
use crate::fault::Fault;
use crate::holes::Span;
use crate::index::{IndexError, Snapshot};
use crate::path::RelPath;
use crate::private::Private;
use crate::tree::TreeId;
use crate::wire::Record;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// A small file on its way.
pub(super) struct Small {
    pub tree: TreeId,
    pub path: RelPath,
    size: u64,
    hash: ContentHash,
    meta: Meta,
    /// What has come. At most the announced size, which is at most [`crate::wire::INLINE_FILE`].
    bytes: Vec<u8>,
    /// Parts of it that lie on no disk.
    holes: Vec<Range<usize>>,
}

impl Small {
    /// Of a record whose content comes with it.
    pub fn of(record: &Record) -> Option<Small> {
        let state = record.state.as_ref()?;
        let Kind::File { size, hash } = state.kind else {
            return None;
        };
        Some(Small {
            tree: record.tree,
            path: record.path.clone(),
            size,
            hash,
            meta: state.meta.clone(),
            bytes: Vec::new(),
            holes: Vec::new(),
        })
    }

    /// Appends bytes. More than announced are refused.
    pub fn write(&mut self, span: Span<'_>) -> Result<(), Fault> {
        let before = self.bytes.len();
        let after = span.len().saturating_add(before as u64);
        if after > self.size {
            return Err(Fault::WrongContent);
        }
        match span {
            Span::Bytes(bytes) => self.bytes.extend_from_slice(bytes),
            Span::Zeros(_) => {
                // No more than the announced size, which is small.
                self.bytes.resize(after as usize, 0);
                let after = self.bytes.len();
                match self.holes.last_mut() {
                    Some(last) if last.end == before => last.end = after,
                    _ => self.holes.push(before..after),
                }
            }
        }
        Ok(())
    }

    /// All of it has come.
    pub fn finish(self, roots: &Roots, asides: &mut Asides) -> Result<Complete, Fault> {
        let private = roots.get(self.tree).ok_or(Fault::Missing)?.private;
        let (parent, name) = (self.path.parent(), self.path.file_name());
        let aside = match (parent, name) {
            (Some(parent), Some(name)) => asides
                .get(&private, self.tree, &parent)?
                .map(|aside| (aside, name)),
            _ => None,
        };
        let content = (&self.bytes[..], &self.holes[..]);
        Complete::make(&private, aside, content, self.hash, &self.meta)
    }
}

/// The new directories of one batch.
#[derive(Debug, Default)]
pub(super) struct Asides(HashMap<(TreeId, RelPath), Option<Arc<Aside>>>);

impl Asides {
    /// The directories among the records that the index does not know.
    pub fn of(records: &[Record], index: &Snapshot) -> Result<Asides, IndexError> {
        let mut found = HashMap::new();
        for record in records {
            let is_dir = record.state.as_ref().is_some_and(|s| s.kind.is_dir());
            if is_dir && index.get(record.tree, &record.path)?.is_none() {
                found.insert((record.tree, record.path.clone()), None);
            }
        }
        Ok(Asides(found))
    }

    /// Where the files of a directory are made, if it is new.
    fn get(
        &mut self,
        private: &Private,
        tree: TreeId,
        dir: &RelPath,
    ) -> Result<Option<Arc<Aside>>, Fault> {
        let Some(slot) = self.0.get_mut(&(tree, dir.clone())) else {
            return Ok(None);
        };
        if slot.is_none() {
            *slot = Some(Aside::new(private)?);
        }
        Ok(slot.clone())
    }
}
