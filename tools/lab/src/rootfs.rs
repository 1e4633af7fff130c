//! A host's view of the file system: the machine's programs read-only, everything else its own.

use crate::disk::mount_image;
use crate::{Disk, LabError, PROGRAM_DIR};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Directories of the host that are on its disk.
const ON_DISK: [&str; 4] = ["etc/tandem", "var/lib/tandem", "var/log", "srv"];
/// Where programs and their libraries are, on every usual distribution.
const PROGRAMS: [&str; 9] = [
    "usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix", "gnu",
];
/// What programs read in /etc to find libraries, names and time.
const FROM_ETC: [&str; 7] = [
    "alternatives",
    "group",
    "ld.so.cache",
    "localtime",
    "nsswitch.conf",
    "passwd",
    "ssl",
];
const DEVICES: [&str; 6] = ["full", "null", "random", "tty", "urandom", "zero"];

/// Makes the directories of a disk; one that is a file system of its own is mounted first, in the calling thread's
/// mount namespace.
pub(crate) fn prepare_disk(disk: &Path, kind: Disk) -> Result<(), LabError> {
    match kind {
        Disk::Memory => mount(
            Some("lab-disk"),
            disk,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=755"),
        )
        .map_err(LabError::os("mount the host's disk"))?,
        Disk::Directory => {}
        Disk::Image { bytes, inodes } => {
            mount_image(disk, &disk.with_extension("ext4"), bytes, inodes)?;
        }
    }
    for dir in ON_DISK {
        make_dir(&disk.join(dir))?;
    }
    Ok(())
}

/// Assembles the root file system of a host and makes it the calling process's own. The process must be the
/// only one in its mount namespace, and the first of its PID namespace.
pub(crate) fn enter(
    dir: &Path,
    name: &OsStr,
    programs: &[(String, PathBuf)],
) -> Result<(), LabError> {
    let root = dir.join("root");
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .map_err(LabError::os("make mounts private"))?;
    mount(
        Some("lab-root"),
        &root,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )
    .map_err(LabError::os("mount the host's root"))?;
    bind_machine(&root)?;
    make_etc(&root, dir, name)?;
    make_dev(&root)?;
    for own in ON_DISK {
        let target = root.join(own);
        make_dir(&target)?;
        bind(&dir.join("disk").join(own), &target, false)?;
    }
    for (name, source) in programs {
        let target = root.join(PROGRAM_DIR.trim_start_matches('/')).join(name);
        bind_file(source, &target)?;
        set_read_only(&target);
    }
    for (path, mode) in [
        ("tmp", 0o1777),
        ("run", 0o755),
        ("root", 0o700),
        ("var/tmp", 0o1777),
    ] {
        make_dir(&root.join(path))?;
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode))
            .map_err(LabError::io(format!("set the mode of /{path}")))?;
    }
    make_proc(&root, dir)?;
    pivot(&root)
}

fn bind_machine(root: &Path) -> Result<(), LabError> {
    for name in PROGRAMS {
        let (source, target) = (Path::new("/").join(name), root.join(name));
        let Ok(meta) = fs::symlink_metadata(&source) else {
            continue;
        };
        if meta.is_symlink() {
            let to = fs::read_link(&source).map_err(LabError::io(format!("read /{name}")))?;
            symlink(to, &target).map_err(LabError::io(format!("link /{name}")))?;
        } else if meta.is_dir() {
            make_dir(&target)?;
            bind(&source, &target, true)?;
            set_read_only(&target);
        }
    }
    Ok(())
}

fn make_etc(root: &Path, dir: &Path, name: &OsStr) -> Result<(), LabError> {
    let etc = root.join("etc");
    make_dir(&etc)?;
    for file in FROM_ETC {
        let (source, target) = (Path::new("/etc").join(file), etc.join(file));
        match fs::metadata(&source) {
            Ok(meta) if meta.is_dir() => {
                make_dir(&target)?;
                bind(&source, &target, false)?;
                set_read_only(&target);
            }
            Ok(_) => {
                bind_file(&source, &target)?;
                set_read_only(&target);
            }
            Err(_) => {}
        }
    }
    let host = name.to_string_lossy();
    let write = |file: &str, text: String| {
        fs::write(etc.join(file), text).map_err(LabError::io(format!("write /etc/{file}")))
    };
    write("hostname", format!("{host}\n"))?;
    write(
        "hosts",
        format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {host}\n"),
    )?;
    let machine_id =
        fs::read_to_string(dir.join("machine-id")).map_err(LabError::io("read the machine id"))?;
    write("machine-id", machine_id)
}

fn make_dev(root: &Path) -> Result<(), LabError> {
    let dev = root.join("dev");
    make_dir(&dev.join("shm"))?;
    for device in DEVICES {
        let source = Path::new("/dev").join(device);
        if source.exists() {
            bind_file(&source, &dev.join(device))?;
        }
    }
    for (name, to) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(to, dev.join(name)).map_err(LabError::io(format!("link /dev/{name}")))?;
    }
    Ok(())
}

fn make_proc(root: &Path, dir: &Path) -> Result<(), LabError> {
    let (proc, sys) = (root.join("proc"), root.join("sys"));
    make_dir(&proc)?;
    mount(
        Some("proc"),
        &proc,
        Some("proc"),
        MsFlags::empty(),
        None::<&str>,
    )
    .map_err(LabError::os("mount /proc"))?;
    bind(
        &dir.join("boot-id"),
        &proc.join("sys/kernel/random/boot_id"),
        false,
    )?;
    make_dir(&sys)?;
    // A container may hide parts of /sys and so forbid a new one; nothing here depends on it.
    let _ = mount(
        Some("sysfs"),
        &sys,
        Some("sysfs"),
        MsFlags::MS_RDONLY,
        None::<&str>,
    );
    Ok(())
}

fn pivot(root: &Path) -> Result<(), LabError> {
    nix::unistd::chdir(root).map_err(LabError::os("enter the host's root"))?;
    // pivot_root(2): with both arguments the same, the old root lies on top of the new one until unmounted.
    nix::unistd::pivot_root(".", ".").map_err(LabError::os("pivot to the host's root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(LabError::os("leave the machine's root"))?;
    nix::unistd::chdir("/").map_err(LabError::os("enter the host's root"))
}

fn make_dir(path: &Path) -> Result<(), LabError> {
    fs::create_dir_all(path).map_err(LabError::io(format!("make {}", path.display())))
}

fn bind(source: &Path, target: &Path, recursive: bool) -> Result<(), LabError> {
    let mut flags = MsFlags::MS_BIND;
    // In a user namespace a plain bind of a directory with mounts below is refused: it would uncover
    // what they hide.
    if recursive || source.is_dir() {
        flags |= MsFlags::MS_REC;
    }
    mount(Some(source), target, None::<&str>, flags, None::<&str>).map_err(LabError::os(format!(
        "bind {} to {}",
        source.display(),
        target.display()
    )))
}

fn bind_file(source: &Path, target: &Path) -> Result<(), LabError> {
    if let Some(parent) = target.parent() {
        make_dir(parent)?;
    }
    fs::File::create(target).map_err(LabError::io(format!("make {}", target.display())))?;
    bind(source, target, false)
}

/// Makes a mount and those below it read-only, so that nothing in a host can change the machine. Linux before
/// 5.12 lacks the call; the lab works without.
fn set_read_only(target: &Path) {
    let Ok(path) = CString::new(target.as_os_str().as_bytes()) else {
        return;
    };
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: mount_setattr(2) reads a NUL-terminated path and `size_of` bytes of the structure; both live
    // over the call.
    unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        );
    }
}
