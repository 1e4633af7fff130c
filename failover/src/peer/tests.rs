use super::*;
use crate::heartbeat::Echo;
use proptest::prelude::*;

const ME: Incarnation = Incarnation {
    counter: 5,
    nonce: [5; 16],
};
const PEER: Incarnation = Incarnation {
    counter: 7,
    nonce: [7; 16],
};

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

fn beat(from: Incarnation, counter: u64, link: u8, echoes: Option<Incarnation>) -> Heartbeat {
    let echo = echoes.map(|incarnation| Echo {
        incarnation,
        on_link: Some((1, 0)),
        overall: Some(0),
    });
    Heartbeat {
        incarnation: from,
        counter,
        link,
        echo,
        body: Body::of_standby(counter),
    }
}

fn known() -> Peer {
    let mut peer = Peer::new(ME, 2);
    peer.next_beat(at(0));
    assert_eq!(
        peer.hear(at(1), 0, &beat(PEER, 10, 0, Some(ME))),
        Heard::NewLife
    );
    peer
}

#[test]
fn a_life_counts_only_once_it_echoes_my_nonce() {
    let mut peer = Peer::new(ME, 2);
    assert_eq!(
        peer.hear(at(1), 0, &beat(PEER, 1, 0, None)),
        Heard::Unproven
    );
    let other = Incarnation {
        counter: 5,
        nonce: [6; 16],
    };
    assert_eq!(
        peer.hear(at(2), 0, &beat(PEER, 2, 0, Some(other))),
        Heard::Unproven
    );
    assert!(peer.body().is_none() && peer.heard().is_none());
    let echo = peer.echo(at(3), 0).expect("it is answered");
    assert_eq!((echo.incarnation, echo.overall), (PEER, None));
    assert_eq!(
        peer.hear(at(4), 0, &beat(PEER, 3, 0, Some(ME))),
        Heard::NewLife
    );
    assert_eq!(peer.heard(), Some(at(4)));
}

#[test]
fn repetitions_and_reordered_ones_do_not_count() {
    let mut peer = known();
    assert_eq!(
        peer.hear(at(2), 0, &beat(PEER, 12, 0, Some(ME))),
        Heard::News
    );
    assert_eq!(
        peer.hear(at(3), 0, &beat(PEER, 12, 0, Some(ME))),
        Heard::Stale
    );
    assert_eq!(
        peer.hear(at(4), 0, &beat(PEER, 11, 0, Some(ME))),
        Heard::Stale
    );
    assert_eq!(peer.heard(), Some(at(2)));
    assert_eq!(peer.body().map(|b| b.term), Some(12));
}

#[test]
fn a_slow_link_gives_signs_of_life_and_no_old_news() {
    let mut peer = known();
    assert_eq!(
        peer.hear(at(2), 0, &beat(PEER, 12, 0, Some(ME))),
        Heard::News
    );
    assert_eq!(
        peer.hear(at(9), 1, &beat(PEER, 11, 1, Some(ME))),
        Heard::Sign
    );
    assert_eq!(peer.heard(), Some(at(9)));
    assert_eq!(peer.body().map(|b| b.term), Some(12));
}

#[test]
fn a_datagram_moved_to_another_link_is_ignored() {
    let mut peer = known();
    assert_eq!(
        peer.hear(at(2), 1, &beat(PEER, 12, 0, Some(ME))),
        Heard::Stale
    );
    assert_eq!(
        peer.hear(at(2), 9, &beat(PEER, 12, 9, Some(ME))),
        Heard::Stale
    );
}

#[test]
fn recordings_of_a_former_life_never_come_back() {
    let mut peer = known();
    peer.next_beat(at(2));
    let new = Incarnation {
        counter: 8,
        nonce: [8; 16],
    };
    assert_eq!(
        peer.hear(at(3), 0, &beat(new, 1, 0, Some(ME))),
        Heard::NewLife
    );
    // Recorded before, with the echo of a beat before the change.
    assert_eq!(
        peer.hear(at(4), 0, &beat(PEER, 99, 0, Some(ME))),
        Heard::Stale
    );
    assert_eq!(peer.incarnation(), Some(new));
}

#[test]
fn a_former_life_that_echoes_a_later_beat_is_a_clone() {
    let mut peer = known();
    let new = Incarnation {
        counter: 8,
        nonce: [8; 16],
    };
    assert_eq!(
        peer.hear(at(3), 0, &beat(new, 1, 0, Some(ME))),
        Heard::NewLife
    );
    let later = peer.next_beat(at(4));
    let mut alive = beat(PEER, 99, 0, Some(ME));
    alive.echo = Some(Echo {
        incarnation: ME,
        on_link: Some((later, 0)),
        overall: Some(0),
    });
    assert_eq!(peer.hear(at(5), 0, &alive), Heard::Cloned);
    // A beat that was never sent proves nothing.
    alive.echo = Some(Echo {
        incarnation: ME,
        on_link: Some((later + 1, 0)),
        overall: Some(0),
    });
    assert_eq!(peer.hear(at(6), 0, &alive), Heard::Stale);
}

#[test]
fn a_late_life_that_was_never_seen_does_not_come_back_and_a_rolled_back_one_does() {
    let mut peer = known();
    let older = Incarnation {
        counter: 6,
        nonce: [6; 16],
    };
    let mut late = beat(older, 50, 0, Some(ME));
    assert_eq!(
        peer.hear(at(2), 0, &late),
        Heard::Stale,
        "it heard nothing since"
    );
    let now = peer.next_beat(at(3));
    late.echo = Some(Echo {
        incarnation: ME,
        on_link: Some((now, 0)),
        overall: None,
    });
    assert_eq!(
        peer.hear(at(4), 0, &late),
        Heard::NewLife,
        "it is alive: R6 looks at it"
    );
}

#[test]
fn unproven_strangers_do_not_take_the_answers_of_the_living() {
    let mut peer = known();
    let stranger = Incarnation {
        counter: 99,
        nonce: [9; 16],
    };
    assert_eq!(
        peer.hear(at(100), 0, &beat(stranger, 1, 0, None)),
        Heard::Unproven
    );
    assert_eq!(peer.echo(at(101), 0).map(|e| e.incarnation), Some(PEER));
    // The known life has fallen silent: the new one is answered, so that it can prove itself.
    assert_eq!(
        peer.hear(at(500), 0, &beat(stranger, 2, 0, None)),
        Heard::Unproven
    );
    assert_eq!(peer.echo(at(501), 0).map(|e| e.incarnation), Some(stranger));
}

#[test]
fn round_trip_loss_and_one_way_are_measured() {
    let mut peer = Peer::new(ME, 1);
    let sent = peer.next_beat(at(1000));
    let mut heartbeat = beat(PEER, 1, 0, None);
    heartbeat.echo = Some(Echo {
        incarnation: ME,
        on_link: Some((sent, 5_000)),
        overall: Some(5),
    });
    peer.hear(at(1010), 0, &heartbeat);
    assert_eq!(peer.links()[0].rtt, Some(Duration::from_millis(5)));
    assert_eq!(peer.hears_me(), Some(at(1005)));
    assert_eq!(peer.acknowledged(), sent);
    assert_eq!(peer.links()[0].loss_per_mille(), 0);
    // 2 and 3 are lost, 4 comes.
    peer.hear(at(1020), 0, &beat(PEER, 4, 0, Some(ME)));
    assert_eq!(peer.links()[0].loss_per_mille(), 500);
    // 3 was only late.
    peer.hear(at(1030), 0, &beat(PEER, 3, 0, Some(ME)));
    assert_eq!(peer.links()[0].loss_per_mille(), 250);
    peer.hear(at(1040), 0, &beat(PEER, 500, 0, Some(ME)));
    assert_eq!(peer.links()[0].loss_per_mille(), 984);
}

#[test]
fn less_than_before_is_a_regression() {
    let memory = remember(PEER, &Body::of_standby(4));
    let same = |change: fn(&mut Body), incarnation: Incarnation| {
        let mut shown = Body::of_standby(4);
        change(&mut shown);
        regressed(&memory, incarnation, &shown)
    };
    assert!(!same(|_| {}, PEER));
    assert!(!same(
        |b| b.term_seen = 5,
        Incarnation {
            counter: 8,
            nonce: [1; 16]
        }
    ));
    assert!(
        same(
            |_| {},
            Incarnation {
                counter: 6,
                nonce: [1; 16]
            }
        ),
        "an older life"
    );
    assert!(
        same(
            |_| {},
            Incarnation {
                counter: 7,
                nonce: [1; 16]
            }
        ),
        "the same life twice"
    );
    assert!(same(|b| b.term_seen = 3, PEER), "an older term");
    assert!(same(|b| b.seq = 9, PEER), "older data of the same head");
    assert!(
        !same(|b| (b.seq, b.epochs_digest) = (9, 2), PEER),
        "another head says nothing"
    );
    assert!(same(|b| b.machine.machine = 9, PEER), "another machine");
    assert!(
        same(|b| b.machine.root = 9, PEER),
        "another root file system"
    );
    assert!(!same(|b| b.machine.boot = 9, PEER), "a reboot");
}

proptest! {
    /// Whatever an attacker repeats, drops and reorders of what was sent in one life: the body is never
    /// older than before, and the time of the last sign of life never moves by a repetition.
    #[test]
    fn any_order_of_recordings(order in prop::collection::vec((0_u64..40, 0_u8..2), 1..200)) {
        let mut peer = known();
        let mut counted = [0_u64; 2];
        for (step, (counter, link)) in order.into_iter().enumerate() {
            let now = at(10 + step as u64);
            let before = peer.body().map(|b| b.term);
            let heard = peer.hear(now, link, &beat(PEER, counter, link, Some(ME)));
            prop_assert!(peer.body().map(|b| b.term) >= before);
            let fresh = counter > counted[usize::from(link)].max(if link == 0 { 10 } else { 0 })
                || (link == 1 && counted[1] == 0 && counter == 0 && heard == Heard::Sign);
            prop_assert_eq!(matches!(heard, Heard::News | Heard::Sign), fresh || peer.heard() == Some(now));
            if matches!(heard, Heard::News | Heard::Sign) {
                counted[usize::from(link)] = counter;
            }
        }
    }
}
