//! Sets that are read from a snapshot, while the tree goes on.

use super::compare::assert_equal;
use super::pair::{Cable, Node, begin, flush, noise, write};
use super::reflinks::Disk;
use crate::engine::{EngineStatus, FreezeHooks};
use crate::tree::{Freeze, Snapshot, TreeConfig};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Commands that a test gives.
struct Hooks<F>(F);

impl<F: Fn(&str) -> Result<(), String> + Send + Sync> FreezeHooks for Hooks<F> {
    fn run(&self, _: &str, event: &'static str, _: &[String], _: Duration) -> Result<(), String> {
        (self.0)(event)
    }
}

fn by_hooks(node: &Node, run: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static) {
    node.engine().run_freeze_hooks_by(Arc::new(Hooks(run)));
}

fn in_sets(snapshot: Option<Snapshot>) -> Freeze {
    Freeze {
        before: vec!["stop".into()],
        after: vec!["go".into()],
        timeout: Duration::from_secs(10),
        every: Duration::from_secs(3600),
        snapshot,
    }
}

fn of_btrfs(tree: &mut TreeConfig) {
    tree.freeze = Some(in_sets(Some(Snapshot::Btrfs)));
}

fn btrfs(arguments: &[&str], at: &Path) {
    let done = Command::new("btrfs")
        .args(arguments)
        .arg(at)
        .output()
        .unwrap();
    assert!(done.status.success(), "btrfs {arguments:?}: {done:?}");
}

/// A node whose tree is a subvolume.
async fn on_subvolume(disk: &Disk, name: &'static str) -> Node {
    let mut node = Node::new_in(&disk.at, name, |_| {});
    node.stop().await;
    std::fs::remove_dir_all(node.tree()).unwrap();
    std::fs::remove_dir_all(node.state()).unwrap();
    btrfs(&["-q", "subvolume", "create"], &node.tree());
    node.change = of_btrfs;
    node.start();
    node
}

async fn next_set(a: &Node, b: &Node) {
    flush(a).await;
    b.until("consistent", |s| s.consistent).await;
}

fn write_all(root: &Path, version: usize) {
    for i in 0..20 {
        write(&root.join(format!("d/f{i}")), format!("version {version}"));
    }
    write(&root.join("large"), noise(300_000, version as u64));
}

/// What came over is of one moment.
fn version(node: &Node) -> String {
    let read = |i| std::fs::read_to_string(node.tree().join(format!("d/f{i}"))).unwrap();
    let versions: std::collections::BTreeSet<String> = (0..20).map(read).collect();
    assert_eq!(versions.len(), 1, "{versions:?}");
    versions.into_iter().next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_is_read_from_a_snapshot_while_the_tree_goes_on() {
    let Some(disk) = Disk::btrfs() else {
        return;
    };
    let (a, b) = (
        on_subvolume(&disk, "a").await,
        on_subvolume(&disk, "b").await,
    );
    let (root, count) = (a.tree(), Mutex::new(0));
    write_all(&root, 0);
    std::fs::hard_link(root.join("large"), root.join("same")).unwrap();
    // All of it changes as soon as it may, before anything was read.
    let live = root.clone();
    by_hooks(&a, move |event| {
        if event == "thaw" {
            let mut count = count.lock().unwrap();
            *count += 1;
            assert!(live.join(".tandem/snapshot/d/f1").exists());
            write_all(&live, *count);
        }
        Ok(())
    });
    let (a, b) = begin(a, b).await;
    let cable = Cable::plug(&a, &b);
    let mut last = None;
    for _ in 0..3 {
        next_set(&a, &b).await;
        let found = version(&b);
        let number: u64 = found.trim_start_matches("version ").parse().unwrap();
        let linked = std::fs::read(b.tree().join("same")).unwrap();
        assert!(linked == noise(300_000, number), "of the same set");
        assert!(last < Some(number), "of a later moment");
        last = Some(number);
    }
    // Nothing changes any more: the keys that a set recorded are those of the tree itself.
    by_hooks(&a, |_| Ok(()));
    next_set(&a, &b).await;
    assert_equal(&a.tree(), &b.tree());
    let seq = a.shown().await.seq;
    next_set(&a, &b).await;
    assert_eq!(a.shown().await.seq, seq, "nothing was recorded");
    assert!(!root.join(".tandem/snapshot").exists());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_a_crash_left_is_removed_and_nothing_else() {
    let Some(disk) = Disk::btrfs() else {
        return;
    };
    let (a, b) = (
        on_subvolume(&disk, "a").await,
        on_subvolume(&disk, "b").await,
    );
    write_all(&a.tree(), 0);
    let left = a.tree().join(".tandem/snapshot");
    let of = a.tree().display().to_string();
    btrfs(&["-q", "subvolume", "snapshot", "-r", &of], &left);
    by_hooks(&a, |_| Ok(()));
    let (a, b) = begin(a, b).await;
    let cable = Cable::plug(&a, &b);
    next_set(&a, &b).await;
    assert_equal(&a.tree(), &b.tree());
    assert!(!left.exists());
    // A directory of somebody's is no snapshot.
    write(&left.join("file"), "somebody's");
    write(&a.tree().join("d/f1"), "newer");
    let _ = a.engine().flush(Duration::from_millis(300)).await;
    let alarm = |s: &EngineStatus| s.alarms.iter().any(|a| a.kind == "set");
    a.until("an alarm", alarm).await;
    assert_eq!(
        std::fs::read_to_string(left.join("file")).unwrap(),
        "somebody's"
    );
    cable.cut().await;
}

/// A snapshot has an empty directory in the place of a subvolume, of which nothing is known: least of all that it is empty.
#[tokio::test(flavor = "multi_thread")]
async fn what_lies_in_a_subvolume_below_a_snapshot_is_not_gone() {
    let Some(disk) = Disk::btrfs() else {
        return;
    };
    let (a, b) = (
        on_subvolume(&disk, "a").await,
        on_subvolume(&disk, "b").await,
    );
    write_all(&a.tree(), 0);
    write(&a.tree().join("d/sub/file"), "content");
    by_hooks(&a, |_| Ok(()));
    let (a, b) = begin(a, b).await;
    let cable = Cable::plug(&a, &b);
    next_set(&a, &b).await;
    let there = || std::fs::read_to_string(b.tree().join("d/sub/file")).unwrap();
    assert_eq!(there(), "content");
    // The directory becomes a subvolume, with what it held.
    std::fs::remove_dir_all(a.tree().join("d/sub")).unwrap();
    btrfs(&["-q", "subvolume", "create"], &a.tree().join("d/sub"));
    write(&a.tree().join("d/sub/file"), "content");
    btrfs(&["-q", "subvolume", "create"], &a.tree().join("new"));
    write_all(&a.tree(), 1);
    next_set(&a, &b).await;
    assert_eq!(version(&b), "version 1");
    assert_eq!(there(), "content");
    assert!(!b.tree().join("new").exists());
    cable.cut().await;
}

/// Its writes raise no event in the tree: what was listed once of it would be old for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_subvolume_that_comes_below_a_tree_is_no_part_of_it() {
    let Some(disk) = Disk::btrfs() else {
        return;
    };
    let node = |name| Node::new_in(&disk.at, name, |_| {});
    let (a, b) = begin(node("a"), node("b")).await;
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    let from = disk.at.join("elsewhere");
    btrfs(&["-q", "subvolume", "create"], &from);
    write(&from.join("file"), "of the subvolume");
    let of = from.display().to_string();
    std::fs::create_dir(a.tree().join("d")).unwrap();
    btrfs(
        &["-q", "subvolume", "snapshot", &of],
        &a.tree().join("d/sub"),
    );
    write(&a.tree().join("d/own"), "of the tree");
    flush(&a).await;
    assert!(b.tree().join("d/own").exists());
    assert!(!b.tree().join("d/sub").exists());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_is_no_subvolume_is_said() {
    let disk = Disk::btrfs();
    let on_btrfs = disk.iter().map(|disk| (disk.at.clone(), "btrfs subvolume"));
    for (at, why) in on_btrfs.chain([(std::env::temp_dir(), "does not lie on btrfs")]) {
        let node = |name| Node::new_in(&at, name, of_btrfs);
        let (a, b) = begin(node("a"), node("b")).await;
        by_hooks(&a, |_| Ok(()));
        write(&a.tree().join("file"), "content");
        let cable = Cable::plug(&a, &b);
        let named = |s: &EngineStatus| s.alarms.iter().any(|a| a.text.contains(why));
        a.until(why, named).await;
        assert!(!b.tree().join("file").exists());
        cable.cut().await;
    }
}

/// As LVM does it: the tree lies in a snapshot that the commands mount. Here a btrfs of the test's own gives it.
#[tokio::test(flavor = "multi_thread")]
async fn a_set_is_read_from_what_the_commands_mounted() {
    let Some(disk) = Disk::btrfs() else {
        return;
    };
    let (mut a, mut b) = (
        on_subvolume(&disk, "a").await,
        on_subvolume(&disk, "b").await,
    );
    let mounted: PathBuf = a.dir.path().join("mounted");
    for node in [&mut a, &mut b] {
        node.stop().await;
        let mut tree = TreeConfig::new("data", node.tree());
        tree.freeze = Some(in_sets(Some(Snapshot::At(mounted.clone()))));
        node.start_with(vec![tree]);
    }
    write_all(&a.tree(), 0);
    // Not mounted: an empty directory is not taken for the tree.
    std::fs::create_dir(&mounted).unwrap();
    by_hooks(&a, |_| Ok(()));
    let (a, b) = begin(a, b).await;
    let cable = Cable::plug(&a, &b);
    let named = |s: &EngineStatus| {
        s.alarms
            .iter()
            .any(|a| a.text.contains("did `before` mount it"))
    };
    a.until("an alarm", named).await;
    assert!(!b.tree().join("d").exists());
    std::fs::remove_dir(&mounted).unwrap();
    let (live, at) = (a.tree(), mounted.clone());
    by_hooks(&a, move |event| {
        if event == "freeze" {
            let of = live.display().to_string();
            btrfs(&["-q", "subvolume", "snapshot", "-r", &of], &at);
            write_all(&live, 1);
        } else if at.exists() {
            btrfs(&["-q", "subvolume", "delete"], &at);
        }
        Ok(())
    });
    next_set(&a, &b).await;
    assert_eq!(version(&b), "version 0");
    assert_eq!(version(&a), "version 1");
    assert!(!mounted.exists());
    next_set(&a, &b).await;
    assert_eq!(version(&b), "version 1");
    cable.cut().await;
}
