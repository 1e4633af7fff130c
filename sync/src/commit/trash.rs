//! The trash: what the source removed, for a while.
//!
//! ```text
//!   .tandem/trash/2026-11-28T03/PATH    removed in that hour (UTC), under its path in the tree
//!   .tandem/trash/2026-11-28T03.1/PATH  the second one of that path in the hour
//! ```
//! Moving there is one rename. Directories get the attributes that they had. An hour goes as a whole when all of it has been
//! there for the tree's `trash_age` (`engine/trash/ages`: its name is of a clock that may have been wrong), or, oldest name first, when
//! the room is needed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::beneath::Place;
use crate::entry::Meta;
use crate::fault::Fault;
use crate::meta;
use crate::path::{MAX_DEPTH, RelPath};
use crate::private::{Private, names};
use hour::ROUNDS;
pub(crate) use hour::SECONDS;

mod hour;
mod look;

#[cfg(feature = "fuzz")]
pub(crate) use hour::fuzz;

pub(crate) use hour::Hour;
pub(crate) use look::{Content as TrashContent, Found, each, hours, newest, open};

/// Deepest directory that is removed: any that can come here. Each is an open directory and a call on the stack.
const DEEPEST: usize = MAX_DEPTH + 1;
/// Entries that go at once, at most, when there is no room for what comes to the trash: some ten milliseconds.
const GIVES: usize = 2000;
/// Entries of an hour that cannot be removed and cost a step nothing: some fifty milliseconds.
const STUCK: usize = 20_000;
/// Opened directories of the trash that an apply keeps.
const OPEN: usize = 256;

/// Where an apply puts what it removes.
#[derive(Debug)]
pub(super) struct Trash<'p> {
    private: &'p Private,
    hour: Hour,
    /// By round and path.
    dirs: HashMap<(u32, RelPath), Arc<OwnedFd>>,
}

impl<'p> Trash<'p> {
    /// For what is removed now (seconds since 1970).
    pub fn new(private: &'p Private, now: u64) -> Trash<'p> {
        Trash {
            private,
            hour: Hour::of(now),
            dirs: HashMap::new(),
        }
    }

    /// Takes what lies at a place of the tree, which is no directory. Without room for it the trash gives way, and at last
    /// what was to go there is removed: what the source removed is never what fills the disk.
    pub fn take(&mut self, path: &RelPath, from: &Place) -> Result<(), Fault> {
        match self.try_take(path, from) {
            Err(fault) if fault.is_no_space() => {
                tracing::info!(%path, %fault, "no room for the trash: it gives way");
                self.dirs.clear();
                purge_oldest(self.private, GIVES)?;
                match self.try_take(path, from) {
                    Err(fault) if fault.is_no_space() => from.unlink(),
                    done => done,
                }
            }
            done => done,
        }
    }

    fn try_take(&mut self, path: &RelPath, from: &Place) -> Result<(), Fault> {
        for round in 0..ROUNDS {
            let Some(to) = self.place(round, path)? else {
                continue;
            };
            match from.rename_new(&to) {
                Err(Fault::Os {
                    errno: libc::EEXIST,
                    ..
                }) if round + 1 == ROUNDS => return from.rename_over(&to),
                Err(Fault::Os {
                    errno: libc::EEXIST,
                    ..
                }) => {}
                done => return done,
            }
        }
        Err(Fault::Changed("the trash has no place for it in this hour"))
    }

    /// A directory of the tree was removed; what was in it is in the trash already. It gets the attributes that it had, as
    /// far as it can: nothing is lost by what it lacks.
    pub fn took_dir(&mut self, path: &RelPath, was: &Meta) {
        let made = (0..ROUNDS).find_map(|round| self.dir(round, path).transpose());
        let done = made.unwrap_or(Err(Fault::Missing)).and_then(|dir| {
            meta::apply(dir.as_fd(), was)?;
            meta::set_mtime(dir.as_fd(), was).map_err(|e| Fault::os("utimensat", e))
        });
        if let Err(fault) = done {
            tracing::debug!(%path, %fault, "a directory in the trash");
        }
    }

    /// Makes durable what was taken.
    pub fn sync(&self) -> Result<(), Fault> {
        let dirs = self.dirs.values();
        dirs.map(|dir| dir.as_fd())
            .chain((!self.dirs.is_empty()).then(|| self.private.trash()))
            .try_for_each(|dir| rustix::fs::fsync(dir).map_err(|e| Fault::os("fsync directory", e)))
    }

    fn place(&mut self, round: u32, path: &RelPath) -> Result<Option<Place>, Fault> {
        let parent = path.parent().unwrap_or_else(RelPath::root);
        let name = path.file_name().ok_or(Fault::NotBeneath)?.to_vec();
        match self.dir(round, &parent)? {
            Some(dir) => Place::shared(dir, &name).map(Some),
            None => Ok(None),
        }
    }

    /// Opens and makes the directory of a path; `None`: something else is in its way.
    fn dir(&mut self, round: u32, path: &RelPath) -> Result<Option<Arc<OwnedFd>>, Fault> {
        if let Some(dir) = self.dirs.get(&(round, path.clone())) {
            return Ok(Some(Arc::clone(dir)));
        }
        let hour = self.hour.round(round).to_string();
        let Some(mut dir) = make(self.private.trash(), hour.as_bytes())? else {
            return Ok(None);
        };
        for name in path.components() {
            match make(dir.as_fd(), name)? {
                Some(next) => dir = next,
                None => return Ok(None),
            }
        }
        if self.dirs.len() >= OPEN {
            self.sync()?;
            self.dirs.clear();
        }
        let dir = Arc::new(dir);
        self.dirs.insert((round, path.clone()), Arc::clone(&dir));
        Ok(Some(dir))
    }
}

fn make(above: BorrowedFd<'_>, name: &[u8]) -> Result<Option<OwnedFd>, Fault> {
    let name = OsStr::from_bytes(name);
    match rustix::fs::mkdirat(above, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(Fault::os("mkdir", errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(above, name, flags, Mode::empty()) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(Fault::os("open directory", errno)),
    }
}

/// What a step of emptying the trash did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Purged {
    /// Entries that went.
    pub removed: usize,
    /// There is more to do.
    pub more: bool,
    /// Something cannot be removed, for the first of these reasons. All else goes on without it.
    pub stays: Option<Fault>,
}

/// What goes from the trash.
#[derive(Clone, Copy)]
pub(crate) enum Which<'a> {
    /// The hours of which all is older than `age` at `now` by their names, both in seconds.
    Older {
        /// Since 1970.
        now: u64,
        age: u64,
    },
    /// The hours (since 1970) of which this says so.
    These(&'a dyn Fn(u64) -> bool),
    /// All hours, the present one too.
    All,
}

impl Which<'_> {
    fn has(self, hour: Hour) -> bool {
        match self {
            Which::Older { now, age } => {
                let end = (hour.hour + 1).saturating_mul(SECONDS);
                end.saturating_add(age) <= now
            }
            Which::These(goes) => goes(hour.hour),
            Which::All => true,
        }
    }
}

/// Removes these, at most `most` entries.
pub(crate) fn purge(private: &Private, which: Which<'_>, most: usize) -> Result<Purged, Fault> {
    let mut purged = Purged::default();
    for hour in look::hours(private)?
        .into_iter()
        .filter(|hour| which.has(*hour))
    {
        if purged.removed >= most {
            purged.more = true;
            break;
        }
        purged.add(sweep(private, hour, most - purged.removed));
    }
    Ok(purged)
}

/// Makes room: removes from the oldest hour of which anything can be removed, whatever its age, at most `most` entries.
pub(crate) fn purge_oldest(private: &Private, most: usize) -> Result<Purged, Fault> {
    let mut purged = Purged::default();
    for hour in look::hours(private)? {
        purged.add(sweep(private, hour, most));
        if purged.removed > 0 {
            break;
        }
    }
    Ok(purged)
}

impl Purged {
    fn add(&mut self, hour: Purged) {
        // An hour in which nothing goes is none that there is more to do for.
        self.more |= hour.more && hour.removed > 0;
        self.removed += hour.removed;
        self.stays = self.stays.take().or(hour.stays);
    }
}

/// Removes what can be removed of an hour, at most `most` entries.
fn sweep(private: &Private, hour: Hour, most: usize) -> Purged {
    let mut sweep = Sweep {
        left: most,
        stuck: STUCK,
        purged: Purged::default(),
    };
    sweep.remove(private.trash(), hour.to_string().as_bytes(), 0);
    sweep.purged
}

/// Removing in a bounded step.
struct Sweep {
    /// Entries that may still be tried.
    left: usize,
    /// And so many more, of those that cannot be removed: they do not keep the others.
    stuck: usize,
    purged: Purged,
}

impl Sweep {
    /// Removes an entry with all below it that can be removed.
    fn remove(&mut self, dir: BorrowedFd<'_>, name: &[u8], depth: usize) {
        let tried = self.try_remove(dir, name, depth);
        if tried.is_err() && self.stuck > 0 {
            self.stuck -= 1;
            self.left += 1;
        }
        match tried {
            Ok(()) => {}
            // The reason is that of what is left in it.
            Err(Fault::NotEmpty) if self.purged.more || self.purged.stays.is_some() => {}
            Err(fault) => drop(self.purged.stays.get_or_insert(fault)),
        }
    }

    fn try_remove(&mut self, dir: BorrowedFd<'_>, name: &[u8], depth: usize) -> Result<(), Fault> {
        if self.left == 0 {
            self.purged.more = true;
            return Ok(());
        }
        self.left -= 1;
        let name = OsStr::from_bytes(name);
        let unlinked = rustix::fs::unlinkat(dir, name, AtFlags::empty());
        match unlinked {
            Ok(()) => {
                self.purged.removed += 1;
                return Ok(());
            }
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(errno) => return Err(Fault::os("unlink", errno)),
        }
        if depth == DEEPEST {
            return Err(Fault::os("remove", Errno::NAMETOOLONG));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let below = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Ok(below) => below,
            // No directory: what said so, a flag for example, is the reason.
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(Fault::os("unlink", Errno::PERM)),
            Err(errno) => return Err(Fault::os("open directory", errno)),
        };
        for name in names(below.as_fd())? {
            if self.left == 0 {
                self.purged.more = true;
                return Ok(());
            }
            self.remove(below.as_fd(), &name, depth + 1);
        }
        rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR).map_err(|e| Fault::os("rmdir", e))?;
        self.purged.removed += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beneath::Root;
    use crate::private;

    fn older(age: u64) -> Which<'static> {
        let now = 1_000_000 * SECONDS;
        Which::Older { now, age }
    }

    fn named(hour: u64) -> String {
        Hour { hour, round: 0 }.to_string()
    }

    #[test]
    fn what_is_old_goes_in_bounded_steps_and_nothing_else() {
        let temp = tempfile::tempdir().expect("temp dir");
        let root = Root::open(temp.path()).expect("root");
        let private = Private::open(&root).expect("private");
        let trash = temp.path().join(".tandem/trash");
        let make = |hour: u64, files: usize| {
            let dir = trash.join(named(hour)).join("a/b");
            std::fs::create_dir_all(&dir).expect("mkdir");
            for i in 0..files {
                std::fs::write(dir.join(format!("{i}")), b"x").expect("write");
            }
        };
        make(999_000, 30);
        make(999_996, 1);
        make(999_998, 5);
        std::fs::create_dir(trash.join("mine")).expect("mkdir");
        let count = || std::fs::read_dir(&trash).expect("dir").count();
        // Three hours: the last moment of what goes is older.
        let step = purge(&private, older(3 * SECONDS), 10).expect("purged");
        assert!(step.more && (1..=10).contains(&step.removed), "{step:?}");
        assert_eq!(count(), 4);
        let step = purge(&private, older(3 * SECONDS), 1000).expect("purged");
        assert_eq!((step.more, step.stays), (false, None));
        assert_eq!(count(), 2);
        // A few at a time; what has no right name is left alone.
        let oldest = |most| purge_oldest(&private, most).expect("purged");
        let step = oldest(6);
        assert_eq!((step.more, step.removed), (true, 3), "three files");
        assert_eq!(oldest(100).removed, 5, "two files, three directories");
        assert_eq!(oldest(100), Purged::default());
        assert!(trash.join("mine").exists());
    }

    #[test]
    fn much_that_cannot_be_removed_does_not_keep_the_rest() {
        let temp = tempfile::tempdir().expect("temp dir");
        let root = Root::open(temp.path()).expect("root");
        let private = Private::open(&root).expect("private");
        let (first, second) = (named(999_000), named(999_001));
        let at = |hour: &str, name: &str| temp.path().join(".tandem/trash").join(hour).join(name);
        for hour in [&first, &second] {
            std::fs::create_dir_all(at(hour, "d")).expect("mkdir");
        }
        let keep = |flags: u32| {
            (0..300).all(|n| {
                let file = std::fs::File::create(at(&first, &n.to_string()))
                    .or_else(|_| std::fs::File::open(at(&first, &n.to_string())))
                    .expect("a file");
                crate::chattr::set(file.as_fd(), crate::entry::Flags::of_bits(flags)).is_ok()
            })
        };
        const IMMUTABLE: u32 = 0x10;
        if !keep(IMMUTABLE) {
            keep(0);
            return tandem_lab::skipped("files cannot be made immutable");
        }
        let steps: Vec<_> = (0..3)
            .map(|_| purge(&private, older(SECONDS), 100).expect("purged"))
            .collect();
        let oldest = purge_oldest(&private, 100).expect("purged");
        let left = [at(&first, "d").exists(), at(&second, "").exists()];
        keep(0);
        assert_eq!(left, [false, false], "{steps:?}");
        assert!(steps.iter().all(|step| step.stays.is_some() && !step.more));
        assert_eq!(oldest.removed, 0);
    }

    #[test]
    fn what_cannot_be_removed_does_not_keep_the_rest() {
        let temp = tempfile::tempdir().expect("temp dir");
        let root = Root::open(temp.path()).expect("root");
        let private = Private::open(&root).expect("private");
        let trash = temp.path().join(".tandem/trash");
        let (first, second) = (named(999_000), named(999_001));
        for hour in [&first, &second] {
            std::fs::create_dir_all(trash.join(hour).join("z")).expect("mkdir");
            std::fs::write(trash.join(hour).join("z/file"), b"x").expect("write");
        }
        // Deeper than anything that is removed.
        let mut dir = private::duplicate(private.trash()).expect("dup");
        for name in std::iter::once(first.as_bytes()).chain([&b"d"[..]; DEEPEST + 2]) {
            dir = super::make(dir.as_fd(), name)
                .expect("made")
                .expect("a directory");
        }
        drop(dir);
        let step = purge(&private, older(SECONDS), 20_000).expect("purged");
        assert!(step.stays.is_some() && !step.more, "{step:?}");
        assert!(!trash.join(&first).join("z").exists());
        assert!(!trash.join(&second).exists());
        let step = purge_oldest(&private, 20_000).expect("purged");
        assert_eq!(step.removed, 0, "nothing else is left");
        let flat = |from: std::path::PathBuf, to| std::fs::rename(from, trash.join(to));
        // So that the temporary directory can be removed.
        while flat(trash.join(&first).join("d/".repeat(1000)), "rest").is_ok() {
            let _ = std::fs::remove_dir_all(trash.join(&first));
            flat(trash.join("rest"), first.as_str()).expect("moved");
        }
    }
}
