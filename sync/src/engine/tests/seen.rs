//! What a source sees: nothing twice, nothing that is gone again, and nothing of a root that is not its own.

use super::compare::assert_equal;
use super::pair::{Cable, Node, PATIENCE, flush, noise, pair, write};
use super::reversal::rescued;
use crate::engine::{Mode, TreeState};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

#[tokio::test(flavor = "multi_thread")]
async fn another_directory_in_the_roots_place_stops_the_tree_until_the_right_one_is_back() {
    let (a, b) = pair(|_| {}).await;
    for n in 0..20 {
        write(&a.tree().join(format!("f{n}")), format!("content {n}"));
    }
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    let away = a.dir.path().join("away");
    std::fs::rename(a.tree(), &away).unwrap();
    write(&a.tree().join("of another tree"), "other");
    a.until("stopped", |s| {
        !s.trees[0].proven && s.trees[0].state != TreeState::Consistent
    })
    .await;
    let report = a.engine().flush(Duration::from_secs(2)).await.unwrap();
    assert!(report.covered.is_empty(), "{report:?}");
    assert!((0..20).all(|n| b.tree().join(format!("f{n}")).exists()));
    assert!(!b.tree().join("of another tree").exists());
    // What happened in it while nobody looked is found.
    write(&away.join("f3"), "changed meanwhile");
    std::fs::remove_file(away.join("f4")).unwrap();
    std::fs::rename(a.tree(), a.dir.path().join("other")).unwrap();
    std::fs::rename(&away, a.tree()).unwrap();
    a.until("goes on", |s| {
        s.trees[0].proven && s.trees[0].state == TreeState::Consistent
    })
    .await;
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_standby_itself_writes_is_no_change() {
    let (a, b) = pair(|_| {}).await;
    let cable = Cable::plug(&a, &b);
    for n in 0..50 {
        write(&a.tree().join(format!("dir{}/f{n}", n % 3)), noise(3000, n));
    }
    write(&a.tree().join("large"), noise(2 << 20, 99));
    flush(&a).await;
    b.until("consistent", |s| s.consistent && s.trees[0].queue == 0)
        .await;
    // Each commit of the index writes its file.
    let index = b.dir.path().join("state/index.redb");
    let written = || std::fs::metadata(&index).unwrap().modified().unwrap();
    let until = SystemTime::now() + Duration::from_secs(2);
    let mut last = written();
    let mut quiet = 0;
    // What the young stamps ask for may still come; then nothing does.
    while SystemTime::now() < until || quiet < 20 {
        assert!(SystemTime::now() < until + PATIENCE, "it never rests");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = written();
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
    }
    assert!(rescued(&b).is_empty());
    assert_eq!(b.shown().await.trees[0].local_changes, 0);
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_costs_its_end() {
    let (a, b) = pair(|_| {}).await;
    write(&a.tree().join("file"), noise(1 << 20, 0));
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    cable.cut().await;
    // Rewritten ten times, each of them recorded; and ten times made aside and renamed.
    for n in 1..=10 {
        write(&a.tree().join("file"), noise(1 << 20, n));
        write(&a.tree().join(".new.tmp"), noise(500_000, 100 + n));
        std::fs::rename(a.tree().join(".new.tmp"), a.tree().join("new")).unwrap();
        let _ = a.engine().flush(Duration::from_millis(30)).await;
    }
    let (cable, sent) = Cable::counting(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent < 1_700_000, "{sent} bytes for 1.5 MB that are left");
    cable.cut().await;
}

/// Resident memory of this process, in KiB, now and at its most.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next());
        kib.unwrap().parse().unwrap()
    };
    (of("VmRSS:"), of("VmHWM:"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_a_hundred_thousand_is_in_the_index_and_not_in_memory() {
    const FILES: usize = 100_000;
    let (a, b) = pair(|_| {}).await;
    write(&a.tree().join("first"), "x");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    cable.cut().await;
    let (before, _) = memory();
    for dir in 0..100 {
        std::fs::create_dir(a.tree().join(format!("d{dir}"))).unwrap();
        for n in 0..FILES / 100 {
            std::fs::write(a.tree().join(format!("d{dir}/f{n}")), b"").unwrap();
        }
    }
    let recorded = tokio::time::Instant::now() + 6 * PATIENCE;
    while a.engine().status().trees[0].files < FILES as u64 {
        assert!(tokio::time::Instant::now() < recorded, "not recorded");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let cable = Cable::plug(&a, &b);
    let report = a.engine().flush(6 * PATIENCE).await.unwrap();
    assert_eq!(report.covered, ["data"], "{report:?}");
    let (_, most) = memory();
    // Two indexes' caches of 64 MiB are half of it.
    assert!(most - before < 256 << 10, "{} KiB more", most - before);
    let names = |node: &Node| {
        let entries = walkdir::WalkDir::new(node.tree()).into_iter();
        let ours = entries.filter_entry(|e| e.file_name() != ".tandem");
        ours.count()
    };
    assert_eq!(names(&a), names(&b));
    cable.cut().await;
}

/// Whoever asks for the status behind a command finds in it what the command did.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_shown_when_it_has_ended() {
    let (a, b) = pair(|_| {}).await;
    let mode = |node: &Node| node.engine().status().mode;
    assert_eq!(mode(&a), Mode::Source { term: 1 });
    assert_eq!(mode(&b), Mode::Replica);
    write(&a.tree().join("file"), "content");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    let status = a.engine().status();
    assert_eq!((status.seq, status.trees[0].files), (status.acked, 1));
    b.until("consistent", |s| s.consistent).await;
    b.engine().hold().await.unwrap();
    assert!(b.engine().status().hold);
    b.engine().release_hold(PATIENCE).await.unwrap();
    assert!(!b.engine().status().hold);
    cable.cut().await;
    b.engine().adopt().await.unwrap();
    assert!(!b.engine().status().consistent, "of no history");
    b.engine().idle().await.unwrap();
    assert_eq!(mode(&b), Mode::Idle);
}
