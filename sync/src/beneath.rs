//! Every operation on a tree goes through a held descriptor of its root, and no symbolic link is followed.
//!
//! Rule 1 of the security rules: the `O_NOFOLLOW` of the last component is not enough, every call that takes a path had
//! the same race (CVE-2026-29518, -43619, -53799). So a path is resolved once, by `openat2` with `RESOLVE_BENEATH |
//! RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS`, to a descriptor of the directory that holds the entry; after that only
//! `*at` calls with one name are made ([`Place`]). Where `openat2` is missing (kernels before 5.6, some seccomp
//! filters) each component is opened with `O_NOFOLLOW`. Paths longer than `PATH_MAX` are resolved in pieces.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use crate::fault::Fault;
use crate::path::RelPath;
use crate::stat::Stat;

/// Longest piece handed to one system call; the kernel's `PATH_MAX` is 4096 with the terminating zero.
const PIECE: usize = 4000;
/// `openat2` answers `EAGAIN` when a rename raced with it; more than this many in a row is reported.
const RACES: usize = 64;

/// The root directory of a tree, held open. While it is held the file system cannot be unmounted normally.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
    stat: Stat,
    /// The device that its entries have, if it stands for another root.
    device: u64,
    flags: bool,
    /// False once the kernel has refused `openat2` itself.
    openat2: AtomicBool,
}

impl Root {
    /// Opens the root directory. Links in `path` itself are followed: the administrator wrote it. Mounts below the root are no
    /// part of it: resolving refuses to enter one.
    pub fn open(path: &Path) -> Result<Root, Fault> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Fault::os("open", e))?;
        Root::of(fd, path)
    }

    /// The root that this directory is, which was opened by the path.
    pub(crate) fn of(fd: OwnedFd, path: &Path) -> Result<Root, Fault> {
        let stat = Stat::of_fd(fd.as_fd())?;
        Ok(Root {
            fd,
            path: path.to_path_buf(),
            stat,
            device: stat.dev,
            flags: false,
            openat2: AtomicBool::new(true),
        })
    }

    /// A snapshot stands for the root that it was taken of: its entries have the same numbers but the one of the device,
    /// which they are given, so that their keys are those of the entries there.
    pub(crate) fn standing_for(mut self, other: &Root) -> Root {
        self.stat.dev = other.stat.dev;
        self.flags = other.flags;
        self
    }

    /// What an entry beneath is seen as.
    pub(crate) fn sees(&self, stat: Stat) -> Stat {
        match stat.dev == self.device {
            true => Stat {
                dev: self.stat.dev,
                ..stat
            },
            false => stat,
        }
    }

    /// Whether the flags of `chattr` are part of what its entries are.
    pub fn with_flags(mut self, flags: bool) -> Root {
        self.flags = flags;
        self
    }

    /// Whether the flags of `chattr` are part of what its entries are.
    pub fn flags(&self) -> bool {
        self.flags
    }

    /// The held descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The path it was opened by. For messages, and to see whether it still leads to the same directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the root directory was when it was opened; device, inode and mount identify it.
    pub fn opened_as(&self) -> &Stat {
        &self.stat
    }

    /// Whether the configured path still leads to the directory that is held open.
    pub fn still_there(&self) -> bool {
        Stat::of_path_followed(&self.path).is_ok_and(|now| {
            (now.dev, now.ino, now.mount_id) == (self.stat.dev, self.stat.ino, self.stat.mount_id)
        })
    }

    /// Uses the per-component walk from now on, as on a kernel without `openat2`.
    #[cfg(test)]
    pub(crate) fn without_openat2(self) -> Root {
        self.openat2.store(false, Ordering::Relaxed);
        self
    }

    /// Opens a directory beneath for reading and for `*at` calls.
    pub fn open_dir(&self, path: &RelPath) -> Result<OwnedFd, Fault> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        self.resolve(path.as_bytes(), flags)
            .map_err(|e| Fault::os("open directory", e))
    }

    /// Opens a regular file beneath for reading. Never blocks on a fifo, never opens a device's driver for anything else
    /// than this check: whatever is not a regular file is [`Fault::Changed`].
    pub fn open_file(&self, path: &RelPath) -> Result<std::fs::File, Fault> {
        let held = self.open_path(path)?;
        if !Stat::of_fd(held.as_fd())?.is_file() {
            return Err(Fault::Changed("not a regular file"));
        }
        reopen(held.as_fd())
    }

    /// Opens what a look has just shown to be a regular file, with one call. `None`: it is none any more, or cannot be
    /// opened; [`Root::open_path`] tells more. What is in its place since may be a fifo (opened without waiting) but
    /// hardly a device, which only an administrator can put there; where that matters use [`Root::open_file`].
    pub fn open_regular(&self, path: &RelPath) -> Option<std::fs::File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = std::fs::File::from(self.resolve(path.as_bytes(), flags).ok()?);
        Stat::of_fd(file.as_fd()).ok()?.is_file().then_some(file)
    }

    /// Opens an entry of any kind as a bare reference (`O_PATH`), a symbolic link as itself.
    pub fn open_path(&self, path: &RelPath) -> Result<OwnedFd, Fault> {
        self.resolve(path.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW)
            .map_err(|e| Fault::os("open", e))
    }

    /// The directory that holds the entry, and the entry's name in it. The root itself has no place:
    /// [`Fault::NotBeneath`].
    pub fn place(&self, path: &RelPath) -> Result<Place, Fault> {
        let bytes = path.as_bytes();
        if bytes.is_empty() {
            return Err(Fault::NotBeneath);
        }
        let (parent, name) = match bytes.iter().rposition(|b| *b == b'/') {
            Some(at) => (&bytes[..at], &bytes[at + 1..]),
            None => (&bytes[..0], bytes),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let dir = self
            .resolve(parent, flags)
            .map_err(|e| Fault::os("open directory", e))?;
        Place::new(dir, name)
    }

    /// The entry's stat without following it; `None` when it does not exist.
    pub fn stat(&self, path: &RelPath) -> Result<Option<Stat>, Fault> {
        if path.is_root() {
            return Stat::of_fd(self.fd()).map(|stat| Some(self.sees(stat)));
        }
        match self.place(path) {
            Ok(place) => Ok(place.stat()?.map(|stat| self.sees(stat))),
            Err(Fault::Missing) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    fn resolve(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        if path.is_empty() {
            return rustix::fs::openat(&self.fd, ".", flags, Mode::empty());
        }
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut rest = path;
        let mut held: Option<OwnedFd> = None;
        while rest.len() > PIECE {
            // A validated component is at most 255 bytes, so there is a separator within every piece.
            let cut = rest[..PIECE]
                .iter()
                .rposition(|b| *b == b'/')
                .ok_or(Errno::NAMETOOLONG)?;
            let from = held.as_ref().map_or(self.fd(), AsFd::as_fd);
            let next = self.resolve_piece(from, &rest[..cut], step)?;
            held = Some(next);
            rest = &rest[cut + 1..];
        }
        let from = held.as_ref().map_or(self.fd(), AsFd::as_fd);
        self.resolve_piece(from, rest, flags)
    }

    fn resolve_piece(
        &self,
        from: BorrowedFd<'_>,
        piece: &[u8],
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        if !self.openat2.load(Ordering::Relaxed) {
            return self.walk(from, piece, flags);
        }
        let how = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        let name = OsStr::from_bytes(piece);
        for _ in 0..RACES {
            match rustix::fs::openat2(from, name, flags, Mode::empty(), how) {
                Err(Errno::AGAIN) => {}
                Err(Errno::NOSYS | Errno::PERM) => {
                    // EPERM can also be the file's own answer; the walk then says it again.
                    let walked = self.walk(from, piece, flags);
                    if walked.is_ok() {
                        self.openat2.store(false, Ordering::Relaxed);
                    }
                    return walked;
                }
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Component by component, each with `O_NOFOLLOW`, each checked to be on the root's mount.
    fn walk(&self, from: BorrowedFd<'_>, piece: &[u8], last: OFlags) -> Result<OwnedFd, Errno> {
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut held: Option<OwnedFd> = None;
        let mut names = piece.split(|b| *b == b'/').peekable();
        while let Some(name) = names.next() {
            if name.is_empty() || name == b"." || name == b".." {
                return Err(Errno::INVAL);
            }
            let flags = if names.peek().is_some() { step } else { last };
            let dir = held.as_ref().map_or(from, AsFd::as_fd);
            let next = rustix::fs::openat(dir, OsStr::from_bytes(name), flags, Mode::empty())?;
            if !self.same_mount(next.as_fd())? {
                return Err(Errno::XDEV);
            }
            held = Some(next);
        }
        held.ok_or(Errno::INVAL)
    }

    fn same_mount(&self, fd: BorrowedFd<'_>) -> Result<bool, Errno> {
        let stat = Stat::read(fd, "", AtFlags::EMPTY_PATH)?;
        Ok(self.stat.same_mount(&self.sees(stat)))
    }
}

/// Opens the regular file that `held` (`O_PATH`) is, for reading. By its name it could be a device or a fifo by now,
/// whose opening alone has effects.
pub(crate) fn reopen(held: BorrowedFd<'_>) -> Result<std::fs::File, Fault> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", held.as_raw_fd());
    rustix::fs::open(path, flags, Mode::empty())
        .map(std::fs::File::from)
        .map_err(|e| Fault::os("open file", e))
}

/// Opens the regular file that `held` (`O_PATH`) is, for writing, as [`reopen`] does for reading.
pub(crate) fn reopen_for_writing(held: BorrowedFd<'_>) -> Result<std::fs::File, Fault> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", held.as_raw_fd());
    rustix::fs::open(path, flags, Mode::empty())
        .map(std::fs::File::from)
        .map_err(|e| Fault::os("open file", e))
}

/// One name in an opened directory. All changes of the tree are `*at` calls on a place.
#[derive(Debug)]
pub struct Place {
    dir: Arc<OwnedFd>,
    name: Vec<u8>,
}

impl Place {
    /// A name in a directory that the caller holds (staging and rescue). The name is one component.
    pub fn new(dir: OwnedFd, name: &[u8]) -> Result<Place, Fault> {
        Place::shared(Arc::new(dir), name)
    }

    /// The same in a directory that several places share.
    pub fn shared(dir: Arc<OwnedFd>, name: &[u8]) -> Result<Place, Fault> {
        let bad = name.is_empty()
            || name == b"."
            || name == b".."
            || name.iter().any(|b| matches!(b, b'/' | 0));
        if bad {
            return Err(Fault::NotBeneath);
        }
        Ok(Place {
            dir,
            name: name.to_vec(),
        })
    }

    /// The opened directory.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The name in it.
    pub fn name(&self) -> &OsStr {
        OsStr::from_bytes(&self.name)
    }

    /// The entry's stat, not followed; `None` when there is none.
    pub fn stat(&self) -> Result<Option<Stat>, Fault> {
        match Stat::read(self.dir(), self.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Fault::os("stat", errno)),
        }
    }

    /// A bare reference to the entry (`O_PATH`), a symbolic link as itself.
    pub fn open_path(&self) -> Result<OwnedFd, Fault> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, self.name(), flags, Mode::empty())
            .map_err(|e| Fault::os("open", e))
    }

    /// Opens it as a directory.
    pub fn open_dir(&self) -> Result<OwnedFd, Fault> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, self.name(), flags, Mode::empty())
            .map_err(|e| Fault::os("open directory", e))
    }

    /// Makes a new file and opens it for reading and writing.
    pub fn create_new(&self) -> Result<std::fs::File, Fault> {
        self.create_with(Mode::RUSR | Mode::WUSR)
    }

    /// The same with these permissions as far as the process's mask lets them be; whoever needs them exactly looks. Only for
    /// a directory that nobody else can enter: what the file becomes in the end it is not yet.
    pub fn create_with_mode(&self, mode: u32) -> Result<std::fs::File, Fault> {
        self.create_with(Mode::from_raw_mode(mode & 0o777) | Mode::RUSR | Mode::WUSR)
    }

    fn create_with(&self, mode: Mode) -> Result<std::fs::File, Fault> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, self.name(), flags, mode)
            .map(std::fs::File::from)
            .map_err(|e| Fault::os("create", e))
    }

    /// Opens the regular file that the agent itself put here, for reading.
    pub fn open_to_read(&self) -> Result<std::fs::File, Fault> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, self.name(), flags, Mode::empty())
            .map(std::fs::File::from)
            .map_err(|e| Fault::os("open file", e))
    }

    /// Opens a regular file for reading; whatever else lies there is [`Fault::Changed`].
    pub fn open_file(&self) -> Result<std::fs::File, Fault> {
        let held = self.open_path()?;
        if !Stat::of_fd(held.as_fd())?.is_file() {
            return Err(Fault::Changed("not a regular file"));
        }
        reopen(held.as_fd())
    }

    /// Makes a directory, closed to others until its metadata is applied.
    pub fn mkdir(&self) -> Result<(), Fault> {
        rustix::fs::mkdirat(&self.dir, self.name(), Mode::RWXU).map_err(|e| Fault::os("mkdir", e))
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, target: &[u8]) -> Result<(), Fault> {
        rustix::fs::symlinkat(OsStr::from_bytes(target), &self.dir, self.name())
            .map_err(|e| Fault::os("symlink", e))
    }

    /// Makes a fifo or a device, closed to others until its metadata is applied.
    pub fn mknod(&self, kind: rustix::fs::FileType, rdev: u64) -> Result<(), Fault> {
        rustix::fs::mknodat(&self.dir, self.name(), kind, Mode::RUSR | Mode::WUSR, rdev)
            .map_err(|e| Fault::os("mknod", e))
    }

    /// Makes this place another name of the file at `of`; a symbolic link there is linked itself.
    pub fn link(&self, of: &Place) -> Result<(), Fault> {
        rustix::fs::linkat(&of.dir, of.name(), &self.dir, self.name(), AtFlags::empty())
            .map_err(|e| Fault::os("link", e))
    }

    /// Gives a file of this file system that was made without a name this one.
    pub fn name_file(&self, file: &std::fs::File) -> Result<(), Fault> {
        let of = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(rustix::fs::CWD, of, &self.dir, self.name(), flags)
            .map_err(|e| Fault::os("link", e))
    }

    /// Renames the entry at this place to `to`, which is replaced in one step.
    pub fn rename_over(&self, to: &Place) -> Result<(), Fault> {
        rustix::fs::renameat(&self.dir, self.name(), &to.dir, to.name())
            .map_err(|e| Fault::os("rename", e))
    }

    /// Renames to `to` and fails with `EEXIST` if there is anything.
    pub fn rename_new(&self, to: &Place) -> Result<(), Fault> {
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&self.dir, self.name(), &to.dir, to.name(), flags) {
            Ok(()) => Ok(()),
            Err(Errno::INVAL | Errno::NOSYS) => {
                // Old NFS and FUSE file systems know no flags. The window between the two calls remains there.
                if to.stat()?.is_some() {
                    return Err(Fault::os("rename", Errno::EXIST));
                }
                self.rename_over(to)
            }
            Err(errno) => Err(Fault::os("rename", errno)),
        }
    }

    /// Exchanges two entries in one step.
    pub fn exchange(&self, with: &Place) -> Result<(), Fault> {
        let flags = RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(&self.dir, self.name(), &with.dir, with.name(), flags)
            .map_err(|e| Fault::os("rename exchange", e))
    }

    /// Removes a name that is not a directory.
    pub fn unlink(&self) -> Result<(), Fault> {
        rustix::fs::unlinkat(&self.dir, self.name(), AtFlags::empty())
            .map_err(|e| Fault::os("unlink", e))
    }

    /// Removes an empty directory.
    pub fn rmdir(&self) -> Result<(), Fault> {
        rustix::fs::unlinkat(&self.dir, self.name(), AtFlags::REMOVEDIR)
            .map_err(|e| Fault::os("rmdir", e))
    }

    /// Makes the directory's entries durable.
    pub fn sync_dir(&self) -> Result<(), Fault> {
        rustix::fs::fsync(&self.dir).map_err(|e| Fault::os("fsync directory", e))
    }
}

#[cfg(test)]
pub(crate) mod tests;
