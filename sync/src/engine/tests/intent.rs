//! What an apply that failed or was cut left is looked at soon: what somebody changes there later is seen as theirs.

use super::compare::assert_equal;
use super::cuts::{batch_of, hand_batch, items};
use super::pair::{Cable, Node, flush, pair, write};
use super::reversal::rescued;
use crate::engine::intent::{INTENT, Intent};
use crate::path::RelPath;
use crate::tree::TreeId;
use std::collections::BTreeMap;
use std::time::Duration;

/// Both have a file; the source has a newer version of it, and the cable is cut.
async fn newer() -> (Node, Node) {
    let (a, b) = pair(|_| {}).await;
    write(&a.tree().join("file"), "first");
    write(&a.tree().join("stays"), "stays");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    cable.cut().await;
    write(&a.tree().join("file"), "second");
    let _ = a.engine().flush(Duration::from_millis(200)).await;
    (a, b)
}

/// Nothing of an apply waits to be looked at any more.
async fn looked_at(b: &Node) {
    let is_left = |_: &_| {
        let index = b.engine().shared.index.snapshot().unwrap();
        index.value::<Intent>(INTENT).unwrap().is_some()
    };
    b.until("looked at", |s| !is_left(s)).await;
}

/// What became of the file is known as somebody's own.
fn is_listed(b: &Node) -> bool {
    let (tree, path) = (TreeId::of("data"), RelPath::new("file").unwrap());
    let index = b.engine().shared.index.snapshot().unwrap();
    let listed = index.listed(tree, &path).unwrap();
    listed.is_some_and(|listed| !listed.is_nothing())
}

/// Takes the source's version of the file, and then fails over a tree that nobody knows.
async fn fail(a: &Node, b: &Node) {
    let mut batch = batch_of(a, b, &[("file", false)], a.shown().await.seq);
    let known = TreeId::of("data");
    let mut others = (0..).map(|n| TreeId::of(&format!("unknown {n}")));
    let mut record = batch.ready.records[0].clone();
    record.tree = others.find(|id| *id > known).unwrap();
    record.seq += 1;
    batch.ready.records.push(record);
    hand_batch(b, batch).await.unwrap().unwrap_err();
    assert_eq!(std::fs::read(b.tree().join("file")).unwrap(), b"second");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_apply_left_is_known_and_what_comes_later_is_seen() {
    for local in [false, true] {
        let (a, b) = newer().await;
        fail(&a, &b).await;
        looked_at(&b).await;
        if local {
            std::fs::remove_file(b.tree().join("file")).unwrap();
            b.until("seen", |_| is_listed(&b)).await;
        }
        write(&a.tree().join("file"), "third");
        let cable = Cable::plug(&a, &b);
        flush(&a).await;
        b.until("consistent", |s| s.consistent).await;
        assert_equal(&a.tree(), &b.tree());
        let deleted = ("file".to_owned(), "Deleted".to_owned());
        let expected: BTreeMap<_, _> = local.then_some(deleted).into_iter().collect();
        assert_eq!(rescued(&b), expected);
        cable.cut().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_behind_an_apply_that_was_cut_is_in_the_rescue() {
    for n in 1.. {
        let (a, mut b) = newer().await;
        b.engine().shared.cuts.arm(n);
        let cable = Cable::plug(&a, &b);
        let _ = a.engine().flush(Duration::from_millis(300)).await;
        cable.cut().await;
        b.engine().shared.cuts.disarm();
        let Some(place) = b.engine().shared.cuts.place() else {
            assert!(n > 5, "the places were reached");
            break;
        };
        b.stop().await;
        b.start();
        let mut scanned = b.engine().shared.scanned.subscribe();
        b.engine().begin_replica().await.unwrap();
        scanned.wait_for(|scanned| *scanned).await.unwrap();
        looked_at(&b).await;
        std::fs::remove_file(b.tree().join("file")).unwrap();
        b.until("seen", |_| is_listed(&b)).await;
        let cable = Cable::plug(&a, &b);
        flush(&a).await;
        b.until("consistent", |s| s.consistent).await;
        assert_equal(&a.tree(), &b.tree());
        assert_eq!(items(&b), 1, "cut {n}, {place}");
        cable.cut().await;
    }
}

/// A record with the number of another path cannot be written down: it is asked for again.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_of_another_path_stops_nothing() {
    let (a, b) = newer().await;
    let mut batch = batch_of(&a, &b, &[("file", false)], a.shown().await.seq);
    let (tree, path) = (TreeId::of("data"), RelPath::new("stays").unwrap());
    let index = b.engine().shared.index.snapshot().unwrap();
    batch.ready.records[0].seq = index.get(tree, &path).unwrap().unwrap().seq;
    drop(index);
    // Nor is it answered, or kept to be applied later.
    let applied = hand_batch(&b, batch).await.unwrap();
    assert!(applied.is_ok_and(|applied| applied.unsettled == 1));
    looked_at(&b).await;
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(items(&b), 0);
    cable.cut().await;
}
