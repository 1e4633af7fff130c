//! Phase 3: one path after the other becomes visible.

use std::os::fd::AsFd;

use super::prepare::{Item, New, Ready, StagedEntry};
use super::step::{Expect, Outcome};
use super::{Parent, Run};
use crate::beneath::Place;
use crate::entry::Meta;
use crate::fault::Fault;
use crate::meta;
use crate::path::RelPath;
use crate::private;
use crate::stat::Stat;

impl Run<'_> {
    /// Carries out one prepared step.
    pub(super) fn carry(&mut self, item: Item) -> Outcome {
        let Item {
            path,
            expect,
            ready,
        } = item;
        let done = ready.and_then(|ready| self.try_carry(&path, expect, ready));
        let (result, missed) = match done {
            // The keys are read at the end, when nothing moves them any more.
            Ok(missed) => (Ok(None), missed),
            Err(fault) => {
                self.failed.insert(path.clone());
                (Err(fault), Vec::new())
            }
        };
        Outcome {
            path,
            result,
            missed,
        }
    }

    fn try_carry(
        &mut self,
        path: &RelPath,
        expect: Expect,
        ready: Ready,
    ) -> Result<Vec<Fault>, Fault> {
        if path.is_root() {
            return match ready {
                Ready::Meta(meta) | Ready::PutDir(_, meta) => self.root_meta(meta),
                _ => Err(Fault::NotBeneath),
            };
        }
        let place = self.target.root.place(path)?;
        let now = self.check(path, &place, expect)?;
        match ready {
            Ready::Put(new) => self.put(path, &place, now, new),
            Ready::PutDir(new, meta) => {
                self.dir_times.insert(path.clone(), meta.clone());
                match now {
                    Some(stat) if stat.is_dir() => self.change(path, &place, &meta),
                    now => self.put(path, &place, now, new),
                }
            }
            Ready::Link(to) => self.link(path, &place, now, &to),
            Ready::Meta(meta) => match now {
                Some(stat) => {
                    self.touch(&stat);
                    if stat.is_dir() {
                        self.dir_times.insert(path.clone(), meta.clone());
                    }
                    self.change(path, &place, &meta)
                }
                None => Err(Fault::Missing),
            },
            Ready::Rename(from, expect) => self.rename(path, &place, now, &from, expect),
            Ready::Remove => self.remove(path, &place, now),
        }
    }

    /// The expected state, the protection and the mount of the entry that is there.
    fn check(&self, path: &RelPath, place: &Place, expect: Expect) -> Result<Option<Stat>, Fault> {
        let now = place.stat()?;
        if let Some(stat) = &now {
            let root = self.target.root;
            if !root.cross_mounts() && !root.opened_as().same_mount(stat) {
                return Err(Fault::MountBelow);
            }
            if let Some(flag) = stat.protecting_flag() {
                return Err(Fault::Flagged(flag));
            }
            if (self.target.protect)(path, stat.is_dir()) {
                return Err(Fault::Protected);
            }
        }
        match (expect, &now) {
            (Expect::Unchecked, _) | (Expect::Absent, None) => Ok(now),
            (Expect::Absent, Some(_)) => Err(Fault::Changed("something is there")),
            (Expect::Dir, Some(stat)) if stat.is_dir() => Ok(now),
            (Expect::Dir, Some(_)) => Err(Fault::Changed("not a directory any more")),
            (Expect::Key(_) | Expect::Dir, None) => Err(Fault::Changed("it is gone")),
            (Expect::Key(key), Some(stat)) => {
                let mut found = stat.key();
                let own = self.touched.contains(&(stat.dev, stat.ino));
                if own || stat.is_dir() {
                    found.ctime_ns = key.ctime_ns;
                }
                if stat.is_dir() {
                    (found.mtime_ns, found.size) = (key.mtime_ns, key.size);
                }
                if found == key {
                    Ok(now)
                } else {
                    Err(Fault::Changed("another version is there"))
                }
            }
        }
    }

    /// Remembers the directory that holds the entry, before its first change.
    fn note_parent(&mut self, path: &RelPath, place: &Place) -> Result<(), Fault> {
        let parent = path.parent().unwrap_or_else(RelPath::root);
        if !self.parents.contains_key(&parent) {
            let before = Stat::of_fd(place.dir())?;
            if let Some(flag) = before.protecting_flag() {
                return Err(Fault::Flagged(flag));
            }
            let dir = private::duplicate(place.dir())?;
            self.parents.insert(parent, Parent { dir, before });
        }
        Ok(())
    }

    fn touch(&mut self, stat: &Stat) {
        if stat.nlink > 1 && !stat.is_dir() {
            self.touched.insert((stat.dev, stat.ino));
        }
    }

    fn root_meta(&mut self, meta: Meta) -> Result<Vec<Fault>, Fault> {
        let root = self.target.root;
        if let Some(flag) = Stat::of_fd(root.fd())?.protecting_flag() {
            return Err(Fault::Flagged(flag));
        }
        let missed = meta::apply(root.fd(), &meta)?;
        self.dir_times.insert(RelPath::root(), meta);
        Ok(missed)
    }

    fn change(&mut self, path: &RelPath, place: &Place, meta: &Meta) -> Result<Vec<Fault>, Fault> {
        debug_assert!(!path.is_root(), "the root has no place");
        let held = place.open_path()?;
        meta::apply(held.as_fd(), meta)
    }

    fn put(
        &mut self,
        path: &RelPath,
        place: &Place,
        now: Option<Stat>,
        mut new: New,
    ) -> Result<Vec<Fault>, Fault> {
        self.note_parent(path, place)?;
        match now {
            None => new.place().rename_new(place)?,
            Some(old) => {
                self.touch(&old);
                if old.is_dir() == new.is_dir() {
                    new.place().rename_over(place)?;
                } else {
                    swap(new.place(), place, old.is_dir())?;
                }
            }
        }
        new.set_moved();
        Ok(std::mem::take(&mut new.missed))
    }

    fn link(
        &mut self,
        path: &RelPath,
        place: &Place,
        now: Option<Stat>,
        to: &RelPath,
    ) -> Result<Vec<Fault>, Fault> {
        if self.failed.contains(to) {
            return Err(Fault::Changed(
                "the first name of the hard link is not in place",
            ));
        }
        let of = self.target.root.place(to)?;
        let first = of.stat()?.ok_or(Fault::Missing)?;
        if !first.is_file() {
            return Err(Fault::Changed("the first name of the hard link is no file"));
        }
        self.touched.insert((first.dev, first.ino));
        if now.is_some_and(|old| (old.dev, old.ino) == (first.dev, first.ino)) {
            return Ok(Vec::new());
        }
        let staged = self.target.private.staging_place()?;
        staged.link(&of)?;
        let entry = StagedEntry::new(staged, false);
        let new = New::other(entry);
        // The name may have led elsewhere between the two calls: what counts is what was linked.
        let linked = new.place().stat()?.ok_or(Fault::Missing)?;
        if (linked.dev, linked.ino) != (first.dev, first.ino) {
            return Err(Fault::Changed("the first name of the hard link changed"));
        }
        self.put(path, place, now, new)
    }

    fn rename(
        &mut self,
        path: &RelPath,
        place: &Place,
        now: Option<Stat>,
        from: &RelPath,
        expect: Expect,
    ) -> Result<Vec<Fault>, Fault> {
        if from.is_root() {
            return Err(Fault::NotBeneath);
        }
        let source = self.target.root.place(from)?;
        let moving = self.check(from, &source, expect)?.ok_or(Fault::Missing)?;
        self.note_parent(from, &source)?;
        self.note_parent(path, place)?;
        self.touch(&moving);
        match now {
            None => source.rename_new(place)?,
            Some(old) if old.is_dir() == moving.is_dir() => {
                self.touch(&old);
                source.rename_over(place)?;
            }
            Some(_) => return Err(Fault::Changed("something of another kind is there")),
        }
        Ok(Vec::new())
    }

    fn remove(
        &mut self,
        path: &RelPath,
        place: &Place,
        now: Option<Stat>,
    ) -> Result<Vec<Fault>, Fault> {
        // Gone already is what was wanted.
        let Some(old) = now else {
            return Ok(Vec::new());
        };
        self.note_parent(path, place)?;
        self.touch(&old);
        if old.is_dir() {
            place.rmdir()?;
            // Nothing is left whose times could be set.
            self.parents.remove(path);
            self.dir_times.remove(path);
        } else {
            place.unlink()?;
        }
        Ok(Vec::new())
    }
}

/// A directory and something else change places in one step; the old entry is then removed from staging. A directory
/// that is not empty goes back.
fn swap(staged: &Place, place: &Place, old_is_dir: bool) -> Result<(), Fault> {
    let remove = |at: &Place| if old_is_dir { at.rmdir() } else { at.unlink() };
    match staged.exchange(place) {
        Ok(()) => remove(staged).inspect_err(|_| {
            if let Err(fault) = staged.exchange(place) {
                tracing::error!(%fault, "an entry could not be put back from staging");
            }
        }),
        Err(Fault::Os {
            errno: libc::EINVAL | libc::ENOSYS,
            ..
        }) => {
            // A file system without exchange: nothing is there for the time of two calls.
            remove(place)?;
            staged.rename_new(place)
        }
        Err(fault) => Err(fault),
    }
}
