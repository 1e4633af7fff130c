//! Phase 3: one path after the other becomes visible.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::inplace;
use super::kept::holds_only;
use super::prepare::{Item, Kept, New, Ready, StagedEntry};
use super::step::Outcome;
use super::{Parent, Run};
use rustix::fs::FileType;

use crate::beneath::Place;
use crate::chattr::Freed;
use crate::cut;
use crate::entry::{KindName, LocalKey, Meta};
use crate::fault::Fault;
use crate::meta;
use crate::path::RelPath;
use crate::plan::Expect;
use crate::private;
use crate::stat::Stat;

impl Run<'_> {
    /// Carries out one prepared step.
    pub(super) fn carry(&mut self, item: Item) -> Outcome {
        let Item {
            path,
            expect,
            ready,
            flags,
        } = item;
        let done = match (self.failed.get(&path), &ready) {
            // The first reason is the one that counts.
            (Some(fault), _) => Err(fault.clone()),
            (None, Ok(Ready::Put(new))) if new.key_in_place().is_some() => {
                Ok(self.came_along(&path, ready))
            }
            (None, _) => ready.and_then(|ready| self.try_carry(&path, expect, ready)),
        };
        let (result, missed) = match done {
            // The keys are read at the end, when nothing moves them any more.
            Ok(missed) => {
                // What was freed alone for this step is replaced, or its flags are set at the end.
                self.freed_here = None;
                if let Some(wanted) = flags.zip(self.changed_here.take()) {
                    self.wanted.insert(path.clone(), wanted);
                }
                (Ok(None), missed)
            }
            Err(fault) => {
                self.changed_here = None;
                if let Some(freed) = self.freed_here.take() {
                    freed.give_back();
                }
                self.failed.insert(path.clone(), fault.clone());
                (Err(fault), Vec::new())
            }
        };
        Outcome {
            path,
            result,
            missed,
        }
    }

    /// A file that came into the tree with the directory in which it was built.
    fn came_along(&mut self, path: &RelPath, ready: Result<Ready, Fault>) -> Vec<Fault> {
        let Ok(Ready::Put(mut new)) = ready else {
            return Vec::new();
        };
        if let Some(key) = new.key_in_place() {
            self.changed_here = Some((key.dev, key.ino));
            self.keys.insert(path.clone(), key);
        }
        self.made.insert(path.clone());
        std::mem::take(&mut new.missed)
    }

    fn try_carry(
        &mut self,
        path: &RelPath,
        expect: Expect,
        ready: Ready,
    ) -> Result<Vec<Fault>, Fault> {
        if path.is_root() {
            return self.root_step(ready);
        }
        let place = match (self.target.root.place(path), &ready) {
            // What it lies in is gone: it is gone too.
            (Err(Fault::Missing), Ready::Remove { .. }) => return Ok(Vec::new()),
            (place, _) => place?,
        };
        let now = self.permitted(path, &place)?;
        match (&ready, &now) {
            (Ready::FinishDir(_) | Ready::RestoreTime(_), _) => {}
            (Ready::Remove { .. }, None) => {}
            _ => self.expected(path, now.as_ref(), expect)?,
        }
        let now = now.map(|stat| self.free(&place, stat)).transpose()?;
        match ready {
            Ready::Remove { dir } => self.remove(path, &place, now, dir),
            Ready::FinishDir(meta) => self.finish_dir(path, &place, now, meta),
            Ready::RestoreTime(meta) => match now {
                Some(stat) if stat.is_dir() => {
                    self.dir_times.entry(path.clone()).or_insert(meta);
                    Ok(Vec::new())
                }
                _ => Err(Fault::Changed("not a directory any more")),
            },
            Ready::Put(new) => self.put(path, &place, now, new),
            Ready::Link(to) => self.link(path, &place, now, &to),
            Ready::Meta(meta) => self.set_meta(path, &place, now, expect, &meta),
        }
    }

    /// What is there, if it may be changed: not on another mount, not protected, and not flagged unless the tree carries flags.
    fn permitted(&self, path: &RelPath, place: &Place) -> Result<Option<Stat>, Fault> {
        let now = place.stat()?;
        if let Some(stat) = &now {
            let root = self.target.root;
            if !root.opened_as().same_mount(stat) {
                return Err(Fault::MountBelow);
            }
            if let Some(flag) = stat.protecting_flag()
                && !root.flags()
            {
                return Err(Fault::Flagged(flag));
            }
            if (self.target.protect)(path, stat.is_dir()) {
                return Err(Fault::Protected);
            }
        }
        Ok(now)
    }

    /// Takes away what forbids changing an entry that may be changed. Its stat is as it was before: only the change time moved
    /// since.
    fn free(&mut self, place: &Place, found: Stat) -> Result<Stat, Fault> {
        if found.protecting_flag().is_none() {
            return Ok(found);
        }
        let (held, stat) = hold(place, Some(found))?;
        let freed = Freed::take(held.as_fd())?;
        self.touched.insert((stat.dev, stat.ino));
        match stat.is_dir() || stat.nlink > 1 {
            true => self.freed.push(freed),
            false => self.freed_here = Some(freed),
        }
        cut::here("after a flag made way");
        Ok(stat)
    }

    /// The same for a directory or a file that stays, by its descriptor.
    fn free_fd(&mut self, fd: BorrowedFd<'_>, stat: &Stat) -> Result<(), Fault> {
        match stat.protecting_flag() {
            Some(_) if self.target.root.flags() => self.freed.push(Freed::take(fd)?),
            Some(flag) => return Err(Fault::Flagged(flag)),
            None => {}
        }
        Ok(())
    }

    /// Whether what is there is what the plan was made for.
    fn expected(&self, path: &RelPath, now: Option<&Stat>, expect: Expect) -> Result<(), Fault> {
        match (expect, now) {
            (Expect::Nothing, None) => Ok(()),
            (Expect::Nothing, Some(_)) if self.made.contains(path) => Ok(()),
            (Expect::Nothing, Some(_)) => Err(Fault::Changed("something is there")),
            (Expect::Known(..), None) => Err(Fault::Changed("it is gone")),
            (Expect::Known(kind, key), Some(stat)) => {
                if kind_of(stat) != Some(kind) {
                    return Err(Fault::Changed("something of another kind is there"));
                }
                if kind == KindName::Dir {
                    return Ok(());
                }
                let key = key.ok_or(Fault::Changed("its version is not known here"))?;
                self.same_version(stat, key)
            }
        }
    }

    fn same_version(&self, stat: &Stat, key: LocalKey) -> Result<(), Fault> {
        let mut found = stat.key();
        // A step of this apply changed another name of the same inode: that moved its change time.
        if self.touched.contains(&(stat.dev, stat.ino)) {
            found.ctime_ns = key.ctime_ns;
        }
        if found == key {
            Ok(())
        } else {
            Err(Fault::Changed("another version is there"))
        }
    }

    /// Remembers the directory that holds the entry, before its first change.
    fn note_parent(&mut self, path: &RelPath, place: &Place) -> Result<(), Fault> {
        let parent = path.parent().unwrap_or_else(RelPath::root);
        if !self.parents.contains_key(&parent) {
            let before = Stat::of_fd(place.dir())?;
            let dir = private::duplicate(place.dir())?;
            self.free_fd(dir.as_fd(), &before)?;
            self.parents.insert(parent, Parent { dir, before });
        }
        Ok(())
    }

    fn touch(&mut self, stat: &Stat) {
        if stat.nlink > 1 && !stat.is_dir() {
            self.touched.insert((stat.dev, stat.ino));
        }
    }

    fn root_step(&mut self, ready: Ready) -> Result<Vec<Fault>, Fault> {
        let root = self.target.root;
        match ready {
            Ready::FinishDir(meta) => {
                let stat = Stat::of_fd(root.fd())?;
                self.free_fd(root.fd(), &stat)?;
                self.changed_here = Some((stat.dev, stat.ino));
                let missed = meta::apply(root.fd(), &meta)?;
                self.dir_times.insert(RelPath::root(), meta);
                Ok(missed)
            }
            Ready::RestoreTime(meta) => {
                self.dir_times.entry(RelPath::root()).or_insert(meta);
                Ok(Vec::new())
            }
            _ => Err(Fault::NotBeneath),
        }
    }

    /// Gives directories their new mode before anything comes into them, if that only takes rights away: who is kept out by it must not
    /// see what the source wrote behind it. All else of them comes last, and so does what gives rights, for what is to go is there
    /// until then.
    pub(super) fn tighten(&mut self, items: &[Item]) {
        for item in items {
            if let Ok(Ready::FinishDir(meta)) = &item.ready
                && let Err(fault) = self.tighten_dir(&item.path, meta)
            {
                // A directory that is still to be made, or its own step says why.
                tracing::trace!(path = %item.path, %fault, "not tightened");
            }
        }
    }

    fn tighten_dir(&mut self, path: &RelPath, meta: &Meta) -> Result<(), Fault> {
        if path.is_root() {
            return meta::tighten(self.target.root.fd(), meta);
        }
        let place = self.target.root.place(path)?;
        match self.permitted(path, &place)?.filter(Stat::is_dir) {
            Some(dir) => {
                let dir = self.free(&place, dir)?;
                meta::tighten(hold(&place, Some(dir))?.0.as_fd(), meta)
            }
            None => Ok(()),
        }
    }

    /// New metadata for what is there. It was checked by its name; who may write in the directory could put another
    /// file there since (another name of somebody else's file), so the opened entry itself is checked again.
    pub(super) fn set_meta(
        &mut self,
        path: &RelPath,
        place: &Place,
        now: Option<Stat>,
        expect: Expect,
        meta: &Meta,
    ) -> Result<Vec<Fault>, Fault> {
        self.expected(path, now.as_ref(), expect)?;
        let (held, stat) = hold(place, now)?;
        self.expected(path, Some(&stat), expect)?;
        self.touch(&stat);
        self.changed_here = Some((stat.dev, stat.ino));
        meta::apply(held.as_fd(), meta)
    }

    pub(super) fn finish_dir(
        &mut self,
        path: &RelPath,
        place: &Place,
        now: Option<Stat>,
        meta: Meta,
    ) -> Result<Vec<Fault>, Fault> {
        if !now.is_some_and(|stat| stat.is_dir()) {
            return Err(Fault::Changed("not a directory any more"));
        }
        let (held, stat) = hold(place, now)?;
        self.changed_here = Some((stat.dev, stat.ino));
        let missed = meta::apply(held.as_fd(), &meta)?;
        self.dir_times.insert(path.clone(), meta);
        Ok(missed)
    }

    fn put(
        &mut self,
        path: &RelPath,
        place: &Place,
        now: Option<Stat>,
        mut new: New,
    ) -> Result<Vec<Fault>, Fault> {
        if let Kept::File(staged) = &mut new.kept
            && let Some(redo) = staged.take_redo()
        {
            let (open, missed) = inplace::patch(self.target, (place, now), &redo, staged)?;
            self.journals.push(open);
            self.changed_here = now.map(|stat| (stat.dev, stat.ino));
            return Ok(missed);
        }
        self.note_parent(path, place)?;
        let is = new.place().stat()?.filter(|stat| !stat.is_dir());
        match now {
            None => new.place().rename_new(place)?,
            Some(old) => {
                self.touch(&old);
                cut::here("before an entry is replaced");
                if old.is_dir() == new.is_dir() {
                    new.place().rename_over(place)?;
                } else {
                    swap(new.place(), place, old.is_dir())?;
                }
            }
        }
        new.set_moved();
        self.made.insert(path.clone());
        self.changed_here = is.map(|is| (is.dev, is.ino));
        self.put.extend(is.map(|is| (path.clone(), is.key())));
        Ok(std::mem::take(&mut new.missed))
    }

    fn link(
        &mut self,
        path: &RelPath,
        place: &Place,
        now: Option<Stat>,
        to: &RelPath,
    ) -> Result<Vec<Fault>, Fault> {
        if self.failed.contains_key(to) {
            return Err(Fault::Changed(
                "the first name of the hard link is not in place",
            ));
        }
        let of = self.target.root.place(to)?;
        let first = of.stat()?.ok_or(Fault::Missing)?;
        // Another name would let the next change of metadata reach what is protected.
        if (self.target.protect)(to, false) {
            return Err(Fault::Protected);
        }
        if first.protecting_flag().is_some() {
            self.free_fd(hold(&of, Some(first))?.0.as_fd(), &first)?;
        }
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

    fn remove(
        &mut self,
        path: &RelPath,
        place: &Place,
        now: Option<Stat>,
        dir: bool,
    ) -> Result<Vec<Fault>, Fault> {
        // Gone already is what was wanted.
        let Some(old) = now else {
            return Ok(Vec::new());
        };
        if old.is_dir() != dir {
            return Err(Fault::Changed("something of another kind is there"));
        }
        self.note_parent(path, place)?;
        self.touch(&old);
        if dir {
            let was = match &self.trash {
                Some(_) => meta::read_fd(hold(place, now)?.0.as_fd(), self.target.root).ok(),
                None => None,
            };
            match place.rmdir() {
                Err(Fault::NotEmpty) if holds_only(self.target.root, path, self.target.protect) => {
                    return Err(Fault::Kept);
                }
                gone => gone?,
            }
            if let (Some(trash), Some(was)) = (&mut self.trash, was) {
                trash.took_dir(path, &was.meta);
            }
            // Nothing is left whose times could be set.
            self.parents.remove(path);
            self.dir_times.remove(path);
        } else {
            match &mut self.trash {
                Some(trash) => trash.take(path, place)?,
                None => place.unlink()?,
            }
        }
        self.made.remove(path);
        Ok(Vec::new())
    }
}

/// Opens what was found at a place, if it is still the same entry.
fn hold(place: &Place, found: Option<Stat>) -> Result<(OwnedFd, Stat), Fault> {
    let found = found.ok_or(Fault::Missing)?;
    let held = place.open_path()?;
    let stat = Stat::of_fd(held.as_fd())?;
    if (stat.dev, stat.ino, stat.mount_id) != (found.dev, found.ino, found.mount_id) {
        return Err(Fault::Changed("another entry was put there just now"));
    }
    Ok((held, stat))
}

fn kind_of(stat: &Stat) -> Option<KindName> {
    Some(match stat.file_type() {
        FileType::RegularFile => KindName::File,
        FileType::Directory => KindName::Dir,
        FileType::Symlink => KindName::Symlink,
        FileType::Fifo => KindName::Fifo,
        FileType::CharacterDevice | FileType::BlockDevice => KindName::Device,
        _ => return None,
    })
}

/// A directory and something else change places in one step; the old entry is then removed from staging. A directory
/// that is not empty goes back.
fn swap(staged: &Place, place: &Place, old_is_dir: bool) -> Result<(), Fault> {
    let remove = |at: &Place| if old_is_dir { at.rmdir() } else { at.unlink() };
    // Not to be found out by the exchange: a cut just after it would leave what lies in it to the cleaning of staging.
    if old_is_dir && !private::names(place.open_dir()?.as_fd())?.is_empty() {
        return Err(Fault::os("rmdir", rustix::io::Errno::NOTEMPTY));
    }
    match staged.exchange(place) {
        Ok(()) => {
            cut::here("after an exchange");
            remove(staged).inspect_err(|_| {
                if let Err(fault) = staged.exchange(place) {
                    tracing::error!(%fault, "an entry could not be put back from staging");
                }
            })
        }
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
