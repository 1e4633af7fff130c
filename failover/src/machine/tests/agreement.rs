//! Both sides of the boot agreement compute from mirrored facts: never do both claim.

use super::super::agreement::{Own, Verdict, verdict};
use super::puppet::Puppet;
use crate::heartbeat::Body;
use crate::input::{DataFacts, Input, Relation};
use crate::role::{Phase, Reason};

const RELATIONS: [(Relation, Relation); 11] = [
    (Relation::Unknown, Relation::Unknown),
    (Relation::Equal, Relation::Equal),
    (Relation::Ahead, Relation::Behind),
    (Relation::Behind, Relation::Ahead),
    (Relation::Diverged, Relation::Diverged),
    (Relation::Unrelated, Relation::Unrelated),
    (Relation::BothUnborn, Relation::BothUnborn),
    (
        Relation::BothUnbornMineFilled,
        Relation::BothUnbornPeersFilled,
    ),
    (
        Relation::BothUnbornPeersFilled,
        Relation::BothUnbornMineFilled,
    ),
    (Relation::Ahead, Relation::Unknown),
    (Relation::Unknown, Relation::Ahead),
];

#[derive(Clone, Copy)]
struct Side {
    follows: bool,
    was_master: bool,
    term: u64,
    seq: u64,
    able: bool,
    ceded: bool,
    preferred: bool,
}

fn facts(side: Side, relation: Relation) -> DataFacts {
    DataFacts {
        born: true,
        consistent: side.able,
        relation,
        epochs_digest: 1,
        seq: side.seq,
        ..DataFacts::default()
    }
}

fn body(side: Side) -> Body {
    let phase = if side.follows {
        Phase::Standby
    } else {
        Phase::Joining
    };
    let Input::Heartbeat { heartbeat, .. } =
        Puppet::new(false).heartbeat(phase, side.term, |body| {
            body.was_master = side.was_master;
            body.seq = side.seq;
            body.preferred = side.preferred;
            body.against = (!side.able).then_some(Reason::NotConsistent);
        })
    else {
        unreachable!("a heartbeat is one")
    };
    heartbeat.body
}

fn decide(side: Side, wins_tie: bool, relation: Relation, peer: &Body) -> Verdict {
    let facts = facts(side, relation);
    let own = Own {
        preferred: side.preferred,
        wins_tie,
        was_master: side.was_master,
        term: side.term,
        follows: side.follows,
        ceded: side.ceded,
        network: true,
        granted: false,
        facts: Some(&facts),
    };
    verdict(&own, peer)
}

fn sides() -> Vec<Side> {
    let mut sides = Vec::new();
    for bits in 0..128_u8 {
        let bit = |n: u8| bits & (1 << n) != 0;
        sides.push(Side {
            follows: bit(0),
            was_master: bit(1) && !bit(0),
            term: 3 + u64::from(bit(2)),
            seq: 10 + u64::from(bit(3)),
            able: bit(4),
            ceded: bit(5) && !bit(0),
            preferred: bit(6),
        });
    }
    sides
}

#[test]
fn two_sides_never_both_claim() {
    let mut claims = 0;
    for a in sides() {
        let shown_by_a = body(a);
        for b in sides() {
            let shown_by_b = body(b);
            for (mine, theirs) in RELATIONS {
                let first = decide(a, true, mine, &shown_by_b);
                let second = decide(b, false, theirs, &shown_by_a);
                let both = first == Verdict::Claim && second == Verdict::Claim;
                // Two that both believe to be the last master contradict each other in facts that cannot
                // both be true; without a grant neither acts.
                let impossible = a.was_master && b.was_master;
                assert!(!both || impossible || a.follows != b.follows, "{mine:?}");
                claims += u32::from(first == Verdict::Claim);
            }
        }
    }
    assert!(claims > 100);
}

#[test]
fn unborn_and_half_copied_data_never_claim() {
    let side = Side {
        follows: false,
        was_master: true,
        term: 9,
        seq: 99,
        able: false,
        ceded: false,
        preferred: true,
    };
    let peer = body(Side {
        follows: true,
        was_master: false,
        term: 1,
        seq: 1,
        able: true,
        ceded: false,
        preferred: false,
    });
    for (relation, _) in RELATIONS {
        assert_ne!(
            decide(side, true, relation, &peer),
            Verdict::Claim,
            "{relation:?}"
        );
    }
}

/// A takeover that ended before its epoch was durable leaves equal data. What its clients wrote is on its disk alone.
#[test]
fn between_equal_data_the_last_master_claims_and_else_the_preferred_one() {
    let side = |was_master, term| Side {
        follows: false,
        was_master,
        term,
        seq: 10,
        able: true,
        ceded: false,
        preferred: false,
    };
    for (mine, theirs, claims) in [
        (side(true, 1), side(true, 2), [false, false]),
        (side(true, 2), side(true, 1), [true, true]),
        (side(true, 1), side(false, 1), [true, true]),
        (side(false, 1), side(true, 1), [false, false]),
        (side(false, 2), side(false, 1), [true, false]),
        (side(true, 2), side(true, 2), [true, false]),
    ] {
        let got = [true, false].map(|preferred| {
            let mine = Side { preferred, ..mine };
            let theirs = Side {
                preferred: !preferred,
                ..theirs
            };
            decide(mine, !preferred, Relation::Equal, &body(theirs)) == Verdict::Claim
        });
        assert_eq!(got, claims);
    }
}

/// The two configurations may name different nodes: then exactly one claims, and not none for ever.
#[test]
fn whatever_the_two_say_of_being_preferred_one_claims_and_one_grants() {
    for bits in 0..8_u8 {
        let [a, b, first_wins] = [1, 2, 4].map(|bit| bits & bit != 0);
        let side = |preferred| Side {
            follows: false,
            was_master: false,
            term: 1,
            seq: 10,
            able: true,
            ceded: false,
            preferred,
        };
        let first = decide(side(a), first_wins, Relation::Equal, &body(side(b)));
        let second = decide(side(b), !first_wins, Relation::Equal, &body(side(a)));
        let claims = if a == b { first_wins } else { a };
        let expected = match claims {
            true => (Verdict::Claim, Verdict::Grant),
            false => (Verdict::Grant, Verdict::Claim),
        };
        assert_eq!((first, second), expected, "{a} {b}");
    }
}
