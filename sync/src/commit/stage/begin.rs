//! The ways in which a content begins: empty, on what a cut transfer left, on a clone, as a journal of a file that is changed in
//! place.

use super::{Staged, Staging};
use crate::beneath::Place;
use crate::commit::inplace::Redo;
use crate::commit::partial::{self, Partial};
use crate::entry::ContentHash;
use crate::fault::Fault;
use crate::holes;
use crate::path::RelPath;
use crate::private::Private;
use crate::tail::{Tail, TailHasher};
use std::fs::File;

impl Staging {
    /// Begins a content of `announced` bytes.
    pub fn begin(private: &Private, announced: u64) -> Result<Staging, Fault> {
        let place = private.staging_place()?;
        let file = place.create_new()?;
        Ok(Staging::new((place, file), false, announced))
    }

    /// Begins a content whose part stays when the transfer is cut; see [`Partial`].
    pub fn begin_lasting(
        private: &Private,
        path: &RelPath,
        announced: u64,
    ) -> Result<Staging, Fault> {
        let at = partial::new_partial(private, path)?;
        Ok(Staging::new(at, true, announced))
    }

    /// Goes on with what an earlier transfer left, of which the first `kept` bytes are of use. They are no part of
    /// the content until [`Staging::keep`] takes them.
    pub fn resume(
        private: &Private,
        path: &RelPath,
        partial: Partial,
        kept: u64,
        announced: u64,
    ) -> Result<Staging, Fault> {
        partial
            .file
            .set_len(kept)
            .map_err(|e| Fault::io("truncate", &e))?;
        let other = Staged::at(partial::new_partial(private, path)?, false);
        let mut staging = Staging::new((partial.place, partial.file), true, announced);
        (staging.kept, staging.other) = (kept, Some(other));
        Ok(staging)
    }

    /// Begins a content as a clone of the file that it is a new version of: it shares its blocks, and what stays as it is
    /// is not written. What is made of it before it is complete serves as what a cut left.
    pub fn over(clone: Partial, announced: u64) -> Staging {
        let kept = clone.len();
        let mut staging = Staging::new((clone.place, clone.file), true, announced);
        staging.kept = kept;
        staging
    }

    /// A content that a file here has: shared where the file system can, else copied.
    pub fn same(
        private: &Private,
        file: &File,
        size: u64,
        hash: ContentHash,
    ) -> Result<Staged, Fault> {
        let mut staging = Staging::begin(private, size)?;
        match rustix::fs::ioctl_ficlone(&staging.staged.file, file) {
            Ok(()) => {
                // Read from the clone: nobody else can change it.
                staging.kept = size;
                staging.keep(size)?;
            }
            Err(_) => {
                staging.reserve(holes::room(file, size))?;
                staging.copy_from(file, 0, size)?;
            }
        }
        staging.finish(hash)
    }

    /// Begins a content that will change a file in place: only what is new of it is written.
    pub fn begin_in_place(private: &Private, redo: Redo, announced: u64) -> Result<Staging, Fault> {
        let other = Staged::at(partial::new_partial(private, redo.path())?, false);
        let place = private.staging_place()?;
        let file = place.create_new()?;
        let mut staging = Staging::new((place, file), false, announced);
        staging.staged.redo = Some(Box::new(redo));
        staging.other = Some(other);
        Ok(staging)
    }

    /// Begins a content that goes on from the version here, of which `tail` is the end: only what is new is written, and
    /// only the old end is read.
    pub fn begin_grown(
        private: &Private,
        redo: Redo,
        tail: Tail,
        announced: u64,
    ) -> Result<Staging, Fault> {
        let mut staging = Staging::begin_in_place(private, redo, announced)?;
        staging.grows = Some(tail);
        Ok(staging)
    }

    fn new(at: (Place, File), stays: bool, announced: u64) -> Staging {
        Staging {
            staged: Staged::at(at, stays),
            hasher: TailHasher::new(announced),
            written: 0,
            announced,
            room: 0,
            kept: 0,
            other: None,
            grows: None,
            known: None,
        }
    }
}
