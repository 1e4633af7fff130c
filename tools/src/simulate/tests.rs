//! Histories by the hundred, and that the oracle sees broken rules.

use super::command::{play_all, story};
use super::{Mutation, play};

/// Bounded to about 20 s without optimisation; `cargo simulate` plays more.
const SEEDS: u64 = 2000;

#[test]
fn every_promise_holds_and_every_class_is_reached() {
    let totals = play_all(0, SEEDS);
    if let Some(seed) = totals.failed.first() {
        let world = play(*seed, None);
        panic!("{:?} failed\n{}", totals.failed, story(&world));
    }
    let missed = totals.reach.missed();
    assert!(missed.is_empty(), "never reached: {missed:?}");
}

#[test]
fn a_seed_is_replayable() {
    for seed in [3, 19] {
        assert_eq!(story(&play(seed, None)), story(&play(seed, None)));
    }
}

/// Whether one of the first seeds shows the broken promise under a mutation.
fn assert_caught(mutation: Mutation, promise: &str) {
    let broken = |seed| play(seed, Some(mutation)).violation;
    let shows = |what: &String| what.contains(promise);
    assert!((0..600).filter_map(broken).any(|what| shows(&what)));
}

#[test]
fn a_lying_relation_is_caught() {
    assert_caught(Mutation::LyingRelation, "no pair");
}

#[test]
fn a_role_token_that_is_not_revoked_is_caught() {
    assert_caught(Mutation::TokenKept, "applies while it acts as master");
}

#[test]
fn an_overwritten_unreplicated_write_is_caught() {
    assert_caught(Mutation::NoRescue, "confirmed writes are lost");
}

#[test]
fn a_node_that_does_not_listen_is_caught() {
    assert_caught(Mutation::DeafToPeer, "no pair");
}

#[test]
fn a_half_copy_that_is_promoted_is_caught() {
    assert_caught(Mutation::LyingConsistency, "takes over by itself");
}
