//! R6: who the peer is, by what it shows.

use super::puppet::{OWN, Puppet};
use crate::heartbeat::{Body, Grant, Incarnation, TreeHead};
use crate::input::Input;
use crate::role::Phase;
use crate::view::PeerIdentity;

fn head(epoch: [u8; 16]) -> TreeHead {
    TreeHead {
        tree: [7; 4],
        epoch,
        state: 0,
    }
}

/// A peer that has shown term 5, and then shows term 1.
fn shows_less(change: impl FnOnce(&mut Body)) -> Puppet {
    let mut p = Puppet::new(true);
    p.hear(Phase::Standby, 5, |b| b.heads = vec![head([1; 16])]);
    p.hear(Phase::Standby, 1, change);
    p
}

fn identity(p: &Puppet) -> PeerIdentity {
    p.machine.view(p.now).trouble.identity
}

#[test]
fn less_with_data_is_regressed_and_less_without_any_begins_anew() {
    let with_data = shows_less(|b| b.heads = vec![head([1; 16])]);
    assert_eq!(identity(&with_data), PeerIdentity::Regressed);
    let partly = shows_less(|b| {
        b.born = false;
        b.heads = vec![head([0; 16]), head([1; 16])];
    });
    assert_eq!(identity(&partly), PeerIdentity::Regressed);
    let empty = |b: &mut Body| {
        b.born = false;
        b.heads = vec![head([0; 16])];
    };
    let mut blank = shows_less(empty);
    assert_eq!(identity(&blank), PeerIdentity::Same);
    assert_eq!(
        blank.machine.durable.peer.map(|memory| memory.term),
        Some(1)
    );
    // What it shows from then on counts: with data of its own it grew since.
    blank.hear(Phase::Standby, 2, |b| b.heads = vec![head([2; 16])]);
    assert_eq!(identity(&blank), PeerIdentity::Same);
    blank.hear(Phase::Standby, 1, |b| b.heads = vec![head([2; 16])]);
    assert_eq!(identity(&blank), PeerIdentity::Regressed);
}

#[test]
fn a_peer_that_has_not_said_what_data_it_has_is_not_judged_yet() {
    let mut p = shows_less(|b| {
        b.born = false;
        b.epochs_digest = 0;
    });
    assert_eq!(identity(&p), PeerIdentity::Same);
    assert_eq!(p.machine.durable.peer.map(|memory| memory.term), Some(5));
    p.hear(Phase::Standby, 1, |b| b.heads = vec![head([1; 16])]);
    assert_eq!(identity(&p), PeerIdentity::Regressed);
}

#[test]
fn the_own_key_counts_from_elsewhere_but_not_from_recordings() {
    let mut p = Puppet::new(true);
    let from = |counter| Input::OwnKeyElsewhere {
        incarnation: Incarnation {
            counter,
            nonce: [9; 16],
        },
    };
    p.feed(from(0));
    assert!(!p.machine.view(p.now).trouble.own_key_elsewhere);
    // As the link reports it: the connection itself is the proof.
    p.feed(from(u64::MAX));
    assert!(p.machine.view(p.now).trouble.own_key_elsewhere);
}

/// A compromised peer shows the highest term that there is: this node still has terms of its own left.
#[test]
fn a_term_that_leaps_leaves_room_to_count_on() {
    let mut p = Puppet::new(false);
    for _ in 0..3 {
        p.hear(Phase::Standby, u64::MAX, |b| {
            b.term_seen = u64::MAX;
            b.grant = Some(Grant {
                to: OWN.nonce,
                term: u64::MAX,
            });
        });
    }
    assert!(p.machine.highest_term() < 1 << 40);
    assert!(p.machine.term() < 1 << 40);
}
