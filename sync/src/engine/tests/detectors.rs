//! What the other tests show with the best detector holds with each: some are run again, by this test binary, in a process
//! whose nodes have nothing better. And what only a kernel does to a detector: lose events, and run out of watches.

use super::compare::assert_equal;
use super::pair::{Cable, Node, PATIENCE, begin, flush, pair, write};
use super::reflinks::Disk;
use crate::tree::TreeConfig;
use crate::watch::Detector;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::PathBuf;
use std::process::{ChildStderr, Command, Stdio};

/// The best detector that the nodes of this process may use.
const BEST: &str = "TANDEM_BEST_DETECTOR";
/// Watches that all users together have in the namespace of a test: enough for two trees of few directories.
const WATCHES: usize = 40;

/// What [`BEST`] says.
pub fn best() -> Detector {
    match std::env::var(BEST).as_deref() {
        Ok("inotify") => Detector::Inotify,
        Ok("poll") => Detector::Poll,
        _ => Detector::Fanotify,
    }
}

/// Runs the tests whose names have one of these in them, but for those that have one of the others.
fn again(best: Detector, tests: &[&str], but: &[&str]) {
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new(own);
    command.env(BEST, best.to_string()).arg("--test-threads=2");
    for name in tests {
        command.arg(format!("engine::tests::{name}"));
    }
    for name in but {
        command.arg(format!("--skip={name}"));
    }
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    let ran = said.contains("test result: ok. ") && !said.contains("result: ok. 0 passed");
    let held = done.status.success() && ran;
    assert!(held, "{said}\n{}", String::from_utf8_lossy(&done.stderr));
    print!("{said}");
}

/// What is only true where a rename is told as one.
const RENAMES_AS_ONE: [&str; 3] = [
    "a_rename_does_not_claim_that_a_tree_is_caught_up",
    "a_renamed_directory_and_a_renamed_large_file_are_not_sent_again",
    "a_rename_ends_right_wherever_the_replica_is_cut",
];
/// What costs more than it shows here, and what counts wake-ups, which others beside it add to.
const LONG: [&str; 3] = [
    "a_backlog_of_a_hundred_thousand",
    "small_files_travel_together",
    "a_half_copied_tree_is_not_consistent",
];

/// One process for each of these, so that they run beside each other.
const SEEN: [&str; 3] = ["detectors::of_this_process", "seen::", "order::"];
const COPIED: [&str; 2] = ["copy::", "kept::"];
const RENAMED: [&str; 2] = ["renames::", "between::"];
const LOCAL: [&str; 2] = ["policy::", "trees::"];

#[test]
fn inotify_sees() {
    again(Detector::Inotify, &SEEN, &LONG);
}

#[test]
fn inotify_copies() {
    again(Detector::Inotify, &COPIED, &LONG);
}

#[test]
fn inotify_follows_renames() {
    again(Detector::Inotify, &RENAMED, &RENAMES_AS_ONE);
}

#[test]
fn inotify_finds_local_changes() {
    again(Detector::Inotify, &LOCAL, &[]);
}

#[test]
fn polling_sees() {
    again(Detector::Poll, &SEEN, &LONG);
}

#[test]
fn polling_copies() {
    // A cut session and a seeded tree are the same whoever watches, and cost a scan each time.
    let but = ["a_cut_session_goes_on", "seeded"];
    again(Detector::Poll, &COPIED, &[&LONG[..], &but[..]].concat());
}

#[test]
fn polling_follows_renames() {
    // Without events there are none that a deletion could wait for.
    let but = ["what_a_scan_misses_waits_for_the_events_of_before"];
    again(
        Detector::Poll,
        &RENAMED,
        &[&RENAMES_AS_ONE[..], &but[..]].concat(),
    );
}

#[test]
fn polling_finds_local_changes() {
    // Each waits for the next time that the tree is polled.
    again(Detector::Poll, &["policy::local_changes"], &[]);
}

/// The detector is what was asked for, unless nothing was.
#[tokio::test(flavor = "multi_thread")]
async fn of_this_process() {
    let (a, _b) = pair(|_| {}).await;
    let status = a.shown().await;
    let (is, because) = (&status.trees[0].detector, &status.trees[0].detector_because);
    let asked = std::env::var(BEST).is_ok();
    assert!(!asked || *is == best().to_string(), "{is}: {because:?}");
    assert!(!asked || because.is_none(), "{because:?}");
}

/// The root directories of two file systems of one kind have the same handle.
#[tokio::test(flavor = "multi_thread")]
async fn trees_at_the_roots_of_two_file_systems_are_told_apart() {
    let (Some(one), Some(two)) = (Disk::ext4(), Disk::ext4()) else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let copies = ["one", "two"].map(|name| place.path().join(name));
    let roots = [&one.at, &two.at];
    let (mut a, mut b) = (Node::new("a", |_| {}), Node::new("b", |_| {}));
    for (node, roots) in [(&mut a, roots), (&mut b, copies.each_ref())] {
        node.stop().await;
        roots
            .iter()
            .for_each(|root| std::fs::create_dir_all(root).unwrap());
        let named = ["one", "two"].into_iter().zip(roots);
        let tree = |(name, root): (_, &PathBuf)| TreeConfig::new(name, root.clone());
        node.start_with(named.map(tree).collect());
    }
    let (a, b) = begin(a, b).await;
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    for round in 0..3 {
        for root in roots {
            write(
                &root.join("f"),
                format!("round {round} in {}", root.display()),
            );
        }
        flush(&a).await;
        for (root, copy) in roots.into_iter().zip(&copies) {
            assert_equal(root, copy);
        }
    }
    cable.cut().await;
    // They are unmounted next.
    drop((a, b));
}

/// A test of this binary in a process of its own, which says when it is ready and waits for a word.
struct Child {
    process: std::process::Child,
    says: Lines<BufReader<ChildStderr>>,
}

impl Child {
    fn start(mut command: Command, test: &str) -> Child {
        let mut process = command
            .args(["--exact", &format!("engine::tests::detectors::{test}")])
            .args(["--ignored", "--nocapture"])
            .env(BEST, "inotify")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let says = BufReader::new(process.stderr.take().unwrap()).lines();
        Child { process, says }
    }

    /// Waits until it has said this, and gives what it said behind it.
    fn said(&mut self, word: &str) -> String {
        for line in self.says.by_ref() {
            let line = line.unwrap();
            match line.strip_prefix(word) {
                Some(rest) => return rest.to_owned(),
                None => eprintln!("{line}"),
            }
        }
        panic!("it ended without {word:?}");
    }

    fn tell(&mut self) {
        let stdin = self.process.stdin.as_mut().unwrap();
        stdin.write_all(b"\n").unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().cast_signed())
    }

    /// Every thread of it stands still when this returns.
    fn stop(&self) {
        kill(self.pid(), Signal::SIGSTOP).unwrap();
        let stopped = waitpid(self.pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
    }

    fn goes_on(&self) {
        kill(self.pid(), Signal::SIGCONT).unwrap();
    }

    fn end(mut self) {
        self.says
            .by_ref()
            .map_while(Result::ok)
            .for_each(|line| eprintln!("{line}"));
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It has ended already if the test held.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// In the child: says this, and waits for the word.
async fn say(what: String) {
    eprintln!("{what}");
    let heard = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    heard.await.unwrap().unwrap();
}

/// The process stands still while more happens than the kernel's queue holds: none of it is an event that Tandem's own
/// queues would have to hold, so that only the kernel can have lost what is behind it.
#[test]
fn what_happens_while_the_kernel_loses_events_arrives() {
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let own = Command::new(std::env::current_exe().unwrap());
    let mut child = Child::start(own, "with_a_kernel_that_loses_events");
    let tree = PathBuf::from(child.said("ready "));
    child.stop();
    // Two names by turns: the kernel makes one of equal events.
    for n in 0..=limit {
        drop(std::fs::File::open(tree.join(["one", "two"][n % 2])).unwrap());
    }
    write(&tree.join("new/late"), "nobody was told");
    write(&tree.join("changes"), "another content");
    std::fs::remove_file(tree.join("goes")).unwrap();
    std::fs::rename(tree.join("dir"), tree.join("moved")).unwrap();
    child.goes_on();
    child.tell();
    child.end();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "what_happens_while_the_kernel_loses_events_arrives runs it"]
async fn with_a_kernel_that_loses_events() {
    let (a, b) = pair(|_| {}).await;
    for name in ["one", "two", "goes", "changes", "dir/moves"] {
        write(&a.tree().join(name), name);
    }
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    assert_eq!(a.shown().await.trees[0].detector, "inotify");
    let mut scanned = a.engine().shared.scanned.subscribe();
    assert!(*scanned.borrow_and_update());
    say(format!("ready {}", a.tree().display())).await;
    let scans = tokio::time::timeout(PATIENCE, scanned.changed()).await;
    scans.expect("it scans").unwrap();
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert!(b.tree().join("new/late").exists());
    assert_equal(&a.tree(), &b.tree());
    // Directories of which no event was are watched.
    write(&a.tree().join("new/later"), "x");
    let arrived = || b.tree().join("new/later").exists();
    b.until("arrived", |_| arrived()).await;
    cable.cut().await;
}

/// In a user namespace of its own, which has watches of its own.
#[test]
fn a_tree_with_more_directories_than_watches_is_polled_and_says_so() {
    let own = std::env::current_exe().unwrap();
    let within = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", script, "sh"]);
        command
    };
    let few = format!("echo {WATCHES} > /proc/sys/user/max_inotify_watches");
    let possible = within(&few).status();
    if !possible.is_ok_and(|status| status.success()) {
        return tandem_lab::skipped("no user namespace with few inotify watches can be made");
    }
    let mut command = within(&format!("{few} && exec \"$@\""));
    command.arg(own);
    let mut child = Child::start(command, "with_few_watches");
    child.said("ready");
    child.tell();
    child.end();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a_tree_with_more_directories_than_watches_is_polled_and_says_so runs it"]
async fn with_few_watches() {
    let (mut a, b) = pair(|tree| tree.pass = PATIENCE * 10).await;
    write(&a.tree().join("dir/file"), "x");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    assert_eq!(a.shown().await.trees[0].detector, "inotify");
    say("ready".into()).await;
    for n in 0..2 * WATCHES {
        write(&a.tree().join(format!("more/{n}/file")), "x");
    }
    polled(&a).await;
    flush(&a).await;
    assert_equal(&a.tree(), &b.tree());
    write(&a.tree().join(format!("more/{WATCHES}/file")), "y");
    flush(&a).await;
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
    a.stop().await;
    a.start();
    a.engine().begin_source(2).await.unwrap();
    polled(&a).await;
    let cable = Cable::plug(&a, &b);
    write(&a.tree().join(format!("more/{WATCHES}/file")), "z");
    flush(&a).await;
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}

/// It is polled, and says that watches are what it lacks.
async fn polled(node: &Node) {
    node.until("polled", |s| s.trees[0].detector == "poll")
        .await;
    let status = node.shown().await;
    let why = status.trees[0].detector_because.as_deref();
    let limit = "inotify: the limit fs.inotify.max_user_watches is reached";
    assert_eq!(why, Some(limit));
}
