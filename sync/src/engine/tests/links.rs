//! Further names of a file that changes while it is read.

use super::pair::{Node, write};
use crate::engine::dirty::{Dirt, Missing};
use crate::engine::handle::open::prepare;
use crate::engine::restless::Unrested;
use crate::engine::worker::Worker;
use crate::entry::Kind;
use crate::index::Writer;
use crate::path::RelPath;
use crate::tree::TreeConfig;
use std::os::unix::fs::MetadataExt;

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
