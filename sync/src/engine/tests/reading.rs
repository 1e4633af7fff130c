//! Contents that are too large for the worker: what waits for them, and what does not.

use super::between::number;
use super::compare::assert_equal;
use super::links::aged;
use super::logs::bytes_read;
use super::pair::{Cable, Node, PATIENCE, flush, noise, pair, recorded, write};
use super::trees::{both, more};
use super::unread::has_walked;
use crate::engine::clock;
use crate::engine::dirty::{Dirt, Missing};
use crate::engine::handle::open::prepare;
use crate::engine::reading::{Found, poll_read};
use crate::engine::worker::Worker;
use crate::path::RelPath;
use crate::tree::TreeConfig;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Too large for the worker.
pub(in crate::engine) const LARGE: u64 = 100 << 20;

pub(in crate::engine) fn sparse(path: &Path, size: u64) {
    File::create(path).unwrap().set_len(size).unwrap();
}

/// A file that comes into the tree as large as it is.
fn comes(a: &Node) {
    let aside = a.dir.path().join("aside");
    sparse(&aside, LARGE);
    std::fs::rename(aside, a.tree().join("large")).unwrap();
}

/// A source that reads a large content, and comes to no end before it may.
async fn reads() -> (Node, Node, Cable) {
    let (a, b) = pair(|_| {}).await;
    write(&a.tree().join("old"), "x");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    hold(&a, true);
    sparse(&a.tree().join("large"), LARGE);
    a.until("marked", |s| s.trees[0].queue > 0).await;
    (a, b, cable)
}

pub(in crate::engine) fn hold(a: &Node, held: bool) {
    let shared = &a.engine().shared;
    shared.readings.held.store(held, Ordering::SeqCst);
}

#[tokio::test(flavor = "multi_thread")]
async fn small_changes_do_not_wait_for_a_large_content() {
    let (a, b, cable) = reads().await;
    write(&a.tree().join("small"), "is not held up");
    b.until("small", |_| b.tree().join("small").exists()).await;
    assert_eq!(number(&a, "data", "large"), 0, "it is still read");
    let report = a.engine().flush(Duration::from_millis(100)).await.unwrap();
    assert!(!report.not_covered.is_empty(), "{report:?}");
    hold(&a, false);
    flush(&a).await;
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_that_moves_while_it_is_read_is_read_where_it_is() {
    let (a, b, cable) = reads().await;
    let (old, new) = (a.tree().join("large"), a.tree().join("dir/large"));
    std::fs::create_dir(a.tree().join("dir")).unwrap();
    std::fs::rename(&old, &new).unwrap();
    write(&old, "another file");
    hold(&a, false);
    flush(&a).await;
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_ends_does_not_read_to_the_end() {
    let (mut a, _b, cable) = reads().await;
    let begun = Instant::now();
    a.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    cable.cut().await;
}

/// A planned move that waits for a large content of a tree whose root goes meanwhile leaves that content behind: it is given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_planned_move_fails_whose_tree_stops_while_it_waits() {
    let (a, b, cable) = reads().await;
    let engine = a.engine().clone();
    let moves = tokio::spawn(async move { engine.final_flush(PATIENCE).await });
    // Each comes behind those events that the move waits for, if it had begun before.
    for n in 0..5 {
        let small = format!("small-{n}");
        write(&a.tree().join(&small), "x");
        b.until("small", |_| b.tree().join(&small).exists()).await;
    }
    assert!(!moves.is_finished());
    std::fs::rename(a.tree(), a.dir.path().join("away")).unwrap();
    let refused = moves.await.unwrap().unwrap_err().to_string();
    assert!(
        refused.contains("was moved, removed or unmounted"),
        "{refused}"
    );
    cable.cut().await;
}

/// What left one tree is in the other one before, however long its content is read there.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_waits_for_a_large_content() {
    let (a, b) = pair(|_| {}).await;
    for node in [&a, &b] {
        node.engine().set_trees(both(node)).await.unwrap();
    }
    sparse(&a.tree().join("large"), LARGE);
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    std::fs::rename(a.tree().join("large"), more(&a).join("large")).unwrap();
    flush(&a).await;
    let (made, gone) = (number(&a, "more", "large"), number(&a, "data", "large"));
    assert!(0 < made && made < gone, "made {made}, gone {gone}");
    assert_equal(&more(&a), &more(&b));
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}

/// A standby that lacks a large change is as old as that, whatever else it has got.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_to_be_read_is_lag_and_makes_the_standby_no_fresher() {
    let (a, b) = pair(|_| {}).await;
    for node in [&a, &b] {
        node.engine().set_trees(both(node)).await.unwrap();
    }
    write(&more(&a).join("small"), "goes");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    hold(&a, true);
    sparse(&a.tree().join("large"), LARGE);
    a.until("marked", |s| s.trees[0].queue > 0).await;
    std::fs::remove_file(more(&a).join("small")).unwrap();
    let behind = Duration::from_secs(6);
    a.until("lag", |s| s.lag.is_some_and(|lag| lag > behind))
        .await;
    assert_eq!(a.shown().await.trees[0].reading.as_deref(), Some("large"));
    let fresh_at = b.shown().await.fresh_at.unwrap();
    let age = Duration::from_nanos(clock::now() - fresh_at);
    assert!(age > behind / 2, "{age:?}");
    assert!(more(&b).join("small").exists(), "its deletion waits too");
    // Another session knows no better.
    cable.cut().await;
    let cable = Cable::plug(&a, &b);
    write(&a.tree().join("next"), "x");
    b.until("next", |_| b.tree().join("next").exists()).await;
    assert_eq!(b.shown().await.fresh_at, Some(fresh_at));
    let released = clock::now();
    hold(&a, false);
    flush(&a).await;
    a.until("no lag", |s| s.lag == Some(Duration::ZERO)).await;
    let fresh = |at: Option<u64>| at.is_some_and(|at| at > released);
    b.until("fresh", |s| fresh(s.fresh_at)).await;
    assert!(!more(&b).join("small").exists());
    cable.cut().await;
}

/// A first copy is not complete before its large contents are.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_consistent_with_its_large_contents() {
    let (a, b) = pair(|_| {}).await;
    for n in 0..3 {
        sparse(&a.tree().join(format!("large-{n}")), LARGE * (1 + n));
    }
    write(&a.tree().join("small"), "x");
    a.engine().begin_source(2).await.unwrap();
    let cable = Cable::plug(&a, &b);
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}

/// How many threads were asked for to read large contents.
fn asked(a: &Node) -> usize {
    a.engine().shared.readings.asked.load(Ordering::SeqCst)
}

/// What cannot be read of a flushed tree.
async fn unread(a: &Node) -> String {
    let report = a.engine().flush(PATIENCE).await.unwrap();
    assert!(report.not_covered.is_empty(), "{report:?}");
    report.except.into_iter().map(|n| n.why).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_content_that_cannot_be_read_is_named_and_read_by_a_later_pass() {
    let (a, b) = pair(|tree| tree.pass = Duration::from_secs(1)).await;
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    let fail = &a.engine().shared.readings.fail;
    fail.store(true, Ordering::SeqCst);
    comes(&a);
    a.until("named", |s| s.trees[0].errors == 1).await;
    let (before, begun) = (asked(&a), Instant::now());
    for n in 0..10 {
        write(&a.tree().join("small"), format!("{n} is not held up"));
        assert!(unread(&a).await.starts_with("large cannot be read: read: "));
    }
    // One for each pass, of which there is one a second.
    let passes = begun.elapsed().as_secs() as usize + 2;
    assert!(asked(&a) - before <= passes, "{before}, {}", asked(&a));
    assert!(!b.tree().join("large").exists());
    fail.store(false, Ordering::SeqCst);
    a.until("read", |s| s.trees[0].errors == 0).await;
    assert_eq!(unread(&a).await, "");
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}

/// It stays to be read: neither a flush nor a first copy is complete without it.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_content_for_which_there_is_no_thread_is_named_and_waited_for() {
    let (a, b) = pair(|_| {}).await;
    let refused = &a.engine().shared.readings.refused;
    refused.store(true, Ordering::SeqCst);
    comes(&a);
    write(&a.tree().join("small"), "is not held up");
    a.engine().begin_source(2).await.unwrap();
    let cable = Cable::plug(&a, &b);
    a.until("named", |s| s.trees[0].errors == 1).await;
    b.until("small", |_| b.tree().join("small").exists()).await;
    let report = a.engine().flush(Duration::from_millis(200)).await.unwrap();
    assert!(!report.not_covered.is_empty(), "{report:?}");
    let named: String = report.except.into_iter().map(|n| n.why).collect();
    assert!(named.contains("large cannot be read: no thread"), "{named}");
    a.until("walked", has_walked).await;
    assert!(!b.shown().await.consistent);
    refused.store(false, Ordering::SeqCst);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_eq!(unread(&a).await, "");
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_content_with_several_names_is_read_once() {
    const SIZE: usize = 66 << 20;
    let (a, b) = pair(|_| {}).await;
    recorded(&a).await;
    // All names come at once, and no stamp is so young that it is read again.
    let aside = a.dir.path().join("aside");
    write(&aside.join("one"), noise(SIZE, 1));
    for name in ["two", "another"] {
        std::fs::hard_link(aside.join("one"), aside.join(name)).unwrap();
    }
    aged(&aside.join("one"));
    let before = bytes_read();
    std::fs::rename(aside, a.tree().join("dir")).unwrap();
    recorded(&a).await;
    let times = (bytes_read() - before) as f64 / SIZE as f64;
    assert!((1.0..1.5).contains(&times), "{times} times the file");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}

/// Reads what is marked as large, to its end or its failure.
pub(in crate::engine) async fn read(worker: &mut Worker) -> (usize, Found) {
    let read = std::future::poll_fn(|context| poll_read(&mut worker.trees, context));
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("a reading ends")
}

/// While a scan is due no mark is made that it would make: the one that is there must change.
#[tokio::test]
async fn a_large_content_that_went_while_a_scan_is_due_is_not_read_again_and_again() {
    type Change = fn(&Path);
    let goes: Change = |tree| std::fs::remove_file(tree.join("large")).unwrap();
    let moves: Change = |tree| std::fs::rename(tree.join("large"), tree.join("other")).unwrap();
    let is_replaced: Change = |tree| {
        std::fs::rename(tree.join("large"), tree.join("other")).unwrap();
        write(&tree.join("large"), "another");
    };
    // Before it is read, or after that.
    let cases = [
        (goes, true),
        (goes, false),
        (moves, true),
        (moves, false),
        (is_replaced, false),
    ];
    for (change, before) in cases {
        let mut node = Node::new("a", |_| {});
        node.engine().init_source().await.unwrap();
        node.stop().await;
        let tree = node.tree();
        sparse(&tree.join("large"), LARGE);
        let trees = vec![TreeConfig::new("data", node.tree())];
        let (mut worker, _) = prepare(node.config(trees)).unwrap();
        let path = RelPath::new("large").unwrap();
        worker.trees[0].rescan = false;
        worker.look(0, vec![(path.clone(), Dirt::WALKED)], Missing::Waits);
        let held = |worker: &Worker, held| {
            worker.shared.readings.held.store(held, Ordering::SeqCst);
        };
        held(&worker, before);
        worker.begin_readings();
        assert!(worker.trees[0].reading.is_some());
        let (at, result) = match before {
            true => {
                change(&tree);
                held(&worker, false);
                read(&mut worker).await
            }
            false => {
                let read = read(&mut worker).await;
                change(&tree);
                read
            }
        };
        worker.trees[0].rescan = true;
        worker.was_read(at, result);
        worker.begin_readings();
        assert!(worker.trees[0].reading.is_none(), "it is read again");
        assert!(worker.trees[0].dirty.contains_key(&path), "it is looked at");
    }
}

/// The comparison of contents doubts what is just being read for less.
#[tokio::test]
async fn what_is_to_be_read_in_any_case_is_read_again_behind_a_reading_for_less() {
    let mut node = Node::new("a", |_| {});
    node.engine().init_source().await.unwrap();
    node.stop().await;
    sparse(&node.tree().join("large"), LARGE);
    let trees = vec![TreeConfig::new("data", node.tree())];
    let (mut worker, _) = prepare(node.config(trees)).unwrap();
    let path = RelPath::new("large").unwrap();
    worker.trees[0].rescan = false;
    worker.look(0, vec![(path.clone(), Dirt::WALKED)], Missing::Waits);
    let held = |worker: &Worker, held| worker.shared.readings.held.store(held, Ordering::SeqCst);
    held(&worker, true);
    worker.begin_readings();
    worker.look(0, vec![(path.clone(), Dirt::FORCED)], Missing::Waits);
    let mark = |worker: &Worker| worker.trees[0].dirty.get(&path).copied();
    assert!(
        mark(&worker).is_some_and(|mark| mark.large),
        "put off again"
    );
    held(&worker, false);
    let (at, result) = read(&mut worker).await;
    worker.was_read(at, result);
    assert!(mark(&worker).is_some_and(|mark| mark.force && !mark.large));
    worker.look_at_dirty();
    worker.begin_readings();
    let (at, result) = read(&mut worker).await;
    worker.was_read(at, result);
    assert_eq!(mark(&worker), None);
}
