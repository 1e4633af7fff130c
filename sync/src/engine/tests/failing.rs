//! The disk of the state directory is full, and has room again: nobody restarts anything.

use super::compare::assert_equal;
use super::pair::{Cable, Node, begin, flush, write};
use super::reversal::rescued;
use super::trees::data;
use crate::engine::clock;
use crate::engine::flags::flagged_key;
use crate::engine::handle::open::prepare;
use crate::engine::skipped::skipped_key;
use crate::engine::worker::Worker;
use crate::path::RelPath;
use crate::tree::TreeId;
use crate::wire::Fuzzy;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

/// A file system in memory, until it is dropped.
pub(super) struct Disk {
    at: PathBuf,
    /// Its place, if it has one of its own.
    _place: Option<TempDir>,
}

impl Disk {
    /// `None`: there is no right to mount.
    pub fn new(megabytes: u32) -> Option<Disk> {
        let place = tempfile::tempdir().unwrap();
        let mut disk = Disk::over(place.path(), megabytes)?;
        disk._place = Some(place);
        Some(disk)
    }

    /// The same over a directory.
    pub fn over(at: &Path, megabytes: u32) -> Option<Disk> {
        let size = Disk::size(megabytes);
        mount("none", at, "tmpfs", MountFlags::empty(), Some(&*size)).ok()?;
        Some(Disk {
            at: at.to_owned(),
            _place: None,
        })
    }

    fn size(megabytes: u32) -> CString {
        CString::new(format!("size={megabytes}m")).unwrap()
    }

    pub fn at(&self) -> &Path {
        &self.at
    }

    pub fn grow(&self, megabytes: u32) {
        mount_remount(self.at(), MountFlags::empty(), &*Disk::size(megabytes)).unwrap();
    }

    /// Whether it takes changes, as soon as no file is being written there.
    pub async fn set_read_only(&self, read_only: bool) {
        let flags = match read_only {
            true => MountFlags::RDONLY,
            false => MountFlags::empty(),
        };
        let set = async {
            while mount_remount(self.at(), flags, c"").is_err() {
                tokio::task::yield_now().await;
            }
        };
        let set = tokio::time::timeout(super::pair::PATIENCE, set).await;
        set.expect("nobody writes there");
    }

    /// Takes all the room.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.at().join("fill")).unwrap();
        while file.write_all(&[7; 4096]).is_ok() {}
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(self.at(), UnmountFlags::DETACH);
    }
}

/// Changes that the index does not take without more room.
fn change_much(node: &Node, name: &str) {
    for i in 0..3000 {
        let long = "long".repeat(40);
        write(
            &node.tree().join(format!("{name}/{}/{long}{i}", i % 30)),
            "",
        );
    }
}

/// A pair of which one node has its state on the disk; the other's place is given.
pub(super) async fn pair_on(disk: &Path, full: &'static str, place: &TempDir) -> (Node, Node) {
    let node = |name: &'static str| {
        let state = match name == full {
            true => disk.join("state"),
            false => place.path().join(format!("{name}-state")),
        };
        Node::new_at(&place.path().join(name), state, name, |_| {})
    };
    begin(node("a"), node("b")).await
}

fn fails(node: &Node) -> bool {
    let alarms = node.engine().status().alarms;
    alarms.iter().any(|alarm| alarm.kind == "index")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_state_directory_of_either_node_needs_no_restart() {
    for full in ["a", "b"] {
        let Some(disk) = Disk::new(12) else {
            return tandem_lab::skipped("a full state directory: no right to mount");
        };
        let place = tempfile::tempdir().unwrap();
        let (a, b) = pair_on(disk.at(), full, &place).await;
        write(&a.tree().join("first"), "is here");
        let cable = Cable::plug(&a, &b);
        flush(&a).await;
        let known = a.shown().await.seq;
        disk.fill();
        change_much(&a, "much");
        let node = if full == "a" { &a } else { &b };
        node.until("an alarm", |s| {
            !s.consistent && s.alarms.iter().any(|a| a.kind == "index")
        })
        .await;
        let text = format!("{:#?}", node.engine().status());
        assert!(text.contains("No space left"), "{text}");
        // What the one node lacks ends the session, and nothing else on the other.
        let _ = cable.ended().await;
        write(&a.tree().join("after"), "while it is full");
        std::fs::remove_file(a.tree().join("first")).unwrap();
        assert_eq!(fails(&a), full == "a");
        assert_eq!(fails(&b), full == "b");

        std::fs::remove_file(disk.at().join("fill")).unwrap();
        node.until("opened anew", |s| s.alarms.is_empty()).await;
        let cable = Cable::plug(&a, &b);
        flush(&a).await;
        b.until("consistent", |s| s.consistent && s.trees[0].dirty == 0)
            .await;
        assert_equal(&a.tree(), &b.tree());
        assert!(a.shown().await.seq > known + 3000, "{known}");
        assert_eq!(rescued(&b), BTreeMap::new());
        cable.cut().await;
    }
}

/// Waits for something while whoever dials does it again after each session.
async fn while_dialled(first: Cable, a: &Node, b: &Node, what: impl Future<Output = ()>) {
    let dials = async {
        let mut cable = first;
        loop {
            // It may last: how long is waited for, `what` knows.
            let _ = tokio::join!(cable.source, cable.replica);
            cable = Cable::plug(a, b);
        }
    };
    tokio::select! {
        () = what => {}
        () = dials => unreachable!("it never ends"),
    }
}

/// Tree and state of the standby are on one disk, which what it receives fills.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_whose_own_tree_fills_the_disk_goes_on_when_there_is_room() {
    let Some(disk) = Disk::new(12) else {
        return tandem_lab::skipped("one disk for tree and state: no right to mount");
    };
    let a = Node::new("a", |_| {});
    let b = Node::new_in(disk.at(), "b", |_| {});
    let (a, b) = begin(a, b).await;
    write(&a.tree().join("first"), "fits");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    for i in 0..200 {
        write(&a.tree().join(format!("large/{i}")), vec![i as u8; 100_000]);
    }
    change_much(&a, "more");
    // An alarm ends when there is room for a moment: what is left of a session that ended makes some.
    let alarmed = b.until("an alarm", |s| !s.consistent && !s.alarms.is_empty());
    while_dialled(cable, &a, &b, alarmed).await;
    write(&a.tree().join("after"), "the master goes on");
    super::pair::recorded(&a).await;
    assert_eq!(a.engine().status().alarms, []);
    disk.grow(80);
    let well = async {
        b.until("consistent", |s| {
            s.consistent && s.trees[0].dirty == 0 && s.alarms.is_empty()
        })
        .await;
        flush(&a).await;
    };
    while_dialled(Cable::plug(&a, &b), &a, &b, well).await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(rescued(&b), BTreeMap::new());
}

/// A worker that nobody runs, with paths on its lists: one that was flagged and one that a filter kept.
async fn with_lists() -> (Node, Worker) {
    let mut node = Node::new("b", |_| {});
    node.stop().await;
    for name in ["flagged", "skipped"] {
        write(&node.tree().join(name), "old");
    }
    let (mut worker, _) = prepare(node.config(vec![data(&node)])).unwrap();
    let tree = TreeId::of("data");
    let of = |name| BTreeSet::from([RelPath::new(name).unwrap()]);
    let index = &worker.shared.index;
    let put = index.write(|w| {
        w.put_value(&flagged_key(tree), &of("flagged"))?;
        w.put_value(&skipped_key(tree), &of("skipped"))
    });
    put.unwrap();
    worker.load_flagged();
    worker.load_skipped();
    (node, worker)
}

fn opened_anew(worker: &mut Worker) {
    let until = clock::now() + super::pair::PATIENCE.as_nanos() as u64;
    while !worker.index_works() {
        assert!(clock::now() < until, "{:?}", worker.shared.index.failure());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// The write that moves a path from one list to another fails: it is on one of them when the index works again.
#[tokio::test]
async fn what_is_on_a_list_stays_on_one_when_the_index_fails() {
    type Try = fn(&mut Worker);
    let tries: [(&str, Try); 2] = [
        ("flagged", Worker::try_flagged),
        ("skipped", Worker::try_skipped),
    ];
    for (name, try_again) in tries {
        let (_node, mut worker) = with_lists().await;
        worker.shared.index.fail();
        try_again(&mut worker);
        opened_anew(&mut worker);
        let path = RelPath::new(name).unwrap();
        let is_known = |worker: &mut Worker| {
            worker.load_unsettled().unwrap();
            let tree = &worker.trees[0];
            let lists = [&tree.flagged, &tree.skipped, &tree.unsettled];
            lists.iter().any(|list| list.contains(&path))
        };
        assert!(is_known(&mut worker), "{name} is forgotten");
        try_again(&mut worker);
        assert!(worker.trees[0].unsettled.contains(&path), "{name}");
    }
}

/// A mark that could not be written down is written with the next list that names it.
#[tokio::test]
async fn a_mark_that_the_index_did_not_take_is_not_taken_for_written() {
    let (node, mut worker) = with_lists().await;
    let torn = RelPath::new("torn").unwrap();
    let list = Fuzzy {
        tree: TreeId::of("data"),
        upto: 7,
        paths: vec![torn.clone()],
        more: 0,
    };
    worker.shared.index.fail();
    assert!(worker.mark_fuzzy(list.clone()).is_err());
    opened_anew(&mut worker);
    worker.mark_fuzzy(list).unwrap();
    drop(worker);
    let (worker, _) = prepare(node.config(vec![data(&node)])).unwrap();
    assert!(worker.trees[0].marks.here().contains(&torn));
}
