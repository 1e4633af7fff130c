//! Files with holes: neither the link nor the standby's disk gets their zeros.

use super::compare::assert_equal;
use super::pair::{Cable, Node, PATIENCE, flush, noise, pair, write};
use crate::holes;
use crate::tree::Update;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::Ordering;

const MB: u64 = 1 << 20;

fn open(node: &Node, name: &str) -> File {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(node.tree().join(name))
        .unwrap()
}

/// 30 MiB of which 200 KiB at three places are data; the last MiB is a hole.
fn sparse(node: &Node, name: &str) -> File {
    let file = open(node, name);
    file.write_all_at(&noise(64 << 10, 1), 0).unwrap();
    file.write_all_at(&noise(72 << 10, 2), 17 * MB + 8192)
        .unwrap();
    file.write_all_at(&noise(64 << 10, 3), 28 * MB).unwrap();
    file.set_len(30 * MB).unwrap();
    file
}

fn on_disk(node: &Node, name: &str) -> u64 {
    let found = std::fs::metadata(node.tree().join(name)).unwrap();
    found.blocks() * 512
}

async fn equal(a: &Node, b: &Node) {
    flush(a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_are_neither_sent_nor_stored() {
    let (a, b) = pair(|_| {}).await;
    sparse(&a, "image");
    let small = open(&a, "small");
    small.write_all_at(b"data", 20 << 10).unwrap();
    small.set_len(60 << 10).unwrap();
    for i in 0..40 {
        // Enough for a batch whose small files are made at once.
        write(&a.tree().join(format!("others/{i}")), b"x");
    }
    let also = open(&a, "others/small");
    also.write_all_at(b"data", 40 << 10).unwrap();
    let (cable, written) = Cable::counting(&a, &b);
    equal(&a, &b).await;
    let bytes = written.load(Ordering::SeqCst);
    assert!(bytes < 320 << 10, "{bytes} bytes on the link");
    for (name, most) in [
        ("image", 256 << 10),
        ("small", 4096),
        ("others/small", 4096),
    ] {
        let stored = on_disk(&b, name);
        assert!(stored <= most, "{name} takes {stored} bytes");
    }
    cable.cut().await;
}

/// What changes is data into a hole, a hole into data, and the length. (A file that became longer is first taken for one that was only
/// appended to.)
async fn changed(update: Update) -> u64 {
    let (a, b) = match update {
        Update::Atomic => pair(|_| {}).await,
        Update::InPlace => pair(|t| t.update = Update::InPlace).await,
    };
    let image = sparse(&a, "image");
    let cable = Cable::plug(&a, &b);
    equal(&a, &b).await;
    let before = std::fs::metadata(b.tree().join("image")).unwrap().ino();
    cable.cut().await;
    holes::punch(&image, 16 << 10, 16 << 10).unwrap();
    holes::punch(&image, 17 * MB, MB).unwrap();
    image.write_all_at(&noise(8192, 4), 22 * MB + 512).unwrap();
    image.set_len(29 * MB + 5).unwrap();
    let (cable, written) = Cable::counting(&a, &b);
    equal(&a, &b).await;
    let bytes = written.load(Ordering::SeqCst);
    assert!(bytes < 200 << 10, "{bytes} bytes on the link");
    let stored = on_disk(&b, "image");
    assert!(stored <= 152 << 10, "{stored} bytes on the disk");
    cable.cut().await;
    before ^ std::fs::metadata(b.tree().join("image")).unwrap().ino()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_has_the_holes_of_its_new_version() {
    assert_ne!(changed(Update::Atomic).await, 0, "replaced");
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_are_made_in_place() {
    assert_eq!(changed(Update::InPlace).await, 0, "the same file");
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_stay_through_a_copy_a_cut_and_a_hold() {
    let (a, b) = pair(|_| {}).await;
    sparse(&a, "image");
    // Enough for the first data, and for none of the last.
    let cable = Cable::breaking(&a, &b, 150 << 10);
    let _ = cable.ended().await;
    let cable = Cable::plug(&a, &b);
    equal(&a, &b).await;
    std::fs::copy(a.tree().join("image"), a.tree().join("copy")).unwrap();
    equal(&a, &b).await;
    b.engine().hold().await.unwrap();
    let held = sparse(&a, "held");
    held.write_all_at(b"otherwise", 0).unwrap();
    flush(&a).await;
    b.engine().release_hold(PATIENCE).await.unwrap();
    equal(&a, &b).await;
    for name in ["image", "copy", "held"] {
        let stored = on_disk(&b, name);
        assert!(stored <= 256 << 10, "{name} takes {stored} bytes");
    }
    cable.cut().await;
}
