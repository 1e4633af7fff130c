//! First copies and live changes.

use super::compare::assert_equal;
use super::pair::{Cable, Node, flush, noise, pair, recorded, write};
use crate::engine::TreeState;
use rustix::fs::{FileType, Mode};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Files of all kinds and sizes.
pub fn fill(root: &Path, files: usize) {
    for i in 0..files {
        let size = match i % 50 {
            0 => 0,
            1 => 70_000,
            2 => 300_000,
            n => n * 37,
        };
        write(
            &root.join(format!("d{}/e{}/f{i}", i % 7, i % 31)),
            noise(size, i as u64),
        );
    }
    write(&root.join("big"), noise(3 << 20, 999_999));
    symlink("d1/e1", root.join("link")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    std::fs::create_dir_all(root.join("empty/deeper")).unwrap();
    std::fs::set_permissions(root.join("empty"), PermissionsExt::from_mode(0o1751)).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("fifo"),
        FileType::Fifo,
        Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    write(&root.join("hard/z"), "several names");
    std::fs::hard_link(root.join("hard/z"), root.join("hard/a")).unwrap();
    std::fs::hard_link(root.join("hard/z"), root.join("hard2")).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(root.join("hard/z"), "user.note", b"value", flags).unwrap();
    std::fs::set_permissions(root.join("big"), PermissionsExt::from_mode(0o4711)).unwrap();
    let bad = std::os::unix::ffi::OsStrExt::from_bytes(b"caf\xe9\n");
    write(
        &root.join(std::path::Path::new::<std::ffi::OsStr>(bad)),
        "not utf-8",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_copy_makes_the_trees_equal() {
    let (a, b) = (Node::new("a", |_| {}), Node::new("b", |_| {}));
    fill(&a.tree(), 2000);
    a.engine().init_source().await.unwrap();
    a.engine().begin_source(1).await.unwrap();
    b.engine().begin_replica().await.unwrap();
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    assert!(b.shown().await.fresh_at.is_some());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn live_changes_arrive_and_the_trees_stay_equal() {
    let (a, b) = pair(|_| {}).await;
    let cable = Cable::plug(&a, &b);
    fill(&a.tree(), 300);
    flush(&a).await;
    assert_equal(&a.tree(), &b.tree());
    let root = a.tree();
    write(&root.join("d1/e1/f1"), "changed");
    std::fs::rename(root.join("d2"), root.join("renamed")).unwrap();
    std::fs::remove_dir_all(root.join("d3")).unwrap();
    std::fs::remove_file(root.join("link")).unwrap();
    write(&root.join("link/now a directory/file"), "x");
    std::fs::remove_dir_all(root.join("d4")).unwrap();
    write(&root.join("d4"), "now a file");
    std::fs::set_permissions(root.join("big"), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::remove_file(root.join("hard/a")).unwrap();
    write(&root.join("hard/z"), "both other names have this");
    flush(&a).await;
    assert_equal(&a.tree(), &b.tree());
    let mut big = noise(3 << 20, 999_999);
    big[1_000_000] ^= 1;
    big.splice(2_000_000..2_000_000, *b"inserted");
    std::fs::write(root.join("big"), &big).unwrap();
    flush(&a).await;
    assert_equal(&a.tree(), &b.tree());
    assert!(b.shown().await.trees[0].rescued == 0);
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_name_whose_place_something_else_takes_hands_its_content_on() {
    let (a, b) = pair(|_| {}).await;
    let cable = Cable::plug(&a, &b);
    let root = a.tree();
    for group in ["replaced", "dir", "link"] {
        write(
            &root.join(group).join("1"),
            format!("both names of {group}"),
        );
        std::fs::hard_link(root.join(group).join("1"), root.join(group).join("2")).unwrap();
    }
    write(&root.join("other"), "another file");
    flush(&a).await;
    assert_equal(&a.tree(), &b.tree());
    std::fs::rename(root.join("other"), root.join("replaced/1")).unwrap();
    std::fs::remove_file(root.join("dir/1")).unwrap();
    std::fs::create_dir(root.join("dir/1")).unwrap();
    symlink("nowhere", root.join("new")).unwrap();
    std::fs::rename(root.join("new"), root.join("link/1")).unwrap();
    flush(&a).await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(
        std::fs::read_to_string(b.tree().join("replaced/2")).unwrap(),
        "both names of replaced"
    );
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_session_goes_on_where_it_was() {
    let (a, b) = pair(|_| {}).await;
    fill(&a.tree(), 400);
    for round in 0..50u64 {
        write(
            &a.tree().join(format!("round/{}", round % 9)),
            noise(5000 + round as usize * 7000, round),
        );
        std::fs::remove_file(
            a.tree()
                .join(format!("d{}/e{}/f{round}", round % 7, round % 31)),
        )
        .unwrap();
        // Cuts lie at all distances: in the greeting, in the middle of batches, after the end.
        let mut cable =
            Cable::breaking(&a, &b, 7 * round as usize * round as usize * round as usize);
        tokio::select! {
            // The end that is cut says so; the other one sees the end of the stream.
            _ = &mut cable.source => cable.stop(),
            () = b.until("consistent", |s| s.consistent) => cable.cut().await,
        }
    }
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(
        super::reversal::rescued(&b),
        std::collections::BTreeMap::new()
    );
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_copied_tree_is_not_consistent_even_after_a_restart() {
    let (a, mut b) = pair(|_| {}).await;
    for i in 0..40 {
        write(&a.tree().join(format!("f{i}")), noise(3 << 20, i));
    }
    // All of it is in the index before the first byte is sent: no moment of the copy is a moment of the source.
    recorded(&a).await;
    let cable = Cable::breaking(&a, &b, 90 << 20);
    cable.ended().await.0.expect_err("the cable broke");
    b.until("copying", |s| {
        s.trees[0].state == TreeState::Copying && s.trees[0].epoch.is_some()
    })
    .await;
    b.stop().await;
    b.start();
    b.engine().begin_replica().await.unwrap();
    b.until("copying", |s| {
        s.trees[0].state == TreeState::Copying && !s.consistent
    })
    .await;
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}

/// Of a write through one name only that name is told; when it is gone at the next look, the others must be read.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_through_a_name_that_is_gone_arrives() {
    for gone in ["1", "2"] {
        let (a, b) = pair(|_| {}).await;
        write(&a.tree().join("1"), "first");
        std::fs::hard_link(a.tree().join("1"), a.tree().join("2")).unwrap();
        let cable = Cable::plug(&a, &b);
        flush(&a).await;
        // Time itself is the condition: past the further look that every young stamp gets.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        write(&a.tree().join(gone), "through the name that goes");
        std::fs::remove_file(a.tree().join(gone)).unwrap();
        flush(&a).await;
        b.until("consistent", |s| s.consistent).await;
        assert_equal(&a.tree(), &b.tree());
        cable.cut().await;
    }
}

/// Of small files some go in one piece: each piece is a wake-up of five threads and a packet of its own.
#[tokio::test(flavor = "multi_thread")]
async fn small_files_travel_together() {
    const FILES: u64 = 3000;
    let (a, b) = (Node::new("a", |_| {}), Node::new("b", |_| {}));
    for i in 0..FILES {
        write(&a.tree().join(format!("d{}/f{i}", i % 10)), noise(200, i));
    }
    a.engine().init_source().await.unwrap();
    a.engine().begin_source(1).await.unwrap();
    b.engine().begin_replica().await.unwrap();
    let (cable, _, pieces) = Cable::counting_pieces(&a, &b);
    flush(&a).await;
    assert_equal(&a.tree(), &b.tree());
    let pieces = pieces.load(std::sync::atomic::Ordering::Relaxed);
    // Alone some 200; each file by itself would be more than the files. On a busy machine a message finds no company in time.
    assert!(pieces < FILES / 3 * 2, "{pieces} pieces for {FILES} files");
    cable.cut().await;
}

/// Makes the same tree by other means than a session.
fn seed(from: &std::path::Path, to: &std::path::Path, options: &[&str]) {
    let status = std::process::Command::new("cp")
        .args(options)
        .arg("-T")
        .args([from, to])
        .status();
    assert!(status.unwrap().success());
    // Not what the other node keeps for itself.
    std::fs::remove_dir_all(to.join(".tandem")).unwrap();
}

/// A tree that came to the standby by other means is compared, not sent, and nothing of it is put aside.
async fn seeded(options: &[&str]) {
    let (a, mut b) = (Node::new("a", |_| {}), Node::new("b", |_| {}));
    for n in 0..200 {
        write(
            &a.tree().join(format!("dir{}/f{n}", n % 7)),
            noise(20_000, n),
        );
    }
    write(&a.tree().join("large"), noise(3 << 20, 1000));
    write(&a.tree().join("one"), noise(5000, 1001));
    std::fs::hard_link(a.tree().join("one"), a.tree().join("two")).unwrap();
    std::os::unix::fs::symlink("one", a.tree().join("link")).unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(86_400);
    for name in ["large", "one", "dir3/f3"] {
        let file = std::fs::File::options()
            .write(true)
            .open(a.tree().join(name));
        file.unwrap().set_modified(old).unwrap();
    }
    // As a machine that never ran.
    b.stop().await;
    std::fs::remove_dir_all(b.tree()).unwrap();
    std::fs::remove_dir_all(b.dir.path().join("state")).unwrap();
    seed(&a.tree(), &b.tree(), options);
    write(&b.tree().join("dir3/f3"), "b's own");
    b.start();
    a.engine().init_source().await.unwrap();
    a.engine().begin_source(1).await.unwrap();
    b.engine().begin_replica().await.unwrap();
    let (cable, sent) = Cable::counting(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    let sent = sent.load(std::sync::atomic::Ordering::Relaxed);
    assert!(sent < 200_000, "{sent} bytes for what was there");
    let found = super::reversal::rescued(&b);
    let own = [("dir3/f3".to_owned(), "b's own".to_owned())];
    assert!(found == own.into(), "{:?}", found.keys());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_was_seeded_with_its_times_is_not_sent() {
    seeded(&["-a"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_was_seeded_without_its_times_and_links_is_not_sent() {
    seeded(&["-r", "--no-preserve=all"]).await;
}
