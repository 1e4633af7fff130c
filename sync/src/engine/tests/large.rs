//! Small changes of large files: what they are made of is known on both sides, and the rest is not read again.

use super::compare::assert_equal;
use super::pair::{Cable, Node, flush, noise, pair, write};
use crate::tree::Update;
use std::os::unix::fs::FileExt;

const SIZE: usize = 40 << 20;

/// Bytes that this process has read: the tests run each in one of its own, with both nodes.
fn bytes_read() -> u64 {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_read_once_in_all() {
    let (a, mut b) = pair(|t| t.update = Update::InPlace).await;
    write(&a.tree().join("base"), noise(SIZE, 1));
    let mut cable = Cable::plug(&a, &b);
    equal(&a, &b).await;
    // The file may have been looked at while it was written: then it is read whole on both sides once more.
    change(&a, &b, 0).await;
    for round in 1..3 {
        let times = change(&a, &b, round).await;
        assert!(times < 1.5, "{times} times the file");
    }
    // What a new process does not know it reads, once.
    cable.cut().await;
    b.stop().await;
    b.start();
    b.engine().begin_replica().await.unwrap();
    cable = Cable::plug(&a, &b);
    equal(&a, &b).await;
    let times = change(&a, &b, 3).await;
    assert!(times < 2.5, "{times} times the file");
    let times = change(&a, &b, 4).await;
    assert!(times < 1.5, "{times} times the file");
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}
