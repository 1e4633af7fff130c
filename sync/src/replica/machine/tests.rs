use super::*;
use crate::entry::{ContentHash, Kind, Meta, State, Xattrs};
use crate::path::RelPath;
use crate::tree::TreeId;

fn file(size: u64, inline: bool) -> Record {
    let meta = Meta {
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime_ns: 0,
        xattrs: Xattrs::default(),
    };
    let state = Some(State {
        kind: Kind::File {
            size,
            hash: ContentHash([0; 32]),
        },
        meta,
    });
    Record {
        tree: TreeId::of("t"),
        path: RelPath::new("f").unwrap(),
        seq: 1,
        state,
        inline,
        grown_from: None,
        names: None,
    }
}

fn gone() -> Record {
    Record {
        state: None,
        ..file(0, false)
    }
}

fn batch(id: u64, records: Vec<Record>) -> Message {
    Message::Batch(Batch {
        id,
        records,
        totals: vec![],
        withheld: vec![],
    })
}

fn data(batch: u64, index: u32, n: usize, last: bool) -> Message {
    Message::Data {
        item: Item { batch, index },
        bytes: vec![0; n].into(),
        last,
    }
}

fn commit(batch: u64) -> Message {
    Message::Commit(Commit {
        batch,
        upto: batch,
        caught_up: true,
        stamp: 0,
    })
}

fn effects(machine: &mut ReplicaMachine) -> Vec<Effect> {
    std::iter::from_fn(|| machine.next_effect()).collect()
}

#[test]
fn a_batch_goes_from_offer_to_durable() {
    let mut m = ReplicaMachine::new(crate::lineage::MAX_SEQ);
    m.received(batch(
        1,
        vec![gone(), file(10, true), file(20, false), file(30, false)],
    ))
    .unwrap();
    assert_eq!(effects(&mut m), [Effect::Lookup { batch: 1 }]);
    m.looked_up(1, vec![(3, Want::Whole)]);
    assert!(
        matches!(&effects(&mut m)[..], [Effect::Send(Message::Need(n))] if n.items.len() == 1 && n.last)
    );
    m.received(data(1, 1, 10, true)).unwrap();
    m.received(data(1, 3, 10, false)).unwrap();
    assert!(m.received(commit(1)).is_err(), "an item is not complete");
    m.received(data(1, 3, 20, true)).unwrap();
    effects(&mut m);
    m.received(commit(1)).unwrap();
    let out = effects(&mut m);
    assert!(
        matches!(&out[..], [Effect::Apply(r)] if r.records.len() == 4 && r.failed.is_empty() && r.given_up.is_empty())
    );
    assert_eq!(m.in_flight(), 1);
    m.applied(1, 1, 77, true);
    let durable = Durable {
        upto: 1,
        batch: Some(1),
        acked: 1,
        applied: 1,
        stamp: 77,
        follows: true,
    };
    assert_eq!(effects(&mut m), [Effect::Send(Message::Durable(durable))]);
    assert_eq!(m.in_flight(), 0);
}

#[test]
fn given_up_and_failed_items_are_named() {
    let mut m = ReplicaMachine::new(crate::lineage::MAX_SEQ);
    m.received(batch(1, vec![file(1, true), file(1, true)]))
        .unwrap();
    m.looked_up(1, vec![]);
    m.received(Message::GivenUp(Item { batch: 1, index: 0 }))
        .unwrap();
    m.received(data(1, 1, 1, true)).unwrap();
    m.failed(Item { batch: 1, index: 1 });
    m.received(commit(1)).unwrap();
    let out = effects(&mut m);
    assert!(matches!(out.last(), Some(Effect::Apply(r)) if r.given_up == [0] && r.failed == [1]));
}

#[test]
fn violations_are_refused() {
    let started = || {
        let mut m = ReplicaMachine::new(crate::lineage::MAX_SEQ);
        m.received(batch(5, vec![file(10, true), file(10, false), gone()]))
            .unwrap();
        m.looked_up(5, vec![]);
        m
    };
    let item = Item { batch: 5, index: 0 };
    for bad in [
        batch(5, vec![]),
        data(5, 0, 11, false),
        data(5, 0, 9, true),
        data(5, 1, 1, false),
        data(5, 2, 0, true),
        data(6, 0, 1, false),
        Message::Copy {
            item,
            from: 0,
            len: u64::MAX,
            last: false,
        },
        Message::Hole {
            item,
            len: 11,
            last: false,
        },
        Message::Hole {
            item: Item { batch: 5, index: 1 },
            len: 1,
            last: false,
        },
        Message::Room { item, bytes: 11 },
        Message::GivenUp(Item { batch: 5, index: 2 }),
        Message::SumsOf {
            item: Item { batch: 5, index: 1 },
            from: 0,
            len: 1,
        },
        commit(5),
        commit(6),
        Message::Idle(Idle { upto: 1, stamp: 0 }),
    ] {
        assert!(started().received(bad.clone()).is_err(), "{bad:?}");
    }
    let mut m = ReplicaMachine::new(crate::lineage::MAX_SEQ);
    for id in 1..=WINDOW as u64 {
        m.received(batch(id, vec![])).unwrap();
    }
    assert!(m.received(batch(9, vec![])).is_err(), "beyond the window");
}

#[test]
fn what_brings_no_bytes_does_not_go_on_without_end() {
    let item = Item { batch: 1, index: 0 };
    let copy = |len, last| Message::Copy {
        item,
        from: 0,
        len,
        last,
    };
    let room = || Message::Room { item, bytes: 5 };
    let question = || Message::SumsOf {
        item,
        from: 0,
        len: 5,
    };
    let begun = || {
        let mut m = ReplicaMachine::new(crate::lineage::MAX_SEQ);
        m.received(batch(1, vec![file(5, true)])).unwrap();
        m.looked_up(1, vec![]);
        m
    };
    for (before, bad) in [
        (vec![], copy(0, false)),
        (vec![], data(1, 0, 0, false)),
        (vec![copy(5, false)], copy(0, false)),
        (vec![copy(5, false)], data(1, 0, 0, false)),
        (vec![room()], room()),
        (vec![question()], room()),
        (vec![question()], question()),
    ] {
        let mut m = begun();
        before.into_iter().for_each(|m1| m.received(m1).unwrap());
        assert!(m.received(bad.clone()).is_err(), "{bad:?}");
    }
    // As an honest source does it: an empty end ends what comes by differences.
    let mut m = begun();
    for message in [
        room(),
        question(),
        copy(2, false),
        question(),
        copy(3, false),
        data(1, 0, 0, true),
        commit(1),
    ] {
        m.received(message).unwrap();
    }
}

#[test]
fn a_batch_may_overtake_another() {
    let mut m = ReplicaMachine::new(crate::lineage::MAX_SEQ);
    m.received(batch(1, vec![file(5, true)])).unwrap();
    m.looked_up(1, vec![]);
    m.received(batch(2, vec![gone()])).unwrap();
    m.looked_up(2, vec![]);
    m.received(Message::Wait).unwrap();
    m.received(commit(2)).unwrap();
    m.received(data(1, 0, 5, true)).unwrap();
    m.received(commit(1)).unwrap();
    let applied: Vec<u64> = std::iter::from_fn(|| m.next_effect())
        .filter_map(|e| match e {
            Effect::Apply(ready) => Some(ready.commit.batch),
            _ => None,
        })
        .collect();
    assert_eq!(applied, [2, 1]);
    m.received(commit(1)).unwrap_err();
}

#[test]
fn a_source_may_ask_only_so_many_questions_at_once() {
    let part = |id| {
        Message::Verify(VerifyPart {
            id,
            tree: TreeId::of("t"),
            range: None,
            entries: vec![],
            absent: vec![],
            repair: false,
            per_second: None,
        })
    };
    let mut machine = ReplicaMachine::new(crate::lineage::MAX_SEQ);
    for id in 0..MAX_QUESTIONS as u64 {
        machine.received(part(id)).unwrap();
    }
    machine.received(part(9)).unwrap_err();
    let differences = vec![];
    machine.verified(VerifyAnswer { id: 0, differences });
    machine.received(part(10)).unwrap();
}

/// Old versions that are large have up to half a mebibyte of sums each.
#[test]
fn what_is_needed_goes_in_messages_that_the_source_takes() {
    let sums = crate::wire::ChunkSums {
        size: 2 << 30,
        chunk: 64 << 10,
        sums: vec![[0xff; 16]; 32 << 10],
    };
    let mut m = ReplicaMachine::new(crate::lineage::MAX_SEQ);
    m.received(batch(1, vec![file(2 << 30, false); 9])).unwrap();
    effects(&mut m);
    let wanted = (0..9).map(|index| (index, Want::Against(sums.clone())));
    m.looked_up(1, wanted.collect());
    let needs: Vec<Need> = effects(&mut m)
        .into_iter()
        .map(|effect| match effect {
            Effect::Send(message @ Message::Need(_)) => {
                crate::wire::encode(&message).unwrap();
                match message {
                    Message::Need(need) => need,
                    _ => unreachable!("it is one"),
                }
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let (last, others) = needs.split_last().unwrap();
    assert!(last.last && others.iter().all(|need| !need.last));
    let items = needs.iter().flat_map(|need| &need.items);
    assert!(items.map(|(index, _)| *index).eq(0..9));
}
