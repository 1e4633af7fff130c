//! Holes of sparse files: where they are, and how their bytes are fed to a hash without being read.
//!
//! The bytes of a hole are zeros and lie on no disk. They are hashed without being looked at, travel as a length, and stay a hole
//! where they arrive. What the system says about holes is only ever a way to read less: each content is checked by its
//! hash, so one that changed between the question and the reading is found.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use crate::fault::Fault;
use crate::hash::{Ends, NOT_READ, TO_ITS_END};
use crate::tail::TailHasher;

/// Bytes per read, and per piece of zeros: the second-level cache holds it.
const CHUNK: usize = 256 << 10;
/// Smaller parts are read without asking for holes.
const PAGE: u64 = 4096;
/// Copied at once. A disk takes it in less than a second.
const PIECE: u64 = 64 << 20;
static ZEROS: [u8; CHUNK] = [0; CHUNK];

/// What begins at a place of a file, with its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    /// To be read. Past the end of the file too: the reading finds the end.
    Data(u64),
    /// Zeros that need not be read.
    Hole(u64),
}

/// The holes of an open file, asked for one after the other.
#[derive(Debug)]
pub(crate) struct Map {
    sparse: bool,
    /// The last answer: from, to, is a hole.
    known: (u64, u64, bool),
}

impl Map {
    /// Of a file that has fewer blocks than bytes; any other has no holes that matter.
    pub fn of(file: &File) -> Map {
        Map {
            sparse: stored(file).is_some(),
            known: (0, 0, false),
        }
    }

    /// Of a file whose holes are read like anything else.
    pub fn dense() -> Map {
        Map {
            sparse: false,
            known: (0, 0, false),
        }
    }

    /// What begins at `at`, cut off at `end`.
    pub fn run(&mut self, file: &File, at: u64, end: u64) -> Run {
        let left = end.saturating_sub(at);
        if !self.sparse || left == 0 {
            return Run::Data(left);
        }
        let (from, to, _) = self.known;
        if !(from..to).contains(&at) {
            self.known = ask(file, at).unwrap_or((at, u64::MAX, false));
        }
        let (_, to, hole) = self.known;
        let length = left.min(to - at);
        match hole {
            true => Run::Hole(length),
            false => Run::Data(length),
        }
    }
}

/// The data or the hole at `at`. `None`: the file ends before, or the file system does not tell.
fn ask(file: &File, at: u64) -> Option<(u64, u64, bool)> {
    // The file's own position moves; everybody reads at offsets.
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) if data > at => Some((at, data, true)),
        Ok(_) => {
            let to = rustix::fs::seek(file, SeekFrom::Hole(at)).ok()?;
            (to > at).then_some((at, to, false))
        }
        Err(Errno::NXIO) => {
            let end = file.metadata().ok()?.len();
            (end > at).then_some((at, end, true))
        }
        Err(_) => None,
    }
}

/// The file has fewer blocks than bytes.
pub(crate) fn is_sparse(file: &File) -> bool {
    stored(file).is_some()
}

/// Bytes on the disk of a file that has fewer of them than it is long; `None` for any other.
fn stored(file: &File) -> Option<u64> {
    let stat = rustix::fs::fstat(file).ok()?;
    // `st_blocks` counts 512 bytes each, whatever the file system's own block is.
    let stored = u64::try_from(stat.st_blocks).ok()?.saturating_mul(512);
    (stored < u64::try_from(stat.st_size).ok()?).then_some(stored)
}

/// The room that `length` bytes of the file need elsewhere.
pub(crate) fn room(file: &File, length: u64) -> u64 {
    stored(file).map_or(length, |stored| stored.min(length))
}

/// All of this part reads as zeros without lying on the disk: holes, and what is past the end.
pub(crate) fn is_hole(file: &File, from: u64, length: u64) -> bool {
    let Ok(stat) = file.metadata() else {
        return false;
    };
    let end = from.saturating_add(length).min(stat.len());
    end <= from || Map::of(file).run(file, from, end) == Run::Hole(end - from)
}

/// Takes the blocks of a part of the file away, or writes zeros where the file system cannot. The length stays.
pub(crate) fn punch(file: &File, from: u64, length: u64) -> Result<(), Fault> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, flags, from, length) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let mut at = from;
            zeros(length, |bytes| {
                file.write_all_at(bytes, at)
                    .map_err(|e| Fault::io("write", &e))?;
                at += bytes.len() as u64;
                Ok(())
            })
        }
        Err(errno) => Err(Fault::os("punch hole", errno)),
    }
}

/// Bytes of a content, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Span<'b> {
    /// These.
    Bytes(&'b [u8]),
    /// So many zeros of a hole.
    Zeros(u64),
}

impl Span<'_> {
    /// How many.
    pub fn len(&self) -> u64 {
        match self {
            Span::Bytes(bytes) => bytes.len() as u64,
            Span::Zeros(length) => *length,
        }
    }

    /// Gives them out as bytes.
    pub fn each<E>(&self, mut to: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        match self {
            Span::Bytes(bytes) => to(bytes),
            Span::Zeros(length) => zeros(*length, to),
        }
    }

    /// Gives them out as bytes to what cannot fail: a hash.
    pub fn feed(&self, mut to: impl FnMut(&[u8])) {
        let Ok(()) = self.each(|bytes| {
            to(bytes);
            Ok::<(), std::convert::Infallible>(())
        });
    }

    /// Adds them to the hash of a content.
    pub fn hash(&self, hasher: &mut TailHasher) {
        match self {
            Span::Bytes(bytes) => hasher.update(bytes),
            Span::Zeros(length) => hasher.zeros(*length),
        }
    }

    /// Puts them into a file that has nothing at or after `at`. A hole at the end does not make the file longer.
    pub fn lay(&self, file: &File, at: u64) -> Result<(), Fault> {
        match self {
            Span::Bytes(bytes) => file
                .write_all_at(bytes, at)
                .map_err(|e| Fault::io("write", &e)),
            Span::Zeros(_) => Ok(()),
        }
    }
}

fn zeros<E>(length: u64, mut to: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let mut left = length;
    while left > 0 {
        // At most a chunk, which fits.
        let piece = left.min(CHUNK as u64) as usize;
        to(&ZEROS[..piece])?;
        left -= piece as u64;
    }
    Ok(())
}

/// Gives out a part of a file piece by piece. A file that is too short is [`Fault::WrongContent`]: it changed.
pub(crate) fn read_range(
    file: &File,
    offset: u64,
    length: u64,
    mut each: impl FnMut(Span<'_>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let end = offset.saturating_add(length);
    let mut map = match length < PAGE {
        true => Map::dense(),
        false => Map::of(file),
    };
    let room = usize::try_from(length).unwrap_or(CHUNK);
    let mut buffer = vec![0u8; room.min(CHUNK)];
    let mut at = offset;
    while at < end {
        let left = match map.run(file, at, end) {
            Run::Hole(length) => {
                each(Span::Zeros(length))?;
                at += length;
                continue;
            }
            Run::Data(length) => length,
        };
        let want = usize::try_from(left).unwrap_or(CHUNK).min(buffer.len());
        let got = match file.read_at(&mut buffer[..want], at) {
            Ok(0) => return Err(Fault::WrongContent),
            Ok(got) => got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Fault::io("read", &error)),
        };
        each(Span::Bytes(&buffer[..got]))?;
        at += got as u64;
    }
    Ok(())
}

/// Copies the first `length` bytes of a file to `to` from `at` on, where nothing is yet. Holes stay holes. Where the file
/// system can it shares the blocks, else the kernel copies them.
pub(crate) fn copy(from: &File, length: u64, to: &File, at: u64) -> Result<(), Fault> {
    copy_unless(from, length, (to, at), TO_ITS_END)
}

/// The same for somebody who may be waited for: [`NOT_READ`] once `ends` says so, which is asked before each piece.
pub(crate) fn copy_unless(
    from: &File,
    length: u64,
    (to, at): (&File, u64),
    ends: Ends<'_>,
) -> Result<(), Fault> {
    let (mut map, mut here) = (Map::of(from), 0);
    while here < length {
        if ends() {
            return Err(NOT_READ);
        }
        let upto = length.min(here.saturating_add(PIECE));
        here += match map.run(from, here, upto) {
            Run::Hole(length) => length,
            Run::Data(length) => {
                let done = copy_range(from, here, (to, at + here), length);
                copy_bytes(from, here + done, (to, at + here + done), length - done)?;
                length
            }
        };
    }
    lengthen(to, at + length)
}

/// Has the kernel copy a part. Returns how much it did: what is left is copied by reading and writing, which finds out why.
fn copy_range(from: &File, offset: u64, (to, at): (&File, u64), length: u64) -> u64 {
    let (mut read, mut written, mut left) = (offset, at, length);
    while left > 0 {
        let piece = usize::try_from(left).unwrap_or(usize::MAX).min(1 << 30);
        let (read, written) = (Some(&mut read), Some(&mut written));
        match rustix::fs::copy_file_range(from, read, to, written, piece) {
            Ok(0) => break,
            Ok(done) => left -= done as u64,
            Err(Errno::INTR) => {}
            Err(_) => break,
        }
    }
    length - left
}

fn copy_bytes(from: &File, offset: u64, (to, at): (&File, u64), length: u64) -> Result<(), Fault> {
    let mut here = at;
    read_range(from, offset, length, |span| {
        span.lay(to, here)?;
        here += span.len();
        Ok(())
    })
}

/// Makes the file `length` bytes long if it is shorter: one that ends with a hole. Room that is reserved past its end stays.
pub(crate) fn lengthen(file: &File, length: u64) -> Result<(), Fault> {
    let found = file.metadata().map_err(|e| Fault::io("stat", &e))?;
    match found.len() < length {
        true => file.set_len(length).map_err(|e| Fault::io("truncate", &e)),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 MiB of hole, 64 KiB of data, 2 MiB of hole, and some bytes.
    fn sparse() -> File {
        let file = tempfile::tempfile().expect("file");
        file.write_all_at(&[7; 64 << 10], 1 << 20).expect("write");
        file.write_all_at(b"the end", (3 << 20) + (64 << 10))
            .expect("write");
        file
    }

    #[test]
    fn the_holes_of_a_file_are_found() {
        let file = sparse();
        let (end, mut map) = (file.metadata().expect("stat").len(), Map::of(&file));
        let (mut at, mut runs) = (0, Vec::new());
        while at < end {
            let run = map.run(&file, at, end);
            let (Run::Data(length) | Run::Hole(length)) = run;
            runs.push(run);
            at += length;
        }
        let wanted = [
            Run::Hole(1 << 20),
            Run::Data(64 << 10),
            Run::Hole(2 << 20),
            Run::Data(7),
        ];
        assert_eq!(runs, wanted);
        assert_eq!(map.run(&file, end, end + 5), Run::Data(5), "past the end");
        assert!(is_hole(&file, 5, 1000) && is_hole(&file, end, 1000));
        assert!(!is_hole(&file, (1 << 20) - 1, 2));
    }

    #[test]
    fn a_copy_has_the_same_bytes_and_holes() {
        let (file, copied) = (sparse(), tempfile::tempfile().expect("file"));
        let end = file.metadata().expect("stat").len();
        copy(&file, end, &copied, 0).expect("copied");
        let hash = |file: &File| {
            let mut hasher = blake3::Hasher::new();
            let read = read_range(file, 0, end, |span| {
                span.feed(|bytes| {
                    hasher.update(bytes);
                });
                Ok(())
            });
            read.expect("read");
            hasher.finalize()
        };
        assert_eq!(hash(&file), hash(&copied));
        let read_and_written = tempfile::tempfile().expect("file");
        copy_bytes(&file, 0, (&read_and_written, 0), end).expect("copied");
        assert_eq!(hash(&file), hash(&read_and_written));
        assert!(room(&copied, end) <= 128 << 10, "{}", room(&copied, end));
        let short = read_range(&copied, 0, end + 1, |_| Ok(()));
        assert_eq!(short, Err(Fault::WrongContent));
    }

    #[test]
    fn a_punched_part_reads_as_zeros() {
        let file = tempfile::tempfile().expect("file");
        file.write_all_at(&vec![7; 1 << 20], 0).expect("write");
        punch(&file, 100, 1 << 19).expect("punched");
        let mut bytes = vec![1; 1 << 20];
        file.read_exact_at(&mut bytes, 0).expect("read");
        assert!(bytes[..100].iter().all(|b| *b == 7));
        assert!(bytes[100..100 + (1 << 19)].iter().all(|b| *b == 0));
        assert!(bytes[100 + (1 << 19)..].iter().all(|b| *b == 7));
        assert!(room(&file, 1 << 20) < 600 << 10);
    }
}
