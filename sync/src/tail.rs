//! Files that only grow: hashing a longer content costs what is new of it. Pure.
//!
//! A content's hash is made in a stream: who keeps the hasher as it was some way before the end of a content reads from there on, meets the
//! known hash at the old end, and goes on to the new one.
//!
//! ```text
//!   0 ............................ at ............ size ............ new size
//!     not read again                 the old tail,   hashed
//!                                    compared
//! ```
//! What is kept is only a memory of contents that were hashed once, under the paths where they were met: it is used when
//! the hash that it ends with is the one that the index has, and losing it costs a reading of the whole file.

use crate::chunks::Chunks;
use crate::digest::ContentHasher;
use crate::entry::ContentHash;
use crate::path::RelPath;
use crate::tree::TreeId;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Shorter files are read whole: it costs about a millisecond.
pub const GROWS_FROM: u64 = 1 << 20;
/// So much of the old content at least is compared when it has grown.
pub const OLD_TAIL: u64 = 64 << 10;
/// Most bytes that may be hashed in one step: what is compared is at most [`OLD_TAIL`] and this.
pub const STEP: usize = 256 << 10;
/// What may be hashed by itself, see [`TailHasher::block`]: 16 leaves.
pub const BLOCK: u64 = 1 << 20;
/// Files that are remembered: 2 KiB each.
const MOST: usize = 4096;
/// Earlier ends of one file that are remembered: a receiver that is further behind gets differences.
const MARKS: usize = 256;

/// The end of a content that was hashed.
#[derive(Clone)]
pub struct Tail {
    /// Where the hasher stands: [`OLD_TAIL`] before the end, or a step more.
    at: u64,
    hasher: ContentHasher,
    size: u64,
    hash: ContentHash,
    /// Contents of which each is the beginning of the next one, the oldest first; the last one is this one.
    marks: VecDeque<(u64, ContentHash)>,
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tail")
            .field("at", &self.at)
            .field("marks", &self.marks)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Tail {
    fn eq(&self, other: &Self) -> bool {
        // The hasher follows from what it hashed.
        (self.at, &self.marks) == (other.at, &other.marks)
    }
}

impl Eq for Tail {}

impl Tail {
    /// Bytes of the content.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its hash.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// The first byte that is read when it has grown.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// A hasher for a content of `announced` bytes that begins with this one, to be fed from [`Tail::at`] on.
    pub fn grown(&self, announced: u64) -> TailHasher {
        TailHasher {
            hasher: self.hasher.clone(),
            written: self.at,
            announced,
            kept: None,
            old: None,
            marks: self.marks.clone(),
        }
    }
}

/// Hashes a content and keeps what a longer one can be hashed with.
#[derive(Clone)]
pub struct TailHasher {
    hasher: ContentHasher,
    written: u64,
    announced: u64,
    kept: Option<(u64, ContentHasher)>,
    /// What was known of the file, to be met on the way.
    old: Option<(u64, ContentHash)>,
    marks: VecDeque<(u64, ContentHash)>,
}

/// What comes next.
enum Piece<'b> {
    Bytes(&'b [u8]),
    Zeros(u64),
}

impl Piece<'_> {
    fn len(&self) -> u64 {
        match self {
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Zeros(length) => *length,
        }
    }

    /// In two, at not more than its length.
    fn split_at(&self, at: u64) -> (Self, Self) {
        match self {
            Piece::Bytes(bytes) => {
                let (before, after) = bytes.split_at(at as usize);
                (Piece::Bytes(before), Piece::Bytes(after))
            }
            Piece::Zeros(length) => (Piece::Zeros(at), Piece::Zeros(length - at)),
        }
    }
}

impl fmt::Debug for TailHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TailHasher")
            .field("written", &self.written)
            .field("announced", &self.announced)
            .finish_non_exhaustive()
    }
}

impl TailHasher {
    /// For a content of `announced` bytes.
    pub fn new(announced: u64) -> Self {
        TailHasher {
            hasher: match Chunks::size_for(announced) {
                Some(chunk) => ContentHasher::recording(chunk),
                None => ContentHasher::new(),
            },
            written: 0,
            announced,
            kept: None,
            old: None,
            marks: VecDeque::new(),
        }
    }

    /// The file had this content once: is it the beginning of what comes?
    pub fn after(mut self, old: Option<(u64, ContentHash)>) -> Self {
        self.old = old.filter(|(size, _)| *size < self.announced);
        self
    }

    /// The next bytes, at most [`STEP`]; of more than that only the hash is right.
    pub fn update(&mut self, bytes: &[u8]) {
        self.take(Piece::Bytes(bytes));
    }

    /// The next bytes are zeros, however many.
    pub fn zeros(&mut self, length: u64) {
        // What is compared when it has grown begins within a step, as with bytes.
        let old_tail = self.announced.saturating_sub(OLD_TAIL);
        let before = old_tail.saturating_sub(self.written).min(length);
        self.take(Piece::Zeros(before));
        self.take(Piece::Zeros(length - before));
    }

    /// The next bytes up to `end` begin with a chunk of `known`, which is taken and not read. False: they do not, or it belongs to
    /// the end of what is announced, which is always read.
    pub fn chunk(&mut self, known: &Chunks, end: u64) -> bool {
        let Some((length, hash)) = known.at(self.written) else {
            return false;
        };
        let after = self.written + length;
        let whole = length == u64::from(known.chunk) && after <= end;
        let cut_alike = Chunks::size_for(self.announced) == Some(known.chunk);
        let end = after > self.announced.saturating_sub(OLD_TAIL);
        if !whole || !cut_alike || end || self.old.is_some() {
            return false;
        }
        self.hasher.chunk(*hash, known.chunk);
        self.written = after;
        true
    }

    /// Up to where the next bytes may come as the hashes of blocks. What is compared when the content has grown comes as bytes, and
    /// so does all of a content whose beginning is to be recognised.
    pub fn blocks_end(&self) -> u64 {
        let end = self.announced.saturating_sub(OLD_TAIL);
        match self.old.is_none() && self.written.is_multiple_of(BLOCK) {
            true => end - end % BLOCK,
            false => 0,
        }
    }

    /// Bytes of what a block is hashed in: a chunk, or all of it.
    pub fn unit(&self) -> u32 {
        let chunk = Chunks::size_for(self.announced).map_or(BLOCK, u64::from);
        // A block fits.
        chunk.min(BLOCK) as u32
    }

    /// The next [`BLOCK`] bytes, as the hashes of contents of [`TailHasher::unit`] bytes. They end at [`TailHasher::blocks_end`] at last.
    pub fn block(&mut self, hashes: &[[u8; 32]]) {
        let unit = self.unit();
        debug_assert_eq!(hashes.len() as u64 * u64::from(unit), BLOCK);
        for hash in hashes {
            self.hasher.chunk(*hash, unit);
        }
        self.written += BLOCK;
    }

    fn take(&mut self, mut piece: Piece<'_>) {
        if let Some((size, hash)) = self.old
            && self.written + piece.len() >= size
        {
            self.old = None;
            let (before, after) = piece.split_at(size - self.written);
            self.feed(before);
            if self.hash() == hash {
                self.marks.push_back((size, hash));
            }
            piece = after;
        }
        self.feed(piece);
    }

    fn feed(&mut self, piece: Piece<'_>) {
        let after = self.written + piece.len();
        if self.kept.is_none() && self.announced >= GROWS_FROM && after > self.announced - OLD_TAIL
        {
            self.kept = Some((self.written, self.hasher.without_chunks()));
        }
        match piece {
            Piece::Bytes(bytes) => self.hasher.update(bytes),
            Piece::Zeros(length) => self.hasher.zeros(length),
        }
        self.written = after;
    }

    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The hash of the bytes so far.
    pub fn hash(&self) -> ContentHash {
        self.hasher.finish()
    }

    /// The hashes of the chunks of what came, if it is a content of the announced length that is large enough.
    pub fn take_chunks(&mut self) -> Option<Chunks> {
        let hashes = self.hasher.take_chunks()?;
        let chunk = Chunks::size_for(self.announced)?;
        let size = self.written;
        (size == self.announced).then_some(Chunks {
            size,
            chunk,
            hashes,
        })
    }

    /// All has come. With what is kept of a content that may grow, if that is large enough and has the announced length.
    pub fn finish(self) -> (ContentHash, Option<Tail>) {
        let hash = self.hash();
        let (size, mut marks) = (self.written, self.marks);
        let kept = self.kept.filter(|_| size == self.announced);
        let tail = kept.map(|(at, hasher)| {
            if marks.back() != Some(&(size, hash)) {
                marks.push_back((size, hash));
            }
            while marks.len() > MARKS {
                marks.pop_front();
            }
            Tail {
                at,
                hasher,
                size,
                hash,
                marks,
            }
        });
        (hash, tail)
    }
}

/// What is remembered, by path.
#[derive(Debug, Default)]
pub struct Tails(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// With the time of its last use.
    tails: BTreeMap<(TreeId, RelPath), (u64, Tail)>,
    /// Oldest use first.
    uses: BTreeMap<u64, (TreeId, RelPath)>,
    clock: u64,
}

impl Known {
    fn used(&mut self, key: &(TreeId, RelPath)) {
        self.clock += 1;
        if let Some((used, _)) = self.tails.get_mut(key) {
            self.uses.remove(used);
            *used = self.clock;
            self.uses.insert(self.clock, key.clone());
        }
    }
}

impl Tails {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        // A panic in between loses or keeps a memory, both of which are harmless.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the end of what lies, or will lie, at a path.
    pub fn remember(&self, tree: TreeId, path: &RelPath, tail: Tail) {
        let mut known = self.known();
        let key = (tree, path.clone());
        if let Some((used, _)) = known.tails.insert(key.clone(), (0, tail)) {
            known.uses.remove(&used);
        }
        known.used(&key);
        while known.tails.len() > MOST {
            let Some((_, oldest)) = known.uses.pop_first() else {
                break;
            };
            known.tails.remove(&oldest);
        }
    }

    /// What is remembered of a path where this content lies.
    pub fn of(&self, tree: TreeId, path: &RelPath, size: u64, hash: &ContentHash) -> Option<Tail> {
        let key = (tree, path.clone());
        let mut known = self.known();
        let (_, tail) = known.tails.get(&key)?;
        let tail = (tail.size == size && tail.hash == *hash).then(|| tail.clone())?;
        known.used(&key);
        Some(tail)
    }

    /// From which size on versions of the file are known that this one goes on from; `None`: from none.
    pub fn grown_from(
        &self,
        tree: TreeId,
        path: &RelPath,
        content: (u64, ContentHash),
    ) -> Option<u64> {
        let known = self.known();
        let (_, tail) = known.tails.get(&(tree, path.clone()))?;
        let (first, _) = tail.marks.front()?;
        (tail.marks.contains(&content) && *first < content.0).then_some(*first)
    }

    /// Whether one version of the file is known to be the beginning of another.
    pub fn begins(
        &self,
        tree: TreeId,
        path: &RelPath,
        old: (u64, ContentHash),
        new: (u64, ContentHash),
    ) -> bool {
        let known = self.known();
        let tail = known.tails.get(&(tree, path.clone()));
        let has = |one| tail.is_some_and(|(_, tail)| tail.marks.contains(&one));
        old.0 < new.0 && has(old) && has(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = (1 << 20) + 12_345;

    fn content(n: usize) -> Vec<u8> {
        (0..n as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect()
    }

    fn hashed(mut hasher: TailHasher, bytes: &[u8]) -> (ContentHash, Option<Tail>) {
        for part in bytes[hasher.written() as usize..].chunks(STEP) {
            hasher.update(part);
        }
        hasher.finish()
    }

    fn path() -> (TreeId, RelPath) {
        (TreeId::of("data"), RelPath::new("log").unwrap())
    }

    #[test]
    fn a_longer_content_is_hashed_from_the_old_tail_on() {
        let all = content(SIZE + 3_000_000);
        let mut size = SIZE;
        let (_, mut tail) = hashed(TailHasher::new(size as u64), &all[..size]);
        for step in [1, 100, OLD_TAIL as usize, STEP, STEP + 1, 2_000_000] {
            let known = tail.expect("it is large");
            let lag = size as u64 - known.at();
            assert!(
                (OLD_TAIL..=OLD_TAIL + STEP as u64).contains(&lag),
                "{step}: {lag}"
            );
            size += step;
            let (hash, next) = hashed(known.grown(size as u64), &all[..size]);
            assert_eq!(hash, ContentHash::of(&all[..size]), "{step}");
            tail = next;
        }
    }

    #[test]
    fn zeros_are_told_or_read_and_leave_the_same() {
        let old = (SIZE as u64, ContentHash::of(&vec![0; SIZE]));
        let all = vec![0; SIZE + 3_000_000];
        let hasher = || TailHasher::new(all.len() as u64).after(Some(old));
        let (hash, tail) = hashed(hasher(), &all);
        let mut told = hasher();
        told.zeros(all.len() as u64);
        let (found, known) = told.finish();
        let (tail, known) = (tail.unwrap(), known.unwrap());
        assert_eq!((found, &known.marks), (hash, &tail.marks));
        assert_eq!(known.at(), all.len() as u64 - OLD_TAIL);
        // And both go on alike.
        let more = [&all[..], b"more"].concat();
        for known in [known, tail] {
            let (hash, _) = hashed(known.grown(more.len() as u64), &more);
            assert_eq!(hash, ContentHash::of(&more));
        }
    }

    #[test]
    fn a_known_chunk_is_not_read_and_the_end_is() {
        let size = crate::chunks::CHUNKS_FROM + 100_000;
        let mut bytes = content(size as usize);
        let hashed_in = |bytes: &[u8], known: Option<&Chunks>, changed: u64| {
            let (mut hasher, mut read) = (TailHasher::new(size), 0);
            while hasher.written() < size {
                let at = hasher.written();
                let known = known.filter(|_| at != changed);
                if !known.is_some_and(|known| hasher.chunk(known, size)) {
                    let end = (at + (64 << 10)).min(size);
                    hasher.update(&bytes[at as usize..end as usize]);
                    read += end - at;
                }
            }
            let chunks = hasher.take_chunks().expect("large enough");
            let (hash, tail) = hasher.finish();
            assert_eq!(hash, ContentHash::of(bytes));
            (chunks, tail.expect("large enough"), read)
        };
        let changed = 5 << 16;
        let (old, _, read) = hashed_in(&bytes, None, changed);
        assert_eq!(read, size);
        bytes[changed as usize] ^= 1;
        let (_, _, read) = hashed_in(&bytes, Some(&old), changed);
        assert!(read <= 4 << 16, "{read}");
        let (new, tail, _) = hashed_in(&bytes, None, changed);
        let (merged, other, _) = hashed_in(&bytes, Some(&old), changed);
        assert_eq!((merged, other), (new, tail));
    }

    #[test]
    fn small_and_shortened_contents_leave_nothing() {
        let all = content(SIZE);
        let small = GROWS_FROM as usize - 1;
        assert!(
            hashed(TailHasher::new(small as u64), &all[..small])
                .1
                .is_none()
        );
        assert!(
            hashed(TailHasher::new(SIZE as u64), &all[..SIZE - 1])
                .1
                .is_none()
        );
    }

    #[test]
    fn what_was_known_is_met_on_the_way() {
        let all = content(SIZE + 1000);
        let (tree, path) = path();
        let old = (SIZE as u64, ContentHash::of(&all[..SIZE]));
        let new = (all.len() as u64, ContentHash::of(&all));
        let tails = Tails::default();
        for (was, begins) in [(old, true), ((old.0, ContentHash([1; 32])), false)] {
            let (_, tail) = hashed(TailHasher::new(new.0).after(Some(was)), &all);
            tails.remember(tree, &path, tail.unwrap());
            assert_eq!(tails.begins(tree, &path, was, new), begins);
            let from = tails.grown_from(tree, &path, new);
            assert_eq!(from, begins.then_some(old.0));
        }
        assert!(tails.of(tree, &path, new.0, &new.1).is_some());
        assert!(tails.of(tree, &path, old.0, &old.1).is_none());
    }

    #[test]
    fn the_memory_is_bounded_and_what_is_used_stays() {
        let all = content(GROWS_FROM as usize);
        let (hash, tail) = hashed(TailHasher::new(GROWS_FROM), &all);
        let (tail, tree) = (tail.unwrap(), TreeId::of("data"));
        let tails = Tails::default();
        let path = |n: usize| RelPath::new(format!("f{n}")).unwrap();
        for n in 0..MOST + 10 {
            tails.remember(tree, &path(n), tail.clone());
            assert!(tails.of(tree, &path(0), GROWS_FROM, &hash).is_some());
        }
        assert_eq!(tails.known().tails.len(), MOST);
        assert_eq!(tails.known().uses.len(), MOST);
        assert!(tails.of(tree, &path(1), GROWS_FROM, &hash).is_none());
    }

    #[test]
    fn earlier_ends_are_bounded_too() {
        let all = content(GROWS_FROM as usize + 2 * MARKS);
        let start = GROWS_FROM as usize;
        let (_, mut tail) = hashed(TailHasher::new(GROWS_FROM), &all[..start]);
        for n in 1..=2 * MARKS {
            let size = start + n;
            tail = hashed(tail.unwrap().grown(size as u64), &all[..size]).1;
        }
        assert_eq!(tail.unwrap().marks.len(), MARKS);
    }
}
