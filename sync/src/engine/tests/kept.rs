//! What the master removed and stays on the standby: neither an error nor out of sync.

use super::compare::assert_equal;
use super::pair::{Cable, Node, flush, pair, recorded, write};
use super::reversal::{rescued, turn};
use crate::engine::{EngineStatus, Receiver};
use crate::filter::Filter;
use crate::tree::{Deletes, TreeConfig};
use std::collections::BTreeMap;
use std::time::Duration;

fn filters(tree: &mut TreeConfig) {
    tree.exclude = Filter::parse(["*.log"]).unwrap();
    tree.protect = Filter::parse(["/d/local/"]).unwrap();
}

async fn with_a_directory(change: fn(&mut TreeConfig)) -> (Node, Node, Cable) {
    let (a, b) = pair(change).await;
    for name in ["d/file", "d/sub/file", "d/local/conf", "other"] {
        write(&a.tree().join(name), name);
    }
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    (a, b, cable)
}

/// It is in sync without an error, and so many paths are kept.
async fn settled(a: &Node, b: &Node, kept: u64) {
    flush(a).await;
    b.until("settled", |s| {
        s.consistent && s.trees[0].kept == kept && s.trees[0].dirty == 0
    })
    .await;
    assert_eq!(b.shown().await.trees[0].errors, 0);
    let found = a
        .engine()
        .verify(&Receiver::Standby, None, false, None)
        .await
        .unwrap();
    assert_eq!(found.found, 0, "{found:?}");
    assert_eq!(rescued(b), BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_directory_stays_with_what_is_excluded_in_it() {
    let (a, mut b, cable) = with_a_directory(filters).await;
    write(&b.tree().join("d/b.log"), "b's own");
    write(&b.tree().join("d/local/conf"), "b's own");
    write(&b.tree().join("d/sub/deep/b.log"), "b's own");
    settled(&a, &b, 1).await;
    std::fs::remove_dir_all(a.tree().join("d/sub")).unwrap();
    settled(&a, &b, 2).await;
    assert!(!b.tree().join("d/sub/file").exists());
    assert!(b.tree().join("d/sub/deep/b.log").exists());
    // Renamed: the new directory is made, the old one stays for what is excluded and protected.
    std::fs::rename(a.tree().join("d"), a.tree().join("e")).unwrap();
    settled(&a, &b, 3).await;
    assert_eq!(std::fs::read(b.tree().join("e/file")).unwrap(), b"d/file");
    assert!(b.tree().join("d/b.log").exists() && b.tree().join("d/local/conf").exists());
    assert!(!b.tree().join("d/file").exists());
    // A restarted agent finds them again.
    cable.cut().await;
    b.stop().await;
    b.start();
    b.engine().begin_replica().await.unwrap();
    let cable = Cable::plug(&a, &b);
    settled(&a, &b, 3).await;
    // The directory comes back on the master.
    write(&a.tree().join("d/file"), "again");
    settled(&a, &b, 2).await;
    assert_eq!(std::fs::read(b.tree().join("d/file")).unwrap(), b"again");
    // When nothing holds them any more, they go.
    std::fs::remove_dir_all(b.tree().join("d/sub/deep")).unwrap();
    let gone = async {
        while b.tree().join("d/sub").exists() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(super::pair::PATIENCE, gone)
        .await
        .expect("an empty directory is no longer kept");
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_deletes_keep_is_counted_and_belongs_to_the_next_master() {
    let (a, mut b, cable) = with_a_directory(|t| t.deletes = Deletes::Keep).await;
    std::fs::remove_file(a.tree().join("other")).unwrap();
    std::fs::remove_dir_all(a.tree().join("d")).unwrap();
    // Three files and three directories of d, and the other one.
    settled(&a, &b, 7).await;
    cable.cut().await;
    b.stop().await;
    b.start();
    b.engine().begin_replica().await.unwrap();
    let cable = Cable::plug(&a, &b);
    settled(&a, &b, 7).await;
    cable.cut().await;
    let cable = turn(&a, &b).await;
    flush(&b).await;
    a.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(std::fs::read(a.tree().join("other")).unwrap(), b"other");
    b.until("nothing kept", |s| s.trees[0].kept == 0).await;
    cable.cut().await;
}

/// A link on the master in the place of a directory whose files are kept here: both cannot be, and somebody must say which.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_place_because_of_what_is_kept_is_out_of_sync_until_it_has() {
    let (a, b, cable) = with_a_directory(|t| t.deletes = Deletes::Keep).await;
    cable.cut().await;
    // All of it comes at once.
    std::fs::remove_dir_all(a.tree().join("d")).unwrap();
    std::os::unix::fs::symlink("other", a.tree().join("d")).unwrap();
    write(&a.tree().join("z"), "goes on");
    recorded(&a).await;
    let cable = Cable::plug(&a, &b);
    let named = |s: &EngineStatus| {
        let error = s.trees[0].last_error.as_deref().unwrap_or_default();
        !s.consistent && s.trees[0].errors == 1 && error.starts_with("d: ")
    };
    b.until("named", |s| named(s) && b.tree().join("z").exists())
        .await;
    let flushed = a.engine().flush(Duration::from_millis(300)).await.unwrap();
    assert!(!flushed.not_covered.is_empty(), "{flushed:?}");
    assert!(named(&b.shown().await));
    assert_eq!(std::fs::read(b.tree().join("d/file")).unwrap(), b"d/file");
    for name in ["file", "sub", "local"] {
        let at = b.tree().join("d").join(name);
        let removed = std::fs::remove_file(&at).or_else(|_| std::fs::remove_dir_all(&at));
        removed.unwrap();
    }
    flush(&a).await;
    b.until("in sync", |s| s.consistent && s.trees[0].errors == 0)
        .await;
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}
