//! A receiver that has proved its key and wants more than it needs: again and again the same, or nothing of what it is sent.

use super::hostile::Puppet;
use super::pair::{noise, pair, recorded, write};
use crate::path::RelPath;
use crate::tree::TreeId;
use crate::wire::{Batch, Durable, Message, Need, Want};

/// Each answer would cost a reading of the whole file.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_that_is_asked_for_again_and_again_is_sent_a_few_times() {
    let (a, b) = pair(|_| {}).await;
    write(&a.tree().join("large"), noise(1 << 20, 1));
    write(&a.tree().join("small"), noise(100, 2));
    recorded(&a).await;
    let mut puppet = Puppet::replica(&a, &b).await;
    // What it is sent by itself.
    let mut sent = 0;
    while sent < 2 {
        sent += take_batch(&mut puppet).await;
    }
    let mut answered = [0, 0];
    for (name, answered) in ["large", "small"].iter().zip(&mut answered) {
        for _ in 0..30 {
            let paths = vec![RelPath::new(name).unwrap()];
            let tree = TreeId::of("data");
            puppet.say(&Message::Fetch { tree, paths }).await;
            *answered += take_batch(&mut puppet).await;
        }
    }
    assert_eq!(answered, [8, 30]);
}

/// Takes the next batch whole, and says that it is durable. Gives how many files it had.
async fn take_batch(puppet: &mut Puppet) -> usize {
    let heard = puppet
        .hear("Batch", |m| matches!(m, Message::Batch(_)))
        .await;
    let Message::Batch(Batch { id, records, .. }) = heard else {
        unreachable!("hear gives what it waited for")
    };
    let files = (0u32..)
        .zip(&records)
        .filter(|(_, record)| record.size() > 0);
    let items: Vec<_> = files
        .filter(|(_, record)| !record.inline)
        .map(|(index, _)| (index, Want::Whole))
        .collect();
    let count = records.iter().filter(|record| record.size() > 0).count();
    if !items.is_empty() {
        let (batch, last) = (id, true);
        puppet
            .say(&Message::Need(Need { batch, items, last }))
            .await;
    }
    let heard = puppet
        .hear("Commit", |m| matches!(m, Message::Commit(_)))
        .await;
    let Message::Commit(commit) = heard else {
        unreachable!("hear gives what it waited for")
    };
    let durable = Durable {
        upto: commit.upto,
        batch: Some(id),
        acked: commit.upto,
        applied: commit.upto,
        stamp: 1,
        follows: false,
    };
    puppet.say(&Message::Durable(durable)).await;
    count
}
