//! Phase 1: everything new is made in the staging directory, complete with its metadata.

use std::os::fd::AsFd;

use rustix::fs::FileType;

use super::Target;
use super::stage::Staged;
use super::step::{Action, Expect, Step};
use crate::beneath::Place;
use crate::entry::Meta;
use crate::fault::Fault;
use crate::meta;
use crate::path::RelPath;

/// What phase 3 does with one path.
#[derive(Debug)]
pub(super) enum Ready {
    /// Put the staged entry there.
    Put(New),
    /// Put the staged directory there, or apply its metadata to the one that is there.
    PutDir(New, Meta),
    /// Another name; made in staging only in phase 3, since the first name may be part of this apply.
    Link(RelPath),
    /// New metadata.
    Meta(Meta),
    /// Another name for what is in the tree.
    Rename(RelPath, Expect),
    /// Remove.
    Remove,
}

/// A complete entry in staging. Dropping it removes it, unless it was moved.
#[derive(Debug)]
pub(super) struct New {
    pub(super) kept: Kept,
    pub(super) missed: Vec<Fault>,
}

#[derive(Debug)]
pub(super) enum Kept {
    /// A file with its content.
    File(Staged),
    /// Anything else.
    Other(StagedEntry),
}

/// A staged entry that is not a regular file.
#[derive(Debug)]
pub(super) struct StagedEntry {
    place: Place,
    is_dir: bool,
    moved: bool,
}

#[derive(Debug)]
pub(super) struct Item {
    pub(super) path: RelPath,
    pub(super) expect: Expect,
    pub(super) ready: Result<Ready, Fault>,
}

#[derive(Debug, Default)]
pub(super) struct Prepared {
    pub(super) items: Vec<Item>,
    pub(super) stopped: Option<Fault>,
}

impl Prepared {
    /// Nothing of what is ready is to be carried out.
    pub(super) fn refuse_rest(&mut self, fault: &Fault) {
        for item in self.items.iter_mut().filter(|item| item.ready.is_ok()) {
            item.ready = Err(fault.clone());
        }
        self.stopped.get_or_insert_with(|| fault.clone());
    }
}

impl New {
    /// An entry that is not a regular file of its own.
    pub(super) fn other(entry: StagedEntry) -> New {
        New {
            kept: Kept::Other(entry),
            missed: Vec::new(),
        }
    }

    pub(super) fn place(&self) -> &Place {
        match &self.kept {
            Kept::File(staged) => staged.place(),
            Kept::Other(entry) => &entry.place,
        }
    }

    pub(super) fn is_dir(&self) -> bool {
        matches!(&self.kept, Kept::Other(entry) if entry.is_dir)
    }

    /// The staged name is gone: it was moved into the tree, or what lies there now is dealt with.
    pub(super) fn set_moved(&mut self) {
        match &mut self.kept {
            Kept::File(staged) => staged.set_moved(),
            Kept::Other(entry) => entry.moved = true,
        }
    }
}

impl StagedEntry {
    pub(super) fn new(place: Place, is_dir: bool) -> StagedEntry {
        StagedEntry {
            place,
            is_dir,
            moved: false,
        }
    }
}

impl Drop for StagedEntry {
    fn drop(&mut self) {
        if self.moved {
            return;
        }
        let removed = if self.is_dir {
            self.place.rmdir()
        } else {
            self.place.unlink()
        };
        if let Err(fault) = removed
            && fault != Fault::Missing
        {
            // What stays is removed when the tree is opened the next time.
            tracing::debug!(%fault, "a staged entry could not be removed");
        }
    }
}

/// Whether the result of the action can be made durable by `fsync` of one file or directory and its parent.
pub(super) fn syncs_by_itself(action: &Action) -> bool {
    match action {
        Action::File { .. } | Action::Dir { .. } | Action::HardLink { .. } => true,
        Action::Rename { .. } | Action::Remove => true,
        // A link, a fifo or a device cannot be opened for it; a change of metadata may concern one.
        Action::Symlink { .. } | Action::Fifo { .. } | Action::Device { .. } => false,
        Action::Meta { .. } => false,
    }
}

/// Prepares all steps. After a lack of room nothing more is tried.
pub(super) fn all(target: &Target<'_>, steps: Vec<Step>) -> Prepared {
    let mut prepared = Prepared::default();
    for step in steps {
        let ready = match &prepared.stopped {
            Some(fault) => Err(fault.clone()),
            None if step.path.is_private() => Err(Fault::NotBeneath),
            None => one(target, step.expect, step.action),
        };
        if let Err(fault) = &ready
            && fault.is_no_space()
            && prepared.stopped.is_none()
        {
            prepared.stopped = Some(fault.clone());
        }
        prepared.items.push(Item {
            path: step.path,
            expect: step.expect,
            ready,
        });
    }
    if let Some(fault) = prepared.stopped.clone() {
        prepared.refuse_rest(&fault);
    }
    prepared
}

fn one(target: &Target<'_>, expect: Expect, action: Action) -> Result<Ready, Fault> {
    Ok(match action {
        Action::File { staged, meta } => {
            let missed = meta::apply(staged.fd(), &meta)?;
            Ready::Put(New {
                kept: Kept::File(staged),
                missed,
            })
        }
        Action::Dir { meta } if expect == Expect::Dir => Ready::Meta(meta),
        Action::Dir { meta } => Ready::PutDir(other(target, &meta, true, Place::mkdir)?, meta),
        Action::Symlink { target: to, meta } => {
            Ready::Put(other(target, &meta, false, |place| place.symlink(&to))?)
        }
        Action::Fifo { meta } => Ready::Put(other(target, &meta, false, |place| {
            place.mknod(FileType::Fifo, 0)
        })?),
        Action::Device { block, rdev, meta } => {
            let kind = if block {
                FileType::BlockDevice
            } else {
                FileType::CharacterDevice
            };
            Ready::Put(other(target, &meta, false, |place| {
                place.mknod(kind, rdev)
            })?)
        }
        Action::HardLink { to } if to.is_private() => return Err(Fault::NotBeneath),
        Action::HardLink { to } => Ready::Link(to),
        Action::Meta { meta } => Ready::Meta(meta),
        Action::Rename { from, .. } if from.is_private() => return Err(Fault::NotBeneath),
        Action::Rename { from, from_expect } => Ready::Rename(from, from_expect),
        Action::Remove => Ready::Remove,
    })
}

fn other(
    target: &Target<'_>,
    meta: &Meta,
    is_dir: bool,
    make: impl FnOnce(&Place) -> Result<(), Fault>,
) -> Result<New, Fault> {
    let place = target.private.staging_place()?;
    make(&place)?;
    let entry = StagedEntry::new(place, is_dir);
    let held = entry.place.open_path()?;
    let missed = meta::apply(held.as_fd(), meta)?;
    Ok(New {
        kept: Kept::Other(entry),
        missed,
    })
}
