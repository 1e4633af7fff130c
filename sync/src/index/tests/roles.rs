//! Writing, receiving, reversal.

use super::*;

const E1: EpochId = EpochId(1);
const E2: EpochId = EpochId(2);

/// The lineage of a peer that took over at `seq` of E1.
fn taken_over(seq: u64) -> Lineage {
    Lineage::first(E1, 1, node("a"))
        .begin(E2, 2, node("b"), seq)
        .unwrap()
}

fn source() -> Fixture {
    let f = fixture();
    f.observe(WWW, "a", Some(file("1")));
    f.observe(WWW, "b", Some(file("1")));
    f.write(|w| w.init(WWW, E1, 1, &node("a")));
    f
}

#[test]
fn a_sources_position_is_the_newest_number() {
    let f = source();
    let head = f.see().head(WWW).unwrap();
    assert_eq!(
        (head.seq, head.state, f.see().mode()),
        (3, CopyState::Consistent, Mode::Writing)
    );
    f.observe(WWW, "a", Some(file("2")));
    f.observe(ETC, "other", Some(file("2")));
    assert_eq!((f.see().head(WWW).unwrap().seq, f.see().last_seq()), (5, 5));
    assert!(f.see().head(ETC).unwrap().lineage.is_unborn());
    let again: Result<_, IndexError> = f.index.write(|w| w.init(WWW, E2, 1, &node("a")));
    assert!(matches!(
        again,
        Err(IndexError::Lineage(LineageError::Born))
    ));
}

#[test]
fn acknowledgements_are_one_number_and_never_lead() {
    let f = source();
    f.write(|w| {
        w.ack(1000);
        Ok(())
    });
    assert_eq!(f.see().acked(), Acked { upto: 3, void: 0 });
    f.observe(WWW, "a", Some(file("2")));
    f.write(|w| {
        w.ack(2);
        Ok(())
    });
    let (see, acked) = (f.see(), f.see().acked());
    assert_eq!(
        see.get(WWW, &p("a")).unwrap().unwrap().basis(&acked),
        Basis::Was(Some(&file("1")))
    );
    assert_eq!(
        see.get(WWW, &p("b")).unwrap().unwrap().basis(&acked),
        Basis::Current
    );
    f.write(|w| {
        w.peer_at(1);
        Ok(())
    });
    let (see, acked) = (f.see(), f.see().acked());
    let basis = |name: &str| see.get(WWW, &p(name)).unwrap().unwrap().basis(&acked) == Basis::Never;
    assert!(basis("a") && basis("b"), "it lost what it had acknowledged");
    f.write(|w| {
        w.peer_at(4);
        Ok(())
    });
    assert_eq!(f.see().acked().upto, 4);
}

#[test]
fn a_returning_master_lists_what_the_pair_had_not() {
    let f = source();
    f.write(|w| {
        w.ack(3);
        Ok(())
    });
    f.observe(WWW, "a", Some(file("late")));
    f.observe(WWW, "new", Some(file("late")));
    f.observe(WWW, "b", None);
    f.observe(WWW, "short", Some(file("x")));
    f.observe(WWW, "short", None);
    let source_of_all = taken_over(3);
    f.write(|w| w.start_receiving());
    let refused: Result<_, IndexError> = f.index.write(|w| w.advance(WWW, &source_of_all, 9, true));
    assert!(matches!(
        refused,
        Err(IndexError::Advance(AdvanceError::NotRewound { .. }))
    ));

    let listed = f.write(|w| w.rewind(WWW, Branch { epoch: E1, seq: 3 }));
    assert_eq!(listed, 4);
    let see = f.see();
    let work = see.unreplicated(None, 10).unwrap();
    let was = |text: &str| Base::Was(Some(Box::new(file(text))));
    let expected = [
        ("a", Some(file("late")), was("1")),
        ("b", None, was("1")),
        ("new", Some(file("late")), Base::Never),
        // Deleted, and no acknowledgement of it was written down, which proves nothing.
        ("short", None, Base::Unknown),
    ];
    for ((tree, path, record), (name, ours, base)) in work.iter().zip(expected) {
        assert_eq!((*tree, path), (WWW, &p(name)));
        assert_eq!(record, &Unreplicated { ours, base });
    }
    assert_eq!(
        see.unreplicated(Some((WWW, &p("a"))), 1).unwrap()[0].1,
        p("b")
    );
    let head = see.head(WWW).unwrap();
    assert_eq!(
        (head.seq, head.state, see.mode()),
        (3, CopyState::CatchingUp, Mode::Receiving)
    );
    assert!(
        see.changes(3, 10).unwrap().is_empty(),
        "their numbers are free for the peer's"
    );
    assert_eq!(see.get(WWW, &p("b")).unwrap(), None);
    assert_eq!(see.get(WWW, &p("a")).unwrap().unwrap().seq, 0);

    // The peer's numbers, one of which this node had used itself.
    f.write(|w| {
        w.receive(WWW, &p("a"), Some(file("theirs")), 5, Some(key(1)))?;
        w.settle(WWW, &p("a"))?;
        w.advance(WWW, &source_of_all, 5, false)
    });
    let see = f.see();
    assert_eq!(see.unreplicated(None, 10).unwrap().len(), 3);
    let head = see.head(WWW).unwrap();
    assert_eq!(
        (head.lineage, head.seq, head.state),
        (source_of_all.clone(), 5, CopyState::CatchingUp)
    );
    f.write(|w| w.advance(WWW, &source_of_all, 9, true));
    assert_eq!(f.see().head(WWW).unwrap().state, CopyState::Consistent);

    // It takes over again: no number twice, and what it received counts as acknowledged.
    let last = f.see().last_seq();
    f.write(|w| w.begin(&[(WWW, EpochId(3))], 3, &node("a")));
    let see = f.see();
    assert_eq!(see.last_seq(), last + 1);
    assert_eq!(see.head(WWW).unwrap().seq, last + 1);
    assert_eq!(
        see.head(WWW).unwrap().lineage.head().unwrap().parent,
        Some(Branch { epoch: E2, seq: 9 })
    );
    let a = see.get(WWW, &p("a")).unwrap().unwrap();
    assert_eq!(a.basis(&see.acked()), Basis::Current);
    assert_eq!(
        f.observe(WWW, "a", Some(file("x"))),
        Observed::Changed(last + 2)
    );
}

#[test]
fn a_receiver_gives_no_numbers() {
    let f = source();
    f.write(|w| w.start_receiving());
    let refused: Result<_, IndexError> = f
        .index
        .write(|w| w.observe(WWW, &p("x"), Some(file("")), None));
    assert!(matches!(refused, Err(IndexError::NotWriting)));
    f.write(|w| {
        w.found(WWW, &p("x"), file("local"), key(5))?;
        w.found(WWW, &p("a"), file("local"), key(5))?;
        w.set_local(WWW, &p("b"), Some(key(6)))?;
        w.set_local(WWW, &p("absent"), Some(key(6)))
    });
    let see = f.see();
    assert_eq!(see.get(WWW, &p("x")).unwrap().unwrap().seq, 0);
    assert_eq!(
        see.get(WWW, &p("a")).unwrap().unwrap().current,
        Some(file("1")),
        "has a number, stays"
    );
    assert_eq!(see.get(WWW, &p("b")).unwrap().unwrap().local, Some(key(6)));
    assert_eq!(see.get(WWW, &p("absent")).unwrap(), None);
    assert_eq!(names(&see.changes(0, 9).unwrap()).len(), 2);
    assert_eq!(see.head(WWW).unwrap().seq, 3);
}

#[test]
fn a_fresh_node_that_receives_has_no_history() {
    let f = fixture();
    f.observe(WWW, "mine", Some(file("1")));
    f.observe(WWW, "both", Some(file("1")));
    let early: Result<_, IndexError> = f
        .index
        .write(|w| w.receive(WWW, &p("both"), Some(file("1")), 1, None));
    assert!(matches!(early, Err(IndexError::NotReceiving)));
    f.write(|w| w.start_receiving());
    let source = Lineage::first(E1, 1, node("b"));
    f.write(|w| {
        w.receive(WWW, &p("both"), Some(file("1")), 1, Some(key(2)))?;
        w.advance(WWW, &source, 1, false)
    });
    let see = f.see();
    assert_eq!(see.head(WWW).unwrap().state, CopyState::Copying);
    assert_eq!(see.get(WWW, &p("mine")).unwrap().unwrap().seq, 0);
    assert_eq!(names(&see.changes(0, 9).unwrap()), [(1, "both".into())]);
    assert!(see.unreplicated(None, 9).unwrap().is_empty());
}

#[test]
fn a_number_with_two_paths_is_an_error() {
    let f = source();
    f.write(|w| w.start_receiving());
    let result: Result<(), IndexError> = f.index.write(|w| {
        w.receive(WWW, &p("x"), Some(file("")), 9, None)?;
        w.receive(WWW, &p("y"), Some(file("")), 9, None)
    });
    assert!(matches!(result, Err(IndexError::NumberTaken { seq: 9 })));
    // The same record again is no error: a batch that was cut is sent again.
    f.write(|w| {
        w.receive(WWW, &p("x"), Some(file("")), 9, None)?;
        w.receive(WWW, &p("x"), Some(file("")), 9, None)
    });
}

#[test]
fn acknowledged_tombstones_can_go() {
    let f = source();
    for name in ["c", "d", "e"] {
        f.observe(WWW, name, Some(file("x")));
        f.observe(WWW, name, None);
    }
    f.write(|w| {
        w.ack(7);
        Ok(())
    });
    assert_eq!(f.see().counts(WWW).unwrap().tombstones, 3);
    assert_eq!(f.write(|w| w.purge_tombstones(u64::MAX, 1)), 1);
    assert_eq!(
        f.write(|w| w.purge_tombstones(u64::MAX, 10)),
        1,
        "the third is not acknowledged"
    );
    let see = f.see();
    assert_eq!(
        (see.counts(WWW).unwrap().tombstones, see.tombstone_floor()),
        (1, 7)
    );
    assert_eq!(see.get(WWW, &p("c")).unwrap(), None);
    assert!(see.get(WWW, &p("e")).unwrap().is_some());
    // A path that came back has no tombstone to purge.
    f.observe(WWW, "e", Some(file("y")));
    f.write(|w| {
        w.ack(u64::MAX);
        Ok(())
    });
    assert_eq!(f.write(|w| w.purge_tombstones(u64::MAX, 10)), 0);
    // A receiver has those of others, to whom it acknowledges.
    f.write(|w| w.start_receiving());
    f.write(|w| w.receive(WWW, &p("e"), None, 90, None));
    assert_eq!(f.write(|w| w.purge_tombstones(89, 10)), 0);
    assert_eq!(f.write(|w| w.purge_tombstones(90, 10)), 1);
}

#[test]
fn adopting_gives_up_the_history_of_one_tree() {
    let f = source();
    f.observe(ETC, "keep", Some(file("x")));
    f.write(|w| w.forget_tree(WWW));
    let see = f.see();
    assert!(see.head(WWW).unwrap().lineage.is_unborn());
    assert_eq!(names(&see.changes(0, 9).unwrap()), [(4, "keep".into())]);
    assert_eq!(
        see.counts(WWW).unwrap().files,
        2,
        "what lies there is still known"
    );
}

#[test]
fn values_and_the_peers_heads_survive() {
    use crate::lineage::{NodeHeads, TreeHead};
    let f = source();
    let head = f.see().head(WWW).unwrap();
    let heads = NodeHeads::new(
        node("b"),
        vec![TreeHead {
            tree: WWW,
            head,
            empty: false,
        }],
    )
    .unwrap();
    f.write(|w| {
        w.remember_peer(&heads)?;
        w.put_value("stopped/www", "emptied")
    });
    let Fixture {
        _place,
        path,
        index,
    } = f;
    drop(index);
    let index = Index::open(&path, &identity()).unwrap();
    let see = index.snapshot().unwrap();
    assert_eq!(see.peer_heads().unwrap(), Some(heads));
    assert_eq!(
        see.value::<String>("stopped/www").unwrap(),
        Some("emptied".into())
    );
    index.write(|w| w.remove_value("stopped/www")).unwrap();
    assert_eq!(
        index
            .snapshot()
            .unwrap()
            .value::<String>("stopped/www")
            .unwrap(),
        None
    );
}
