//! Hashing a content, so that zeros that lie on no disk cost next to nothing. Pure.
//!
//! A content of up to 64 KiB (`LEAF`) has its BLAKE3. A longer one is cut into leaves of that size, the last one shorter or as long,
//! and has a hash of theirs:
//!
//! ```text
//!   leaf          BLAKE3 of its bytes
//!   parent        keyed BLAKE3 of two hashes, each of them of half of a run of 2, 4, 8, ... leaves that begins at a multiple of that
//!   content       the runs before the last leaf, the longest first: parent(run, parent(run, ... parent(run, last leaf)))
//! ```
//! The key keeps leaves and parents apart, so that two contents of one hash would be two inputs of one BLAKE3. It is a stream: the
//! hash of what came so far is there at each place. A run of zeros has the same hash wherever it lies, as in BLAKE3 itself it has
//! not: a file of 16 TiB that is one hole is hashed in a millisecond.
//!
//! A *chunk* is a run of a fixed number of leaves, or what is left at the end, and its hash is that of a content of its bytes. So the
//! hash of a content is made of those of its chunks, and a chunk whose hash is known need not be read: see [`crate::chunks`].

use crate::entry::ContentHash;
use std::fmt;
use std::sync::LazyLock;

/// Bytes of a leaf: BLAKE3 has nearly its full speed, it is the smallest chunk that is compared, and of each hole two leaves are
/// hashed at most: a file that is full of holes costs a small multiple of what it has on the disk.
const LEAF: u64 = 64 << 10;
/// Longest run: 2^47 leaves of 2^16 bytes are more than a file can have.
const LEVELS: usize = 48;
const KEY: &[u8; blake3::KEY_LEN] = b"Tandem: parent of content leaves";

/// Of runs of zeros, by level: a leaf, two of them, four.
static ZEROS: LazyLock<[[u8; 32]; LEVELS]> = LazyLock::new(|| {
    let mut hasher = blake3::Hasher::new();
    feed_zeros(&mut hasher, LEAF);
    let mut runs = [*hasher.finalize().as_bytes(); LEVELS];
    for level in 1..LEVELS {
        runs[level] = parent(&runs[level - 1], &runs[level - 1]);
    }
    runs
});

fn parent(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut both = [0; 64];
    both[..32].copy_from_slice(left);
    both[32..].copy_from_slice(right);
    *blake3::keyed_hash(KEY, &both).as_bytes()
}

fn feed_zeros(hasher: &mut blake3::Hasher, mut length: u64) {
    static PIECE: [u8; 64 << 10] = [0; 64 << 10];
    while length > 0 {
        // At most a piece, which fits.
        let now = length.min(PIECE.len() as u64) as usize;
        hasher.update(&PIECE[..now]);
        length -= now as u64;
    }
}

/// Makes a [`ContentHash`] of bytes that come in order.
#[derive(Clone, Default)]
pub struct ContentHasher {
    /// Leaves that are closed. Its binary digits say how long the runs are.
    leaves: u64,
    /// The runs of them, the longest first: one for each digit that is 1.
    runs: Vec<[u8; 32]>,
    /// The leaf that is open. It is closed when there is more than it takes.
    leaf: blake3::Hasher,
    filled: u64,
    /// The hashes of its chunks, if they are asked for.
    chunks: Option<Recorded>,
}

/// The hashes of chunks that are closed.
#[derive(Clone)]
struct Recorded {
    /// Leaves of a chunk: 2^level.
    level: u32,
    hashes: Vec<[u8; 32]>,
}

impl ContentHasher {
    /// Of no bytes.
    pub fn new() -> Self {
        ContentHasher::default()
    }

    /// Of no bytes, and keeps the hash of each chunk of `chunk` bytes: a leaf, or 2, 4, 8 ... of them.
    pub fn recording(chunk: u32) -> Self {
        ContentHasher {
            chunks: Some(Recorded {
                level: level_of(chunk),
                hashes: Vec::new(),
            }),
            ..ContentHasher::default()
        }
    }

    /// The same, without the hashes of chunks.
    pub fn without_chunks(&self) -> Self {
        ContentHasher {
            leaves: self.leaves,
            runs: self.runs.clone(),
            leaf: self.leaf.clone(),
            filled: self.filled,
            chunks: None,
        }
    }

    /// The hashes of the chunks of all that came, if they were to be kept.
    pub fn take_chunks(&mut self) -> Option<Vec<[u8; 32]>> {
        let Recorded { level, mut hashes } = self.chunks.take()?;
        if self.filled > 0 {
            let below = (self.leaves & ((1 << level) - 1)).count_ones() as usize;
            let runs = &self.runs[self.runs.len() - below..];
            hashes.push(fold(runs, &self.leaf));
        }
        Some(hashes)
    }

    /// The next bytes are a chunk of `chunk` bytes with this hash. It begins at a multiple of that, and something comes after it.
    pub fn chunk(&mut self, hash: [u8; 32], chunk: u32) {
        self.make_room();
        debug_assert_eq!(self.filled, 0, "a chunk begins where a leaf does");
        self.push(hash, level_of(chunk));
    }

    /// The next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.make_room();
            // Not more than `bytes` has.
            let now = (LEAF - self.filled).min(bytes.len() as u64) as usize;
            self.leaf.update(&bytes[..now]);
            self.filled += now as u64;
            bytes = &bytes[now..];
        }
    }

    /// The next bytes are zeros.
    pub fn zeros(&mut self, mut length: u64) {
        while length > 0 {
            self.make_room();
            let level = match self.filled {
                0 => self.longest_run(length),
                _ => None,
            };
            let now = match level {
                Some(level) => {
                    self.push(ZEROS[level as usize], level);
                    LEAF << level
                }
                None => {
                    let now = (LEAF - self.filled).min(length);
                    feed_zeros(&mut self.leaf, now);
                    self.filled += now;
                    now
                }
            };
            length -= now;
        }
    }

    /// The hash of all that came so far.
    pub fn finish(&self) -> ContentHash {
        ContentHash(fold(&self.runs, &self.leaf))
    }

    /// Closes the leaf if it is full: something comes after it.
    fn make_room(&mut self) {
        if self.filled == LEAF {
            let hash = *self.leaf.finalize().as_bytes();
            self.push(hash, 0);
            self.leaf.reset();
            self.filled = 0;
        }
    }

    /// The level of the longest run that may begin here and ends before `length` does: what comes last is no run.
    fn longest_run(&self, length: u64) -> Option<u32> {
        let fits = ((length - 1) / LEAF).checked_ilog2()?;
        // No digits: a run of any length may begin at the start.
        let longest = fits.min(self.leaves.trailing_zeros());
        let level = self.chunks.as_ref().map(|chunks| chunks.level);
        Some(longest.min(level.unwrap_or(LEVELS as u32 - 1)))
    }

    /// Adds a run of `2^level` leaves, which begins at a multiple of that.
    fn push(&mut self, mut hash: [u8; 32], level: u32) {
        let mut at = level;
        self.record(hash, at);
        while self.leaves >> at & 1 == 1 {
            // One run for each digit that is 1.
            if let Some(left) = self.runs.pop() {
                hash = parent(&left, &hash);
            }
            at += 1;
            self.record(hash, at);
        }
        self.runs.push(hash);
        self.leaves += 1 << level;
    }

    fn record(&mut self, hash: [u8; 32], level: u32) {
        if let Some(chunks) = self.chunks.as_mut().filter(|c| c.level == level) {
            chunks.hashes.push(hash);
        }
    }
}

/// Leaves of a chunk: 2^this.
fn level_of(chunk: u32) -> u32 {
    (u64::from(chunk) / LEAF).max(1).ilog2()
}

fn fold(runs: &[[u8; 32]], last: &blake3::Hasher) -> [u8; 32] {
    let last = *last.finalize().as_bytes();
    let runs = runs.iter().rev();
    runs.fold(last, |right, left| parent(left, &right))
}

impl fmt::Debug for ContentHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContentHasher")
            .field("leaves", &self.leaves)
            .field("filled", &self.filled)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNIT: usize = LEAF as usize;

    fn content(size: usize) -> Vec<u8> {
        (0..size as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect()
    }

    /// The definition, over all leaves at once.
    fn by_definition(leaves: &[&[u8]]) -> [u8; 32] {
        fn run(leaves: &[&[u8]]) -> [u8; 32] {
            match leaves {
                [leaf] => *blake3::hash(leaf).as_bytes(),
                more => {
                    let (left, right) = more.split_at(more.len() / 2);
                    parent(&run(left), &run(right))
                }
            }
        }
        let (last, before) = leaves.split_last().expect("a leaf");
        let Some(level) = before.len().checked_ilog2() else {
            return run(&[last]);
        };
        let (first, rest) = leaves.split_at(1 << level);
        parent(&run(first), &by_definition(rest))
    }

    fn defined(content: &[u8]) -> ContentHash {
        match content.is_empty() {
            true => ContentHash(*blake3::hash(b"").as_bytes()),
            false => ContentHash(by_definition(&content.chunks(UNIT).collect::<Vec<_>>())),
        }
    }

    #[test]
    fn it_is_as_defined_and_a_short_content_has_its_blake3() {
        let content = content(9 * UNIT + 5);
        for size in [
            0,
            1,
            UNIT - 1,
            UNIT,
            UNIT + 1,
            2 * UNIT,
            3 * UNIT + 7,
            8 * UNIT,
            9 * UNIT + 5,
        ] {
            let mut hasher = ContentHasher::new();
            content[..size]
                .chunks(50_000)
                .for_each(|part| hasher.update(part));
            assert_eq!(hasher.finish(), defined(&content[..size]), "{size}");
        }
        let short = *blake3::hash(&content[..UNIT]).as_bytes();
        assert_eq!(ContentHash::of(&content[..UNIT]), ContentHash(short));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// The hash of a content is made of those of its chunks, which are those of contents of their own.
        #[test]
        fn chunks_are_contents_of_their_own(
            parts in proptest::collection::vec((0..5 * UNIT, any::<bool>()), 1..6),
            level in 0u32..4,
            known in any::<u16>(),
        ) {
            let chunk = (LEAF as u32) << level;
            let (mut whole, mut bytes) = (ContentHasher::recording(chunk), Vec::new());
            for (size, zeros) in parts {
                let part = if zeros { vec![0; size] } else { content(size) };
                match zeros {
                    true => whole.zeros(size as u64),
                    false => whole.update(&part),
                }
                bytes.extend(part);
            }
            let hash = whole.finish();
            prop_assert_eq!(hash, ContentHash::of(&bytes));
            let chunks = whole.take_chunks().expect("recorded");
            let alone: Vec<_> = bytes.chunks(chunk as usize).map(|c| ContentHash::of(c).0).collect();
            prop_assert_eq!(&chunks, &alone);
            // Some of them are told, some read.
            let mut merged = ContentHasher::recording(chunk);
            for (n, part) in bytes.chunks(chunk as usize).enumerate() {
                match known >> (n % 16) & 1 == 1 && n + 1 < chunks.len() {
                    true => merged.chunk(chunks[n], chunk),
                    false => merged.update(part),
                }
            }
            prop_assert_eq!(merged.finish(), hash);
            prop_assert_eq!(merged.without_chunks().finish(), hash);
            prop_assert_eq!(merged.take_chunks(), Some(chunks));
        }

        /// Zeros that are told have the hash of zeros that are there, wherever they lie.
        #[test]
        fn zeros_are_zeros(parts in proptest::collection::vec((0..40 * UNIT, any::<bool>()), 1..6), aligned: bool) {
            let (mut told, mut read) = (ContentHasher::new(), ContentHasher::new());
            for (size, zeros) in parts {
                let size = if aligned { size / UNIT * UNIT } else { size };
                let bytes = vec![u8::from(!zeros); size];
                match zeros {
                    true => told.zeros(size as u64),
                    false => told.update(&bytes),
                }
                read.update(&bytes);
                prop_assert_eq!(told.finish(), read.finish());
            }
        }
    }

    #[test]
    fn the_longest_holes_cost_nothing() {
        let hashed = |parts: &[u64]| {
            let mut hasher = ContentHasher::new();
            parts.iter().for_each(|length| hasher.zeros(*length));
            hasher.finish()
        };
        let longest = i64::MAX as u64;
        let whole = hashed(&[longest]);
        assert_eq!(
            whole,
            hashed(&[12_345, 1 << 50, 7, longest - 12_352 - (1 << 50)])
        );
        assert_ne!(whole, hashed(&[longest - 1]));
    }
}
