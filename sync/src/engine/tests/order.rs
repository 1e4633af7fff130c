//! What a session sends builds on what it sent before.

use super::pair::{Node, pair, recorded, write};
use crate::engine::apply::Batch;
use crate::engine::command::Command;
use crate::engine::shared::heads;
use crate::path::RelPath;
use crate::replica::machine::Ready;
use crate::tree::TreeId;
use crate::wire::{Commit, Record};
use std::collections::HashMap;

/// A batch of the source whose only record, if any, is of a tree that is not there: it cannot be applied.
fn batch(source: &Node, number: u64, broken: bool) -> Box<Batch> {
    let record = || Record {
        tree: TreeId::of("another tree"),
        path: RelPath::new("file").unwrap(),
        seq: 10 * number,
        state: None,
        inline: false,
        grown_from: None,
        names: None,
    };
    Box::new(Batch {
        ready: Ready {
            commit: Commit {
                batch: number,
                upto: 10 * number,
                caught_up: false,
                stamp: 0,
            },
            records: broken.then(record).into_iter().collect(),
            totals: Vec::new(),
            withheld: Vec::new(),
            given_up: Vec::new(),
            failed: Vec::new(),
        },
        contents: HashMap::new(),
        unput: Default::default(),
        source: heads(&source.engine().shared).unwrap(),
    })
}

async fn prepare(source: &Node, replica: &Node, session: u64) {
    let theirs = heads(&source.engine().shared).unwrap();
    let prepared = replica.engine().shared.ask(|reply| Command::Prepare {
        session,
        floors: Vec::new(),
        theirs,
        reply,
    });
    prepared.await.unwrap().expect("the session is accepted");
}

async fn apply(replica: &Node, session: u64, batch: Box<Batch>) -> bool {
    let (ahead, _) = tokio::sync::oneshot::channel();
    let applied = replica.engine().shared.ask(|reply| Command::Apply {
        session,
        batch,
        ahead,
        reply,
    });
    applied.await.unwrap().is_ok()
}

#[tokio::test]
async fn after_a_batch_that_failed_no_position_moves_until_the_next_session() {
    let (a, b) = pair(|_| {}).await;
    for n in 0..40 {
        write(&a.tree().join(n.to_string()), "content");
    }
    recorded(&a).await;
    let position = || heads(&b.engine().shared).unwrap().trees()[0].head.seq;
    prepare(&a, &b, 1).await;
    assert!(apply(&b, 1, batch(&a, 1, false)).await);
    assert_eq!(position(), 10);
    assert!(!apply(&b, 1, batch(&a, 2, true)).await);
    // It was on its way when the one before failed.
    assert!(!apply(&b, 1, batch(&a, 3, false)).await);
    assert_eq!(position(), 10, "what the second batch held is lost");
    prepare(&a, &b, 2).await;
    assert!(
        !apply(&b, 1, batch(&a, 4, false)).await,
        "of a session that is over"
    );
    assert!(apply(&b, 2, batch(&a, 2, false)).await);
    assert_eq!(position(), 20);
}
