//! Doors for the fuzz targets of `tests/fuzz`: each takes any bytes, and panics when the decoder that it stands for
//! breaks a promise.

use crate::delta::{self, Piece};
use crate::entry::{ContentHash, FLAGS_NAME, Flags, Kind, Meta, State, Xattrs};
use crate::filter::Filter;
use crate::lineage::{NodeHeads, NodeName, combine, compare};
use crate::path::RelPath;
use crate::replica::machine::{Effect as ReplicaEffect, ReplicaMachine};
use crate::source::machine::{Effect as SourceEffect, Fetched, Reads, SourceMachine};
use crate::tree::TreeId;
use crate::wire::{self, Message, Record, Want};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;

/// Name, function, and inputs from which a search may begin.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All targets of this crate.
pub const TARGETS: &[Target] = &[
    ("sync_wire", message, frames),
    ("sync_replica", replica, || vec![frames().concat()]),
    ("sync_source", source, || vec![frames().concat()]),
    ("sync_delta", differences, signatures),
    ("sync_heads", heads, head_seeds),
    ("sync_index", crate::index::fuzz, index_seeds),
    ("sync_redo", crate::redo::fuzz, redo_seeds),
    (
        "sync_stored",
        crate::engine::stored::fuzz,
        crate::engine::stored::seeds,
    ),
    ("sync_spool", crate::spool::fuzz, crate::spool::fuzz_seeds),
    ("sync_manifest", crate::rescue::manifest::fuzz, manifests),
    ("sync_marker", crate::identity::fuzz, markers),
    ("sync_trash", crate::commit::trash::fuzz, || {
        vec![b"2026-11-28T03".to_vec(), b"2028-02-29T23.99".to_vec()]
    }),
    ("sync_owners", crate::owners::fuzz, owner_seeds),
    ("sync_flags", flags, || {
        vec![Flags::of_bits(0x30).to_value(), vec![0, 0, 0x80, 0]]
    }),
    (
        "sync_fanotify",
        crate::watch::fuzz,
        crate::watch::fuzz_seeds,
    ),
    ("sync_writers", crate::writers::fuzz, proc_lines),
    ("sync_path", path, paths),
];

/// The bodies of frames in `bytes`, as the stream's reader would give them out.
fn bodies(bytes: &[u8]) -> Vec<Bytes> {
    let (mut stream, mut bodies) = (BytesMut::from(bytes), Vec::new());
    while let Ok(Ok(body)) = wire::take_body(&mut stream) {
        match body {
            wire::Body::Message(body) => bodies.push(body),
            wire::Body::Pack(body) => bodies.extend(unpacked(&body)),
        }
    }
    bodies
}

/// The bodies in a compressed pack.
fn unpacked(body: &[u8]) -> Vec<Bytes> {
    let Ok(mut frames) = wire::unpack(body) else {
        return Vec::new();
    };
    assert!(frames.len() <= wire::MAX_PACK, "a bomb");
    let mut bodies = Vec::new();
    while let Ok(body) = wire::next_frame(&mut frames) {
        bodies.push(body);
    }
    bodies
}

/// A frame, or the body of one.
fn message(bytes: &[u8]) {
    let _ = wire::decode_greeting(bytes);
    for body in bodies(bytes)
        .into_iter()
        .chain([Bytes::copy_from_slice(bytes)])
    {
        if let Ok(message) = wire::decode(&body) {
            let again = wire::encode(&message).expect("what fitted into a frame fits again");
            let again = Bytes::from(again).slice(4..);
            assert_eq!(wire::decode(&again).expect("and is read"), message);
        }
    }
}

/// A source that says whatever it wants: the effects of what it says stay bounded, and so does how much it may say of a content.
fn replica(bytes: &[u8]) {
    let mut machine = ReplicaMachine::new(crate::lineage::MAX_SEQ);
    // Each content: its bytes, a question for each of them and one more, its room, its end.
    let (mut said, mut may_be_said) = (0u64, 0u64);
    for body in bodies(bytes) {
        let Ok(message) = wire::decode(&body) else {
            return;
        };
        if machine.received(message).is_err() {
            return;
        }
        for _ in 0..8 {
            match machine.next_effect() {
                Some(ReplicaEffect::Lookup { batch }) => {
                    let records = machine.records(batch).unwrap_or_default();
                    let most = records
                        .iter()
                        .map(|r| r.size().saturating_mul(2).saturating_add(3));
                    may_be_said = most.fold(may_be_said, u64::saturating_add);
                    let lacking = (0u32..).zip(records).filter(|(_, r)| {
                        !r.inline
                            && matches!(r.state.as_ref().map(|s| &s.kind), Some(Kind::File { .. }))
                    });
                    let wanted = lacking.map(|(i, _)| (i, Want::Whole)).collect();
                    machine.looked_up(batch, wanted);
                }
                Some(ReplicaEffect::Write { item, last, .. }) => {
                    said += 1;
                    if last {
                        machine.failed(item);
                    }
                }
                Some(
                    ReplicaEffect::Copy { .. }
                    | ReplicaEffect::Hole { .. }
                    | ReplicaEffect::Room { .. }
                    | ReplicaEffect::Signature { .. },
                ) => said += 1,
                Some(ReplicaEffect::Apply(ready)) => {
                    let upto = ready.commit.upto;
                    machine.applied(upto, upto, 1, true);
                }
                Some(_) => {}
                None => break,
            }
        }
        assert!(machine.next_effect().is_none(), "effects without end");
        assert!(machine.in_flight() <= wire::WINDOW);
        assert!(said <= may_be_said, "instructions without end");
    }
}

/// A replica that says whatever it wants.
fn source(bytes: &[u8]) {
    // Every other number is of a tree with a limit.
    let limited = [TreeId::of("limited")].into();
    let mut machine = SourceMachine::new(0, 9, 0, 0).with_limits(limited);
    machine.scanned(true);
    let record = |seq: u64| Record {
        tree: TreeId::of(if seq % 2 == 0 { "limited" } else { "t" }),
        path: RelPath::new(format!("f{seq}")).expect("valid"),
        seq,
        state: Some(file_state()),
        inline: false,
        grown_from: None,
        names: None,
    };
    for body in bodies(bytes) {
        for _ in 0..64 {
            match machine.next_effect() {
                Some(SourceEffect::Fetch(Reads::Next { after, .. })) => {
                    let fetched = Fetched {
                        records: vec![record(after + 1)],
                        upto: after + 1,
                        at_head: after >= 8,
                        totals: vec![],
                        withheld: vec![],
                    };
                    machine.fetched(fetched, None);
                }
                Some(SourceEffect::Fetch(Reads::Ahead { after })) => {
                    let next = after + 1 + after % 2;
                    let fetched = Fetched {
                        records: vec![record(next)],
                        upto: next,
                        at_head: false,
                        totals: vec![],
                        withheld: vec![],
                    };
                    machine.fetched(fetched, None);
                }
                Some(SourceEffect::Fetch(Reads::Asked)) => {
                    let fetched = Fetched {
                        records: vec![],
                        upto: machine.cursor(),
                        at_head: false,
                        totals: vec![],
                        withheld: vec![],
                    };
                    machine.fetched(fetched, Some(1));
                }
                Some(SourceEffect::SendContent { item, .. }) => machine.sent(item, true),
                Some(SourceEffect::Acked {
                    acked,
                    applied,
                    durable,
                    follows: _,
                }) => {
                    assert!(acked.max(applied).max(durable) <= machine.cursor());
                }
                Some(_) => {}
                None => break,
            }
        }
        let Ok(message) = wire::decode(&body) else {
            return;
        };
        if machine.received(message).is_err() {
            return;
        }
        machine.tick(1_000_000_000);
        assert!(machine.in_flight() <= wire::WINDOW);
    }
}

/// A window of new content, and a signature of the peer: what comes out is the window, made of it and of the basis.
fn differences(bytes: &[u8]) {
    let Some(([l0, l1, b0, b1, cut], rest)) = bytes.split_first_chunk::<5>() else {
        return;
    };
    let basis = u64::from(u16::from_le_bytes([*b0, *b1])) * 16;
    let new_len = usize::from(u16::from_le_bytes([*l0, *l1])).min(rest.len());
    let (new, signature) = rest.split_at(new_len);
    let from = u64::from(*cut) << 20;
    if let Ok(pieces) = delta::diff(signature, from, basis, new) {
        let mut at = 0u64;
        for piece in pieces {
            match piece {
                Piece::Copy { from: begin, len } => {
                    assert!(begin >= from && begin + len <= from + basis);
                    at += len;
                }
                Piece::Literal(range) => {
                    assert_eq!(range.start as u64, at);
                    at = range.end as u64;
                }
            }
        }
        assert_eq!(at, new.len() as u64);
    }
    delta::fuzz_delta(signature, from, basis, new);
}

fn heads(bytes: &[u8]) {
    let Ok((mine, rest)) = postcard::take_from_bytes::<NodeHeads>(bytes) else {
        return;
    };
    let theirs = postcard::from_bytes::<NodeHeads>(rest).unwrap_or_else(|_| mine.clone());
    let _ = combine(&mine, &theirs);
    for (one, other) in mine.trees().iter().zip(theirs.trees()) {
        let side = |node, head| crate::lineage::Side { node, head };
        let _ = compare(side(&mine.node, &one.head), side(&theirs.node, &other.head));
        if let Ok(next) = one.head.advance(&other.head.lineage, other.head.seq, true) {
            let id = crate::lineage::EpochId(u128::MAX);
            let node = NodeName::try_from("n").expect("valid");
            let _ = next.begin(id, u64::MAX, node);
        }
        if let Some(place) = other.head.place() {
            let _ = one.head.rewind(place);
        }
    }
}

/// The flags of `chattr` as the peer or the index has them among an entry's attributes.
fn flags(bytes: &[u8]) {
    let map = BTreeMap::from([(FLAGS_NAME.to_vec(), bytes.to_vec())]);
    let flags = Flags::from_value(bytes);
    assert_eq!(Xattrs::try_from(map).ok().map(|x| x.flags()), flags);
    if let Some(flags) = flags {
        assert_eq!(flags.to_value(), bytes);
        assert_eq!(Flags::of_bits(flags.bits()), flags);
        assert!(!flags.is_empty() && !flags.to_string().is_empty());
    }
}

fn path(bytes: &[u8]) {
    if let Ok(path) = RelPath::from_bytes(bytes) {
        assert_eq!(RelPath::from_sort_key(&path.sort_key()), Ok(path.clone()));
        let shown = path.to_string();
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
        assert_eq!(RelPath::from_escaped(&shown), Ok(path.clone()));
        assert!(path.components().all(|c| c != b".." && c != b"."));
        if let Some(parent) = path.parent() {
            assert!(path.is_below(&parent));
        }
    }
    let text = String::from_utf8_lossy(bytes);
    let _ = RelPath::from_escaped(&text);
    if let Some((pattern, at)) = text.split_once('\n')
        && let (Ok(filter), Ok(at)) = (Filter::parse([pattern]), RelPath::new(at))
    {
        let _ = filter.covers(&at, false);
        let _ = filter.matches(&at, true);
    }
}

fn file_state() -> State {
    State {
        kind: Kind::File {
            size: 3,
            hash: ContentHash::of(b"abc"),
        },
        meta: Meta {
            mode: 0o644,
            uid: 1,
            gid: 2,
            mtime_ns: -1,
            xattrs: Xattrs::default(),
        },
    }
}

fn frames() -> Vec<Vec<u8>> {
    let item = wire::Item { batch: 1, index: 0 };
    let record = |inline| Record {
        tree: TreeId::of("t"),
        path: RelPath::new("a/b").expect("valid"),
        seq: 1,
        state: Some(file_state()),
        inline,
        grown_from: None,
        names: None,
    };
    let batch = |id, inline| {
        Message::Batch(wire::Batch {
            id,
            records: vec![record(inline)],
            totals: vec![],
            withheld: vec![wire::Withheld {
                tree: TreeId::of("other"),
                contents: vec![1],
            }],
        })
    };
    let commit = |batch| {
        Message::Commit(wire::Commit {
            batch,
            upto: 1,
            caught_up: true,
            stamp: 0,
        })
    };
    let whole = |batch| Message::Data {
        item: wire::Item { batch, index: 0 },
        bytes: Bytes::from_static(b"abc"),
        last: true,
    };
    let durable = |batch| {
        Message::Durable(wire::Durable {
            upto: 1,
            batch: Some(batch),
            acked: 1,
            applied: 1,
            stamp: 7,
            follows: true,
        })
    };
    let need = |want| {
        Message::Need(wire::Need {
            batch: 1,
            items: vec![(0, want)],
            last: true,
        })
    };
    let sums = wire::ChunkSums {
        size: 70_000,
        chunk: 64 << 10,
        sums: vec![[1; 16], [2; 16]],
    };
    let messages = [
        Message::Wait,
        batch(1, false),
        need(Want::Whole),
        whole(1),
        commit(1),
        durable(1),
        batch(2, true),
        whole(2),
        commit(2),
        durable(2),
        need(Want::Against(sums)),
        Message::SumsOf {
            item,
            from: 0,
            len: 9,
        },
        Message::Copy {
            item,
            from: 1,
            len: 2,
            last: false,
        },
        Message::Room { item, bytes: 3 },
        Message::Hole {
            item,
            len: 3,
            last: false,
        },
        Message::GivenUp(item),
        Message::Fuzzy(wire::Fuzzy {
            tree: TreeId::of("t"),
            upto: 1,
            paths: vec![RelPath::new("busy").expect("valid")],
            more: 0,
        }),
        Message::Idle(wire::Idle { upto: 1, stamp: 3 }),
        Message::Fetch {
            tree: TreeId::of("t"),
            paths: vec![RelPath::root()],
        },
        Message::Verify(wire::VerifyPart {
            id: 1,
            tree: TreeId::of("t"),
            range: Some((None, None)),
            entries: vec![],
            absent: vec![RelPath::new("x").expect("valid")],
            repair: false,
            per_second: None,
        }),
    ];
    let encoded = messages
        .iter()
        .map(wire::encode)
        .map(|frame| frame.expect("fits"));
    let mut all: Vec<Vec<u8>> = encoded.collect();
    all.push(wire::pack(&all.concat().repeat(8)).expect("smaller"));
    all
}

fn signatures() -> Vec<Vec<u8>> {
    let (basis, new) = (vec![7; 8192], vec![7; 5000]);
    let mut seed = vec![0x88, 0x13, 0, 2, 0];
    seed.extend(new);
    seed.extend(delta::signature_of(&basis));
    vec![seed]
}

fn head_seeds() -> Vec<Vec<u8>> {
    use crate::lineage::{CopyState, EpochId, Head, Lineage, TreeHead};
    let node = NodeName::try_from("a").expect("valid");
    let first = Lineage::first(EpochId(1), 1, node.clone());
    let second = first.begin(EpochId(2), 2, node.clone(), 5).expect("begins");
    let heads = |lineage| {
        let head = Head {
            lineage,
            seq: 9,
            state: CopyState::Consistent,
        };
        let tree = TreeHead {
            tree: TreeId::of("t"),
            head,
            empty: false,
        };
        let heads = NodeHeads::new(node.clone(), vec![tree]).expect("valid");
        postcard::to_stdvec(&heads).expect("encoded")
    };
    vec![[heads(first), heads(second)].concat()]
}

fn index_seeds() -> Vec<Vec<u8>> {
    use crate::entry::{IndexEntry, LocalKey};
    let local = LocalKey {
        dev: 1,
        ino: 2,
        ctime_ns: 3,
        mtime_ns: 4,
        size: 5,
    };
    let entry = IndexEntry::received(Some(file_state()), 5, Some(local));
    let mut key = TreeId::of("t").0.to_vec();
    key.extend(b"a\0b");
    let identity = crate::index::IndexIdentity {
        pair: "p".into(),
        node: "n".into(),
    };
    let format = postcard::to_stdvec(&(2u32, identity)).expect("encoded");
    let mut seeds = vec![postcard::to_stdvec(&entry).expect("encoded"), key, format];
    seeds.extend(crate::index::fuzz_places());
    seeds
}

fn markers() -> Vec<Vec<u8>> {
    vec![br#"{"version":1,"id":"00ff","pair":"p","tree":"www"}"#.to_vec()]
}

/// Names, `/etc/passwd`, `/etc/group` and an ACL.
fn owner_seeds() -> Vec<Vec<u8>> {
    use crate::owners::{Lacks, Names};
    let names = Names {
        users: vec![(1000, "alice".into())],
        groups: vec![(50, "staff".into())],
        lacks: Lacks::Nothing,
    };
    let texts = b"alice:x:2000:1::/:/bin/sh\0staff:x:60:\0";
    let acl = [
        &2u32.to_le_bytes()[..],
        &[2, 0, 7, 0],
        &1000u32.to_le_bytes(),
        &[8, 0, 5, 0],
        &50u32.to_le_bytes(),
    ];
    let names = postcard::to_stdvec(&names).expect("encoded");
    vec![[&names[..], texts, &acl.concat()].concat()]
}

fn manifests() -> Vec<Vec<u8>> {
    vec![
        br#"{"header":{"version":1,"id":"s","tree":"www","made_unix_ms":0,"why":"w","base_unknown":false}}"#.to_vec(),
        br#"{"item":{"number":1,"path":"a/b","change":"changed","size":5,"mtime_unix_ms":0,"taken":true}}"#.to_vec(),
        br#"{"dropped":[1,2]}"#.to_vec(),
    ]
}

/// A journal of one extent, and its body alone.
fn redo_seeds() -> Vec<Vec<u8>> {
    use crate::redo::{Body, Extent, Footer};
    let meta = Meta {
        mode: 0o600,
        uid: 0,
        gid: 0,
        mtime_ns: 1,
        xattrs: Xattrs::default(),
    };
    let hash = ContentHash([3; 32]);
    let kind = Kind::File { size: 64, hash };
    let body = Body {
        path: RelPath::new("base/16384/1").expect("a path"),
        ino: 7,
        born_ns: 11,
        state: State { kind, meta },
        extents: vec![Extent {
            offset: 8,
            len: 8,
            fill: crate::redo::Fill::Data,
        }],
    };
    let body = body.encode().expect("a small body");
    let head = Footer::head(body.len() as u32, 8);
    let whole = [&[1; 8][..], &body, &head, &[0; 32]].concat();
    vec![whole, body]
}

fn proc_lines() -> Vec<Vec<u8>> {
    vec![
        b"pos:\t0\nflags:\t0100002\nmnt_id:\t29\n".to_vec(),
        b"7f00-7f01 rw-s 00000000 fe:00 1234                       /srv/a\\012b".to_vec(),
    ]
}

fn paths() -> Vec<Vec<u8>> {
    vec![
        b"a/b\\c\x01/\xff".to_vec(),
        b"/cache/**\ncache/x/y".to_vec(),
        b"*.[ch]\na/b.c".to_vec(),
    ]
}
