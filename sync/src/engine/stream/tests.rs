use super::*;
use crate::wire::{Bytes, Item};
use tokio::io::{AsyncReadExt, duplex};

fn data(index: u32, length: usize) -> Message {
    Message::Data {
        item: Item { batch: 1, index },
        bytes: Bytes(vec![7; length]),
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
    let mut reader = BufReader::with_capacity(PACK, theirs);
    let torn = bytes.len() - 1;
    ours.write_all(&bytes[..torn]).await.unwrap();
    assert_eq!(heard(read_pack(&mut reader).await), messages[..3]);
    ours.write_all(&bytes[torn..]).await.unwrap();
    assert_eq!(heard(read_pack(&mut reader).await), messages[3..]);
    drop(ours);
    let end = read_pack(&mut reader).await;
    assert!(matches!(end.back(), Some(Err(Ended::Closed))));
}

#[tokio::test]
async fn an_error_comes_behind_what_came_before_it() {
    let mut bytes = frames(&[Message::Wait]);
    bytes.extend_from_slice(&u32::MAX.to_le_bytes());
    let (mut ours, theirs) = duplex(64 << 10);
    ours.write_all(&bytes).await.unwrap();
    let mut pack = read_pack(&mut BufReader::with_capacity(PACK, theirs)).await;
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
    let mut reader = BufReader::with_capacity(PACK, theirs);
    assert_eq!(read_pack(&mut reader).await.len(), PACK_MESSAGES);
    assert_eq!(read_pack(&mut reader).await.len(), PACK_MESSAGES / 2);
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
    write_all(ours, queue, CancellationToken::new(), failure).await;
    let mut all = Vec::new();
    theirs.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, frames(&[data(0, 100), data(1, 100), data(2, 100)]));
}
