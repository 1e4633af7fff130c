//! Large contents that a scan found and that are not read yet.

use super::compare::assert_equal;
use super::flush::Busy;
use super::large::bytes_read;
use super::links::aged;
use super::pair::{Cable, Node, PATIENCE, flush, noise, pair, write};
use super::reading::{LARGE, hold, read, sparse};
use crate::engine::EngineStatus;
use crate::engine::clock;
use crate::engine::dirty::{Dirt, Missing};
use crate::engine::handle::open::prepare;
use crate::engine::worker::{Next, Worker};
use crate::entry::{ContentHash, Kind};
use crate::hash::hash_file;
use crate::index::Writer;
use crate::path::RelPath;
use crate::tree::{TreeConfig, TreeId};
use crate::watch::Event;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

/// The scan that began before this is over, but for what it left to be read.
pub(in crate::engine) fn has_walked(status: &EngineStatus) -> bool {
    let progress = status.trees[0].progress.as_ref();
    progress.is_none_or(|progress| progress.what != "scan")
}

/// A first copy is not complete before its large contents are, whatever happens to them meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_an_unread_content_does_not_make_it_known() {
    let (a, b) = pair(|_| {}).await;
    let large = a.tree().join("large");
    sparse(&large, LARGE);
    write(&a.tree().join("small"), "x");
    hold(&a, true);
    a.engine().begin_source(2).await.unwrap();
    let cable = Cable::plug(&a, &b);
    b.until("small", |_| b.tree().join("small").exists()).await;
    a.until("walked", has_walked).await;
    let scanned = a.engine().shared.scanned.subscribe();
    let file = File::options().write(true).open(&large).unwrap();
    for n in 0..10 {
        file.write_all_at(b"x", n << 20).unwrap();
        let next = format!("small-{n}");
        write(&a.tree().join(&next), "x");
        b.until("next", |_| b.tree().join(&next).exists()).await;
    }
    assert!(!*scanned.borrow() && !scanned.has_changed().unwrap());
    assert!(!b.shown().await.consistent);
    hold(&a, false);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}

/// A source that scans nothing by itself.
pub(in crate::engine) async fn source(node: &mut Node) -> Worker {
    node.engine().init_source().await.unwrap();
    node.stop().await;
    let trees = vec![TreeConfig::new("data", node.tree())];
    let (mut worker, _) = prepare(node.config(trees)).unwrap();
    worker.begin_source(1).unwrap();
    worker.trees[0].rescan = false;
    worker
}

/// Of a file that is written all the time nobody waits for more than the reading that began next.
#[tokio::test]
async fn what_happens_while_a_content_is_read_counts_from_its_beginning_on() {
    let mut node = Node::new("a", |_| {});
    let mut worker = source(&mut node).await;
    sparse(&node.tree().join("large"), LARGE);
    let large = RelPath::new("large").unwrap();
    worker.trees[0].mark(large.clone(), Dirt::default());
    for _ in 0..3 {
        worker.look_at_dirty();
    }
    assert!(worker.trees[0].dirty[&large].large);
    worker.begin_readings();
    let begun = worker.round;
    for _ in 0..3 {
        worker.look_at_dirty();
    }
    worker.trees[0].mark(large.clone(), Dirt::default());
    assert!(worker.trees[0].dirty[&large].since < begun);
    let (at, found) = read(&mut worker).await;
    worker.was_read(at, found);
    assert_eq!(worker.trees[0].dirty[&large].since, begun + 3);
}

/// What is marked is looked at, and what is large is read, until nothing is left.
async fn settle(worker: &mut Worker) {
    for _ in 0..10 {
        worker.look_at_dirty();
        worker.begin_readings();
        if worker.trees[0].reading.is_some() {
            let (at, found) = read(worker).await;
            worker.was_read(at, found);
        }
        if worker.trees[0].dirty.is_empty() {
            return;
        }
    }
    panic!("still marked: {:?}", worker.trees[0].dirty);
}

/// The event that tells of it is looked at while the result of the reading is on its way.
#[tokio::test]
async fn what_happens_behind_what_was_read_is_read_too() {
    type Change = (&'static [u8], u64);
    let (grows, in_place): (Change, Change) = ((b"more", LARGE), (b"x", 0));
    for (bytes, at) in [grows, in_place] {
        let mut node = Node::new("a", |_| {});
        let mut worker = source(&mut node).await;
        let (path, large) = (node.tree().join("large"), RelPath::new("large").unwrap());
        sparse(&path, LARGE);
        aged(&path);
        worker.trees[0].mark(large.clone(), Dirt::FORCED);
        worker.look_at_dirty();
        worker.begin_readings();
        let (tree, found) = read(&mut worker).await;
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(bytes, at).unwrap();
        aged(&path);
        worker.trees[0].mark(large.clone(), Dirt::default());
        worker.look_at_dirty();
        assert!(worker.trees[0].dirty[&large].large, "put off again");
        worker.was_read(tree, found);
        assert!(!worker.trees[0].dirty[&large].force, "its key tells");
        settle(&mut worker).await;
        let found = hash_file(&File::open(&path).unwrap(), false).unwrap();
        let kind = Kind::File {
            size: found.size,
            hash: found.hash,
        };
        assert_eq!(recorded(&worker, &large), kind);
    }
}

/// A scan of a polled tree meets what is being read: nothing else tells of what happens to it meanwhile.
#[tokio::test]
async fn what_a_scan_finds_while_it_is_read_is_looked_at_again() {
    let mut node = Node::new("a", |_| {});
    let mut worker = source(&mut node).await;
    sparse(&node.tree().join("large"), LARGE);
    aged(&node.tree().join("large"));
    let large = RelPath::new("large").unwrap();
    let piece = || vec![(large.clone(), Dirt::WALKED)];
    worker.look(0, piece(), Missing::WaitsInScan);
    worker.begin_readings();
    worker.look(0, piece(), Missing::WaitsInScan);
    let (at, found) = read(&mut worker).await;
    worker.was_read(at, found);
    assert!(worker.trees[0].dirty.contains_key(&large));
    settle(&mut worker).await;
}

/// A source that asks for a content again and again has it read once.
#[tokio::test]
async fn what_is_read_in_any_case_is_not_read_again_for_the_same() {
    let mut node = Node::new("a", |_| {});
    let mut worker = source(&mut node).await;
    sparse(&node.tree().join("large"), LARGE);
    aged(&node.tree().join("large"));
    let large = RelPath::new("large").unwrap();
    let examine = |worker: &mut Worker| {
        worker.look(0, vec![(large.clone(), Dirt::FORCED)], Missing::Waits);
    };
    examine(&mut worker);
    worker.begin_readings();
    examine(&mut worker);
    let (at, found) = read(&mut worker).await;
    worker.was_read(at, found);
    assert_eq!(worker.trees[0].dirty.get(&large), None);
}

#[tokio::test]
async fn a_large_file_that_never_rests_is_copied_beside_the_worker() {
    const SIZE: usize = 65 << 20;
    let mut node = Node::new("a", |_| {});
    let mut worker = source(&mut node).await;
    write(&node.tree().join("busy"), noise(SIZE, 1));
    let busy = RelPath::new("busy").unwrap();
    let writer = Busy::begin(&node, SIZE as u64);
    // On a machine with much else to do the writer may rest for as long as one reading takes.
    let mut copied = false;
    for _ in 0..10 {
        worker.trees[0].note_fuzzy(busy.clone());
        worker.trees[0].mark(busy.clone(), Dirt::FORCED);
        worker.look_at_dirty();
        worker.begin_readings();
        let (at, found) = read(&mut worker).await;
        let before = bytes_read();
        worker.was_read(at, found);
        assert!(bytes_read() - before < 1 << 20, "the worker has read it");
        copied = worker.trees[0].copies.contains_key(&busy);
        if copied {
            break;
        }
    }
    writer.end();
    assert!(copied);
    let kept = std::fs::read_dir(node.tree().join(".tandem/set")).unwrap();
    assert_eq!(kept.count(), 1);
}

/// A file that is written all the time: there is always an event at hand.
#[tokio::test]
async fn events_that_never_pause_hold_up_no_reading() {
    let mut node = Node::new("a", |_| {});
    let mut worker = source(&mut node).await;
    sparse(&node.tree().join("large"), LARGE);
    worker.trees[0].mark(RelPath::new("large").unwrap(), Dirt::default());
    worker.look_at_dirty();
    worker.begin_readings();
    let (_commands, mut commands) = tokio::sync::mpsc::channel(1);
    let mut peer = worker.shared.peer.subscribe();
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "its result is not taken");
        let event = Event::Dirty {
            tree: worker.trees[0].id,
            path: RelPath::new("busy").unwrap(),
            recursive: false,
        };
        // There is one at hand, this or another.
        let _ = worker.to_events.try_send(event);
        // Nothing else is to be done, or the worker would sleep for it.
        worker.dirty_due = None;
        if let Next::Read(..) = worker.next(&mut commands, &mut peer).await {
            break;
        }
    }
}

/// What the index has of the file.
fn recorded(worker: &Worker, path: &RelPath) -> Kind {
    let snapshot = worker.shared.index.snapshot().unwrap();
    let entry = snapshot.get(TreeId::of("data"), path).unwrap();
    entry.unwrap().current.unwrap().kind
}

/// Two writes in a jiffy, on a kernel that stamps by it: an event tells of the second one, or nothing does.
#[tokio::test]
async fn a_write_that_leaves_the_same_key_is_read_before_a_flush_speaks_for_it() {
    for told in [true, false] {
        let mut node = Node::new("a", |_| {});
        let mut worker = source(&mut node).await;
        let (path, name) = (node.tree().join("db"), RelPath::new("db").unwrap());
        let file = File::create(&path).unwrap();
        file.write_all_at(b"one", 0).unwrap();
        worker.trees[0].mark(name.clone(), Dirt::default());
        worker.look_at_dirty();
        // As a look does that is no slower than the jiffy.
        worker.trees[0].again(name.clone(), u64::MAX, Some(0));
        file.write_all_at(b"two", 0).unwrap();
        let root = &worker.trees[0].open.as_ref().unwrap().root;
        let key = root.stat(&name).unwrap().map(|stat| stat.key());
        let same = |w: &mut Writer<'_>| w.set_local(TreeId::of("data"), &name, key);
        worker.shared.index.write(same).unwrap();
        match told {
            true => worker.trees[0].mark(name.clone(), Dirt::default()),
            // A planned move asks.
            false => assert_eq!(worker.read_restless(), None),
        }
        worker.look_at_dirty();
        let hash = ContentHash::of(b"two");
        assert_eq!(recorded(&worker, &name), Kind::File { size: 3, hash });
    }
}

/// What happens to a file that never rests waits for its next turn, but for its end.
#[tokio::test]
async fn a_file_that_never_rested_and_is_removed_is_missed_at_once() {
    let mut node = Node::new("a", |_| {});
    let mut worker = source(&mut node).await;
    let (path, name) = (node.tree().join("busy"), RelPath::new("busy").unwrap());
    write(&path, "x");
    let tree = &mut worker.trees[0];
    tree.note_restless(name.clone(), 1 << 40, clock::now());
    tree.mark(name.clone(), Dirt::default());
    assert!(tree.dirty.is_empty());
    std::fs::remove_file(path).unwrap();
    tree.mark(name.clone(), Dirt::default());
    assert!(tree.dirty.contains_key(&name));
}
