//! More marks than are kept by name: nothing that is to be read whatever its key says is forgotten.

use super::pair::{Node, PATIENCE, write};
use crate::engine::dirty::{Dirt, Missing};
use crate::engine::handle::open::prepare;
use crate::engine::later::Again;
use crate::engine::look::Sights;
use crate::engine::scanning::poll_piece;
use crate::engine::status::Mode;
use crate::engine::tree::{MAX_DIRTY, Tree};
use crate::engine::worker::Worker;
use crate::entry::{ContentHash, Kind, LocalKey};
use crate::path::RelPath;
use crate::tree::TreeConfig;
use std::time::Duration;

fn path(name: &str) -> RelPath {
    RelPath::new(name).unwrap()
}

fn others() -> impl Iterator<Item = RelPath> {
    (0..MAX_DIRTY).map(|n| path(&format!("other{n}")))
}

/// A source that knows its tree.
async fn source(node: &mut Node) -> Worker {
    node.engine().init_source().await.unwrap();
    node.stop().await;
    let mut worker = opened(node);
    worker.begin_source(1).unwrap();
    scan(&mut worker).await;
    worker
}

fn opened(node: &Node) -> Worker {
    let trees = vec![TreeConfig::new("data", node.tree())];
    prepare(node.config(trees)).unwrap().0
}

/// Scans the tree and looks at all that is marked.
async fn scan(worker: &mut Worker) {
    let is_busy = |t: &Tree| t.rescan || t.job.is_some() || !t.dirty.is_empty();
    while is_busy(&worker.trees[0]) {
        worker.jobs();
        if worker.trees[0]
            .job
            .as_ref()
            .is_some_and(|job| job.gone.is_none())
        {
            let piece = std::future::poll_fn(|cx| poll_piece(&mut worker.trees, cx));
            let (at, piece) = tokio::time::timeout(PATIENCE, piece).await.unwrap();
            worker.scanned(at, piece);
        }
        worker.look_at_dirty();
    }
}

fn key(node: &Node, name: &str) -> LocalKey {
    let root = crate::beneath::Root::open(&node.tree()).unwrap();
    root.stat(&path(name)).unwrap().unwrap().key()
}

/// Writes what the index does not know, under a key that it knows.
fn write_silently(worker: &Worker, node: &Node, name: &str, content: &str) {
    write(&node.tree().join(name), content);
    let (id, key) = (worker.trees[0].id, key(node, name));
    let index = &worker.shared.index;
    let known = index.write(|w| w.set_local(id, &path(name), Some(key)));
    known.unwrap();
    // So that the next change has another stamp, and none of these is young.
    while crate::hash::now_ns() < key.ctime_ns + 30_000_000 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn knows(worker: &Worker, name: &str, content: &str) -> bool {
    let snapshot = worker.shared.index.snapshot().unwrap();
    let entry = snapshot.get(worker.trees[0].id, &path(name)).unwrap();
    let state = entry.and_then(|entry| entry.current).unwrap();
    let is = |hash| hash == ContentHash::of(content.as_bytes());
    matches!(state.kind, Kind::File { hash, .. } if is(hash))
}

#[tokio::test]
async fn what_is_to_be_read_in_any_case_outlives_too_many_marks() {
    let mut node = Node::new("a", |_| {});
    write(&node.tree().join("file"), "first");
    let mut worker = source(&mut node).await;
    write_silently(&worker, &node, "file", "other");
    let tree = &mut worker.trees[0];
    tree.mark(path("file"), Dirt::FORCED);
    for other in others() {
        tree.mark(other, Dirt::default());
    }
    assert!(tree.rescan && tree.dirty.len() < MAX_DIRTY);
    assert_eq!(tree.read_since, None, "it is named");
    scan(&mut worker).await;
    assert!(knows(&worker, "file", "other"));
    // Nor does it end with the role.
    write_silently(&worker, &node, "file", "third");
    worker.trees[0].mark(path("file"), Dirt::FORCED);
    worker.set_mode(Mode::Source { term: 1 });
    scan(&mut worker).await;
    assert!(knows(&worker, "file", "third"));
}

#[tokio::test]
async fn too_many_young_stamps_have_what_changed_since_read_even_after_a_crash() {
    let mut node = Node::new("a", |_| {});
    for name in ["old", "young"] {
        write(&node.tree().join(name), "first");
    }
    let mut worker = source(&mut node).await;
    for name in ["old", "young"] {
        write_silently(&worker, &node, name, "other");
    }
    let changed = key(&node, "young").ctime_ns;
    let tree = &mut worker.trees[0];
    tree.later.clear();
    tree.again(path("young"), u64::MAX, Some(changed));
    for other in others() {
        tree.again(other, u64::MAX, None);
    }
    assert!(tree.rescan && tree.later.len() < MAX_DIRTY);
    assert_eq!(tree.read_since, Some(changed));
    // The process ends while the scan runs.
    worker.jobs();
    assert!(worker.trees[0].job.is_some());
    drop(worker);
    let mut worker = opened(&node);
    assert_eq!(worker.trees[0].read_since, Some(changed));
    worker.begin_source(1).unwrap();
    scan(&mut worker).await;
    assert!(knows(&worker, "young", "other"));
    assert!(knows(&worker, "old", "first"), "it is older");
    assert_eq!(worker.trees[0].read_since, None);
    drop(worker);
    assert_eq!(opened(&node).trees[0].read_since, None);
}

#[tokio::test]
async fn what_is_to_be_read_since_a_scan_began_is_read_by_the_next_one() {
    let mut node = Node::new("a", |_| {});
    write(&node.tree().join("file"), "first");
    let mut worker = source(&mut node).await;
    write_silently(&worker, &node, "file", "other");
    let tree = &mut worker.trees[0];
    tree.rescan = true;
    worker.jobs();
    let tree = &mut worker.trees[0];
    (tree.rescan, tree.read_since) = (true, Some(key(&node, "file").ctime_ns));
    scan(&mut worker).await;
    assert!(knows(&worker, "file", "other"));
}

#[test]
fn what_even_a_list_of_those_alone_cannot_hold_is_read_by_the_scan() {
    let mut tree = Tree::new(TreeConfig::new("t", "/srv/t"));
    for (n, other) in (0i128..).zip(others()) {
        tree.mark(other.clone(), Dirt::AGAIN);
        let again = Again {
            young: Some(1000 + n),
            ..Again::default()
        };
        tree.later.put(other, again);
    }
    assert_eq!((tree.dirty.len(), tree.read_since), (MAX_DIRTY, None));
    tree.mark(path("last"), Dirt::default());
    assert!(tree.rescan && tree.dirty.is_empty() && tree.later.is_empty());
    assert_eq!(tree.read_since, Some(1000));
}

#[tokio::test]
async fn what_was_looked_at_waits_no_more_and_what_could_not_be_read_does() {
    let mut node = Node::new("a", |_| {});
    let mut worker = source(&mut node).await;
    let tree = &mut worker.trees[0];
    for name in ["vanished", "unreadable"] {
        tree.again(path(name), 0, None);
    }
    worker.wake_later(1);
    let tree = &mut worker.trees[0];
    let marks: Vec<_> = std::mem::take(&mut tree.dirty).into_iter().collect();
    assert_eq!(marks.len(), 2);
    let vanished: Vec<_> = marks
        .into_iter()
        .filter(|m| m.0 == path("vanished"))
        .collect();
    worker.look(0, vanished, Missing::Waits);
    let tree = &mut worker.trees[0];
    let unreadable = [(path("unreadable"), Dirt::AGAIN)];
    tree.wait_no_more(unreadable.iter(), &[path("unreadable")].into(), 5);
    assert!(tree.later.keys().eq([&path("unreadable")]));
    assert!(tree.later[&path("unreadable")].at.is_some_and(|at| at > 5));
}

/// The list of what came into the tree ends where marks end, and a scan finds the rest.
#[tokio::test]
async fn a_directory_of_more_than_can_be_marked_is_scanned() {
    let mut node = Node::new("a", |_| {});
    let mut worker = source(&mut node).await;
    let dir = node.tree().join("d");
    std::fs::create_dir(&dir).unwrap();
    for n in 0..MAX_DIRTY + 100 {
        std::fs::File::create(dir.join(n.to_string())).unwrap();
    }
    let listed = worker.looker(0, |looker| {
        let mut sights = Sights::default();
        looker.below(&path("d"), &mut sights)?;
        Ok(sights.more.len())
    });
    assert_eq!(listed.unwrap().unwrap(), MAX_DIRTY + 1);
    assert!(!worker.trees[0].rescan);
    worker.look(0, vec![(path("d"), Dirt::default())], Missing::Waits);
    assert!(worker.trees[0].rescan);
}
