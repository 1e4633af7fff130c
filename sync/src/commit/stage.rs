//! Contents on their way: written into the staging directory, verified, and not visible in the tree.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::beneath::Place;
use crate::entry::ContentHash;
use crate::fault::Fault;
use crate::private::Private;

/// From this size on the room is reserved before the first byte, so that a full disk is known early. Smaller files
/// gain nothing, and reserving would cost them the file system's delayed allocation.
const RESERVE_FROM: u64 = 1 << 20;
/// Bytes per step when a part of another file is copied.
const COPY_CHUNK: usize = 256 * 1024;

/// A content that is being written. Dropping it removes it.
#[derive(Debug)]
pub struct Staging {
    staged: Staged,
    hasher: blake3::Hasher,
    written: u64,
    announced: u64,
}

/// A complete, verified content in the staging directory. Dropping it removes it, unless it was moved into a tree.
#[derive(Debug)]
pub struct Staged {
    place: Place,
    file: File,
    moved: bool,
}

impl Staging {
    /// Begins a content of `announced` bytes. [`Fault::NoSpace`] if there is no room for it.
    pub fn begin(private: &Private, announced: u64) -> Result<Staging, Fault> {
        let place = private.staging_place()?;
        let file = place.create_new()?;
        let staged = Staged {
            place,
            file,
            moved: false,
        };
        if announced >= RESERVE_FROM {
            match rustix::fs::fallocate(&staged.file, FallocateFlags::empty(), 0, announced) {
                // A file system without reservation; a full disk shows when writing.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                Err(errno) => return Err(Fault::os("fallocate", errno)),
            }
        }
        Ok(Staging {
            staged,
            hasher: blake3::Hasher::new(),
            written: 0,
            announced,
        })
    }

    /// Appends bytes. More than announced are refused.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let after = self.written.saturating_add(bytes.len() as u64);
        if after > self.announced {
            return Err(Fault::WrongContent);
        }
        self.staged
            .file
            .write_all(bytes)
            .map_err(|e| Fault::io("write", &e))?;
        self.hasher.update(bytes);
        self.written = after;
        Ok(())
    }

    /// Appends `length` bytes of `basis` from `offset` on. A basis that is too short is [`Fault::WrongContent`]: it
    /// changed.
    pub fn copy_from(&mut self, basis: &File, offset: u64, length: u64) -> Result<(), Fault> {
        let mut left = length;
        let mut at = offset;
        let room = usize::try_from(length).unwrap_or(COPY_CHUNK);
        let mut buffer = vec![0u8; room.min(COPY_CHUNK)];
        while left > 0 {
            let want = usize::try_from(left)
                .unwrap_or(COPY_CHUNK)
                .min(buffer.len());
            let got = match basis.read_at(&mut buffer[..want], at) {
                Ok(0) => return Err(Fault::WrongContent),
                Ok(got) => got,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Fault::io("read basis", &error)),
            };
            self.write(&buffer[..got])?;
            at += got as u64;
            left -= got as u64;
        }
        Ok(())
    }

    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Ends the content. [`Fault::WrongContent`] if it has not the announced size and this hash.
    pub fn finish(self, hash: ContentHash) -> Result<Staged, Fault> {
        let found: ContentHash = self.hasher.finalize().into();
        if self.written != self.announced || found != hash {
            return Err(Fault::WrongContent);
        }
        Ok(self.staged)
    }
}

impl Staged {
    /// A whole small content at once.
    pub fn whole(private: &Private, bytes: &[u8], hash: ContentHash) -> Result<Staged, Fault> {
        let mut staging = Staging::begin(private, bytes.len() as u64)?;
        staging.write(bytes)?;
        staging.finish(hash)
    }

    /// The content, for reading at offsets.
    pub fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// It was moved into the tree: nothing is left to remove.
    pub(super) fn set_moved(&mut self) {
        self.moved = true;
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.moved
            && let Err(fault) = self.place.unlink()
        {
            // What stays is removed when the tree is opened the next time.
            tracing::debug!(%fault, "a staged file could not be removed");
        }
    }
}
