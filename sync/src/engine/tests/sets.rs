//! Trees that change on the replica by whole sets only.

use super::compare::assert_equal;
use super::cuts::hand_batch;
use super::pair::{Cable, Node, PATIENCE, flush, noise, pair, write};
use crate::engine::apply::Batch;
use crate::engine::{Alarm, EngineStatus, FreezeHooks, TreeState, set_key};
use crate::path::RelPath;
use crate::replica::machine::Ready;
use crate::tree::{Freeze, TreeConfig, TreeId};
use crate::wire::{Commit, Record, SetMark, Total};
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Commands that are only noted, and fail if they are told to.
#[derive(Default)]
struct Noted {
    run: Mutex<Vec<String>>,
    fails: Mutex<Option<&'static str>>,
    /// Called while the tree is held still.
    meanwhile: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl FreezeHooks for Noted {
    fn run(
        &self,
        tree: &str,
        event: &'static str,
        argv: &[String],
        _timeout: Duration,
    ) -> Result<(), String> {
        self.run
            .lock()
            .unwrap()
            .push(format!("{tree} {event} {}", argv.join(" ")));
        if event == "thaw"
            && let Some(meanwhile) = &*self.meanwhile.lock().unwrap()
        {
            meanwhile();
        }
        match *self.fails.lock().unwrap() == Some(event) {
            true => Err("as told".into()),
            false => Ok(()),
        }
    }
}

fn in_sets(tree: &mut crate::tree::TreeConfig) {
    tree.freeze = Some(Freeze {
        before: vec!["stop".into()],
        after: vec!["go".into()],
        timeout: Duration::from_secs(10),
        // A flush wants one at once; nothing else does after the first one.
        every: Duration::from_secs(3600),
        snapshot: None,
    });
}

fn hooks(node: &Node) -> Arc<Noted> {
    let noted = Arc::new(Noted::default());
    node.engine().run_freeze_hooks_by(noted.clone());
    noted
}

/// A flush takes a set that begins after it.
async fn next_set(a: &Node, b: &Node) {
    flush(a).await;
    b.until("consistent", |s| s.consistent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_replica_follows_by_sets() {
    let (a, b) = pair(in_sets).await;
    let noted = hooks(&a);
    write(&a.tree().join("base/1"), noise(400_000, 1));
    write(&a.tree().join("base/2"), "small");
    std::fs::hard_link(a.tree().join("base/2"), a.tree().join("same")).unwrap();
    let cable = Cable::plug(&a, &b);
    next_set(&a, &b).await;
    assert_equal(&a.tree(), &b.tree());
    write(&a.tree().join("base/2"), "other");
    std::fs::rename(a.tree().join("base"), a.tree().join("moved")).unwrap();
    next_set(&a, &b).await;
    assert_equal(&a.tree(), &b.tree());
    let run = noted.run.lock().unwrap().clone();
    assert_eq!(run[..2], ["data freeze stop", "data thaw go"], "{run:?}");
    cable.cut().await;
}

/// What is sent is what lay there while the tree was held still, whatever became of it since.
#[tokio::test(flavor = "multi_thread")]
async fn a_set_is_of_one_moment() {
    let (a, b) = pair(in_sets).await;
    let noted = hooks(&a);
    let root = a.tree();
    for i in 0..20 {
        write(&root.join(format!("f{i}")), "0");
    }
    let count = std::sync::atomic::AtomicU64::new(1);
    // As soon as the tree may change again all of it does.
    *noted.meanwhile.lock().unwrap() = Some(Box::new(move || {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        for i in 0..20 {
            std::fs::write(root.join(format!("f{i}")), n.to_string()).unwrap();
        }
    }));
    let cable = Cable::plug(&a, &b);
    for _ in 0..3 {
        next_set(&a, &b).await;
    }
    cable.cut().await;
    let found: std::collections::BTreeSet<String> = (0..20)
        .map(|i| std::fs::read_to_string(b.tree().join(format!("f{i}"))).unwrap())
        .collect();
    assert_eq!(found.len(), 1, "of one moment: {found:?}");
    assert!(b.shown().await.consistent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_cannot_be_taken_is_said_and_the_tree_goes_on() {
    let (a, b) = pair(in_sets).await;
    let noted = hooks(&a);
    *noted.fails.lock().unwrap() = Some("freeze");
    write(&a.tree().join("f"), "content");
    let cable = Cable::plug(&a, &b);
    let alarm = |kind: &'static str| {
        move |s: &crate::engine::EngineStatus| s.alarms.iter().any(|a| a.kind == kind)
    };
    a.until("an alarm", alarm("set")).await;
    assert!(!b.shown().await.consistent, "nothing is known of the tree");
    assert!(!b.tree().join("f").exists());
    let run = noted.run.lock().unwrap().clone();
    assert!(
        run.contains(&"data thaw go".to_owned()),
        "in any case: {run:?}"
    );
    *noted.fails.lock().unwrap() = Some("thaw");
    let _ = a.engine().flush(Duration::from_millis(200)).await;
    a.until("an alarm", alarm("thaw")).await;
    *noted.fails.lock().unwrap() = None;
    cable.cut().await;
}

/// Bytes that this process has read so far.
fn read_so_far() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.unwrap().parse().unwrap()
}

/// What lies in the tree cannot be read within the bound: its writers do not wait until a long file has been read to its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_is_not_read_in_time_is_given_up_and_the_tree_goes_on() {
    const SIZE: u64 = 512 << 20;
    let (a, b) = pair(|tree| {
        in_sets(tree);
        tree.freeze.as_mut().unwrap().timeout = Duration::from_millis(10);
    })
    .await;
    let long = File::create(a.tree().join("long")).unwrap();
    // Zeros that were never written, but are no hole: they are read.
    if let Err(error) = rustix::fs::fallocate(&long, FallocateFlags::empty(), 0, SIZE) {
        return tandem_lab::skipped(format_args!("a long file: {error}"));
    }
    write(&a.tree().join("f"), "content");
    let noted = hooks(&a);
    let (before, held) = (read_so_far(), Arc::new(AtomicU64::new(0)));
    let behind = Arc::clone(&held);
    *noted.meanwhile.lock().unwrap() = Some(Box::new(move || {
        behind.store(read_so_far() - before, Ordering::SeqCst);
    }));
    let cable = Cable::plug(&a, &b);
    let refused = "no set of the tree data could be taken: it was not read in time";
    let said = |s: &EngineStatus| {
        let is = |alarm: &Alarm| alarm.kind == "set" && alarm.text == refused;
        s.alarms.iter().any(is)
    };
    a.until("said", said).await;
    let read = held.load(Ordering::SeqCst);
    assert!(
        read < SIZE / 2,
        "{read} bytes were read before the tree went on"
    );
    let run = noted.run.lock().unwrap().clone();
    assert_eq!(run, ["data freeze stop", "data thaw go"]);
    assert!(!b.tree().join("f").exists());
    cable.cut().await;
    // With time enough, and less to be read.
    long.set_len(5).unwrap();
    let mut tree = TreeConfig::new("data", a.tree());
    in_sets(&mut tree);
    a.engine().set_trees(vec![tree]).await.unwrap();
    let cable = Cable::plug(&a, &b);
    next_set(&a, &b).await;
    assert_equal(&a.tree(), &b.tree());
    assert!(!said(&a.shown().await));
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_the_tree_is_let_go() {
    let (mut a, b) = pair(in_sets).await;
    let cable = Cable::plug(&a, &b);
    a.engine().shared.cuts.arm(1);
    hooks(&a);
    a.until("cut", |s| s.alarms.iter().any(|a| a.kind == "worker"))
        .await;
    let place = a.engine().shared.cuts.place();
    assert_eq!(place, Some("before a tree is held still"));
    cable.cut().await;
    a.stop().await;
    a.start();
    let noted = hooks(&a);
    // Whatever it becomes.
    is_let_go(&noted).await;
}

/// Also one that is stopped, for whatever reason.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_a_tree_without_root_is_let_go() {
    let (mut a, _b) = pair(in_sets).await;
    let key = format!("frozen/{}", TreeId::of("data"));
    let index = &a.engine().shared.index;
    index.write(|w| w.put_value(&key, &true)).unwrap();
    a.stop().await;
    std::fs::rename(a.tree(), a.dir.path().join("away")).unwrap();
    a.start();
    let noted = hooks(&a);
    let stopped = |s: &EngineStatus| matches!(s.trees[0].state, TreeState::Stopped { .. });
    a.until("stopped", stopped).await;
    is_let_go(&noted).await;
}

/// Waits until the first thing that was run is the command that lets the tree go on.
async fn is_let_go(noted: &Noted) {
    let thawed = async {
        while noted.run.lock().unwrap().first().map(String::as_str) != Some("data thaw go") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, thawed).await;
    assert!(found.is_ok(), "{:?}", noted.run.lock().unwrap());
}

/// The tree is not in sets any more when a pass of it ends, and is again later.
#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_left_its_sets_during_a_pass_can_have_sets_again() {
    let (a, b) = pair(in_sets).await;
    let noted = hooks(&a);
    write(&a.tree().join("f"), "content");
    let (begun, has_begun) = std::sync::mpsc::channel();
    let (end, may_end) = std::sync::mpsc::channel::<()>();
    *noted.meanwhile.lock().unwrap() = Some(Box::new(move || {
        // Only the first one is waited for.
        let _ = begun.send(());
        let _ = may_end.recv_timeout(PATIENCE);
    }));
    let cable = Cable::plug(&a, &b);
    let begun = tokio::task::spawn_blocking(move || has_begun.recv_timeout(PATIENCE));
    begun.await.unwrap().expect("a pass");
    let plain = vec![TreeConfig::new("data", a.tree())];
    a.engine().set_trees(plain).await.unwrap();
    drop(end);
    let passes = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
        let names = tasks.flatten().filter_map(|task| name(task).ok());
        names.filter(|name| name.trim() == "tandem-set").count()
    };
    // What it brought is with the worker when its thread is gone.
    let ended = async {
        while passes() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended)
        .await
        .expect("it ends");
    let mut tree = TreeConfig::new("data", a.tree());
    in_sets(&mut tree);
    a.engine().set_trees(vec![tree]).await.unwrap();
    cable.cut().await;
    let cable = Cable::plug(&a, &b);
    next_set(&a, &b).await;
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}

/// After a power cut a content that was kept for a set may be empty, or of its length and of zeros. What is in the tree is
/// unchanged, and is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_content_that_a_crash_took_is_read_in_the_tree() {
    for whole in [false, true] {
        let (a, b) = pair(in_sets).await;
        let noted = hooks(&a);
        let kept = a.tree().join(".tandem/set");
        // When the tree goes on everything is kept, and nothing sent.
        *noted.meanwhile.lock().unwrap() = Some(Box::new(move || {
            for entry in std::fs::read_dir(&kept).unwrap() {
                let file = File::options().write(true).open(entry.unwrap().path());
                let file = file.unwrap();
                let size = file.metadata().unwrap().len();
                file.set_len(0).unwrap();
                file.set_len(if whole { size } else { 0 }).unwrap();
            }
        }));
        write(&a.tree().join("small"), "content");
        write(&a.tree().join("large"), noise(400_000, 1));
        let cable = Cable::plug(&a, &b);
        next_set(&a, &b).await;
        assert_equal(&a.tree(), &b.tree());
        cable.cut().await;
    }
}

/// The worker is cut at every step of a set. After the start, before anybody sends anything, the tree is the old set or the
/// new one; also if it becomes the source at once.
#[tokio::test(flavor = "multi_thread")]
async fn wherever_it_is_cut_the_tree_is_of_one_set() {
    let mut seen = std::collections::BTreeMap::new();
    for n in 1.. {
        let (a, mut b) = pair(in_sets).await;
        hooks(&a);
        let root = a.tree();
        let fill = |version: &str| {
            for i in 0..4 {
                write(&root.join(format!("f{i}")), version);
            }
            write(&root.join(format!("only {version}")), version);
        };
        fill("old");
        let cable = Cable::plug(&a, &b);
        next_set(&a, &b).await;
        cable.cut().await;
        std::fs::remove_file(root.join("only old")).unwrap();
        fill("new");
        b.engine().shared.cuts.arm(n);
        let cable = Cable::plug(&a, &b);
        let mut changes = b.engine().status_changes();
        let cut = changes.wait_for(|s| s.alarms.iter().any(|a| a.kind == "worker"));
        let cut = tokio::select! {
            found = cut => found.is_ok(),
            () = next_set(&a, &b) => false,
        };
        let place = b.engine().shared.cuts.place();
        cable.cut().await;
        if !cut {
            break;
        }
        *seen.entry(place.unwrap()).or_insert(0) += 1;
        b.stop().await;
        b.start();
        match n % 2 {
            0 => b.engine().begin_source(2).await.unwrap(),
            _ => b.engine().begin_replica().await.unwrap(),
        }
        let names = ["f0", "f1", "f2", "f3", "only old", "only new"];
        let found = names.map(|name| std::fs::read_to_string(b.tree().join(name)).ok());
        let whole = |version: &str, other: usize| {
            let mut all = [(); 6].map(|()| Some(version.to_owned()));
            all[other] = None;
            found == all
        };
        assert!(
            whole("old", 5) || whole("new", 4),
            "cut {n}, {place:?}: {found:?}"
        );
        assert!(super::reversal::rescued(&b).is_empty());
    }
    for place in [
        "before a set is whole",
        "after a set is whole",
        "before a step",
    ] {
        assert!(seen.contains_key(place), "never cut {place}: {seen:?}");
    }
}

/// A session reads when it likes: what it sees of the tree is never newer than the mark that it sees.
#[tokio::test(flavor = "multi_thread")]
async fn no_change_of_a_set_is_seen_without_its_mark() {
    let (a, b) = pair(in_sets).await;
    hooks(&a);
    write(&a.tree().join("f"), "0");
    let cable = Cable::plug(&a, &b);
    next_set(&a, &b).await;
    let ended = Arc::new(AtomicBool::new(false));
    let (end, shared) = (Arc::clone(&ended), Arc::clone(&a.engine().shared));
    let reader = std::thread::spawn(move || {
        let mut seen = std::collections::BTreeSet::new();
        while !end.load(Ordering::SeqCst) {
            let snapshot = shared.index.snapshot().unwrap();
            let mark: Option<SetMark> = snapshot.value(&set_key(TreeId::of("data"))).unwrap();
            let upto = mark.unwrap().upto;
            // Nothing else of this pair gets numbers.
            assert!(snapshot.last_seq() <= upto, "behind the mark {upto}");
            seen.insert(upto);
        }
        seen.len()
    });
    for n in 1..6 {
        write(&a.tree().join("f"), n.to_string());
        next_set(&a, &b).await;
    }
    ended.store(true, Ordering::SeqCst);
    assert!(reader.join().unwrap() > 2, "it looked all the time");
    cable.cut().await;
}

/// What a source sent that knew the mark of the set before only.
#[tokio::test(flavor = "multi_thread")]
async fn the_mark_of_an_older_set_ends_none() {
    let (a, b) = pair(in_sets).await;
    hooks(&a);
    for name in ["f1", "f2"] {
        write(&a.tree().join(name), "x");
    }
    let cable = Cable::plug(&a, &b);
    next_set(&a, &b).await;
    cable.cut().await;
    let tree = TreeId::of("data");
    let snapshot = a.engine().shared.index.snapshot().unwrap();
    let mark: Option<SetMark> = snapshot.value(&set_key(tree)).unwrap();
    assert!(mark.is_some());
    let head = snapshot.last_seq();
    let part = |name: &str, upto: u64, caught_up: bool| Batch {
        ready: Ready {
            commit: Commit {
                batch: upto,
                upto,
                caught_up,
                stamp: 1,
            },
            records: vec![Record {
                tree,
                path: RelPath::new(name).unwrap(),
                seq: upto,
                state: None,
                inline: false,
                grown_from: None,
                names: None,
            }],
            totals: vec![Total {
                tree,
                entries: 1,
                bytes: 1,
                set: mark,
            }],
            withheld: Vec::new(),
            given_up: Vec::new(),
            failed: Vec::new(),
        },
        contents: Default::default(),
        unput: Default::default(),
        source: a.engine().lineages().unwrap(),
    };
    let here = || ["f1", "f2"].map(|name| b.tree().join(name).exists());
    let applied = hand_batch(&b, part("f1", head + 1, false)).await;
    assert!(applied.unwrap().unwrap().acked <= head);
    assert_eq!(here(), [true, true], "one half of a set");
    let applied = hand_batch(&b, part("f2", head + 2, true)).await;
    assert_eq!(applied.unwrap().unwrap().acked, head + 2);
    assert_eq!(here(), [false, false]);
}
