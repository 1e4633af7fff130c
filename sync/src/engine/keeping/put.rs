//! What is put into a tree of the master's as operators ask for it: made in staging, and durable when it has its place.

use crate::beneath::Place;
use crate::engine::report::{PutFile, PutReport};
use crate::engine::tree::Open;
use crate::entry::{FLAGS_NAME, Meta, Xattrs};
use crate::fault::Fault;
use crate::holes;
use crate::meta;
use crate::path::RelPath;
use crate::stat::Stat;
use rustix::fs::{AtFlags, Gid, Uid};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

pub(super) fn io(fault: Fault) -> std::io::Error {
    match fault {
        Fault::Os { errno, .. } => std::io::Error::from_raw_os_error(errno),
        fault => std::io::Error::other(fault.to_string()),
    }
}

/// A file with this content. Durable when it returns.
pub(super) fn file(open: &Open, file: &PutFile, mut content: File) -> std::io::Result<PutReport> {
    content.seek(SeekFrom::Start(0))?;
    if !file.replace && open.root.stat(&file.path).map_err(io)?.is_some() {
        return leave(open, &file.path, content);
    }
    make_parents(open, &file.path)?;
    let bytes = content.metadata()?.len();
    let staged = open.private.staging_place().map_err(io)?;
    let placed = stage(&staged, content, bytes)
        .and_then(|new| {
            give(&new, &file.meta)?;
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

/// A directory; one that is there is as good. Durable when it returns.
pub(super) fn directory(open: &Open, file: &PutFile) -> std::io::Result<PutReport> {
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
        give(&dir, &file.meta)?;
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

/// A symbolic link. Durable when it returns.
pub(super) fn link(open: &Open, file: &PutFile, target: &[u8]) -> std::io::Result<PutReport> {
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
        .and_then(|held| give(&held, &file.meta))
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
pub(super) fn harmless(meta: &Meta, is_dir: bool) -> Meta {
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
fn give(new: &impl AsFd, meta: &Meta) -> std::io::Result<()> {
    own(new, meta)?;
    let has = Stat::of_fd(new.as_fd()).map_err(io)?;
    let want = Meta {
        uid: has.uid,
        gid: has.gid,
        ..meta.clone()
    };
    let missed = meta::apply(new.as_fd(), &want).map_err(io)?;
    match missed.into_iter().next() {
        None => Ok(()),
        Some(fault) => Err(std::io::Error::other(fault.to_string())),
    }
}

/// Gives what `held` is to its owner.
fn own(held: &impl AsFd, meta: &Meta) -> std::io::Result<()> {
    let (uid, gid) = (meta.uid, meta.gid);
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

/// Missing directories above are made like the nearest one that is there: what they were is not known, and whoever could come as
/// far as that is let in. Durable when it returns.
fn make_parents(open: &Open, path: &RelPath) -> std::io::Result<()> {
    let mut missing = Vec::new();
    let mut above = path.parent().unwrap_or_else(RelPath::root);
    while !above.is_root() && open.root.stat(&above).map_err(io)?.is_none() {
        let next = above.parent().unwrap_or_else(RelPath::root);
        missing.push(std::mem::replace(&mut above, next));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let there = meta::read(&open.root, &above).map_err(io)?;
    let gone = || std::io::Error::from(std::io::ErrorKind::NotFound);
    let like = access(&there.ok_or_else(gone)?.meta);
    for dir in missing.iter().rev() {
        let place = open.root.place(dir).map_err(io)?;
        place.mkdir().map_err(io)?;
        give(&place.open_dir().map_err(io)?, &like)?;
        place.sync_dir().map_err(io)?;
    }
    Ok(())
}

/// Who owns a directory, and what it allows to whom.
fn access(meta: &Meta) -> Meta {
    let mut xattrs: BTreeMap<Vec<u8>, Vec<u8>> = meta.xattrs.clone().into();
    xattrs.retain(|name, _| name.starts_with(b"system.posix_acl_"));
    Meta {
        // Fewer than before, which fitted.
        xattrs: Xattrs::try_from(xattrs).unwrap_or_default(),
        ..meta.clone()
    }
}
