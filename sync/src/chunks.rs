//! What large contents are made of: the hashes of their chunks, so that a chunk that is known need not be read. Pure.
//!
//! Whoever hashes a content has the hashes of its chunks by the way. A changed file is read once, by the source, which must find
//! what changed in it; that gives the chunks of the new content. The replica, which took in the old one and hashed it, answers with
//! the old chunks and reads nothing. The source then reads what differs, and the replica makes the hash of the whole of that and of
//! what it knows:
//!
//! ```text
//!   source   reads the file once ......... new chunks ─┐
//!                                                      ├─ what differs is read, compared with its new hash, sent
//!   replica  old chunks, of memory ────── their sums ──┘                         │
//!            old chunks and what came ── hash of the new content, which must be the announced one
//! ```
//! Nothing of this comes from the other side: each hash in here was made of bytes that this node read or wrote. That a file
//! still has the content of which the hashes are is what its stamp says, as everywhere; damage that no stamp shows is found by
//! `compare_contents` and `tandem verify`, which read.
//!
//! It is a memory only: what is forgotten, with the process too, costs a reading of the whole file.

use crate::delta::{self, short};
use crate::entry::ContentHash;
use crate::wire::ChunkSums;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// Shorter contents are read whole: it costs some milliseconds.
pub const CHUNKS_FROM: u64 = 16 << 20;
/// Memory for all hashes: 32 bytes for each 64 KiB, so 64 files of 1 GiB.
const MOST_BYTES: usize = 32 << 20;
/// What remembering a content takes beside its hashes, rounded up.
const OVERHEAD: usize = 256;

/// The hashes of the chunks of a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunks {
    /// Bytes of the content.
    pub size: u64,
    /// Bytes of a chunk, as in [`ChunkSums`].
    pub chunk: u32,
    /// Each the hash of a content of the chunk's bytes.
    pub hashes: Vec<[u8; 32]>,
}

impl Chunks {
    /// The chunk size for a content, if its chunks are worth remembering.
    pub fn size_for(size: u64) -> Option<u32> {
        delta::chunk_size(size).filter(|_| size >= CHUNKS_FROM)
    }

    /// What the source is told of them.
    pub fn sums(&self) -> ChunkSums {
        ChunkSums {
            size: self.size,
            chunk: self.chunk,
            sums: self.hashes.iter().map(short).collect(),
        }
    }

    /// The chunk that begins at `offset`: its length and its hash.
    pub fn at(&self, offset: u64) -> Option<(u64, &[u8; 32])> {
        let chunk = u64::from(self.chunk);
        if !offset.is_multiple_of(chunk) {
            return None;
        }
        let hash = self.hashes.get(usize::try_from(offset / chunk).ok()?)?;
        Some((chunk.min(self.size.checked_sub(offset)?), hash))
    }

    fn bytes(&self) -> usize {
        self.hashes.len() * 32 + OVERHEAD
    }
}

/// The chunks of the contents that were met last.
#[derive(Debug, Default)]
pub struct ChunkMemory(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// With the time of its last use.
    chunks: HashMap<ContentHash, (u64, Arc<Chunks>)>,
    /// Oldest use first.
    uses: BTreeMap<u64, ContentHash>,
    bytes: usize,
    clock: u64,
}

impl Known {
    fn used(&mut self, hash: &ContentHash) -> Option<Arc<Chunks>> {
        self.clock += 1;
        let (used, chunks) = self.chunks.get_mut(hash)?;
        self.uses.remove(used);
        *used = self.clock;
        self.uses.insert(self.clock, *hash);
        Some(Arc::clone(chunks))
    }

    fn forget(&mut self, hash: &ContentHash) {
        if let Some((used, chunks)) = self.chunks.remove(hash) {
            self.uses.remove(&used);
            self.bytes -= chunks.bytes();
        }
    }
}

impl ChunkMemory {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        // A panic in between loses or keeps a memory, both of which are harmless.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the chunks of a content. Those that were not used for longest give way; one that is larger than all may be is
    /// not taken.
    pub fn remember(&self, hash: ContentHash, chunks: Arc<Chunks>) {
        let bytes = chunks.bytes();
        if bytes > MOST_BYTES {
            return;
        }
        let mut known = self.known();
        known.forget(&hash);
        while known.bytes + bytes > MOST_BYTES {
            let Some((_, oldest)) = known.uses.pop_first() else {
                break;
            };
            known.forget(&oldest);
        }
        known.bytes += bytes;
        known.chunks.insert(hash, (0, chunks));
        known.used(&hash);
    }

    /// The chunks of a content.
    pub fn of(&self, hash: &ContentHash) -> Option<Arc<Chunks>> {
        self.known().used(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(hashes: usize) -> Arc<Chunks> {
        Arc::new(Chunks {
            size: (hashes as u64) << 16,
            chunk: 64 << 10,
            hashes: vec![[7; 32]; hashes],
        })
    }

    fn hash(n: u8) -> ContentHash {
        ContentHash([n; 32])
    }

    #[test]
    fn a_chunk_is_found_at_its_beginning_only() {
        let chunks = Chunks {
            size: (3 << 16) + 5,
            chunk: 64 << 10,
            hashes: (0..4).map(|n| [n; 32]).collect(),
        };
        assert_eq!(chunks.at(0), Some((1 << 16, &[0; 32])));
        assert_eq!(chunks.at(3 << 16), Some((5, &[3; 32])));
        for nothing in [1, 4 << 16, (3 << 16) + 5, u64::MAX] {
            assert_eq!(chunks.at(nothing), None, "{nothing}");
        }
        let sums = chunks.sums();
        assert_eq!(sums.sum_at(1 << 16, 1 << 16), Some([1; 16]));
        assert_eq!(sums.sum_at(3 << 16, 5), Some([3; 16]));
        assert_eq!(sums.sum_at(3 << 16, 4), None);
        assert_eq!(sums.sum_at(3 << 16, 1 << 16), None);
    }

    #[test]
    fn the_memory_is_bounded_and_what_is_used_stays() {
        let (memory, each) = (ChunkMemory::default(), MOST_BYTES / 32 / 4);
        for n in 0..10 {
            memory.remember(hash(n), chunks(each - 1000));
            assert!(memory.of(&hash(0)).is_some(), "{n}");
        }
        for n in 1..10 {
            assert_eq!(memory.of(&hash(n)).is_some(), n >= 7, "{n}");
        }
        memory.remember(hash(50), chunks(MOST_BYTES / 32));
        assert!(memory.of(&hash(50)).is_none(), "too large");
        memory.remember(hash(9), chunks(1));
        memory.remember(hash(9), chunks(2));
        let known = memory.known();
        assert_eq!(known.uses.len(), known.chunks.len());
        let bytes: usize = known.chunks.values().map(|(_, c)| c.bytes()).sum();
        assert_eq!(known.bytes, bytes);
    }
}
