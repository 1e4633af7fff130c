//! The direction turns: nothing that the pair had not acknowledged is lost.

use super::compare::assert_equal;
use super::pair::{Cable, Node, flush, pair, recorded, write};
use crate::path::RelPath;
use crate::rescue;
use std::collections::BTreeMap;

/// Everything in a node's rescue: path and content (empty for a record).
pub fn rescued(node: &Node) -> BTreeMap<String, String> {
    let root = crate::beneath::Root::open(&node.tree()).unwrap();
    let private = crate::private::Private::open(&root).unwrap();
    let mut all = BTreeMap::new();
    for set in rescue::list(&private).unwrap() {
        rescue::each_item(&private, &set.header.id, &mut |item| {
            let content = rescue::open(&private, &set.header.id, item.number)
                .map(|mut file| {
                    let mut bytes = Vec::new();
                    std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
                    String::from_utf8_lossy(&bytes).into_owned()
                })
                .unwrap_or_else(|_| format!("{:?}", item.change));
            all.insert(item.path.to_string(), content);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    }
    all
}

/// a is the source and b its consistent replica, with some files.
async fn both() -> (Node, Node) {
    let (a, b) = pair(|_| {}).await;
    let cable = Cable::plug(&a, &b);
    for name in [
        "same",
        "changed on a",
        "changed on both",
        "deleted on a",
        "dir/file",
        "deleted on b",
        "becomes dir",
    ] {
        write(&a.tree().join(name), format!("first {name}"));
    }
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    cable.cut().await;
    (a, b)
}

pub async fn turn(a: &Node, b: &Node) -> Cable {
    b.engine().revoke(std::time::Duration::from_secs(2));
    b.engine().begin_source(2).await.unwrap();
    a.engine().begin_replica().await.unwrap();
    Cable::plug(b, a)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_masters_unreplicated_writes_are_in_the_rescue_exactly() {
    let (mut a, b) = both().await;
    // Some are in a's index, some are made after its agent died.
    write(&a.tree().join("changed on a"), "late");
    write(&a.tree().join("new on a"), "new");
    a.engine()
        .flush(std::time::Duration::from_millis(300))
        .await
        .unwrap();
    a.stop().await;
    write(&a.tree().join("changed on both"), "a's");
    std::fs::remove_file(a.tree().join("deleted on a")).unwrap();
    std::fs::remove_file(a.tree().join("becomes dir")).unwrap();
    write(&a.tree().join("becomes dir/inside"), "inside");
    b.engine().revoke(std::time::Duration::from_secs(2));
    b.engine().begin_source(2).await.unwrap();
    write(&b.tree().join("changed on both"), "b's");
    std::fs::remove_file(b.tree().join("deleted on b")).unwrap();
    write(&b.tree().join("new on b"), "b");
    a.start();
    a.engine().begin_replica().await.unwrap();
    let cable = Cable::plug(&b, &a);
    flush(&b).await;
    a.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    let expected = [
        ("becomes dir/inside", "inside"),
        ("changed on a", "late"),
        ("changed on both", "a's"),
        ("deleted on a", "Deleted"),
        ("new on a", "new"),
    ];
    let found = rescued(&a);
    let found: Vec<(&str, &str)> = found
        .iter()
        .map(|(p, c)| (p.as_str(), c.as_str()))
        .collect();
    assert_eq!(found, expected);
    assert!(rescued(&b).is_empty());
    cable.cut().await;
    let _ = RelPath::root();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_alarm_that_both_wrote_ends_when_they_are_equal() {
    let (a, b) = both().await;
    b.engine().revoke(std::time::Duration::from_secs(2));
    b.engine().begin_source(2).await.unwrap();
    write(&b.tree().join("changed on both"), "b's");
    // It came back alone, and began anew too.
    a.engine().idle().await.unwrap();
    a.engine().begin_source(3).await.unwrap();
    write(&a.tree().join("changed on both"), "a's");
    recorded(&a).await;
    a.engine().begin_replica().await.unwrap();
    let has_alarm = |s: &crate::engine::EngineStatus| s.alarms.iter().any(|a| a.kind == "diverged");
    let mut seen = a.engine().status_changes();
    let cable = Cable::plug(&b, &a);
    let seen = tokio::time::timeout(super::pair::PATIENCE, seen.wait_for(has_alarm));
    assert!(seen.await.is_ok(), "both wrote");
    flush(&b).await;
    a.until("equal", |s| s.consistent && !has_alarm(s)).await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(
        rescued(&a).get("changed on both").map(String::as_str),
        Some("a's")
    );
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_turn_rescues_nothing() {
    let (a, b) = both().await;
    let cable = turn(&a, &b).await;
    write(&b.tree().join("same"), "newer");
    flush(&b).await;
    a.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    assert!(rescued(&a).is_empty());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_first_receiver_had_goes_to_its_rescue() {
    let (a, b) = pair(|_| {}).await;
    write(&a.tree().join("same"), "same");
    write(&a.tree().join("other"), "a's");
    write(&b.tree().join("other"), "b's");
    write(&b.tree().join("only/on/b"), "only");
    write(&b.tree().join("only/on/c"), "only");
    write(&b.tree().join("same"), "same");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    let found = rescued(&b);
    assert_eq!(found.get("other").map(String::as_str), Some("b's"));
    assert_eq!(found.get("only/on/b").map(String::as_str), Some("only"));
    // Each once: neither an error nor an alarm says that one is missing that was kept already.
    let status = b.shown().await;
    assert_eq!(status.trees[0].errors, 0);
    assert_eq!(status.trees[0].rescued, found.len() as u64, "{found:?}");
    cable.cut().await;
}
