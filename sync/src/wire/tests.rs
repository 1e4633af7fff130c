use super::*;
use crate::entry::{ContentHash, Meta, Xattrs};
use crate::lineage::MAX_SEQ;
use proptest::prelude::*;

fn meta() -> Meta {
    Meta {
        mode: 0o644,
        uid: 1,
        gid: 2,
        mtime_ns: 3,
        xattrs: Xattrs::default(),
    }
}

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

fn record(at: RelPath, kind: Option<Kind>) -> Record {
    Record {
        tree: TreeId::of("t"),
        path: at,
        seq: 7,
        state: kind.map(|kind| State { kind, meta: meta() }),
        inline: false,
        grown_from: None,
        names: None,
    }
}

fn batch(record: Record) -> Message {
    Message::Batch(Batch {
        id: 1,
        records: vec![record],
        totals: vec![],
        withheld: vec![],
    })
}

fn samples() -> Vec<Message> {
    let item = Item { batch: 1, index: 2 };
    let sums = ChunkSums {
        size: 70_000,
        chunk: 64 << 10,
        sums: vec![[1; 16], [2; 16]],
    };
    vec![
        Message::Wait,
        Message::Room { item, bytes: 5 },
        Message::Hole {
            item,
            len: MAX_HOLE,
            last: true,
        },
        Message::Accept(Accept {
            from: vec![(TreeId::of("t"), 9)],
            inline: true,
            stamp: 4,
        }),
        Message::Refuse(Refuse {
            why: "busy".into(),
            retry: true,
        }),
        batch(record(
            path("a/b"),
            Some(Kind::File {
                size: 3,
                hash: ContentHash::of(b"abc"),
            }),
        )),
        batch(record(path("gone"), None)),
        batch(record(RelPath::root(), Some(Kind::Dir))),
        Message::Need(Need {
            batch: 1,
            items: vec![(0, Want::Whole), (1, Want::Against(sums))],
            last: true,
        }),
        Message::Data {
            item,
            bytes: vec![0; 1000].into(),
            last: false,
        },
        Message::Copy {
            item,
            from: 0,
            len: 5,
            last: true,
        },
        Message::GivenUp(item),
        Message::SumsOf {
            item,
            from: 5,
            len: 6,
        },
        Message::Sums {
            item,
            from: 5,
            signature: Signature(vec![1, 2]),
        },
        Message::Commit(Commit {
            batch: 1,
            upto: 10,
            caught_up: true,
            stamp: 3,
        }),
        Message::Idle(Idle { upto: 10, stamp: 4 }),
        Message::Durable(Durable {
            upto: 10,
            batch: Some(1),
            acked: 10,
            applied: 10,
            stamp: 5,
            follows: true,
        }),
        Message::Fetch {
            tree: TreeId::of("t"),
            paths: vec![path("x")],
        },
        Message::Verified(VerifyAnswer {
            id: 1,
            differences: vec![(path("x"), Differs::Content)],
        }),
        Message::Move(Move {
            tree: TreeId::of("t"),
            from: path("x"),
            to: path("y/x"),
            seq: 11,
            stamp: 6,
        }),
        Message::Moved {
            seq: 11,
            done: true,
        },
    ]
}

#[test]
fn messages_survive_the_wire() {
    let mut stream = Vec::new();
    for message in samples() {
        encode_into(&message, &mut stream).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut rest = &stream[..];
    for message in samples() {
        let body = runtime
            .block_on(read_frame(&mut rest))
            .unwrap()
            .expect("one frame per message");
        assert_eq!(decode(&body).unwrap(), message);
    }
    assert!(runtime.block_on(read_frame(&mut rest)).unwrap().is_none());
}

#[test]
fn rules_are_checked() {
    let file = |size| {
        Some(Kind::File {
            size,
            hash: ContentHash([0; 32]),
        })
    };
    let mut inline = record(path("x"), file(INLINE_FILE + 1));
    inline.inline = true;
    let mut full = record(path("x"), file(INLINE_FILE));
    full.inline = true;
    let sums = |chunk, n| {
        Want::Against(ChunkSums {
            size: 70_000,
            chunk,
            sums: vec![[0; 16]; n],
        })
    };
    let need = |want| {
        Message::Need(Need {
            batch: 0,
            items: vec![(0, want)],
            last: true,
        })
    };
    for bad in [
        batch(record(path(".tandem/marker"), file(1))),
        batch(record(RelPath::root(), None)),
        batch(record(RelPath::root(), file(1))),
        batch(record(path("x"), Some(Kind::HardLink { to: path("x") }))),
        batch(record(
            path("x"),
            Some(Kind::HardLink {
                to: path(".tandem/rescue/1"),
            }),
        )),
        batch(inline),
        batch(Record {
            seq: MAX_SEQ + 1,
            ..record(path("x"), None)
        }),
        Message::Batch(Batch {
            id: 1,
            records: vec![record(path("x"), None), record(path("y"), None)],
            totals: vec![],
            withheld: vec![],
        }),
        Message::Batch(Batch {
            id: 1,
            records: vec![],
            totals: vec![],
            withheld: vec![
                Withheld {
                    tree: TreeId::of("t"),
                    contents: vec![0; MAX_WITHHELD / 2 + 1],
                };
                2
            ],
        }),
        Message::Commit(Commit {
            batch: 1,
            upto: u64::MAX,
            caught_up: true,
            stamp: 0,
        }),
        Message::Idle(Idle {
            upto: u64::MAX,
            stamp: 0,
        }),
        Message::Accept(Accept {
            from: vec![(TreeId::of("t"), u64::MAX)],
            inline: false,
            stamp: 0,
        }),
        need(sums(1000, 70)),
        need(sums(64 << 10, 1)),
        need(sums(0, 1)),
        Message::Data {
            item: Item { batch: 0, index: 0 },
            bytes: vec![0; MAX_DATA + 1].into(),
            last: false,
        },
        Message::Copy {
            item: Item { batch: 0, index: 0 },
            from: u64::MAX,
            len: 1,
            last: false,
        },
        Message::Hole {
            item: Item { batch: 0, index: 0 },
            len: MAX_HOLE + 1,
            last: false,
        },
        Message::Hole {
            item: Item { batch: 0, index: 0 },
            len: 0,
            last: false,
        },
        Message::Batch(Batch {
            id: 1,
            records: (1..=INLINE_BATCH_BYTES / INLINE_FILE + 2)
                .map(|seq| Record {
                    seq,
                    ..full.clone()
                })
                .collect(),
            totals: vec![],
            withheld: vec![],
        }),
        Message::Fetch {
            tree: TreeId::of("t"),
            paths: vec![path("x"); MAX_PATHS + 1],
        },
        Message::Refuse(Refuse {
            why: "x".repeat(MAX_TEXT + 1),
            retry: false,
        }),
    ] {
        let frame = encode(&bad).unwrap();
        assert!(
            matches!(
                decode(&Bytes::from(frame).slice(4..)),
                Err(FrameError::Bad(_))
            ),
            "{bad:?}"
        );
    }
}

#[test]
fn frames_are_bounded_before_memory_is_taken() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let read = |bytes: &[u8]| runtime.block_on(read_frame(&mut &bytes[..]));
    assert!(matches!(
        read(&u32::MAX.to_le_bytes()),
        Err(FrameError::Length(_))
    ));
    assert!(matches!(
        read(&0u32.to_le_bytes()),
        Err(FrameError::Length(0))
    ));
    assert!(
        matches!(read(&[9, 0]), Err(FrameError::Stream(_))),
        "cut inside the length"
    );
    assert!(
        matches!(read(&[9, 0, 0, 0, 1]), Err(FrameError::Stream(_))),
        "cut inside the body"
    );
    let long = Message::Data {
        item: Item { batch: 0, index: 0 },
        bytes: vec![0; MAX_FRAME].into(),
        last: false,
    };
    let mut out = vec![7];
    assert!(matches!(
        encode_into(&long, &mut out),
        Err(FrameError::Length(_))
    ));
    assert_eq!(out, [7]);
}

#[test]
fn versions_choose_the_highest_common_one() {
    let speaks = |min, max| Greeting {
        magic: Greeting::MAGIC,
        min,
        max,
    };
    assert_eq!(speaks(1, 3).common(&speaks(2, 5)), Some(3));
    assert_eq!(speaks(2, 5).common(&speaks(1, 3)), Some(3));
    assert_eq!(speaks(3, 5).common(&speaks(1, 2)), None);
    assert_eq!(speaks(1, 2).common(&speaks(3, 5)), None);
    assert_eq!(
        speaks(1, 1).common(&Greeting {
            magic: *b"tandem-x",
            min: 1,
            max: 1
        }),
        None
    );
}

#[test]
fn unknown_variants_and_trailing_bytes_are_errors() {
    assert!(matches!(
        decode(&Bytes::from_static(&[200])),
        Err(FrameError::Decode(_))
    ));
    let mut frame = encode(&Message::Wait).unwrap();
    frame.push(0);
    assert!(matches!(
        decode(&Bytes::from(frame).slice(4..)),
        Err(FrameError::Trailing(1))
    ));
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes.into());
    }

    #[test]
    fn damaged_messages_never_panic(which in 0usize..17, at in any::<prop::sample::Index>(), flip in 1u8..) {
        let mut frame = encode(&samples()[which]).unwrap();
        let i = 4 + at.index(frame.len() - 4);
        frame[i] ^= flip;
        if let Ok(message) = decode(&Bytes::from(frame).slice(4..)) {
            prop_assert!(message.check().is_ok());
        }
    }
}
