//! The rescue: where local versions go before something replaces them (invariant 5).
//!
//! `.tandem/rescue/<set>/` holds a manifest (one JSON line per item, see [`manifest`]) and one file per item that has a
//! content, named by the item's number. A content gets there by rename only: nothing is copied, so no room is needed for
//! it and it is never there in part. What was removed or only changed its metadata is a line without file.
//!
//! The order makes every crash harmless: the line is durable, then the file moves, then the move is durable, and only
//! then may the caller change anything at the path.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::beneath::{Place, Root};
use crate::chattr::Freed;
use crate::cut;
use crate::entry::State;
use crate::fault::Fault;
use crate::meta;
use crate::path::RelPath;
use crate::private::{self, Private};
use crate::stat::Stat;

pub mod manifest;
mod read;

use manifest::Line;
pub use manifest::{Change, Header, Item};
use read::read_lines;
pub use read::{Summary, each_item, list, open, summary};

const MANIFEST: &[u8] = b"manifest.jsonl";
/// Up to this many directories are made durable one by one, more by one `syncfs`.
const FEW: usize = 16;
/// Why the rescue could not do something as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RescueError {
    /// A system call failed. With [`Fault::NoSpace`] nothing may be applied.
    #[error("the rescue: {0}")]
    Fault(#[from] Fault),
    /// No set or item of that name.
    #[error("the rescue has no {0}")]
    Unknown(String),
    /// The name of a set is not 1 to 64 letters, digits, `.`, `-` or `_`, or begins with a dot.
    #[error("{0:?} is no name of a rescue set")]
    Name(String),
    /// A manifest that is not one.
    #[error("the manifest of rescue set {0} is damaged: {1}")]
    Damaged(String, String),
}

/// One local version to be kept.
#[derive(Debug, Clone)]
pub struct Keep {
    /// Where it lies.
    pub path: RelPath,
    /// What had happened to it here.
    pub change: Change,
    /// The other name of a rename.
    pub other: Option<RelPath>,
    /// What it is, as far as it is known.
    pub state: Option<State>,
    /// Move the entry itself to the rescue. Not possible for a directory. Otherwise only the record is made.
    pub take: bool,
}

/// Keeps versions in `set`, as [`OpenSet::keep`] does. Where that is none, or somebody has dropped it since, a new one is begun
/// with the header.
pub fn keep_in(
    set: &mut Option<OpenSet>,
    (root, private): (&Root, &Private),
    header: impl FnOnce() -> Header,
    versions: &[Keep],
) -> Result<Vec<Result<u64, Fault>>, RescueError> {
    let _rescuing = private.rescuing();
    let open = match set.take() {
        Some(open) if !open.is_dropped()? => open,
        _ => OpenSet::open(private, &header())?,
    };
    set.insert(open).keep(root, versions)
}

/// A set that is being filled.
#[derive(Debug)]
pub struct OpenSet {
    dir: OwnedFd,
    manifest: File,
    next: u64,
}

impl OpenSet {
    /// Begins a set, or goes on with the one of this name. The set and its header are durable when this returns.
    pub fn open(private: &Private, header: &Header) -> Result<OpenSet, RescueError> {
        check_name(&header.id)?;
        let made = rustix::fs::mkdirat(private.rescue(), header.id.as_str(), Mode::RWXU);
        match made {
            Ok(()) => sync(private.rescue())?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(Fault::os("mkdir", errno).into()),
        }
        let dir = open_set(private, &header.id)?;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = manifest::os(MANIFEST);
        let file = rustix::fs::openat(&dir, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| Fault::os("open manifest", e))?;
        let mut set = OpenSet {
            dir,
            manifest: File::from(file),
            next: 1,
        };
        let empty = Stat::of_fd(set.manifest.as_fd())?.size == 0;
        if empty {
            set.append(&[Line::Header(header.clone())])?;
            sync(set.dir.as_fd())?;
        } else {
            set.go_on(private, header)?;
        }
        Ok(set)
    }

    /// It has no manifest any more: what were put into it now could not be found.
    fn is_dropped(&self) -> Result<bool, Fault> {
        Ok(Stat::of_fd(self.manifest.as_fd())?.nlink == 0)
    }

    /// The last line may have been cut by a crash; the numbers go on after the highest one.
    fn go_on(&mut self, private: &Private, header: &Header) -> Result<(), RescueError> {
        read_lines(private, &header.id, &mut |line| {
            if let Line::Item(item) = line {
                self.next = self.next.max(item.number.saturating_add(1));
            }
            ControlFlow::Continue(())
        })?;
        // An empty line is passed over by the reader.
        self.manifest
            .write_all(b"\n")
            .map_err(|e| Fault::io("write manifest", &e))?;
        Ok(())
    }

    fn append(&mut self, lines: &[Line]) -> Result<(), Fault> {
        let mut bytes = Vec::new();
        for line in lines {
            line.write(&mut bytes);
        }
        self.manifest
            .write_all(&bytes)
            .and_then(|()| self.manifest.sync_data())
            .map_err(|e| Fault::io("write manifest", &e))
    }

    /// Keeps local versions. For each: its number, or why it could not be kept; then nothing was moved and nothing may
    /// be applied there. All that is reported as kept is durable.
    ///
    /// An error of the whole (no room above all) means that nothing may be applied anywhere.
    pub fn keep(
        &mut self,
        root: &Root,
        versions: &[Keep],
    ) -> Result<Vec<Result<u64, Fault>>, RescueError> {
        let mut lines = Vec::with_capacity(versions.len());
        let mut found = Vec::with_capacity(versions.len());
        for keep in versions {
            let seen = look(root, keep);
            if let Ok(seen) = &seen {
                lines.push(Line::Item(self.item(keep, seen.as_ref())));
                found.push(Ok((self.next, seen.is_some())));
                self.next += 1;
            } else {
                found.push(seen.map(|_| (0, false)));
            }
        }
        self.append(&lines)?;
        let mut parents = BTreeMap::new();
        let mut results = Vec::with_capacity(versions.len());
        for (keep, found) in versions.iter().zip(found) {
            results.push(found.and_then(|(number, take)| {
                if take {
                    cut::here("before a version is moved to the rescue");
                    self.take(root, &keep.path, number, &mut parents)?;
                }
                Ok(number)
            }));
        }
        cut::here("after versions were moved to the rescue");
        self.settle(root, &parents)?;
        Ok(results)
    }

    fn item(&self, keep: &Keep, taken: Option<&Stat>) -> Item {
        let size = taken
            .filter(|stat| stat.is_file())
            .map_or(0, |stat| stat.size);
        let known = keep.state.as_ref().map(|state| state.meta.mtime_ns);
        let mtime = taken.map(|stat| stat.mtime_ns).or(known);
        Item {
            number: self.next,
            path: keep.path.clone(),
            change: keep.change,
            size,
            mtime_unix_ms: mtime.and_then(|ns| i64::try_from(ns.div_euclid(1_000_000)).ok()),
            other: keep.other.clone(),
            state: keep.state.clone(),
            taken: taken.is_some(),
        }
    }

    fn take(
        &self,
        root: &Root,
        path: &RelPath,
        number: u64,
        parents: &mut BTreeMap<RelPath, Left>,
    ) -> Result<(), Fault> {
        let place = root.place(path)?;
        let parent = path.parent().unwrap_or_else(RelPath::root);
        let before = Stat::of_fd(place.dir())?;
        let dir = private::duplicate(place.dir())?;
        let target = Place::new(private::duplicate(self.dir.as_fd())?, &file_name(number))?;
        let above = freed(root, dir.as_fd())?;
        parents.entry(parent).or_insert(Left {
            dir,
            mtime_ns: before.mtime_ns,
            freed: above,
        });
        let of_entry = match root.flags() {
            true => freed(root, place.open_path()?.as_fd())?,
            false => None,
        };
        place.rename_new(&target).inspect_err(|_| {
            of_entry.iter().for_each(Freed::give_back);
        })
    }

    /// The moves reach the disk; the directories keep their times.
    fn settle(&self, root: &Root, parents: &BTreeMap<RelPath, Left>) -> Result<(), Fault> {
        for (path, left) in parents {
            let time = meta::only_time(left.mtime_ns);
            if let Err(errno) = meta::set_mtime(left.dir.as_fd(), &time) {
                tracing::debug!(%path, %errno, "the time of a directory could not be kept");
            }
            left.freed.iter().for_each(Freed::give_back);
        }
        if parents.len() > FEW {
            return rustix::fs::syncfs(root.fd()).map_err(|e| Fault::os("syncfs", e));
        }
        if !parents.is_empty() {
            sync(self.dir.as_fd())?;
        }
        parents.values().try_for_each(|left| sync(left.dir.as_fd()))
    }
}

/// A directory out of which something was moved.
struct Left {
    dir: OwnedFd,
    mtime_ns: i128,
    freed: Option<Freed>,
}

/// In a tree that carries flags they make way.
fn freed(root: &Root, fd: BorrowedFd<'_>) -> Result<Option<Freed>, Fault> {
    let flagged = root.flags() && Stat::of_fd(fd)?.protecting_flag().is_some();
    flagged.then(|| Freed::take(fd)).transpose()
}

/// What is to be moved; `None` for a record only.
fn look(root: &Root, keep: &Keep) -> Result<Option<Stat>, Fault> {
    if keep.path.is_private() {
        return Err(Fault::NotBeneath);
    }
    if !keep.take {
        return Ok(None);
    }
    let place = root.place(&keep.path)?;
    let stat = place.stat()?.ok_or(Fault::Missing)?;
    let above = Stat::of_fd(place.dir())?;
    if let Some(flag) = stat.protecting_flag().or(above.protecting_flag())
        && !root.flags()
    {
        return Err(Fault::Flagged(flag));
    }
    if stat.is_dir() {
        return Err(Fault::Changed("a directory is not moved to the rescue"));
    }
    if !root.opened_as().same_mount(&stat) {
        return Err(Fault::MountBelow);
    }
    Ok(Some(stat))
}

/// Gives up items of a set for good; with no numbers the whole set.
pub fn drop_items(private: &Private, set: &str, numbers: &[u64]) -> Result<(), RescueError> {
    let rescuing = private.rescuing();
    let dir = open_set(private, set)?;
    if !numbers.is_empty() {
        drop_some(private, set, &dir, numbers)?;
        // A set without entries says nothing any more.
        if summary(private, set)?.items > 0 {
            return Ok(());
        }
    }
    // From here on it is over for whoever fills it, who need not wait for the rest.
    match rustix::fs::unlinkat(&dir, manifest::os(MANIFEST), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(Fault::os("unlink manifest", errno).into()),
    }
    drop(rescuing);
    private::remove_below(dir.as_fd(), 0)?;
    let gone = rustix::fs::unlinkat(private.rescue(), set, AtFlags::REMOVEDIR);
    gone.map_err(|e| Fault::os("rmdir", e))?;
    sync(private.rescue())?;
    Ok(())
}

fn drop_some(
    private: &Private,
    set: &str,
    dir: &OwnedFd,
    numbers: &[u64],
) -> Result<(), RescueError> {
    let header = summary(private, set)?.header;
    let mut open = OpenSet::open(private, &header)?;
    open.append(&[Line::Dropped(numbers.to_vec())])?;
    for number in numbers {
        let name = file_name(*number);
        match rustix::fs::unlinkat(dir, manifest::os(&name), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(Fault::os("unlink", errno).into()),
        }
    }
    sync(dir.as_fd())?;
    Ok(())
}

fn check_name(set: &str) -> Result<(), RescueError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let fits = (1..=64).contains(&set.len()) && set.bytes().all(good) && !set.starts_with('.');
    fits.then_some(())
        .ok_or_else(|| RescueError::Name(set.to_owned()))
}

fn open_set(private: &Private, set: &str) -> Result<OwnedFd, RescueError> {
    check_name(set)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(private.rescue(), set, flags, Mode::empty()) {
        Ok(dir) => Ok(dir),
        Err(Errno::NOENT) => Err(RescueError::Unknown(format!("set {set}"))),
        Err(errno) => Err(Fault::os("open rescue set", errno).into()),
    }
}

fn file_name(number: u64) -> Vec<u8> {
    format!("{number:08}").into_bytes()
}

fn sync(fd: BorrowedFd<'_>) -> Result<(), Fault> {
    rustix::fs::fsync(fd).map_err(|e| Fault::os("fsync", e))
}

#[cfg(test)]
mod tests;
