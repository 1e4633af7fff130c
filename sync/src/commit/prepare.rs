//! Phase 1: everything new is made in the staging directory, complete with its metadata.

use std::os::fd::AsFd;

use rustix::fs::FileType;

use super::Target;
use super::stage::Staged;
use super::step::Work;
use crate::beneath::Place;
use crate::entry::{Kind, Meta, State};
use crate::fault::Fault;
use crate::meta;
use crate::path::RelPath;
use crate::plan::{Action, Expect, Step};

/// What phase 3 does with one path.
#[derive(Debug)]
pub(super) enum Ready {
    /// Put the staged entry there.
    Put(New),
    /// Another name; made in staging only in phase 3, since the first name may be part of this apply.
    Link(RelPath),
    /// New metadata for something that is not a directory.
    Meta(Meta),
    /// All metadata of a directory, its time last.
    FinishDir(Meta),
    /// The time of a directory.
    RestoreTime(Meta),
    /// Remove a directory, or something that is none.
    Remove {
        /// It is a directory.
        dir: bool,
    },
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

/// Whether the result of the step can be made durable by `fsync` of one file or directory and its parent.
pub(super) fn syncs_by_itself(action: &Action) -> bool {
    match action {
        Action::Put(state) => matches!(state.kind, Kind::File { .. }),
        // It may concern a link, a fifo or a device, none of which can be opened for it.
        Action::SetMeta(_) => false,
        Action::MakeDir { .. } | Action::FinishDir(_) | Action::RestoreTime(_) => true,
        Action::Link { .. } | Action::RemoveFile | Action::RemoveDir => true,
    }
}

/// Prepares all steps. After a lack of room nothing more is tried.
pub(super) fn all(target: &Target<'_>, work: Vec<Work>) -> Prepared {
    let mut prepared = Prepared::default();
    for Work { step, content } in work {
        let ready = match &prepared.stopped {
            Some(fault) => Err(fault.clone()),
            None if step.path.is_private() => Err(Fault::NotBeneath),
            None => one(target, &step, content),
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

fn one(target: &Target<'_>, step: &Step, content: Option<Staged>) -> Result<Ready, Fault> {
    Ok(match &step.action {
        Action::Put(state) => put(target, state, content)?,
        // Closed to all others until its own metadata are applied.
        Action::MakeDir { .. } => {
            let place = target.private.staging_place()?;
            place.mkdir()?;
            Ready::Put(New::other(StagedEntry::new(place, true)))
        }
        Action::Link { to } if to.is_private() => return Err(Fault::NotBeneath),
        Action::Link { to } => Ready::Link(to.clone()),
        Action::SetMeta(meta) => Ready::Meta(meta.clone()),
        Action::FinishDir(meta) => Ready::FinishDir(meta.clone()),
        Action::RestoreTime(meta) => Ready::RestoreTime(meta.clone()),
        Action::RemoveFile => Ready::Remove { dir: false },
        Action::RemoveDir => Ready::Remove { dir: true },
    })
}

fn put(target: &Target<'_>, state: &State, content: Option<Staged>) -> Result<Ready, Fault> {
    let meta = &state.meta;
    let new = match &state.kind {
        Kind::File { .. } => {
            let staged = content.ok_or(Fault::NoContent)?;
            let missed = meta::apply_open(staged.file(), meta)?;
            New {
                kept: Kept::File(staged),
                missed,
            }
        }
        Kind::Symlink { target: to } => other(target, meta, |place| place.symlink(to))?,
        Kind::Fifo => other(target, meta, |place| place.mknod(FileType::Fifo, 0))?,
        Kind::CharDevice { rdev } => other(target, meta, |place| {
            place.mknod(FileType::CharacterDevice, *rdev)
        })?,
        Kind::BlockDevice { rdev } => other(target, meta, |place| {
            place.mknod(FileType::BlockDevice, *rdev)
        })?,
        Kind::Dir | Kind::HardLink { .. } => {
            return Err(Fault::Changed("a step of the plan puts what is not put"));
        }
    };
    Ok(Ready::Put(new))
}

fn other(
    target: &Target<'_>,
    meta: &Meta,
    make: impl FnOnce(&Place) -> Result<(), Fault>,
) -> Result<New, Fault> {
    let place = target.private.staging_place()?;
    make(&place)?;
    let mut new = New::other(StagedEntry::new(place, false));
    let held = new.place().open_path()?;
    new.missed = meta::apply(held.as_fd(), meta)?;
    Ok(new)
}
