//! Cut cables, one-way loss and two masters in contact.

use super::histories::{pair, settle, told};
use super::world::{MS, SECOND, World};
use crate::effect::NoticeKind;
use crate::input::Command;
use crate::role::Phase;

#[test]
fn private_link_cut_for_long_then_the_host_dies() {
    let mut world = pair(6);
    // Data and one heartbeat link are gone; the public link carries heartbeats.
    world.link[0][0] = false;
    world.link[1][0] = false;
    world.run(90 * SECOND);
    assert!(world.serves(0) && !world.serves(1));
    assert!(!world.eligible(1), "stale after max_stale");
    assert!(
        told(&world, 1, NoticeKind::Ineligible),
        "the alarm came before it was needed"
    );
    world.power_cut(0);
    world.run(30 * SECOND);
    assert_eq!(
        world.phase(1),
        Some(Phase::Standby),
        "stale data is not promoted"
    );
    assert!(told(&world, 1, NoticeKind::Refused));
    world.command(1, Command::ForceTakeover);
    assert!(
        world.run_until(10 * SECOND, |w| w.phase(1) == Some(Phase::Master)),
        "{}",
        world.story()
    );
}

#[test]
fn only_the_private_cable_is_cut() {
    let mut world = pair(8);
    world.link[0][0] = false;
    world.link[1][0] = false;
    world.run(20 * SECOND);
    assert!(world.serves(0) && !world.serves(1));
    world.link = [[true; 2]; 2];
    settle(&mut world);
    assert!(world.is_pair(0));
}

#[test]
fn both_heartbeat_links_cut_but_the_service_answers() {
    let mut world = pair(8);
    world.link = [[false; 2]; 2];
    world.run(200 * SECOND);
    assert!(world.serves(0) && !world.serves(1), "{}", world.story());
    world.link = [[true; 2]; 2];
    settle(&mut world);
    assert!(world.is_pair(0));
    assert_eq!(world.overlap, 0);
}

#[test]
fn one_way_loss_never_moves() {
    for from in 0..2 {
        let mut world = pair(9);
        world.link[from] = [false; 2];
        world.run(20 * SECOND);
        assert!(world.serves(0) && !world.serves(1), "{}", world.story());
        world.link = [[true; 2]; 2];
        settle(&mut world);
        assert!(world.is_pair(0));
    }
}

#[test]
fn the_masters_public_cable_is_cut_and_it_hands_over() {
    let mut world = pair(10);
    world.nodes[0].public = false;
    assert!(
        world.run_until(10 * SECOND, |w| w.phase(1) == Some(Phase::Master)),
        "{}",
        world.story()
    );
    world.run(5 * SECOND);
    assert_eq!(world.phase(0), Some(Phase::Standby));
    world.nodes[0].public = true;
    settle(&mut world);
    assert!(world.is_pair(1), "no automatic way back");
    assert_eq!(world.overlap, 0);
}

#[test]
fn the_standbys_public_cable_is_cut_and_nothing_moves() {
    let mut world = pair(11);
    world.nodes[1].public = false;
    world.run(20 * SECOND);
    assert!(world.serves(0) && !world.serves(1));
    assert!(!world.eligible(1));
    assert!(told(&world, 1, NoticeKind::Ineligible));
    // Now the master's too: nobody is better.
    world.nodes[0].public = false;
    world.run(20 * SECOND);
    assert_eq!(world.phase(0), Some(Phase::Master));
    assert!(told(&world, 0, NoticeKind::Refused));
}

/// Each node may be the preferred one in its own file, or neither: both have used the same term on their sides of a cut.
#[test]
fn two_masters_of_one_term_are_one_after_contact_whoever_is_preferred() {
    for preferred in [[true, true], [false, false], [true, false], [false, true]] {
        let mut world = World::new(28);
        world.link = [[false; 2]; 2];
        for (node, preferred) in preferred.into_iter().enumerate() {
            world.nodes[node].public = false;
            world.policy[node].preferred = preferred;
            world.boot(node);
        }
        world.run(SECOND);
        for node in 0..2 {
            world.command(node, Command::ForceTakeover);
        }
        world.run(5 * SECOND);
        let masters = [0, 1].map(|n| world.phase(n) == Some(Phase::Master));
        assert_eq!(masters, [true; 2], "{}", world.story());
        assert_eq!(world.term(0), world.term(1));
        for node in &mut world.nodes {
            node.public = true;
        }
        world.link = [[true; 2]; 2];
        settle(&mut world);
        assert!(world.is_pair(1), "{preferred:?}\n{}", world.story());
    }
}

#[test]
fn two_masters_in_contact_end_within_a_heartbeat() {
    let mut world = pair(17);
    world.link = [[false; 2]; 2];
    world.nodes[0].public = false;
    // Both cut off from each other: the standby takes over, the old master knows nothing.
    assert!(
        world.run_until(10 * SECOND, |w| w.phase(1) == Some(Phase::Master)),
        "{}",
        world.story()
    );
    world.run(5 * SECOND);
    assert_eq!(world.phase(0), Some(Phase::Master));
    world.overlap = 0;
    world.nodes[0].public = true;
    world.link = [[true; 2]; 2];
    settle(&mut world);
    assert!(world.is_pair(1), "{}", world.story());
    assert!(world.overlap <= 210 * MS, "{} ms", world.overlap / MS);
}
