//! A complete content that waits for its place in the tree.

use super::Staging;
use crate::beneath::Place;
use crate::chunks::Chunks;
use crate::commit::inplace::Redo;
use crate::entry::{ContentHash, Meta};
use crate::fault::Fault;
use crate::meta;
use crate::private::Private;
use crate::tail::Tail;
use std::fs::File;

/// Less than one chunk of a comparison ([`crate::delta::chunk_size`]) is of no use to the next transfer.
const LEAST: u64 = 64 << 10;

/// A complete, verified content in the staging directory. Dropping it removes it, unless it was moved into a tree or
/// is one that a later transfer may go on with.
#[derive(Debug)]
pub struct Staged {
    place: Place,
    pub(super) file: File,
    moved: bool,
    /// What is there stays when this is dropped.
    pub(super) stays: bool,
    /// The file is a journal: not the content, but what changes the version here into it.
    pub(super) redo: Option<Box<Redo>>,
    /// The end of the content, for a longer one.
    pub(super) tail: Option<Box<Tail>>,
    /// The attributes that it got already, and which of them it could not get.
    dressed: Option<Box<(Meta, Vec<Fault>)>>,
    /// What the content is made of, for a later one.
    pub(super) chunks: Option<Chunks>,
    /// The disk has begun with it as it is: whoever waits for the disk waits for this.
    underway: Option<Underway>,
}

/// Where the result of a wait for the disk comes, which another thread does.
type Underway = std::sync::mpsc::Receiver<std::io::Result<()>>;

impl Staged {
    pub(super) fn at((place, file): (Place, File), stays: bool) -> Staged {
        Staged {
            place,
            file,
            moved: false,
            stays,
            redo: None,
            tail: None,
            chunks: None,
            dressed: None,
            underway: None,
        }
    }

    /// What makes the disk begin with all of it, to be run by another thread; `Staged::sync` waits for that. `None`: the
    /// system has no descriptor for it.
    pub fn sync_ahead(&mut self) -> Option<impl FnOnce() + Send + use<>> {
        let file = self.file.try_clone().ok()?;
        let (result, underway) = std::sync::mpsc::sync_channel(1);
        self.underway = Some(underway);
        Some(move || {
            // Whoever threw the content away waits for nothing.
            let _ = result.send(file.sync_all());
        })
    }

    /// The disk has begun with it.
    pub(in crate::commit) fn is_underway(&self) -> bool {
        self.underway.is_some()
    }

    /// Returns when all of it is on the disk.
    pub(in crate::commit) fn sync(&mut self) -> Result<(), Fault> {
        let begun = self.underway.take().map(|underway| underway.recv());
        let synced = match begun {
            Some(Ok(synced)) => synced,
            // Nobody ran it.
            Some(Err(_)) | None => self.file.sync_all(),
        };
        synced.map_err(|e| Fault::io("fsync", &e))
    }

    /// Gives it the attributes of the state that it is for, before anybody waits for it. An error shows itself again when
    /// it is put in its place.
    pub fn dress(&mut self, meta: &Meta) {
        let missed = meta::apply_open(&self.file, meta);
        self.dressed = missed.ok().map(|missed| Box::new((meta.clone(), missed)));
    }

    /// It has these attributes from here on. Gives those that it could not get.
    pub fn dressed(&mut self, meta: &Meta) -> Result<Vec<Fault>, Fault> {
        match self.dressed.take() {
            Some(dressed) if dressed.0 == *meta => Ok(dressed.1),
            _ => {
                // What the disk has begun with is not all any more.
                self.underway = None;
                meta::apply_open(&self.file, meta)
            }
        }
    }

    /// The end of the content, for a longer one that may follow.
    pub fn take_tail(&mut self) -> Option<Tail> {
        self.tail.take().map(|tail| *tail)
    }

    /// What the content is made of, for a later one that may follow.
    pub fn take_chunks(&mut self) -> Option<Chunks> {
        self.chunks.take()
    }

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

    /// Removes it.
    pub(in crate::commit) fn discard(mut self) {
        self.stays = false;
    }

    /// It is the content, and nobody goes on with it after a cut.
    pub fn is_new(&self) -> bool {
        !self.stays && self.redo.is_none()
    }

    /// It is a journal.
    pub fn redo(&self) -> Option<&Redo> {
        self.redo.as_deref()
    }

    /// The journal, to be carried out.
    pub(in crate::commit) fn take_redo(&mut self) -> Option<Box<Redo>> {
        self.redo.take()
    }

    pub(in crate::commit) fn place(&self) -> &Place {
        &self.place
    }

    /// It was moved into the tree: nothing is left to remove.
    pub(in crate::commit) fn set_moved(&mut self) {
        self.moved = true;
    }

    /// Lets go of the room that was reserved past what came. False: so little came that it is not worth a name.
    fn is_left(&self) -> bool {
        match self.file.metadata().map(|m| m.len()) {
            Ok(length) if length >= LEAST => self.file.set_len(length).is_ok(),
            _ => false,
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.moved || (self.stays && self.is_left()) {
            return;
        }
        if let Err(fault) = self.place.unlink() {
            // What stays is removed when the tree is opened the next time.
            tracing::debug!(%fault, "a staged file could not be removed");
        }
    }
}
