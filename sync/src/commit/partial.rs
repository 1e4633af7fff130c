//! Contents of large files that a cut left unfinished. They stay, and the next transfer of the path goes on with them.
//!
//! A large content is received into `.tandem/partial/HASH-NAME`: HASH is of the path, NAME was never given out before.
//! The file's length is how much of it came, so nothing else must be durable for it: what a cut, a `kill -9` or a power
//! cut leaves is only ever a basis of the next transfer, whose chunks are compared by their hashes and whose result
//! by the hash of the whole. Where the file system has reflinks the file begins as a clone of the version in the tree, and what a
//! cut leaves is the new version followed by the rest of the old one. Who uses a file holds its `flock`, which the kernel ends with the process.
//!
//! The room is bounded: a source sends one content at a time and has at most [`WINDOW`](crate::wire::WINDOW) batches
//! under way. What is superseded goes when the path is received, when the replica has caught up, when the node becomes
//! the source, when the tree leaves the configuration, and when the room is needed.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::beneath::Place;
use crate::fault::Fault;
use crate::path::RelPath;
use crate::private::{Private, duplicate, names};
use crate::stat::Stat;

/// Hexadecimal digits of the path's hash in the name: 128 bits, so that two paths never share one.
const DIGITS: usize = 32;

/// What came of an earlier transfer, held by this process alone.
#[derive(Debug)]
pub struct Partial {
    pub(super) place: Place,
    pub(super) file: File,
    length: u64,
}

impl Partial {
    /// The longest content that an earlier transfer of the path left. Shorter ones are removed.
    pub fn take(private: &Private, path: &RelPath) -> Option<Partial> {
        let prefix = prefix(path);
        let mut best: Option<Partial> = None;
        for name in names(private.partial()).ok()? {
            let Some(found) = name
                .starts_with(prefix.as_bytes())
                .then(|| open(private, &name))
                .flatten()
            else {
                continue;
            };
            let worse = match &best {
                Some(before) if before.length >= found.length => Some(found),
                _ => best.replace(found),
            };
            worse.into_iter().for_each(Partial::remove);
        }
        best
    }

    /// Bytes that came.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Nothing came.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The content, for reading at offsets.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Removes it.
    pub fn remove(self) {
        if let Err(fault) = self.place.unlink() {
            tracing::debug!(%fault, "a partial content could not be removed");
        }
    }
}

/// A clone of the version that lies at the path, which shares its blocks. `None` where the file system cannot.
pub fn clone_as_partial(private: &Private, path: &RelPath, file: &File) -> Option<Partial> {
    let (place, clone) = new_partial(private, path).ok()?;
    let cloned = rustix::fs::ioctl_ficlone(&clone, file);
    let length = cloned
        .ok()
        .and_then(|()| Some(clone.metadata().ok()?.len()));
    let partial = Partial {
        place,
        file: clone,
        length: length.unwrap_or(0),
    };
    if length.is_none() {
        partial.remove();
        return None;
    }
    Some(partial)
}

/// A new place for a content of the path, opened and held.
pub fn new_partial(private: &Private, path: &RelPath) -> Result<(Place, File), Fault> {
    let name = format!("{}-{}", prefix(path), private.new_name());
    let place = Place::new(duplicate(private.partial())?, name.as_bytes())?;
    let file = place.create_new()?;
    // A file system without locks: two sessions of one process could take one file, and the content's hash would show it.
    let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
    Ok((place, file))
}

/// Removes what no transfer holds. Returns how many went.
pub fn clear_partials(private: &Private) -> Result<usize, Fault> {
    let mut removed = 0;
    for name in names(private.partial())? {
        if let Some(partial) = open(private, &name) {
            partial.remove();
            removed += 1;
        }
    }
    Ok(removed)
}

fn prefix(path: &RelPath) -> String {
    let hash = blake3::hash(path.as_bytes()).to_hex();
    hash[..DIGITS].to_owned()
}

/// Opens and holds a file; `None` for one that somebody else holds, and for what is no regular file of one name.
fn open(private: &Private, name: &[u8]) -> Option<Partial> {
    let place = Place::new(duplicate(private.partial()).ok()?, name).ok()?;
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(
        private.partial(),
        OsStr::from_bytes(name),
        flags,
        Mode::empty(),
    );
    let file = File::from(fd.ok()?);
    let stat = Stat::of_fd(file.as_fd()).ok()?;
    if stat.file_type() != rustix::fs::FileType::RegularFile || stat.nlink != 1 {
        return None;
    }
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    let length = stat.size;
    Some(Partial {
        place,
        file,
        length,
    })
}

#[cfg(test)]
mod tests;
