//! What the master removed and stays on the standby: neither an error nor out of sync.

use super::compare::assert_equal;
use super::pair::{Cable, Node, flush, pair, write};
use super::reversal::{rescued, turn};
use crate::engine::Receiver;
use crate::filter::Filter;
use crate::tree::{Deletes, TreeConfig};
use std::collections::BTreeMap;

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
