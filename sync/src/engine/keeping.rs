//! The rescue as operators use it, and the way back into a tree. None of it needs the worker: a set is never changed
//! after it was made but by dropping, and a file that is put back is a write like any other on the master.

use super::command::Shared;
use super::error::CommandError;
use super::handle::Engine;
use super::report::{PutEntry, PutFile, PutReport, RescueSet};
use super::status::Mode;
use super::tree::Open;
use crate::beneath::Place;
use crate::entry::{FLAGS_NAME, Meta, Xattrs};
use crate::fault::Fault;
use crate::holes;
use crate::meta;
use crate::owners::Names;
use crate::path::RelPath;
use crate::private::Private;
use crate::rescue::{self, Item, RescueError};
use crate::stat::Stat;
use crate::tree::TreeId;
use rustix::fs::{AtFlags, Gid, Uid};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// Items that one listing may have. A set of more is listed up to here; its manifest has all.
const LISTED: usize = 1_000_000;

impl Engine {
    /// Every set of every tree whose root is open, in the order of the trees.
    ///
    /// # Errors
    /// A set cannot be read.
    pub async fn rescue_list(&self) -> Result<Vec<RescueSet>, CommandError> {
        self.keeping(|shared| {
            let mut sets = Vec::new();
            for tree in shared.trees().iter() {
                let Some(open) = shared.roots.get(tree.id()) else {
                    continue;
                };
                for set in rescue::list(&open.private).map_err(|e| failed(&e))? {
                    sets.push(RescueSet {
                        tree: tree.name.clone(),
                        directory: tree.root.join(".tandem/rescue").join(&set.header.id),
                        id: set.header.id,
                        made_unix_ms: set.header.made_unix_ms,
                        why: set.header.why,
                        base_unknown: set.header.base_unknown,
                        entries: set.items,
                        bytes: set.bytes,
                    });
                }
            }
            Ok(sets)
        })
        .await
    }

    /// The items of one set, at most a million.
    ///
    /// # Errors
    /// No such set, or it cannot be read.
    pub async fn rescue_show(&self, set: &str) -> Result<Vec<Item>, CommandError> {
        let set = set.to_owned();
        self.keeping(move |shared| {
            let private = find(shared, &set)?;
            let mut items = Vec::new();
            rescue::each_item(&private, &set, &mut |item| {
                items.push(item);
                if items.len() < LISTED {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })
            .map_err(|e| failed(&e))?;
            Ok(items)
        })
        .await
    }

    /// The content of one item.
    ///
    /// # Errors
    /// No such set or item, or the item is no regular file.
    pub async fn rescue_open(&self, set: &str, item: u64) -> Result<File, CommandError> {
        let set = set.to_owned();
        self.keeping(move |shared| {
            let private = find(shared, &set)?;
            rescue::open(&private, &set, item).map_err(|e| failed(&e))
        })
        .await
    }

    /// Gives up items for good; with no numbers the whole set.
    ///
    /// # Errors
    /// No such set or item, or it cannot be changed. Nothing is dropped when one of the items is not there.
    pub async fn rescue_drop(&self, set: &str, items: &[u64]) -> Result<(), CommandError> {
        let (set, items) = (set.to_owned(), items.to_vec());
        self.keeping(move |shared| {
            let private = find(shared, &set)?;
            known(&private, &set, &items)?;
            rescue::drop_items(&private, &set, &items).map_err(|e| failed(&e))
        })
        .await
    }

    /// A file without a name beside the files of a tree, for what is to be put into it: that needs no room elsewhere, and
    /// [`Engine::put_file`] takes it as it is.
    ///
    /// # Errors
    /// No such tree, or it cannot be made.
    pub async fn nameless(&self, tree: &str) -> Result<File, CommandError> {
        let shown = tree.to_owned();
        self.keeping(move |shared| {
            let Some(open) = shared.roots.get(TreeId::of(&shown)) else {
                return Err(CommandError::NoSuchTree(shown));
            };
            open.private.nameless().map_err(|fault| CommandError::File {
                path: shown,
                source: io(fault),
            })
        })
        .await
    }

    /// Writes `content` to a path of a tree on the master, as a new file. From there it is replicated like any other
    /// write. Missing directories are made. A file with the same content is left alone.
    ///
    /// # Errors
    /// This node is not the source; no such tree; something else is there and is not to be replaced; the file cannot be
    /// written.
    pub async fn put_file(
        &self,
        tree: &str,
        file: PutFile,
        content: File,
    ) -> Result<PutReport, CommandError> {
        self.put(tree, file, false, move |open, file| {
            put(open, file, content)
        })
        .await
    }

    /// Makes a directory or a symbolic link at a path of a tree on the master, as [`Engine::put_file`] does with a file.
    ///
    /// # Errors
    /// Those of [`Engine::put_file`].
    pub async fn put_entry(
        &self,
        tree: &str,
        file: PutFile,
        entry: PutEntry,
    ) -> Result<PutReport, CommandError> {
        let is_dir = entry == PutEntry::Directory;
        self.put(tree, file, is_dir, move |open, file| match entry {
            PutEntry::Directory => put_directory(open, file),
            PutEntry::Symlink(target) => put_link(open, file, &target),
        })
        .await
    }

    /// The names of the numbers in `meta`, if the owners of the tree go by name.
    pub fn names(&self, tree: &str, meta: &Meta) -> Option<Names> {
        self.shared.names_in(TreeId::of(tree), meta)
    }

    async fn put(
        &self,
        tree: &str,
        mut file: PutFile,
        is_dir: bool,
        work: impl FnOnce(&Open, &PutFile) -> std::io::Result<PutReport> + Send + 'static,
    ) -> Result<PutReport, CommandError> {
        let tree = TreeId::of(tree);
        let shown = file.path.to_string();
        self.keeping(move |shared| {
            if !matches!(*shared.mode.borrow(), Mode::Source { .. }) {
                return Err(CommandError::NotSource);
            }
            let trees = shared.trees();
            let config = trees.iter().find(|t| t.id() == tree);
            let (Some(open), Some(config)) = (shared.roots.get(tree), config) else {
                return Err(CommandError::NoSuchTree(shown));
            };
            // The path may come from the other node: it gets no further than a record of its would.
            let path = &file.path;
            if path.is_root() || path.is_private() || config.exclude.covers(path, is_dir) {
                return Err(CommandError::File {
                    path: shown,
                    source: std::io::Error::other("it is no part of the tree"),
                });
            }
            let sent = file.names.take();
            if let Some(unknown) = shared.own_meta(tree, &mut file.meta, sent) {
                return Err(CommandError::File {
                    path: shown,
                    source: std::io::Error::other(unknown.to_string()),
                });
            }
            file.meta = harmless(&file.meta, is_dir);
            work(&open, &file).map_err(|source| match source.kind() {
                std::io::ErrorKind::AlreadyExists => CommandError::Occupied(shown),
                _ => CommandError::File {
                    path: shown,
                    source,
                },
            })
        })
        .await
    }

    pub(super) async fn keeping<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, CommandError> + Send + 'static,
    ) -> Result<T, CommandError> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .map_err(|e| CommandError::Rescue(e.to_string()))?
    }
}

fn find(shared: &Shared, set: &str) -> Result<Arc<Private>, CommandError> {
    for tree in shared.trees().iter() {
        let Some(open) = shared.roots.get(tree.id()) else {
            continue;
        };
        if rescue::summary(&open.private, set).is_ok() {
            return Ok(open.private);
        }
    }
    Err(CommandError::NotInRescue(format!("set {set:?}")))
}

/// Refuses numbers that the set has no entry for.
fn known(private: &Private, set: &str, items: &[u64]) -> Result<(), CommandError> {
    let mut missing: BTreeSet<u64> = items.iter().copied().collect();
    rescue::each_item(private, set, &mut |item| {
        missing.remove(&item.number);
        if missing.is_empty() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })
    .map_err(|e| failed(&e))?;
    match missing.first() {
        None => Ok(()),
        Some(number) => Err(CommandError::NotInRescue(format!(
            "entry {number} in set {set}"
        ))),
    }
}

fn failed(error: &RescueError) -> CommandError {
    match error {
        RescueError::Unknown(what) => CommandError::NotInRescue(what.clone()),
        error => CommandError::Rescue(error.to_string()),
    }
}

fn io(fault: Fault) -> std::io::Error {
    match fault {
        Fault::Os { errno, .. } => std::io::Error::from_raw_os_error(errno),
        fault => std::io::Error::other(fault.to_string()),
    }
}

/// Durable when it returns.
fn put(open: &Open, file: &PutFile, mut content: File) -> std::io::Result<PutReport> {
    content.seek(SeekFrom::Start(0))?;
    if !file.replace && open.root.stat(&file.path).map_err(io)?.is_some() {
        return leave(open, &file.path, content);
    }
    make_parents(open, &file.path)?;
    let bytes = content.metadata()?.len();
    let staged = open.private.staging_place().map_err(io)?;
    let placed = stage(&staged, content, bytes)
        .and_then(|new| {
            give(&new, file)?;
            new.sync_all()
        })
        .and_then(|()| open.root.place(&file.path).map_err(io))
        .and_then(|place| take_place(open, &staged, &place, file.replace).map(|()| place));
    let place = placed.inspect_err(|_| {
        // What remains is removed at the next start too.
        let _ = staged.unlink();
    })?;
    place.sync_dir().map_err(io)?;
    Ok(PutReport { bytes })
}

/// The content under a name in staging: itself, if it was made for that, else a copy.
fn stage(staged: &Place, content: File, bytes: u64) -> std::io::Result<File> {
    if content.metadata()?.nlink() == 0 && staged.name_file(&content).is_ok() {
        return Ok(content);
    }
    let new = staged.create_new().map_err(io)?;
    holes::copy(&content, bytes, &new, 0).map_err(io)?;
    Ok(new)
}

/// One that is there is as good. Durable when it returns.
fn put_directory(open: &Open, file: &PutFile) -> std::io::Result<PutReport> {
    let done = PutReport { bytes: 0 };
    if let Some(stat) = open.root.stat(&file.path).map_err(io)? {
        let occupied = || std::io::Error::from(std::io::ErrorKind::AlreadyExists);
        return stat.is_dir().then_some(done).ok_or_else(occupied);
    }
    make_parents(open, &file.path)?;
    let staged = open.private.staging_place().map_err(io)?;
    staged.mkdir().map_err(io)?;
    let place = open.root.place(&file.path).map_err(io)?;
    let made = staged.open_dir().map_err(io).and_then(|dir| {
        give(&dir, file)?;
        rustix::fs::fsync(&dir)?;
        staged.rename_new(&place).map_err(io)
    });
    if let Err(error) = made {
        let _ = staged.rmdir();
        return Err(error);
    }
    place.sync_dir().map_err(io)?;
    Ok(done)
}

/// Durable when it returns.
fn put_link(open: &Open, file: &PutFile, target: &[u8]) -> std::io::Result<PutReport> {
    let done = PutReport { bytes: 0 };
    if !file.replace && open.root.stat(&file.path).map_err(io)?.is_some() {
        let there = open.root.open_path(&file.path).map_err(io)?;
        let there = rustix::fs::readlinkat(&there, "", Vec::new());
        let same = there.is_ok_and(|there| there.as_bytes() == target);
        let occupied = || std::io::Error::from(std::io::ErrorKind::AlreadyExists);
        return same.then_some(done).ok_or_else(occupied);
    }
    make_parents(open, &file.path)?;
    let place = open.root.place(&file.path).map_err(io)?;
    let staged = open.private.staging_place().map_err(io)?;
    staged.symlink(target).map_err(io)?;
    let held = staged.open_path().map_err(io);
    let made = held
        .and_then(|held| give(&held, file))
        .and_then(|()| take_place(open, &staged, &place, file.replace));
    if let Err(error) = made {
        let _ = staged.unlink();
        return Err(error);
    }
    place.sync_dir().map_err(io)?;
    Ok(done)
}

fn take_place(open: &Open, staged: &Place, place: &Place, replace: bool) -> std::io::Result<()> {
    if !replace {
        return staged.rename_new(place).map_err(io);
    }
    if let Some(stat) = place.stat().map_err(io)?
        && (stat.is_dir() || !open.root.opened_as().same_mount(&stat))
    {
        return Err(std::io::Error::other("something else than a file is there"));
    }
    staged.rename_over(place).map_err(io)
}

/// What is there is not replaced. With the same content there is nothing to do.
fn leave(open: &Open, path: &RelPath, content: File) -> std::io::Result<PutReport> {
    let occupied = || std::io::Error::from(std::io::ErrorKind::AlreadyExists);
    let there = open.root.open_file(path).map_err(|_| occupied())?;
    let same = there.metadata()?.len() == content.metadata()?.len()
        && hash_of(there)? == hash_of(content)?;
    same.then_some(PutReport { bytes: 0 }).ok_or_else(occupied)
}

fn hash_of(mut file: File) -> std::io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut file, &mut hasher)?;
    Ok(hasher.finalize())
}

/// Without what it would run as, the flags that would keep the master from changing it, and what a security module says of it: that
/// is the administrator's to say. Others may not remove what is not theirs from a directory that said so.
fn harmless(meta: &Meta, is_dir: bool) -> Meta {
    let mut xattrs: BTreeMap<Vec<u8>, Vec<u8>> = meta.xattrs.clone().into();
    xattrs.retain(|name, _| !name.starts_with(b"security.") && name != FLAGS_NAME);
    Meta {
        mode: meta.mode & if is_dir { 0o1777 } else { 0o777 },
        // Fewer than before, which fitted.
        xattrs: Xattrs::try_from(xattrs).unwrap_or_default(),
        ..meta.clone()
    }
}

/// Everything that is known of it. Only the owner may stay another one: without an ACL that cannot be set more people might
/// read it than before.
fn give(new: &impl AsFd, file: &PutFile) -> std::io::Result<()> {
    own(new, file)?;
    let has = Stat::of_fd(new.as_fd()).map_err(io)?;
    let want = Meta {
        uid: has.uid,
        gid: has.gid,
        ..file.meta.clone()
    };
    let missed = meta::apply(new.as_fd(), &want).map_err(io)?;
    match missed.into_iter().next() {
        None => Ok(()),
        Some(fault) => Err(std::io::Error::other(fault.to_string())),
    }
}

/// Gives what `held` is to its owner.
fn own(held: &impl AsFd, file: &PutFile) -> std::io::Result<()> {
    let (uid, gid) = (file.meta.uid, file.meta.gid);
    // To the kernel that number is nobody's.
    if uid == u32::MAX || gid == u32::MAX {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    match rustix::fs::chownat(held, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH) {
        // In a user namespace not every number is one's own. The content counts.
        Ok(()) | Err(Errno::PERM | Errno::ACCESS | Errno::INVAL) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn make_parents(open: &Open, path: &RelPath) -> std::io::Result<()> {
    let mut missing = Vec::new();
    let mut parent = path.parent();
    while let Some(dir) = parent {
        if dir.is_root() || open.root.stat(&dir).map_err(io)?.is_some() {
            break;
        }
        parent = dir.parent();
        missing.push(dir);
    }
    for dir in missing.iter().rev() {
        open.root.place(dir).map_err(io)?.mkdir().map_err(io)?;
    }
    Ok(())
}
