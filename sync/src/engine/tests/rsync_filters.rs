//! The filters beside the real rsync: what one excludes or protects the other does. Where rsync is not installed the test says so.

use crate::filter::Filter;
use crate::path::RelPath;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use tempfile::TempDir;

/// Names at every level of the tree: those that patterns are made of, with and without their special bytes.
const NAMES: [&str; 8] = ["a", "b", "ab", "a.b", "-", "[a]", "*", "B1"];

/// Every path of up to so many names: directories at all levels but the last, a file of each name beside them.
fn tree(at: &Path, levels: usize) -> Vec<(String, bool)> {
    let mut all = Vec::new();
    let mut dirs = vec![String::new()];
    for level in 1..=levels {
        let mut next = Vec::new();
        for dir in &dirs {
            for name in NAMES {
                let path = format!("{dir}{name}");
                if level < levels && name != "b" {
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

/// What rsync says when it is run from one directory to the other. `None`: there is no rsync.
fn rsync(options: &[String], from: &Path, to: &Path) -> Option<String> {
    let mut command = Command::new("rsync");
    command.arg("-r").args(options);
    command.arg(format!("{}/", from.display())).arg(to);
    let output = command.stdin(Stdio::null()).output().ok()?;
    assert!(output.status.success(), "{options:?}: {output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// What it would send.
fn sent(patterns: &[String]) -> Option<BTreeSet<String>> {
    static TREE: LazyLock<TempDir> = LazyLock::new(|| {
        let dir = tempfile::tempdir().unwrap();
        tree(dir.path(), 3);
        dir
    });
    let empty = tempfile::tempdir().unwrap();
    let mut options = vec!["-n".to_owned(), "--out-format=%n".to_owned()];
    options.extend(patterns.iter().map(|p| format!("--exclude={p}")));
    let text = rsync(&options, TREE.path(), empty.path())?;
    let sent = text.lines().map(|line| line.trim_end_matches('/'));
    Some(sent.filter(|l| *l != ".").map(str::to_owned).collect())
}

/// What it leaves where nothing of it is at the source. (What it says that it would delete is not what it does.)
fn left(patterns: &[String]) -> Option<BTreeSet<String>> {
    let (dir, empty) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let all = tree(dir.path(), 2);
    let mut options = vec!["--delete".to_owned()];
    options.extend(patterns.iter().map(|p| format!("--filter=P {p}")));
    rsync(&options, empty.path(), dir.path())?;
    let left = all.into_iter().map(|(path, _)| path);
    Some(left.filter(|path| dir.path().join(path).exists()).collect())
}

/// Patterns made of pieces that mean something, by a fixed sequence of numbers.
fn pattern(mut number: u64) -> String {
    const PIECES: [&str; 20] = [
        "a",
        "b",
        "*",
        "**",
        "?",
        "/",
        "/",
        "[a]",
        "[!a]",
        "[^b]",
        "[a-b]",
        "\\*",
        "\\[",
        ".",
        "-",
        "ab",
        "***",
        "/***",
        "[[:alpha:]]",
        "[^[:punct:]b-]",
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
        text.push_str(PIECES[next(20)]);
    }
    if next(4) == 0 {
        text.push('/');
    }
    text
}

/// Compares what either lets through of the tree, for so many patterns. `theirs`: by rsync.
fn compare(
    levels: usize,
    patterns: usize,
    theirs: fn(&[String]) -> Option<BTreeSet<String>>,
    ours: impl Fn(&Filter, &[(String, bool)]) -> BTreeSet<String>,
) {
    let dir = tempfile::tempdir().unwrap();
    let all = tree(dir.path(), levels);
    let mut compared = 0;
    let table = [
        "/a",
        "a/",
        "*.b",
        "a/*",
        "/a/**",
        "**/a",
        "a/**/a",
        "/**/ab",
        "**",
        "\\*",
        "[!a]",
        "a/***",
        "/a/***",
        "***",
        "a***",
        "***/",
        "/***/a",
        "[[:upper:]][[:digit:]]",
        "[[:punct:]]",
        "[[:a]",
        "[[:digit:]-z]",
    ];
    let mut numbers = 0u64..;
    while compared < patterns {
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
            assert!(number >= table.len() as u64, "{patterns:?}: {parsed:?}");
            continue;
        };
        let Some(theirs) = theirs(&patterns) else {
            return tandem_lab::skipped("the patterns of rsync: it is not installed");
        };
        let ours = ours(&filter, &all);
        let differ: Vec<_> = ours.symmetric_difference(&theirs).take(5).collect();
        assert!(
            differ.is_empty(),
            "{patterns:?}: {differ:?}, the first is {} by rsync",
            match theirs.contains(differ[0]) {
                true => "sent or left",
                false => "excluded or deleted",
            }
        );
        compared += 1;
    }
}

fn covers(filter: &Filter, path: &str, is_dir: bool) -> bool {
    filter.covers(&RelPath::new(path).unwrap(), is_dir)
}

#[test]
fn what_is_excluded_is_what_rsync_excludes() {
    compare(3, 300, sent, |filter, all| {
        let left = all.iter().filter(|(path, d)| !covers(filter, path, *d));
        left.map(|(path, _)| path.clone()).collect()
    });
}

#[test]
fn what_is_protected_is_what_rsync_protects() {
    compare(2, 150, left, |filter, all| {
        let kept = all.iter().filter(|(path, d)| covers(filter, path, *d));
        // A directory stays with what is protected in it.
        let with_above = |path: &String| {
            let above = path.match_indices('/').map(|(end, _)| &path[..end]);
            let all = above.chain([path.as_str()]).map(str::to_owned);
            all.collect::<Vec<String>>()
        };
        kept.flat_map(|(path, _)| with_above(path)).collect()
    });
}
