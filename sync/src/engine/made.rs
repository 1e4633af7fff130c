//! Directories that an apply made and did not finish, of a node that takes over.

use super::intent::{INTENT, Intent};
use super::worker::Worker;
use crate::beneath::Root;
use crate::entry::{IndexEntry, Meta};
use crate::fault::Fault;
use crate::index::{IndexError, Snapshot};
use crate::meta::{self, What};
use crate::path::RelPath;
use std::os::fd::AsFd;

impl Worker {
    /// An apply makes a directory closed and gives it its attributes at the end. One that was cut in between left what
    /// nobody asked for: before it becomes data it gets the attributes of the intent. Only for a node that is about to
    /// write, whose token is revoked: nothing else is applied meanwhile.
    pub(super) fn finish_made_dirs(&self, snapshot: &Snapshot) -> Result<(), IndexError> {
        let intent: Intent = snapshot.value(INTENT)?.unwrap_or_default();
        for (id, path, _, state) in &intent.0 {
            let Some(state) = state.as_ref().filter(|state| state.kind.is_dir()) else {
                continue;
            };
            let Some(tree) = self.position(*id).map(|at| &self.trees[at]) else {
                continue;
            };
            let config = &tree.config;
            let outside = config.protect.covers(path, true) || config.exclude.covers(path, true);
            let Some(open) = tree.open.as_ref().filter(|_| !outside) else {
                continue;
            };
            let known = snapshot.get(*id, path)?;
            if let Err(fault) = finish(&open.root, path, known.as_ref(), &state.meta) {
                tracing::warn!(tree = config.name, %path, %fault, "a new directory keeps closed attributes");
            }
        }
        Ok(())
    }
}

/// Gives a directory that is as it was made its attributes, durably: the intent does not outlive this.
fn finish(
    root: &Root,
    path: &RelPath,
    known: Option<&IndexEntry>,
    want: &Meta,
) -> Result<(), Fault> {
    let Some(seen) = meta::read(root, path)? else {
        return Ok(());
    };
    let inode = (seen.stat.dev, seen.stat.ino);
    // Of one that the pair knows nobody but its owner closed it.
    let is_known = known
        .filter(|entry| entry.seq != 0)
        .and_then(|entry| entry.local)
        .is_some_and(|local| (local.dev, local.ino) == inode);
    let own = seen.stat.uid == rustix::process::geteuid().as_raw();
    let as_made = seen.what == What::Dir && seen.stat.mode & 0o7777 == 0o700 && own;
    if is_known || !as_made || !seen.meta.xattrs.is_empty() {
        return Ok(());
    }
    let dir = root.open_dir(path)?;
    for missed in meta::apply(dir.as_fd(), want)? {
        tracing::warn!(%path, %missed, "an attribute of a new directory is not set");
    }
    if root.flags() {
        crate::chattr::set(dir.as_fd(), want.xattrs.flags())?;
    }
    let dir = std::fs::File::from(dir);
    dir.sync_all().map_err(|e| Fault::io("fsync", &e))
}
