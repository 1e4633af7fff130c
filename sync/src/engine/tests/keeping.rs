//! Files that come back from a rescue.

use super::pair::{pair, write};
use crate::engine::{CommandError, PutFile};
use crate::path::RelPath;

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
