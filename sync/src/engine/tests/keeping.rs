//! Files that come back from a rescue.

use super::odd::acl;
use super::pair::{pair, write};
use crate::engine::{CommandError, PutEntry, PutFile};
use crate::entry::{FLAGS_NAME, Meta, Xattrs};
use crate::owners::Names;
use crate::path::RelPath;
use crate::tree::Owners;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

fn meta(mode: u32) -> Meta {
    Meta {
        mode,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        mtime_ns: 1_600_000_000_123_456_789,
        xattrs: Xattrs::default(),
    }
}

/// What the master wrote since is not given up for an older version, unless that is said.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_file_replaces_another_version_only_when_told() {
    let (a, _b) = pair(|_| {}).await;
    write(&a.tree().join("f"), "the master's");
    let put = async |at: &str, text: &str, replace: bool| {
        let mut content = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut content, text.as_bytes()).unwrap();
        let file = PutFile {
            path: RelPath::from_bytes(at.as_bytes()).unwrap(),
            meta: meta(0o640),
            names: None,
            replace,
        };
        a.engine().put_file("data", file, content).await
    };
    let read = |at: &str| std::fs::read_to_string(a.tree().join(at)).unwrap();
    let refused = put("f", "rescued", false).await;
    assert!(
        matches!(refused, Err(CommandError::Occupied(_))),
        "{refused:?}"
    );
    assert_eq!(read("f"), "the master's");
    put("f", "the master's", false).await.unwrap();
    put("new/g", "rescued", false).await.unwrap();
    assert_eq!(read("new/g"), "rescued");
    put("f", "rescued", true).await.unwrap();
    assert_eq!(read("f"), "rescued");
    std::os::unix::fs::symlink("f", a.tree().join("link")).unwrap();
    assert!(put("link", "rescued", false).await.is_err());
    let staging = a.tree().join(".tandem/staging");
    assert_eq!(
        std::fs::read_dir(staging).unwrap().count(),
        0,
        "nothing is left over"
    );
}

/// Directories and links come back as files do: what is there is not given up unless that is said, and a directory never.
#[tokio::test(flavor = "multi_thread")]
async fn directories_and_links_are_put_back() {
    let (a, b) = pair(|t| t.exclude = crate::filter::Filter::parse(["out/"]).unwrap()).await;
    let file = |at: &str, replace: bool| PutFile {
        path: RelPath::from_bytes(at.as_bytes()).unwrap(),
        meta: Meta {
            // Nobody's: it is not changed.
            uid: u32::MAX,
            gid: u32::MAX,
            ..meta(0o6751)
        },
        names: None,
        replace,
    };
    let dir = async |at: &str| {
        let entry = PutEntry::Directory;
        a.engine().put_entry("data", file(at, true), entry).await
    };
    let link = async |at: &str, to: &str, replace: bool| {
        let entry = PutEntry::Symlink(to.into());
        a.engine().put_entry("data", file(at, replace), entry).await
    };
    let occupied = |done: Result<_, CommandError>| {
        assert!(matches!(done, Err(CommandError::Occupied(_))), "{done:?}");
    };
    dir("d/sub").await.unwrap();
    let mode = |at: &str| {
        let found = std::fs::metadata(a.tree().join(at)).unwrap();
        found.permissions().mode() & 0o7777
    };
    assert_eq!(mode("d/sub"), 0o751, "nothing runs as somebody else");
    std::fs::set_permissions(a.tree().join("d"), PermissionsExt::from_mode(0o711)).unwrap();
    dir("d").await.unwrap();
    assert_eq!(mode("d"), 0o711, "one that is there is left as it is");
    write(&a.tree().join("f"), "the master's");
    occupied(dir("f").await);
    let target = |at: &str| std::fs::read_link(a.tree().join(at)).unwrap();
    link("d/l", "../odd", false).await.unwrap();
    link("d/l", "../odd", false).await.unwrap();
    occupied(link("d/l", "other", false).await);
    occupied(link("f", "other", false).await);
    assert_eq!(target("d/l").to_str(), Some("../odd"));
    link("d/l", "other", true).await.unwrap();
    link("f", "other", true).await.unwrap();
    assert_eq!(target("f").to_str(), Some("other"));
    assert!(
        link("d/sub", "other", true).await.is_err(),
        "a directory stays"
    );
    assert!(mode("d/sub") == 0o751);
    for at in ["out", "out/d", ".tandem/d", "f/d", "d/l/d"] {
        assert!(dir(at).await.is_err(), "{at}");
        assert!(link(at, "x", true).await.is_err() || at == "out", "{at}");
    }
    let there = b
        .engine()
        .put_entry("data", file("x", false), PutEntry::Directory);
    assert!(there.await.is_err(), "only the master");
    let staging = std::fs::read_dir(a.tree().join(".tandem/staging")).unwrap();
    assert_eq!(staging.count(), 0, "nothing is left over");
}

/// Whoever could read beside what comes back can read it.
#[tokio::test(flavor = "multi_thread")]
async fn directories_above_that_are_missing_are_made_like_the_one_that_is_there() {
    let (a, _b) = pair(|_| {}).await;
    let site = a.tree().join("site");
    std::fs::create_dir(&site).unwrap();
    // Where this process may.
    let _ = std::os::unix::fs::chown(&site, Some(12345), Some(12346));
    std::fs::set_permissions(&site, PermissionsExt::from_mode(0o2751)).unwrap();
    let access = "system.posix_acl_access";
    let _ = rustix::fs::setxattr(&site, access, &acl(12345), rustix::fs::XattrFlags::empty());
    let is = |at: &Path| {
        let found = std::fs::metadata(at).unwrap();
        let mut value = [0; 256];
        let length = rustix::fs::getxattr(at, access, &mut value).unwrap_or(0);
        (
            found.mode(),
            found.uid(),
            found.gid(),
            value[..length].to_vec(),
        )
    };
    let file = |at: &str| PutFile {
        path: RelPath::new(at).unwrap(),
        meta: meta(0o640),
        names: None,
        replace: false,
    };
    let content = tempfile::tempfile().unwrap();
    let put = a.engine().put_file("data", file("site/x/y/f"), content);
    put.await.unwrap();
    let entry = PutEntry::Directory;
    let put = a.engine().put_entry("data", file("site/p/q"), entry);
    put.await.unwrap();
    for at in ["x", "x/y", "p"] {
        assert_eq!(is(&site.join(at)), is(&site), "{at}");
    }
    assert_eq!(is(&site.join("p/q")).0 & 0o7777, 0o640);
}

/// All that it was but what it would run as.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_back_has_its_time_acls_and_attributes() {
    let (a, _b) = pair(|t| t.owners = Owners::Name).await;
    let wanted: BTreeMap<Vec<u8>, Vec<u8>> = [
        (&b"user.note"[..], b"kept".to_vec()),
        (&b"system.posix_acl_access"[..], acl(12345)),
        (
            &b"security.capability"[..],
            b"\x01\0\0\x02anything".to_vec(),
        ),
        (FLAGS_NAME, 0x10u32.to_le_bytes().to_vec()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_vec(), value))
    .collect();
    let Ok(xattrs) = Xattrs::try_from(wanted) else {
        panic!("they are attributes");
    };
    for (name, text) in [("passwd", "bob:x:12346:1::/:\n"), ("group", "")] {
        write(&a.dir.path().join(name), text);
    }
    let file = |names: Option<Names>| PutFile {
        path: RelPath::new("d/f").unwrap(),
        meta: Meta {
            xattrs: xattrs.clone(),
            ..meta(0o4640)
        },
        names,
        replace: false,
    };
    let put = async |names| {
        let mut content = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut content, b"content").unwrap();
        a.engine().put_file("data", file(names), content).await
    };
    let of = |name: &str| Names {
        users: vec![(12345, name.into())],
        ..Names::default()
    };
    let unknown = put(Some(of("alice"))).await.unwrap_err();
    let text = std::error::Error::source(&unknown).map(ToString::to_string);
    assert!(
        text.is_some_and(|text| text.contains("user alice: not known")),
        "{unknown:?}"
    );
    put(Some(of("bob"))).await.unwrap();
    let at = a.tree().join("d/f");
    let found = std::fs::metadata(&at).unwrap();
    let time = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
    assert_eq!(time, meta(0).mtime_ns);
    assert_eq!(found.mode() & 0o7777, 0o640);
    let get = |name: &str| {
        let mut value = [0; 256];
        let length = rustix::fs::getxattr(&at, name, &mut value).ok()?;
        Some(value[..length].to_vec())
    };
    assert_eq!(get("user.note").as_deref(), Some(&b"kept"[..]));
    assert_eq!(get("system.posix_acl_access"), Some(acl(12346)));
    assert_eq!(get("security.capability"), None);
    let file = std::fs::File::open(&at).unwrap();
    assert!(!rustix::fs::ioctl_getflags(&file).is_ok_and(|f| f.bits() & 0x10 != 0));
    // What cannot be set is said, and nothing is left over.
    let huge = BTreeMap::from([(b"user.huge".to_vec(), vec![0; 100_000])]);
    let file = PutFile {
        path: RelPath::new("huge").unwrap(),
        meta: Meta {
            xattrs: Xattrs::try_from(huge).unwrap(),
            ..meta(0o600)
        },
        names: None,
        replace: false,
    };
    let content = tempfile::tempfile().unwrap();
    assert!(a.engine().put_file("data", file, content).await.is_err());
    assert!(!a.tree().join("huge").exists());
    let staging = std::fs::read_dir(a.tree().join(".tandem/staging")).unwrap();
    assert_eq!(staging.count(), 0, "nothing is left over");
}

/// What came for a tree lies on its file system already.
#[tokio::test(flavor = "multi_thread")]
async fn what_came_without_a_name_is_put_in_place_as_it_is() {
    let (a, _b) = pair(|_| {}).await;
    let mut content = a.engine().nameless("data").await.unwrap();
    std::io::Write::write_all(&mut content, b"content").unwrap();
    let inode = content.metadata().unwrap().ino();
    let file = PutFile {
        path: RelPath::new("d/f").unwrap(),
        meta: meta(0o640),
        names: None,
        replace: false,
    };
    a.engine().put_file("data", file, content).await.unwrap();
    let at = a.tree().join("d/f");
    assert_eq!(std::fs::read(&at).unwrap(), b"content");
    assert_eq!(std::fs::metadata(&at).unwrap().ino(), inode);
    assert!(a.engine().nameless("other").await.is_err());
}
