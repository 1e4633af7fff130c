//! The trash: what the source removed, for a while.
//!
//! ```text
//!   .tandem/trash/2026-11-28T03/PATH    removed in that hour (UTC), under its path in the tree
//!   .tandem/trash/2026-11-28T03.1/PATH  the second one of that path in the hour
//! ```
//! Moving there is one rename. Directories get the attributes that they had. An hour goes as a whole when all of it is older
//! than the tree's `trash_age`, or, oldest first, when the room is needed.

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

/// Seconds of one directory of the trash.
const HOUR: u64 = 3600;
/// Directories of one hour: how often a path can go within it. Then what is removed once more replaces the newest.
const ROUNDS: u32 = 100;
/// Deepest directory that is removed: any that can come here. Each is an open directory and a call on the stack.
const DEEPEST: usize = MAX_DEPTH + 1;
/// Entries that go at once, at most, when there is no room for what comes to the trash: some ten milliseconds.
const GIVES: usize = 2000;
/// Opened directories of the trash that an apply keeps.
const OPEN: usize = 256;

/// Where an apply puts what it removes.
#[derive(Debug)]
pub(super) struct Trash<'p> {
    private: &'p Private,
    hour: String,
    /// By round and path.
    dirs: HashMap<(u32, RelPath), Arc<OwnedFd>>,
}

impl<'p> Trash<'p> {
    /// For what is removed now (seconds since 1970).
    pub fn new(private: &'p Private, now: u64) -> Trash<'p> {
        Trash {
            private,
            hour: name_of(now / HOUR),
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
        let hour = match round {
            0 => self.hour.clone(),
            _ => format!("{}.{round}", self.hour),
        };
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

/// Removes what is older than `age` (seconds), at most `most` entries.
pub(crate) fn purge(private: &Private, now: u64, age: u64, most: usize) -> Result<Purged, Fault> {
    let old = |hour: u64| (hour + 1).saturating_mul(HOUR).saturating_add(age) <= now;
    let mut sweep = Sweep::new(most);
    for (_, name) in hours(private)?
        .into_iter()
        .take_while(|(hour, _)| old(*hour))
    {
        sweep.remove(private.trash(), &name, 0);
    }
    Ok(sweep.purged)
}

/// Makes room: removes from the oldest hour of which anything can be removed, whatever its age, at most `most` entries.
pub(crate) fn purge_oldest(private: &Private, most: usize) -> Result<Purged, Fault> {
    let mut sweep = Sweep::new(most);
    for (_, name) in hours(private)? {
        sweep.remove(private.trash(), &name, 0);
        if sweep.purged.removed > 0 {
            break;
        }
    }
    Ok(sweep.purged)
}

/// The directories of the trash, oldest first. What has another name is left alone.
fn hours(private: &Private) -> Result<Vec<(u64, Vec<u8>)>, Fault> {
    let mut hours: Vec<_> = names(private.trash())?
        .into_iter()
        .filter_map(|name| Some((hour_of(&name)?, name)))
        .collect();
    hours.sort_unstable();
    Ok(hours)
}

/// Removing in a bounded step.
struct Sweep {
    /// Entries that may still be tried: what cannot be removed costs time too.
    left: usize,
    purged: Purged,
}

impl Sweep {
    fn new(most: usize) -> Sweep {
        Sweep {
            left: most,
            purged: Purged::default(),
        }
    }

    /// Removes an entry with all below it that can be removed.
    fn remove(&mut self, dir: BorrowedFd<'_>, name: &[u8], depth: usize) {
        match self.try_remove(dir, name, depth) {
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

/// An hour since 1970 as `2026-11-28T03`.
fn name_of(hour: u64) -> String {
    let (mut days, mut year) = (hour / 24, 1970u64);
    loop {
        let length = 365 + u64::from(leap(year));
        if days < length {
            break;
        }
        (days, year) = (days - length, year + 1);
    }
    let mut month = 1;
    for length in months(year) {
        if days < length {
            break;
        }
        (days, month) = (days - length, month + 1);
    }
    format!("{year:04}-{month:02}-{:02}T{:02}", days + 1, hour % 24)
}

/// The hour of a name; `None` for what [`name_of`] does not make, a round after it or not.
fn hour_of(name: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(name).ok()?;
    let (hour, round) = text.split_once('.').unwrap_or((text, "0"));
    round.parse::<u32>().ok().filter(|round| *round < ROUNDS)?;
    let part = |range: std::ops::Range<usize>| hour.get(range)?.parse::<u64>().ok();
    let (year, month, day, of_day) = (part(0..4)?, part(5..7)?, part(8..10)?, part(11..13)?);
    if year < 1970 || !(1..=12).contains(&month) || day == 0 || of_day > 23 {
        return None;
    }
    let years = (1970..year).map(|year| 365 + u64::from(leap(year)));
    // At most 12, which fits.
    let before = months(year).into_iter().take(month as usize - 1);
    let found = (years.chain(before).sum::<u64>() + day - 1) * 24 + of_day;
    (name_of(found) == hour).then_some(found)
}

fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn months(year: u64) -> [u64; 12] {
    let february = 28 + u64::from(leap(year));
    [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beneath::Root;
    use crate::private;

    #[test]
    fn names_of_hours_are_read_as_they_are_written() {
        assert_eq!(name_of(0), "1970-01-01T00");
        assert_eq!(name_of(1_764_298_800 / HOUR), "2025-11-28T03");
        assert_eq!(name_of(1_709_164_800 / HOUR), "2024-02-29T00");
        for hour in (0..1_000_000).step_by(997) {
            let name = name_of(hour);
            assert_eq!(hour_of(name.as_bytes()), Some(hour), "{name}");
            assert_eq!(hour_of(format!("{name}.7").as_bytes()), Some(hour));
        }
        for other in [
            "",
            "mine",
            "2026-02-30T03",
            "2026-1-1T1",
            "2026-11-28T03.x",
            "2026-11-28T03.100",
            "2026-11-28 03",
        ] {
            assert_eq!(hour_of(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn what_is_old_goes_in_bounded_steps_and_nothing_else() {
        let temp = tempfile::tempdir().expect("temp dir");
        let root = Root::open(temp.path(), false).expect("root");
        let private = Private::open(&root).expect("private");
        let now = 1_000_000 * HOUR;
        let trash = temp.path().join(".tandem/trash");
        let make = |hour: u64, files: usize| {
            let dir = trash.join(name_of(hour)).join("a/b");
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
        let step = purge(&private, now, 3 * HOUR, 10).expect("purged");
        assert!(step.more && (1..=10).contains(&step.removed), "{step:?}");
        assert_eq!(count(), 4);
        let step = purge(&private, now, 3 * HOUR, 1000).expect("purged");
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
    fn what_cannot_be_removed_does_not_keep_the_rest() {
        let temp = tempfile::tempdir().expect("temp dir");
        let root = Root::open(temp.path(), false).expect("root");
        let private = Private::open(&root).expect("private");
        let now = 1_000_000 * HOUR;
        let trash = temp.path().join(".tandem/trash");
        let (first, second) = (name_of(999_000), name_of(999_001));
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
        let step = purge(&private, now, HOUR, 20_000).expect("purged");
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
