//! A file system that becomes read-only, as by `errors=remount-ro`, and is writable again.

use super::compare::assert_equal;
use super::failing::{Disk, pair_on};
use super::pair::{Cable, Node, PATIENCE, begin, flush, recorded, write};
use super::reversal::rescued;
use crate::engine::{EngineStatus, TreeState};
use crate::tree::TreeConfig;
use rustix::mount::{UnmountFlags, unmount};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

fn tree(name: &str, root: &Path) -> TreeConfig {
    TreeConfig::new(name, root.to_owned())
}

/// Two nodes, each with a tree on a disk of its own and one beside it.
struct Two {
    a: Node,
    b: Node,
    disks: [Disk; 2],
    place: TempDir,
}

impl Two {
    async fn new() -> Option<Two> {
        let disks = [Disk::new(12)?, Disk::new(12)?];
        let place = tempfile::tempdir().unwrap();
        let mut nodes = Vec::new();
        for (name, disk) in ["a", "b"].into_iter().zip(&disks) {
            let mut node = Node::new(name, |_| {});
            node.stop().await;
            let other = place.path().join(name);
            std::fs::create_dir(&other).unwrap();
            node.start_with(vec![tree("disk", disk.at()), tree("other", &other)]);
            nodes.push(node);
        }
        let (b, a) = (nodes.pop().unwrap(), nodes.pop().unwrap());
        let (a, b) = begin(a, b).await;
        Some(Two { a, b, disks, place })
    }

    fn other(&self, name: &str) -> std::path::PathBuf {
        self.place.path().join(name)
    }

    fn assert_equal(&self) {
        assert_equal(self.disks[0].at(), self.disks[1].at());
        assert_equal(&self.other("a"), &self.other("b"));
    }
}

/// A file system on a loop device, until it is dropped.
struct Ext4 {
    dir: TempDir,
    at: PathBuf,
}

fn run(program: &str, arguments: &[&Path]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command.output().is_ok_and(|o| o.status.success())
}

impl Ext4 {
    /// `None`: there is no right to mount it, or the kernel makes no errors on request.
    fn new() -> Option<Ext4> {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("disk");
        std::fs::create_dir(&at).unwrap();
        let disk = Ext4 { dir, at };
        let image = std::fs::File::create(disk.image()).unwrap();
        image.set_len(64 << 20).unwrap();
        let made = run("mkfs.ext4", &[Path::new("-qF"), &disk.image()]) && disk.mount();
        (made && disk.trigger().exists()).then_some(disk)
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn at(&self) -> &Path {
        &self.at
    }

    fn mount(&self) -> bool {
        let options = Path::new("-oloop,errors=remount-ro");
        run("mount", &[options, &self.image(), &self.at])
    }

    fn trigger(&self) -> PathBuf {
        let device = std::fs::metadata(&self.at).unwrap().dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let block = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).unwrap();
        let name = block.file_name().unwrap();
        Path::new("/sys/fs/ext4")
            .join(name)
            .join("trigger_fs_error")
    }

    /// It meets an error.
    fn fail(&self) {
        std::fs::write(self.trigger(), "1").unwrap();
    }

    /// Unmounted, checked and mounted again.
    async fn repair(&self) {
        let free = async {
            while unmount(&self.at, UnmountFlags::empty()).is_err() {
                tokio::task::yield_now().await;
            }
        };
        let free = tokio::time::timeout(PATIENCE, free).await;
        free.expect("nobody holds it");
        // The code says that something was mended.
        run("e2fsck", &[Path::new("-fy"), &self.image()]);
        assert!(self.mount());
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let _ = unmount(&self.at, UnmountFlags::DETACH);
    }
}

fn is_stopped(status: &EngineStatus) -> bool {
    matches!(&status.trees[0].state, TreeState::Stopped { why } if why.contains("read-only"))
}

/// The one alarm that there is names the mount and what to do.
fn one_alarm(node: &Node, mount: &Path) {
    let alarms = node.engine().status().alarms;
    let [alarm] = &*alarms else {
        panic!("{alarms:?}");
    };
    assert_eq!(
        (&*alarm.kind, &alarm.tree),
        (
            "read-only",
            &Some(node.engine().status().trees[0].name.clone())
        )
    );
    let remount = format!("mount -o remount,rw {}", mount.display());
    assert!(alarm.text.contains(&remount), "{alarm:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_tree_of_a_standby_is_stopped_as_a_whole_and_goes_on_by_itself() {
    let Some(two) = Two::new().await else {
        return tandem_lab::skipped("a read-only tree: no right to mount");
    };
    let (a, b) = (&two.a, &two.b);
    let (at, disk) = (two.disks[0].at(), &two.disks[1]);
    write(&at.join("gone"), "soon");
    let cable = Cable::plug(a, b);
    flush(a).await;
    disk.set_read_only(true).await;
    // Before anything is to be changed there.
    b.until("stopped", |s| is_stopped(s) && !s.consistent).await;
    one_alarm(b, disk.at());
    let _ = cable.ended().await;

    let cable = Cable::plug(a, b);
    std::fs::remove_file(at.join("gone")).unwrap();
    for i in 0..100 {
        write(&at.join(format!("many/{i}")), format!("{i}"));
    }
    write(&two.other("a").join("f"), "goes on");
    recorded(a).await;
    b.until("the other tree", |s| s.trees[1].files == 1).await;
    assert_eq!(std::fs::read(two.other("b").join("f")).unwrap(), b"goes on");
    let shown = b.shown().await;
    assert_eq!((shown.trees[0].errors, shown.trees[0].dirty), (0, 0));
    one_alarm(b, disk.at());

    disk.set_read_only(false).await;
    b.until("opened", |s| !is_stopped(s)).await;
    let _ = cable.ended().await;
    let cable = Cable::plug(a, b);
    flush(a).await;
    b.until("well", |s| s.consistent && s.alarms.is_empty())
        .await;
    two.assert_equal();
    assert_eq!(rescued(b), BTreeMap::new());
    cable.cut().await;
}

/// ext4 that meets an error, as on a broken disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_goes_on_after_the_file_system_was_checked() {
    let Some(disk) = Ext4::new() else {
        return tandem_lab::skipped("an error of ext4: no right to mount an image");
    };
    // Its state is elsewhere.
    let place = tempfile::tempdir().unwrap();
    let state = place.path().join("state");
    let b = Node::new_at(&disk.at().join("b"), state, "b", |_| {});
    let (a, b) = begin(Node::new("a", |_| {}), b).await;
    write(&a.tree().join("f"), "first");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    disk.fail();
    for i in 0..100 {
        write(&a.tree().join(format!("many/{i}")), format!("{i}"));
    }
    b.until("stopped", is_stopped).await;
    let shown = b.shown().await;
    assert_eq!((shown.trees[0].errors, shown.trees[0].dirty), (0, 0));
    one_alarm(&b, disk.at());
    let _ = cable.ended().await;
    // Nothing holds it: it can be unmounted while the agent runs.
    disk.repair().await;
    b.until("opened", |s| !is_stopped(s)).await;
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("well", |s| s.consistent && s.alarms.is_empty())
        .await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(rescued(&b), BTreeMap::new());
    cable.cut().await;
}

/// The same under the state directory, of either node. Such a file system has to be unmounted, for which the agent is stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_whose_disk_failed_stops_everything() {
    for broken in ["a", "b"] {
        let Some(disk) = Ext4::new() else {
            return tandem_lab::skipped("an error of ext4: no right to mount an image");
        };
        let place = tempfile::tempdir().unwrap();
        let (mut a, mut b) = pair_on(disk.at(), broken, &place).await;
        write(&a.tree().join("f"), "first");
        let cable = Cable::plug(&a, &b);
        flush(&a).await;
        disk.fail();
        write(&a.tree().join("g"), "second");
        let node = if broken == "a" { &mut a } else { &mut b };
        node.until("an alarm", |s| {
            !s.consistent && s.alarms.iter().any(|a| a.kind == "index")
        })
        .await;
        let _ = cable.ended().await;
        node.stop().await;
        disk.repair().await;
        node.start();
        match broken {
            "a" => node.engine().begin_source(1).await.unwrap(),
            _ => node.engine().begin_replica().await.unwrap(),
        }
        let cable = Cable::plug(&a, &b);
        flush(&a).await;
        assert_equal(&a.tree(), &b.tree());
        assert_eq!(rescued(&b), BTreeMap::new());
        cable.cut().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_sends_what_it_can_only_read() {
    let Some(mut two) = Two::new().await else {
        return tandem_lab::skipped("a read-only tree: no right to mount");
    };
    write(&two.disks[0].at().join("f"), "written before");
    recorded(&two.a).await;
    two.disks[0].set_read_only(true).await;
    two.a
        .until("an alarm", |s| !s.alarms.is_empty() && s.consistent)
        .await;
    one_alarm(&two.a, two.disks[0].at());
    // Also after a start of the agent.
    two.a.stop().await;
    let trees = vec![
        tree("disk", two.disks[0].at()),
        tree("other", &two.other("a")),
    ];
    two.a.start_with(trees);
    two.a.engine().begin_source(1).await.unwrap();
    let cable = Cable::plug(&two.a, &two.b);
    flush(&two.a).await;
    two.assert_equal();
    one_alarm(&two.a, two.disks[0].at());

    two.disks[0].set_read_only(false).await;
    two.a
        .until("seen", |s| {
            s.alarms.is_empty() && s.trees[0].detector_because.is_none()
        })
        .await;
    write(&two.disks[0].at().join("g"), "written after");
    flush(&two.a).await;
    two.assert_equal();
    cable.cut().await;
}

/// What lies there is data all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_with_a_read_only_tree_can_be_made_the_source() {
    let Some(two) = Two::new().await else {
        return tandem_lab::skipped("a read-only tree: no right to mount");
    };
    let (a, b) = (&two.a, &two.b);
    write(&two.disks[0].at().join("f"), "here");
    let cable = Cable::plug(a, b);
    flush(a).await;
    two.disks[1].set_read_only(true).await;
    b.until("stopped", is_stopped).await;
    cable.cut().await;
    a.engine().begin_replica().await.unwrap();
    b.engine().begin_source(2).await.unwrap();
    b.until("it reads", |s| {
        s.trees[0].state == TreeState::Consistent && !s.alarms.is_empty()
    })
    .await;
    one_alarm(b, two.disks[1].at());
    let cable = Cable::plug(b, a);
    write(&two.other("b").join("new"), "of the new source");
    flush(b).await;
    two.assert_equal();
    cable.cut().await;
}
