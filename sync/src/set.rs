//! Contents that the source keeps to send them: each changed file of a consistent set as it was while the tree was held still,
//! and copies of files that never rest.
//!
//! ```text
//!   .tandem/set/HASH    a content by its BLAKE3, until the standby has it or another one
//!   .tandem/set/NAME    one that is being made
//! ```
//! A clone where the file system can (one call, no data), else a copy. Nothing is made durable: who reads a content
//! compares its hash. One that a crash took or spoiled is removed; then the file in the tree is read, and if that is another one by
//! now the set is taken anew.

use std::fs::File;
use std::os::fd::AsFd;

use crate::beneath::{Place, Root};
use crate::entry::{ContentHash, LocalKey};
use crate::fault::Fault;
use crate::hash::{Ends, hash_unless};
use crate::holes;
use crate::path::RelPath;
use crate::private::{Private, duplicate, remove_below};
use crate::stat::Stat;

/// Keeps the content of a file, which must be the version with this key before and after, unless `ends` says that it takes
/// too long.
///
/// # Errors
/// [`Fault::Changed`]: the tree did not hold still, or it ended.
pub(crate) fn keep(
    root: &Root,
    private: &Private,
    path: &RelPath,
    (hash, key): (ContentHash, LocalKey),
    ends: Ends<'_>,
) -> Result<(), Fault> {
    let place = at(private, hash)?;
    if place.stat()?.is_some_and(|found| found.size == key.size) {
        return Ok(());
    }
    let still = |file: &File| match root.sees(Stat::of_fd(file.as_fd())?).key() == key {
        true => Ok(()),
        false => Err(Fault::Changed("it does not hold still")),
    };
    let file = root.open_file(path)?;
    still(&file)?;
    let name = private.new_name();
    let making = Place::new(duplicate(private.set())?, name.as_bytes())?;
    let copy = making.create_new()?;
    let made = match rustix::fs::ioctl_ficlone(&copy, &file) {
        Ok(()) => Ok(()),
        Err(_) => holes::copy_unless(&file, key.size, (&copy, 0), ends),
    };
    let kept = made
        .and_then(|()| still(&file))
        .and_then(|()| making.rename_over(&place));
    if kept.is_err() {
        // What stays is removed with the set.
        let _ = making.unlink();
    }
    kept
}

/// A copy of what a file had though it did not hold still. Dropping it lets go of it, unless it was kept.
#[derive(Debug)]
pub(crate) struct Taken {
    making: Place,
    pub hash: ContentHash,
    pub size: u64,
}

impl Drop for Taken {
    fn drop(&mut self) {
        // Nothing lies there any more if it was kept. What stays is removed when the tree is opened the next time.
        let _ = self.making.unlink();
    }
}

impl Taken {
    /// It is to be sent.
    pub fn keep(&self, private: &Private) -> Result<(), Fault> {
        self.making.rename_over(&at(private, self.hash)?)
    }
}

/// Copies what a file has now, though it does not hold still: as it is at this moment where the file system can clone, else
/// as it is met while it is copied. A copy takes at most a quarter of the free room. It is given up when `ends` says that it takes
/// too long.
pub(crate) fn take_as_it_is(
    root: &Root,
    private: &Private,
    path: &RelPath,
    ends: Ends<'_>,
) -> Result<Taken, Fault> {
    let file = root.open_file(path)?;
    let name = private.new_name();
    let making = Place::new(duplicate(private.set())?, name.as_bytes())?;
    let copy = making.create_new()?;
    let made = match rustix::fs::ioctl_ficlone(&copy, &file) {
        Ok(()) => Ok(()),
        Err(_) => copy_now(&file, &copy, ends),
    };
    match made.and_then(|()| hash_unless(&copy, ends)) {
        Ok(hashed) => Ok(Taken {
            making,
            hash: hashed.hash,
            size: hashed.size,
        }),
        Err(fault) => {
            // What stays is removed when the tree is opened the next time.
            let _ = making.unlink();
            Err(fault)
        }
    }
}

fn copy_now(file: &File, copy: &File, ends: Ends<'_>) -> Result<(), Fault> {
    let size = Stat::of_fd(file.as_fd())?.size;
    let room = rustix::fs::fstatvfs(copy).map_err(|e| Fault::os("statvfs", e))?;
    if holes::room(file, size) > room.f_bavail.saturating_mul(room.f_frsize) / 4 {
        return Err(Fault::os("copy", rustix::io::Errno::NOSPC));
    }
    // Not further: a file that grows all the time would never end.
    holes::copy_unless(file, size, (copy, 0), ends)
}

/// Nobody needs this content any more.
pub(crate) fn remove(private: &Private, hash: ContentHash) -> Result<(), Fault> {
    match at(private, hash)?.unlink() {
        Err(Fault::Missing) => Ok(()),
        done => done,
    }
}

/// A content that is kept.
pub(crate) fn open(private: &Private, hash: ContentHash) -> Option<File> {
    at(private, hash).ok()?.open_file().ok()
}

/// Nobody needs the contents any more.
pub(crate) fn clear(private: &Private) -> Result<(), Fault> {
    remove_below(private.set(), 0).map(drop)
}

fn at(private: &Private, hash: ContentHash) -> Result<Place, Fault> {
    Place::new(duplicate(private.set())?, hash.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::TO_ITS_END;
    use std::io::Read;

    #[test]
    fn a_content_is_kept_as_it_was_and_only_if_it_holds_still() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "then").unwrap();
        let root = Root::open(dir.path()).unwrap();
        let private = Private::open(&root).unwrap();
        let path = RelPath::new("f").unwrap();
        let key = root.stat(&path).unwrap().unwrap().key();
        let hash = ContentHash::of(b"then");
        assert!(open(&private, hash).is_none());
        let older = LocalKey { mtime_ns: 1, ..key };
        let moved = keep(&root, &private, &path, (hash, older), TO_ITS_END);
        assert!(matches!(moved, Err(Fault::Changed(_))), "{moved:?}");
        keep(&root, &private, &path, (hash, key), TO_ITS_END).unwrap();
        std::fs::write(dir.path().join("f"), "now").unwrap();
        let mut found = String::new();
        let mut file = open(&private, hash).unwrap();
        file.read_to_string(&mut found).unwrap();
        assert_eq!(found, "then");
        clear(&private).unwrap();
        assert!(open(&private, hash).is_none());
    }

    #[test]
    fn a_copy_that_takes_too_long_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "content").unwrap();
        let root = Root::open(dir.path()).unwrap();
        let private = Private::open(&root).unwrap();
        let path = RelPath::new("f").unwrap();
        let key = root.stat(&path).unwrap().unwrap().key();
        let hash = ContentHash::of(b"content");
        let kept = keep(&root, &private, &path, (hash, key), &|| true);
        if kept.is_ok() {
            return tandem_lab::skipped("the file system clones: no copy takes long");
        }
        assert_eq!(kept, Err(crate::hash::NOT_READ));
        assert_eq!(crate::private::names(private.set()).unwrap().len(), 0);
    }

    #[test]
    fn a_content_is_kept_as_it_is_now() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "now").unwrap();
        let root = Root::open(dir.path()).unwrap();
        let private = Private::open(&root).unwrap();
        let path = RelPath::new("f").unwrap();
        let names = || crate::private::names(private.set()).unwrap().len();
        let taken = || take_as_it_is(&root, &private, &path, TO_ITS_END).unwrap();
        let hash = ContentHash::of(b"now");
        for kept in [true, false] {
            let taken = taken();
            assert_eq!((taken.hash, taken.size, names()), (hash, 3, 1));
            if !kept {
                drop(taken);
                assert_eq!(names(), 0, "it was not kept");
                continue;
            }
            taken.keep(&private).unwrap();
            drop(taken);
            let mut found = String::new();
            let mut file = open(&private, hash).unwrap();
            file.read_to_string(&mut found).unwrap();
            assert_eq!(found, "now");
            remove(&private, hash).unwrap();
            remove(&private, hash).unwrap();
            assert!(open(&private, hash).is_none());
        }
    }
}
