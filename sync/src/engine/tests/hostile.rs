//! A peer that has proved its key and is not to be trusted: each end of a session against a puppet that says what it
//! wants.

use super::pair::{Node, PATIENCE, noise, pair, recorded, write};
use crate::engine::{PutFile, SessionEnd, SessionError};
use crate::entry::{ContentHash, Kind, Meta, State, Xattrs};
use crate::filter::Filter;
use crate::lineage::{MAX_LEAP, MAX_SEQ};
use crate::path::RelPath;
use crate::tree::{TreeConfig, TreeId};
use crate::wire::{
    self, Accept, Batch, Commit, Durable, End, Greeting, Hello, Idle, Item, Message, Need, Record,
    Signature, Want,
};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub struct Puppet {
    stream: DuplexStream,
    session: JoinHandle<Result<SessionEnd, SessionError>>,
}

impl Puppet {
    pub async fn begin(
        mut stream: DuplexStream,
        session: JoinHandle<Result<SessionEnd, SessionError>>,
        hello: Hello,
    ) -> Puppet {
        let greeting = wire::encode(&Greeting::ours()).unwrap();
        stream.write_all(&greeting).await.unwrap();
        let theirs = wire::read_frame(&mut stream).await.unwrap().unwrap();
        wire::decode_greeting(&theirs).unwrap();
        let mut puppet = Puppet { stream, session };
        puppet.say(&Message::Hello(hello)).await;
        puppet
    }

    /// Plays `source` for a replica, as far as its `Accept`.
    async fn source(source: &Node, replica: &Node) -> Puppet {
        let (mine, theirs) = tokio::io::duplex(64 << 10);
        let engine = replica.engine().clone();
        let session = tokio::spawn(async move {
            engine
                .run_replica_session(theirs, CancellationToken::new())
                .await
        });
        let heads = source.engine().lineages().unwrap();
        let hello = Hello {
            end: End::Source,
            pair: "test".into(),
            heads,
            floors: Vec::new(),
        };
        let mut puppet = Puppet::begin(mine, session, hello).await;
        puppet
            .hear("Accept", |m| matches!(m, Message::Accept(_)))
            .await;
        puppet
    }

    /// Plays `replica` for a source, and accepts.
    pub async fn replica(source: &Node, replica: &Node) -> Puppet {
        let (mine, theirs) = tokio::io::duplex(64 << 10);
        let engine = source.engine().clone();
        let session = tokio::spawn(async move {
            engine
                .run_source_session(theirs, None, CancellationToken::new())
                .await
        });
        let heads = replica.engine().lineages().unwrap();
        let hello = Hello {
            end: End::Replica,
            pair: "test".into(),
            heads,
            floors: Vec::new(),
        };
        let mut puppet = Puppet::begin(mine, session, hello).await;
        let accept = Accept {
            from: vec![(TreeId::of("data"), 0)],
            inline: false,
            stamp: 0,
        };
        puppet.say(&Message::Accept(accept)).await;
        puppet
    }

    pub async fn say(&mut self, message: &Message) {
        let frame = wire::encode(message).unwrap();
        self.stream.write_all(&frame).await.unwrap();
    }

    pub async fn hear(&mut self, what: &str, wanted: impl Fn(&Message) -> bool) -> Message {
        let heard = async {
            loop {
                let body = wire::read_frame(&mut self.stream).await.unwrap();
                let message = wire::decode(&body.expect("the session goes on")).unwrap();
                if wanted(&message) {
                    return message;
                }
            }
        };
        let heard = tokio::time::timeout(PATIENCE, heard).await;
        heard.unwrap_or_else(|_| panic!("no {what}"))
    }

    /// The other end ends the session with an error, and says what was wrong.
    pub async fn refused(self) -> String {
        let Puppet { stream, session } = self;
        let ended = tokio::time::timeout(PATIENCE, session).await;
        drop(stream);
        let ended = ended.expect("the session ends").unwrap();
        let error = ended.expect_err("a protocol error");
        assert!(matches!(error, SessionError::Protocol(_)), "{error}");
        error.to_string()
    }

    /// Says the same again and again until the other end does not take it any more. Gives the bytes that it took.
    async fn flood(&mut self, message: &Message, most: usize) -> usize {
        let frame = wire::encode(message).unwrap();
        let mut taken = 0;
        while taken < most {
            let write = self.stream.write_all(&frame);
            match tokio::time::timeout(Duration::from_secs(1), write).await {
                Ok(Ok(())) => taken += frame.len(),
                Ok(Err(_)) | Err(_) => break,
            }
        }
        taken
    }
}

fn meta() -> Meta {
    Meta {
        mode: 0o640,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime_ns: 1_600_000_000_000_000_000,
        xattrs: Xattrs::default(),
    }
}

fn record(path: &str, seq: u64, content: Option<&[u8]>, inline: bool) -> Record {
    let state = content.map(|content| State {
        kind: Kind::File {
            size: content.len() as u64,
            hash: ContentHash::of(content),
        },
        meta: meta(),
    });
    Record {
        tree: TreeId::of("data"),
        path: RelPath::new(path).unwrap(),
        seq,
        state,
        inline,
        grown_from: None,
        names: None,
    }
}

fn batch(id: u64, records: Vec<Record>) -> Message {
    let totals = vec![];
    Message::Batch(Batch {
        id,
        records,
        totals,
        withheld: Vec::new(),
    })
}

fn data(index: u32, bytes: &[u8]) -> Message {
    Message::Data {
        item: Item { batch: 1, index },
        bytes: bytes::Bytes::copy_from_slice(bytes),
        last: true,
    }
}

fn commit(upto: u64) -> Message {
    Message::Commit(Commit {
        batch: 1,
        upto,
        caught_up: true,
        stamp: 0,
    })
}

/// One session leads a node on by so much at most, and it goes on counting from there.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_leap_are_refused() {
    let (a, b) = pair(|_| {}).await;
    for leap in [u64::MAX, MAX_SEQ, 2 * MAX_LEAP] {
        let mut puppet = Puppet::source(&a, &b).await;
        let records = vec![record("f", leap, Some(b"x"), true)];
        puppet.say(&batch(1, records)).await;
        assert!(puppet.refused().await.contains("sequence number"));
        let mut puppet = Puppet::source(&a, &b).await;
        let idle = Idle {
            upto: leap,
            stamp: 0,
        };
        puppet.say(&Message::Idle(idle)).await;
        assert!(puppet.refused().await.contains("sequence number"));
    }
    let mut puppet = Puppet::source(&a, &b).await;
    let records = vec![record("f", MAX_LEAP, Some(b"x"), true)];
    puppet.say(&batch(1, records)).await;
    puppet.say(&data(0, b"x")).await;
    puppet.say(&commit(2 * MAX_LEAP)).await;
    assert!(puppet.refused().await.contains("sequence number"));
    let mut puppet = Puppet::source(&a, &b).await;
    let records = vec![record("f", MAX_LEAP, Some(b"x"), true)];
    puppet.say(&batch(1, records)).await;
    puppet.say(&data(0, b"x")).await;
    puppet.say(&commit(MAX_LEAP)).await;
    puppet
        .hear("Durable", |m| matches!(m, Message::Durable(_)))
        .await;
    b.engine().begin_source(9).await.unwrap();
    write(&b.tree().join("g"), "y");
    b.until("counts on", |s| s.seq > MAX_LEAP + 1).await;
    drop(puppet);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_lies_changes_nothing_outside_and_nothing_protected() {
    let change = |t: &mut TreeConfig| {
        t.protect = Filter::parse(["/secret"]).unwrap();
        t.exclude = Filter::parse(["/out"]).unwrap();
    };
    let (a, b) = pair(change).await;
    let secret = noise(400 << 10, 1);
    write(&b.tree().join("secret"), &secret);
    write(&b.tree().join("out"), &secret);
    let outside = b.dir.path().join("outside");
    write(&outside.join("f"), "precious");
    std::os::unix::fs::symlink(&outside, b.tree().join("link")).unwrap();
    let mut puppet = Puppet::source(&a, &b).await;
    let new = noise(400 << 10, 2);
    let records = vec![
        record("secret", 11, Some(&new), false),
        record("out", 12, Some(&new), false),
        record("link/f", 13, Some(b"evil"), true),
        record("liar", 14, Some(b"announced"), true),
        record("good", 15, Some(b"good"), true),
    ];
    puppet.say(&batch(1, records)).await;
    let need = puppet.hear("Need", |m| matches!(m, Message::Need(_))).await;
    // The sums of what is no part of the pair's data are nobody's business.
    let Message::Need(Need { items, .. }) = need else {
        unreachable!("hear gives what it waited for")
    };
    assert_eq!(items, [(0, Want::Whole), (1, Want::Whole)]);
    for part in [(0, &new), (1, &new)] {
        let item = Item {
            batch: 1,
            index: part.0,
        };
        let (first, second) = part.1.split_at(wire::MAX_DATA);
        for (bytes, last) in [(first, false), (second, true)] {
            let bytes = bytes.to_vec().into();
            puppet.say(&Message::Data { item, bytes, last }).await;
        }
    }
    puppet.say(&data(2, b"evil")).await;
    puppet.say(&data(3, b"different")).await;
    puppet.say(&data(4, b"good")).await;
    puppet.say(&commit(15)).await;
    puppet
        .hear("Durable", |m| matches!(m, Message::Durable(_)))
        .await;
    let read = |name: &str| std::fs::read(b.tree().join(name)).ok();
    assert_eq!(read("secret").as_deref(), Some(&secret[..]));
    assert_eq!(read("out").as_deref(), Some(&secret[..]));
    assert_eq!(read("liar"), None);
    assert_eq!(read("good").as_deref(), Some(&b"good"[..]));
    assert_eq!(std::fs::read(outside.join("f")).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    drop(puppet);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_content_than_announced_ends_the_session() {
    let (a, b) = pair(|_| {}).await;
    let mut puppet = Puppet::source(&a, &b).await;
    puppet
        .say(&batch(1, vec![record("f", 11, Some(b"x"), true)]))
        .await;
    puppet.say(&data(0, b"more than one byte")).await;
    assert!(puppet.refused().await.contains("more content"));
    assert!(!b.tree().join("f").exists());
}

/// It asks for sums for ever and never reads one: at some point nobody listens to it any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_asks_and_never_reads_fills_no_memory() {
    let (a, b) = pair(|_| {}).await;
    let mut puppet = Puppet::source(&a, &b).await;
    puppet
        .say(&batch(
            1,
            vec![record("f", 11, Some(&noise(1 << 20, 3)), false)],
        ))
        .await;
    puppet.hear("Need", |m| matches!(m, Message::Need(_))).await;
    let ask = Message::SumsOf {
        item: Item { batch: 1, index: 0 },
        from: 0,
        len: 1,
    };
    let most = 4 << 20;
    let taken = puppet.flood(&ask, most).await;
    assert!(taken < most, "{taken} bytes of questions were taken");
    drop(puppet);
}

#[tokio::test(flavor = "multi_thread")]
async fn absurd_answers_end_the_session_and_acknowledge_nothing() {
    let (a, b) = pair(|_| {}).await;
    write(&a.tree().join("f"), noise(1 << 20, 4));
    recorded(&a).await;
    let durable = |batch, n| {
        Message::Durable(Durable {
            upto: n,
            batch,
            acked: n,
            applied: n,
            stamp: u64::MAX,
            follows: true,
        })
    };
    let item = Item { batch: 1, index: 0 };
    let signature = Message::Sums {
        item,
        from: 0,
        signature: Signature(vec![0; 12]),
    };
    let need = |index| {
        Message::Need(Need {
            batch: 1,
            items: vec![(index, Want::Whole)],
            last: false,
        })
    };
    let everything = Message::Fetch {
        tree: TreeId::of("data"),
        paths: vec![RelPath::new("x").unwrap(); wire::MAX_PATHS],
    };
    let cases: [Vec<Message>; 7] = [
        vec![durable(None, MAX_SEQ)],
        vec![durable(Some(7), 1)],
        vec![need(4000)],
        vec![need(0), need(0)],
        vec![signature],
        vec![Message::Commit(Commit {
            batch: 1,
            upto: 1,
            caught_up: true,
            stamp: 0,
        })],
        vec![everything; 64],
    ];
    for case in cases {
        let mut puppet = Puppet::replica(&a, &b).await;
        puppet
            .hear("Batch", |m| matches!(m, Message::Batch(_)))
            .await;
        for message in &case {
            let frame = wire::encode(message).unwrap();
            // It may have hung up at an earlier one.
            let _ = puppet.stream.write_all(&frame).await;
        }
        puppet.refused().await;
    }
    assert_eq!(a.shown().await.acked, 0);
}

/// A file that the other node restores gets no further than a record of its would.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_file_lands_only_where_files_of_the_tree_lie() {
    let (a, _b) = pair(|t| t.exclude = Filter::parse(["/out"]).unwrap()).await;
    std::fs::create_dir(a.tree().join("dir")).unwrap();
    let marker = std::fs::read(a.tree().join(".tandem/marker")).unwrap();
    let put = async |at: &str| {
        let mut content = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut content, b"new").unwrap();
        let path = RelPath::from_bytes(at.as_bytes()).unwrap();
        let file = PutFile {
            path,
            meta: Meta {
                mode: 0o4755,
                ..meta()
            },
            names: None,
            replace: true,
        };
        a.engine().put_file("data", file, content).await
    };
    for bad in ["", ".tandem/marker", ".tandem/new", "out", "out/f", "dir"] {
        assert!(put(bad).await.is_err(), "{bad:?}");
    }
    put("sub/f").await.unwrap();
    assert_eq!(std::fs::read(a.tree().join("sub/f")).unwrap(), b"new");
    let mode = |at: &str| {
        let meta = std::fs::metadata(a.tree().join(at)).unwrap();
        std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o7777
    };
    assert_eq!(mode("sub/f"), 0o755, "no set-id bit from the wire");
    assert_eq!(
        std::fs::read(a.tree().join(".tandem/marker")).unwrap(),
        marker
    );
    assert!(!a.tree().join("out").exists() && a.tree().join("dir").is_dir());
}
