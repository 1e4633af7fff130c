//! Reading and applying metadata of an entry through a descriptor.
//!
//! All of it goes through `/proc/self/fd/N` of an `O_PATH` descriptor or through `AT_EMPTY_PATH`: the entry that was
//! resolved is the one that is read or changed, whatever its name leads to meanwhile. It works for symbolic links,
//! fifos and devices too, none of which is opened or followed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::beneath::Root;
use crate::chattr;
use crate::entry::{
    ContentHash, FLAGS_NAME, Flags, Kind, LinkTarget, LocalKey, MAX_XATTRS, Meta, State, Xattrs,
};
use crate::fault::Fault;
use crate::path::RelPath;
use crate::stat::Stat;

/// The kernel's bound for the list of names (`XATTR_LIST_MAX`) and for one value (`XATTR_SIZE_MAX`).
const KERNEL_XATTR_MAX: usize = 64 * 1024;

/// What lies at a path, without the hash of a file's content and without knowledge of hard links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A regular file with its size.
    File(u64),
    /// A directory.
    Dir,
    /// A symbolic link with its target.
    Symlink(LinkTarget),
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice(u64),
    /// A block device.
    BlockDevice(u64),
    /// A socket: never replicated, only listed.
    Socket,
}

/// One entry as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The stat taken before everything else was read.
    pub stat: Stat,
    /// Its kind.
    pub what: What,
    /// Its replicated metadata.
    pub meta: Meta,
}

impl Seen {
    /// How to recognise this version later.
    pub fn key(&self) -> LocalKey {
        self.stat.key()
    }

    /// Whether the file has further names. They may lie in the same tree or elsewhere.
    pub fn has_other_names(&self) -> bool {
        matches!(self.what, What::File(_)) && self.stat.nlink > 1
    }

    /// The replicated state. `hash` is needed for a regular file; `None` without it, and for a socket.
    pub fn state(&self, hash: Option<ContentHash>) -> Option<State> {
        let kind = match &self.what {
            What::File(size) => Kind::File {
                size: *size,
                hash: hash?,
            },
            What::Dir => Kind::Dir,
            What::Symlink(target) => Kind::Symlink {
                target: target.clone(),
            },
            What::Fifo => Kind::Fifo,
            What::CharDevice(rdev) => Kind::CharDevice { rdev: *rdev },
            What::BlockDevice(rdev) => Kind::BlockDevice { rdev: *rdev },
            What::Socket => return None,
        };
        Some(State {
            kind,
            meta: self.meta.clone(),
        })
    }
}

/// Reads an entry beneath the root; `None` when it does not exist. The root itself is read as a directory.
pub fn read(root: &Root, path: &RelPath) -> Result<Option<Seen>, Fault> {
    let held = match root.open_path(path) {
        Ok(held) => held,
        Err(Fault::Missing) => return Ok(None),
        Err(fault) => return Err(fault),
    };
    read_fd(held.as_fd(), root).map(Some)
}

/// Reads the entry of an open descriptor, best an `O_PATH` one.
///
/// Between two changes of the entry the result can mix the old and the new version; its [`LocalKey`] is then the old
/// one, so that a later look sees the change. It lies beneath the root.
pub fn read_fd(fd: BorrowedFd<'_>, root: &Root) -> Result<Seen, Fault> {
    read_with(fd, Named::Proc(&proc_path(fd)), root)
}

/// Reads the entry of an open regular file or directory beneath the root.
pub fn read_open(file: &std::fs::File, root: &Root) -> Result<Seen, Fault> {
    read_with(file.as_fd(), Named::Fd(file.as_fd()), root)
}

fn read_with(fd: BorrowedFd<'_>, named: Named<'_>, root: &Root) -> Result<Seen, Fault> {
    let stat = root.sees(Stat::of_fd(fd)?);
    let what = match stat.file_type() {
        FileType::RegularFile => What::File(stat.size),
        FileType::Directory => What::Dir,
        FileType::Symlink => What::Symlink(read_link(fd)?),
        FileType::Fifo => What::Fifo,
        FileType::CharacterDevice => What::CharDevice(stat.rdev),
        FileType::BlockDevice => What::BlockDevice(stat.rdev),
        FileType::Socket => What::Socket,
        _ => return Err(Fault::Changed("of a kind that is not known")),
    };
    let mode = if stat.file_type() == FileType::Symlink {
        0
    } else {
        stat.mode & 0o7777
    };
    let flags = match root.flags() && (stat.is_file() || stat.is_dir()) {
        true => chattr::read(fd)?,
        false => Flags::default(),
    };
    let meta = Meta {
        mode,
        uid: stat.uid,
        gid: stat.gid,
        mtime_ns: stat.mtime_ns,
        xattrs: read_xattrs(named, flags)?,
    };
    Ok(Seen { stat, what, meta })
}

fn read_link(fd: BorrowedFd<'_>) -> Result<LinkTarget, Fault> {
    let target =
        rustix::fs::readlinkat(fd, "", Vec::new()).map_err(|e| Fault::os("readlink", e))?;
    LinkTarget::try_from(target.into_bytes()).map_err(|_| Fault::Os {
        call: "readlink",
        errno: libc::ENAMETOOLONG,
    })
}

/// How the calls for extended attributes name the entry.
#[derive(Clone, Copy)]
enum Named<'a> {
    /// By an open file.
    Fd(BorrowedFd<'a>),
    /// By the magic link of an `O_PATH` descriptor, which those calls refuse.
    Proc(&'a std::path::Path),
}

impl Named<'_> {
    fn list(self, into: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Named::Fd(fd) => rustix::fs::flistxattr(fd, into),
            Named::Proc(path) => rustix::fs::listxattr(path, into),
        }
    }

    fn get(self, name: &OsStr, into: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Named::Fd(fd) => rustix::fs::fgetxattr(fd, name, into),
            Named::Proc(path) => rustix::fs::getxattr(path, name, into),
        }
    }

    fn set(self, name: &OsStr, value: &[u8]) -> Result<(), Errno> {
        match self {
            Named::Fd(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Named::Proc(path) => rustix::fs::setxattr(path, name, value, XattrFlags::empty()),
        }
    }

    fn remove(self, name: &OsStr) -> Result<(), Errno> {
        match self {
            Named::Fd(fd) => rustix::fs::fremovexattr(fd, name),
            Named::Proc(path) => rustix::fs::removexattr(path, name),
        }
    }
}

fn proc_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Whether an extended attribute belongs to the replicated state.
///
/// `user.`, `trusted.`, `security.` and the two POSIX ACLs. Other `system.` names are the file system's own view of
/// something else.
pub fn is_replicated_xattr(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || name.starts_with(b"trusted.")
        || name.starts_with(b"security.")
        || name == ACCESS
        || name == b"system.posix_acl_default"
}

fn read_xattrs(of: Named<'_>, flags: Flags) -> Result<Xattrs, Fault> {
    let mut found = BTreeMap::new();
    for name in xattr_names(of)? {
        if let Some(value) = xattr_value(of, &name)? {
            found.insert(name, value);
        }
    }
    if !flags.is_empty() {
        found.insert(FLAGS_NAME.to_vec(), flags.to_value());
    }
    Xattrs::try_from(found).map_err(|_| Fault::Attribute {
        what: format!("extended attributes of more than {MAX_XATTRS} bytes"),
        errno: libc::E2BIG,
    })
}

fn xattr_names(of: Named<'_>) -> Result<Vec<Vec<u8>>, Fault> {
    // Most entries have none or a few.
    let mut small = [0u8; 512];
    let mut large = Vec::new();
    let list = match of.list(&mut small) {
        Ok(used) => &small[..used],
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {
            large.resize(KERNEL_XATTR_MAX, 0);
            let used = of.list(&mut large).map_err(|e| Fault::os("listxattr", e))?;
            &large[..used]
        }
        Err(errno) => return Err(Fault::os("listxattr", errno)),
    };
    let names = list.split(|b| *b == 0);
    Ok(names
        .filter(|name| is_replicated_xattr(name))
        .map(<[u8]>::to_vec)
        .collect())
}

fn xattr_value(of: Named<'_>, name: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
    let name = OsStr::from_bytes(name);
    let mut small = [0u8; 512];
    match of.get(name, &mut small) {
        Ok(used) => return Ok(Some(small[..used].to_vec())),
        Err(Errno::NODATA) => return Ok(None),
        Err(Errno::RANGE) => {}
        Err(errno) => return Err(Fault::os("getxattr", errno)),
    }
    let mut large = vec![0u8; KERNEL_XATTR_MAX];
    match of.get(name, &mut large) {
        Ok(used) => {
            large.truncate(used);
            Ok(Some(large))
        }
        Err(Errno::NODATA) => Ok(None),
        Err(errno) => Err(Fault::os("getxattr", errno)),
    }
}

/// Applies metadata to the entry of `fd` (an `O_PATH` descriptor or an open file) in the order that keeps each: owner
/// (clears set-id bits and capabilities), mode, extended attributes, time. The flags of `chattr` are left as they are.
///
/// What cannot be applied (no right, a user namespace without the owner, a file system without the attribute) is
/// returned by name and the rest is applied; if it is the owner, the set-id bits are left off. Only
/// [`Fault::NoSpace`] ends it (of a disk that is full, not of an attribute that is too large or of an owner's quota), and
/// [`Fault::ReadOnly`].
pub fn apply(fd: BorrowedFd<'_>, want: &Meta) -> Result<Vec<Fault>, Fault> {
    let mode = |mode| set_mode(fd, mode);
    apply_with(fd, want, Named::Proc(&proc_path(fd)), &mode)
}

/// [`apply`] for an open regular file, with fewer path lookups.
pub fn apply_open(file: &std::fs::File, want: &Meta) -> Result<Vec<Fault>, Fault> {
    let mode = |mode| rustix::fs::fchmod(file, Mode::from_raw_mode(mode));
    apply_with(file.as_fd(), want, Named::Fd(file.as_fd()), &mode)
}

/// [`apply_open`] for a file that this process has just made in staging: it has no extended attributes but a label that
/// a security module gave it.
pub fn apply_new(file: &std::fs::File, want: &Meta) -> Result<Vec<Fault>, Fault> {
    if !want.xattrs.is_empty() {
        return apply_open(file, want);
    }
    let set_mode = |mode| rustix::fs::fchmod(file, Mode::from_raw_mode(mode));
    let mut missed = Vec::new();
    own_and_mode(file.as_fd(), want, &set_mode, &mut missed)?;
    if let Err(errno) = set_mtime(file.as_fd(), want) {
        note(
            file.as_fd(),
            &mut missed,
            "modification time".to_owned(),
            errno,
        )?;
    }
    Ok(missed)
}

fn apply_with(
    fd: BorrowedFd<'_>,
    want: &Meta,
    named: Named<'_>,
    set_mode: &dyn Fn(u32) -> Result<(), Errno>,
) -> Result<Vec<Fault>, Fault> {
    let mut missed = Vec::new();
    own_and_mode(fd, want, set_mode, &mut missed)?;
    apply_xattrs(fd, named, &want.xattrs, &mut missed)?;
    if let Err(errno) = set_mtime(fd, want) {
        note(fd, &mut missed, "modification time".to_owned(), errno)?;
    }
    Ok(missed)
}

fn own_and_mode(
    fd: BorrowedFd<'_>,
    want: &Meta,
    set_mode: &dyn Fn(u32) -> Result<(), Errno>,
    missed: &mut Vec<Fault>,
) -> Result<(), Fault> {
    let now = Stat::of_fd(fd)?;
    let mut mode = want.mode & 0o7777;
    if (now.uid, now.gid) != (want.uid, want.gid)
        && let Err(errno) = set_owner(fd, want)
    {
        let what = format!("owner {}:{}", want.uid, want.gid);
        note(fd, missed, what, errno)?;
        mode &= 0o1777;
    }
    let chowned = (now.uid, now.gid) != (want.uid, want.gid);
    if now.file_type() != FileType::Symlink
        && (chowned || now.mode & 0o7777 != mode)
        && let Err(errno) = set_mode(mode)
    {
        note(fd, missed, format!("mode {mode:o}"), errno)?;
    }
    Ok(())
}

/// A disk with less room than this is full.
const FULL: u64 = 1 << 20;

/// Notes what could not be applied. "No space" and "quota exceeded" are also what a file system says to an attribute that it has
/// no place for however empty it is, and to a file that its new owner may not have: others can be applied nevertheless.
fn note(
    fd: BorrowedFd<'_>,
    missed: &mut Vec<Fault>,
    what: String,
    errno: Errno,
) -> Result<(), Fault> {
    let raw = errno.raw_os_error();
    if matches!(errno, Errno::NOSPC | Errno::DQUOT) && is_full(fd) {
        return Err(Fault::NoSpace { errno: raw });
    }
    if errno == Errno::ROFS {
        return Err(Fault::ReadOnly);
    }
    missed.push(Fault::Attribute { what, errno: raw });
    Ok(())
}

/// Whether the file system of an entry is full, as far as it tells.
fn is_full(fd: BorrowedFd<'_>) -> bool {
    let found = rustix::fs::fstatvfs(fd);
    found.is_ok_and(|f| f.f_bavail.saturating_mul(f.f_frsize) < FULL)
}

fn set_owner(fd: BorrowedFd<'_>, want: &Meta) -> Result<(), Errno> {
    // `u32::MAX` would mean "leave as it is" to the kernel.
    if want.uid == u32::MAX || want.gid == u32::MAX {
        return Err(Errno::INVAL);
    }
    let (uid, gid) = (Uid::from_raw(want.uid), Gid::from_raw(want.gid));
    rustix::fs::chownat(fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
}

fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    rustix::fs::chmodat(
        rustix::fs::CWD,
        proc_path(fd),
        Mode::from_raw_mode(mode),
        AtFlags::empty(),
    )
}

/// Sets the modification time of the entry of `fd`; the access time is left.
pub fn set_mtime(fd: BorrowedFd<'_>, want: &Meta) -> Result<(), Errno> {
    let (seconds, nanos) = want.mtime();
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: i64::from(nanos),
        },
    };
    rustix::fs::utimensat(fd, "", &times, AtFlags::EMPTY_PATH)
}

/// Metadata that hold nothing but a time, for [`set_mtime`].
pub(crate) fn only_time(mtime_ns: i128) -> Meta {
    Meta {
        mode: 0,
        uid: 0,
        gid: 0,
        mtime_ns,
        xattrs: Xattrs::default(),
    }
}

/// The access ACL.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
/// A security module puts its own label on every new file; it is not the peer's to take away.
const LABEL: &[u8] = b"security.selinux";

/// Whether an open file is known to have this owner, mode and these extended attributes. Its time may be another, and so may
/// its flags, which are set last.
pub fn is_but_time(file: &std::fs::File, want: &Meta) -> bool {
    let fd = file.as_fd();
    let have = read_xattrs(Named::Fd(fd), Flags::default());
    let (Ok(stat), Ok(have)) = (Stat::of_fd(fd), have) else {
        return false;
    };
    let mut have: BTreeMap<_, _> = have.into();
    if !want.xattrs.contains_key(LABEL) {
        have.remove(LABEL);
    }
    (stat.uid, stat.gid, stat.mode & 0o7777) == (want.uid, want.gid, want.mode & 0o7777)
        && have
            .iter()
            .eq(want.xattrs.iter().filter(|(name, _)| *name != FLAGS_NAME))
}

/// Gives an entry the wanted mode if that only takes rights from users, and the owner stays.
pub fn tighten(fd: BorrowedFd<'_>, want: &Meta) -> Result<(), Fault> {
    let now = Stat::of_fd(fd)?;
    let (have, mode) = (now.mode & 0o7777, want.mode & 0o7777);
    let stricter = have != mode && have & mode == mode && (have ^ mode) & 0o7000 == 0;
    if !stricter || (now.uid, now.gid) != (want.uid, want.gid) {
        return Ok(());
    }
    set_mode(fd, mode).map_err(|e| Fault::os("chmod", e))
}

/// Shuts an open file to everybody but this process's own user: nobody whom its next attributes keep out can open it until they
/// are applied, not even its present owner, who could give himself the right.
pub fn shut(file: &std::fs::File) -> Result<(), Fault> {
    // An entry for one user would count again as soon as the mode is applied, which is before the new ACL.
    match rustix::fs::fremovexattr(file, ACCESS) {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
        Err(errno) => return Err(Fault::os("fremovexattr", errno)),
    }
    let (own, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let mode = match rustix::fs::fchown(file, Some(own), Some(group)) {
        Ok(()) => Mode::RUSR | Mode::WUSR,
        // It stays another user's.
        Err(_) => Mode::empty(),
    };
    rustix::fs::fchmod(file, mode).map_err(|e| Fault::os("fchmod", e))
}

fn apply_xattrs(
    fd: BorrowedFd<'_>,
    of: Named<'_>,
    want: &Xattrs,
    missed: &mut Vec<Fault>,
) -> Result<(), Fault> {
    let have = xattr_names(of)?;
    let label = |name: &[u8]| {
        let mut text = String::from("xattr ");
        // Writing to a String cannot fail.
        let _ = crate::path::escape(name, &mut text);
        text
    };
    for name in have.iter().filter(|name| !want.contains_key(*name)) {
        if name == LABEL {
            continue;
        }
        match of.remove(OsStr::from_bytes(name)) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(errno) => note(fd, missed, label(name), errno)?,
        }
    }
    for (name, value) in want.iter() {
        // Set last of all, when nothing is to be changed any more.
        if name == FLAGS_NAME {
            continue;
        }
        if !is_replicated_xattr(name) {
            note(fd, missed, label(name), Errno::PERM)?;
            continue;
        }
        if have.contains(name) && xattr_value(of, name)?.as_ref() == Some(value) {
            continue;
        }
        let name_os = OsStr::from_bytes(name);
        if let Err(errno) = of.set(name_os, value) {
            note(fd, missed, label(name), errno)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
