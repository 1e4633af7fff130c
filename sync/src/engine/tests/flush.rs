//! What a flush cannot cover is named.

use super::pair::{Cable, flush, noise, pair, write};
use crate::engine::{FlushReport, FreezeHooks, TreeState};
use crate::path::RelPath;
use crate::tree::{Freeze, MaxDelete, TreeConfig};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn names(report: &FlushReport, text: &str) -> bool {
    let all = report.not_covered.iter().chain(&report.except);
    all.into_iter().any(|n| n.why.contains(text))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_never_rests_is_named() {
    let (a, b) = pair(|_| {}).await;
    // Large enough that a write falls into every reading of it.
    write(&a.tree().join("busy"), noise(48 << 20, 1));
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    cable.cut().await;
    let writer = Busy::begin(&a, 48 << 20);
    // On a machine with much else to do the writer may rest for as long as one reading takes.
    let mut named = false;
    for _ in 0..10 {
        a.until("fuzzy", |s| s.trees[0].fuzzy == ["busy"]).await;
        let report = a.engine().flush(Duration::from_secs(1)).await.unwrap();
        named |= names(&report, "busy changes faster");
        if named {
            break;
        }
    }
    assert!(named);
    writer.end();
    a.until("at rest", |s| s.trees[0].fuzzy.is_empty()).await;
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    assert_eq!(
        std::fs::read(a.tree().join("busy")).unwrap(),
        std::fs::read(b.tree().join("busy")).unwrap()
    );
    cable.cut().await;
}

/// A planned move: who wrote is shut out, and what was written last is not what was read last.
#[tokio::test(flavor = "multi_thread")]
async fn what_never_rested_is_whole_on_the_standby_behind_the_fence() {
    let (a, b) = pair(|_| {}).await;
    const SIZE: usize = 24 << 20;
    write(&a.tree().join("busy"), noise(SIZE, 1));
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    let writer = Busy::begin(&a, SIZE as u64);
    a.until("fuzzy", |s| s.trees[0].fuzzy == ["busy"]).await;
    // It is written all the time: nothing that was acknowledged may be left behind in silence.
    let refused = a.engine().final_flush(Duration::from_secs(1)).await;
    let why = refused.unwrap_err().to_string();
    assert!(
        why.starts_with("busy in the tree data changes faster"),
        "{why}"
    );
    // The wait for its next reading is a new one when it ends.
    let there = std::fs::read(b.tree().join("busy")).unwrap();
    b.until("a newer version", |_| {
        std::fs::read(b.tree().join("busy")).unwrap() != there
    })
    .await;
    writer.end();
    a.engine().final_flush(super::pair::PATIENCE).await.unwrap();
    let (here, there) = (a.tree().join("busy"), b.tree().join("busy"));
    assert!(std::fs::read(here).unwrap() == std::fs::read(there).unwrap());
    cable.cut().await;
}

/// Copies of files that never rest, which the node keeps.
fn kept(node: &super::pair::Node) -> usize {
    let dir = std::fs::read_dir(node.tree().join(".tandem/set")).unwrap();
    dir.count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_never_rests_is_sent_again_and_again_and_keeps_nothing_else_waiting() {
    let (a, b) = pair(|_| {}).await;
    const SIZE: usize = 24 << 20;
    write(&a.tree().join("busy"), noise(SIZE, 1));
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    let there = || std::fs::read(b.tree().join("busy")).unwrap();
    let writer = Busy::begin(&a, SIZE as u64);
    a.until("fuzzy", |s| s.trees[0].fuzzy == ["busy"]).await;
    for n in 0..3 {
        let (before, other) = (there(), format!("other{n}"));
        write(&a.tree().join(&other), "other");
        let report = a.engine().flush(super::pair::PATIENCE).await.unwrap();
        assert_eq!(report.covered, ["data"], "{report:?}");
        assert!(b.tree().join(&other).exists());
        b.until("a newer version", |_| there() != before).await;
    }
    assert!(kept(&a) <= 1, "the one before goes");
    b.until("marked", |s| s.trees[0].fuzzy == ["busy"]).await;
    writer.end();
    a.until("at rest", |s| s.trees[0].fuzzy.is_empty()).await;
    flush(&a).await;
    b.until("not marked", |s| s.trees[0].fuzzy.is_empty()).await;
    assert!(std::fs::read(a.tree().join("busy")).unwrap() == there());
    assert_eq!(kept(&a), 0);
    cable.cut().await;
}

/// A standby knows which of its files may be torn, over a restart too, and as master says so until they are written again.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_takes_over_names_what_may_be_torn() {
    let (a, mut b) = pair(|_| {}).await;
    const SIZE: usize = 24 << 20;
    for name in ["busy", "quiet"] {
        write(&a.tree().join(name), noise(SIZE, 1));
    }
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    let there = || std::fs::read(b.tree().join("busy")).unwrap();
    let before = there();
    let writer = Busy::begin(&a, SIZE as u64);
    b.until("a newer version", |_| there() != before).await;
    b.until("marked", |s| s.trees[0].fuzzy == ["busy"]).await;
    cable.cut().await;
    writer.end();
    b.stop().await;
    b.start();
    b.engine().begin_source(2).await.unwrap();
    let alarm = |s: &crate::engine::EngineStatus| {
        let alarm = s.alarms.iter().find(|a| a.kind == "fuzzy");
        alarm.map(|a| a.text.clone())
    };
    b.until("an alarm", |s| alarm(s).is_some()).await;
    let text = alarm(&b.shown().await).unwrap();
    assert!(
        text.starts_with("1 file(s)") && text.contains(": busy;"),
        "{text}"
    );
    assert_eq!(b.shown().await.trees[0].fuzzy, ["busy"]);
    // A standby of the new master hears of it, too.
    a.engine().begin_replica().await.unwrap();
    let cable = Cable::plug(&b, &a);
    a.until("marked", |s| s.trees[0].fuzzy == ["busy"]).await;
    write(&b.tree().join("busy"), "whole");
    b.until("let go", |s| {
        alarm(s).is_none() && s.trees[0].fuzzy.is_empty()
    })
    .await;
    flush(&b).await;
    a.until("let go", |s| s.trees[0].fuzzy.is_empty()).await;
    cable.cut().await;
}

/// A master that was restarted does not know of a file that never rested whether it rests now, until it has looked at it.
#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_begins_anew_takes_no_mark_back_unseen() {
    let (mut a, b) = pair(|_| {}).await;
    const SIZE: usize = 24 << 20;
    write(&a.tree().join("busy"), noise(SIZE, 1));
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    let writer = Busy::begin(&a, SIZE as u64);
    b.until("marked", |s| s.trees[0].fuzzy == ["busy"]).await;
    cable.cut().await;
    writer.end();
    a.stop().await;
    // Its file system is mounted late.
    let away = a.dir.path().join("away");
    std::fs::rename(a.tree(), &away).unwrap();
    a.start();
    a.engine().begin_source(1).await.unwrap();
    let told = || {
        let lists = Arc::clone(&a.engine().shared.fuzzy.borrow());
        let paths = lists.iter().flat_map(|list| &list.paths);
        paths.map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(told(), ["busy"]);
    std::fs::rename(&away, a.tree()).unwrap();
    a.until("at rest", |s| {
        let stopped = matches!(s.trees[0].state, TreeState::Stopped { .. });
        !stopped && s.trees[0].fuzzy.is_empty()
    })
    .await;
    assert!(told().is_empty());
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("not marked", |s| s.trees[0].fuzzy.is_empty()).await;
    let read = |node: &super::pair::Node| std::fs::read(node.tree().join("busy")).unwrap();
    assert!(read(&a) == read(&b));
    cable.cut().await;
}

/// Only a set shows whether it rests, and until one is taken nothing is taken back.
#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_is_sent_in_sets_from_now_on_keeps_its_marks_until_a_set_is_there() {
    let (mut a, mut b) = pair(|_| {}).await;
    const SIZE: usize = 24 << 20;
    write(&a.tree().join("busy"), noise(SIZE, 1));
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    let writer = Busy::begin(&a, SIZE as u64);
    b.until("marked", |s| s.trees[0].fuzzy == ["busy"]).await;
    cable.cut().await;
    writer.end();
    for node in [&mut a, &mut b] {
        node.stop().await;
        let mut tree = TreeConfig::new("data", node.tree());
        tree.freeze = Some(Freeze {
            before: Vec::new(),
            after: Vec::new(),
            timeout: Duration::from_secs(30),
            every: Duration::from_secs(3600),
            snapshot: None,
        });
        node.start_with(vec![tree]);
        node.engine().run_freeze_hooks_by(Arc::new(NoHooks));
    }
    a.engine().begin_source(1).await.unwrap();
    b.engine().begin_replica().await.unwrap();
    let lists = Arc::clone(&a.engine().shared.fuzzy.borrow());
    let told: Vec<_> = lists.iter().flat_map(|list| &list.paths).collect();
    assert_eq!(told, [&RelPath::new("busy").unwrap()]);
    b.until("marked", |s| s.trees[0].fuzzy == ["busy"]).await;
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    let read = |node: &super::pair::Node| std::fs::read(node.tree().join("busy")).unwrap();
    for node in [&a, &b] {
        node.until("let go", |s| s.trees[0].fuzzy.is_empty()).await;
    }
    assert!(read(&a) == read(&b));
    cable.cut().await;
}

struct NoHooks;

impl FreezeHooks for NoHooks {
    fn run(&self, _: &str, _: &'static str, _: &[String], _: Duration) -> Result<(), String> {
        Ok(())
    }
}

/// Somebody writes into `busy` all the time, all over it.
pub(super) struct Busy {
    stop: Arc<AtomicBool>,
    writer: std::thread::JoinHandle<()>,
}

impl Busy {
    pub fn begin(node: &super::pair::Node, size: u64) -> Busy {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, path) = (Arc::clone(&stop), node.tree().join("busy"));
        let writer = std::thread::spawn(move || {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            let mut n = 0u64;
            while !stopped.load(Ordering::Relaxed) {
                n += 1;
                file.write_all_at(&n.to_le_bytes(), (n * 4096) % size)
                    .unwrap();
            }
        });
        Busy { stop, writer }
    }

    pub fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.writer.join().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_a_guard_stopped_is_named_and_the_others_are_covered() {
    let (a, b) = pair(|tree| tree.max_delete = MaxDelete::Count(1)).await;
    let (more_a, more_b) = (a.dir.path().join("more"), b.dir.path().join("more"));
    for (node, more) in [(&a, &more_a), (&b, &more_b)] {
        std::fs::create_dir(more).unwrap();
        let mut data = crate::tree::TreeConfig::new("data", node.tree());
        data.max_delete = MaxDelete::Count(1);
        let more = crate::tree::TreeConfig::new("more", more.clone());
        node.engine().set_trees(vec![data, more]).await.unwrap();
    }
    for n in 0..5 {
        write(&a.tree().join(format!("f{n}")), "x");
    }
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    std::fs::rename(a.tree().join("f0"), more_a.join("f0")).unwrap();
    for n in 1..5 {
        std::fs::remove_file(a.tree().join(format!("f{n}"))).unwrap();
    }
    a.until("stopped", |s| {
        matches!(s.trees[0].state, TreeState::Stopped { .. })
    })
    .await;
    let report = a.engine().flush(super::pair::PATIENCE).await.unwrap();
    let stopped: Vec<_> = report.not_covered.iter().map(|n| &n.tree).collect();
    assert_eq!(stopped, [&Some("data".to_owned())], "{report:?}");
    assert_eq!(report.covered, ["more"], "{report:?}");
    assert!(more_b.join("f0").exists() && b.tree().join("f1").exists());
    cable.cut().await;
}

/// What comes later is not waited for: neither by a flush nor by a deletion.
#[tokio::test(flavor = "multi_thread")]
async fn writes_that_never_pause_hold_up_neither_a_flush_nor_a_deletion() {
    let (a, b) = pair(|_| {}).await;
    write(&a.tree().join("goes"), "first");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    let (tree, stop) = (a.tree(), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    // Some in each round of looks, and no more than can be followed.
    let writer = std::thread::spawn(move || {
        for n in (0u32..).take_while(|_| !stopped.load(Ordering::Relaxed)) {
            let name = format!("d{}/f{}", n % 10, n % 1000);
            write(&tree.join(name), n.to_string());
            std::thread::sleep(Duration::from_micros(300));
        }
    });
    b.until("written", |_| b.tree().join("d9/f999").exists())
        .await;
    std::fs::remove_file(a.tree().join("goes")).unwrap();
    flush(&a).await;
    b.until("gone", |_| !b.tree().join("goes").exists()).await;
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    flush(&a).await;
    cable.cut().await;
}
