//! What is spooled, or waits in the slot, belongs to a history: it comes in its order, and not after that was given up.

use super::compare::assert_equal;
use super::cuts::hand;
use super::failing::Disk;
use super::pair::{Cable, Node, PATIENCE, begin, flush, pair, recorded, write};
use super::reversal::rescued;
use super::trees::{both, data, more};
use crate::engine::{EngineStatus, TreeState};
use std::fs::{read, rename};
use std::path::PathBuf;
use std::time::Duration;

/// Both have a file, and the cable is cut.
async fn equal() -> (Node, Node) {
    let (a, b) = pair(|_| {}).await;
    write(&a.tree().join("file"), "first");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    cable.cut().await;
    (a, b)
}

/// The source writes these, and the replica is cut when the batch of them is in its slot.
async fn keep_in_slot(a: &Node, b: &mut Node, names: &[&str]) {
    for name in names {
        write(&a.tree().join(name), "second");
    }
    recorded(a).await;
    b.engine().shared.cuts.arm(2);
    let records: Vec<(&str, bool)> = names.iter().map(|name| (*name, false)).collect();
    let handed = hand(a, b, &records, a.shown().await.seq).await;
    assert!(handed.is_err(), "{handed:?}");
    let place = b.engine().shared.cuts.place();
    assert_eq!(place, Some("after a batch was kept"));
    b.stop().await;
}

fn is_stopped(status: &EngineStatus) -> bool {
    matches!(status.trees[0].state, TreeState::Stopped { .. })
}

/// The root is not there while this node starts.
fn away(b: &mut Node) -> PathBuf {
    let away = b.dir.path().join("away");
    rename(b.tree(), &away).unwrap();
    b.start();
    away
}

async fn back(b: &Node, away: PathBuf) {
    rename(away, b.tree()).unwrap();
    b.until("goes on", |s| !is_stopped(s)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adoption_gives_up_what_is_spooled_too() {
    for slot in [false, true] {
        let (a, mut b) = equal().await;
        match slot {
            true => {
                keep_in_slot(&a, &mut b, &["other"]).await;
                b.start();
                b.engine().begin_replica().await.unwrap();
            }
            false => {
                b.engine().hold().await.unwrap();
                let cable = Cable::plug(&a, &b);
                write(&a.tree().join("other"), "second");
                flush(&a).await;
                cable.cut().await;
            }
        }
        b.until("spooled", |s| s.spooled > 0).await;
        b.engine().adopt().await.unwrap();
        b.engine().release_hold(PATIENCE).await.unwrap();
        // The source that it was adopted for has another history.
        let c = Node::new("c", |_| {});
        c.engine().init_source().await.unwrap();
        c.engine().begin_source(1).await.unwrap();
        write(&c.tree().join("of c"), "first");
        let cable = Cable::plug(&c, &b);
        flush(&c).await;
        // What is shown may be of a moment ago, when it was equal to another one.
        let only_c = || !b.tree().join("file").exists();
        b.until("consistent", |s| s.consistent && only_c()).await;
        assert_equal(&c.tree(), &b.tree());
        cable.cut().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_spooled_for_a_tree_that_is_none_any_more_stops_nothing() {
    let (a, mut b) = equal().await;
    for node in [&a, &b] {
        more(node);
        node.engine().set_trees(both(node)).await.unwrap();
    }
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    b.engine().hold().await.unwrap();
    write(&more(&a).join("f"), "spooled");
    write(&a.tree().join("file"), "second");
    flush(&a).await;
    cable.cut().await;
    b.stop().await;
    b.start_with(vec![data(&b)]);
    b.engine().begin_source(2).await.unwrap();
    assert_eq!(read(b.tree().join("file")).unwrap(), b"second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_with_a_stopped_tree_gives_up_what_waits_for_it() {
    let (a, mut b) = equal().await;
    keep_in_slot(&a, &mut b, &["one", "two", "three"]).await;
    let root = away(&mut b);
    b.engine().begin_source(2).await.unwrap();
    back(&b, root).await;
    b.stop().await;
    b.start();
    b.engine().begin_source(2).await.unwrap();
    a.engine().begin_replica().await.unwrap();
    let cable = Cable::plug(&b, &a);
    flush(&b).await;
    a.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    let kept = rescued(&a);
    let kept: Vec<&str> = kept.keys().map(String::as_str).collect();
    assert_eq!(kept, ["one", "three", "two"]);
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_in_the_slot_is_not_applied_behind_what_came_later() {
    let (a, mut b) = equal().await;
    keep_in_slot(&a, &mut b, &["file"]).await;
    let root = away(&mut b);
    b.engine().begin_replica().await.unwrap();
    b.engine().hold().await.unwrap();
    back(&b, root).await;
    write(&a.tree().join("file"), "third");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.engine().release_hold(PATIENCE).await.unwrap();
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}

/// The one that holds had more than the node that took over.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_spooled_past_the_branch_gets_what_the_new_master_wrote_instead() {
    let (a, b) = equal().await;
    let c = Node::new("c", |_| {});
    c.engine().begin_replica().await.unwrap();
    let cable = Cable::plug(&a, &c);
    flush(&a).await;
    c.until("consistent", |s| s.consistent).await;
    cable.cut().await;
    b.engine().hold().await.unwrap();
    let cable = Cable::plug(&a, &b);
    write(&a.tree().join("lost"), "of a");
    write(&a.tree().join("file"), "of a");
    flush(&a).await;
    cable.cut().await;
    c.engine().revoke(PATIENCE);
    c.engine().begin_source(2).await.unwrap();
    write(&c.tree().join("new"), "of c");
    write(&c.tree().join("other"), "of c");
    recorded(&c).await;
    let cable = Cable::plug(&c, &b);
    let _ = c.engine().flush(Duration::from_millis(500)).await.unwrap();
    cable.cut().await;
    b.engine().release_hold(PATIENCE).await.unwrap();
    let cable = Cable::plug(&c, &b);
    flush(&c).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&c.tree(), &b.tree());
    let kept = rescued(&b);
    let kept: Vec<&str> = kept.keys().map(String::as_str).collect();
    assert_eq!(kept, ["file", "lost"]);
    cable.cut().await;
}

/// The names of spooled batches.
fn batches(b: &Node) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(b.state().join("spool")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_comes_back_with_a_crash_is_not_applied_over_what_is_newer() {
    let (a, mut b) = equal().await;
    b.engine().hold().await.unwrap();
    let cable = Cable::plug(&a, &b);
    write(&a.tree().join("file"), "second");
    flush(&a).await;
    let spooled = batches(&b);
    assert_eq!(spooled.len(), 1);
    let kept = read(&spooled[0]).unwrap();
    b.engine().release_hold(PATIENCE).await.unwrap();
    assert_eq!(batches(&b), Vec::<PathBuf>::new());
    write(&a.tree().join("file"), "third");
    flush(&a).await;
    cable.cut().await;
    b.stop().await;
    // The directory as it was before the removal.
    std::fs::write(&spooled[0], kept).unwrap();
    b.start();
    b.engine().begin_replica().await.unwrap();
    b.until("applied", |s| s.spooled > 0).await;
    let cable = Cable::plug(&a, &b);
    write(&a.tree().join("other"), "is here when the spool is empty");
    flush(&a).await;
    b.until("nothing is spooled", |s| s.spooled == 0).await;
    assert_eq!(read(b.tree().join("file")).unwrap(), b"third");
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(rescued(&b), [].into());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_alarm_of_a_hold_without_room_ends_with_it() {
    // Less than the spool leaves to others.
    let Some(disk) = Disk::new(40) else {
        return tandem_lab::skipped("a small disk: no right to mount");
    };
    let b = Node::new_in(disk.at(), "b", |_| {});
    let (a, b) = begin(Node::new("a", |_| {}), b).await;
    let cable = Cable::plug(&a, &b);
    write(&a.tree().join("file"), "first");
    flush(&a).await;
    b.engine().hold().await.unwrap();
    write(&a.tree().join("file"), "second");
    b.until("an alarm", |s| {
        s.alarms.iter().any(|alarm| alarm.kind == "spool-full")
    })
    .await;
    let _ = cable.ended().await;
    b.engine().release_hold(PATIENCE).await.unwrap();
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    assert_eq!(read(b.tree().join("file")).unwrap(), b"second");
    assert_eq!(b.shown().await.alarms, []);
    cable.cut().await;
}
