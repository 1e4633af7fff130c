//! Flags of chattr, where a tree carries them.

use super::compare::assert_equal;
use super::pair::{Cable, Node, PATIENCE, begin, flush, pair, recorded, write};
use super::reversal::rescued;
use crate::entry::Flags;
use crate::path::RelPath;
use crate::tree::{LocalChanges, TreeConfig, TreeId};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const NONE: IFlags = IFlags::empty();
const IMMUTABLE: IFlags = IFlags::IMMUTABLE;
const APPEND: IFlags = IFlags::APPEND;

fn carried(tree: &mut TreeConfig) {
    tree.flags = true;
    // A flag alone raises no event: only a pass finds it.
    tree.poll = Some(std::time::Duration::from_millis(100));
}

/// All that are carried, as the file system has them.
fn flags(path: &Path) -> IFlags {
    let file = fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let all = ioctl_getflags(file).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    IFlags::from_bits_retain(all.bits() & Flags::MASK)
}

fn set(path: &Path, flags: IFlags) {
    let file = fs::File::open(path).unwrap();
    change(&file, Flags::MASK, flags).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Others than these stay as they are.
fn change(file: &fs::File, these: u32, to: IFlags) -> rustix::io::Result<()> {
    let others = ioctl_getflags(file)?.bits() & !these;
    ioctl_setflags(file, IFlags::from_bits_retain(others | to.bits()))
}

/// Whether flags can be set here at all. Only where they mean nothing (a user namespace) it is said instead of tested.
#[track_caller]
fn possible() -> bool {
    let temp = tempfile::NamedTempFile::new().unwrap();
    let set = |to| change(temp.as_file(), Flags::MASK, to);
    let done = set(IMMUTABLE).and_then(|()| set(NONE));
    if let Err(errno) = done {
        tandem_lab::skipped(format_args!("flags of files cannot be set: {errno}"));
    }
    done.is_ok()
}

/// Takes every flag away when it goes, so that the directories can be removed.
struct Freed(Vec<std::path::PathBuf>);

impl Freed {
    fn of(nodes: [&Node; 2]) -> Freed {
        Freed(
            nodes
                .iter()
                .map(|node| node.dir.path().to_owned())
                .collect(),
        )
    }
}

impl Drop for Freed {
    fn drop(&mut self) {
        for entry in self.0.iter().flat_map(walkdir::WalkDir::new).flatten() {
            if let (true, Ok(file)) = (!entry.path_is_symlink(), fs::File::open(entry.path())) {
                let _ = change(&file, (IMMUTABLE | APPEND).bits(), NONE);
            }
        }
    }
}

/// Both trees are equal, with their flags, and nothing was taken for a local change.
fn assert_same(a: &Node, b: &Node) {
    assert_equal(&a.tree(), &b.tree());
    for entry in paths(a).filter(|entry| !entry.path_is_symlink()) {
        let path = entry.path().strip_prefix(a.tree()).unwrap();
        let there = flags(&b.tree().join(path));
        assert_eq!(flags(entry.path()), there, "{}", path.display());
    }
    assert_eq!(rescued(b), BTreeMap::new());
}

/// The index has the flags of all entries as they are.
fn is_known(node: &Node) -> bool {
    let snapshot = node.engine().shared.index.snapshot().unwrap();
    let carried = |entry: &walkdir::DirEntry| !entry.path_is_symlink() && entry.depth() > 0;
    paths(node).filter(carried).all(|entry| {
        let path = entry.path().strip_prefix(node.tree()).unwrap();
        let path = RelPath::new(path.as_os_str().as_bytes()).unwrap();
        let known = snapshot.get(TreeId::of("data"), &path).unwrap();
        let known = known.and_then(|known| known.current);
        known.is_some_and(|known| known.meta.xattrs.flags().bits() == flags(entry.path()).bits())
    })
}

fn paths(node: &Node) -> impl Iterator<Item = walkdir::DirEntry> {
    let walk = walkdir::WalkDir::new(node.tree()).into_iter();
    let own = |entry: &walkdir::DirEntry| entry.file_name() != ".tandem";
    walk.filter_entry(own).map(|entry| entry.unwrap())
}

/// Asks at short intervals: no status tells.
async fn eventually(node: &Node, what: &str, is: impl Fn() -> bool) {
    let asked = async {
        while !is() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let within = tokio::time::timeout(PATIENCE, asked).await;
    let shown = || {
        let is: Vec<_> = paths(node)
            .filter(|entry| !entry.path_is_symlink())
            .map(|entry| (entry.path().to_owned(), flags(entry.path())))
            .collect();
        format!("{:#?}\n{}\n{is:?}", node.engine().status(), node.index())
    };
    assert!(within.is_ok(), "not {what} after {PATIENCE:?}: {}", shown());
}

async fn known(node: &Node) {
    eventually(node, "the flags are known", || is_known(node)).await;
}

/// All that the source has, flags alone too, is on the replica.
async fn settled(a: &Node, b: &Node) {
    known(a).await;
    flush(a).await;
    b.until("consistent", |s| s.consistent && s.trees[0].errors == 0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_come_and_go_with_what_they_are_of() {
    if !possible() {
        return;
    }
    let (a, b) = pair(carried).await;
    let _freed = Freed::of([&a, &b]);
    let here = a.tree();
    for name in [
        "immutable",
        "log",
        "plain",
        "dir/inner",
        "closed/inner",
        "closed/sub/deep",
    ] {
        write(&here.join(name), name);
    }
    set(&here.join("immutable"), IMMUTABLE | IFlags::NOATIME);
    set(&here.join("log"), APPEND);
    set(&here.join("plain"), IFlags::NODUMP | IFlags::SYNC);
    set(&here.join("dir"), IFlags::DIRSYNC);
    set(&here.join("closed/sub"), APPEND);
    set(&here.join("closed"), IMMUTABLE);
    let cable = Cable::plug(&a, &b);
    settled(&a, &b).await;
    assert_same(&a, &b);
    assert_eq!(flags(&b.tree().join("closed")), IMMUTABLE);
    // Flags alone, set and taken away.
    set(&here.join("dir/inner"), IMMUTABLE);
    set(&here.join("immutable"), NONE);
    set(&here.join("closed"), IFlags::NODUMP);
    settled(&a, &b).await;
    assert_same(&a, &b);
    // An append-only log grows.
    let mut log = fs::File::options()
        .append(true)
        .open(here.join("log"))
        .unwrap();
    std::io::Write::write_all(&mut log, b" and more").unwrap();
    settled(&a, &b).await;
    assert_same(&a, &b);
    cable.cut().await;
}

/// What is done on the source with things that cannot be changed on the replica. Each keeps or loses its flags.
fn turn_over(tree: &Path) {
    // In a directory that nobody opens for it.
    write(&tree.join("closed/open"), "newer");
    // A file with a new content, one with a new mode, one that goes, one that gets another name.
    for (name, again) in [
        ("content", true),
        ("mode", true),
        ("goes", false),
        ("moves", false),
    ] {
        let path = tree.join("dir").join(name);
        set(&tree.join("dir"), NONE);
        set(&path, NONE);
        match name {
            "content" => write(&path, "newer content"),
            "mode" => {
                fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
                    .unwrap()
            }
            "goes" => fs::remove_file(&path).unwrap(),
            _ => fs::rename(&path, tree.join("dir/moved")).unwrap(),
        }
        if again {
            set(&path, IMMUTABLE);
        }
    }
    set(&tree.join("dir/moved"), IMMUTABLE);
    // A further name of one that stays immutable, one name of two that goes.
    set(&tree.join("dir/linked"), NONE);
    fs::hard_link(tree.join("dir/linked"), tree.join("another name")).unwrap();
    set(&tree.join("dir/linked"), IMMUTABLE);
    set(&tree.join("two"), NONE);
    fs::remove_file(tree.join("two")).unwrap();
    set(&tree.join("dir/second of two"), IMMUTABLE);
    set(&tree.join("dir"), IMMUTABLE);
    // A directory that goes with all that is in it, one that gets another name, one that becomes a file.
    for name in ["old", "renamed", "replaced"] {
        set(&tree.join(name), NONE);
    }
    set(&tree.join("old/file"), NONE);
    fs::remove_dir_all(tree.join("old")).unwrap();
    fs::rename(tree.join("renamed"), tree.join("renamed now")).unwrap();
    set(&tree.join("renamed now"), IMMUTABLE);
    fs::remove_dir_all(tree.join("replaced")).unwrap();
    write(&tree.join("replaced"), "a file");
    set(&tree.join("replaced"), APPEND);
}

fn begin_tree(tree: &Path) {
    write(&tree.join("closed/open"), "older");
    set(&tree.join("closed"), IMMUTABLE);
    for name in [
        "content",
        "mode",
        "goes",
        "moves",
        "linked",
        "second of two",
    ] {
        write(&tree.join("dir").join(name), name);
    }
    for name in ["old/file", "renamed/file", "replaced/file"] {
        write(&tree.join(name), name);
    }
    fs::hard_link(tree.join("dir/second of two"), tree.join("two")).unwrap();
    for name in [
        "content",
        "mode",
        "goes",
        "moves",
        "linked",
        "second of two",
    ] {
        set(&tree.join("dir").join(name), IMMUTABLE);
    }
    for name in [
        "old/file",
        "renamed/file",
        "dir",
        "old",
        "renamed",
        "replaced",
    ] {
        set(&tree.join(name), IMMUTABLE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_immutable_makes_way_for_the_sources_own_changes() {
    if !possible() {
        return;
    }
    let trash = |tree: &mut TreeConfig| {
        carried(tree);
        tree.deletes = crate::tree::Deletes::Trash;
    };
    for change in [carried as fn(&mut TreeConfig), trash] {
        let (a, b) = pair(change).await;
        let _freed = Freed::of([&a, &b]);
        begin_tree(&a.tree());
        let cable = Cable::plug(&a, &b);
        settled(&a, &b).await;
        assert_same(&a, &b);
        turn_over(&a.tree());
        settled(&a, &b).await;
        assert_same(&a, &b);
        cable.cut().await;
    }
}

/// The apply is cut at every place: no flag is lost for good, and none is taken for a local change.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_between_the_steps_loses_no_flag() {
    if !possible() {
        return;
    }
    for n in 1.. {
        // A flag that a cut took away is put back, whatever becomes of what people change there.
        let report = |tree: &mut TreeConfig| {
            carried(tree);
            tree.local_changes = LocalChanges::Report;
        };
        let (mut a, mut b) = pair(report).await;
        let _freed = Freed::of([&a, &b]);
        // A scan finds flags sooner than the poll.
        a.stop().await;
        begin_tree(&a.tree());
        a.start();
        a.engine().begin_source(1).await.unwrap();
        let cable = Cable::plug(&a, &b);
        known(&a).await;
        flush(&a).await;
        cable.cut().await;
        a.stop().await;
        turn_over(&a.tree());
        a.start();
        a.engine().begin_source(1).await.unwrap();
        known(&a).await;
        b.engine().shared.cuts.arm(n);
        let mut cable = Cable::plug(&a, &b);
        let cut = super::cuts::until_cut(&a, &b).await;
        let place = b.engine().shared.cuts.place();
        if cut {
            cable.cut().await;
            b.stop().await;
            b.start();
            b.engine().begin_replica().await.unwrap();
            cable = Cable::plug(&a, &b);
        }
        println!("cut {n}, {place:?}");
        settled(&a, &b).await;
        assert_same(&a, &b);
        cable.cut().await;
        if !cut {
            assert!(n > 20, "the places were reached");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_made_immutable_here_goes_to_the_rescue_as_it_is() {
    if !possible() {
        return;
    }
    let (a, b) = pair(carried).await;
    let _freed = Freed::of([&a, &b]);
    write(&a.tree().join("dir/file"), "of the pair");
    let cable = Cable::plug(&a, &b);
    settled(&a, &b).await;
    // While nobody repairs: of a flag that is set behind the repair only the next pass would tell.
    cable.cut().await;
    write(&b.tree().join("dir/file"), "somebody's");
    set(&b.tree().join("dir/file"), IMMUTABLE);
    set(&b.tree().join("dir"), IMMUTABLE);
    let cable = Cable::plug(&a, &b);
    let read = || fs::read_to_string(b.tree().join("dir/file")).ok();
    eventually(&b, "repaired", || {
        read().as_deref() == Some("of the pair") && is_known(&b)
    })
    .await;
    settled(&a, &b).await;
    assert_equal(&a.tree(), &b.tree());
    for name in ["dir", "dir/file"] {
        assert_eq!(flags(&b.tree().join(name)), NONE);
    }
    assert_eq!(
        rescued(&b).get("dir/file").map(String::as_str),
        Some("somebody's")
    );
    cable.cut().await;
}

/// What is applied in a directory gives it a new key, by which a flag that nobody told of would count as known.
#[tokio::test(flavor = "multi_thread")]
async fn somebodys_flag_of_a_directory_does_not_hide_behind_what_is_applied_in_it() {
    if !possible() {
        return;
    }
    let (a, b) = pair(|tree| tree.flags = true).await;
    let _freed = Freed::of([&a, &b]);
    write(&a.tree().join("dir/file"), "content");
    let cable = Cable::plug(&a, &b);
    settled(&a, &b).await;
    for (n, flag) in [IFlags::NODUMP, IMMUTABLE].into_iter().enumerate() {
        set(&b.tree().join("dir"), flag);
        // The source has nothing to say of the directory itself.
        write(&a.tree().join("dir/file"), format!("content {n}"));
        flush(&a).await;
        let is_none = || flags(&b.tree().join("dir")) == NONE;
        eventually(&b, "put right", is_none).await;
    }
    settled(&a, &b).await;
    assert_same(&a, &b);
    cable.cut().await;
}

/// A flag that is seen only after the content it protects makes nothing of it the pair's own.
#[tokio::test(flavor = "multi_thread")]
async fn somebodys_content_is_rescued_also_if_its_flag_is_seen_later() {
    if !possible() {
        return;
    }
    let (a, b) = pair(carried).await;
    let _freed = Freed::of([&a, &b]);
    write(&a.tree().join("file"), "of the pair");
    let cable = Cable::plug(&a, &b);
    settled(&a, &b).await;
    cable.cut().await;
    write(&b.tree().join("file"), "somebody's");
    b.until("listed", |s| s.trees[0].dirty > 0).await;
    set(&b.tree().join("file"), IMMUTABLE);
    known(&b).await;
    let cable = Cable::plug(&a, &b);
    settled(&a, &b).await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(
        rescued(&b).get("file").map(String::as_str),
        Some("somebody's")
    );
    cable.cut().await;
}

/// Without the key a peer sets none, and what is immutable here stays as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_sends_flags_sets_none_where_the_tree_carries_none() {
    if !possible() {
        return;
    }
    let (a, b) = begin(Node::new("a", carried), Node::new("b", |_| {})).await;
    let _freed = Freed::of([&a, &b]);
    write(&a.tree().join("file"), "content");
    write(&a.tree().join("dir/other"), "content");
    set(&a.tree().join("file"), IMMUTABLE);
    set(&a.tree().join("dir"), IFlags::NODUMP);
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("the errors", |s| s.trees[0].errors == 2).await;
    let shown = b.shown().await.trees[0].last_error.clone().unwrap();
    assert!(shown.contains("does not carry"), "{shown}");
    assert_equal(&a.tree(), &b.tree());
    // That somebody touches them, and that they can be read, mends nothing.
    for name in ["file", "dir"] {
        let path = b.tree().join(name);
        assert_eq!(flags(&path), NONE);
        fs::set_permissions(&path, fs::metadata(&path).unwrap().permissions()).unwrap();
    }
    recorded(&b).await;
    assert_eq!(b.shown().await.trees[0].errors, 2);
    cable.cut().await;
}

/// No stamp tells that a tree carries flags from now on: everything in it is read again.
#[tokio::test(flavor = "multi_thread")]
async fn flags_of_a_tree_that_begins_to_carry_them_are_found() {
    if !possible() {
        return;
    }
    let (mut a, mut b) = pair(|_| {}).await;
    let _freed = Freed::of([&a, &b]);
    write(&a.tree().join("dir/file"), "content");
    set(&a.tree().join("dir/file"), IMMUTABLE);
    set(&a.tree().join("dir"), IMMUTABLE);
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_eq!(flags(&b.tree().join("dir/file")), NONE);
    cable.cut().await;
    for node in [&mut a, &mut b] {
        node.stop().await;
        node.change = carried;
        node.start();
    }
    a.engine().begin_source(1).await.unwrap();
    b.engine().begin_replica().await.unwrap();
    let cable = Cable::plug(&a, &b);
    settled(&a, &b).await;
    assert_same(&a, &b);
    // By a configuration that is read again, too.
    for flags in [false, true] {
        for node in [&a, &b] {
            let mut tree = TreeConfig::new("data", node.tree());
            tree.flags = flags;
            node.engine().set_trees(vec![tree]).await.unwrap();
        }
        set(&a.tree().join("dir/file"), APPEND);
    }
    let _ = cable.ended().await;
    let cable = Cable::plug(&a, &b);
    settled(&a, &b).await;
    assert_same(&a, &b);
    cable.cut().await;
}
