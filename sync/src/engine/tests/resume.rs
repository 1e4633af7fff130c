//! A large file that was cut on its way: what came is not sent again.

use super::compare::assert_equal;
use super::pair::{Cable, Node, flush, noise, pair, write};
use crate::engine::command::Command;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Bytes of the large file.
const SIZE: usize = 6 << 20;
/// Where the first transfer is cut.
const CUT: usize = 4 << 20;
/// What a transfer may cost besides the bytes that are new: messages, sums of chunks, and what was under way at the cut.
const SPARE: u64 = 640 << 10;

/// A pair whose first transfer of `big` was cut, with the content of `big`.
async fn cut(old: Option<&[u8]>) -> (Node, Node, Vec<u8>) {
    let (a, b) = pair(|_| {}).await;
    if let Some(old) = old {
        write(&a.tree().join("big"), old);
        let cable = Cable::plug(&a, &b);
        flush(&a).await;
        cable.cut().await;
    }
    let big = noise(SIZE, 1);
    write(&a.tree().join("big"), &big);
    // It is in the index before the first byte is sent.
    recorded(&a).await;
    let cable = Cable::breaking(&a, &b, CUT);
    cable.ended().await.0.expect_err("the cable broke");
    assert!(partials(&b).len() == 1, "{:?}", partials(&b));
    (a, b, big)
}

/// What was written is in the source's index.
async fn recorded(node: &Node) {
    let shared = &node.engine().shared;
    let barrier = shared.ask(|reply| Command::Barrier { only: None, reply });
    barrier.await.unwrap();
}

fn partials(node: &Node) -> Vec<PathBuf> {
    let dir = std::fs::read_dir(node.tree().join(".tandem/partial")).unwrap();
    dir.map(|e| e.unwrap().path()).collect()
}

/// Changes bytes of the large file in place.
fn change(node: &Node, bytes: &[u8], at: usize) -> File {
    let file = File::options()
        .write(true)
        .open(node.tree().join("big"))
        .unwrap();
    file.write_all_at(bytes, at as u64).unwrap();
    file
}

/// Brings the pair together again. Returns the bytes that the source sent for it.
async fn again(a: &Node, b: &Node) -> u64 {
    let (cable, sent) = Cable::counting(a, b);
    flush(a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    // The next word of the source after the last change: everything was received.
    tokio::time::timeout(super::pair::PATIENCE, async {
        while !partials(b).is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("nothing of a transfer stays");
    cable.cut().await;
    sent.load(std::sync::atomic::Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_rest_is_sent_after_a_cut_and_a_restart_of_either_end() {
    let (mut a, mut b, _) = cut(None).await;
    a.stop().await;
    a.start();
    a.engine().begin_source(1).await.unwrap();
    b.stop().await;
    b.start();
    b.engine().begin_replica().await.unwrap();
    let sent = again(&a, &b).await;
    assert!(sent < (SIZE - CUT) as u64 + SPARE, "{sent} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_meanwhile_costs_its_changes_and_the_rest() {
    let (a, b, big) = cut(None).await;
    let file = change(&a, &[!big[3_000_000]], 3_000_000);
    file.set_len(SIZE as u64 - 7).unwrap();
    recorded(&a).await;
    let sent = again(&a, &b).await;
    assert!(sent < (SIZE - CUT) as u64 + SPARE, "{sent} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_and_the_old_version_serve_together() {
    let mut old = noise(SIZE, 2);
    old[5 << 20..].copy_from_slice(&noise(SIZE, 1)[5 << 20..]);
    let (a, b, _) = cut(Some(&old)).await;
    let sent = again(&a, &b).await;
    assert!(sent < (5 << 20) - CUT as u64 + SPARE, "{sent} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_of_what_came_costs_its_own_chunk() {
    let (a, mut b, _) = cut(None).await;
    b.stop().await;
    // As after a power cut: a length that is right, and a block that never reached the disk.
    let file = File::options().write(true).open(&partials(&b)[0]).unwrap();
    file.write_all_at(&[0; 4096], 2 << 20).unwrap();
    b.start();
    b.engine().begin_replica().await.unwrap();
    let sent = again(&a, &b).await;
    assert!(sent < (SIZE - CUT) as u64 + SPARE, "{sent} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_of_a_file_that_is_gone_goes_too() {
    let (a, b, _) = cut(None).await;
    std::fs::remove_file(a.tree().join("big")).unwrap();
    let sent = again(&a, &b).await;
    assert!(sent < SPARE, "{sent} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_while_it_is_sent_is_not_sent_from_its_beginning() {
    let (a, b, big) = cut(None).await;
    // Known to the source, and changed before it is sent: the source finds that at the end, and gives the item up.
    let (cable, sent) = Cable::counting(&a, &b);
    change(&a, &[!big[SIZE - 1]], SIZE - 1);
    flush(&a).await;
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
    let sent = sent.load(std::sync::atomic::Ordering::Relaxed);
    assert!(sent < (SIZE - CUT) as u64 + SPARE, "{sent} bytes");
}
