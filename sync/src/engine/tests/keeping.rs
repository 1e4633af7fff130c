//! Files that come back from a rescue.

use super::pair::{pair, write};
use crate::engine::{CommandError, PutEntry, PutFile};
use crate::path::RelPath;
use std::os::unix::fs::PermissionsExt;

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
            mode: 0o640,
            owner: (
                rustix::process::getuid().as_raw(),
                rustix::process::getgid().as_raw(),
            ),
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
        mode: 0o6751,
        // Nobody's: it is not changed.
        owner: (u32::MAX, u32::MAX),
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
