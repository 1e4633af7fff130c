//! Reading and setting the flags of `chattr`, of files and directories only.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

use crate::beneath::reopen;
use crate::entry::Flags;
use crate::fault::Fault;
use crate::stat::Stat;

/// The flags of a file or directory, of which `fd` may be an `O_PATH` descriptor. None where the file system has none.
pub(crate) fn read(fd: BorrowedFd<'_>) -> Result<Flags, Fault> {
    match ioctl_getflags(fd) {
        Err(Errno::BADF) => of(&reopen(fd)?),
        found => flags_of(found),
    }
}

fn of(file: &File) -> Result<Flags, Fault> {
    flags_of(ioctl_getflags(file))
}

fn flags_of(found: Result<IFlags, Errno>) -> Result<Flags, Fault> {
    match found {
        Ok(found) => Ok(Flags::of_bits(found.bits())),
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(Flags::default()),
        Err(errno) => Err(Fault::os("get flags", errno)),
    }
}

/// Gives a file or directory exactly these of the flags that are carried. True: others were set before.
pub(crate) fn set(fd: BorrowedFd<'_>, want: Flags) -> Result<bool, Fault> {
    set_on(&reopen(fd)?, want)
}

fn set_on(file: &File, want: Flags) -> Result<bool, Fault> {
    if of(file)? == want {
        return Ok(false);
    }
    let bad = |errno: Errno| match errno {
        Errno::NOSPC | Errno::DQUOT => Fault::NoSpace {
            errno: errno.raw_os_error(),
        },
        Errno::ROFS => Fault::ReadOnly,
        _ => Fault::Attribute {
            what: format!("flags {want}"),
            errno: errno.raw_os_error(),
        },
    };
    let others = ioctl_getflags(file).map_err(bad)?.bits() & !Flags::MASK;
    ioctl_setflags(file, IFlags::from_bits_retain(others | want.bits())).map_err(bad)?;
    // Some file systems leave out what they do not have, and say nothing.
    match of(file)? == want {
        true => Ok(true),
        false => Err(bad(Errno::OPNOTSUPP)),
    }
}

/// An entry whose immutable and append-only flags were taken away for a change.
#[derive(Debug)]
pub(crate) struct Freed {
    file: File,
    flags: Flags,
}

impl Freed {
    /// Takes them away.
    pub(crate) fn take(fd: BorrowedFd<'_>) -> Result<Freed, Fault> {
        let file = reopen(fd)?;
        let flags = of(&file)?;
        set_on(&file, flags.without_protection())?;
        Ok(Freed { file, flags })
    }

    /// The entry gets back what it had, if it has a name left.
    pub(crate) fn give_back(&self) {
        let named = Stat::of_fd(self.file.as_fd()).is_ok_and(|stat| stat.nlink > 0);
        if named && let Err(fault) = set_on(&self.file, self.flags) {
            tracing::warn!(%fault, "flags that were taken away for a change cannot be set again");
        }
    }
}
