//! On file systems with reflinks a new version shares what stayed the same with the old one.

use super::compare::assert_equal;
use super::pair::{Cable, Node, begin, flush, noise, write};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A small file system of the test's own, gone with it.
pub(super) struct Disk {
    pub(super) at: PathBuf,
    _dir: tempfile::TempDir,
}

impl Disk {
    /// `None`, and said, where it cannot be made.
    #[track_caller]
    pub(super) fn btrfs() -> Option<Disk> {
        Disk::made_by("mkfs.btrfs")
    }

    /// `None`, and said, where it cannot be made.
    #[track_caller]
    pub(super) fn ext4() -> Option<Disk> {
        Disk::made_by("mkfs.ext4")
    }

    #[track_caller]
    fn made_by(mkfs: &str) -> Option<Disk> {
        let dir = tempfile::tempdir().unwrap();
        let (image, at) = (dir.path().join("image"), dir.path().join("disk"));
        File::create(&image).unwrap().set_len(512 << 20).unwrap();
        std::fs::create_dir(&at).unwrap();
        let run = |program: &str, arguments: &[&Path]| {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null());
            command.output().is_ok_and(|o| o.status.success())
        };
        let made = run(mkfs, &[Path::new("-q"), &image])
            && run("mount", &[Path::new("-oloop"), &image, &at]);
        if !made {
            tandem_lab::skipped(format_args!("no {mkfs}, or no right to mount an image"));
            return None;
        }
        Some(Disk { at, _dir: dir })
    }

    /// Bytes that are taken, when everything is written.
    fn used(&self) -> u64 {
        let file = File::open(&self.at).unwrap();
        rustix::fs::syncfs(&file).unwrap();
        let found = rustix::fs::fstatvfs(&file).unwrap();
        (found.f_blocks - found.f_bfree) * found.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        rustix::mount::unmount(&self.at, flags).unwrap();
    }
}

const SIZE: u64 = 96 << 20;

async fn equal(a: &Node, b: &Node) {
    flush(a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_shares_what_stays_the_same() {
    let Some(disk) = Disk::btrfs() else {
        return;
    };
    let node = |name| Node::new_in(&disk.at, name, |_| {});
    let (a, b) = begin(node("a"), node("b")).await;
    write(&a.tree().join("base"), noise(SIZE as usize, 1));
    let cable = Cable::plug(&a, &b);
    equal(&a, &b).await;
    // Who reads the old version keeps it.
    let old = File::open(b.tree().join("base")).unwrap();
    let before = disk.used();
    let base = File::options()
        .write(true)
        .open(a.tree().join("base"))
        .unwrap();
    base.write_all_at(&noise(9000, 2), 50 << 20).unwrap();
    equal(&a, &b).await;
    // Room may come back late.
    let grown = disk.used().saturating_sub(before);
    assert!(grown < SIZE / 4, "{grown} bytes for one changed block");
    // Shorter, and cut while the new version comes.
    let cable = {
        cable.cut().await;
        base.set_len(SIZE - 5).unwrap();
        base.write_all_at(&noise(1 << 20, 3), 10 << 20).unwrap();
        base.write_all_at(&noise(1 << 20, 4), 80 << 20).unwrap();
        let cable = Cable::breaking(&a, &b, 1_500_000);
        let _ = cable.ended().await;
        Cable::plug(&a, &b)
    };
    equal(&a, &b).await;
    // A copy with the same content.
    std::fs::copy(a.tree().join("base"), a.tree().join("copy")).unwrap();
    equal(&a, &b).await;
    let grown = disk.used() - before;
    assert!(grown < SIZE / 2, "{grown} bytes for a copy");
    drop(old);
    cable.cut().await;
    drop((a, b));
}
