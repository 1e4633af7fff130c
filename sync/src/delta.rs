//! Sending a large file by its differences to what the replica has. Pure: bytes in, bytes out.
//!
//! First aligned chunks are compared by their hashes: that finds changes in place (databases, disk images, the grown end
//! of a log) at the speed of hashing. Then each run of changed chunks is cut into windows, and a window is
//! compared by the rsync algorithm with the same place of the basis and a little around it: that finds what was
//! moved by an insertion. rsync's weak hashes can lie and cost much where nothing matches, so the result of a
//! file is always checked by the BLAKE3 of the whole, and [`Judge`] ends the comparison when it does not pay.

use crate::chunks::Chunks;
use crate::digest::ContentHasher;
use crate::entry::ContentHash;
use crate::wire::{ChunkSums, MAX_SUMS};
use fast_rsync::{Signature, SignatureOptions};
use std::ops::Range;
use thiserror::Error;

/// Smaller files are sent whole: less than one round trip is saved.
pub const SMALLEST: u64 = 256 << 10;
/// Bytes of new content that are compared at once. Bounds what one crafted signature can cost.
pub const WINDOW: usize = 1 << 20;
/// How far moved content is looked for on both sides of a window.
pub const SLACK: u64 = 128 << 10;
/// rsync block: 4 KiB, the page in which most programs write.
const BLOCK: u32 = 4096;
/// Bytes of MD4 per block. The file's BLAKE3 decides in the end; 8 bytes make a false match rarer than a broken disk.
const STRONG: u32 = 8;
const HEADER: usize = 12;
const MD4_MAGIC: u32 = 0x7273_0136;
const DELTA_MAGIC: u32 = 0x7273_0236;

/// Why a signature or a delta cannot be used. The window is then sent as it is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct DeltaError(&'static str);

/// A piece of the new content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// These bytes of the basis.
    Copy {
        /// Offset in the basis.
        from: u64,
        /// Bytes.
        len: u64,
    },
    /// These bytes of the window.
    Literal(Range<usize>),
}

/// The chunk size for a basis of `size` bytes: the smallest that needs at most [`MAX_SUMS`] sums.
/// `None` above 32 TiB, which is sent whole.
pub fn chunk_size(size: u64) -> Option<u32> {
    let mut chunk: u32 = 64 << 10;
    while size.div_ceil(u64::from(chunk)) > MAX_SUMS as u64 {
        if chunk >= 1 << 30 {
            return None;
        }
        chunk <<= 1;
    }
    Some(chunk)
}

/// The short hash of one chunk.
pub fn chunk_sum(chunk: &[u8]) -> [u8; 16] {
    short(&ContentHash::of(chunk).0)
}

/// What the other side is told of the hash of a chunk.
pub fn short(hash: &[u8; 32]) -> [u8; 16] {
    let mut sum = [0; 16];
    sum.copy_from_slice(&hash[..16]);
    sum
}

/// Makes the sums of a basis that is fed in order.
#[derive(Debug)]
pub struct SumsBuilder {
    hasher: ContentHasher,
    chunk: u32,
    size: u64,
}

impl SumsBuilder {
    /// For chunks of `chunk` bytes.
    pub fn new(chunk: u32) -> Self {
        SumsBuilder {
            hasher: ContentHasher::recording(chunk),
            chunk,
            size: 0,
        }
    }

    /// The next bytes. False when there would be more than [`MAX_SUMS`] chunks: the basis grew meanwhile.
    pub fn update(&mut self, bytes: &[u8]) -> bool {
        self.hasher.update(bytes);
        self.took(bytes.len() as u64)
    }

    /// The next bytes are zeros, however many.
    pub fn zeros(&mut self, length: u64) -> bool {
        // Before they are hashed: they can be many more than are of use.
        let fits = self.took(length);
        if fits {
            self.hasher.zeros(length);
        }
        fits
    }

    fn took(&mut self, bytes: u64) -> bool {
        self.size = self.size.saturating_add(bytes);
        self.size.div_ceil(u64::from(self.chunk)) <= MAX_SUMS as u64
    }

    /// The hash of all that was fed, and the chunks that it is made of; `None` when there are too many.
    pub fn finish(mut self) -> Option<(ContentHash, Chunks)> {
        let fits = self.took(0);
        let hash = self.hasher.finish();
        let hashes = self.hasher.take_chunks().filter(|_| fits)?;
        let chunks = Chunks {
            size: self.size,
            chunk: self.chunk,
            hashes,
        };
        Some((hash, chunks))
    }
}

impl ChunkSums {
    /// Whether the chunk of the new content that begins at `offset` is the same in the basis.
    pub fn same_at(&self, offset: u64, new: &[u8]) -> bool {
        self.sum_at(offset, new.len() as u64)
            .is_some_and(|sum| sum == chunk_sum(new))
    }

    /// The sum of the chunk of the basis that begins at `offset` and has so many bytes, if there is one.
    pub fn sum_at(&self, offset: u64, length: u64) -> Option<[u8; 16]> {
        let chunk = u64::from(self.chunk);
        let end = offset.checked_add(length).filter(|end| *end <= self.size)?;
        let whole = length == chunk || end == self.size;
        let index = usize::try_from(offset / chunk).ok()?;
        let sum = self.sums.get(index).filter(|_| whole);
        sum.filter(|_| offset.is_multiple_of(chunk)).copied()
    }
}

/// The part of the basis that a window of the new content is compared with: (offset, length), empty beyond its end.
pub fn window_of_basis(offset: u64, len: u64, basis: u64) -> (u64, u64) {
    let from = offset.saturating_sub(SLACK).min(basis);
    let to = offset.saturating_add(len).saturating_add(SLACK).min(basis);
    (from, to - from)
}

/// The longest part of a basis that a signature is made of.
pub const MAX_BASIS: u64 = WINDOW as u64 + 2 * SLACK;

/// The rsync signature of a part of the basis.
pub fn signature_of(basis: &[u8]) -> Vec<u8> {
    let options = SignatureOptions {
        block_size: BLOCK,
        crypto_hash_size: STRONG,
    };
    Signature::calculate(basis, options).into_serialized()
}

/// Compares a window of the new content with the part of the basis that begins at `basis_from` and has `basis_len`
/// bytes, of which the peer sent the signature.
///
/// # Errors
/// A signature that does not have exactly the form that [`signature_of`] makes.
pub fn diff(
    signature: &[u8],
    basis_from: u64,
    basis_len: u64,
    new: &[u8],
) -> Result<Vec<Piece>, DeltaError> {
    check_signature(signature, basis_len)?;
    let signature = Signature::deserialize(signature.to_vec())
        .map_err(|_| DeltaError("a signature of another form"))?;
    let mut delta = Vec::new();
    fast_rsync::diff(&signature.index(), new, &mut delta)
        .map_err(|_| DeltaError("a signature of another form"))?;
    parse(&delta, basis_from, basis_len, new)
}

fn check_signature(signature: &[u8], basis_len: u64) -> Result<(), DeltaError> {
    let word = |i: usize| {
        signature
            .get(i..i + 4)
            .map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    };
    if word(0) != Some(MD4_MAGIC) || word(4) != Some(BLOCK) || word(8) != Some(STRONG) {
        return Err(DeltaError("a signature with other parameters"));
    }
    let blocks = basis_len.div_ceil(u64::from(BLOCK));
    if basis_len > MAX_BASIS || (signature.len() - HEADER) as u64 != blocks * u64::from(4 + STRONG)
    {
        return Err(DeltaError("a signature of another length"));
    }
    Ok(())
}

/// Reads librsync's delta format, with every number checked against the window and the basis.
fn parse(
    delta: &[u8],
    basis_from: u64,
    basis_len: u64,
    new: &[u8],
) -> Result<Vec<Piece>, DeltaError> {
    const CUT: DeltaError = DeltaError("a delta that ends too early");
    let mut rest = delta.strip_prefix(&DELTA_MAGIC.to_be_bytes()).ok_or(CUT)?;
    let mut at = 0usize;
    let mut pieces = Vec::new();
    let number = |rest: &mut &[u8], width: usize| -> Result<u64, DeltaError> {
        let (head, tail) = rest.split_at_checked(width).ok_or(CUT)?;
        *rest = tail;
        Ok(head.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
    };
    loop {
        let command = number(&mut rest, 1)?;
        let literal = match command {
            0 if at == new.len() => return Ok(pieces),
            1..=0x40 => Some(command),
            0x41..=0x44 => Some(number(&mut rest, 1 << (command - 0x41))?),
            0x45..=0x54 => None,
            _ => return Err(DeltaError("a delta with an unknown command")),
        };
        if let Some(len) = literal {
            let len = usize::try_from(len).map_err(|_| CUT)?;
            rest = rest.get(len..).ok_or(CUT)?;
            let end = at
                .checked_add(len)
                .filter(|end| *end <= new.len())
                .ok_or(CUT)?;
            pieces.push(Piece::Literal(at..end));
            at = end;
            continue;
        }
        let class = command - 0x45;
        let from = number(&mut rest, 1 << (class / 4))?;
        let len = number(&mut rest, 1 << (class % 4))?;
        let end = usize::try_from(len)
            .ok()
            .and_then(|len| at.checked_add(len))
            .filter(|end| *end <= new.len());
        let inside = from.checked_add(len).is_some_and(|end| end <= basis_len);
        let (Some(end), true) = (end, inside) else {
            return Err(DeltaError("a delta that copies from beyond the basis"));
        };
        pieces.push(Piece::Copy {
            from: basis_from + from,
            len,
        });
        at = end;
    }
}

/// Decides whether comparing windows still pays for a file.
#[derive(Debug, Clone, Default)]
pub struct Judge {
    windows: u32,
    compared: u64,
    matched: u64,
    spent_ns: u64,
}

impl Judge {
    /// Windows that are compared before the first judgement.
    const TRIAL: u32 = 4;
    /// Comparing costs at least 1 / 100 MB/s; time beyond four times that for a byte is a crafted or hopeless case.
    const BUDGET_NS_PER_BYTE: u64 = 40;
    /// What the first windows may take beyond the budget, for a machine that is busy. A crafted signature (every weak hash
    /// matches, no strong one does) takes about a second for one window: it gets no second one.
    const TRIAL_NS: u64 = 250_000_000;

    /// Notes a comparison: bytes compared, bytes found in the basis, time spent.
    pub fn note(&mut self, compared: u64, matched: u64, spent_ns: u64) {
        self.windows += 1;
        self.compared += compared;
        self.matched += matched;
        self.spent_ns = self.spent_ns.saturating_add(spent_ns);
    }

    /// False when at most a tenth of what was compared matched, or it took too long: send the rest as it is.
    pub fn pays(&self) -> bool {
        let budget = self.compared.saturating_mul(Self::BUDGET_NS_PER_BYTE);
        if self.windows < Self::TRIAL {
            return self.spent_ns <= budget.saturating_add(Self::TRIAL_NS);
        }
        self.matched > self.compared / 10 && self.spent_ns <= budget
    }
}

/// A delta of any bytes: what is read from it lies in the window and in the basis.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz_delta(bytes: &[u8], from: u64, basis: u64, new: &[u8]) {
    let delta = [&DELTA_MAGIC.to_be_bytes()[..], bytes].concat();
    for piece in parse(&delta, from, basis, new).unwrap_or_default() {
        match piece {
            Piece::Copy { from: begin, len } => assert!(begin + len <= from + basis),
            Piece::Literal(range) => assert!(range.end <= new.len()),
        }
    }
}

#[cfg(test)]
mod tests;
