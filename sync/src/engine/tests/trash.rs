//! `deletes = "trash"`: what the master deletes is on the standby for a while.

use super::compare::assert_equal;
use super::pair::{Cable, Node, flush, pair, write};
use super::reversal::rescued;
use crate::engine::apply::Batch;
use crate::engine::{CommandError, TrashContent};
use crate::fault::Unput;
use crate::index::{Index, IndexIdentity};
use crate::path::RelPath;
use crate::replica::machine::Ready;
use crate::tree::{Deletes, MaxDelete, TreeId};
use crate::wire::{Commit, Record};
use std::collections::BTreeMap;
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
    let status = b.shown().await;
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

/// How long the hour stays of which something is at this path of the trash. Waits until that is known.
async fn goes_in(node: &Node, path: &str) -> Duration {
    let path = RelPath::new(path).unwrap();
    let known = async {
        loop {
            let listing = node.engine().trash_list(Some("data"), path.clone()).await;
            let first = listing.unwrap().items.into_iter().next().unwrap();
            if let Some(left) = first.goes_in {
                return left;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(super::pair::PATIENCE, known)
        .await
        .unwrap()
}

async fn pass_and_start(node: &mut Node, seconds: u64) {
    node.stop().await;
    let identity = IndexIdentity {
        pair: "test".into(),
        node: node.name.into(),
    };
    let index = Index::open(&node.dir.path().join("state/index.redb"), &identity).unwrap();
    crate::engine::trash::let_pass(&index, TreeId::of("data"), seconds);
    drop(index);
    node.start();
    node.engine().begin_replica().await.unwrap();
}

/// A directory may be named by a clock that was wrong by years.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_been_in_the_trash_for_long_enough_goes_whatever_its_name_says() {
    let aged = |t: &mut crate::tree::TreeConfig| {
        (t.deletes, t.trash_age) = (Deletes::Trash, Duration::from_secs(3600));
    };
    let (a, mut b) = pair(aged).await;
    write(&a.tree().join("file"), "x");
    let cable = Cable::plug(&a, &b);
    settled(&a, &b).await;
    std::fs::remove_file(a.tree().join("file")).unwrap();
    settled(&a, &b).await;
    cable.cut().await;
    let hour = Duration::from_secs(3600);
    assert!(
        goes_in(&b, "file").await > hour,
        "it is noted before it is there"
    );
    let trash = b.tree().join(".tandem/trash");
    let (past, future, mine) = (
        trash.join("1970-01-01T00"),
        trash.join("2970-01-01T00"),
        trash.join("mine"),
    );
    write(&past.join("deep/er/file"), "of a clock that does not go");
    write(&future.join("ahead"), "of one that leapt");
    write(&mine, "no hour");
    // It is looked at when the tree is opened, and each minute.
    pass_and_start(&mut b, 0).await;
    for path in ["file", "deep/er/file", "ahead"] {
        assert!(goes_in(&b, path).await > hour, "{path}");
    }
    pass_and_start(&mut b, 3600).await;
    assert!(goes_in(&b, "deep/er/file").await > Duration::ZERO);
    assert!(past.exists() && future.exists());
    assert_eq!(in_trash(&b, "file").len(), 1);
    pass_and_start(&mut b, 3600).await;
    b.until("gone", |_| hours(&b) == [mine.clone()]).await;
}

/// Whatever a source announces: only a disk that was full makes room, a step at a time, and first by what nobody needs.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_lack_of_room_takes_from_the_trash_and_cut_transfers_go_first() {
    let (a, b) = pair(century).await;
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
    let batch = |upto: u64, unput: BTreeMap<TreeId, Unput>| Batch {
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
            withheld: Vec::new(),
            given_up: Vec::new(),
            failed: vec![0],
        },
        contents: Default::default(),
        unput,
        source: source.clone(),
    };
    let left = || (partial.exists(), old.exists());
    let steps = [
        (BTreeMap::new(), (true, true)),
        ([(tree, Unput::NoRoom)].into(), (false, true)),
        ([(tree, Unput::NoRoom)].into(), (false, false)),
    ];
    for (upto, (unput, wanted)) in (head + 1..).zip(steps) {
        let handed = super::cuts::hand_batch(&b, batch(upto, unput)).await;
        handed.unwrap().unwrap();
        assert_eq!(left(), wanted);
    }
}

fn century(t: &mut crate::tree::TreeConfig) {
    let century = Duration::from_secs(100 * 365 * 24 * 3600);
    (t.deletes, t.trash_age) = (Deletes::Trash, century);
}

fn path(text: &str) -> RelPath {
    RelPath::from_escaped(text).unwrap()
}

/// The newest versions of the newest hour are what comes back, nothing is followed out of the trash, and what went meanwhile is
/// named.
#[tokio::test(flavor = "multi_thread")]
async fn the_trash_is_listed_and_looked_up() {
    let (_a, b) = pair(century).await;
    let trash = b.tree().join(".tandem/trash");
    for (at, text) in [
        ("2020-02-29T22/d/old", "older"),
        ("2020-02-29T23/d/f", "first"),
        ("2020-02-29T23/again", "file"),
        (
            "2020-02-29T23/was/dir",
            "below what is a file in the newer one",
        ),
        ("2020-02-29T23.1/d/f", "second"),
        ("2020-02-29T23.1/d/g", "g"),
        ("2020-02-29T23.1/again/inside", "i"),
        ("2020-02-29T23.1/was", "file"),
        ("mine/d/f", "of no hour"),
    ] {
        write(&trash.join(at), text);
    }
    let mode = std::fs::Permissions::from_mode(0o751);
    std::fs::set_permissions(trash.join("2020-02-29T23/d"), mode).unwrap();
    std::fs::create_dir(trash.join("2020-02-29T23/bare")).unwrap();
    let link = |to: &std::path::Path, at| std::os::unix::fs::symlink(to, at);
    link("nowhere".as_ref(), trash.join("2020-02-29T23/link")).unwrap();
    link(b.dir.path(), trash.join("2020-02-29T21")).unwrap();
    link(b.dir.path(), trash.join("2020-02-29T20-out")).unwrap();
    link(b.dir.path(), trash.join("2020-02-29T22/out")).unwrap();
    let list = async |tree: Option<&str>, below| b.engine().trash_list(tree, path(below)).await;
    let all = list(None, ".").await.unwrap();
    let shown = |items: &[crate::engine::TrashItem]| {
        let one = |item: &crate::engine::TrashItem| format!("{} {}", item.hour, item.path);
        items.iter().map(one).collect::<Vec<_>>()
    };
    let wanted = [
        "2020-02-29T23.1 again/inside",
        "2020-02-29T23.1 d/f",
        "2020-02-29T23.1 d/g",
        "2020-02-29T23.1 was",
        "2020-02-29T23 again",
        "2020-02-29T23 bare",
        "2020-02-29T23 d/f",
        "2020-02-29T23 link",
        "2020-02-29T23 was/dir",
        "2020-02-29T22 d/old",
        "2020-02-29T22 out",
    ];
    assert_eq!(shown(&all.items), wanted);
    assert_eq!((all.beyond, all.whole), (0, true));
    let below = list(Some("data"), "d").await.unwrap();
    assert_eq!(below.items.len(), 4, "{below:?}");
    assert_eq!(list(Some("data"), "out/tree").await.unwrap().items, []);
    let unknown = list(Some("other"), ".").await;
    assert!(matches!(unknown, Err(CommandError::NoSuchTree(_))));

    let find = async |what, at| b.engine().trash_find("data", path(what), at).await;
    let found = find("d", None).await.unwrap();
    let wanted = [
        "2020-02-29T23 d",
        "2020-02-29T23.1 d/f",
        "2020-02-29T23.1 d/g",
    ];
    assert_eq!(shown(&found), wanted);
    let found = find("d", Some("2020-02-29T22")).await.unwrap();
    assert_eq!(shown(&found), ["2020-02-29T22 d", "2020-02-29T22 d/old"]);
    let found = find("was", None).await.unwrap();
    assert_eq!(shown(&found), ["2020-02-29T23.1 was"]);
    let found = find("again", None).await.unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    let found = find("d/old", None).await.unwrap();
    assert_eq!(shown(&found), ["2020-02-29T22 d/old"]);
    let none = find("d/none", None).await;
    assert!(matches!(none, Err(CommandError::NotInTrash(_))), "{none:?}");
    for at in ["2020-02-29T21", "mine", "..", "2020-02-29T23/.."] {
        assert!(find("tree", Some(at)).await.is_err(), "{at}");
    }

    let open = async |at, what| b.engine().trash_open("data", at, path(what)).await;
    let opened = open("2020-02-29T23.1", "d/f").await.unwrap();
    let TrashContent::File(mut file) = opened.content else {
        panic!("{opened:?}");
    };
    let mut text = String::new();
    std::io::Read::read_to_string(&mut file, &mut text).unwrap();
    assert_eq!((text.as_str(), opened.size), ("second", 6));
    assert_eq!(open("2020-02-29T23", "d").await.unwrap().meta.mode, 0o751);
    let opened = open("2020-02-29T23", "link").await.unwrap();
    assert!(matches!(opened.content, TrashContent::Symlink(to) if to == b"nowhere"));
    for (at, what) in [("2020-02-29T21", "tree"), ("2020-02-29T22", "out/tree")] {
        assert!(open(at, what).await.is_err(), "{at}/{what}");
    }
    // Between the two it is emptied.
    std::fs::remove_dir_all(trash.join("2020-02-29T23.1")).unwrap();
    let gone = open("2020-02-29T23.1", "d/g").await.unwrap_err();
    assert!(gone.to_string().contains("any more"), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trash_is_emptied_by_age_or_whole_and_nothing_else() {
    let (a, b) = pair(century).await;
    write(&a.tree().join("file"), "x");
    let cable = Cable::plug(&a, &b);
    settled(&a, &b).await;
    std::fs::remove_file(a.tree().join("file")).unwrap();
    settled(&a, &b).await;
    let trash = b.tree().join(".tandem/trash");
    // More than goes in one step.
    for i in 0..2500 {
        write(&trash.join(format!("2020-02-29T23/{}/{i}", i % 7)), "old");
    }
    write(&trash.join("mine"), "of no hour");
    let empty = async |older: Option<u64>| {
        let older = older.map(Duration::from_secs);
        b.engine().trash_empty("data", older).await
    };
    let day = empty(Some(24 * 3600)).await.unwrap();
    assert_eq!((day.removed, day.stays), (2500 + 7 + 1, None));
    assert!(!trash.join("2020-02-29T23").exists());
    assert_eq!(in_trash(&b, "file").len(), 1, "it is of this hour");
    let all = empty(None).await.unwrap();
    assert_eq!((all.removed, all.stays), (2, None));
    assert_eq!(in_trash(&b, "file"), Vec::<PathBuf>::new());
    assert!(trash.join("mine").exists());
    // What is deleted after it has its place again.
    write(&a.tree().join("file"), "y");
    settled(&a, &b).await;
    std::fs::remove_file(a.tree().join("file")).unwrap();
    settled(&a, &b).await;
    assert_eq!(in_trash(&b, "file").len(), 1);
    let unknown = b.engine().trash_empty("other", None).await;
    assert!(matches!(unknown, Err(CommandError::NoSuchTree(_))));
    cable.cut().await;
}
