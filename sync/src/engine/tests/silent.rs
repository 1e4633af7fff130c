//! Changes of which no event tells, and such that move no time stamp.

use super::compare::assert_equal;
use super::pair::{Cable, Node, flush, noise, pair, write};
use super::reversal::rescued;
use super::stores::{Block, Map, aio_write};
use crate::entry::LocalKey;
use crate::path::RelPath;
use crate::stat::Stat;
use crate::tree::{TreeConfig, TreeId};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const SIZE: usize = 64 << 10;

fn polled(tree: &mut TreeConfig) {
    tree.poll = Some(SECOND);
    tree.compare_contents = None;
}

fn passed(tree: &mut TreeConfig) {
    tree.pass = SECOND;
    tree.compare_contents = None;
}

fn compared(tree: &mut TreeConfig) {
    tree.compare_contents = Some(SECOND);
}

async fn with_file(change: fn(&mut TreeConfig)) -> (Node, Node, Cable) {
    let (a, b) = pair(change).await;
    write(&a.tree().join("db"), noise(SIZE, 1));
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    assert_equal(&a.tree(), &b.tree());
    (a, b, cable)
}

fn key(node: &Node) -> LocalKey {
    let file = File::open(node.tree().join("db")).unwrap();
    Stat::of_fd(file.as_fd()).unwrap().key()
}

/// The state that the index has of the file: its content's hash is what the source sends.
fn hash(node: &Node) -> Option<crate::entry::Kind> {
    let snapshot = node.engine().shared.index.snapshot().unwrap();
    let path = RelPath::new("db").unwrap();
    let entry = snapshot.get(TreeId::of("data"), &path).unwrap();
    entry.and_then(|e| e.current).map(|s| s.kind)
}

/// Waits until the index has the file as it lies there, and the standby has it too.
async fn arrives(a: &Node, b: &Node, what: &str) {
    let content = std::fs::read(a.tree().join("db")).unwrap();
    let now = crate::entry::Kind::File {
        size: content.len() as u64,
        hash: crate::entry::ContentHash::of(&content),
    };
    a.until(what, |_| hash(a).as_ref() == Some(&now)).await;
    b.until(what, |_| hash(b).as_ref() == Some(&now)).await;
    assert!(
        std::fs::read(b.tree().join("db")).unwrap() == content,
        "{what}"
    );
}

/// Waits until the stamps are so old that no further look is due because of them, which would find anything.
async fn at_rest(a: &Node) {
    let aged = |_: &crate::engine::EngineStatus| {
        crate::hash::now_ns() - key(a).ctime_ns > SECOND.as_nanos().cast_signed()
    };
    a.until("aged", aged).await;
}

async fn writers_without_events(change: fn(&mut TreeConfig)) {
    let (a, b, cable) = with_file(change).await;
    let path = a.tree().join("db");
    let open = |flags| {
        let mut options = File::options();
        options.write(true).custom_flags(flags);
        options.open(&path).unwrap()
    };
    at_rest(&a).await;
    aio_write(&open(0), 0, &Block([2; 4096]));
    arrives(&a, &b, "libaio, buffered").await;
    at_rest(&a).await;
    aio_write(&open(libc::O_DIRECT), 8192, &Block([3; 4096]));
    arrives(&a, &b, "libaio, O_DIRECT").await;
    let mut map = Map::of(&path);
    at_rest(&a).await;
    map.store(4096, b"through the map");
    map.sync();
    arrives(&a, &b, "mmap and msync").await;
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polled_tree_sees_libaio_and_maps() {
    writers_without_events(polled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pass_sees_libaio_and_maps_without_polling() {
    writers_without_events(passed).await;
}

/// Files of polled trees are made durable before they are read, so each store moves the times again.
#[tokio::test(flavor = "multi_thread")]
async fn a_polled_tree_sees_every_store_of_a_map_that_never_syncs() {
    let (a, b, cable) = with_file(polled).await;
    let mut map = Map::of(&a.tree().join("db"));
    for n in 0..3u8 {
        at_rest(&a).await;
        map.store(4096, &[n; 100]);
        arrives(&a, &b, "a store").await;
    }
    cable.cut().await;
}

/// Replaces the content so that the index takes its stamps for those of the content before, as after a store into a page
/// that was dirty. (Such a store itself proves nothing here: any syncfs(2) on the machine makes the page clean.) The node
/// is idle, and takes no notice.
async fn replace_behind_stamps(node: &Node, content: &[u8]) {
    node.engine().idle().await.unwrap();
    std::fs::write(node.tree().join("db"), content).unwrap();
    let (now, path) = (key(node), RelPath::new("db").unwrap());
    let told =
        (node.engine().shared.index).write(|w| w.set_local(TreeId::of("data"), &path, Some(now)));
    told.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_moves_no_time_stamp_is_found_by_its_content() {
    let (a, b, cable) = with_file(compared).await;
    cable.cut().await;
    at_rest(&a).await;
    replace_behind_stamps(&a, &noise(SIZE, 2)).await;
    a.engine().begin_source(1).await.unwrap();
    let cable = Cable::plug(&a, &b);
    arrives(&a, &b, "the other content").await;
    a.until("counted", |s| {
        let contents = s.trees[0].contents.as_ref().unwrap();
        contents.differed + contents.last.map_or(0, |last| last.differed) > 0
    })
    .await;
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_whose_content_changed_behind_its_stamps_is_repaired() {
    let (a, b, cable) = with_file(compared).await;
    cable.cut().await;
    at_rest(&b).await;
    let wrong = noise(SIZE, 2);
    replace_behind_stamps(&b, &wrong).await;
    b.engine().begin_replica().await.unwrap();
    let cable = Cable::plug(&a, &b);
    let right = std::fs::read(a.tree().join("db")).unwrap();
    let path = b.tree().join("db");
    b.until("repaired", |s| {
        s.consistent && std::fs::read(&path).is_ok_and(|is| is == right)
    })
    .await;
    let saved: Vec<String> = rescued(&b).into_values().collect();
    assert!(saved == [String::from_utf8_lossy(&wrong)]);
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_goes_on_after_a_restart() {
    let mut a = Node::new("a", |tree| {
        tree.compare_contents = Some(Duration::from_secs(3))
    });
    // One piece and a bit.
    for n in 0..600 {
        write(&a.tree().join(format!("f{n:03}")), "x");
    }
    a.engine().init_source().await.unwrap();
    a.engine().begin_source(1).await.unwrap();
    a.until("one piece compared", |s| {
        s.trees[0].contents.as_ref().unwrap().files > 0
    })
    .await;
    a.stop().await;
    let restarted = u64::try_from(crate::hash::now_ns() / 1_000_000).unwrap();
    a.start();
    a.engine().begin_source(1).await.unwrap();
    a.until("the round is complete", |s| {
        s.trees[0].contents.as_ref().unwrap().last.is_some()
    })
    .await;
    let status = a.shown().await;
    let last = status.trees[0].contents.as_ref().unwrap().last.unwrap();
    assert_eq!((last.files, last.differed), (600, 0));
    assert!(last.begun_unix_ms < restarted, "it went on: {last:?}");
}
