//! What the replica has of a large file already: the beginning from a transfer that was cut, the rest from the version that
//! lies in the tree. The source is told the sums of both as of one file. Of a version whose stamp is that of a content with known
//! chunks nothing is read for them.

use super::pulse::Pulse;
use crate::chunks::{CHUNKS_FROM, Chunks};
use crate::commit::{Partial, Staging};
use crate::delta::{self, SumsBuilder};
use crate::entry::{ContentHash, LocalKey};
use crate::fault::Fault;
use crate::holes::{Span, read_range};
use crate::stat::Stat;
use crate::wire::ChunkSums;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes that are read or copied between two signs of life.
const SLICE: u64 = 16 << 20;

/// The bytes before `kept` from what a transfer left, those after it from the old version.
pub(super) struct Basis {
    partial: Option<File>,
    kept: u64,
    old: Option<File>,
}

/// The version that lies in the tree.
pub(super) struct Old {
    pub file: File,
    /// Its content, if the index knows it.
    pub known: Option<Known>,
}

/// What the index says of a version.
pub(super) struct Known {
    /// Its stamp.
    pub key: LocalKey,
    /// Its content.
    pub hash: ContentHash,
    /// What that is made of, if this is remembered.
    pub chunks: Option<Arc<Chunks>>,
}

impl Known {
    /// What lies here still has the stamp. Looked at after a clone was made: whatever writes moves the stamp first.
    fn is_of(&self, file: &File) -> bool {
        Stat::of_fd(file.as_fd()).is_ok_and(|stat| stat.key() == self.key)
    }
}

/// A basis, what the source is told of it, and how the content begins.
pub(super) struct Found {
    pub basis: Basis,
    pub sums: ChunkSums,
    pub start: Start,
    /// What the old version is made of, if the basis is nothing else: by its stamp when the clone was made that the content begins
    /// with. Without a clone the stamp must be looked at again by whoever does not read the version.
    pub chunks: Option<Arc<Chunks>>,
}

/// What a content begins with.
#[derive(Debug)]
pub(super) enum Start {
    /// Nothing.
    Empty,
    /// What a transfer left that was cut, with the number of its bytes that are of use.
    Cut(Partial, u64),
    /// A clone of the old version.
    Clone(Partial),
}

/// Makes a basis for a content of `size` bytes. Reads all of it, unless what it is made of is known; `None` when there is nothing of use. `clone` makes a clone of
/// the old version, if it is to begin as one.
pub(super) fn find(
    partial: Option<Partial>,
    old: Option<Old>,
    clone: impl FnOnce(&File) -> Option<Partial>,
    size: u64,
    pulse: &Pulse,
) -> Option<Found> {
    let (old, known) = match old {
        Some(Old { file, known }) => (Some(file), known),
        None => (None, None),
    };
    let came = partial.as_ref().map_or(0, |p| p.len().min(size));
    // When all of it came, the old version has nothing to add.
    let old = old.filter(|_| came < size).and_then(|file| {
        let length = file.metadata().ok()?.len();
        // Nothing of the new version is looked for farther behind.
        let of_use = length.min(size.saturating_add(delta::SLACK));
        (length >= delta::SMALLEST).then_some((file, of_use))
    });
    let (old, old_length) = old.map_or((None, 0), |(file, length)| (Some(file), length));
    let chunk = delta::chunk_size(came.max(old_length))?;
    // No chunk is of both files, for such a one could match nothing.
    let kept = match came == size {
        true => came,
        false => came - came % u64::from(chunk),
    };
    let length = kept.max(old_length);
    let start = match partial {
        Some(partial) if kept > 0 => Start::Cut(partial, kept),
        useless => {
            useless.into_iter().for_each(Partial::remove);
            old.as_ref()
                .and_then(clone)
                .map_or(Start::Empty, Start::Clone)
        }
    };
    if length == 0 {
        return None;
    }
    let mut basis = Basis {
        partial: match &start {
            Start::Cut(partial, _) => Some(partial.file().try_clone().ok()?),
            Start::Empty | Start::Clone(_) => None,
        },
        kept,
        old,
    };
    let known = known.filter(|known| basis.only_old().is_some_and(|old| known.is_of(old)));
    if let Some(chunks) = known.as_ref().and_then(|known| known.chunks.clone())
        && (chunks.size, chunks.chunk) == (length, chunk)
    {
        let sums = chunks.sums();
        return Some(Found {
            basis,
            sums,
            start,
            chunks: Some(chunks),
        });
    }
    let (hash, chunks) = basis.chunks_of(&start, length, chunk, pulse)?;
    let proven = known.is_some_and(|known| known.hash == hash);
    Some(Found {
        basis,
        sums: chunks.sums(),
        start,
        chunks: (proven && length >= CHUNKS_FROM).then(|| Arc::new(chunks)),
    })
}

impl Basis {
    fn chunks_of(
        &mut self,
        start: &Start,
        length: u64,
        chunk: u32,
        pulse: &Pulse,
    ) -> Option<(ContentHash, Chunks)> {
        let Start::Clone(clone) = start else {
            return self.chunks(length, chunk, pulse);
        };
        // What will be kept is read from the clone: what is in the memory by then is the clone's too.
        let of = clone.file().try_clone().ok()?;
        let origin = self.old.replace(of);
        let read = self.chunks(length, chunk, pulse);
        self.old = origin;
        read
    }

    fn chunks(&self, length: u64, chunk: u32, pulse: &Pulse) -> Option<(ContentHash, Chunks)> {
        let mut builder = SumsBuilder::new(chunk);
        let mut at = 0;
        while at < length {
            let (file, room) = self.at(at)?;
            let piece = (length - at).min(room).min(SLICE);
            let read = read_range(file, at, piece, |span| {
                let taken = match span {
                    Span::Bytes(bytes) => builder.update(bytes),
                    Span::Zeros(length) => builder.zeros(length),
                };
                taken.then_some(()).ok_or(Fault::WrongContent)
            });
            read.ok()?;
            at += piece;
            pulse.beat();
        }
        builder.finish()
    }

    /// The version that lies in the tree, if the basis is of nothing else.
    pub fn only_old(&self) -> Option<&File> {
        self.old.as_ref().filter(|_| self.kept == 0)
    }

    /// The file that has the byte at `from`, and how many bytes from there on it may be asked for.
    fn at(&self, from: u64) -> Option<(&File, u64)> {
        match from < self.kept {
            true => Some((self.partial.as_ref()?, self.kept - from)),
            false => Some((self.old.as_ref()?, u64::MAX)),
        }
    }

    /// Reads exactly this part. An old version that is shorter now is an error.
    pub fn read(&self, mut buffer: &mut [u8], mut from: u64) -> std::io::Result<()> {
        while !buffer.is_empty() {
            let (file, room) = self.at(from).ok_or(std::io::ErrorKind::UnexpectedEof)?;
            let here = usize::try_from(room)
                .unwrap_or(buffer.len())
                .min(buffer.len());
            let (now, rest) = buffer.split_at_mut(here);
            file.read_exact_at(now, from)?;
            from += here as u64;
            buffer = rest;
        }
        Ok(())
    }

    /// Appends this part to the content. What is there already is only hashed.
    pub fn copy_to(
        &self,
        staging: &mut Staging,
        mut from: u64,
        length: u64,
        pulse: &Pulse,
    ) -> Result<(), Fault> {
        let mut left = length;
        while left > 0 {
            let (file, room) = self.at(from).ok_or(Fault::WrongContent)?;
            let here = left.min(room).min(SLICE);
            match staging.continues_at(from, here) {
                true => staging.keep(here)?,
                false => staging.copy_from(file, from, here)?,
            }
            from += here;
            left -= here;
            pulse.beat();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
