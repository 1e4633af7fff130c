use super::*;
use crate::tree::TreeId;

mod chain;
mod model;
mod pair;

pub(super) fn node(name: &str) -> NodeName {
    NodeName::try_from(name).unwrap()
}

/// A chain such as `[("a", 0), ("b", 100)]`: epoch 1 of a, epoch 2 of b that began at 100.
fn epochs(epochs: &[(&str, u128, u64)]) -> Lineage {
    let (first, rest) = epochs.split_first().unwrap();
    let start = Lineage::first(EpochId(first.1), 1, node(first.0));
    rest.iter().fold(start, |l, (who, id, seq)| {
        l.begin(EpochId(*id), 2, node(who), *seq).unwrap()
    })
}

fn at(lineage: &Lineage, seq: u64) -> Head {
    Head {
        lineage: lineage.clone(),
        seq,
        state: CopyState::Consistent,
    }
}

fn branch(epoch: u128, seq: u64) -> Branch {
    Branch {
        epoch: EpochId(epoch),
        seq,
    }
}

fn mirrored(relation: TreeRelation) -> TreeRelation {
    match relation {
        TreeRelation::Ahead { branch, past } => TreeRelation::Behind { branch, past },
        TreeRelation::Behind { branch, past } => TreeRelation::Ahead { branch, past },
        TreeRelation::MineUnborn => TreeRelation::TheirsUnborn,
        TreeRelation::TheirsUnborn => TreeRelation::MineUnborn,
        TreeRelation::Regressed(Regress::Mine) => TreeRelation::Regressed(Regress::Theirs),
        TreeRelation::Regressed(Regress::Theirs) => TreeRelation::Regressed(Regress::Mine),
        same => same,
    }
}

/// Compares a's head with b's, both ways.
pub(super) fn relation(a: &Head, b: &Head) -> TreeRelation {
    let (na, nb) = (node("a"), node("b"));
    let (a, b) = (Side { node: &na, head: a }, Side { node: &nb, head: b });
    let result = compare(a, b);
    assert_eq!(
        compare(b, a),
        mirrored(result),
        "the other side sees the mirror image"
    );
    result
}

#[test]
fn relations() {
    use TreeRelation::*;
    let a = epochs(&[("a", 1, 0)]);
    let ab = epochs(&[("a", 1, 0), ("b", 2, 100)]);
    let aa = epochs(&[("a", 1, 0), ("a", 3, 100)]);
    let aba = epochs(&[("a", 1, 0), ("b", 2, 100), ("a", 4, 200)]);
    let other = epochs(&[("b", 9, 0)]);
    let unborn = Head::default();
    let table = [
        (unborn.clone(), unborn.clone(), BothUnborn),
        (unborn.clone(), at(&a, 5), MineUnborn),
        (at(&a, 5), unborn, TheirsUnborn),
        (at(&a, 5), at(&a, 5), Equal),
        (
            at(&a, 9),
            at(&a, 5),
            Ahead {
                branch: branch(1, 5),
                past: 0,
            },
        ),
        // a wrote epoch 1 and has less of it than b: restored from a backup.
        (at(&a, 5), at(&a, 9), Regressed(Regress::Mine)),
        // The story: b took over at 100, a has 50 more.
        (
            at(&a, 150),
            at(&ab, 120),
            Behind {
                branch: branch(1, 100),
                past: 50,
            },
        ),
        (
            at(&a, 100),
            at(&ab, 101),
            Behind {
                branch: branch(1, 100),
                past: 0,
            },
        ),
        // b took over, and a was restored to before that.
        (at(&a, 50), at(&ab, 120), Regressed(Regress::Mine)),
        (
            at(&aba, 210),
            at(&ab, 230),
            Ahead {
                branch: branch(2, 200),
                past: 30,
            },
        ),
        (at(&aba, 210), at(&ab, 190), Regressed(Regress::Theirs)),
        // Both went on from 100 without the other.
        (
            at(&aa, 130),
            at(&ab, 120),
            Diverged {
                branch: branch(1, 100),
            },
        ),
        (at(&a, 5), at(&other, 5), Unrelated),
        // a began epoch 3 at 100, but b got 120 of epoch 1: a had lost what b has.
        (at(&aa, 130), at(&a, 120), Regressed(Regress::Mine)),
        (
            at(&aa, 130),
            at(&a, 100),
            Ahead {
                branch: branch(1, 100),
                past: 0,
            },
        ),
    ];
    for (mine, theirs, expected) in table {
        assert_eq!(relation(&mine, &theirs), expected, "{mine:?}\n{theirs:?}");
    }
}

#[test]
fn at_the_same_place_the_complete_copy_sends() {
    let a = epochs(&[("a", 1, 0)]);
    let partly = |state| Head { state, ..at(&a, 5) };
    let expected = TreeRelation::Ahead {
        branch: branch(1, 5),
        past: 0,
    };
    assert_eq!(
        relation(&at(&a, 5), &partly(CopyState::CatchingUp)),
        expected
    );
    assert_eq!(
        relation(&partly(CopyState::CatchingUp), &partly(CopyState::Copying)),
        expected
    );
    // A copy under way of one's own old epoch is no regress.
    let receiving = Head {
        state: CopyState::Copying,
        ..at(&a, 5)
    };
    assert!(matches!(
        relation(&receiving, &at(&a, 9)),
        TreeRelation::Behind { past: 0, .. }
    ));
}

#[test]
fn terms_and_names_decide_nothing() {
    let low = Lineage::first(EpochId(1), 1, node("a"))
        .begin(EpochId(2), 1, node("b"), 10)
        .unwrap();
    let high = Lineage::first(EpochId(1), 1, node("a"));
    // The side that heard of a high term and has less still receives (R1).
    assert!(matches!(
        relation(&at(&high, 10), &at(&low, 11)),
        TreeRelation::Behind { .. }
    ));
}

#[test]
fn an_epoch_with_two_stories_is_no_common_ground() {
    let one = epochs(&[("a", 1, 0), ("b", 2, 100)]);
    let two = epochs(&[("a", 1, 0), ("b", 2, 90)]);
    assert_eq!(
        relation(&at(&one, 120), &at(&two, 120)),
        TreeRelation::Unrelated
    );
}

#[test]
fn a_position_moves_only_by_what_arrived() {
    let source = epochs(&[("a", 1, 0), ("b", 2, 100)]);
    // Heard the new epoch, has not its data.
    let old = at(&epochs(&[("a", 1, 0)]), 150);
    let error = old.advance(&source, 160, true).unwrap_err();
    assert_eq!(
        error,
        AdvanceError::NotRewound {
            epoch: EpochId(1),
            seq: 150,
            left: 100
        }
    );
    let back = old.rewind(branch(1, 100)).unwrap();
    assert_eq!((back.seq, back.state), (100, CopyState::CatchingUp));
    assert!(matches!(
        old.rewind(branch(1, 151)),
        Err(AdvanceError::NotBehind { .. })
    ));
    assert!(matches!(
        old.rewind(branch(7, 1)),
        Err(AdvanceError::NotBehind { .. })
    ));
    let next = back.advance(&source, 110, false).unwrap();
    assert_eq!(
        (next.lineage.clone(), next.seq, next.state),
        (source.clone(), 110, CopyState::CatchingUp)
    );
    assert!(matches!(
        next.advance(&source, 109, true),
        Err(AdvanceError::Backwards { .. })
    ));
    assert_eq!(
        next.advance(&source, 110, true).unwrap().state,
        CopyState::Consistent
    );

    // A first copy passes through the old epochs; half of it is never consistent.
    let first = Head::default().advance(&source, 60, false).unwrap();
    assert_eq!(
        (first.lineage.epochs().len(), first.state),
        (1, CopyState::Copying)
    );
    assert_eq!(
        first.advance(&source, 100, false).unwrap().lineage,
        source,
        "the shared point is in both epochs"
    );
    assert_eq!(
        first.advance(&source, 130, false).unwrap().state,
        CopyState::Copying
    );
    assert_eq!(
        Head::default().advance(&Lineage::unborn(), 1, true),
        Err(AdvanceError::UnbornSource)
    );
    let foreign = at(&epochs(&[("b", 9, 0)]), 5);
    assert_eq!(
        foreign.advance(&source, 130, true),
        Err(AdvanceError::Foreign(EpochId(9)))
    );
}

#[test]
fn the_unborn_never_begin() {
    let head = Head::default();
    assert_eq!(
        head.begin(EpochId(1), 1, node("a")),
        Err(LineageError::Unborn)
    );
    let born = head.init(EpochId(1), 1, node("a"), 7).unwrap();
    assert_eq!((born.seq, born.state), (7, CopyState::Consistent));
    assert_eq!(
        born.init(EpochId(2), 1, node("a"), 7),
        Err(LineageError::Born)
    );
    assert_eq!(
        born.begin(EpochId(1), 1, node("a")),
        Err(LineageError::Twice(EpochId(1)))
    );
    assert_eq!(first_source(false, true), Some(Direction::Ahead));
    assert_eq!(first_source(true, false), Some(Direction::Behind));
    assert_eq!(
        (first_source(true, true), first_source(false, false)),
        (None, None)
    );
}

#[test]
fn what_a_peer_may_show_less_of() {
    let a = epochs(&[("a", 1, 0)]);
    let ab = epochs(&[("a", 1, 0), ("b", 2, 100)]);
    let aa = epochs(&[("a", 1, 0), ("a", 3, 80)]);
    let n = node("a");
    let under_way = |head: Head| Head {
        state: CopyState::CatchingUp,
        ..head
    };
    // remembered of a, shown by a, regressed
    let table = [
        (at(&a, 100), at(&a, 100), false),
        (at(&a, 100), at(&a, 120), false),
        (at(&a, 100), at(&a, 99), true),
        (at(&a, 150), at(&ab, 120), false), // gave up 101..150 for b's epoch
        (at(&a, 150), under_way(at(&a, 100)), false), // is giving it up
        (at(&ab, 120), at(&ab, 110), true),
        (at(&ab, 120), at(&a, 100), true), // an older backup
        (at(&a, 100), at(&aa, 90), true),  // restored to 80, then went on by itself
        (at(&a, 80), at(&aa, 90), false),
        (at(&a, 100), Head::default(), false), // a new disk
        (Head::default(), at(&a, 1), false),
        (at(&a, 100), at(&epochs(&[("a", 9, 0)]), 5), false), // people began anew; the comparison refuses it
    ];
    for (remembered, shown, expected) in table {
        assert_eq!(
            regressed(&n, &remembered, &shown),
            expected,
            "{remembered:?}\n{shown:?}"
        );
    }
}
