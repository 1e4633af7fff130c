//! The demo as a user runs it, with a small tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A tree to copy, and a place in which nothing may be left.
struct Room {
    tree: tempfile::TempDir,
    temp: tempfile::TempDir,
    output: tempfile::NamedTempFile,
}

impl Room {
    fn new() -> Self {
        let tree = tempfile::tempdir().expect("a directory");
        for d in 0..20 {
            fs::create_dir(tree.path().join(d.to_string())).expect("made");
            for f in 0..50 {
                let content = format!("{d} {f} ").repeat(d * 100);
                fs::write(tree.path().join(format!("{d}/{f}")), content).expect("written");
            }
        }
        Self {
            tree,
            temp: tempfile::tempdir().expect("a directory"),
            output: tempfile::NamedTempFile::new().expect("a file"),
        }
    }

    fn demo(&self) -> Child {
        let out = self.output.reopen().expect("opened");
        Command::new(env!("CARGO_BIN_EXE_demo"))
            .arg("--tree")
            .arg(self.tree.path())
            .env("TMPDIR", self.temp.path())
            .stdin(Stdio::null())
            .stderr(out.try_clone().expect("a second handle"))
            .stdout(out)
            .spawn()
            .expect("the demo starts")
    }

    fn said(&self) -> String {
        fs::read_to_string(self.output.path()).unwrap_or_default()
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let list = fs::read_dir(dir).expect("read");
    list.map(|e| e.expect("an entry").path()).collect()
}

#[test]
fn the_whole_story_holds() {
    let room = Room::new();
    let status = room.demo().wait().expect("it ends");
    let said = room.said();
    assert!(status.success(), "{said}");
    assert!(said.contains("Every step held"), "{said}");
    assert_eq!(entries(room.temp.path()), Vec::<PathBuf>::new());
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    let room = Room::new();
    let mut demo = room.demo();
    let end = Instant::now() + Duration::from_secs(60);
    while !room.said().contains("The first copy") {
        assert!(
            Instant::now() < end && demo.try_wait().expect("asked").is_none(),
            "{}",
            room.said()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = i32::try_from(demo.id()).expect("a process number");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGINT,
    )
    .expect("sent");
    let status = demo.wait().expect("it ends");
    assert_eq!(status.code(), Some(130), "{}", room.said());
    assert_eq!(entries(room.temp.path()), Vec::<PathBuf>::new());
}

/// Nobody reads any more: the demo ends, and does not go on unseen.
#[test]
fn a_reader_that_goes_away_ends_it() {
    let room = Room::new();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"))
        .arg("--tree")
        .arg(room.tree.path())
        .env("TMPDIR", room.temp.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the demo starts");
    drop(demo.stdout.take());
    let status = demo.wait().expect("it ends");
    assert_eq!(status.code(), Some(130));
    assert_eq!(entries(room.temp.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_tree_that_is_no_directory_is_named() {
    for tree in ["/nonexistent/tree", "/proc/self/status"] {
        let output = Command::new(env!("CARGO_BIN_EXE_demo"))
            .args(["--tree", tree])
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stdout).contains(tree));
    }
}
