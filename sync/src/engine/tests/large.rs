//! Small changes of large files: what they are made of is known on both sides, and the rest is not read again.

use super::compare::assert_equal;
use super::pair::{Cable, Node, flush, noise, pair, write};
use crate::tree::Update;
use std::os::unix::fs::FileExt;

const SIZE: usize = 40 << 20;

/// Bytes that this process has read: the tests run each in one of its own, with both nodes.
pub(super) fn bytes_read() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.unwrap().parse().unwrap()
}

async fn equal(a: &Node, b: &Node) {
    flush(a).await;
    b.until("consistent", |s| s.consistent).await;
}

/// Bytes read until a small change is durable on the replica, in multiples of the file.
async fn change(a: &Node, b: &Node, round: u64) -> f64 {
    let file = std::fs::File::options()
        .write(true)
        .open(a.tree().join("base"))
        .unwrap();
    let before = bytes_read();
    for n in 1..5 {
        file.write_all_at(&noise(3000, round), n * 7_654_321 + round * 100_000)
            .unwrap();
    }
    equal(a, b).await;
    (bytes_read() - before) as f64 / SIZE as f64
}

/// The best of some changes: where the machine is busy, one may be looked at in its midst, and is read again at its end.
async fn least(a: &Node, b: &Node, rounds: std::ops::Range<u64>) -> f64 {
    let mut least = f64::MAX;
    for round in rounds {
        least = least.min(change(a, b, round).await);
    }
    least
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_read_once_in_all() {
    let (a, mut b) = pair(|t| t.update = Update::InPlace).await;
    write(&a.tree().join("base"), noise(SIZE, 1));
    let mut cable = Cable::plug(&a, &b);
    equal(&a, &b).await;
    // The file may have been looked at while it was written: then it is read whole on both sides once more.
    change(&a, &b, 0).await;
    let times = least(&a, &b, 1..5).await;
    assert!(times < 1.5, "{times} times the file");
    // What a new process does not know it reads, once.
    cable.cut().await;
    b.stop().await;
    b.start();
    b.engine().begin_replica().await.unwrap();
    cable = Cable::plug(&a, &b);
    equal(&a, &b).await;
    change(&a, &b, 5).await;
    let times = least(&a, &b, 6..10).await;
    assert!(times < 1.5, "{times} times the file");
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}
