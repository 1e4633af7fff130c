//! A host's first process: makes the namespaces and the root file system, then keeps them alive.

use crate::{LabError, rootfs};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The first process. Arguments: host name, the host's directory, `NAME=PROGRAM`...; standard input is the line
/// to the lab: one report goes out, its end is the end of the host.
pub(crate) fn main(args: Vec<OsString>) -> i32 {
    let report = match set_up(&args) {
        Ok(()) => "ready\n".to_string(),
        Err(e) => format!("{e}\n"),
    };
    let stdin = std::io::stdin();
    let Ok(mut line) = stdin.as_fd().try_clone_to_owned().map(fs::File::from) else {
        return 1;
    };
    if line.write_all(report.as_bytes()).is_err() || report != "ready\n" {
        return 1;
    }
    live(&line);
    0
}

fn set_up(args: &[OsString]) -> Result<(), LabError> {
    let [name, dir, programs @ ..] = args else {
        return Err(usage());
    };
    let programs = programs
        .iter()
        .map(|p| split_program(p).ok_or_else(usage))
        .collect::<Result<Vec<_>, _>>()?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC,
    )
    .map_err(LabError::os("make the host's namespaces"))?;
    rustix::system::sethostname(name.as_bytes())
        .map_err(|e| LabError::io("set the host name")(e.into()))?;
    rootfs::enter(Path::new(dir), name, &programs)?;
    // No duplicate address detection: a floating address must be usable in the moment it is added, and in the
    // lab nobody has it by accident.
    for scope in ["all", "default"] {
        let file = format!("/proc/sys/net/ipv6/conf/{scope}/accept_dad");
        if Path::new(&file).exists() {
            fs::write(&file, "0").map_err(LabError::io(format!("write {file}")))?;
        }
    }
    Ok(())
}

fn usage() -> LabError {
    LabError::Io {
        what: "read the first process's arguments".into(),
        source: std::io::Error::from(std::io::ErrorKind::InvalidInput),
    }
}

fn split_program(argument: &OsStr) -> Option<(String, PathBuf)> {
    let bytes = argument.as_bytes();
    let at = bytes.iter().position(|b| *b == b'=')?;
    let name = std::str::from_utf8(&bytes[..at]).ok()?;
    Some((
        name.to_string(),
        PathBuf::from(OsStr::from_bytes(&bytes[at + 1..])),
    ))
}

/// Collects orphans until the line ends.
fn live(line: &fs::File) {
    loop {
        let mut poll = libc::pollfd {
            fd: line.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // Orphans wait at most this long; they need nothing but to be collected.
        let timeout = Duration::from_millis(200).as_millis() as libc::c_int;
        // SAFETY: `poll` is one valid pollfd that lives over the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, timeout) };
        // The lab never writes: readable means that its end is closed.
        if ready > 0 {
            return;
        }
        while matches!(
            waitpid(None, Some(WaitPidFlag::WNOHANG)),
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..))
        ) {}
    }
}
