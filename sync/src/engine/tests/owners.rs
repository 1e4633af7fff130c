//! `owners = "name"`: the same names with other numbers on the other node. Needs the right to give files away.

use super::pair::{Cable, Node, PATIENCE, flush, pair, write};
use super::reversal::{rescued, turn};
use crate::engine::Receiver;
use crate::tree::{Owners, TreeConfig};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

const NOBODY_ELSES: &str = "no right to give files away";

fn by_name(tree: &mut TreeConfig) {
    tree.owners = Owners::Name;
}

fn accounts(node: &Node, passwd: &str, group: &str) {
    for (name, text) in [("passwd", passwd), ("group", group)] {
        let new = node.dir.path().join("new");
        write(&new, text);
        std::fs::rename(new, node.dir.path().join(name)).unwrap();
    }
}

fn owner(node: &Node, path: &str) -> (u32, u32) {
    let found = std::fs::symlink_metadata(node.tree().join(path)).unwrap();
    (found.uid(), found.gid())
}

fn give(node: &Node, path: &str, (uid, gid): (u32, u32)) -> bool {
    std::os::unix::fs::lchown(node.tree().join(path), Some(uid), Some(gid)).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_belong_to_the_same_names() {
    let (a, b) = pair(by_name).await;
    accounts(
        &a,
        "root:x:0:0::/:\nalice:x:3000:1::/:\nbob:x:3001:1::/:\n",
        "root:x:0:\nstaff:x:3050:\n",
    );
    accounts(
        &b,
        "root:x:0:0::/:\nalice:x:4000:1::/:\n",
        "root:x:0:\nstaff:x:4050:\n",
    );
    write(&a.tree().join("d/file"), "alice's");
    std::os::unix::fs::symlink("nowhere", a.tree().join("link")).unwrap();
    for i in 0..40 {
        write(&a.tree().join(format!("many/{i}")), "x");
    }
    if !give(&a, "d/file", (3000, 3050)) {
        return tandem_lab::skipped(NOBODY_ELSES);
    }
    give(&a, "d", (3000, 0));
    give(&a, "link", (3000, 3050));
    give(&a, "many/7", (3000, 3050));
    // A number that nobody has.
    give(&a, "many/8", (3999, 3050));
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_eq!(owner(&b, "d"), (4000, 0));
    assert_eq!(owner(&b, "d/file"), (4000, 4050));
    assert_eq!(owner(&b, "link"), (4000, 4050));
    assert_eq!(owner(&b, "many/7"), (4000, 4050));
    assert_eq!(owner(&b, "many/8"), (3999, 4050));
    let found = a
        .engine()
        .verify(&Receiver::Standby, None, false, None)
        .await
        .unwrap();
    assert_eq!(found.found, 0, "{found:?}");
    // Bob is not known on b: his file waits, the others do not.
    // It is his when it comes.
    let bobs = a.dir.path().join("bobs");
    write(&bobs, "bob's");
    std::os::unix::fs::lchown(&bobs, Some(3001), Some(0)).unwrap();
    std::fs::rename(bobs, a.tree().join("bobs")).unwrap();
    write(&a.tree().join("d/other"), "root's");
    b.until("an error", |s| {
        let error = s.trees[0].last_error.as_deref().unwrap_or_default();
        !s.consistent && error.contains("bobs") && error.contains("user bob")
    })
    .await;
    assert_eq!(std::fs::read(b.tree().join("d/other")).unwrap(), b"root's");
    let wrong = std::fs::metadata(b.tree().join("bobs"));
    assert!(wrong.is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound));
    accounts(
        &b,
        "root:x:0:0::/:\nalice:x:4000:1::/:\nbob:x:4001:1::/:\n",
        "root:x:0:\nstaff:x:4050:\n",
    );
    b.until("bob's file", |s| s.consistent && s.trees[0].errors == 0)
        .await;
    assert_eq!(owner(&b, "bobs"), (4001, 0));
    cable.cut().await;
    // Back the other way: every number is translated back, and nothing differs.
    let cable = turn(&a, &b).await;
    give(&b, "many/9", (4001, 4050));
    flush(&b).await;
    a.until("consistent", |s| s.consistent).await;
    assert_eq!(owner(&a, "many/9"), (3001, 3050));
    assert_eq!(owner(&a, "d/file"), (3000, 3050));
    assert_eq!(rescued(&a), BTreeMap::new());
    let found = tokio::time::timeout(
        PATIENCE,
        b.engine().verify(&Receiver::Standby, None, false, None),
    );
    assert_eq!(found.await.unwrap().unwrap().found, 0);
    cable.cut().await;
}

/// A path that could not be applied is not on the node that takes over: what the old master has of it is kept when that
/// returns, however much it sent after it.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_new_master_never_got_goes_to_the_old_ones_rescue() {
    let (a, b) = pair(by_name).await;
    let group = "root:x:0:\n";
    accounts(&a, "root:x:0:0::/:\nbob:x:3001:1::/:\n", group);
    accounts(&b, "root:x:0:0::/:\n", group);
    write(&a.tree().join("first"), "first");
    let made = a.dir.path().join("bobs");
    write(&made, "only here");
    if std::os::unix::fs::lchown(&made, Some(3001), None).is_err() {
        return tandem_lab::skipped(NOBODY_ELSES);
    }
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    std::fs::rename(&made, a.tree().join("bobs")).unwrap();
    b.until("an error", |s| !s.consistent && s.trees[0].errors == 1)
        .await;
    write(&a.tree().join("after"), "after");
    let after = b.tree().join("after");
    b.until("what came after it", |_| {
        std::fs::read(&after).is_ok_and(|bytes| bytes == b"after")
    })
    .await;
    // Its word that the batch is durable has reached the source.
    let _ = a
        .engine()
        .flush(std::time::Duration::from_millis(300))
        .await;
    cable.cut().await;
    let cable = turn(&a, &b).await;
    flush(&b).await;
    a.until("consistent", |s| s.consistent).await;
    super::compare::assert_equal(&a.tree(), &b.tree());
    let kept = BTreeMap::from([("bobs".to_owned(), "only here".to_owned())]);
    assert_eq!(rescued(&a), kept);
    cable.cut().await;
}

/// A number whose name cannot be looked up is not one without a name.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_given_to_a_number_while_names_cannot_be_read() {
    let (a, b) = pair(by_name).await;
    let group = "root:x:0:\n";
    let of_a = "root:x:0:0::/:\nbob:x:3001:1::/:\n";
    accounts(&a, of_a, group);
    accounts(&b, "root:x:0:0::/:\nbob:x:4001:1::/:\n", group);
    let made = a.dir.path().join("bobs");
    write(&made, "bob's");
    if std::os::unix::fs::lchown(&made, Some(3001), None).is_err() {
        return tandem_lab::skipped(NOBODY_ELSES);
    }
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    std::fs::remove_file(a.dir.path().join("passwd")).unwrap();
    std::fs::rename(&made, a.tree().join("bobs")).unwrap();
    b.until("an error", |s| {
        let error = s.trees[0].last_error.as_deref().unwrap_or_default();
        !s.consistent && error.contains("cannot be read on the sending node")
    })
    .await;
    assert!(!b.tree().join("bobs").exists());
    accounts(&a, of_a, group);
    b.until("bob's file", |s| s.consistent && s.trees[0].errors == 0)
        .await;
    assert_eq!(owner(&b, "bobs"), (4001, 0));
    cable.cut().await;
}
