//! Contents that are too large for the worker: what waits for them, and what does not.

use super::between::number;
use super::compare::assert_equal;
use super::pair::{Cable, Node, flush, pair, write};
use super::trees::{both, more};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Too large for the worker.
const LARGE: u64 = 100 << 20;

fn sparse(path: &Path, size: u64) {
    File::create(path).unwrap().set_len(size).unwrap();
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

fn hold(a: &Node, held: bool) {
    let shared = &a.engine().shared;
    shared.readings_held.store(held, Ordering::SeqCst);
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
    let begun = std::time::Instant::now();
    a.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(5));
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
