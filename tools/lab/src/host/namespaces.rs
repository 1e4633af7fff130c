//! The namespaces of a running host.

use crate::LabError;
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

/// The host's namespaces, held open so that threads and new processes can join them.
pub(crate) struct Namespaces {
    pub(crate) net: OwnedFd,
    mount: OwnedFd,
    uts: OwnedFd,
    ipc: OwnedFd,
    pid: OwnedFd,
}

impl Namespaces {
    pub(crate) fn of(pid: u32) -> Result<Self, LabError> {
        let open = |name: &str| {
            File::open(format!("/proc/{pid}/ns/{name}"))
                .map(OwnedFd::from)
                .map_err(LabError::io(format!("open the host's {name} namespace")))
        };
        Ok(Self {
            net: open("net")?,
            mount: open("mnt")?,
            uts: open("uts")?,
            ipc: open("ipc")?,
            pid: open("pid")?,
        })
    }

    /// Moves the calling thread into the host; processes that it starts belong to the host.
    pub(crate) fn join(&self) -> Result<(), LabError> {
        let failed = || LabError::os("join the host");
        unshare(CloneFlags::CLONE_FS).map_err(failed())?;
        setns(self.net.as_fd(), CloneFlags::CLONE_NEWNET).map_err(failed())?;
        setns(self.uts.as_fd(), CloneFlags::CLONE_NEWUTS).map_err(failed())?;
        setns(self.ipc.as_fd(), CloneFlags::CLONE_NEWIPC).map_err(failed())?;
        setns(self.pid.as_fd(), CloneFlags::CLONE_NEWPID).map_err(failed())?;
        setns(self.mount.as_fd(), CloneFlags::CLONE_NEWNS).map_err(failed())
    }
}
