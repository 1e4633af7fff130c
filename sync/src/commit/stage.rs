//! Contents on their way: written into the staging directory, verified, and not visible in the tree.

use crate::chunks::Chunks;
use crate::entry::ContentHash;
use crate::fault::Fault;
use crate::holes::{self, Span, read_range};
use crate::tail::{Tail, TailHasher};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

mod begin;
mod staged;
pub use staged::Staged;

/// From this size on the room is reserved before the first byte, so that a full disk is known early. Smaller files
/// gain nothing, and reserving would cost them the file system's delayed allocation.
const RESERVE_FROM: u64 = 1 << 20;

/// A content that is being written. Dropping it removes it, unless it is one that a later transfer may go on with.
#[derive(Debug)]
pub struct Staging {
    staged: Staged,
    hasher: TailHasher,
    written: u64,
    announced: u64,
    /// The room that it was said to need.
    room: u64,
    /// The file has bytes of an earlier transfer, or of the version that it was cloned from, up to here. Past `written` they may
    /// still turn out to be right.
    kept: u64,
    /// Where the content goes when they turn out to be wrong, or when a journal would grow too large.
    other: Option<Staged>,
    /// The content begins with the version here, whose end is known. Taken with its first bytes.
    grows: Option<Tail>,
    /// What the version here is made of, by the stamp that it has: of what stays as it is no known chunk is read.
    known: Option<Arc<Chunks>>,
}

impl Staging {
    /// The version that is changed in place, or of which this is a clone, has the stamp of a content that is made of this.
    pub fn know(&mut self, chunks: Arc<Chunks>) {
        // Cut otherwise they are of no use.
        if Chunks::size_for(self.announced) == Some(chunks.chunk) {
            self.known = Some(chunks);
        }
    }

    /// Sees that there is room for a content of which `room` bytes lie on the disk; [`Fault::NoSpace`] if not. What has
    /// no holes is reserved. The file's length stays what was written: it says how much there is after a crash.
    pub fn reserve(&mut self, room: u64) -> Result<(), Fault> {
        self.room = room;
        // A journal has what is new only, and so has a clone.
        if room < RESERVE_FROM || self.staged.redo.is_some() || self.is_over() {
            return Ok(());
        }
        if room < self.announced {
            // Where the data go is not known yet.
            let found = rustix::fs::fstatvfs(&self.staged.file);
            let found = found.map_err(|e| Fault::os("statvfs", e))?;
            return match found.f_bavail.saturating_mul(found.f_frsize) < room {
                true => Err(Fault::os("reserve", Errno::NOSPC)),
                false => Ok(()),
            };
        }
        let flags = FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.staged.file, flags, 0, self.announced) {
            // A file system without reservation; a full disk shows when writing.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(errno) => Err(Fault::os("fallocate", errno)),
        }
    }

    /// Appends bytes. More than announced are refused.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let after = self.written.saturating_add(bytes.len() as u64);
        if after > self.announced {
            return Err(Fault::WrongContent);
        }
        if self.written < self.kept && !self.is_over() {
            self.part_from_kept()?;
        }
        if self.grows.take().is_some() {
            // It comes whole: nothing of the version here is to be changed.
            self.part_from_journal()?;
        }
        self.put(bytes)?;
        self.hasher.update(bytes);
        self.written = after;
        Ok(())
    }

    /// Appends zeros that lie on no disk.
    pub fn hole(&mut self, length: u64) -> Result<(), Fault> {
        let after = self.written.saturating_add(length);
        if after > self.announced {
            return Err(Fault::WrongContent);
        }
        if self.written < self.kept {
            if after <= self.kept && holes::is_hole(&self.staged.file, self.written, length) {
                return self.keep(length);
            }
            match self.is_over() {
                true => holes::punch(&self.staged.file, self.written, length)?,
                false => self.part_from_kept()?,
            }
        }
        if self.grows.take().is_some() {
            self.part_from_journal()?;
        }
        let outgrown = match &mut self.staged.redo {
            Some(redo) => redo.add_hole(self.written, length),
            None => None,
        };
        if outgrown.is_some() {
            self.part_from_journal()?;
        }
        if self.staged.redo.is_none() {
            holes::lengthen(&self.staged.file, after)?;
        }
        self.hasher.zeros(length);
        self.written = after;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let Staged { file, redo, .. } = &mut self.staged;
        if let Some(redo) = redo {
            match redo.add(file, self.written, bytes)? {
                None => return Ok(()),
                Some(_outgrown) => self.part_from_journal()?,
            }
        }
        self.staged
            .file
            .write_all_at(bytes, self.written)
            .map_err(|e| Fault::io("write", &e))
    }

    /// So much is new that the content becomes a file of its own.
    fn part_from_journal(&mut self) -> Result<(), Fault> {
        let mut other = self.other.take().ok_or(Fault::WrongContent)?;
        other.stays = true;
        let mut old = std::mem::replace(&mut self.staged, other);
        let redo = old.redo.take().ok_or(Fault::WrongContent)?;
        self.reserve(self.room)?;
        let (new, mut at) = (&self.staged.file, 0);
        redo.content(&old.file, self.written, |span| {
            span.lay(new, at)?;
            at += span.len();
            Ok(())
        })?;
        if self.known.is_some() {
            // What was not read then was copied now, by the same stamp.
            redo.check_base()?;
        }
        holes::lengthen(new, self.written)
    }

    /// The bytes from `written` to `kept` are those of a clone, whose origin stays readable.
    fn is_over(&self) -> bool {
        self.kept > 0 && self.other.is_none()
    }

    /// The next byte of the content would be taken from the same place of what an earlier transfer left.
    pub fn continues_at(&self, offset: u64, length: u64) -> bool {
        offset == self.written && offset.saturating_add(length) <= self.kept
    }

    /// Takes the next bytes from what an earlier transfer left: they are there, and only hashed.
    pub fn keep(&mut self, length: u64) -> Result<(), Fault> {
        let end = self.written.saturating_add(length);
        if end > self.kept.min(self.announced) {
            return Err(Fault::WrongContent);
        }
        let known = self.known.as_deref();
        hash_to(&mut self.hasher, &self.staged.file, known, end)?;
        self.written = end;
        Ok(())
    }

    /// The content goes on from the version here, and its first bytes are that one's: what is known of its end is compared
    /// with what lies there.
    pub fn take_beginning(&mut self, length: u64) -> Result<(), Fault> {
        let tail = self.grows.take().filter(|tail| tail.size() == length);
        let tail = tail.ok_or(Fault::WrongContent)?;
        let Some(redo) = &self.staged.redo else {
            return Err(Fault::WrongContent);
        };
        let mut hasher = tail.grown(self.announced);
        read_range(redo.base(), tail.at(), length - tail.at(), |span| {
            span.hash(&mut hasher);
            Ok(())
        })?;
        if hasher.hash() != tail.hash() {
            return Err(Fault::Changed("its end is not what it was"));
        }
        (self.hasher, self.written) = (hasher, length);
        Ok(())
    }

    /// The content goes on from the version here, which was not said yet.
    pub fn may_grow(&self) -> bool {
        self.grows.is_some()
    }

    /// What comes differs from what an earlier transfer left there. The content moves to a file of its own, so that
    /// the earlier bytes stay readable as a basis.
    fn part_from_kept(&mut self) -> Result<(), Fault> {
        let mut other = self.other.take().ok_or(Fault::WrongContent)?;
        other.stays = true;
        let old = std::mem::replace(&mut self.staged, other);
        if rustix::fs::ioctl_ficlone(&self.staged.file, &old.file).is_ok() {
            old.discard();
            return Ok(());
        }
        self.reserve(self.room)?;
        holes::copy(&old.file, self.written, &self.staged.file, 0)?;
        self.kept = 0;
        old.discard();
        Ok(())
    }

    /// Appends `length` bytes of `basis` from `offset` on. A basis that is too short is [`Fault::WrongContent`]: it
    /// changed.
    pub fn copy_from(&mut self, basis: &File, offset: u64, length: u64) -> Result<(), Fault> {
        if self.staged.redo.is_some() && offset == self.written {
            return self.stay(basis, length);
        }
        read_range(basis, offset, length, |span| match span {
            Span::Bytes(bytes) => self.write(bytes),
            Span::Zeros(length) => self.hole(length),
        })
    }

    /// The next bytes are those that the file has at this place: nothing is written, they are only hashed.
    fn stay(&mut self, basis: &File, length: u64) -> Result<(), Fault> {
        let end = self.written.saturating_add(length);
        if end > self.announced {
            return Err(Fault::WrongContent);
        }
        hash_to(&mut self.hasher, basis, self.known.as_deref(), end)?;
        self.written = end;
        Ok(())
    }

    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Ends the content. [`Fault::WrongContent`] if it has not the announced size and this hash; nothing of it stays then.
    pub fn finish(mut self, hash: ContentHash) -> Result<Staged, Fault> {
        let chunks = self.hasher.take_chunks();
        let (found, tail) = self.hasher.finish();
        if self.written != self.announced || found != hash {
            self.staged.discard();
            return Err(Fault::WrongContent);
        }
        let Staged { file, redo, .. } = &mut self.staged;
        if let Some(redo) = redo
            && let Err(fault) = redo.seal(file)
        {
            self.staged.discard();
            return Err(fault);
        }
        if self.kept > self.announced
            && let Err(error) = self.staged.file.set_len(self.announced)
        {
            self.staged.discard();
            return Err(Fault::io("truncate", &error));
        }
        self.staged.tail = tail.map(Box::new);
        self.staged.chunks = chunks;
        Ok(self.staged)
    }

    /// Gives the content up; nothing of it stays.
    pub fn discard(self) {
        self.staged.discard();
    }
}

/// Hashes what the file has from where the hasher stands up to `end`. What is known of it is not read.
fn hash_to(
    hasher: &mut TailHasher,
    file: &File,
    known: Option<&Chunks>,
    end: u64,
) -> Result<(), Fault> {
    while hasher.written() < end {
        let at = hasher.written();
        let length = match known {
            Some(known) if hasher.chunk(known, end) => continue,
            Some(known) => (end - at).min(u64::from(known.chunk) - at % u64::from(known.chunk)),
            None => end - at,
        };
        read_range(file, at, length, |span| {
            span.hash(hasher);
            Ok(())
        })?;
    }
    Ok(())
}
