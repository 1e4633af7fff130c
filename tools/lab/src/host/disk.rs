//! What can happen to a host's disk: it fills up, it is copied, an old copy is put back.

use super::{Host, lock};
use crate::{Disk, LabError, remove_tree};
use nix::mount::{MsFlags, mount};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A copy of a host's disk at one moment, kept in the lab's work directory.
pub struct Snapshot {
    dir: PathBuf,
}

impl Host {
    /// Limits a disk in memory to `bytes`, or to half of the machine's memory again (tmpfs(5), `size`). What is on
    /// it stays.
    ///
    /// # Errors
    /// When more is on it already, or the disk is a directory.
    pub fn limit_disk(&self, bytes: Option<u64>) -> Result<(), LabError> {
        if self.inner.spec.disk != Disk::Memory {
            return Err(failed("limit the disk", "it is a directory"));
        }
        let disk = self.inner.dir.join("disk");
        let size = bytes.map_or("size=50%".into(), |b| format!("size={b}"));
        self.inner.lab.floor.run(move |_| {
            let none = None::<&str>;
            mount(none, &disk, none, MsFlags::MS_REMOUNT, Some(size.as_str()))
                .map_err(LabError::os("limit the disk"))
        })
    }

    /// Copies the disk. Of a host that is on, files that are written meanwhile may be torn, as in a snapshot
    /// of a running machine.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn snapshot(&self) -> Result<Snapshot, LabError> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let dir = self.inner.lab.work.join(format!("snapshot{n}"));
        fs::create_dir(&dir).map_err(LabError::io("make a snapshot's directory"))?;
        copy_into(&self.outside_path("/"), &dir)?;
        Ok(Snapshot { dir })
    }

    /// Puts back what a snapshot holds, instead of everything below `path`. The host must be off when `path` is `/`.
    ///
    /// # Errors
    /// When it is on, or something cannot be removed or copied.
    pub fn restore(&self, snapshot: &Snapshot, path: impl AsRef<Path>) -> Result<(), LabError> {
        let path = path.as_ref();
        if path == Path::new("/") && lock(&self.inner.running).is_some() {
            return Err(failed("restore the disk", "the host is on"));
        }
        let relative = path.strip_prefix("/").unwrap_or(path);
        let (from, to) = (snapshot.dir.join(relative), self.outside_path(path));
        for entry in fs::read_dir(&to).map_err(LabError::io("read the disk"))? {
            let entry = entry.map_err(LabError::io("read the disk"))?.path();
            let removed = if entry.is_dir() && !entry.is_symlink() {
                remove_tree(&entry)
            } else {
                fs::remove_file(&entry)
            };
            removed.map_err(LabError::io(format!("remove {}", entry.display())))?;
        }
        copy_into(&from, &to)
    }

    /// Copies this host's disk, and the machine's id that lies on the disk of a real one, to another host, which
    /// is off.
    pub(crate) fn copy_disk_to(&self, other: &Host) -> Result<(), LabError> {
        let id = |host: &Host| host.inner.dir.join("machine-id");
        fs::copy(id(self), id(other)).map_err(LabError::io("copy the machine's id"))?;
        copy_into(&self.outside_path("/"), &other.outside_path("/"))
    }
}

/// Copies what is in a directory with all attributes.
fn copy_into(from: &Path, to: &Path) -> Result<(), LabError> {
    let copied = Command::new("cp")
        .args(["-a", "--"])
        // What is in it, not the directory itself; `Path` would drop the dot.
        .arg(format!("{}/.", from.display()))
        .arg(to)
        .status()
        .map_err(LabError::io("copy the disk"))?;
    if copied.success() {
        Ok(())
    } else {
        Err(failed("copy the disk", &copied.to_string()))
    }
}

fn failed(what: &str, why: &str) -> LabError {
    LabError::Io {
        what: what.into(),
        source: io::Error::other(why.to_string()),
    }
}
