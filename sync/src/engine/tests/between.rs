//! Moves between trees: what left one of them is in the other before.

use super::compare::assert_equal;
use super::cuts::until_cut;
use super::failing::Disk;
use super::pair::{Cable, Node, flush, noise, pair, recorded, write};
use super::trees::{both, data, more};
use crate::engine::command::Command;
use crate::engine::dirty::Dirt;
use crate::engine::handle::open::prepare;
use crate::engine::scanning::Piece;
use crate::engine::worker::Worker;
use crate::engine::{EngineStatus, Mode, TreeState};
use crate::path::RelPath;
use crate::tree::{TreeConfig, TreeId};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;
use std::time::Duration;

const SECOND: i128 = 1_000_000_000;

/// The number of what lies, or lay, at a path.
pub fn number(node: &Node, tree: &str, path: &str) -> u64 {
    let snapshot = node.engine().shared.index.snapshot().unwrap();
    let path = RelPath::new(path).unwrap();
    let entry = snapshot.get(TreeId::of(tree), &path).unwrap();
    entry.map_or(0, |entry| entry.seq)
}

/// A pass finds the file gone from one tree while the watcher has not told yet that it is in the other one, where no pass looks.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_scan_misses_waits_for_the_events_of_before() {
    let (a, b) = pair(|_| {}).await;
    let polled = |node: &Node| {
        let mut trees = both(node);
        trees[0].poll = Some(Duration::from_millis(50));
        trees
    };
    for node in [&a, &b] {
        node.engine().set_trees(polled(node)).await.unwrap();
    }
    write(&a.tree().join("f"), "is moved");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    // Young stamps are looked at once more, which would find it gone before the pass does.
    let stamp = std::fs::metadata(a.tree().join("f")).unwrap().ctime();
    let aged = |_: &_| crate::hash::now_ns() / SECOND > i128::from(stamp) + 1;
    a.until("aged", aged).await;
    flush(&a).await;
    let held = &a.engine().shared.events_held;
    held.store(true, Ordering::SeqCst);
    // Whoever waits for an event already has not seen it: a command makes the worker look.
    let before = a.shown().await.seq;
    std::fs::rename(a.tree().join("f"), more(&a).join("f")).unwrap();
    a.until("the pass misses it", |s| {
        s.trees[0].queue > 0 || s.seq > before
    })
    .await;
    held.store(false, Ordering::SeqCst);
    flush(&a).await;
    let (made, gone) = (number(&a, "more", "f"), number(&a, "data", "f"));
    assert!(0 < made && made < gone, "made {made}, gone {gone}");
    assert!(!b.tree().join("f").exists());
    assert_eq!(std::fs::read(more(&b).join("f")).unwrap(), b"is moved");
    cable.cut().await;
}

/// A look finds the file gone, or it goes while it is looked at, before anybody read the event of its move.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_look_misses_waits_for_the_events_of_before() {
    let (a, b) = pair(|_| {}).await;
    for node in [&a, &b] {
        node.engine().set_trees(both(node)).await.unwrap();
    }
    write(&a.tree().join("f"), "is moved");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    let held = &a.engine().shared.events_held;
    held.store(true, Ordering::SeqCst);
    // Whoever waits for an event already has not seen it: a command makes the worker look.
    a.shown().await;
    std::fs::rename(a.tree().join("f"), more(&a).join("f")).unwrap();
    let (tree, path) = (TreeId::of("data"), RelPath::new("f").unwrap());
    let look = |reply| Command::Examine { tree, path, reply };
    a.engine().shared.ask(look).await.unwrap();
    held.store(false, Ordering::SeqCst);
    flush(&a).await;
    let (made, gone) = (number(&a, "more", "f"), number(&a, "data", "f"));
    assert!(0 < made && made < gone, "made {made}, gone {gone}");
    assert!(!b.tree().join("f").exists());
    assert_eq!(std::fs::read(more(&b).join("f")).unwrap(), b"is moved");
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_between_trees_loses_nothing_wherever_the_apply_is_cut() {
    let places = |node: &Node| -> [Vec<std::path::PathBuf>; 2] {
        let (data, more) = (node.tree(), more(node));
        ["one", "two"].map(|name| vec![data.join(name), more.join(name)])
    };
    // Each is whole in one of the trees, or in both.
    let is_there = |node: &Node| {
        for (of, text) in places(node).iter().zip(["in data first", "in more first"]) {
            let found = of.iter().filter_map(|at| std::fs::read_to_string(at).ok());
            let found: Vec<String> = found.collect();
            assert!(
                !found.is_empty() && found.iter().all(|f| f == text),
                "{text}: {found:?}"
            );
        }
    };
    for n in 1.. {
        let (a, mut b) = pair(|_| {}).await;
        let trees: fn(&Node) -> Vec<TreeConfig> = both;
        for node in [&a, &b] {
            node.engine().set_trees(trees(node)).await.unwrap();
        }
        let [one, two] = places(&a);
        write(&one[0], "in data first");
        write(&two[1], "in more first");
        let cable = Cable::plug(&a, &b);
        flush(&a).await;
        b.until("consistent", |s| s.consistent).await;
        cable.cut().await;
        std::fs::rename(&one[0], &one[1]).unwrap();
        std::fs::rename(&two[1], &two[0]).unwrap();
        let _ = a.engine().flush(Duration::from_millis(100)).await;
        b.engine().shared.cuts.arm(n);
        let mut cable = Cable::plug(&a, &b);
        let cut = until_cut(&a, &b).await;
        is_there(&b);
        if cut {
            cable.cut().await;
            b.stop().await;
            b.start_with(trees(&b));
            b.engine().begin_replica().await.unwrap();
            is_there(&b);
            cable = Cable::plug(&a, &b);
        }
        flush(&a).await;
        is_there(&b);
        assert!(places(&b).iter().flatten().filter(|at| at.exists()).count() == 2);
        cable.cut().await;
        if !cut {
            assert!(n > 8, "the places were reached");
            break;
        }
    }
}

/// There is no room where it moves to. It stays where it was, with what it lies in, and the rest goes on.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_room_where_it_moves_to_stays_where_it_was() {
    let (a, mut b) = pair(|_| {}).await;
    let Some(disk) = Disk::over(&more(&b), 1) else {
        return tandem_lab::skipped("a full tree: no right to mount");
    };
    for node in [&a, &b] {
        node.engine().set_trees(both(node)).await.unwrap();
    }
    write(&a.tree().join("f"), noise(700_000, 1));
    write(&a.tree().join("deep/er/f"), noise(600_000, 2));
    write(&a.tree().join("goes"), "is only deleted");
    // In one step: there is no room for half of it and the whole.
    write(&a.state().join("fills"), noise(700_000, 3));
    std::fs::rename(a.state().join("fills"), more(&a).join("fills")).unwrap();
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    for name in ["f", "deep"] {
        std::fs::rename(a.tree().join(name), more(&a).join(name)).unwrap();
    }
    recorded(&a).await;
    std::fs::remove_file(a.tree().join("goes")).unwrap();
    recorded(&a).await;
    write(&a.tree().join("after"), "the rest goes on");
    let tree = b.tree();
    let here = |name: &str| tree.join(name).exists();
    b.until("goes on", |_| here("after") && !here("goes")).await;
    assert!(here("f") && here("deep/er/f"), "{}", b.index());
    // A standby that starts again has forgotten why.
    cable.cut().await;
    b.stop().await;
    b.start_with(both(&b));
    b.engine().begin_replica().await.unwrap();
    let cable = Cable::plug(&a, &b);
    write(&a.tree().join("again"), "the rest goes on");
    b.until("goes on", |s| here("again") && s.trees[0].errors >= 2)
        .await;
    assert!(here("f") && here("deep/er/f"), "{}", b.index());
    let shown = b.shown().await;
    assert!(shown.trees[0].errors >= 2, "named: {shown:#?}");
    assert!(a.shown().await.acked < number(&a, "data", "f"));
    disk.grow(40);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert!(!here("f") && !here("deep"));
    assert_equal(&a.tree(), &b.tree());
    assert_equal(&more(&a), &more(&b));
    assert_eq!(b.shown().await.trees[0].errors, 0);
    cable.cut().await;
    drop((a, b));
}

/// The tree that it moves to is stopped on the standby: nothing of it comes, now or in the sessions before.
#[tokio::test(flavor = "multi_thread")]
async fn what_moves_into_a_tree_that_is_stopped_there_stays_where_it_was() {
    let (a, b) = pair(|_| {}).await;
    for node in [&a, &b] {
        node.engine().set_trees(both(node)).await.unwrap();
    }
    for name in ["now", "before", "goes"] {
        write(&a.tree().join(name), name);
    }
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    let (root, away) = (more(&b), b.dir.path().join("away"));
    std::fs::rename(&root, &away).unwrap();
    let stopped = |s: &EngineStatus| {
        let more = s.trees.iter().find(|t| t.name == "more");
        more.is_some_and(|t| matches!(t.state, TreeState::Stopped { .. }))
    };
    b.until("stopped", stopped).await;
    cable.cut().await;
    let here = |name: &str| b.tree().join(name).exists();
    let cable = Cable::plug(&a, &b);
    std::fs::copy(a.tree().join("before"), more(&a).join("before")).unwrap();
    recorded(&a).await;
    write(&a.tree().join("first"), "is there");
    b.until("goes on", |_| here("first")).await;
    cable.cut().await;
    let cable = Cable::plug(&a, &b);
    std::fs::remove_file(a.tree().join("before")).unwrap();
    recorded(&a).await;
    std::fs::rename(a.tree().join("now"), more(&a).join("now")).unwrap();
    recorded(&a).await;
    std::fs::remove_file(a.tree().join("goes")).unwrap();
    recorded(&a).await;
    write(&a.tree().join("after"), "the rest goes on");
    b.until("goes on", |_| here("after") && !here("goes")).await;
    assert!(here("before") && here("now"), "{}", b.index());
    std::fs::rename(&away, &root).unwrap();
    // The session without the tree ends by itself.
    cable.ended().await.1.unwrap();
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    assert_equal(&more(&a), &more(&b));
    cable.cut().await;
}

/// What moved may be where nothing has been looked at yet.
#[tokio::test(flavor = "multi_thread")]
async fn what_vanished_since_a_walk_named_it_waits_like_all_that_is_gone() {
    let mut node = Node::new("a", |_| {});
    node.engine().init_source().await.unwrap();
    node.engine().begin_source(1).await.unwrap();
    write(&node.tree().join("f"), "content");
    recorded(&node).await;
    node.stop().await;
    let (mut worker, _) = prepare(node.config(vec![data(&node)])).unwrap();
    worker.mode = Mode::Source { term: 1 };
    worker.trees[0].rescan = false;
    let path = RelPath::new("f").unwrap();
    let known = |worker: &Worker| {
        let index = worker.shared.index.snapshot().unwrap();
        let entry = index.get(worker.trees[0].id, &path).unwrap();
        entry.is_some_and(|entry| entry.current.is_some())
    };
    assert!(known(&worker));
    std::fs::remove_file(node.tree().join("f")).unwrap();
    let piece = Piece::Look(vec![(path.clone(), Dirt::WALKED)]);
    worker.scanned(0, Some(piece));
    assert!(known(&worker), "it is not recorded as gone yet");
    assert!(worker.trees[0].has_gone(u64::MAX));
}
