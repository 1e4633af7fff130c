use super::*;
use crate::wire::Item;
use tokio::io::duplex;

fn data(index: u32, length: usize) -> Message {
    Message::Data {
        item: Item { batch: 1, index },
        bytes: vec![7; length].into(),
        last: true,
    }
}

fn frames(messages: &[Message]) -> Vec<u8> {
    let mut out = Vec::new();
    for message in messages {
        wire::encode_into(message, &mut out).unwrap();
    }
    out
}

fn heard(pack: VecDeque<Result<Message, Ended>>) -> Vec<Message> {
    pack.into_iter().map(|m| m.unwrap()).collect()
}

#[tokio::test]
async fn what_has_come_whole_is_given_out_in_one_piece() {
    let messages = [data(0, 10), data(1, 5000), Message::Wait, data(2, 100)];
    let bytes = frames(&messages);
    let (mut ours, theirs) = duplex(64 << 10);
    let mut reader = Reader::new(theirs);
    let torn = bytes.len() - 1;
    ours.write_all(&bytes[..torn]).await.unwrap();
    assert_eq!(heard(reader.pack().await), messages[..3]);
    ours.write_all(&bytes[torn..]).await.unwrap();
    assert_eq!(heard(reader.pack().await), messages[3..]);
    drop(ours);
    let end = reader.pack().await;
    assert!(matches!(end.back(), Some(Err(Ended::Closed))));
}

#[tokio::test]
async fn an_error_comes_behind_what_came_before_it() {
    let mut bytes = frames(&[Message::Wait]);
    bytes.extend_from_slice(&u32::MAX.to_le_bytes());
    let (mut ours, theirs) = duplex(64 << 10);
    ours.write_all(&bytes).await.unwrap();
    let mut pack = Reader::new(theirs).pack().await;
    assert!(matches!(pack.pop_front(), Some(Ok(Message::Wait))));
    assert!(matches!(
        pack.pop_front(),
        Some(Err(Ended::Failed(SessionError::Protocol(_))))
    ));
}

#[tokio::test]
async fn a_pack_of_tiny_messages_is_bounded() {
    let bytes = frames(&vec![Message::Wait; 3 * PACK_MESSAGES / 2]);
    let (mut ours, theirs) = duplex(64 << 10);
    ours.write_all(&bytes).await.unwrap();
    let mut reader = Reader::new(theirs);
    assert_eq!(reader.pack().await.len(), PACK_MESSAGES);
    assert_eq!(reader.pack().await.len(), PACK_MESSAGES / 2);
}

#[test]
fn a_pack_is_due_when_it_is_large_or_old() {
    let mut pack = Pack::new();
    assert!(pack.is_empty() && !pack.is_due());
    pack.push(&data(0, PACK)).unwrap();
    assert!(pack.is_due());
    let mut pack = Pack::new();
    pack.push(&Message::Wait).unwrap();
    pack.begun -= HOLD;
    assert!(pack.is_due());
}

#[tokio::test]
async fn packs_that_wait_leave_in_one_write() {
    let (ours, mut theirs) = duplex(1 << 20);
    let (sender, queue) = mpsc::channel(QUEUE);
    for index in 0..3 {
        let frames = frames(&[data(index, 100)]);
        sender.send(frames).await.unwrap();
    }
    drop(sender);
    let failure = Failure::default();
    write_all(
        ours,
        queue,
        Squeeze::new(None, 0),
        CancellationToken::new(),
        (failure, Took(Arc::default())),
    )
    .await;
    let mut all = Vec::new();
    theirs.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, frames(&[data(0, 100), data(1, 100), data(2, 100)]));
}

#[tokio::test]
async fn a_compressed_pack_is_given_out_like_others() {
    let inside = [data(0, 5000), Message::Wait, data(1, 5000)];
    let tiny = vec![Message::Wait; 3 * PACK_MESSAGES / 2];
    let mut bytes = frames(&[data(9, 10)]);
    bytes.extend(wire::pack(&frames(&inside)).unwrap());
    bytes.extend(frames(&[data(10, 10)]));
    bytes.extend(wire::pack(&frames(&tiny)).unwrap());
    let (mut ours, theirs) = duplex(64 << 10);
    ours.write_all(&bytes).await.unwrap();
    let mut reader = Reader::new(theirs);
    let mut all = heard(reader.pack().await);
    assert_eq!(all.len(), PACK_MESSAGES);
    all.extend(heard(reader.pack().await));
    let before = [&[data(9, 10)], &inside[..], &[data(10, 10)]].concat();
    assert_eq!(all[..5], before);
    assert_eq!(all[5..], tiny);
    // What is wrong in one ends the stream behind what was right.
    let mut torn = frames(&inside);
    torn.truncate(torn.len() - 1);
    ours.write_all(&wire::pack(&torn).unwrap()).await.unwrap();
    let mut last = reader.pack().await;
    assert!(matches!(last.pop_back(), Some(Err(Ended::Failed(_)))));
    assert_eq!(heard(last), inside[..2]);
}

/// One that reads a little at a time is at it, and one that does not read is not.
#[tokio::test]
async fn what_the_peer_takes_is_noted_and_what_waits_for_it_is_not() {
    let (mut ours, mut theirs) = duplex(1000);
    let took = Took(Arc::default());
    let writes = tokio::spawn({
        let took = took.clone();
        async move { put(&mut ours, &[7; 4000], &took).await }
    });
    let rest = async || {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        took.at()
    };
    let mut part = [0; 500];
    let mut before = 0;
    for _ in 0..4 {
        theirs.read_exact(&mut part).await.unwrap();
        let now = rest().await;
        assert!(now > before, "as much again went in");
        before = now;
    }
    assert_eq!(rest().await, before, "nothing went in");
    assert!(!writes.is_finished());
    theirs.read_exact(&mut [0; 1000]).await.unwrap();
    writes.await.unwrap().unwrap();
}

/// What is small when it is compressed is not when it is decoded.
#[tokio::test]
async fn a_compressed_pack_is_given_out_in_pieces() {
    let inside: Vec<Message> = (0..200).map(|n| data(n, 8 << 10)).collect();
    let bytes = wire::pack(&frames(&inside)).unwrap();
    let mut reader = Reader::new(&bytes[..]);
    let mut all = Vec::new();
    while all.len() < inside.len() {
        let piece = heard(reader.pack().await);
        assert!(piece.len() <= PACK / (8 << 10), "{} at once", piece.len());
        all.extend(piece);
    }
    assert_eq!(all, inside);
}

/// What goes over a full link goes compressed, and over another one as it is.
#[tokio::test]
async fn a_full_link_gets_compressed_packs() {
    let message = data(0, 100_000);
    for (busy, length) in [
        (Duration::MAX, 1..10_000),
        (Duration::ZERO, 100_000..101_000),
    ] {
        let gauge: Gauge = Arc::new(move || {
            Some(LinkUse {
                busy,
                held: Duration::ZERO,
            })
        });
        let (ours, mut theirs) = duplex(64 << 10);
        let (sender, queue) = mpsc::channel(1);
        let squeeze = Squeeze::new(Some(gauge), 0);
        let cancel = CancellationToken::new();
        let writer = tokio::spawn(write_all(
            ours,
            queue,
            squeeze,
            cancel.clone(),
            (Failure::default(), Took(Arc::default())),
        ));
        sender
            .send(frames(std::slice::from_ref(&message)))
            .await
            .unwrap();
        drop(sender);
        let mut bytes = Vec::new();
        theirs.read_to_end(&mut bytes).await.unwrap();
        writer.await.unwrap();
        assert!(length.contains(&bytes.len()), "{busy:?}: {}", bytes.len());
        let all = heard(Reader::new(&bytes[..]).pack().await);
        assert_eq!(all, std::slice::from_ref(&message));
    }
}
