//! Hosts as namespaces: a small laboratory for Tandem's demo and whole-system tests.
//!
//! A [`Lab`] has [`Network`]s (switches) and [`Host`]s. A host has its own network, mount, PID, UTS and
//! IPC namespaces, a first process whose death kills all that runs in it (a power cut), a disk that
//! survives that, and its own boot id, machine id and host name. Nothing of it has a name outside: when the
//! process that made the lab ends, however it ends, everything is gone.
//!
//! No external program is used. The process needs either the capabilities of root or the right to make a
//! user namespace; [`before_main!`] arranges that before the first thread exists.

mod client;
mod compare;
mod disk;
mod error;
mod floor;
mod host;
mod init;
mod janitor;
mod netlink;
mod network;
pub mod pair;
mod privilege;
mod rootfs;
mod skip;
mod start;
mod uml;
mod web;

pub use client::{Answer, HttpClient, Probe, ProbeLog};
pub use compare::{Difference, TreeSummary, compare_trees, summarize};
pub use disk::{Disk, remove_tree};
pub use error::LabError;
pub use host::{Host, HostSpec, Nic, Process, Snapshot};
pub use network::{Cable, Network};
pub use privilege::{Privilege, privilege};
pub use skip::skipped;
pub use start::{PROGRAM_DIR, at_start, own_path};
pub use uml::{Guest, GuestOutput, LastingDisk, Running};

use floor::Floor;
use janitor::Janitor;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Runs [`at_start`] before `main`, while the process has one thread. For test binaries, whose `main` is not
/// ours; a program calls [`at_start`] first in its own `main`.
#[macro_export]
macro_rules! before_main {
    () => {
        #[used]
        #[unsafe(link_section = ".init_array")]
        static TANDEM_LAB_AT_START: extern "C" fn() = {
            extern "C" fn at_start() {
                $crate::at_start();
            }
            at_start
        };
    };
}

/// The room in which hosts and networks are made. Dropping it ends everything in it.
pub struct Lab {
    inner: Arc<LabInner>,
}

/// What hosts, networks and the lab share.
pub(crate) struct LabInner {
    pub(crate) floor: Floor,
    pub(crate) work: PathBuf,
    next_host: AtomicU8,
    next_network: AtomicU8,
    janitor: Option<Janitor>,
}

impl Lab {
    /// Makes an empty lab with its work directory below the system's temporary directory.
    ///
    /// # Errors
    /// [`LabError::NotPrivileged`] with a sentence for the user where namespaces cannot be made.
    pub fn new() -> Result<Self, LabError> {
        Self::new_in(&std::env::temp_dir())
    }

    /// Like [`Lab::new`], with the work directory below `parent`: hosts with [`Disk::Directory`] write there.
    ///
    /// # Errors
    /// As [`Lab::new`].
    pub fn new_in(parent: &Path) -> Result<Self, LabError> {
        privilege()?;
        let work = disk::make_work_dir(parent)?;
        let janitor = Janitor::start(&work)?;
        let floor = Floor::start()?;
        Ok(Self {
            inner: Arc::new(LabInner {
                floor,
                work,
                next_host: AtomicU8::new(1),
                next_network: AtomicU8::new(1),
                janitor: Some(janitor),
            }),
        })
    }

    /// A directory of this lab for logs and the like; removed with the lab.
    pub fn dir(&self) -> &Path {
        &self.inner.work
    }

    /// Runs a program of the machine where the disks of all hosts are seen under [`Host::floor_path`], and returns
    /// what it said. Unlike [`Host::outside_path`] that path leads through no magic link, which programs that resolve
    /// paths by themselves cannot follow (rsync since 3.5).
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn output(&self, mut command: Command) -> Result<Output, LabError> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let what = format!("run {:?}", command.get_program());
        let failed = LabError::io(what.clone());
        let child = self
            .inner
            .floor
            .run(move |_| command.spawn().map_err(failed))?;
        child.wait_with_output().map_err(LabError::io(what))
    }

    /// Makes a network: an Ethernet switch without anything in it.
    ///
    /// # Errors
    /// When the kernel refuses the bridge.
    pub fn network(&self, name: &str) -> Result<Network, LabError> {
        let number = self.inner.next_network.fetch_add(1, Ordering::Relaxed);
        Network::make(&self.inner, name, number)
    }

    /// Describes and makes a host, switched off. [`Host::boot`] starts it.
    ///
    /// # Errors
    /// When its disk cannot be made.
    pub fn host(&self, spec: HostSpec) -> Result<Host, LabError> {
        let number = self.inner.next_host.fetch_add(1, Ordering::Relaxed);
        Host::make(&self.inner, spec, number)
    }
}

impl Drop for LabInner {
    fn drop(&mut self) {
        // Hosts hold the lab, so all of them are off by now. The floor ends before the directory goes,
        // because memory disks are mounted in its mount namespace.
        self.floor.stop();
        if let Some(janitor) = self.janitor.take() {
            janitor.finish(&self.work);
        }
    }
}
