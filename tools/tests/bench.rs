//! The benchmarks as a user runs them, with tiny sizes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn bench(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.arg("sync").arg("--dir").arg(dir).args(args);
    command.env("TMPDIR", dir).stdin(Stdio::null());
    command
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let list = fs::read_dir(dir).expect("read");
    list.map(|e| e.expect("an entry").path()).collect()
}

#[test]
fn both_sides_are_measured_and_nothing_is_left_behind() {
    let (dir, out) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
    );
    let json = out.path().join("rows.json");
    let mut command = bench(
        dir.path(),
        &[
            "--files",
            "250",
            "--shrink",
            "1024",
            "--runs",
            "1",
            "--seconds",
            "1",
        ],
    );
    command.args(["--case", "small", "--case", "edits", "--case", "rename"]);
    let output = command.arg("--json").arg(&json).output().expect("it runs");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{said}");
    let rows = fs::read(&json).expect("the JSON is there");
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&rows).expect("a list of rows");
    let names: Vec<_> = rows
        .iter()
        .map(|row| row["case"].as_str().expect("a name"))
        .collect();
    assert_eq!(
        names,
        [
            "small: 250 files",
            "edits: atomic",
            "edits: in-place",
            "rename: until durable",
            "rename: bytes sent"
        ]
    );
    for row in &rows[..3] {
        for side in ["tandem", "peer", "ratio"] {
            assert!(row[side].as_f64().is_some_and(|v| v > 0.0), "{row}");
        }
        assert!(row["met"].is_boolean(), "{row}");
    }
    assert!(said.contains("| small: 250 files"), "{said}");
    assert_eq!(entries(dir.path()), Vec::<PathBuf>::new());
}

/// A case that cannot be measured is told as such, and ends the program with an error.
#[test]
fn a_case_that_fails_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = bench(
        dir.path(),
        &[
            "--case",
            "linux",
            "--linux",
            "/nonexistent.tar",
            "--runs",
            "1",
        ],
    )
    .output()
    .expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("FAILED") && said.contains("/nonexistent.tar"),
        "{said}"
    );
    assert_eq!(entries(dir.path()), Vec::<PathBuf>::new());
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut bench = bench(
        dir.path(),
        &["--case", "small", "--files", "200000", "--runs", "1"],
    )
    .stdout(Stdio::null())
    .stderr(Stdio::null())
    .spawn()
    .expect("it starts");
    let end = Instant::now() + Duration::from_secs(60);
    // Its hosts are there.
    while entries(dir.path()).is_empty() {
        assert!(Instant::now() < end && bench.try_wait().expect("asked").is_none());
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(bench.id()).expect("a process number"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("sent");
    assert_eq!(bench.wait().expect("it ends").code(), Some(130));
    assert_eq!(entries(dir.path()), Vec::<PathBuf>::new());
}
