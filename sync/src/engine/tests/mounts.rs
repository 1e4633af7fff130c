//! File systems that are mounted below the root of a tree: no part of it, and nothing is concluded from them.

use super::compare::{assert_equal, differences};
use super::pair::{Cable, Node, begin, flush, pair, write};
use crate::engine::TreeState;
use crate::filter::Filter;
use crate::tree::TreeConfig;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::path::PathBuf;

/// A file system in memory at a directory of a tree, until it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// `None`, and said: there is no right to mount.
    #[track_caller]
    fn below(node: &Node, name: &str) -> Option<Mounted> {
        let at = node.tree().join(name);
        std::fs::create_dir_all(&at).unwrap();
        let none: Option<&std::ffi::CStr> = None;
        match mount("none", &at, "tmpfs", MountFlags::empty(), none) {
            Ok(()) => Some(Mounted(at)),
            Err(_) => {
                tandem_lab::skipped("a mount below a tree: no right to mount");
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

/// Both have a directory with a file in it.
async fn with_a_directory() -> (Node, Node, Cable) {
    let (a, b) = pair(|_| {}).await;
    write(&a.tree().join("big/f"), "first");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    (a, b, cable)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_mounted_below_a_source_is_not_sent_and_neither_it_nor_its_unmount_deletes() {
    let (mut a, b, cable) = with_a_directory().await;
    let Some(mounted) = Mounted::below(&a, "big") else {
        return;
    };
    write(&mounted.0.join("elsewhere"), "not of the tree");
    write(&a.tree().join("g"), "beside it");
    flush(&a).await;
    // A scan sees it too.
    cable.cut().await;
    a.stop().await;
    a.start();
    a.engine().begin_source(1).await.unwrap();
    let cable = Cable::plug(&a, &b);
    write(&a.tree().join("h"), "beside it");
    flush(&a).await;
    a.until("shown", |s| s.trees[0].mounts_below == ["big"])
        .await;
    b.until("consistent", |s| s.consistent).await;
    let differ = differences(&a.tree(), &b.tree());
    let below = |line: &String| line.contains("big");
    assert!(!differ.is_empty() && differ.iter().all(below), "{differ:?}");
    assert_eq!(std::fs::read(b.tree().join("big/f")).unwrap(), b"first");
    assert!(!b.tree().join("big/elsewhere").exists());
    drop(mounted);
    write(&a.tree().join("big/after"), "of the tree again");
    flush(&a).await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(a.shown().await.trees[0].errors, 0);
    // The mount was there first: what it hid is found, and nothing is missed.
    cable.cut().await;
    a.stop().await;
    let mounted = Mounted::below(&a, "new").unwrap();
    write(&mounted.0.join("elsewhere"), "not of the tree");
    a.start();
    a.engine().begin_source(1).await.unwrap();
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    drop(mounted);
    write(&a.tree().join("new/f"), "of the tree");
    flush(&a).await;
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_its_place_on_a_mount_of_the_standby_is_out_of_sync_until_that_is_gone() {
    let (a, b, cable) = with_a_directory().await;
    let Some(mounted) = Mounted::below(&b, "big") else {
        return;
    };
    write(&a.tree().join("big/f"), "second");
    write(&a.tree().join("g"), "beside it");
    b.until("named", |s| {
        let error = s.trees[0].last_error.as_deref().unwrap_or_default();
        let named = s.trees[0].errors == 1 && error.starts_with("big/f: ");
        named && !s.consistent && b.tree().join("g").exists()
    })
    .await;
    assert_eq!(std::fs::read_dir(&mounted.0).unwrap().count(), 0);
    drop(mounted);
    flush(&a).await;
    b.until("in sync", |s| s.consistent && s.trees[0].errors == 0)
        .await;
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}

/// A tree of its own within another, which has nothing of it: what the agent makes of such a configuration.
fn two_trees(node: &Node) -> Vec<TreeConfig> {
    let outer = TreeConfig {
        exclude: Filter::parse(["/big"]).unwrap(),
        ..TreeConfig::new("data", node.tree())
    };
    vec![outer, TreeConfig::new("big", node.tree().join("big"))]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_below_a_tree_can_be_a_tree_of_its_own() {
    let (mut a, mut b) = (Node::new("a", |_| {}), Node::new("b", |_| {}));
    let (Some(at_a), Some(at_b)) = (Mounted::below(&a, "big"), Mounted::below(&b, "big")) else {
        return;
    };
    for node in [&mut a, &mut b] {
        node.stop().await;
        node.start_with(two_trees(node));
    }
    let (a, b) = begin(a, b).await;
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    write(&a.tree().join("f"), "of the outer one");
    write(&at_a.0.join("d/f"), "of the inner one");
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&at_a.0, &at_b.0);
    let counts = |s: &crate::engine::EngineStatus| [s.trees[0].files, s.trees[1].files];
    assert_eq!(counts(&b.shown().await), [1, 2]);
    // Unmounted it is another root, and stops; the outer one goes on, and has nothing of what lies in its place.
    unmount(&at_a.0, UnmountFlags::DETACH).unwrap();
    a.until("stopped", |s| {
        matches!(s.trees[1].state, TreeState::Stopped { .. })
    })
    .await;
    write(&a.tree().join("big/below"), "nobody's");
    write(&a.tree().join("g"), "of the outer one");
    b.until("it goes on", |s| s.trees[0].files == 2).await;
    assert_eq!(
        std::fs::read(at_b.0.join("d/f")).unwrap(),
        b"of the inner one"
    );
    assert!(!at_b.0.join("below").exists());
    cable.cut().await;
    std::mem::forget(at_a);
    drop(at_b);
}
