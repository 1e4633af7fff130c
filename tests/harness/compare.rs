//! Both trees, compared.

use super::{ONE, Scene, TWO};
use std::process::Command;
use tandem_lab::pair::WWW;

/// The private directory at the root of a tree, which belongs to no tree.
const PRIVATE: &str = ".tandem";

/// Panics with the differences of the served trees of both nodes.
#[track_caller]
pub fn assert_equal_trees(scene: &Scene) {
    let (left, right) = (scene.node(ONE).www(), scene.node(TWO).www());
    let found =
        tandem_lab::compare_trees(&left, &right, &[PRIVATE]).expect("the trees can be read");
    let list: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(
        found.is_empty(),
        "the trees differ (mirror1 against mirror2):\n  {}",
        list.join("\n  ")
    );
}

/// A second opinion: rsync with checksums, all attributes and deletions would change nothing. `tools/test`
/// installs it.
#[track_caller]
pub fn rsync_sees_no_difference(scene: &Scene) {
    let root = |n: usize| format!("{}/", scene.node(n).host.floor_path(WWW).display());
    let mut rsync = Command::new("rsync");
    rsync.args([
        "-aHAXnic",
        "--numeric-ids",
        "--delete",
        "--exclude=/.tandem",
        "--omit-dir-times",
    ]);
    rsync.args([root(ONE), root(TWO)]);
    let output = scene.pair.lab.output(rsync).expect("rsync is installed");
    assert!(
        output.status.success(),
        "rsync: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let changes = String::from_utf8_lossy(&output.stdout);
    assert!(changes.trim().is_empty(), "rsync would change:\n{changes}");
}
