//! Small files that are made at once with all that they are: content, metadata, and in the end their key. Nothing of them
//! stays open, so that a batch may hold thousands.
//!
//! The files of a directory that is new are made in a directory of their own in staging, under their final names. When
//! nothing else is in it, it becomes the directory in the tree by one rename, which changes none of their keys.

use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::inplace::Redo;
use super::stage::Staged;
use crate::beneath::Place;
use crate::entry::{ContentHash, LocalKey, Meta};
use crate::fault::Fault;
use crate::holes;
use crate::meta;
use crate::private::Private;
use crate::stat::Stat;

/// A directory that is being filled in staging. Dropping the last reference removes it, unless it was moved.
#[derive(Debug)]
pub struct Aside {
    place: Place,
    dir: Arc<OwnedFd>,
    moved: AtomicBool,
}

impl Aside {
    /// An empty one.
    pub fn new(private: &Private) -> Result<Arc<Aside>, Fault> {
        let place = private.staging_place()?;
        place.mkdir()?;
        let dir = Arc::new(place.open_dir()?);
        Ok(Arc::new(Aside {
            place,
            dir,
            moved: AtomicBool::new(false),
        }))
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn set_moved(&self) {
        self.moved.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_moved(&self) -> bool {
        self.moved.load(Ordering::Relaxed)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.is_moved()
            && let Err(fault) = self.place.rmdir()
        {
            // What stays is removed when the tree is opened the next time.
            tracing::debug!(%fault, "a staged directory could not be removed");
        }
    }
}

/// A complete small file in staging. Dropping it removes it, unless it was moved into a tree.
#[derive(Debug)]
pub struct Complete {
    place: Place,
    missed: Vec<Fault>,
    key: LocalKey,
    aside: Option<Arc<Aside>>,
    moved: bool,
}

impl Complete {
    /// Makes a file of these bytes, of which some are holes: in a directory that is built aside, under its name there, or by itself.
    /// [`Fault::WrongContent`] if the content has not this hash; nothing is made then.
    pub fn make(
        private: &Private,
        aside: Option<(Arc<Aside>, &[u8])>,
        (content, gaps): (&[u8], &[Range<usize>]),
        hash: ContentHash,
        want: &Meta,
    ) -> Result<Complete, Fault> {
        if ContentHash::of(content) != hash {
            return Err(Fault::WrongContent);
        }
        let (place, aside) = match aside {
            Some((aside, name)) => (Place::shared(Arc::clone(&aside.dir), name)?, Some(aside)),
            None => (private.staging_place()?, None),
        };
        let file = place.create_with_mode(want.mode)?;
        let made = fill(&file, content, gaps, want);
        match made {
            Ok((missed, key)) => Ok(Complete {
                place,
                missed,
                key,
                aside,
                moved: false,
            }),
            Err(fault) => {
                // The first reason counts; what stays is removed when the tree is opened the next time.
                let _ = place.unlink();
                Err(fault)
            }
        }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn take_missed(&mut self) -> Vec<Fault> {
        std::mem::take(&mut self.missed)
    }

    /// The directory that it is built in.
    pub(super) fn aside(&self) -> Option<&Arc<Aside>> {
        self.aside.as_ref()
    }

    /// Its key, if the directory that it was built in is in the tree, and so is this file.
    pub(super) fn key_in_place(&self) -> Option<LocalKey> {
        let moved = self.aside.as_ref().is_some_and(|aside| aside.is_moved());
        moved.then_some(self.key)
    }

    /// It was moved into the tree: nothing is left to remove.
    pub(super) fn set_moved(&mut self) {
        self.moved = true;
    }
}

fn fill(
    file: &File,
    content: &[u8],
    gaps: &[Range<usize>],
    want: &Meta,
) -> Result<(Vec<Fault>, LocalKey), Fault> {
    let mut at = 0;
    for gap in gaps {
        write(file, &content[at..gap.start], at)?;
        at = gap.end;
    }
    write(file, &content[at..], at)?;
    if !gaps.is_empty() {
        holes::lengthen(file, content.len() as u64)?;
    }
    let missed = meta::apply_new(file, want)?;
    let key = Stat::of_fd(std::os::fd::AsFd::as_fd(file))?.key();
    Ok((missed, key))
}

fn write(file: &File, bytes: &[u8], at: usize) -> Result<(), Fault> {
    match bytes.is_empty() {
        true => Ok(()),
        false => file
            .write_all_at(bytes, at as u64)
            .map_err(|e| Fault::io("write", &e)),
    }
}

impl Drop for Complete {
    fn drop(&mut self) {
        if self.moved || self.key_in_place().is_some() {
            return;
        }
        if let Err(fault) = self.place.unlink() {
            // What stays is removed when the tree is opened the next time.
            tracing::debug!(%fault, "a staged file could not be removed");
        }
    }
}

/// The content for a step that puts a regular file.
#[derive(Debug)]
pub enum Content {
    /// Written piece by piece, its metadata still to come.
    Staged(Staged),
    /// Made at once.
    Complete(Complete),
}

impl Content {
    /// It is the journal of a change in place, and no content.
    pub fn is_redo(&self) -> bool {
        matches!(self, Content::Staged(staged) if staged.redo().is_some())
    }

    /// It is one by which a file only becomes longer.
    pub fn only_grows(&self) -> bool {
        matches!(self, Content::Staged(staged) if staged.redo().is_some_and(Redo::only_grows))
    }

    /// Opens it for reading at offsets.
    pub fn open(&self) -> Result<File, Fault> {
        match self {
            Content::Staged(staged) => staged.file().try_clone().map_err(|e| Fault::io("dup", &e)),
            Content::Complete(complete) => complete.place.open_to_read(),
        }
    }
}
