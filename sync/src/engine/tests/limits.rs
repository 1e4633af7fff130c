//! Trees with a limit: they are held back, and nothing else is.

use super::compare::assert_equal;
use super::pair::{Cable, Node, PATIENCE, flush, noise, pair, recorded, write};
use crate::engine::{CommandError, EngineStatus, SessionStatus};
use crate::limit::{Limit, Pace};
use crate::tree::{TreeConfig, TreeId};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What the limited tree gets to send: for more time than a test has, at its limit.
const BULK: usize = 20 << 20;
const SLOW: u64 = 100_000;

fn bulk(node: &Node) -> PathBuf {
    node.dir.path().join("bulk")
}

fn trees(node: &Node, rate: Option<u64>) -> Vec<TreeConfig> {
    let limit = |rate| Limit {
        between: None,
        pace: Pace::Rate(NonZeroU64::new(rate).unwrap()),
    };
    let slow = TreeConfig {
        limits: rate.map(limit).into_iter().collect(),
        ..TreeConfig::new("bulk", bulk(node))
    };
    vec![TreeConfig::new("data", node.tree()), slow]
}

/// An equal pair whose tree `bulk` has a limit, with a large file in it that waits for that.
async fn held_back() -> (Node, Node, Cable) {
    let (a, b) = pair(|_| {}).await;
    for node in [&a, &b] {
        std::fs::create_dir(bulk(node)).unwrap();
        let trees = trees(node, Some(SLOW));
        node.engine().set_trees(trees).await.unwrap();
    }
    let cable = Cable::plug(&a, &b);
    write(&bulk(&a).join("small"), "first");
    flush(&a).await;
    write(&bulk(&a).join("huge"), noise(BULK, 1));
    let mut status = a.engine().status_changes();
    let begun = |s: &SessionStatus| s.bytes > 5;
    let begun = status.wait_for(|s| s.session.as_ref().is_some_and(begun));
    tokio::time::timeout(PATIENCE, begun)
        .await
        .expect("it is being sent")
        .unwrap();
    (a, b, cable)
}

async fn comes(node: &Node, name: &str, content: &str) {
    let begun = Instant::now();
    let path = node.tree().join(name);
    while std::fs::read_to_string(&path).ok().as_deref() != Some(content) {
        assert!(
            begun.elapsed() < PATIENCE,
            "{name} does not come: {:#?}\n{}",
            node.engine().status(),
            node.index()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_back_its_tree_and_no_other() {
    let (a, b, cable) = held_back().await;
    for round in 0..20 {
        let (name, content) = (format!("d/f{round}"), format!("content {round}"));
        write(&a.tree().join(&name), &content);
        comes(&b, &name, &content).await;
    }
    // Larger than what is in flight, changed again and again, and removed.
    write(&a.tree().join("large"), noise(3 << 20, 2));
    std::fs::remove_file(a.tree().join("d/f0")).unwrap();
    write(&a.tree().join("last"), "last");
    comes(&b, "last", "last").await;
    let begun = Instant::now();
    while b.tree().join("d/f0").exists() {
        assert!(begun.elapsed() < PATIENCE, "a delete does not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // It may have been seen, and sent, while it was short.
    let there = std::fs::metadata(bulk(&b).join("huge")).map_or(0, |m| m.len());
    assert!(there < BULK as u64, "the limit is kept");
    let early = a.engine().flush(Duration::from_millis(100)).await.unwrap();
    assert!(!early.not_covered.is_empty(), "a flush waits for the limit");
    // A planned move does not.
    let report = a.engine().final_flush(PATIENCE).await.unwrap();
    assert!(report.not_covered.is_empty(), "{report:?}");
    assert_equal(&a.tree(), &b.tree());
    assert_equal(&bulk(&a), &bulk(&b));
    b.until("consistent", |s| s.consistent).await;
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_long_shows_on_both_ends_how_far_it_is() {
    let (a, b, cable) = held_back().await;
    let estimate = |s: &EngineStatus| {
        let Some(shown) = s.trees[1].progress.clone() else {
            return false;
        };
        let total = shown.total.unwrap_or_default();
        // At its limit it takes 200 s; the rate is one of the last ten seconds.
        let left = |left: Duration| (60..600).contains(&left.as_secs());
        shown.what == "catch-up"
            && !shown.at_least
            && total.bytes >= BULK as u64
            && shown.done.bytes < total.bytes
            && shown.left.is_some_and(left)
    };
    a.until("an estimate", estimate).await;
    b.until("an estimate", estimate).await;
    a.engine().final_flush(PATIENCE).await.unwrap();
    for node in [&a, &b] {
        let shows = |s: &EngineStatus| s.trees[1].progress.is_none();
        node.until("the end of the progress", shows).await;
    }
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_overtook_is_not_lost_by_a_cut() {
    let (a, b, cable) = held_back().await;
    write(&a.tree().join("early"), "early");
    comes(&b, "early", "early").await;
    cable.cut().await;
    let position = |n: &Node| {
        let snapshot = n.engine().shared.index.snapshot().unwrap();
        snapshot.head(TreeId::of("bulk")).unwrap().seq
    };
    assert!(position(&b) < position(&a), "nothing is claimed");
    std::fs::remove_file(a.tree().join("early")).unwrap();
    write(&a.tree().join("later"), "later");
    let cable = Cable::plug(&a, &b);
    comes(&b, "later", "later").await;
    let report = a.engine().final_flush(PATIENCE).await;
    report
        .map(|_| ())
        .unwrap_or_else(|e: CommandError| panic!("{e}"));
    assert_equal(&a.tree(), &b.tree());
    assert_equal(&bulk(&a), &bulk(&b));
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_limits_can_be_put_into_force() {
    let (a, b, cable) = held_back().await;
    a.engine().set_trees(trees(&a, None)).await.unwrap();
    cable.cut().await;
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    assert_equal(&bulk(&a), &bulk(&b));
    cable.cut().await;
}

/// What moves into a tree with a limit is there only when its turn comes: until then it is where it was.
#[tokio::test(flavor = "multi_thread")]
async fn what_moves_behind_a_limit_stays_until_it_is_through() {
    let (a, b, cable) = held_back().await;
    write(&a.tree().join("f"), "is moved");
    comes(&b, "f", "is moved").await;
    std::fs::rename(a.tree().join("f"), bulk(&a).join("f")).unwrap();
    recorded(&a).await;
    write(&a.tree().join("after"), "goes on");
    comes(&b, "after", "goes on").await;
    assert!(b.tree().join("f").exists(), "{}", b.index());
    cable.cut().await;
    for node in [&a, &b] {
        node.engine().set_trees(trees(node, None)).await.unwrap();
    }
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    assert_equal(&bulk(&a), &bulk(&b));
    cable.cut().await;
}
