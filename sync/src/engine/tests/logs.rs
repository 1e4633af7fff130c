//! Files that only grow: an append costs what is new, on both ends and between them.

use super::compare::assert_equal;
use super::in_place::is_cut;
use super::pair::{Cable, Node, PATIENCE, flush, noise, pair, write};
use super::reversal::rescued;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

const SIZE: usize = 24 << 20;

fn append(path: &Path, bytes: &[u8]) {
    let file = std::fs::File::options().append(true).open(path);
    file.unwrap().write_all(bytes).unwrap();
}

/// Both have the log, and its end in their memory.
async fn with_log(size: usize) -> (Node, Node, Cable) {
    let (a, b) = pair(|_| {}).await;
    write(&a.tree().join("log"), noise(size, 1));
    let cable = Cable::plug(&a, &b);
    equal(&a, &b).await;
    (a, b, cable)
}

async fn equal(a: &Node, b: &Node) {
    flush(a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
}

fn log(node: &Node) -> Vec<u8> {
    std::fs::read(node.tree().join("log")).unwrap()
}

fn inode(node: &Node) -> u64 {
    std::fs::metadata(node.tree().join("log")).unwrap().ino()
}

async fn unverified(node: &Node) -> u64 {
    node.shown().await.trees[0].unverified
}

async fn verified(a: &Node, b: &Node) {
    let report = a.engine().flush_verified(PATIENCE).await.unwrap();
    assert!(report.not_covered.is_empty(), "{report:?}");
    a.until("verified", |s| s.trees[0].unverified == 0).await;
    b.until("verified", |s| s.trees[0].unverified == 0).await;
    assert_equal(&a.tree(), &b.tree());
}

/// Bytes that this process has read. Each test has a process of its own.
pub(super) fn bytes_read() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_costs_its_tail_to_both_and_on_the_wire() {
    let (a, b, cable) = with_log(SIZE).await;
    cable.cut().await;
    let (cable, sent) = Cable::counting(&a, &b);
    // What the young stamps of the first copy ask for is over, and with it the last reading of the whole.
    append(&a.tree().join("log"), b"one line\n");
    flush(&a).await;
    let before = (bytes_read(), sent.load(Ordering::Relaxed), inode(&b));
    for n in 0..5 {
        append(&a.tree().join("log"), &noise(100_000, n));
        flush(&a).await;
    }
    let read = bytes_read() - before.0;
    let sent = sent.load(Ordering::Relaxed) - before.1;
    assert_eq!(log(&a), log(&b));
    assert!(sent < 600_000, "{sent} bytes sent for 500000");
    assert!(read < SIZE as u64 / 2, "{read} bytes read for 500000");
    assert_eq!(inode(&b), before.2, "appended to");
    a.until("unverified", |s| s.trees[0].unverified == 1).await;
    b.until("unverified", |s| s.trees[0].unverified == 1).await;
    let read = bytes_read();
    verified(&a, &b).await;
    let read = bytes_read() - read;
    assert!(read > 2 * SIZE as u64, "{read} bytes read to verify");
    equal(&a, &b).await;
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_grew_while_the_peer_was_away_costs_what_grew() {
    let (a, b, cable) = with_log(4 << 20).await;
    cable.cut().await;
    for n in 0..10 {
        append(&a.tree().join("log"), &noise(10_000, n));
        let _ = a.engine().flush(Duration::from_millis(50)).await;
    }
    let (cable, sent) = Cable::counting(&a, &b);
    equal(&a, &b).await;
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent < 200_000, "{sent} bytes sent for 100000");
    verified(&a, &b).await;
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_before_the_old_end_is_found_when_the_file_rests() {
    let (a, b, cable) = with_log(4 << 20).await;
    append(&a.tree().join("log"), b"line\n");
    equal(&a, &b).await;
    let file = std::fs::File::options()
        .write(true)
        .open(a.tree().join("log"))
        .unwrap();
    // In one look with an append: far before the end, where it is not compared; and at the end, where it is.
    cable.cut().await;
    a.engine().idle().await.unwrap();
    file.write_all_at(b"changed", 1000).unwrap();
    append(&a.tree().join("log"), b"another\n");
    a.engine().begin_source(2).await.unwrap();
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    assert_eq!(log(&b).len(), log(&a).len());
    assert!(log(&a) != log(&b), "only the tail was compared");
    verified(&a, &b).await;
    cable.cut().await;
    a.engine().idle().await.unwrap();
    let end = log(&a).len() as u64;
    file.write_all_at(b"changed", end - 1000).unwrap();
    append(&a.tree().join("log"), b"another\n");
    a.engine().begin_source(3).await.unwrap();
    let cable = Cable::plug(&a, &b);
    equal(&a, &b).await;
    assert!(rescued(&b).is_empty());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_list_and_the_new_master_has_its_own() {
    let (mut a, mut b, cable) = with_log(2 << 20).await;
    append(&a.tree().join("log"), b"line\n");
    equal(&a, &b).await;
    cable.cut().await;
    a.stop().await;
    b.stop().await;
    a.start();
    b.start();
    assert_eq!((unverified(&a).await, unverified(&b).await), (1, 1));
    b.engine().begin_source(2).await.unwrap();
    a.engine().begin_replica().await.unwrap();
    let cable = Cable::plug(&b, &a);
    append(&b.tree().join("log"), b"of the new master\n");
    equal(&b, &a).await;
    verified(&b, &a).await;
    assert!(rescued(&a).is_empty());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_written_all_the_time_is_followed_and_is_not_fuzzy() {
    let (a, b, cable) = with_log(16 << 20).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let path = a.tree().join("log");
    let writer = std::thread::spawn(move || {
        let mut stopped = stopped;
        while stopped.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
            append(&path, &[b'x'; 500]);
        }
    });
    let size = |node: &Node| std::fs::metadata(node.tree().join("log")).unwrap().len();
    for _ in 0..5 {
        // More than there was: the writer may not have begun.
        let there = size(&a);
        b.until("follows", |_| size(&b) > there).await;
    }
    assert!(a.shown().await.trees[0].fuzzy.is_empty());
    let report = a.engine().flush_verified(Duration::from_millis(300)).await;
    let report = report.unwrap();
    let named = |n: &crate::engine::NotCovered| n.why.contains("log has grown");
    assert!(report.not_covered.iter().any(named), "{report:?}");
    stop.send(()).unwrap();
    writer.join().unwrap();
    verified(&a, &b).await;
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_files_that_grow_go_the_ordinary_way() {
    let (a, b, cable) = with_log(2 << 20).await;
    // Of two names.
    write(&a.tree().join("one"), noise(2 << 20, 7));
    std::fs::hard_link(a.tree().join("one"), a.tree().join("two")).unwrap();
    equal(&a, &b).await;
    append(&a.tree().join("two"), b"line\n");
    equal(&a, &b).await;
    // Changed on the standby meanwhile: its version is kept whole.
    cable.cut().await;
    append(&b.tree().join("log"), b"of the standby\n");
    let own = log(&b);
    append(&a.tree().join("log"), b"of the master\n");
    let cable = Cable::plug(&a, &b);
    equal(&a, &b).await;
    let found = rescued(&b);
    let own = BTreeMap::from([("log".to_owned(), String::from_utf8_lossy(&own).into_owned())]);
    assert!(found == own, "{:?}", found.keys());
    cable.cut().await;
}

/// The worker of the standby ends as if it were killed, at every step of an append. After the start the log is a
/// beginning of the new version, and not shorter than the old one.
#[tokio::test(flavor = "multi_thread")]
async fn wherever_it_is_cut_the_log_is_a_version_that_was() {
    let mut seen = BTreeMap::new();
    for n in 1.. {
        let (a, mut b, cable) = with_log(1 << 20).await;
        append(&a.tree().join("log"), b"line\n");
        equal(&a, &b).await;
        cable.cut().await;
        let old = log(&b).len();
        append(&a.tree().join("log"), &noise(300_000, 5));
        let _ = a.engine().flush(Duration::from_millis(100)).await;
        b.engine().shared.cuts.arm(n);
        let mut cable = Cable::plug(&a, &b);
        let cut = is_cut(&a, &b).await;
        if cut {
            let place = b.engine().shared.cuts.place();
            cable.cut().await;
            b.stop().await;
            b.start();
            b.engine().begin_replica().await.unwrap();
            let (found, new) = (log(&b), log(&a));
            let whole = found.len() >= old && new.starts_with(&found);
            assert!(whole, "cut {n}, {place:?}: {} bytes", found.len());
            *seen.entry(place.unwrap()).or_insert(0) += 1;
            cable = Cable::plug(&a, &b);
        }
        equal(&a, &b).await;
        verified(&a, &b).await;
        assert_eq!(rescued(&b), BTreeMap::new(), "cut {n}");
        cable.cut().await;
        if !cut {
            break;
        }
    }
    assert!(seen.contains_key("after a journal was opened"), "{seen:?}");
}

/// A rename does not take a file off the list of those that are to be compared.
#[tokio::test(flavor = "multi_thread")]
async fn what_grew_and_was_renamed_with_its_directory_is_verified_all_the_same() {
    let (a, b) = pair(|_| {}).await;
    let log = |node: &Node, dir: &str| node.tree().join(dir).join("log");
    write(&log(&a, "dir"), noise(4 << 20, 1));
    let cable = Cable::plug(&a, &b);
    equal(&a, &b).await;
    append(&log(&a, "dir"), b"line\n");
    equal(&a, &b).await;
    // In one look with an append, where it is not compared.
    cable.cut().await;
    a.engine().idle().await.unwrap();
    let file = std::fs::File::options().write(true).open(log(&a, "dir"));
    file.unwrap().write_all_at(b"changed", 1000).unwrap();
    append(&log(&a, "dir"), b"another\n");
    a.engine().begin_source(2).await.unwrap();
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    let read = |path: &Path| std::fs::read(path).unwrap();
    assert!(
        read(&log(&a, "dir")) != read(&log(&b, "dir")),
        "only the tail was compared"
    );
    std::fs::rename(a.tree().join("dir"), a.tree().join("dir2")).unwrap();
    flush(&a).await;
    verified(&a, &b).await;
    cable.cut().await;
}
