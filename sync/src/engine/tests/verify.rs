//! The comparison with the standby: by schedule, and at a rate.

use super::compare::assert_equal;
use super::pair::{Cable, Node, flush, noise, pair, write};
use super::reversal::rescued;
use crate::index::{Index, IndexIdentity};
use crate::path::RelPath;
use crate::tree::{TreeConfig, TreeId};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

fn by_schedule(tree: &mut TreeConfig) {
    tree.verify = Some(Duration::from_millis(1));
    // Which would find it too.
    tree.compare_contents = None;
}

/// A byte of a file is another one, its times are what they were, and the index knows the file as it is: as if the disk
/// had done it.
async fn flip(node: &mut Node, name: &str) {
    node.stop().await;
    let path = node.tree().join(name);
    let before = std::fs::metadata(&path).unwrap().modified().unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"X", 0).unwrap();
    file.set_modified(before).unwrap();
    let root = crate::beneath::Root::open(&node.tree(), false).unwrap();
    let path = RelPath::from_bytes(name.as_bytes()).unwrap();
    let key = root.stat(&path).unwrap().unwrap().key();
    let identity = IndexIdentity {
        pair: "test".into(),
        node: node.name.into(),
    };
    let index = Index::open(&node.dir.path().join("state/index.redb"), &identity).unwrap();
    index
        .write(|w| w.set_local(TreeId::of("data"), &path, Some(key)))
        .unwrap();
    drop(index);
    node.start();
    node.engine().begin_replica().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_is_found_by_the_schedule_and_mended_when_asked() {
    let (a, mut b) = pair(by_schedule).await;
    for n in 0..10 {
        write(
            &a.tree().join(format!("dir/file{n}")),
            format!("content {n}"),
        );
    }
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    let (engine, cancel) = (a.engine().clone(), CancellationToken::new());
    let stop = cancel.clone();
    tokio::spawn(async move { engine.verify_by_schedule(stop).await });
    a.until("verified once", |s| {
        let last = s.trees[0].verified.as_ref().and_then(|v| v.last.as_ref());
        last.is_some_and(|last| last.entries >= 11 && last.differ == 0)
    })
    .await;
    cable.cut().await;
    flip(&mut b, "dir/file3").await;
    let cable = Cable::plug(&a, &b);
    a.until("told of it", |s| {
        let last = s.trees[0].verified.as_ref().and_then(|v| v.last.as_ref());
        let named = last.is_some_and(|last| last.differ == 1 && last.named == ["dir/file3"]);
        let alarm = s.alarms.iter().find(|alarm| alarm.kind == "verify");
        named && alarm.is_some_and(|alarm| alarm.text.contains("dir/file3"))
    })
    .await;
    let there = b.tree().join("dir/file3");
    assert_eq!(
        std::fs::read(&there).unwrap(),
        b"Xontent 3",
        "it only looks"
    );
    let report = a.engine().verify(Some("data"), true, None).await.unwrap();
    assert_eq!((report.found, report.repaired), (1, true), "{report:?}");
    assert_equal(&a.tree(), &b.tree());
    let found = rescued(&b);
    assert_eq!(
        found.get("dir/file3").map(String::as_str),
        Some("Xontent 3")
    );
    a.until("without alarm", |s| {
        !s.alarms.iter().any(|alarm| alarm.kind == "verify")
    })
    .await;
    cancel.cancel();
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reads_at_its_rate_and_replication_goes_on() {
    let (a, b) = pair(|_| {}).await;
    for n in 0..4 {
        write(&a.tree().join(format!("file{n}")), noise(1 << 20, n));
    }
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    let engine = a.engine().clone();
    let rate = NonZeroU64::new(4 << 20);
    let verified = tokio::spawn(async move { engine.verify(None, false, rate).await });
    write(&a.tree().join("meanwhile"), "replicated");
    flush(&a).await;
    assert!(!verified.is_finished(), "a flush waits for no comparison");
    assert_eq!(
        std::fs::read(b.tree().join("meanwhile")).unwrap(),
        b"replicated"
    );
    let report = verified.await.unwrap().unwrap();
    assert_eq!(report.found, 0, "{report:?}");
    // Each side reads 4 MiB.
    assert!(report.took >= Duration::from_secs(1), "{:?}", report.took);
    cable.cut().await;
}
