//! Trees that come, go and change while the engines run.

use super::compare::assert_equal;
use super::cuts::hand;
use super::pair::{Cable, Node, PATIENCE, flush, pair, write};
use super::reversal::rescued;
use crate::engine::{EngineStatus, TreeState};
use crate::filter::Filter;
use crate::tree::TreeConfig;
use std::collections::BTreeMap;
use std::path::PathBuf;

pub fn data(node: &Node) -> TreeConfig {
    TreeConfig::new("data", node.tree())
}

fn filter(patterns: &[&str]) -> Filter {
    Filter::parse(patterns.iter().copied()).unwrap()
}

/// A pair that is equal, with the session that made it so.
async fn equal(change: fn(&mut TreeConfig)) -> (Node, Node, Cable) {
    let (a, b) = pair(change).await;
    for name in ["kept/x", "cache/x", "cache/deep/y", "plain"] {
        write(&a.tree().join(name), name);
    }
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    (a, b, cable)
}

fn read(node: &Node, name: &str) -> Option<String> {
    std::fs::read_to_string(node.tree().join(name)).ok()
}

/// A change of the trees ends the session of before.
async fn replug(before: Cable, a: &Node, b: &Node) -> Cable {
    before.cut().await;
    let cable = Cable::plug(a, b);
    flush(a).await;
    b.until("consistent", |s| s.consistent).await;
    cable
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_excluded_is_left_alone_and_what_is_excluded_no_more_follows() {
    let (a, b, cable) = equal(|_| {}).await;
    let excluding = |n: &Node| TreeConfig {
        exclude: filter(&["/cache"]),
        ..data(n)
    };
    // The source first: until the other one knows too, nothing may be taken for a deletion.
    a.engine().set_trees(vec![excluding(&a)]).await.unwrap();
    let cable = replug(cable, &a, &b).await;
    assert_eq!(read(&b, "cache/x").as_deref(), Some("cache/x"));
    b.engine().set_trees(vec![excluding(&b)]).await.unwrap();
    let cable = replug(cable, &a, &b).await;
    std::fs::remove_file(a.tree().join("cache/deep/y")).unwrap();
    write(&a.tree().join("cache/x"), "changed on the master");
    write(&a.tree().join("cache/new"), "made on the master");
    write(&b.tree().join("cache/own"), "made on the standby");
    flush(&a).await;
    assert_eq!(read(&b, "cache/x").as_deref(), Some("cache/x"));
    assert_eq!(read(&b, "cache/deep/y").as_deref(), Some("cache/deep/y"));
    b.engine().set_trees(vec![data(&b)]).await.unwrap();
    a.engine().set_trees(vec![data(&a)]).await.unwrap();
    let cable = replug(cable, &a, &b).await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(
        rescued(&b).get("cache/own").map(String::as_str),
        Some("made on the standby")
    );
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_standbys_filters_kept_is_asked_for_when_they_keep_it_no_more() {
    let (mut a, mut b, cable) = equal(|_| {}).await;
    let keeping = |n: &Node| TreeConfig {
        protect: filter(&["/plain"]),
        exclude: filter(&["/cache"]),
        ..data(n)
    };
    // Only the standby has the filters, so that the source sends what is kept there.
    b.engine().set_trees(vec![keeping(&b)]).await.unwrap();
    let cable = replug(cable, &a, &b).await;
    write(&a.tree().join("plain"), "newer");
    write(&a.tree().join("cache/x"), "newer");
    std::fs::remove_file(a.tree().join("cache/deep/y")).unwrap();
    flush(&a).await;
    assert_eq!(read(&b, "plain").as_deref(), Some("plain"));
    assert_eq!(read(&b, "cache/x").as_deref(), Some("cache/x"));
    cable.cut().await;
    // It is remembered over a restart of both.
    a.stop().await;
    b.stop().await;
    a.start();
    b.start();
    a.engine().begin_source(1).await.unwrap();
    b.engine().begin_replica().await.unwrap();
    b.engine().set_trees(vec![data(&b)]).await.unwrap();
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("settled", |s| s.consistent && s.trees[0].dirty == 0)
        .await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(rescued(&b), BTreeMap::new());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_paths_than_are_kept_by_name_follow_when_no_filter_keeps_them() {
    let (a, b, cable) = equal(|_| {}).await;
    let keeping = TreeConfig {
        exclude: filter(&["/cache"]),
        ..data(&b)
    };
    b.engine().set_trees(vec![keeping]).await.unwrap();
    let cable = replug(cable, &a, &b).await;
    for i in 0..40 {
        write(&a.tree().join(format!("cache/{i}")), "new");
    }
    flush(&a).await;
    b.engine().set_trees(vec![data(&b)]).await.unwrap();
    let cable = replug(cable, &a, &b).await;
    b.until("settled", |s| s.consistent && s.trees[0].dirty == 0)
        .await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(rescued(&b), BTreeMap::new());
    cable.cut().await;
}

pub fn both(node: &Node) -> Vec<TreeConfig> {
    vec![data(node), TreeConfig::new("more", more(node))]
}

pub fn more(node: &Node) -> PathBuf {
    let more = node.dir.path().join("more");
    std::fs::create_dir_all(&more).unwrap();
    more
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_comes_goes_and_comes_again() {
    let (a, b, cable) = one_knows_more().await;
    write(&more(&b).join("g"), "lay on the standby");
    b.engine().set_trees(both(&b)).await.unwrap();
    let cable = replug(cable, &a, &b).await;
    assert_equal(&more(&a), &more(&b));
    for node in [&a, &b] {
        node.engine().set_trees(vec![data(node)]).await.unwrap();
    }
    let cable = replug(cable, &a, &b).await;
    write(&more(&a).join("f"), "while it was no tree");
    flush(&a).await;
    assert_eq!(std::fs::read(more(&b).join("f")).unwrap(), b"of the master");
    for node in [&b, &a] {
        node.engine().set_trees(both(node)).await.unwrap();
    }
    let cable = replug(cable, &a, &b).await;
    assert_equal(&more(&a), &more(&b));
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_cannot_be_used_changes_nothing() {
    let (a, b, cable) = equal(|_| {}).await;
    let twice = vec![data(&a), data(&a)];
    assert!(a.engine().set_trees(twice).await.is_err());
    b.engine().hold().await.unwrap();
    assert!(b.engine().set_trees(Vec::new()).await.is_err());
    b.engine().release_hold(PATIENCE).await.unwrap();
    write(&a.tree().join("plain"), "goes on");
    flush(&a).await;
    assert_eq!(read(&b, "plain").as_deref(), Some("goes on"));
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_starts_again_with_a_further_tree_is_its_source() {
    let (mut a, b, cable) = equal(|_| {}).await;
    cable.cut().await;
    a.stop().await;
    more(&a);
    a.start_with(vec![data(&a), TreeConfig::new("more", more(&a))]);
    a.engine().begin_source(1).await.unwrap();
    b.engine()
        .set_trees(vec![data(&b), TreeConfig::new("more", more(&b))])
        .await
        .unwrap();
    write(&more(&a).join("f"), "x");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    assert_equal(&more(&a), &more(&b));
    cable.cut().await;
}

/// Source with the trees `data` and `more`, replica that knows only `data`, with the session between them.
async fn one_knows_more() -> (Node, Node, Cable) {
    let (a, b, cable) = equal(|_| {}).await;
    write(&more(&a).join("f"), "of the master");
    more(&b);
    a.engine().set_trees(both(&a)).await.unwrap();
    cable.cut().await;
    let cable = Cable::plug(&a, &b);
    write(&a.tree().join("meanwhile"), "x");
    let arrived = async {
        while read(&b, "meanwhile").is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, arrived)
        .await
        .expect("the old tree goes on");
    (a, b, cable)
}

/// A batch that was on its way when the tree came says nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_comes_does_not_advance_with_the_session_before() {
    let (a, b, cable) = one_knows_more().await;
    let upto = a.shown().await.seq;
    b.engine().set_trees(both(&b)).await.unwrap();
    let late = hand(&a, &b, &[("plain", false)], upto).await.unwrap();
    assert!(late.is_err(), "{late:?}");
    let cable = replug(cable, &a, &b).await;
    assert_equal(&more(&a), &more(&b));
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_comes_during_a_hold_is_copied_whole() {
    let (a, b, cable) = one_knows_more().await;
    b.engine().hold().await.unwrap();
    write(&a.tree().join("spooled"), "x");
    b.until("spooled", |s| s.spooled > 0).await;
    b.engine().set_trees(both(&b)).await.unwrap();
    cable.cut().await;
    let cable = Cable::plug(&a, &b);
    let all = |s: &EngineStatus| s.session.as_ref().is_some_and(|s| s.caught_up);
    b.until("all is spooled", all).await;
    b.engine().release_hold(PATIENCE).await.unwrap();
    flush(&a).await;
    assert_eq!(read(&b, "spooled").as_deref(), Some("x"));
    assert_equal(&more(&a), &more(&b));
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_whose_root_is_back_begins_a_session_with_it() {
    let (a, b, cable) = one_knows_more().await;
    b.engine().set_trees(both(&b)).await.unwrap();
    let cable = replug(cable, &a, &b).await;
    let (root, away) = (more(&b), b.dir.path().join("away"));
    std::fs::rename(&root, &away).unwrap();
    let stopped = |s: &EngineStatus| {
        let more = s.trees.iter().find(|t| t.name == "more");
        more.is_some_and(|t| matches!(t.state, TreeState::Stopped { .. }))
    };
    b.until("stopped", stopped).await;
    cable.cut().await;
    let cable = Cable::plug(&a, &b);
    write(&more(&a).join("f"), "while it was away");
    write(&a.tree().join("goes on"), "x");
    b.until("goes on", |_| read(&b, "goes on").is_some()).await;
    std::fs::rename(&away, &root).unwrap();
    // The session without the tree ends by itself.
    cable.ended().await.1.unwrap();
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&more(&a), &more(&b));
    cable.cut().await;
}
