//! Attributes that cannot be set on the standby: a btrfs of the test's own, mounted without ACLs.

use super::compare::{assert_equal, differences};
use super::pair::{Cable, Node, PATIENCE, begin, flush, write};
use super::reflinks::Disk;
use super::reversal::{rescued, turn};
use crate::engine::EngineStatus;
use rustix::mount::MountFlags;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const ACL: &str = "system.posix_acl_access";

/// Lets one more user read.
fn set_acl(path: &Path) -> rustix::io::Result<()> {
    let entry = |tag: u16, may: u16, id: u32| {
        let (tag, may) = (tag.to_le_bytes(), may.to_le_bytes());
        [&tag[..], &may[..], &id.to_le_bytes()[..]].concat()
    };
    let all = [
        2u32.to_le_bytes().to_vec(),
        entry(0x01, 6, u32::MAX),
        entry(0x02, 4, 3000),
        entry(0x04, 4, u32::MAX),
        entry(0x10, 4, u32::MAX),
        entry(0x20, 4, u32::MAX),
    ];
    rustix::fs::setxattr(path, ACL, &all.concat(), rustix::fs::XattrFlags::empty())
}

fn has_acl(path: &Path) -> bool {
    rustix::fs::getxattr(path, ACL, &mut [0u8; 64]).is_ok()
}

fn acls(disk: &Disk, on: bool) {
    let options = if on { c"acl" } else { c"noacl" };
    rustix::mount::mount_remount(&disk.at, MountFlags::empty(), options).unwrap();
}

/// The standby lies on a disk without ACLs; `files` of the master's have one.
async fn without_acls(files: usize) -> Option<(Node, Node, Cable, Disk)> {
    let disk = Disk::btrfs()?;
    acls(&disk, false);
    let (a, b) = begin(Node::new("a", |_| {}), Node::new_in(&disk.at, "b", |_| {})).await;
    write(&a.tree().join("plain"), "plain");
    for n in 0..files {
        let path = a.tree().join(format!("d/f{n}"));
        write(&path, "content");
        if set_acl(&path).is_err() {
            tandem_lab::skipped("no ACLs in the directory for tests");
            return None;
        }
    }
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    Some((a, b, cable, disk))
}

async fn follows(a: &Node) -> bool {
    a.engine().flush(PATIENCE).await.unwrap().peer_follows
}

fn lacks_one(s: &EngineStatus) -> bool {
    let last = s.trees[0].last_error.as_deref().unwrap_or_default();
    s.trees[0].errors == 1 && last.contains("d/f0") && last.contains("acl")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acl_that_cannot_be_set_is_named_also_after_a_restart_and_set_when_it_can_be() {
    let Some((a, mut b, cable, disk)) = without_acls(1).await else {
        return;
    };
    assert!(!follows(&a).await, "the standby is to be asked");
    a.until("the master knows", |s| s.peer_keeps).await;
    b.until("the error", lacks_one).await;
    // Replication goes on, also of that path.
    write(&a.tree().join("plain"), "newer");
    write(&a.tree().join("d/f0"), "newer");
    assert!(!follows(&a).await);
    assert_eq!(fs::read(b.tree().join("plain")).unwrap(), b"newer");
    assert_eq!(fs::read(b.tree().join("d/f0")).unwrap(), b"newer");
    // A restart forgets nothing of it, and nobody's change is seen in it.
    cable.cut().await;
    b.stop().await;
    b.start();
    b.until("the error is known", lacks_one).await;
    b.engine().begin_replica().await.unwrap();
    let here = b.tree().join("d/f0");
    fs::set_permissions(&here, fs::Permissions::from_mode(0o644)).unwrap();
    let cable = Cable::plug(&a, &b);
    assert!(!follows(&a).await);
    let except = b.engine().exceptions(PATIENCE).await.unwrap();
    let named = |n: &crate::engine::NotCovered| n.why.starts_with("d/f0 is not complete");
    assert!(except.len() == 1 && named(&except[0]), "{except:?}");
    b.until("the error", lacks_one).await;
    acls(&disk, true);
    b.until("no error", |s| s.trees[0].errors == 0 && s.consistent)
        .await;
    assert!(has_acl(&here));
    assert!(follows(&a).await);
    a.until("nothing lacks", |s| !s.peer_keeps).await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(rescued(&b), BTreeMap::new());
    cable.cut().await;
    // Nothing is left of it.
    b.stop().await;
    b.start();
    assert_eq!(b.shown().await.trees[0].errors, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_new_master_could_not_set_is_not_taken_away_from_the_old_one() {
    let Some((a, b, cable, disk)) = without_acls(1).await else {
        return;
    };
    b.until("the error", lacks_one).await;
    cable.cut().await;
    let cable = turn(&a, &b).await;
    let (here, there) = (b.tree().join("d/f0"), a.tree().join("d/f0"));
    write(&here, "of the new master");
    flush(&b).await;
    assert_eq!(fs::read(&there).unwrap(), b"of the new master");
    assert!(has_acl(&there), "nobody took it away");
    assert!(!has_acl(&here));
    // What somebody does to the rest of its attributes counts.
    let none = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&here, "user.own", b"1", none).unwrap();
    flush(&b).await;
    assert!(rustix::fs::getxattr(&there, "user.own", &mut [0u8; 8]).is_ok());
    assert!(has_acl(&there));
    b.until("the error", lacks_one).await;
    acls(&disk, true);
    set_acl(&here).unwrap();
    b.until("no error", |s| s.trees[0].errors == 0).await;
    flush(&b).await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(rescued(&a), BTreeMap::new());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_paths_than_are_kept_by_name_get_what_they_lack() {
    let Some((a, mut b, cable, disk)) = without_acls(30).await else {
        return;
    };
    b.until("all are counted", |s| s.trees[0].errors >= 30)
        .await;
    cable.cut().await;
    b.stop().await;
    b.start();
    b.until("all are known", |s| s.trees[0].errors >= 30).await;
    acls(&disk, true);
    b.engine().begin_replica().await.unwrap();
    // Those by name are asked for, the others with a session of their own.
    let dials = async {
        loop {
            let _ = Cable::plug(&a, &b).ended().await;
        }
    };
    let same = |s: &EngineStatus| {
        s.consistent && s.trees[0].errors == 0 && differences(&a.tree(), &b.tree()).is_empty()
    };
    tokio::select! {
        () = b.until("nothing lacks", same) => {}
        _ = tokio::time::timeout(PATIENCE, dials) => panic!("{:#?}", b.engine().status()),
    }
    let all = (0..30).all(|n| has_acl(&b.tree().join(format!("d/f{n}"))));
    assert!(all);
    assert_eq!(rescued(&b), BTreeMap::new());
}
