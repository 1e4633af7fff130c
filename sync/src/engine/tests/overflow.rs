//! Change events that are lost: the tree is scanned against the index, and nothing is missed.

use super::compare::assert_equal;
use super::pair::{Cable, flush, pair, write};
use crate::index::IndexError;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// More than the worker's queue holds, and what it takes from there at once, at two events each.
const STORM: usize = 80_000;
/// To look at each of its paths, on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// The worker waits for the index while more happens than its queue holds. Of what is written last no event is left.
#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_events_are_lost_arrives() {
    let (a, b) = pair(|_| {}).await;
    for name in ["stays", "goes", "changes", "dir/moves"] {
        write(&a.tree().join(name), name);
    }
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    if a.shown().await.trees[0].detector == "poll" {
        return tandem_lab::skipped("no detector that has events to lose");
    }
    let (held, holds) = mpsc::channel();
    let (go_on, told) = mpsc::channel::<()>();
    let shared = Arc::clone(&a.engine().shared);
    let index = std::thread::spawn(move || {
        shared.index.write(|_| {
            held.send(()).expect("the test waits");
            // An error is the end of the test.
            let _ = told.recv();
            Ok::<_, IndexError>(())
        })
    });
    holds.recv().unwrap();
    // With this the worker stands still.
    write(&a.tree().join("first"), "x");
    let storm = a.tree().join("storm");
    std::fs::create_dir(&storm).unwrap();
    for n in 0..STORM {
        let at = storm.join(n.to_string());
        std::fs::File::create(&at).unwrap();
        std::fs::remove_file(&at).unwrap();
    }
    write(&a.tree().join("new/late"), "nobody was told");
    write(&a.tree().join("changes"), "another content");
    std::fs::remove_file(a.tree().join("goes")).unwrap();
    std::fs::rename(a.tree().join("dir"), a.tree().join("moved")).unwrap();
    let mut scanned = a.engine().shared.scanned.subscribe();
    assert!(*scanned.borrow_and_update());
    go_on.send(()).unwrap();
    index.join().unwrap().unwrap();
    let scans = tokio::time::timeout(LONG, scanned.changed()).await;
    scans.expect("it scans").unwrap();
    let scanned = tokio::time::timeout(LONG, scanned.wait_for(|scanned| *scanned)).await;
    scanned.expect("and ends").unwrap();
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert!(b.tree().join("new/late").exists());
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}
