//! Looking into the trash. What is old goes meanwhile: what was there a moment ago may be gone, which is no error of a listing.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::hour::Hour;
use crate::beneath::{Place, Root, reopen};
use crate::fault::Fault;
use crate::meta::{self, Seen};
use crate::path::RelPath;
use crate::private::{Private, names};
use crate::stat::Stat;

/// An entry of the trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub hour: Hour,
    /// Where it was in the tree.
    pub path: RelPath,
    pub stat: Stat,
    /// A directory in which nothing is.
    pub bare: bool,
}

/// What is called for each entry, and says whether to go on.
pub(crate) type Each<'a> = &'a mut dyn FnMut(Found) -> ControlFlow<()>;

/// All entries at or below a path: the newest hour first, in each directory of the trash in the order of the paths, a directory
/// before what it holds.
pub(crate) fn each(private: &Private, below: &RelPath, each: Each<'_>) -> Result<(), Fault> {
    for hour in hours(private)?.into_iter().rev() {
        if each_of(private, hour, below, each)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// What can be put back of a path, at most `most` entries: from one directory of the trash, or from the newest hour that has
/// the path. Within that hour the newest version of each path counts. `None`: it is more.
pub(crate) fn newest(
    private: &Private,
    path: &RelPath,
    at: Option<Hour>,
    most: usize,
) -> Result<Option<Vec<Found>>, Fault> {
    let hours = match at {
        Some(at) => vec![at],
        None => hours(private)?,
    };
    let mut found: BTreeMap<RelPath, Found> = BTreeMap::new();
    let mut of = None;
    for hour in hours.into_iter().rev() {
        if of.is_some_and(|of| of != hour.hour) {
            break;
        }
        let walked = each_of(private, hour, path, &mut |entry| {
            merge(&mut found, entry);
            match found.len() > most {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        if walked.is_break() {
            return Ok(None);
        }
        of = of.or((!found.is_empty()).then_some(hour.hour));
    }
    Ok(Some(reachable(found)))
}

/// An older version gives way, but a directory has its attributes where it was first put.
fn merge(found: &mut BTreeMap<RelPath, Found>, older: Found) {
    let counts = found
        .get(&older.path)
        .is_none_or(|newer| newer.stat.is_dir() && older.stat.is_dir());
    if counts {
        found.insert(older.path.clone(), older);
    }
}

/// Without what would lie below something that is no directory: an older version of it was one.
fn reachable(found: BTreeMap<RelPath, Found>) -> Vec<Found> {
    let mut leaf: Option<RelPath> = None;
    let mut left = Vec::with_capacity(found.len());
    for (path, entry) in found {
        if leaf.as_ref().is_some_and(|leaf| path.is_below(leaf)) {
            continue;
        }
        if !entry.stat.is_dir() {
            leaf = Some(path);
        }
        left.push(entry);
    }
    left
}

/// What an entry holds.
#[derive(Debug)]
pub(crate) enum Content {
    File(File),
    Directory,
    /// A symbolic link to this.
    Link(Vec<u8>),
    Other,
}

/// Opens one entry.
pub(crate) fn open(
    (root, private): (&Root, &Private),
    hour: Hour,
    path: &RelPath,
) -> Result<(Seen, Content), Fault> {
    let held = place(private, hour, path)?.open_path()?;
    let seen = meta::read_fd(held.as_fd(), root)?;
    let stat = &seen.stat;
    let content = if stat.is_file() {
        Content::File(reopen(held.as_fd())?)
    } else if stat.is_dir() {
        Content::Directory
    } else if stat.is_symlink() {
        let target = rustix::fs::readlinkat(&held, "", Vec::new());
        let target = target.map_err(|e| Fault::os("readlink", e))?;
        Content::Link(target.into_bytes())
    } else {
        Content::Other
    };
    Ok((seen, content))
}

/// The directories of the trash, oldest first. What has another name is left alone.
pub(crate) fn hours(private: &Private) -> Result<Vec<Hour>, Fault> {
    let names = names(private.trash())?;
    let mut hours: Vec<_> = names.iter().filter_map(|name| Hour::parse(name)).collect();
    hours.sort_unstable();
    Ok(hours)
}

fn each_of(
    private: &Private,
    hour: Hour,
    below: &RelPath,
    each: Each<'_>,
) -> Result<ControlFlow<()>, Fault> {
    let walked = if below.is_root() {
        open_dir(private.trash(), hour.to_string().as_bytes())
            .and_then(|dir| walk_below(dir.as_fd(), hour, below, each))
    } else {
        place(private, hour, below).and_then(|at| walk(&at, hour, below, each))
    };
    match walked {
        // It is not there, or not any more.
        Err(Fault::Missing | Fault::NotBeneath) => Ok(ControlFlow::Continue(())),
        walked => walked,
    }
}

fn walk(at: &Place, hour: Hour, path: &RelPath, each: Each<'_>) -> Result<ControlFlow<()>, Fault> {
    let Some(stat) = at.stat()? else {
        return Ok(ControlFlow::Continue(()));
    };
    let mut found = Found {
        hour,
        path: path.clone(),
        stat,
        bare: false,
    };
    if !found.stat.is_dir() {
        return Ok(each(found));
    }
    let dir = match at.open_dir() {
        Ok(dir) => dir,
        Err(Fault::Missing | Fault::NotBeneath) => return Ok(ControlFlow::Continue(())),
        Err(fault) => return Err(fault),
    };
    found.bare = names(dir.as_fd())?.is_empty();
    if each(found).is_break() {
        return Ok(ControlFlow::Break(()));
    }
    walk_below(dir.as_fd(), hour, path, each)
}

fn walk_below(
    dir: BorrowedFd<'_>,
    hour: Hour,
    path: &RelPath,
    each: Each<'_>,
) -> Result<ControlFlow<()>, Fault> {
    let mut below = names(dir)?;
    below.sort_unstable();
    let dir = Arc::new(crate::private::duplicate(dir)?);
    for name in below {
        // Deeper or longer than a path of a tree: nothing that was removed from one. It bounds the descent too.
        let Ok(path) = path.join(&name) else {
            continue;
        };
        let at = Place::shared(Arc::clone(&dir), &name)?;
        if walk(&at, hour, &path, each)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Where an entry is in the trash.
fn place(private: &Private, hour: Hour, path: &RelPath) -> Result<Place, Fault> {
    let name = path.file_name().ok_or(Fault::NotBeneath)?;
    let mut dir = open_dir(private.trash(), hour.to_string().as_bytes())?;
    for name in path.parent().iter().flat_map(RelPath::components) {
        dir = open_dir(dir.as_fd(), name)?;
    }
    Place::new(dir, name)
}

fn open_dir(above: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Fault> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(above, name, flags, Mode::empty())
        .map_err(|e| Fault::os("open directory", e))
}
