//! What of a host survives a power cut, and the lab's work directory.

use crate::LabError;
use rustix::fs::{IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags, open};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Where a host's disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// A tmpfs of its own: its own file system, and syncing it costs nothing.
    Memory,
    /// A directory on the file system of the lab's work directory.
    Directory,
    /// A fresh ext4 in a sparse file of the lab's work directory, on a loop device: a file system of its own on a real
    /// disk. Needs root of the machine, and the programs `mkfs.ext4` and `mount`.
    Image {
        /// Its size.
        bytes: u64,
        /// How many files and directories it has room for.
        inodes: u64,
    },
}

/// Makes a directory for one lab, for this user only.
pub(crate) fn make_work_dir(parent: &Path) -> Result<PathBuf, LabError> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let parent = parent.canonicalize().map_err(LabError::io(format!(
        "find {}, the directory for temporary files",
        parent.display()
    )))?;
    // Bounded: a name is taken only by a leftover of a process with our number.
    for _ in 0..1000 {
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let dir = parent.join(format!("tandem-lab-{}-{n}", std::process::id()));
        match fs::create_dir(&dir) {
            Ok(()) => {
                fs::set_permissions(&dir, fs::Permissions::from_mode(0o711))
                    .map_err(LabError::io("set the work directory's mode"))?;
                return Ok(dir);
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(LabError::io(format!("make {}", dir.display()))(e)),
        }
    }
    Err(LabError::Io {
        what: format!("make a work directory in {}", parent.display()),
        source: io::Error::from(io::ErrorKind::AlreadyExists),
    })
}

/// Makes a fresh ext4 in `file` and mounts it at `disk`, in the calling thread's mount namespace. The loop device is
/// given back when the last mount of it is gone.
pub(crate) fn mount_image(
    disk: &Path,
    file: &Path,
    bytes: u64,
    inodes: u64,
) -> Result<(), LabError> {
    make_image(file, bytes, Some(inodes))?;
    let mut mount = Command::new("mount");
    mount.args(["-o", "loop"]).arg(file).arg(disk);
    run(mount)
}

/// Makes a sparse file with an empty ext4 in it.
pub(crate) fn make_image(file: &Path, bytes: u64, inodes: Option<u64>) -> Result<(), LabError> {
    let image = fs::File::create(file).map_err(LabError::io("make the disk's image"))?;
    image
        .set_len(bytes)
        .map_err(LabError::io("set the size of the disk's image"))?;
    let mut make = Command::new("mkfs.ext4");
    make.args(["-q", "-F"]);
    if let Some(inodes) = inodes {
        make.args(["-N", &inodes.to_string()]);
    }
    make.arg(file);
    run(make)
}

fn run(mut command: Command) -> Result<(), LabError> {
    let what = format!("run {:?}", command.get_program());
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(LabError::io(what.clone()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(LabError::Io {
        what,
        source: io::Error::other(said.trim().to_string()),
    })
}

/// Removes a directory with all below it; immutable and append-only flags do not stop it. A missing one is fine.
///
/// # Errors
/// The first error that is left after the flags were cleared.
pub fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => clear_flags(dir),
    }
    fs::remove_dir_all(dir)
}

fn clear_flags(path: &Path) {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return;
    };
    if !meta.is_dir() && !meta.is_file() {
        return;
    }
    if let Ok(fd) = open(
        path,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    ) && let Ok(flags) = ioctl_getflags(&fd)
        && flags.intersects(IFlags::IMMUTABLE | IFlags::APPEND)
    {
        let _ = ioctl_setflags(&fd, flags - IFlags::IMMUTABLE - IFlags::APPEND);
    }
    if meta.is_dir() {
        // A directory without permissions stops an ordinary user's removal.
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            clear_flags(&entry.path());
        }
    }
}
