//! The disk of the state directory is full, and has room again: nobody restarts anything.

use super::compare::assert_equal;
use super::pair::{Cable, Node, begin, flush, write};
use super::reversal::rescued;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::Write;
use std::path::Path;
use tempfile::TempDir;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

/// A file system in memory, until it is dropped.
pub(super) struct Disk(TempDir);

impl Disk {
    /// `None`: there is no right to mount.
    pub fn new(megabytes: u32) -> Option<Disk> {
        let at = tempfile::tempdir().unwrap();
        let size = Disk::size(megabytes);
        mount(
            "none",
            at.path(),
            "tmpfs",
            MountFlags::empty(),
            Some(&*size),
        )
        .ok()?;
        Some(Disk(at))
    }

    fn size(megabytes: u32) -> CString {
        CString::new(format!("size={megabytes}m")).unwrap()
    }

    pub fn at(&self) -> &Path {
        self.0.path()
    }

    fn grow(&self, megabytes: u32) {
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
