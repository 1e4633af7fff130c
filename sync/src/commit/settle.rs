//! Phases 2, 4 and 5: durability, the times of directories, and the new local keys.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;

use super::Run;
use super::prepare::{Item, Kept, Prepared, Ready};
use super::step::Report;
use crate::beneath::Root;
use crate::chattr;
use crate::cut;
use crate::entry::{Flags, LocalKey};
use crate::fault::Fault;
use crate::meta;
use crate::path::RelPath;
use crate::stat::Stat;

/// What was staged reaches the disk, in a thread of its own, while `meanwhile` runs in this one.
pub(super) fn first_beside<T>(
    root: &Root,
    prepared: &mut Prepared,
    by_one: bool,
    meanwhile: impl FnOnce() -> T,
) -> (Result<(), Fault>, T) {
    if by_one && !prepared.items.iter().any(waits_for_disk) {
        let result = meanwhile();
        return (first(root, &mut prepared.items, by_one), result);
    }
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("tandem-settle".into());
        let items = &mut prepared.items;
        let thread = builder.spawn_scoped(scope, move || first(root, items, by_one));
        let result = meanwhile();
        let first = match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(first)) => first,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            // The system has no thread for it.
            Err(_) => sync_all(root),
        };
        (first, result)
    })
}

/// Of these one by one, unless the disk has begun with it.
fn waits_for_disk(item: &Item) -> bool {
    match &item.ready {
        Ok(Ready::Put(new)) => match &new.kept {
            Kept::File(staged) => !staged.is_underway(),
            Kept::Other(_) => new.is_dir(),
            Kept::Complete(_) | Kept::Aside(_) => false,
        },
        _ => false,
    }
}

/// What was staged reaches the disk before a name leads to it.
fn first(root: &Root, items: &mut [Item], by_one: bool) -> Result<(), Fault> {
    if !by_one {
        return sync_all(root);
    }
    for item in items {
        let Ok(Ready::Put(new)) = &mut item.ready else {
            continue;
        };
        match &mut new.kept {
            Kept::File(staged) => staged.sync()?,
            // Never one by one: see `syncs_by_itself`.
            Kept::Complete(_) | Kept::Aside(_) => {}
            Kept::Other(entry) if entry.is_dir => sync_fd(entry.place.open_dir()?.as_fd())?,
            // Only with `syncfs`: see `syncs_by_itself`.
            Kept::Other(_) => {}
        }
    }
    Ok(())
}

/// Directories get the modification time that a step asked for, else the one from before.
pub(super) fn directory_times(run: &mut Run<'_>, report: &mut Report) {
    for (path, parent) in &run.parents {
        if run.dir_times.contains_key(path) {
            continue;
        }
        let before = meta::only_time(parent.before.mtime_ns);
        // A directory that was removed meanwhile has no times to keep.
        if let Err(errno) = meta::set_mtime(parent.dir.as_fd(), &before) {
            tracing::debug!(%path, %errno, "the time of a directory could not be kept");
        }
    }
    let at: BTreeMap<RelPath, usize> = report
        .outcomes
        .iter()
        .enumerate()
        .map(|(index, outcome)| (outcome.path.clone(), index))
        .collect();
    // Deepest first is not needed: setting a directory's time does not touch the one above.
    for (path, want) in &run.dir_times {
        let set = run.target.root.open_path(path).and_then(|held| {
            meta::set_mtime(held.as_fd(), want).map_err(|errno| Fault::Attribute {
                what: "modification time".to_owned(),
                errno: errno.raw_os_error(),
            })
        });
        if let Err(fault) = set
            && let Some(outcome) = at.get(path).and_then(|i| report.outcomes.get_mut(*i))
            && outcome.result.is_ok()
        {
            outcome.missed.push(fault);
        }
    }
}

/// Entries get the flags that a step asked for, else what was taken away from them for a change.
pub(super) fn flags(run: &mut Run<'_>, report: &mut Report) {
    for freed in &run.freed {
        freed.give_back();
    }
    run.reflagged = !run.freed.is_empty();
    let mut missed = BTreeMap::new();
    for (path, (want, inode)) in &run.wanted {
        match set_flags(run.target.root, path, *want, *inode) {
            Ok(false) => {}
            Ok(true) => {
                run.reflagged = true;
                run.touched.insert(*inode);
            }
            Err(fault) => drop(missed.insert(path, fault)),
        }
        cut::here("after flags were set");
    }
    for outcome in report.outcomes.iter_mut().filter(|o| o.result.is_ok()) {
        outcome.missed.extend(missed.remove(&outcome.path));
    }
}

/// True: it had others before. What is not there any more, or was replaced since, gets none.
fn set_flags(root: &Root, path: &RelPath, want: Flags, inode: (u64, u64)) -> Result<bool, Fault> {
    if !root.flags() {
        return Err(Fault::Attribute {
            what: format!("flags {want}, which this tree does not carry"),
            errno: libc::EPERM,
        });
    }
    let Ok(held) = root.open_path(path) else {
        return Ok(false);
    };
    let stat = Stat::of_fd(held.as_fd())?;
    let is_it = (stat.dev, stat.ino) == inode && (stat.is_file() || stat.is_dir());
    match is_it {
        true => chattr::set(held.as_fd(), want),
        false => Ok(false),
    }
}

/// Names, removals and times reach the disk.
pub(super) fn second(run: &Run<'_>, report: &Report, by_one: bool) -> Result<(), Fault> {
    if report
        .outcomes
        .iter()
        .all(|outcome| outcome.result.is_err())
        && run.parents.is_empty()
    {
        return Ok(());
    }
    if !by_one || run.reflagged {
        return sync_all(run.target.root);
    }
    if let Some(trash) = &run.trash {
        trash.sync()?;
    }
    for parent in run.parents.values() {
        sync_fd(parent.dir.as_fd())?;
    }
    let others = run
        .dir_times
        .keys()
        .filter(|p| !run.parents.contains_key(*p));
    for path in others {
        match run.target.root.open_dir(path) {
            Ok(dir) => sync_fd(dir.as_fd())?,
            // Removed or replaced by a later step or by somebody else: its parent was synced.
            Err(Fault::Missing | Fault::NotBeneath) => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

/// The new versions, read when nothing of this apply moves them any more.
pub(super) fn keys(run: &Run<'_>, report: &mut Report) {
    for outcome in report.outcomes.iter_mut().filter(|o| o.result.is_ok()) {
        if let Some(key) = run.keys.get(&outcome.path)
            && !run.touched.contains(&(key.dev, key.ino))
        {
            outcome.result = Ok(Some(*key));
            continue;
        }
        outcome.result = match super::key_at(run.target.root, &outcome.path) {
            // Removed, and the directory it was in became something else.
            Err(Fault::NotBeneath) => Ok(None),
            Ok(found) => Ok(found.filter(|found| is_as_put(run, &outcome.path, found))),
            found => found,
        };
    }
    let done = report.outcomes.iter().filter(|o| o.result.is_ok());
    let done: BTreeSet<&RelPath> = done.map(|outcome| &outcome.path).collect();
    for path in run.parents.keys().filter(|path| !done.contains(path)) {
        // A directory that cannot be read is looked at again by its next event.
        if let Ok(Some(key)) = super::key_at(run.target.root, path) {
            report.dirs.insert(path.clone(), key);
        }
    }
}

/// Nobody has written or replaced it since it was put there. What somebody did has a key that the index must not know, so
/// that it is looked at.
fn is_as_put(run: &Run<'_>, path: &RelPath, found: &LocalKey) -> bool {
    let version = |key: &LocalKey| (key.dev, key.ino, key.mtime_ns, key.size);
    run.put
        .get(path)
        .is_none_or(|put| version(put) == version(found))
}

fn sync_fd(fd: std::os::fd::BorrowedFd<'_>) -> Result<(), Fault> {
    rustix::fs::fsync(fd).map_err(|e| Fault::os("fsync", e))
}

fn sync_all(root: &Root) -> Result<(), Fault> {
    rustix::fs::syncfs(root.fd()).map_err(|e| Fault::os("syncfs", e))
}
