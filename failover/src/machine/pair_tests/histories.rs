//! Death, stalls, lost state and return: the histories by name.

use super::super::evidence::Verdict;
use super::world::{MS, SECOND, World};
use crate::effect::NoticeKind;
use crate::input::Command;
use crate::role::{Phase, Reason};
use std::time::Duration;

/// Both booted; node 0 is master, node 1 could take over.
pub(super) fn pair(seed: u64) -> World {
    let mut world = World::new(seed);
    world.boot(0);
    world.boot(1);
    assert!(
        world.run_until(10 * SECOND, |w| w.is_pair(0)),
        "{}",
        world.story()
    );
    world
}

pub(super) fn settle(world: &mut World) {
    assert!(
        world.run_until(30 * SECOND, World::any_pair),
        "no pair\n{}",
        world.story()
    );
    world.assert_nothing_lost();
}

pub(super) fn reasons(world: &World, node: usize) -> Vec<Reason> {
    world.nodes[node]
        .machine
        .as_ref()
        .map(|m| m.waiting.clone())
        .unwrap_or_default()
}

pub(super) fn told(world: &World, node: usize, kind: NoticeKind) -> bool {
    world
        .notices
        .iter()
        .any(|(_, n, notice)| *n == node && notice.kind == kind)
}

#[test]
fn power_cut_of_the_master() {
    for seed in 0..50 {
        let mut world = pair(seed);
        world.power_cut(0);
        let cut = world.now;
        assert!(
            world.run_until(10 * SECOND, |w| w.serves(1)),
            "{}",
            world.story()
        );
        assert!(world.now - cut < 1100 * MS, "{} ms", (world.now - cut) / MS);
        assert!(world.run_until(10 * SECOND, |w| w.phase(1) == Some(Phase::Master)));
        assert_eq!(world.term(1), 2);
        world.run(5 * SECOND);
        world.boot(0);
        settle(&mut world);
        assert!(
            world.is_pair(1),
            "the returned node follows\n{}",
            world.story()
        );
        assert_eq!(world.overlap, 0);
    }
}

#[test]
fn a_dead_standby_changes_nothing() {
    let mut world = pair(4);
    world.power_cut(1);
    world.run(30 * SECOND);
    assert_eq!((world.phase(0), world.term(0)), (Some(Phase::Master), 1));
    assert!(world.serves(0));
    world.boot(1);
    settle(&mut world);
    assert!(world.is_pair(0));
}

#[test]
fn agent_dead_and_service_alive_moves_nothing_and_a_stale_standby_is_not_promoted_later() {
    let mut world = pair(5);
    // Without the guardian: the addresses stay though the agent is gone.
    world.policy[0].address_lifetime = Duration::from_secs(3600);
    world.kill_agent(0);
    world.run(10 * SECOND);
    assert_eq!(
        world.verdict(1),
        Some(Verdict::AgentSilent),
        "{}",
        world.story()
    );
    assert_eq!(world.phase(1), Some(Phase::Standby));
    assert!(told(&world, 1, NoticeKind::Peer));
    assert!(world.eligible(1), "not stale yet");
    world.run(90 * SECOND);
    assert!(told(&world, 1, NoticeKind::Ineligible), "{}", world.story());
    world.power_cut(0);
    world.run(60 * SECOND);
    assert_eq!(world.phase(1), Some(Phase::Standby), "{}", world.story());
    assert!(told(&world, 1, NoticeKind::Refused));
}

#[test]
fn kill_of_agent_and_service_is_a_hung_host() {
    let mut world = pair(7);
    world.kill_agent(0);
    world.nodes[0].services = false;
    assert!(
        world.run_until(10 * SECOND, |w| w.phase(1) == Some(Phase::Master)),
        "{}",
        world.story()
    );
    // The old kernel still answers for the address: announced again while it does.
    assert!(
        told(&world, 1, NoticeKind::Takeover)
            || world.run_until(SECOND, |w| told(w, 1, NoticeKind::Takeover))
    );
    world.run(3 * SECOND);
    assert!(
        told(&world, 1, NoticeKind::AddressConflict),
        "{}",
        world.story()
    );
    assert_eq!(world.arp_owner, Some(1));
    world.start_agent(0);
    settle(&mut world);
    assert!(world.is_pair(1));
}

#[test]
fn a_restarted_agent_goes_on_as_master() {
    for seed in 0..30 {
        let mut world = pair(seed);
        world.kill_agent(0);
        world.run(300 * MS);
        world.start_agent(0);
        assert!(
            world.run_until(10 * SECOND, |w| w.is_pair(0)),
            "{}",
            world.story()
        );
        assert_ne!(world.phase(1), Some(Phase::Master));
        assert!(world.serves(0), "the leftover addresses stayed");
        world.assert_nothing_lost();
    }
}

#[test]
fn the_service_alone_dies_and_the_master_hands_over_once() {
    let mut world = pair(12);
    world.nodes[0].service_broken = true;
    assert!(
        world.run_until(10 * SECOND, |w| w.is_pair(1)),
        "{}",
        world.story()
    );
    // It breaks on the other side too: no ping-pong within the settling time.
    world.nodes[1].service_broken = true;
    world.run(30 * SECOND);
    assert_eq!(world.phase(1), Some(Phase::Master));
}

#[test]
fn double_failover() {
    for seed in 0..20 {
        let mut world = pair(seed);
        world.power_cut(0);
        assert!(world.run_until(5 * SECOND, |w| w.phase(1) == Some(Phase::Master)));
        world.run(2 * SECOND);
        world.boot(0);
        assert!(
            world.run_until(20 * SECOND, |w| w.is_pair(1)),
            "{}",
            world.story()
        );
        world.power_cut(1);
        assert!(
            world.run_until(5 * SECOND, |w| w.phase(0) == Some(Phase::Master)),
            "{}",
            world.story()
        );
        world.run(2 * SECOND);
        world.boot(1);
        settle(&mut world);
        assert!(world.is_pair(0));
        assert_eq!(world.term(0), 3);
    }
}

#[test]
fn a_lost_state_directory_is_noticed_and_accepted_by_hand() {
    let mut world = pair(21);
    world.run(2 * SECOND);
    world.power_cut(1);
    world.nodes[1].disk = crate::slots::Durable::new(crate::heartbeat::PairId([1; 16]));
    world.boot(1);
    world.run(20 * SECOND);
    assert!(
        told(&world, 0, NoticeKind::PeerIdentity),
        "{}",
        world.story()
    );
    assert!(world.serves(0));
    assert!(!world.eligible(1));
    world.command(0, Command::AcceptPeer);
    settle(&mut world);
}

#[test]
fn a_paused_standby_does_not_take_its_pause_for_the_masters_death() {
    let mut world = pair(22);
    world.nodes[1].paused = true;
    world.run(30 * SECOND);
    world.resume(1);
    world.run(20 * SECOND);
    assert_eq!(world.term(0), 1, "{}", world.story());
    assert!(world.is_pair(0));
}

#[test]
fn a_paused_master_asks_before_it_acts() {
    for links in [true, false] {
        let mut world = pair(23);
        world.nodes[0].paused = true;
        // A paused machine answers nothing at all.
        world.nodes[0].host_up = false;
        assert!(
            world.run_until(10 * SECOND, |w| w.phase(1) == Some(Phase::Master)),
            "{}",
            world.story()
        );
        world.run(5 * SECOND);
        world.link = [[links; 2]; 2];
        world.overlap = 0;
        world.nodes[0].host_up = true;
        world.resume(0);
        let unfenced = world.run_until(5 * SECOND, |w| w.serves(0));
        assert!(
            !unfenced,
            "it never answers again before it knows\n{}",
            world.story()
        );
        assert_ne!(world.phase(0), Some(Phase::Master));
        assert_eq!(world.overlap, 0);
        world.link = [[true; 2]; 2];
        settle(&mut world);
        assert!(world.is_pair(1));
    }
}

#[test]
fn maintenance_stops_automatic_moves_until_its_time_is_over() {
    let mut world = pair(24);
    world.command(1, Command::MaintenanceOn(Some(Duration::from_secs(30))));
    world.run(SECOND);
    world.power_cut(0);
    world.run(10 * SECOND);
    assert_eq!(world.phase(1), Some(Phase::Standby));
    assert!(told(&world, 1, NoticeKind::Refused));
    assert!(
        world.run_until(30 * SECOND, |w| w.phase(1) == Some(Phase::Master)),
        "{}",
        world.story()
    );
}

/// The time limit is the dead master's: nobody can switch it off there.
#[test]
fn maintenance_of_a_master_that_dies_in_it_ends_with_its_time() {
    let mut world = pair(27);
    world.command(0, Command::MaintenanceOn(Some(Duration::from_secs(30))));
    world.run(SECOND);
    world.power_cut(0);
    world.run(10 * SECOND);
    assert_eq!(world.phase(1), Some(Phase::Standby));
    assert!(
        world.run_until(30 * SECOND, |w| w.phase(1) == Some(Phase::Master)),
        "{}",
        world.story()
    );
}

#[test]
fn a_half_copied_standby_is_not_promoted() {
    let mut world = pair(25);
    world.link[0][0] = false;
    world.link[1][0] = false;
    world.nodes[1].data.consistent = false;
    world.run(2 * SECOND);
    world.power_cut(0);
    world.run(30 * SECOND);
    assert_eq!(world.phase(1), Some(Phase::Standby));
    assert!(told(&world, 1, NoticeKind::Refused));
}

#[test]
fn a_takeover_ends_a_hold() {
    let mut world = pair(26);
    world.nodes[1].hold = true;
    world.feed(1, crate::input::Input::Hold { active: true });
    world.run(SECOND);
    world.command(0, Command::Switchover);
    assert!(
        matches!(world.answers.last(), Some((_, Err(_)))),
        "a hold stops a planned move"
    );
    world.power_cut(0);
    assert!(
        world.run_until(10 * SECOND, |w| w.phase(1) == Some(Phase::Master)),
        "{}",
        world.story()
    );
    assert!(!world.nodes[1].hold);
}
