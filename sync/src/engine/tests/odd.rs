//! Everything that a file is, as odd as the system allows it.

use super::compare::assert_equal;
use super::pair::{Cable, Node, PATIENCE, begin, flush, pair, write};
use super::reversal::rescued;
use super::trees::{both, more};
use crate::tree::MaxDelete;
use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};
use rustix::mount::MountFlags;
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

async fn equal(a: &Node, b: &Node) {
    flush(a).await;
    b.until("consistent", |s| s.consistent && s.trees[0].dirty == 0)
        .await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(b.shown().await.trees[0].errors, 0);
    assert_eq!(rescued(b), BTreeMap::new());
}

/// Every byte that a name can have, in names that are as long as they can be.
fn names() -> Vec<Vec<u8>> {
    let mut every: Vec<u8> = (1..=255).filter(|b| *b != b'/').collect();
    every.push(b'x');
    let mut backwards = every.clone();
    backwards.reverse();
    vec![
        every,
        backwards,
        vec![0xff; 255],
        b" ".to_vec(),
        b"\n".to_vec(),
        b"-rf *".to_vec(),
        "\u{e9}".into(),
        "e\u{301}".into(),
        b"CASE".to_vec(),
        b"case".to_vec(),
        b"...".to_vec(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_any_bytes_and_links_to_anywhere() {
    let (a, b) = pair(|_| {}).await;
    let long = [b'l'; 250].iter().chain(b"/").copied().cycle();
    let targets: Vec<Vec<u8>> = vec![
        b"x".to_vec(),
        b" ".to_vec(),
        b".".to_vec(),
        b"..".to_vec(),
        b"/".to_vec(),
        b"//".to_vec(),
        b"../../../../../../etc/passwd".to_vec(),
        b"/nowhere/at/all".to_vec(),
        b"a//b/./c/".to_vec(),
        (1..=255).collect(),
        long.take(4095).collect(),
    ];
    for (i, name) in names().iter().enumerate() {
        let dir = a.tree().join(OsStr::from_bytes(name));
        write(&dir.join(OsStr::from_bytes(name)), format!("{i}"));
    }
    std::fs::create_dir(a.tree().join("links")).unwrap();
    for (i, target) in targets.iter().enumerate() {
        let at = a.tree().join(format!("links/{i}"));
        symlink(OsStr::from_bytes(target), at).unwrap();
    }
    let cable = Cable::plug(&a, &b);
    equal(&a, &b).await;
    // Each becomes another one, and some go.
    for (i, target) in targets.iter().rev().enumerate() {
        let at = a.tree().join(format!("links/{i}"));
        std::fs::remove_file(&at).unwrap();
        symlink(OsStr::from_bytes(target), at).unwrap();
    }
    for name in names().iter().take(4) {
        let dir = a.tree().join(OsStr::from_bytes(name));
        std::fs::rename(&dir, dir.with_file_name(format!("{}", name.len()))).unwrap();
        if name.len() == 1 {
            std::fs::remove_dir_all(a.tree().join("1")).unwrap();
        }
        let one = a.tree().join("255");
        if one.exists() {
            std::fs::remove_dir_all(one).unwrap();
        }
    }
    equal(&a, &b).await;
    cable.cut().await;
}

/// An ACL as the system keeps it: its own version, then tag, permissions and number of each entry.
pub(super) fn acl(user: u32) -> Vec<u8> {
    let mut out = vec![2, 0, 0, 0];
    let none = u32::MAX;
    let entries = [
        (0x01u16, 6u16, none),
        (0x02, 4, user),
        (0x04, 4, none),
        (0x10, 4, none),
        (0x20, 0, none),
    ];
    for (tag, permissions, number) in entries {
        out.extend(tag.to_le_bytes());
        out.extend(permissions.to_le_bytes());
        out.extend(number.to_le_bytes());
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_acls_and_odd_times() {
    let (a, b) = pair(|_| {}).await;
    for i in 0..30 {
        write(&a.tree().join(format!("more/{i}")), "x");
    }
    let set = |name: &str, attribute: &str, value: &[u8]| {
        let at = a.tree().join(name);
        let set = rustix::fs::setxattr(at, attribute, value, XattrFlags::empty());
        if let Err(errno) = set {
            tandem_lab::skipped(format_args!("{attribute} cannot be set: {errno}"));
        }
    };
    write(&a.tree().join("server"), "may bind to port 80");
    write(&a.tree().join("shared/file"), "x");
    let owned = std::os::unix::fs::chown(a.tree().join("server"), Some(1), Some(2));
    let mode = |m| std::fs::Permissions::from_mode(m);
    std::fs::set_permissions(a.tree().join("server"), mode(0o6755)).unwrap();
    std::fs::set_permissions(a.tree().join("shared"), mode(0o3777)).unwrap();
    // cap_net_bind_service=ep, revision 2. After the owner, whose change takes it away.
    let mut capability = [0; 20];
    (capability[0], capability[3], capability[5]) = (1, 2, 4);
    set("server", "security.capability", &capability);
    set("shared/file", "system.posix_acl_access", &acl(12345));
    set("shared", "system.posix_acl_default", &acl(54321));
    set("more/3", "user.large", &[7; 3000]);
    set("more/4", "trusted.odd \u{fc}", b"\0\xff");
    let at = |name: &str| std::fs::File::open(a.tree().join(name)).unwrap();
    let old = SystemTime::UNIX_EPOCH - Duration::new(86_400 * 365, 999_999_999);
    at("more/1").set_modified(old).unwrap();
    let far = SystemTime::UNIX_EPOCH + Duration::new(9_000_000_000, 1);
    at("more/2").set_modified(far).unwrap();
    let cable = Cable::plug(&a, &b);
    equal(&a, &b).await;
    if owned.is_ok() {
        // Without its content being changed: the new owner, and the capability again.
        std::os::unix::fs::chown(a.tree().join("server"), Some(3), Some(4)).unwrap();
        set("server", "security.capability", &capability);
    }
    set("shared/file", "system.posix_acl_access", &acl(99));
    equal(&a, &b).await;
    cable.cut().await;
}

/// Opens or makes a directory below another one, by one name.
fn below(dir: &OwnedFd, name: &str, make: bool) -> Option<OwnedFd> {
    if make {
        rustix::fs::mkdirat(dir, name, Mode::RWXU).unwrap();
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).ok()
}

fn top(node: &Node) -> OwnedFd {
    std::fs::File::open(node.tree()).unwrap().into()
}

/// More than the 4096 bytes that one call takes.
const DEEP: usize = 30;

fn descend(node: &Node, make: bool) -> Option<OwnedFd> {
    let name = "d".repeat(250);
    (0..DEEP).try_fold(top(node), |dir, _| below(&dir, &name, make))
}

fn content(dir: &OwnedFd, name: &str) -> Option<Vec<u8>> {
    let file = rustix::fs::openat(dir, name, OFlags::RDONLY, Mode::empty()).ok()?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::fs::File::from(file), &mut bytes).unwrap();
    Some(bytes)
}

fn put(dir: &OwnedFd, name: &str, bytes: &[u8]) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let file = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR).unwrap();
    std::io::Write::write_all(&mut std::fs::File::from(file), bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_longer_than_one_call_takes() {
    let (a, b) = pair(|t| t.max_delete = MaxDelete::Count(1000)).await;
    let deep = descend(&a, true).unwrap();
    write(&a.tree().join("stays"), "here");
    put(&deep, "before", b"first");
    let cable = Cable::plug(&a, &b);
    let settled = async || {
        flush(&a).await;
        b.until("consistent", |s| s.consistent && s.trees[0].dirty == 0)
            .await;
        assert_eq!(b.shown().await.trees[0].errors, 0);
    };
    settled().await;
    let there = descend(&b, false).expect("the directories are there");
    assert_eq!(content(&there, "before").as_deref(), Some(&b"first"[..]));
    // While it is watched: written, made, renamed, removed.
    put(&deep, "before", b"second");
    put(&deep, "other", b"other");
    settled().await;
    assert_eq!(content(&there, "before").as_deref(), Some(&b"second"[..]));
    rustix::fs::renameat(&deep, "other", &deep, "renamed").unwrap();
    rustix::fs::unlinkat(&deep, "before", AtFlags::empty()).unwrap();
    settled().await;
    assert_eq!(content(&there, "renamed").as_deref(), Some(&b"other"[..]));
    assert_eq!(
        (content(&there, "before"), content(&there, "other")),
        (None, None)
    );
    std::fs::remove_dir_all(a.tree().join("d".repeat(250))).unwrap();
    settled().await;
    assert!(descend(&b, false).is_none());
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}

/// Options of a file system in memory with room for so many files.
fn inodes(most: u32) -> CString {
    CString::new(format!("nr_inodes={most}")).unwrap()
}

/// One disk of the standby is full. What has no room there waits; the other tree is on another disk, and goes on in the same
/// session, as do deletions in the full one.
#[tokio::test(flavor = "multi_thread")]
async fn a_tree_without_room_does_not_hold_up_the_others() {
    let few = |disk: &Path, what: &str| {
        let options = CString::new(what).unwrap();
        rustix::mount::mount("none", disk, "tmpfs", MountFlags::empty(), Some(&*options))
    };
    // Inodes, then blocks: the one is met by a step of an apply, the other when a content is staged.
    for (least, most, files, size) in [
        ("nr_inodes=40", "nr_inodes=1000", 35, None),
        ("size=1m", "size=40m", 3, Some(700_000)),
    ] {
        let (a, b) = pair(|_| {}).await;
        let disk = more(&b);
        if few(&disk, least).is_err() {
            return tandem_lab::skipped("a disk without room: no right to mount");
        }
        for node in [&a, &b] {
            node.engine().set_trees(both(node)).await.unwrap();
        }
        let goes = more(&a).join("goes");
        write(&goes, "makes room");
        let cable = Cable::plug(&a, &b);
        flush(&a).await;
        for i in 0..files {
            let at = more(&a).join(format!("{i}"));
            match size {
                Some(size) => write(&at, vec![b'x'; size]),
                None => std::fs::create_dir(at).unwrap(),
            }
        }
        b.until("an alarm", |s| {
            !s.consistent && s.alarms.iter().any(|a| a.tree.as_deref() == Some("more"))
        })
        .await;
        write(&a.tree().join("after"), "on another disk");
        std::fs::remove_file(goes).unwrap();
        let after = b.tree().join("after");
        let gone = disk.join("goes");
        b.until("the other tree goes on", |_| {
            after.exists() && !gone.exists()
        })
        .await;
        let alarmed = b.engine().status();
        assert!(
            alarmed.alarms.iter().any(|a| a.text.contains("no room")),
            "{alarmed:#?}"
        );
        let options = CString::new(most).unwrap();
        rustix::mount::mount_remount(&disk, MountFlags::empty(), &*options).unwrap();
        b.until("in order", |s| s.consistent && s.alarms.is_empty())
            .await;
        flush(&a).await;
        assert_equal(&a.tree(), &b.tree());
        assert_equal(&more(&a), &disk);
        assert_eq!(rescued(&b), BTreeMap::new());
        cable.cut().await;
        drop((a, b));
        rustix::mount::unmount(&disk, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_inodes_the_tree_waits_and_goes_on_by_itself() {
    let disk = tempfile::tempdir().unwrap();
    let (none, few) = (MountFlags::empty(), inodes(70));
    if rustix::mount::mount("none", disk.path(), "tmpfs", none, Some(few.as_c_str())).is_err() {
        return tandem_lab::skipped("a disk without inodes: no right to mount");
    }
    let (a, b) = (
        Node::new("a", |_| {}),
        Node::new_in(disk.path(), "b", |_| {}),
    );
    let (a, b) = begin(a, b).await;
    write(&a.tree().join("first"), "fits");
    let cable = Cable::plug(&a, &b);
    equal(&a, &b).await;
    for i in 0..100 {
        write(&a.tree().join(format!("many/{i}")), format!("{i}"));
    }
    b.until("an alarm", |s| {
        !s.consistent && s.alarms.iter().any(|a| a.text.contains("no room"))
    })
    .await;
    assert_eq!(std::fs::read(b.tree().join("first")).unwrap(), b"fits");
    cable.cut().await;
    // Whoever dials does it again and again.
    let dials = async {
        loop {
            let (source, _) = Cable::plug(&a, &b).ended().await;
            drop(source);
        }
    };
    rustix::mount::mount_remount(disk.path(), none, inodes(1000).as_c_str()).unwrap();
    tokio::select! {
        () = b.until("consistent", |s| s.consistent && s.trees[0].dirty == 0 && s.alarms.is_empty()) => {}
        () = dials => unreachable!("it never ends"),
        () = tokio::time::sleep(PATIENCE) => panic!("{:#?}", b.engine().status()),
    }
    let cable = Cable::plug(&a, &b);
    equal(&a, &b).await;
    cable.cut().await;
    assert_eq!(rescued(&b), BTreeMap::new());
    drop((a, b));
    let flags = rustix::mount::UnmountFlags::DETACH;
    rustix::mount::unmount(disk.path(), flags).unwrap();
}
