//! Files with several names: what reading them costs, and further names of a file that changes while it is read.

use super::compare::assert_equal;
use super::logs::bytes_read;
use super::pair::{Cable, Node, begin, flush, noise, write};
use crate::engine::dirty::{Dirt, Missing};
use crate::engine::handle::open::prepare;
use crate::engine::restless::Unrested;
use crate::engine::worker::Worker;
use crate::entry::Kind;
use crate::index::Writer;
use crate::path::RelPath;
use crate::tree::TreeConfig;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// A link is made while the file is read: it was recorded as it was read, and has no key in the index.
#[tokio::test]
async fn a_further_name_of_a_file_that_moved_is_a_name_of_it() {
    let mut node = Node::new("a", |_| {});
    node.engine().init_source().await.unwrap();
    node.stop().await;
    let (one, two) = (node.tree().join("one"), node.tree().join("two"));
    write(&one, "content");
    let trees = vec![TreeConfig::new("data", node.tree())];
    let (mut worker, _) = prepare(node.config(trees)).unwrap();
    let look = |worker: &mut Worker, name: &str| {
        let paths = vec![(RelPath::new(name).unwrap(), Dirt::FORCED)];
        worker.look(0, paths, Missing::Recorded);
    };
    let kind = |worker: &Worker, name: &str| {
        let snapshot = worker.shared.index.snapshot().unwrap();
        let entry = snapshot.get(worker.trees[0].id, &RelPath::new(name).unwrap());
        entry.unwrap().and_then(|e| e.current).map(|s| s.kind)
    };
    look(&mut worker, "one");
    let (id, path) = (worker.trees[0].id, RelPath::new("one").unwrap());
    let forget = |w: &mut Writer<'_>| {
        let state = w.get(id, &path)?.and_then(|entry| entry.current);
        w.observe(id, &path, state, None).map(drop)
    };
    worker.shared.index.write(forget).unwrap();
    let stat = std::fs::metadata(&one).unwrap();
    let inode = (stat.dev(), stat.ino());
    let mut moved = Unrested::default();
    moved.note(inode, [&path]);
    worker.note_unrested(0, moved, &[]);
    std::fs::hard_link(&one, &two).unwrap();
    look(&mut worker, "two");
    assert_eq!(kind(&worker, "two"), Some(Kind::HardLink { to: path }));
    assert!(matches!(kind(&worker, "one"), Some(Kind::File { .. })));
    let mut left = worker.trees[0].unrested.of(inode);
    assert_eq!(left.next(), None, "its key is known");
}

const SIZE: usize = 4 << 20;

/// A worker on a tree with one file of so many names.
async fn with_names(node: &mut Node, content: &[u8], names: usize) -> Worker {
    node.engine().init_source().await.unwrap();
    node.stop().await;
    linked(&node.tree(), content, names);
    let trees = vec![TreeConfig::new("data", node.tree())];
    let (worker, _) = prepare(node.config(trees)).unwrap();
    worker
}

fn name(n: usize) -> String {
    format!("n{n:05}")
}

fn linked(tree: &Path, content: &[u8], names: usize) {
    let first = tree.join(name(0));
    write(&first, content);
    for n in 1..names {
        std::fs::hard_link(&first, tree.join(name(n))).unwrap();
    }
    aged(&first);
}

/// Waits until no further change can have the stamp of the last one.
pub(super) fn aged(path: &Path) {
    let stat = std::fs::metadata(path).unwrap();
    let changed = Duration::new(stat.ctime() as u64, stat.ctime_nsec() as u32);
    let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap();
    while now() < changed + Duration::from_millis(30) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn walked(names: impl Iterator<Item = usize>) -> Vec<(RelPath, Dirt)> {
    let dirt = Dirt {
        file: true,
        ..Dirt::WALKED
    };
    names
        .map(|n| (RelPath::new(name(n)).unwrap(), dirt))
        .collect()
}

/// The first name carries the content, and all others point to it.
fn assert_linked(worker: &Worker, first: usize, names: usize) {
    let snapshot = worker.shared.index.snapshot().unwrap();
    let to = RelPath::new(name(first)).unwrap();
    for n in first..names {
        let path = RelPath::new(name(n)).unwrap();
        let entry = snapshot.get(worker.trees[0].id, &path).unwrap();
        let kind = entry.and_then(|e| e.current).map(|state| state.kind);
        match n == first {
            true => assert!(matches!(kind, Some(Kind::File { .. }))),
            false => assert_eq!(kind, Some(Kind::HardLink { to: to.clone() }), "{path}"),
        }
    }
}

#[tokio::test]
async fn a_file_is_read_once_whatever_number_of_names_it_has() {
    const NAMES: usize = 30;
    let mut node = Node::new("a", |_| {});
    let mut worker = with_names(&mut node, &noise(SIZE, 1), NAMES).await;
    let before = bytes_read();
    // Each piece is a round of its own.
    for piece in walked(0..NAMES).chunks(12) {
        worker.look(0, piece.to_vec(), Missing::Recorded);
    }
    let read = bytes_read() - before;
    assert!(read < 2 * SIZE as u64, "{read} bytes read of {SIZE}");
    assert_linked(&worker, 0, NAMES);

    std::fs::remove_file(node.tree().join(name(0))).unwrap();
    aged(&node.tree().join(name(1)));
    let before = bytes_read();
    worker.look(0, walked(0..1), Missing::Recorded);
    let marks: Vec<_> = std::mem::take(&mut worker.trees[0].dirty)
        .into_iter()
        .collect();
    assert_eq!(marks.len(), NAMES - 1);
    for slice in marks.chunks(12) {
        worker.look(0, slice.to_vec(), Missing::Recorded);
    }
    let read = bytes_read() - before;
    assert!(
        read < 2 * SIZE as u64,
        "{read} bytes read for a name that is gone"
    );
    assert_linked(&worker, 1, NAMES);
}

/// What was written in the jiffy of the last look, and is to be looked at again, is not taken for known.
#[tokio::test]
async fn a_version_that_is_to_be_read_again_is_not_known() {
    let mut node = Node::new("a", |_| {});
    let mut worker = with_names(&mut node, b"content", 2).await;
    worker.look(0, walked(0..1), Missing::Recorded);
    let key = || {
        let seen = crate::beneath::Root::open(&node.tree()).unwrap();
        let stat = seen.stat(&RelPath::new(name(0)).unwrap()).unwrap();
        stat.unwrap().key()
    };
    let known = |worker: &mut Worker| {
        let known = worker.looker(0, |looker| looker.known(&key()));
        known.unwrap().unwrap().map(|(first, _)| first)
    };
    let first = RelPath::new(name(0)).unwrap();
    assert_eq!(known(&mut worker), Some(first.clone()));
    worker.trees[0].again(first, u64::MAX, None);
    assert_eq!(known(&mut worker), None);
}

#[tokio::test]
async fn thousands_of_names_cost_each_of_them_once() {
    const NAMES: usize = 4200;
    let mut node = Node::new("a", |_| {});
    let mut worker = with_names(&mut node, b"content", NAMES).await;
    worker.look(0, walked(0..NAMES / 2), Missing::Recorded);
    let rest = walked(NAMES / 2..NAMES);
    let sights = worker.looker(0, |looker| looker.look_all(&rest));
    let told = sights.unwrap().unwrap().seen.len();
    assert_eq!(told, rest.len(), "no other name is told of again");
    worker.look(0, rest, Missing::Recorded);
    assert_linked(&worker, 0, NAMES);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_names_of_a_file_are_its_names_on_the_standby() {
    const NAMES: usize = 60;
    let a = Node::new("a", |_| {});
    let b = Node::new("b", |_| {});
    // More than one piece of a scan.
    linked(&a.tree(), &noise(SIZE, 1), NAMES);
    let before = bytes_read();
    let (a, b) = begin(a, b).await;
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    let read = bytes_read() - before;
    assert!(read < 8 * SIZE as u64, "{read} bytes read of {SIZE}");
    assert_equal(&a.tree(), &b.tree());
    std::fs::remove_file(a.tree().join(name(0))).unwrap();
    flush(&a).await;
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}
