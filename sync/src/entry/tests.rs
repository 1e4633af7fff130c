use super::*;
use proptest::prelude::*;

pub(crate) fn file(content: &str) -> State {
    let kind = Kind::File {
        size: content.len() as u64,
        hash: ContentHash::of(content.as_bytes()),
    };
    State {
        kind,
        meta: Meta {
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime_ns: 1,
            xattrs: Xattrs::default(),
        },
    }
}

fn changed(change: Change) -> IndexEntry {
    match change {
        Change::Changed(entry) => entry,
        other => panic!("expected a change, got {other:?}"),
    }
}

#[test]
fn decoding_refuses_what_no_kernel_would_give() {
    let round = |m: &Meta| postcard::from_bytes::<Meta>(&postcard::to_stdvec(m).unwrap());
    let good = file("x").meta;
    assert_eq!(round(&good).unwrap(), good);
    assert!(
        round(&Meta {
            mode: 0o10000,
            ..good.clone()
        })
        .is_err()
    );
    assert!(
        round(&Meta {
            mtime_ns: i128::MAX,
            ..good.clone()
        })
        .is_err()
    );
    assert!(
        round(&Meta {
            mtime_ns: join_ns(i64::MIN, 0),
            ..good.clone()
        })
        .is_ok()
    );

    let link =
        |bytes: Vec<u8>| postcard::from_bytes::<LinkTarget>(&postcard::to_stdvec(&bytes).unwrap());
    assert!(link(b"../../etc/passwd".to_vec()).is_ok());
    assert!(link(vec![b'x'; MAX_LINK_TARGET]).is_ok());
    for bad in [vec![], b"a\0b".to_vec(), vec![b'x'; MAX_LINK_TARGET + 1]] {
        assert!(link(bad).is_err());
    }

    let xattrs =
        |name: &[u8], n: usize| Xattrs::try_from(BTreeMap::from([(name.to_vec(), vec![0; n])]));
    assert!(xattrs(b"user.a", MAX_XATTRS - 6).is_ok());
    for (name, n) in [
        (&b"user.a"[..], MAX_XATTRS - 5),
        (b"", 0),
        (b"a\0", 0),
        (&[b'x'; 256], 0),
    ] {
        assert_eq!(xattrs(name, n), Err(StateError::Xattrs));
    }
}

#[test]
fn times_before_1970_split_as_the_kernel_wants() {
    let meta = |ns| Meta {
        mtime_ns: ns,
        ..file("").meta
    };
    assert_eq!(meta(-1).mtime(), (-1, 999_999_999));
    assert_eq!(meta(1_500_000_000).mtime(), (1, 500_000_000));
    assert_eq!(meta(join_ns(-5, 7)).mtime(), (-5, 7));
}

#[test]
fn a_base_follows_the_acknowledgement() {
    let mut acked = Acked::default();
    let v1 = changed(IndexEntry::observe(None, &acked, Some(file("1")), None, 1));
    assert_eq!(v1.basis(&acked), Basis::Never);
    acked.advance(1);
    assert_eq!(v1.basis(&acked), Basis::Current);
    let v2 = changed(IndexEntry::observe(
        Some(&v1),
        &acked,
        Some(file("2")),
        None,
        2,
    ));
    let v3 = changed(IndexEntry::observe(
        Some(&v2),
        &acked,
        Some(file("3")),
        None,
        3,
    ));
    assert_eq!(v3.basis(&acked), Basis::Was(Some(&file("1"))));
    let gone = changed(IndexEntry::observe(Some(&v3), &acked, None, None, 4));
    assert_eq!(gone.basis(&acked), Basis::Was(Some(&file("1"))));
    acked.advance(4);
    assert_eq!(gone.basis(&acked), Basis::Current);
    let again = changed(IndexEntry::observe(
        Some(&gone),
        &acked,
        Some(file("4")),
        None,
        5,
    ));
    assert_eq!(again.basis(&acked), Basis::Was(None));
}

#[test]
fn a_peer_that_lost_its_disk_has_nothing() {
    let mut acked = Acked { upto: 7, void: 0 };
    let old = IndexEntry {
        seq: 5,
        ..IndexEntry::received(Some(file("a")), 5, None)
    };
    let newer = IndexEntry {
        base: Base::Was(Some(Box::new(file("a")))),
        ..IndexEntry::received(Some(file("b")), 9, None)
    };
    acked.forget(9);
    assert_eq!(
        (old.basis(&acked), newer.basis(&acked)),
        (Basis::Never, Basis::Never)
    );
    let next = changed(IndexEntry::observe(
        Some(&newer),
        &acked,
        Some(file("c")),
        None,
        10,
    ));
    assert_eq!(next.basis(&acked), Basis::Never);
    acked.advance(10);
    assert_eq!(old.basis(&acked), Basis::Current);
}

#[test]
fn a_state_turned_back_to_its_base_is_still_unreplicated() {
    let acked = Acked { upto: 1, void: 0 };
    let v1 = IndexEntry::received(Some(file("1")), 1, None);
    let v2 = changed(IndexEntry::observe(
        Some(&v1),
        &acked,
        Some(file("2")),
        None,
        2,
    ));
    let v1_again = changed(IndexEntry::observe(
        Some(&v2),
        &acked,
        Some(file("1")),
        None,
        3,
    ));
    assert!(v1_again.is_unreplicated(&acked) && !v1.is_unreplicated(&acked));
    let unborn_and_gone = changed(IndexEntry::observe(
        Some(&IndexEntry::observe_new(file("x"), 4)),
        &acked,
        None,
        None,
        5,
    ));
    assert!(
        !unborn_and_gone.is_unreplicated(&acked),
        "made and deleted unseen: nothing to lose"
    );
}

#[test]
fn a_look_without_change_costs_no_number() {
    let acked = Acked::default();
    let key = LocalKey {
        dev: 1,
        ino: 2,
        ctime_ns: 3,
        mtime_ns: 4,
        size: 5,
    };
    let old = IndexEntry {
        local: Some(key),
        ..IndexEntry::received(Some(file("a")), 3, None)
    };
    assert_eq!(
        IndexEntry::observe(Some(&old), &acked, Some(file("a")), Some(key), 9),
        Change::Unchanged
    );
    let touched = LocalKey {
        ctime_ns: 99,
        ..key
    };
    let expected = IndexEntry {
        local: Some(touched),
        ..old.clone()
    };
    assert_eq!(
        IndexEntry::observe(Some(&old), &acked, Some(file("a")), Some(touched), 9),
        Change::LocalOnly(expected)
    );
    assert_eq!(
        IndexEntry::observe(None, &acked, None, None, 9),
        Change::Unchanged
    );
    let found = IndexEntry::found(file("a"), key);
    assert!(matches!(
        IndexEntry::observe(Some(&found), &acked, Some(file("a")), Some(key), 9),
        Change::Changed(_)
    ));
    assert_eq!(found.basis(&Acked { upto: 100, void: 0 }), Basis::Never);
}

impl IndexEntry {
    fn observe_new(state: State, seq: u64) -> IndexEntry {
        changed(IndexEntry::observe(
            None,
            &Acked::default(),
            Some(state),
            None,
            seq,
        ))
    }
}

#[derive(Debug, Clone)]
enum Op {
    Write(u8),
    Delete,
    /// The peer acknowledges up to this many of the numbers given out so far (modulo).
    Ack(u64),
    PeerLost,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (0u8..3).prop_map(Op::Write),
        1 => Just(Op::Delete),
        3 => any::<u64>().prop_map(Op::Ack),
        1 => Just(Op::PeerLost),
    ];
    proptest::collection::vec(op, 0..40)
}

proptest! {
    /// The base is compared with a peer that really has the acknowledged version: it may lag, it never leads.
    #[test]
    fn a_base_never_leads(ops in ops()) {
        let mut acked = Acked::default();
        let mut history: Vec<Option<State>> = vec![None]; // index = seq
        let mut entry: Option<IndexEntry> = None;
        let mut floor = 0; // numbers up to this are lost at the peer
        for op in ops {
            let last = history.len() as u64 - 1;
            match op {
                Op::Write(_) | Op::Delete => {
                    let state = if let Op::Write(n) = op { Some(file(&n.to_string())) } else { None };
                    match IndexEntry::observe(entry.as_ref(), &acked, state.clone(), None, last + 1) {
                        Change::Changed(new) => {
                            history.push(state);
                            entry = Some(new);
                        }
                        other => prop_assert_eq!(other, Change::Unchanged),
                    }
                }
                Op::Ack(n) => acked.advance(n % (last + 1)),
                Op::PeerLost => {
                    acked.forget(last);
                    floor = last;
                }
            }
            let Some(entry) = &entry else { continue };
            // What the peer certainly has: the version at the acknowledged number, if it was acknowledged after the loss.
            let seen: Vec<&Option<State>> = history[..=acked.upto as usize].iter().collect();
            match entry.basis(&acked) {
                Basis::Current => {
                    prop_assert!(entry.seq <= acked.upto);
                    prop_assert_eq!(&entry.current, &history[entry.seq as usize]);
                }
                Basis::Was(state) => {
                    let ok = seen.iter().any(|s| s.as_ref() == state);
                    prop_assert!(ok, "a base that was never acknowledged");
                }
                Basis::Never => {
                    prop_assert!(entry.seq > acked.upto);
                    prop_assert!(acked.upto <= floor || acked.upto < entry.seq);
                }
                Basis::Unknown => prop_assert!(false, "nothing lost this index"),
            }
        }
    }
}
