//! The comparison with the receivers: by hand, by schedule, and at a rate.

use super::compare::assert_equal;
use super::pair::{Cable, Node, PATIENCE, flush, noise, pair, write};
use super::receivers::{fed, stuck, three_with};
use super::reversal::rescued;
use crate::engine::{CommandError, Differs, Receiver, VerifyStatus};
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
    let root = crate::beneath::Root::open(&node.tree()).unwrap();
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
        let last = s.trees[0].verified.first().and_then(|v| v.last.as_ref());
        last.is_some_and(|last| last.entries >= 11 && last.differ == 0)
    })
    .await;
    cable.cut().await;
    flip(&mut b, "dir/file3").await;
    let cable = Cable::plug(&a, &b);
    a.until("told of it", |s| {
        let last = s.trees[0].verified.first().and_then(|v| v.last.as_ref());
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
    let report = a
        .engine()
        .verify(&Receiver::Standby, Some("data"), true, None)
        .await
        .unwrap();
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
    let verified =
        tokio::spawn(async move { engine.verify(&Receiver::Standby, None, false, rate).await });
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

fn web1() -> Receiver {
    Receiver::Replica("web1".into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_compared_and_mended_by_its_name_and_no_other_receiver_is_touched() {
    let (a, b, mut web, [standby, feed]) = three_with(by_schedule).await;
    feed.cut().await;
    flip(&mut web, "dir/file3").await;
    let away = a.engine().verify(&web1(), None, false, None).await;
    let away = away.expect_err("nobody is there").to_string();
    assert_eq!(away, "not compared: replica web1 is away");
    let feed = Cable::plug(&a, &web);
    fed(&a, "web1").await;
    let verify = async |of: &Receiver, repair| {
        let report = a.engine().verify(of, Some("data"), repair, None).await;
        let report = report.unwrap();
        assert!(report.not_covered.is_empty(), "{report:?}");
        report
    };
    assert_eq!(verify(&Receiver::Standby, false).await.found, 0);
    let report = verify(&web1(), false).await;
    let found: Vec<_> = report.differences.iter().collect();
    assert_eq!(found.len(), 1, "{report:?}");
    assert_eq!(
        (&found[0].path[..], found[0].what),
        ("dir/file3", Differs::Content)
    );
    a.until("told of it", |s| {
        let mut alarms = s.alarms.iter().filter(|alarm| alarm.kind == "verify");
        alarms.any(|alarm| alarm.text.contains("--replica web1 --tree data --repair"))
    })
    .await;
    let report = verify(&web1(), true).await;
    assert_eq!((report.found, report.repaired), (1, true), "{report:?}");
    assert_equal(&a.tree(), &web.tree());
    assert!(rescued(&web).contains_key("dir/file3"));
    assert!(rescued(&b).is_empty());
    a.until("without alarm", |s| {
        !s.alarms.iter().any(|alarm| alarm.kind == "verify")
    })
    .await;
    let other = Receiver::Replica("web9".into());
    let other = a.engine().verify(&other, None, false, None).await;
    assert!(matches!(other, Err(CommandError::NoSuchReplica(_))));
    standby.cut().await;
    feed.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schedule_compares_every_receiver_and_waits_for_none_that_hangs() {
    let (a, b, mut web, [standby, feed]) = three_with(by_schedule).await;
    feed.cut().await;
    flip(&mut web, "dir/file3").await;
    let feed = Cable::plug(&a, &web);
    let (hangs, session) = stuck(&a).await;
    write(&a.tree().join("later"), "web2 does not get it");
    flush(&a).await;
    fed(&a, "web1").await;
    let (engine, cancel) = (a.engine().clone(), CancellationToken::new());
    let stop = cancel.clone();
    tokio::spawn(async move { engine.verify_by_schedule(stop).await });
    let differ = |all: &[VerifyStatus], of: &Receiver| {
        let of = all.iter().find(|v| v.receiver == *of);
        let last = of.expect("it is shown").last.as_ref();
        last.map(|last| (last.differ, last.named.clone()))
    };
    a.until("compared with who is there", |s| {
        let all = &s.trees[0].verified;
        let known = all.len() == 3
            && differ(all, &Receiver::Standby) == Some((0, Vec::new()))
            && differ(all, &web1()) == Some((1, vec!["dir/file3".into()]));
        known && differ(all, &Receiver::Replica("web2".into())).is_none()
    })
    .await;
    // What is known of a replica goes with it.
    a.engine().set_replicas(&[]).unwrap();
    a.until("without replicas", |s| {
        s.trees[0].verified.len() == 1 && !s.alarms.iter().any(|alarm| alarm.kind == "verify")
    })
    .await;
    cancel.cancel();
    session.abort();
    standby.cut().await;
    feed.cut().await;
    drop((b, hangs));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hold_keeps_from_being_applied_is_no_difference() {
    let (a, b) = pair(|_| {}).await;
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    let settled = async |within| {
        let settled = a
            .engine()
            .settled(&Receiver::Standby, TreeId::of("data"), within)
            .await;
        settled.unwrap()
    };
    assert_eq!(settled(PATIENCE).await, None);
    b.engine().hold().await.unwrap();
    write(&a.tree().join("spooled"), "durable there, not applied");
    flush(&a).await;
    let left = settled(Duration::from_millis(300)).await;
    assert!(left.is_some_and(|why| why.contains("hold")));
    b.engine().release_hold(PATIENCE).await.unwrap();
    assert_eq!(settled(PATIENCE).await, None);
    cable.cut().await;
}
