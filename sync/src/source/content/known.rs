//! A content whose chunks are known: of those that the replica has none is read, and what is read is compared with its hash.

use super::{Content, How};
use crate::chunks::Chunks;
use crate::delta::short;
use crate::digest::ContentHasher;
use crate::entry::ContentHash;

impl Content {
    /// What the content is made of, where that is known.
    fn chunks(&self) -> Option<&Chunks> {
        match &self.how {
            How::Against(against) => against.chunks.as_deref(),
            How::Whole | How::Behind(..) => None,
        }
    }

    /// The chunk that begins here is known to be that of the basis: its length.
    pub(super) fn known_same(&self) -> Option<u64> {
        let How::Against(against) = &self.how else {
            return None;
        };
        let (len, hash) = against.chunks.as_ref()?.at(self.at)?;
        (against.sums.sum_at(self.at, len)? == short(hash)).then_some(len)
    }

    /// Reads a chunk. `None` also when it is not the one that is known.
    pub(super) fn read_chunk(&mut self, length: u64) -> Option<Vec<u8>> {
        let at = self.at;
        let bytes = self.read(length)?;
        let known = self.chunks().and_then(|chunks| chunks.at(at));
        if known.is_some_and(|(len, hash)| len == length && ContentHash::of(&bytes).0 != *hash) {
            self.failed = true;
            return None;
        }
        Some(bytes)
    }

    /// A hole here is not known to have been anything else when the content was announced.
    pub(super) fn may_be_hole(&self, at: u64, len: u64) -> bool {
        let Some(chunks) = self.chunks() else {
            return true;
        };
        let zeros = |len| {
            let mut hasher = ContentHasher::new();
            hasher.zeros(len);
            hasher.finish().0
        };
        let (chunk, end) = (u64::from(chunks.chunk), at + len);
        let of_zeros = zeros(chunk);
        let known = (at..end).step_by(chunks.chunk as usize);
        let mut known = known.filter_map(|at| chunks.at(at));
        known.all(|(len, hash)| match len == chunk {
            true => *hash == of_zeros,
            false => *hash == zeros(len),
        })
    }
}
