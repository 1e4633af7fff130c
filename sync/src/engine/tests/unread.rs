//! Large contents that a scan found and that are not read yet.

use super::compare::assert_equal;
use super::pair::{Cable, flush, pair, write};
use super::reading::{LARGE, hold, sparse};
use crate::engine::EngineStatus;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The scan that began before this is over, but for what it left to be read.
pub(in crate::engine) fn has_walked(status: &EngineStatus) -> bool {
    let progress = status.trees[0].progress.as_ref();
    progress.is_none_or(|progress| progress.what != "scan")
}

/// A first copy is not complete before its large contents are, whatever happens to them meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_an_unread_content_does_not_make_it_known() {
    let (a, b) = pair(|_| {}).await;
    let large = a.tree().join("large");
    sparse(&large, LARGE);
    write(&a.tree().join("small"), "x");
    hold(&a, true);
    a.engine().begin_source(2).await.unwrap();
    let cable = Cable::plug(&a, &b);
    b.until("small", |_| b.tree().join("small").exists()).await;
    a.until("walked", has_walked).await;
    let scanned = a.engine().shared.scanned.subscribe();
    let file = File::options().write(true).open(&large).unwrap();
    for n in 0..10 {
        file.write_all_at(b"x", n << 20).unwrap();
        let next = format!("small-{n}");
        write(&a.tree().join(&next), "x");
        b.until("next", |_| b.tree().join(&next).exists()).await;
    }
    assert!(!*scanned.borrow() && !scanned.has_changed().unwrap());
    assert!(!b.shown().await.consistent);
    hold(&a, false);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}
