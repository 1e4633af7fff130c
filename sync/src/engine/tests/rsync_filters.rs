//! The filters beside the real rsync: what one excludes the other does. Where rsync is not installed the test says so.

use crate::filter::Filter;
use crate::path::RelPath;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

/// Names at every level of the tree: those that patterns are made of, with and without their special bytes.
const NAMES: [&str; 7] = ["a", "b", "ab", "a.b", "-", "[a]", "*"];

/// Every path of up to three names: directories at the first two levels, a file of each name beside them.
fn tree(at: &Path) -> Vec<(String, bool)> {
    let mut all = Vec::new();
    let mut dirs = vec![String::new()];
    for level in 0..3 {
        let mut next = Vec::new();
        for dir in &dirs {
            for name in NAMES {
                let path = format!("{dir}{name}");
                if level < 2 && name != "b" {
                    std::fs::create_dir(at.join(&path)).unwrap();
                    next.push(format!("{path}/"));
                    all.push((path, true));
                } else {
                    std::fs::write(at.join(&path), b"").unwrap();
                    all.push((path, false));
                }
            }
        }
        dirs = next;
    }
    all
}

/// What rsync would send. `None`: there is no rsync.
fn rsync(from: &Path, to: &Path, patterns: &[String]) -> Option<BTreeSet<String>> {
    let mut command = Command::new("rsync");
    command.args(["-rn", "--out-format=%n"]);
    command.args(patterns.iter().map(|p| format!("--exclude={p}")));
    command.arg(format!("{}/", from.display())).arg(to);
    let output = command.stdin(Stdio::null()).output().ok()?;
    assert!(output.status.success(), "{patterns:?}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let sent = text.lines().map(|line| line.trim_end_matches('/'));
    Some(sent.filter(|l| *l != ".").map(str::to_owned).collect())
}

/// Patterns made of pieces that mean something, by a fixed sequence of numbers.
fn pattern(mut number: u64) -> String {
    const PIECES: [&str; 16] = [
        "a", "b", "*", "**", "?", "/", "/", "[a]", "[!a]", "[^b]", "[a-b]", "\\*", "\\[", ".", "-",
        "ab",
    ];
    let mut next = |n: u64| {
        let found = number % n;
        number /= n;
        found as usize
    };
    let mut text = String::new();
    if next(3) == 0 {
        text.push('/');
    }
    for _ in 0..=next(5) {
        text.push_str(PIECES[next(16)]);
    }
    if next(4) == 0 {
        text.push('/');
    }
    text
}

#[test]
fn what_is_excluded_is_what_rsync_excludes() {
    let (dir, empty) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let all = tree(dir.path());
    let mut compared = 0;
    let table = [
        "/a", "a/", "*.b", "a/*", "/a/**", "**/a", "a/**/a", "/**/ab", "**", "\\*", "[!a]",
    ];
    let mut numbers = 0u64..;
    while compared < 400 {
        // One pattern alone, and sometimes two.
        let number = numbers.next().unwrap();
        let scrambled = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let patterns = match table.get(number as usize) {
            Some(text) => vec![(*text).to_owned()],
            None if number.is_multiple_of(4) => vec![pattern(scrambled), pattern(scrambled >> 20)],
            None => vec![pattern(scrambled)],
        };
        let parsed = Filter::parse(patterns.iter().map(String::as_str));
        let Ok(filter) = parsed else {
            // What can match nothing is refused here.
            continue;
        };
        let Some(theirs) = rsync(dir.path(), empty.path(), &patterns) else {
            return tandem_lab::skipped("the patterns of rsync: it is not installed");
        };
        let left = all.iter().filter(|(path, is_dir)| {
            let path = RelPath::new(path).unwrap();
            !filter.covers(&path, *is_dir)
        });
        let ours: BTreeSet<String> = left.map(|(path, _)| path.clone()).collect();
        let differ: Vec<_> = ours.symmetric_difference(&theirs).take(5).collect();
        assert!(
            differ.is_empty(),
            "{patterns:?}: {differ:?}, the first is {} by rsync",
            match theirs.contains(differ[0]) {
                true => "sent",
                false => "excluded",
            }
        );
        compared += 1;
    }
}
