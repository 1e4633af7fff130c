//! Phase 1: everything new is made in the staging directory, complete with its metadata.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::FileType;

use super::Target;
use super::complete::{Aside, Complete, Content};
use super::stage::Staged;
use super::step::Work;
use crate::beneath::Place;
use crate::entry::{Flags, Kind, LocalKey, Meta, State};
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
    /// A small file, made at once.
    Complete(Complete),
    /// A new directory with files in it.
    Aside(Arc<Aside>),
    /// Anything else.
    Other(StagedEntry),
}

/// A staged entry that is not a regular file.
#[derive(Debug)]
pub(super) struct StagedEntry {
    pub(super) place: Place,
    pub(super) is_dir: bool,
    moved: bool,
}

#[derive(Debug)]
pub(super) struct Item {
    pub(super) path: RelPath,
    pub(super) expect: Expect,
    pub(super) ready: Result<Ready, Fault>,
    /// Flags of `chattr` that the entry gets when everything else is done.
    pub(super) flags: Option<Flags>,
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
            Kept::Complete(complete) => complete.place(),
            Kept::Aside(aside) => aside.place(),
            Kept::Other(entry) => &entry.place,
        }
    }

    pub(super) fn is_dir(&self) -> bool {
        match &self.kept {
            Kept::Other(entry) => entry.is_dir,
            Kept::Aside(_) => true,
            Kept::File(_) | Kept::Complete(_) => false,
        }
    }

    /// The staged name is gone: it was moved into the tree, or what lies there now is dealt with.
    pub(super) fn set_moved(&mut self) {
        match &mut self.kept {
            Kept::File(staged) => staged.set_moved(),
            Kept::Complete(complete) => complete.set_moved(),
            Kept::Aside(aside) => aside.set_moved(),
            Kept::Other(entry) => entry.moved = true,
        }
    }

    /// The key of a file that is in the tree with the directory that it was built in.
    pub(super) fn key_in_place(&self) -> Option<LocalKey> {
        match &self.kept {
            Kept::Complete(complete) => complete.key_in_place(),
            _ => None,
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
pub(super) fn syncs_by_itself(work: &Work) -> bool {
    match &work.step.action {
        // Nothing of it is open any more.
        _ if matches!(work.content, Some(Content::Complete(_))) => false,
        Action::Put(state) => matches!(state.kind, Kind::File { .. }),
        // It may concern a link, a fifo or a device, none of which can be opened for it.
        Action::SetMeta(_) => false,
        Action::MakeDir { .. } | Action::FinishDir(_) | Action::RestoreTime(_) => true,
        Action::Link { .. } | Action::RemoveFile | Action::RemoveDir => true,
    }
}

/// Prepares all steps. Where nothing can be put any more nothing more is tried.
pub(super) fn all(target: &Target<'_>, work: Vec<Work>) -> Prepared {
    let mut prepared = Prepared::default();
    let asides = Asides::of(&work);
    for Work { step, content } in work {
        let flags = flags(target, &step.action, content.as_ref());
        let ready = match &prepared.stopped {
            Some(fault) => Err(fault.clone()),
            None if step.path.is_private() => Err(Fault::NotBeneath),
            None => one(target, &step, content, &asides),
        };
        if let Err(fault) = &ready
            && prepared.stopped.is_none()
            && target.ends_with(fault)
        {
            prepared.stopped = Some(fault.clone());
        }
        prepared.items.push(Item {
            path: step.path,
            expect: step.expect,
            ready,
            flags,
        });
    }
    if let Some(fault) = prepared.stopped.clone() {
        prepared.refuse_rest(&fault);
    }
    prepared
}

/// Those that a step asks for. An entry that is not new gets them even if there are none: it may have some. In a tree that does
/// not carry them a peer that sends some hears that they are not set.
fn flags(target: &Target<'_>, action: &Action, content: Option<&Content>) -> Option<Flags> {
    let (meta, is_new) = match action {
        Action::Put(state) => {
            let in_place =
                |content: &Content| matches!(content, Content::Staged(s) if s.redo().is_some());
            (&state.meta, !content.is_some_and(in_place))
        }
        Action::SetMeta(meta) | Action::FinishDir(meta) => (meta, false),
        Action::MakeDir { .. } | Action::Link { .. } | Action::RestoreTime(_) => return None,
        Action::RemoveFile | Action::RemoveDir => return None,
    };
    let flags = meta.xattrs.flags();
    Some(flags).filter(|flags| !flags.is_empty() || (target.root.flags() && !is_new))
}

/// Directories that were built aside, by the path that they are for.
struct Asides(HashMap<RelPath, Arc<Aside>>);

impl Asides {
    /// Those of which all that is in them is to be put by these steps.
    fn of(work: &[Work]) -> Asides {
        let mut found: HashMap<RelPath, (Arc<Aside>, usize)> = HashMap::new();
        for one in work {
            if let Some(Content::Complete(complete)) = &one.content
                && let (Some(aside), Some(parent)) = (complete.aside(), one.step.path.parent())
            {
                let entry = found.entry(parent);
                entry.or_insert_with(|| (Arc::clone(aside), 0)).1 += 1;
            }
        }
        // Each file holds a reference, and so does this map: what is left over is a file that no step puts.
        found.retain(|_, (aside, files)| Arc::strong_count(aside) == *files + 1);
        Asides(
            found
                .into_iter()
                .map(|(path, (aside, _))| (path, aside))
                .collect(),
        )
    }
}

fn one(
    target: &Target<'_>,
    step: &Step,
    content: Option<Content>,
    asides: &Asides,
) -> Result<Ready, Fault> {
    Ok(match &step.action {
        Action::Put(state) => put(target, state, content)?,
        Action::MakeDir { .. } if asides.0.contains_key(&step.path) => Ready::Put(New {
            kept: Kept::Aside(Arc::clone(&asides.0[&step.path])),
            missed: Vec::new(),
        }),
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

fn put(target: &Target<'_>, state: &State, content: Option<Content>) -> Result<Ready, Fault> {
    let meta = &state.meta;
    let new = match &state.kind {
        Kind::File { .. } => match content.ok_or(Fault::NoContent)? {
            Content::Staged(mut staged) => {
                // A journal is no file of the tree: the attributes are in it.
                let missed = match staged.redo() {
                    Some(_) => Vec::new(),
                    None => staged.dressed(meta)?,
                };
                New {
                    kept: Kept::File(staged),
                    missed,
                }
            }
            Content::Complete(mut complete) => {
                let missed = complete.take_missed();
                New {
                    kept: Kept::Complete(complete),
                    missed,
                }
            }
        },
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
