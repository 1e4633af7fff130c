//! Contents of a consistent set on the source: each changed file as it was while the tree was held still.
//!
//! ```text
//!   .tandem/set/HASH    a content by its BLAKE3, until the standby has it
//!   .tandem/set/NAME    one that is being made
//! ```
//! A clone where the file system can (one call, no data), else a copy. Nothing is made durable: who reads a content
//! compares its hash, and a set whose contents a crash lost is taken anew.

use std::fs::File;
use std::os::fd::AsFd;

use crate::beneath::{Place, Root};
use crate::entry::{ContentHash, LocalKey};
use crate::fault::Fault;
use crate::holes;
use crate::path::RelPath;
use crate::private::{Private, duplicate, remove_below};
use crate::stat::Stat;

/// Keeps the content of a file, which must be the version with this key before and after.
///
/// # Errors
/// [`Fault::Changed`]: the tree did not hold still.
pub(crate) fn keep(
    root: &Root,
    private: &Private,
    path: &RelPath,
    (hash, key): (ContentHash, LocalKey),
) -> Result<(), Fault> {
    let place = at(private, hash)?;
    if place.stat()?.is_some_and(|found| found.size == key.size) {
        return Ok(());
    }
    let still = |file: &File| match Stat::of_fd(file.as_fd())?.key() == key {
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
        Err(_) => holes::copy(&file, key.size, &copy, 0),
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
    use std::io::Read;

    #[test]
    fn a_content_is_kept_as_it_was_and_only_if_it_holds_still() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "then").unwrap();
        let root = Root::open(dir.path(), false).unwrap();
        let private = Private::open(&root).unwrap();
        let path = RelPath::new("f").unwrap();
        let key = root.stat(&path).unwrap().unwrap().key();
        let hash = ContentHash::of(b"then");
        assert!(open(&private, hash).is_none());
        let older = LocalKey { mtime_ns: 1, ..key };
        let moved = keep(&root, &private, &path, (hash, older));
        assert!(matches!(moved, Err(Fault::Changed(_))), "{moved:?}");
        keep(&root, &private, &path, (hash, key)).unwrap();
        std::fs::write(dir.path().join("f"), "now").unwrap();
        let mut found = String::new();
        let mut file = open(&private, hash).unwrap();
        file.read_to_string(&mut found).unwrap();
        assert_eq!(found, "then");
        clear(&private).unwrap();
        assert!(open(&private, hash).is_none());
    }
}
