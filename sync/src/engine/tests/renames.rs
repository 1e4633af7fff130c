//! A rename is carried out as one: names are sent, no data.

use super::compare::assert_equal;
use super::cuts::items;
use super::pair::{Cable, Node, PATIENCE, flush, noise, pair, write};
use crate::engine::command::Command;
use crate::lineage::CopyState;
use crate::path::RelPath;
use crate::tree::TreeId;
use crate::wire::Move;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

fn rename(node: &Node, from: &str, to: &str) {
    std::fs::rename(node.tree().join(from), node.tree().join(to)).unwrap();
}

/// A tree with a directory of many small files, a large file, links into the directory and out of it.
fn fill(node: &Node) {
    for n in 0..300 {
        let name = format!("old/sub{}/file{n}", n % 7);
        write(&node.tree().join(name), noise(700, n));
    }
    write(&node.tree().join("large"), noise(300_000, 1));
    let link = |from: &str, to: &str| {
        std::fs::hard_link(node.tree().join(from), node.tree().join(to)).unwrap();
    };
    link("old/sub1/file1", "before");
    link("old/sub1/file8", "z-behind");
    link("old/sub2/file2", "old/sub3/other-name");
    std::os::unix::fs::symlink("sub0/file0", node.tree().join("old/link")).unwrap();
}

async fn filled() -> (Node, Node) {
    let (a, b) = pair(|_| {}).await;
    fill(&a);
    (a, b)
}

async fn consistent(b: &Node) {
    b.until("consistent", |s| s.consistent && s.trees[0].dirty == 0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_directory_and_a_renamed_large_file_are_not_sent_again() {
    let (a, b) = filled().await;
    let (cable, sent) = Cable::counting(&a, &b);
    flush(&a).await;
    consistent(&b).await;
    let before = (
        sent.load(Ordering::Relaxed),
        inode(&b.tree().join("old/sub0/file0")),
    );
    let large = inode(&b.tree().join("large"));
    rename(&a, "old", "new");
    flush(&a).await;
    consistent(&b).await;
    assert_equal(&a.tree(), &b.tree());
    write(&a.tree().join("dir/in"), "x");
    rename(&a, "large", "dir/larger");
    flush(&a).await;
    consistent(&b).await;
    assert_equal(&a.tree(), &b.tree());
    let after = sent.load(Ordering::Relaxed) - before.0;
    assert!(after < 20_000, "{after} bytes were sent for two renames");
    assert_eq!(inode(&b.tree().join("new/sub0/file0")), before.1);
    assert_eq!(inode(&b.tree().join("dir/larger")), large);
    // What comes behind finds index and disk as they are.
    for (path, content) in [("new/sub0/file0", "other"), ("old", "a file now")] {
        write(&a.tree().join(path), content);
    }
    std::fs::remove_dir_all(a.tree().join("new/sub4")).unwrap();
    write(&a.tree().join("z-behind"), "through another name");
    flush(&a).await;
    consistent(&b).await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(items(&b), 0, "nothing was taken for a local change");
    cable.cut().await;
}

/// Of a tree that is of different moments a rename, in whichever tree, makes none of one moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_rename_does_not_claim_that_a_tree_is_caught_up() {
    for behind in [true, false] {
        let (a, b) = filled().await;
        let cable = Cable::plug(&a, &b);
        flush(&a).await;
        consistent(&b).await;
        cable.cut().await;
        let (tree, shared) = (TreeId::of("data"), &b.engine().shared);
        if behind {
            shared.index.write(|w| w.fall_behind(tree)).unwrap();
        }
        let one = Move {
            tree,
            from: RelPath::new("old").unwrap(),
            to: RelPath::new("new").unwrap(),
            seq: shared.index.snapshot().unwrap().last_seq() + 1,
            stamp: 1,
        };
        let source = a.engine().lineages().unwrap();
        // The session before counts until another one begins.
        let session = shared.sessions.load(Ordering::SeqCst) - 1;
        let order = |reply| Command::Move {
            session,
            one,
            source,
            reply,
        };
        assert!(shared.ask(order).await.unwrap().unwrap(), "carried out");
        let head = shared.index.snapshot().unwrap().head(tree).unwrap();
        assert_eq!(head.state == CopyState::Consistent, !behind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn renames_that_follow_each_other_end_where_the_source_ends() {
    let (a, b) = filled().await;
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    for (from, to) in [
        ("old", "one"),
        ("one", "two"),
        ("two/sub1", "two/sub0/deep"),
        ("two/sub2", "swap"),
        ("two/sub3", "two/sub2"),
        ("swap", "two/sub3"),
        ("large", "two/large"),
        ("two", "three"),
    ] {
        rename(&a, from, to);
        write(&a.tree().join("beside"), to);
    }
    flush(&a).await;
    consistent(&b).await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(items(&b), 0);
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_with_changes_around_it() {
    let (a, b) = filled().await;
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    for round in 0..8 {
        let (from, to) = match round % 2 {
            0 => ("old", "new"),
            _ => ("new", "old"),
        };
        write(
            &a.tree().join(from).join("sub0/file0"),
            format!("before {round}"),
        );
        rename(&a, from, to);
        write(
            &a.tree().join(to).join("sub0/file7"),
            format!("behind {round}"),
        );
        write(&a.tree().join(from), "in its place");
        std::fs::remove_file(a.tree().join(from)).unwrap();
        std::fs::remove_file(
            a.tree()
                .join(to)
                .join(format!("sub1/file{}", 15 + 7 * round)),
        )
        .unwrap();
    }
    flush(&a).await;
    consistent(&b).await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(items(&b), 0);
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_while_nobody_listens_arrives_too() {
    let (a, b) = filled().await;
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    cable.cut().await;
    rename(&a, "old", "new");
    write(&a.tree().join("new/late"), "x");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    consistent(&b).await;
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_protected_here_is_not_renamed_with_its_directory() {
    let (a, b) = pair(|tree| {
        tree.protect = crate::filter::Filter::parse(["/old/own"]).unwrap();
    })
    .await;
    fill(&a);
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    write(&b.tree().join("old/own"), "of the standby");
    rename(&a, "old", "new");
    let arrived = async {
        while !b.tree().join("new/sub6/file6").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, arrived).await.unwrap();
    assert_eq!(
        std::fs::read(b.tree().join("old/own")).unwrap(),
        b"of the standby"
    );
    assert!(!b.tree().join("new/own").exists());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_ends_right_wherever_the_replica_is_cut() {
    let mut reached = Vec::new();
    for n in 1.. {
        let (a, mut b) = filled().await;
        let mut cable = Cable::plug(&a, &b);
        flush(&a).await;
        consistent(&b).await;
        b.engine().shared.cuts.arm(n);
        rename(&a, "old", "new");
        let mut changes = b.engine().status_changes();
        let cut = tokio::select! {
            _ = changes.wait_for(|s| s.alarms.iter().any(|a| a.kind == "worker")) => true,
            report = a.engine().flush(PATIENCE) => {
                assert!(report.unwrap().not_covered.is_empty());
                // What is visible is answered before the worker has ended with it.
                b.engine().shared.cuts.disarm();
                b.engine().shared.cuts.place().is_some()
            }
        };
        reached.extend(b.engine().shared.cuts.place());
        if cut {
            cable.cut().await;
            b.stop().await;
            b.start();
            b.engine().begin_replica().await.unwrap();
            cable = Cable::plug(&a, &b);
        }
        flush(&a).await;
        consistent(&b).await;
        assert_equal(&a.tree(), &b.tree());
        assert_eq!(items(&b), 0, "cut {n} at {:?}", reached.last());
        cable.cut().await;
        if !cut {
            break;
        }
    }
    for place in [
        "before a rename",
        "after a rename",
        "before the index follows a rename",
    ] {
        assert!(reached.contains(&place), "{place} in {reached:?}");
    }
}
