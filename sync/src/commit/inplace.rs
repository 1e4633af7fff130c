//! Changing a large file in place: its new bytes are in a durable redo journal before the first of them is written.
//!
//! ```text
//!   .tandem/staging/NAME   the journal while the content arrives; gone with a crash, and nothing was changed
//!   .tandem/redo/NAME      open: complete, durable, and the file may be changed in part
//! ```
//! A journal is opened by a rename, carried out on the file, and retired when the file is durable. Whatever is open when
//! a tree is opened is carried out first, so a file that a crash left in part is the new version before anybody can
//! apply, send, or start a service on it. The format is that of [`crate::redo`].
//!
//! Only a file of one name, whose version here is the pair's and at least [`IN_PLACE_FROM`] bytes long on both sides, is
//! changed in place, and only where the file system keeps when a file was made: after a crash nothing else tells it from
//! another one that got its inode number. Everything else is replaced whole.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::Target;
use super::stage::Staged;
use crate::beneath::{Place, Root, reopen_for_writing};
use crate::cut;
use crate::entry::{LocalKey, State};
use crate::fault::Fault;
use crate::holes::{self, Span, read_range};
use crate::meta;
use crate::path::RelPath;
use crate::private::{Private, duplicate, names};
use crate::redo::{BadJournal, Body, Extent, FOOTER, Fill, Footer, MAX_DATA, MAX_EXTENTS};
use crate::stat::Stat;

/// Smaller files are replaced whole: copying them costs less than the four `fsync` of a journal.
pub const IN_PLACE_FROM: u64 = 1 << 20;

/// A journal that is being written: what is new in a content, beside the version that it changes.
#[derive(Debug)]
pub struct Redo {
    body: Body,
    /// The version that the differences are to.
    key: LocalKey,
    base: File,
    data: u64,
    hasher: blake3::Hasher,
}

/// The bounds of one journal are reached: the content must become a file of its own.
#[derive(Debug)]
pub(super) struct Outgrown;

impl Redo {
    /// For the version of `path` that `base` is, if that can be changed in place and is the one with this key.
    pub fn new(path: &RelPath, base: File, key: LocalKey, state: &State) -> Option<Redo> {
        let stat = Stat::of_fd(base.as_fd()).ok()?;
        let large = stat.size >= IN_PLACE_FROM && state.kind.size() >= IN_PLACE_FROM;
        let fits = large && stat.is_file() && stat.nlink == 1 && stat.key() == key;
        // A change in place could not go on after a crash.
        let free = stat.protecting_flag().is_none() && !state.meta.xattrs.flags().protects();
        let born_ns = stat.born_ns?;
        (fits && free).then(|| Redo {
            body: Body {
                path: path.clone(),
                ino: stat.ino,
                born_ns,
                state: state.clone(),
                extents: Vec::new(),
            },
            key,
            base,
            data: 0,
            hasher: blake3::Hasher::new(),
        })
    }

    /// The version that the differences are to.
    pub(super) fn base(&self) -> &File {
        &self.base
    }

    /// The version that the differences are to has not changed.
    pub(super) fn check_base(&self) -> Result<(), Fault> {
        match Stat::of_fd(self.base.as_fd())?.key() == self.key {
            true => Ok(()),
            false => Err(Fault::Changed("the differences are to another version")),
        }
    }

    /// Nothing of what is there is changed: the file only becomes longer.
    pub fn only_grows(&self) -> bool {
        let extents = &self.body.extents;
        extents.iter().all(|extent| extent.offset >= self.key.size)
            && self.body.state.kind.size() >= self.key.size
    }

    /// The file.
    pub(super) fn path(&self) -> &RelPath {
        &self.body.path
    }

    /// Appends new bytes of the content. The caller's offsets ascend.
    pub(super) fn add(
        &mut self,
        journal: &File,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Option<Outgrown>, Fault> {
        let len = bytes.len() as u64;
        if len > MAX_DATA - self.data {
            return Ok(Some(Outgrown));
        }
        if len == 0 {
            return Ok(None);
        }
        if let Some(outgrown) = self.extend(offset, len, Fill::Data) {
            return Ok(Some(outgrown));
        }
        write(journal, bytes, self.data)?;
        self.hasher.update(bytes);
        self.data += len;
        Ok(None)
    }

    /// Appends a hole of the content. Where the version here has one too, or ends before, nothing is to be done.
    pub(super) fn add_hole(&mut self, offset: u64, len: u64) -> Option<Outgrown> {
        match len == 0 || holes::is_hole(&self.base, offset, len) {
            true => None,
            false => self.extend(offset, len, Fill::Hole),
        }
    }

    fn extend(&mut self, offset: u64, len: u64, fill: Fill) -> Option<Outgrown> {
        let extents = &mut self.body.extents;
        let full = extents.len() == MAX_EXTENTS;
        match extents.last_mut() {
            Some(last) if last.offset + last.len == offset && last.fill == fill => last.len += len,
            _ if full => return Some(Outgrown),
            _ => extents.push(Extent { offset, len, fill }),
        }
        None
    }

    /// Gives out the content up to `end`: the version here with the new bytes laid over it.
    pub(super) fn content(
        &self,
        journal: &File,
        end: u64,
        mut each: impl FnMut(Span<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let (mut at, mut from) = (0, 0);
        for Extent { offset, len, fill } in &self.body.extents {
            self.unchanged(at, *offset, &mut each)?;
            at = offset + len;
            match fill {
                Fill::Data => {
                    read_range(journal, from, *len, &mut each)?;
                    from += len;
                }
                Fill::Hole => each(Span::Zeros(*len))?,
            }
        }
        self.unchanged(at, end, &mut each)
    }

    /// The version here from `at` to `end`. Past its end nothing but a hole is left unchanged.
    fn unchanged(
        &self,
        at: u64,
        end: u64,
        mut each: impl FnMut(Span<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let there = end.min(self.key.size).max(at);
        read_range(&self.base, at, there - at, &mut each)?;
        each(Span::Zeros(end - there))
    }

    /// Writes what comes after the data. The journal is complete, and not durable.
    pub(super) fn seal(&mut self, journal: &File) -> Result<(), Fault> {
        let body = self.body.encode().ok_or(Fault::WrongContent)?;
        // At most MAX_BODY.
        let head = Footer::head(body.len() as u32, self.data);
        self.hasher.update(&body).update(&head);
        let hash = *self.hasher.finalize().as_bytes();
        write(journal, &[&body[..], &head, &hash].concat(), self.data)
    }
}

/// A journal that is carried out, and goes when the file is durable.
#[derive(Debug)]
pub(super) struct Open(Place);

/// Changes what lies at the place, found as `now`, by the sealed journal in `staged`. The file is durable when this
/// returns; the journal is not retired.
///
/// # Errors
/// [`Fault::Unfinished`]: the file may be changed in part, and the journal is open. After any other nothing was changed.
pub(super) fn patch(
    target: &Target<'_>,
    (place, now): (&Place, Option<Stat>),
    redo: &Redo,
    staged: &mut Staged,
) -> Result<(Open, Vec<Fault>), Fault> {
    if now.map(|stat| stat.key()) != Some(redo.key) {
        return Err(Fault::Changed("the differences are to another version"));
    }
    let held = place.open_path()?;
    let stat = Stat::of_fd(held.as_fd())?;
    if stat.key() != redo.key || stat.nlink != 1 || !stat.is_file() {
        return Err(Fault::Changed("the differences are to another version"));
    }
    let file = reopen_for_writing(held.as_fd())?;
    reserve(&file, &stat, redo)?;
    cut::here("before a journal is opened");
    let open = open(target.private, staged)?;
    cut::here("after a journal was opened");
    let journal = staged.file();
    let missed = carry_out(&file, journal, &redo.body).map_err(|fault| unfinished(&fault))?;
    cut::here("after a journal was carried out");
    Ok((open, missed))
}

/// Retires journals whose files are durable. Durable itself when it returns: one that came back would undo what is
/// written after it.
pub(super) fn retire(private: &Private, journals: &[Open]) -> Result<(), Fault> {
    if journals.is_empty() {
        return Ok(());
    }
    cut::here("before journals are retired");
    let gone = journals.iter().try_for_each(|Open(place)| place.unlink());
    gone.and_then(|()| sync_dir(private.redo()))
        .map_err(|fault| unfinished(&fault))
}

/// Carries out and retires every journal that is open. Returns the files that were completed.
///
/// # Errors
/// The tree must not be used: a file in it is half one version and half the next. [`Fault::Journal`] names a journal
/// that cannot be read; without it the file stays as it is, and is repaired by the source.
pub fn finish_journals(root: &Root, private: &Private) -> Result<Vec<RelPath>, Fault> {
    let mut finished = Vec::new();
    for name in names(private.redo())? {
        let place = Place::new(duplicate(private.redo())?, &name)?;
        let bad = |bad: BadJournal| Fault::Journal {
            name: place.name().to_string_lossy().into_owned(),
            why: bad,
        };
        let journal = place.open_file()?;
        let body = read(&journal)?.map_err(bad)?;
        match its_file(root, &body)? {
            Some(file) => {
                carry_out(&file, &journal, &body)?;
                finished.push(body.path);
            }
            None => tracing::warn!(
                path = %body.path,
                "a file that was being changed in place is gone or is another one now"
            ),
        }
        place.unlink()?;
        sync_dir(private.redo())?;
    }
    Ok(finished)
}

/// The file that a journal is for, open for writing; `None` when another one or none lies there.
fn its_file(root: &Root, body: &Body) -> Result<Option<File>, Fault> {
    let held = match root.open_path(&body.path) {
        Ok(held) => held,
        Err(Fault::Missing | Fault::NotBeneath) => return Ok(None),
        Err(fault) => return Err(fault),
    };
    let stat = Stat::of_fd(held.as_fd())?;
    let same = (stat.ino, stat.born_ns) == (body.ino, Some(body.born_ns));
    match stat.is_file() && same {
        true => reopen_for_writing(held.as_fd()).map(Some),
        false => Ok(None),
    }
}

/// Reads a journal and checks all of it.
fn read(journal: &File) -> Result<Result<Body, BadJournal>, Fault> {
    let length = Stat::of_fd(journal.as_fd())?.size;
    let Some(end) = length.checked_sub(FOOTER as u64) else {
        return Ok(Err(BadJournal::Footer));
    };
    let mut bytes = [0; FOOTER];
    exactly(journal, &mut bytes, end)?;
    let footer = match Footer::decode(&bytes, length) {
        Ok(footer) => footer,
        Err(bad) => return Ok(Err(bad)),
    };
    // At most MAX_BODY.
    let mut body = vec![0; footer.body as usize];
    exactly(journal, &mut body, footer.data)?;
    let mut hasher = blake3::Hasher::new();
    read_range(journal, 0, footer.data, |span| {
        span.feed(|bytes| {
            hasher.update(bytes);
        });
        Ok(())
    })?;
    hasher.update(&body).update(&bytes[..FOOTER - 32]);
    if *hasher.finalize().as_bytes() != footer.hash {
        return Ok(Err(BadJournal::Checksum));
    }
    Ok(Body::decode(&body, footer.data))
}

/// Room for what the file does not have yet, so that a full disk is known while nothing is changed. Where blocks are
/// only overwritten no room is needed, but on file systems that never overwrite: those show it when writing.
fn reserve(file: &File, stat: &Stat, redo: &Redo) -> Result<(), Fault> {
    let found = rustix::fs::fstat(file).map_err(|e| Fault::os("stat", e))?;
    // `st_blocks` counts 512 bytes each, whatever the file system's own block is.
    let blocks = u64::try_from(found.st_blocks).unwrap_or(0);
    let sparse = blocks.saturating_mul(512) < stat.size;
    for Extent { offset, len, fill } in &redo.body.extents {
        if *fill == Fill::Hole || (!sparse && offset + len <= stat.size) {
            continue;
        }
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, *offset, *len) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(errno) => return Err(Fault::os("fallocate", errno)),
        }
    }
    Ok(())
}

fn open(private: &Private, staged: &mut Staged) -> Result<Open, Fault> {
    let place = Place::new(duplicate(private.redo())?, private.new_name().as_bytes())?;
    staged.place().rename_new(&place)?;
    staged.set_moved();
    match sync_dir(private.redo()) {
        Ok(()) => Ok(Open(place)),
        Err(fault) => {
            // Nothing was changed yet: whether or not the removal is durable, the journal changes what it was made for.
            tracing::error!(%fault, "a journal cannot be made durable");
            Err(unfinished(&fault))
        }
    }
}

/// Makes the file what the journal says, durably. Gives what of the attributes could not be applied.
///
/// Where the new content comes with another owner, mode or ACL nobody may read it by the old ones, nor the old content by the new
/// ones: the file is shut first, and that is on the disk before the first new byte can be.
fn carry_out(file: &File, journal: &File, body: &Body) -> Result<Vec<Fault>, Fault> {
    if !meta::is_but_time(file, &body.state.meta) {
        meta::shut(file)?;
        rustix::fs::fsync(file).map_err(|e| Fault::os("fsync", e))?;
        cut::here("after a file was shut");
    }
    let size = body.state.kind.size();
    let length = || file.metadata().map(|m| m.len());
    let set_length = || file.set_len(size).map_err(|e| Fault::io("truncate", &e));
    if length().map_err(|e| Fault::io("stat", &e))? > size {
        set_length()?;
    }
    let mut from = 0;
    for Extent { offset, len, fill } in &body.extents {
        cut::here("before an extent is written");
        if *fill == Fill::Hole {
            holes::punch(file, *offset, *len)?;
            continue;
        }
        let mut at = *offset;
        read_range(journal, from, *len, |span| {
            span.each(|bytes| {
                write(file, bytes, at)?;
                at += bytes.len() as u64;
                Ok(())
            })
        })?;
        from += len;
    }
    // A hole at the end. Not before: who reads a file that grows would see zeros where its end is still to come.
    if length().map_err(|e| Fault::io("stat", &e))? < size {
        set_length()?;
    }
    cut::here("before attributes are applied in place");
    let missed = meta::apply(file.as_fd(), &body.state.meta)?;
    rustix::fs::fsync(file).map_err(|e| Fault::os("fsync", e))?;
    Ok(missed)
}

/// The tree stands still until the open journals are carried out.
pub(super) fn unfinished(fault: &Fault) -> Fault {
    let errno = fault.errno().unwrap_or(libc::EIO);
    Fault::Unfinished { errno }
}

fn sync_dir(dir: BorrowedFd<'_>) -> Result<(), Fault> {
    rustix::fs::fsync(dir).map_err(|e| Fault::os("fsync directory", e))
}

fn write(file: &File, bytes: &[u8], at: u64) -> Result<(), Fault> {
    file.write_all_at(bytes, at)
        .map_err(|e| Fault::io("write", &e))
}

fn exactly(file: &File, bytes: &mut [u8], at: u64) -> Result<(), Fault> {
    file.read_exact_at(bytes, at)
        .map_err(|e| Fault::io("read", &e))
}

#[cfg(test)]
mod tests;
