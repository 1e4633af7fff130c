//! What is here already that a content can be made from: a file of the same content, what an earlier transfer left, the old
//! version. And where it is staged then.

use super::{Contents, hash_of};
use crate::commit::{self, Partial, Redo, Staged, Staging};
use crate::delta;
use crate::engine::tree::Open;
use crate::entry::{ContentHash, IndexEntry, Kind};
use crate::fault::Fault;
use crate::index::{IndexError, Snapshot};
use crate::replica::basis::{self, Basis, Known, Old, Start};
use crate::tail::Tail;
use crate::tree::{TreeId, Update};
use crate::wire::{Record, Want};
use std::fs::File;

/// Names with the same content that are tried as a local source.
const SAME_CONTENT: usize = 8;

impl Contents {
    pub(super) fn staging(
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
    pub(super) fn local_copy(
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
    pub(super) fn basis(
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
    pub(super) fn in_place(
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
    pub(super) fn grows(
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

    pub(super) fn grown_staging(
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
}
