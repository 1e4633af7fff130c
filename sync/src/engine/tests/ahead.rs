//! A small batch is answered when it is visible: what was answered is there afterwards, whatever happens.

use super::cuts::{items, until_cut};
use super::failing::Disk;
use super::pair::{Cable, Node, begin, flush, pair, write};
use std::fs::read;
use std::time::Duration;

/// Cuts at each place in turn; gives those that were reached, and whether the change was answered by then.
async fn cut_everywhere() -> Vec<(&'static str, bool)> {
    let mut places = Vec::new();
    let mut n = 1;
    loop {
        let (mut a, mut b) = pair(|_| {}).await;
        write(&a.tree().join("changed"), "first");
        let cable = Cable::plug(&a, &b);
        flush(&a).await;
        b.until("consistent", |s| s.consistent).await;
        // So that a name can be lost, as by a power cut: what leads to the new version is durable last.
        let (old, name) = (b.state().join("old"), b.tree().join("changed"));
        std::fs::hard_link(&name, &old).unwrap();
        b.engine().shared.cuts.arm(n);
        // In one step, so that it is one batch.
        write(&a.state().join("next"), "second");
        std::fs::rename(a.state().join("next"), a.tree().join("changed")).unwrap();
        let report = a.engine().flush(Duration::from_millis(300)).await.unwrap();
        let answered = report.not_covered.is_empty();
        if answered {
            // It was visible when it was answered.
            assert_eq!(read(b.tree().join("changed")).unwrap(), b"second");
        }
        // The master is gone for good.
        cable.cut().await;
        a.stop().await;
        b.engine().shared.cuts.disarm();
        let cut = b.engine().shared.cuts.place();
        if let Some(place) = cut {
            b.stop().await;
            if place != "after the result" {
                std::fs::rename(&old, &name).unwrap();
            }
            b.start();
        }
        b.engine().begin_source(2).await.unwrap();
        let found = read(b.tree().join("changed")).unwrap();
        if answered {
            assert_eq!(found, b"second", "cut {n}, {cut:?}");
        } else {
            assert!(found == b"first" || found == b"second", "cut {n}, {cut:?}");
        }
        // What was cut in the middle is nobody's local version.
        assert_eq!(items(&b), 0, "cut {n}, {cut:?}");
        match cut {
            Some(place) => places.push((place, answered)),
            None if answered => break,
            // It was not there in time: once more.
            None => continue,
        }
        n += 1;
    }
    places
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_there_after_a_takeover_wherever_the_apply_was_cut() {
    let behind = [
        "after a batch was answered",
        "before the result",
        "after the result",
    ];
    // The end of the worker ends the session, sometimes before the answer is on its way; and a change is sometimes one batch
    // more, so that the next cut is not at the next place.
    let mut places = Vec::new();
    for _ in 0..5 {
        places.extend(cut_everywhere().await);
        let reached = |wanted| places.iter().any(|(place, _)| *place == wanted);
        let answered = |(place, answered): &(&str, bool)| *answered && behind.contains(place);
        if behind.iter().all(|place| reached(*place)) && places.iter().any(answered) {
            return;
        }
    }
    panic!("not everything was cut, or nothing that was answered: {places:?}");
}

/// Changes the file, and cuts the replica when the change is in its slot.
async fn cut_when_kept(a: &Node, b: &Node) {
    b.engine().shared.cuts.arm(2);
    // In one step, so that it is one batch.
    write(&a.state().join("next"), "second");
    std::fs::rename(a.state().join("next"), a.tree().join("file")).unwrap();
    assert!(until_cut(a, b).await);
    let place = b.engine().shared.cuts.place();
    assert_eq!(place, Some("after a batch was kept"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_of_another_index_says_nothing() {
    let (a, mut b) = pair(|_| {}).await;
    write(&a.tree().join("file"), "first");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    cut_when_kept(&a, &b).await;
    cable.cut().await;
    b.stop().await;
    let slot = b.state().join("ahead");
    let kept = read(&slot).unwrap();
    // Another file, as after the state directory was lost; then the old one again, which this index does not know.
    std::fs::remove_file(&slot).unwrap();
    b.start();
    b.engine().begin_replica().await.unwrap();
    b.stop().await;
    std::fs::write(&slot, kept).unwrap();
    b.start();
    b.engine().begin_source(2).await.unwrap();
    assert_eq!(read(b.tree().join("file")).unwrap(), b"first");
}

/// What the spool leaves to others for their growth is more than this disk has: a batch that was answered does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_is_applied_although_the_disk_is_nearly_full() {
    let Some(disk) = Disk::new(40) else {
        return tandem_lab::skipped("a small disk: no right to mount");
    };
    let b = Node::new_in(disk.at(), "b", |_| {});
    let (a, mut b) = begin(Node::new("a", |_| {}), b).await;
    write(&a.tree().join("file"), "first");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    cut_when_kept(&a, &b).await;
    cable.cut().await;
    b.stop().await;
    b.start();
    b.engine().begin_replica().await.unwrap();
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    assert_eq!(read(b.tree().join("file")).unwrap(), b"second");
    assert_eq!(b.shown().await.alarms, []);
    cable.cut().await;
}
