//! `deletes = "trash"`: what the master deletes is on the standby for a while.

use super::compare::assert_equal;
use super::pair::{Cable, Node, flush, pair, write};
use super::reversal::rescued;
use crate::engine::apply::Batch;
use crate::path::RelPath;
use crate::replica::machine::Ready;
use crate::tree::{Deletes, MaxDelete, TreeId};
use crate::wire::{Commit, Record};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

/// The only hour of the trash, or its only two if the clock passed from one to the next.
fn hours(node: &Node) -> Vec<PathBuf> {
    let dir = std::fs::read_dir(node.tree().join(".tandem/trash")).unwrap();
    let mut hours: Vec<PathBuf> = dir.map(|e| e.unwrap().path()).collect();
    hours.sort();
    hours
}

fn in_trash(node: &Node, path: &str) -> Vec<PathBuf> {
    let hours = hours(node).into_iter().map(|hour| hour.join(path));
    hours.filter(|at| at.symlink_metadata().is_ok()).collect()
}

async fn settled(a: &Node, b: &Node) {
    flush(a).await;
    b.until("consistent", |s| s.consistent && s.trees[0].dirty == 0)
        .await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(rescued(b), BTreeMap::new());
    let status = b.engine().status();
    assert_eq!((status.trees[0].errors, status.trees[0].kept), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_is_in_the_trash_with_its_path_and_attributes() {
    let trash = |t: &mut crate::tree::TreeConfig| {
        (t.deletes, t.max_delete) = (Deletes::Trash, MaxDelete::Count(1000));
    };
    let (a, b) = pair(trash).await;
    for name in ["d/sub/file", "d/other", "again", "dir or file/inside"] {
        write(&a.tree().join(name), name);
    }
    for i in 0..40 {
        write(&a.tree().join(format!("many/{i}")), format!("{i}"));
    }
    std::os::unix::fs::symlink("nowhere", a.tree().join("d/link")).unwrap();
    let mode = std::fs::Permissions::from_mode(0o751);
    std::fs::set_permissions(a.tree().join("d/sub"), mode).unwrap();
    let cable = Cable::plug(&a, &b);
    settled(&a, &b).await;
    let inode = std::fs::metadata(b.tree().join("d/other")).unwrap().ino();
    for name in ["d", "many", "dir or file"] {
        std::fs::remove_dir_all(a.tree().join(name)).unwrap();
    }
    std::fs::remove_file(a.tree().join("again")).unwrap();
    write(&a.tree().join("dir or file"), "now a file");
    settled(&a, &b).await;
    for name in ["d/sub/file", "d/other", "again", "dir or file/inside"] {
        let found = in_trash(&b, name);
        assert_eq!(found.len(), 1, "{name}");
        assert_eq!(std::fs::read_to_string(&found[0]).unwrap(), name);
    }
    assert_eq!(in_trash(&b, "many/39").len(), 1);
    let link = std::fs::read_link(&in_trash(&b, "d/link")[0]).unwrap();
    assert_eq!(link, PathBuf::from("nowhere"));
    let other = std::fs::metadata(&in_trash(&b, "d/other")[0]).unwrap();
    assert_eq!(other.ino(), inode, "renamed, not copied");
    let sub = std::fs::metadata(&in_trash(&b, "d/sub")[0]).unwrap();
    assert_eq!(sub.mode() & 0o7777, 0o751);
    // The same names within the hour, the file as a directory this time.
    write(&a.tree().join("again/inside"), "second");
    settled(&a, &b).await;
    std::fs::remove_dir_all(a.tree().join("again")).unwrap();
    settled(&a, &b).await;
    let first = in_trash(&b, "again");
    assert_eq!(first.len(), 2);
    assert_eq!(in_trash(&b, "again/inside").len(), 1);
    assert_eq!(hours(&a), Vec::<PathBuf>::new(), "the master has none");
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_goes_from_the_trash() {
    let aged = |t: &mut crate::tree::TreeConfig| {
        (t.deletes, t.trash_age) = (Deletes::Trash, Duration::from_secs(3600));
    };
    let (a, b) = pair(aged).await;
    write(&a.tree().join("file"), "x");
    let old = b.tree().join(".tandem/trash/2020-02-29T23");
    write(&old.join("deep/er/file"), "old");
    let mine = b.tree().join(".tandem/trash/mine");
    write(&mine, "no hour");
    let cable = Cable::plug(&a, &b);
    settled(&a, &b).await;
    std::fs::remove_file(a.tree().join("file")).unwrap();
    settled(&a, &b).await;
    cable.cut().await;
    // It is looked at when the tree is opened, and each minute.
    let mut b = b;
    b.stop().await;
    b.start();
    b.engine().begin_replica().await.unwrap();
    let gone = async {
        while old.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let gone = tokio::time::timeout(super::pair::PATIENCE, gone).await;
    gone.expect("the old hour is removed");
    assert_eq!(in_trash(&b, "file").len(), 1);
    assert!(mine.exists());
}

/// Whatever a source announces: only a disk that was full makes room, a step at a time, and first by what nobody needs.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_lack_of_room_takes_from_the_trash_and_cut_transfers_go_first() {
    let aged = |t: &mut crate::tree::TreeConfig| {
        let century = Duration::from_secs(100 * 365 * 24 * 3600);
        (t.deletes, t.trash_age) = (Deletes::Trash, century);
    };
    let (a, b) = pair(aged).await;
    write(&a.tree().join("file"), "x");
    let cable = Cable::plug(&a, &b);
    settled(&a, &b).await;
    cable.cut().await;
    let old = b.tree().join(".tandem/trash/2020-02-29T23/file");
    write(&old, "old");
    let partial = b.tree().join(".tandem/partial/of-a-cut-transfer");
    write(&partial, "came");
    let (tree, path) = (TreeId::of("data"), RelPath::new("file").unwrap());
    let source = a.engine().lineages().unwrap();
    let snapshot = a.engine().shared.index.snapshot().unwrap();
    let head = snapshot.last_seq();
    let mut state = snapshot.get(tree, &path).unwrap().unwrap().current.unwrap();
    if let crate::entry::Kind::File { size, .. } = &mut state.kind {
        *size = 1 << 60;
    }
    let batch = |upto: u64, no_room: BTreeSet<TreeId>| Batch {
        ready: Ready {
            commit: Commit {
                batch: upto,
                upto,
                caught_up: false,
                stamp: 0,
            },
            records: vec![Record {
                tree,
                path: path.clone(),
                seq: upto,
                state: Some(state.clone()),
                inline: false,
                grown_from: None,
                names: None,
            }],
            totals: Vec::new(),
            given_up: Vec::new(),
            failed: vec![0],
        },
        contents: Default::default(),
        no_room,
        source: source.clone(),
    };
    let left = || (partial.exists(), old.exists());
    let steps = [
        (BTreeSet::new(), (true, true)),
        ([tree].into(), (false, true)),
        ([tree].into(), (false, false)),
    ];
    for (upto, (no_room, wanted)) in (head + 1..).zip(steps) {
        let handed = super::cuts::hand_batch(&b, batch(upto, no_room)).await;
        handed.unwrap().unwrap();
        assert_eq!(left(), wanted);
    }
}
