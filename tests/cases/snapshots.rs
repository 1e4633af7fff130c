//! Sets that are read from a btrfs snapshot while the tree goes on.

use crate::harness::*;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, mknod};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tandem::api::types::Role;
use tandem_lab::pair::DEFAULT_BODY;
use tandem_lab::{Privilege, privilege};

/// Bound of one command of btrfs.
const COMMAND: Duration = Duration::from_secs(10);
/// Room of a disk; its file is sparse.
const DISK: u64 = 256 << 20;
const FILES: usize = 20;
/// Where the disk of the tree is mounted on each node.
const MOUNT: &str = "/srv/disk";
const TREE: &str = "/srv/disk/db";

const BODY: &str = r#"
[[tree]]
name = "db"
path = "/srv/disk/db"

[tree.freeze]
before = ["/bin/true"]
after = ["/etc/tandem/go"]
# Only a flush takes one: what is looked at is not being changed.
every = "1h"
snapshot = "btrfs"
"#;

/// All files change as soon as they may, before anything of the set was read.
const GO: &str = r#"#!/bin/sh
set -e
cd /srv/disk/db
[ -e n ] || exit 0
[ ! -e .tandem/snapshot/f1 ] || : > /srv/snapshot-seen
n=$(($(cat n) + 1))
for f in n f*; do echo "$n" > "$f"; done
"#;

/// A file with a btrfs in it on a loop device, which the kernel gives back with its last mount.
struct Disk {
    _image: tempfile::NamedTempFile,
    device: PathBuf,
}

impl Disk {
    fn make() -> Result<Disk, String> {
        let image = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
        image.as_file().set_len(DISK).map_err(|e| e.to_string())?;
        run(Command::new("mkfs.btrfs").arg("-q").arg(image.path()))?;
        let mut attach = Command::new("losetup");
        let device = run(attach.args(["--find", "--show"]).arg(image.path()))?;
        let device = PathBuf::from(device.trim());
        Ok(Disk {
            _image: image,
            device,
        })
    }

    /// Mounts it within a node, which has no such device, and makes a subvolume for the tree.
    fn mount_in(&self, scene: &Scene, n: usize) -> Result<(), String> {
        let said = |e: &dyn std::fmt::Display| format!("{}: {e}", self.device.display());
        let number = fs::metadata(&self.device).map_err(|e| said(&e))?.rdev();
        let mounted = scene.node(n).host.enter(move || -> io::Result<()> {
            let node = Path::new("/tmp/disk");
            mknod(node, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, number)?;
            fs::create_dir(MOUNT)?;
            let none: Option<&str> = None;
            Ok(mount(
                Some(node),
                MOUNT,
                Some("btrfs"),
                MsFlags::empty(),
                none,
            )?)
        });
        mounted.expect("the host is on").map_err(|e| said(&e))?;
        let mut make = Command::new("/usr/bin/btrfs");
        make.args(["-q", "subvolume", "create", TREE]);
        let made = scene.node(n).output(make, COMMAND).map_err(|e| said(&e))?;
        made.success().then_some(()).ok_or(made.stderr)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // While it is mounted this makes it go with its last mount.
        let _ = Command::new("losetup").arg("-d").arg(&self.device).output();
    }
}

fn run(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("{program}: {e}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

/// The versions of all files of the tree of a node, as they are seen from inside.
fn versions(scene: &Scene, n: usize) -> BTreeSet<u64> {
    let read = || -> io::Result<BTreeSet<u64>> {
        (1..=FILES)
            .map(|f| {
                let text = fs::read_to_string(format!("{TREE}/f{f}"))?;
                text.trim().parse().map_err(io::Error::other)
            })
            .collect()
    };
    let found = scene.node(n).host.enter(read).expect("the host is on");
    found.expect("every file is there")
}

#[test]
fn a_set_is_of_the_moment_of_its_snapshot_though_the_tree_goes_on() {
    if privilege().expect("a lab is possible") != Privilege::Root {
        return tandem_lab::skipped("to mount a disk needs root");
    }
    let body = format!("{DEFAULT_BODY}{BODY}");
    let scene = SceneOptions::new().body(&body).make();
    let mut disks = Vec::new();
    for n in [ONE, TWO] {
        let disk = Disk::make().and_then(|disk| disk.mount_in(&scene, n).map(|()| disk));
        match disk {
            Ok(disk) => disks.push(disk),
            Err(why) => return tandem_lab::skipped(format_args!("no btrfs: {why}")),
        }
        let go = scene.node(n).host.outside_path("/etc/tandem/go");
        fs::write(&go, GO).expect("written");
        fs::set_permissions(&go, fs::Permissions::from_mode(0o755)).expect("executable");
    }
    scene.fill();
    let made = scene.node(ONE).host.enter(|| -> io::Result<()> {
        fs::write(format!("{TREE}/n"), "1\n")?;
        (1..=FILES).try_for_each(|f| fs::write(format!("{TREE}/f{f}"), "1\n"))
    });
    made.expect("the host is on").expect("written");
    scene.start();
    let mut before = 0;
    for _ in 0..3 {
        // A flush takes a set that begins after it, and waits until the standby has it.
        scene.flush(ONE);
        let found = versions(&scene, TWO);
        let version = found.first().copied().expect("one");
        assert_eq!(found.len(), 1, "of one moment: {found:?}");
        assert!(
            version > before,
            "each set is newer: {version} after {before}"
        );
        before = version;
    }
    let seen = scene.node(ONE).host.outside_path("/srv/snapshot-seen");
    assert!(exists(&seen), "the snapshot is there when the tree goes on");
    scene.power_cut(ONE);
    scene.wait_role(TWO, Role::Master);
    let found = versions(&scene, TWO);
    assert_eq!(found.len(), 1, "a takeover has a whole set: {found:?}");
    scene.wait_status(TWO, "has no trouble with the tree", |s| {
        !s.alarms.iter().any(|alarm| alarm.contains("tree db"))
    });
}
