//! Boot, death, return: the histories by name.

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

fn settle(world: &mut World) {
    assert!(
        world.run_until(30 * SECOND, World::any_pair),
        "no pair\n{}",
        world.story()
    );
    world.assert_nothing_lost();
}

fn reasons(world: &World, node: usize) -> Vec<Reason> {
    world.nodes[node]
        .machine
        .as_ref()
        .map(|m| m.waiting.clone())
        .unwrap_or_default()
}

fn told(world: &World, node: usize, kind: NoticeKind) -> bool {
    world
        .notices
        .iter()
        .any(|(_, n, notice)| *n == node && notice.kind == kind)
}

#[test]
fn both_boot_at_once_and_the_preferred_one_serves() {
    for seed in 0..50 {
        let world = pair(seed);
        assert_eq!(world.overlap, 0);
        assert_eq!(world.term(0), 1);
    }
}

#[test]
fn the_node_with_newer_data_serves_though_the_other_is_preferred() {
    let mut world = World::new(1);
    world.nodes[1].data.log.push(4);
    world.boot(0);
    world.boot(1);
    assert!(
        world.run_until(10 * SECOND, |w| w.is_pair(1)),
        "{}",
        world.story()
    );
    assert!(world.nodes[0].data.log.contains(&4));
}

#[test]
fn one_boots_alone_and_says_why_it_stays_joining() {
    let mut world = World::new(2);
    world.boot(1);
    world.run(300 * SECOND);
    assert_eq!(world.phase(1), Some(Phase::Joining));
    assert_eq!(reasons(&world, 1), vec![Reason::PeerSilent]);
    world.boot(0);
    settle(&mut world);
}

#[test]
fn boot_alone_overrides_unless_somebody_uses_the_address() {
    let mut world = World::new(3);
    world.policy[1].boot_alone = true;
    world.nodes[0].host_up = true;
    world.nodes[0].addresses = true;
    world.boot(1);
    world.run(60 * SECOND);
    assert_eq!(world.phase(1), Some(Phase::Joining));
    let asked = |w: &World| {
        let in_use = Reason::AddressInUse.to_string();
        w.decisions.iter().any(|(_, _, d)| d.why == in_use)
    };
    assert!(asked(&world), "{}", world.story());
    world.nodes[0].addresses = false;
    assert!(
        world.run_until(60 * SECOND, |w| w.phase(1) == Some(Phase::Master)),
        "{}",
        world.story()
    );
}

#[test]
fn boot_alone_does_not_promote_half_a_copy() {
    let mut world = World::new(3);
    world.policy[1].boot_alone = true;
    world.nodes[1].data.consistent = false;
    world.boot(1);
    world.run(60 * SECOND);
    assert_eq!(world.phase(1), Some(Phase::Joining));
    assert_eq!(reasons(&world, 1), vec![Reason::NotConsistent]);
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
    world.kill_agent(0);
    // The guardian is off in this history: the addresses stay.
    world.policy[0].address_lifetime = Duration::from_secs(3600);
    world.run(10 * SECOND);
    assert_eq!(
        world.verdict(1),
        Some(Verdict::AgentSilent),
        "{}",
        world.story()
    );
    assert_eq!(world.phase(1), Some(Phase::Standby));
    assert!(told(&world, 1, NoticeKind::Peer));
}

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
        told(&world, 1, NoticeKind::Eligibility),
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
    assert!(told(&world, 1, NoticeKind::Eligibility));
    // Now the master's too: nobody is better.
    world.nodes[0].public = false;
    world.run(20 * SECOND);
    assert_eq!(world.phase(0), Some(Phase::Master));
    assert!(told(&world, 0, NoticeKind::Refused));
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
fn both_die_and_return_at_once() {
    for seed in 0..30 {
        let mut world = pair(seed);
        world.power_cut(0);
        assert!(world.run_until(5 * SECOND, |w| w.phase(1) == Some(Phase::Master)));
        world.run(2 * SECOND);
        world.power_cut(1);
        world.run(2 * SECOND);
        world.boot(0);
        world.boot(1);
        settle(&mut world);
        assert!(world.is_pair(1), "the newer data serves\n{}", world.story());
    }
}

#[test]
fn the_old_master_boots_alone_and_waits() {
    let mut world = pair(13);
    world.power_cut(0);
    assert!(world.run_until(5 * SECOND, |w| w.phase(1) == Some(Phase::Master)));
    world.run(5 * SECOND);
    world.power_cut(1);
    world.boot(0);
    world.run(300 * SECOND);
    assert_eq!(world.phase(0), Some(Phase::Joining), "its data may be old");
    world.boot(1);
    settle(&mut world);
    assert!(world.is_pair(1));
}

#[test]
fn three_lonely_reboots() {
    let mut world = pair(14);
    world.power_cut(1);
    // Longer than max_stale + dead time + 10 %: the standby cannot have taken over by itself.
    world.run(70 * SECOND);
    assert!(world.nodes[0].disk.solo, "{}", world.story());
    for _ in 0..3 {
        world.power_cut(0);
        world.run(SECOND);
        world.boot(0);
        assert!(
            world.run_until(20 * SECOND, |w| w.phase(0) == Some(Phase::Master)),
            "{}",
            world.story()
        );
        assert!(world.serves(0));
    }
    world.boot(1);
    settle(&mut world);
    assert!(world.is_pair(0));
    assert!(!world.nodes[0].disk.solo);
}

#[test]
fn a_lonely_master_without_the_solo_mark_waits() {
    let mut world = pair(15);
    world.power_cut(1);
    world.run(30 * SECOND);
    world.power_cut(0);
    world.boot(0);
    world.run(200 * SECOND);
    assert_eq!(world.phase(0), Some(Phase::Joining));
}

#[test]
fn heard_the_new_term_then_stood_alone_before_the_resync() {
    let mut world = pair(16);
    world.power_cut(0);
    assert!(world.run_until(5 * SECOND, |w| w.phase(1) == Some(Phase::Master)));
    world.run(5 * SECOND);
    // It returns with heartbeats only: it hears the term, and gets no data.
    world.link[0][0] = false;
    world.link[1][0] = false;
    world.boot(0);
    assert!(
        world.run_until(10 * SECOND, |w| w.phase(0) == Some(Phase::Standby)),
        "{}",
        world.story()
    );
    assert!(world.nodes[0].disk.term_seen >= 2);
    world.power_cut(1);
    world.run(300 * SECOND);
    assert_eq!(world.phase(0), Some(Phase::Standby), "a term is no data");
    assert!(told(&world, 0, NoticeKind::Refused));
    world.link = [[true; 2]; 2];
    world.boot(1);
    settle(&mut world);
    assert!(world.is_pair(1));
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

#[test]
fn an_empty_replaced_disk_on_the_preferred_node_receives() {
    let mut world = pair(18);
    world.power_cut(0);
    assert!(world.run_until(5 * SECOND, |w| w.phase(1) == Some(Phase::Master)));
    world.nodes[0].data = super::world::Store::default();
    world.power_cut(1);
    world.boot(0);
    world.boot(1);
    settle(&mut world);
    assert!(world.is_pair(1));
}

#[test]
fn neither_has_data_and_one_side_is_empty() {
    let mut world = World::new(19);
    world.nodes[0].data = super::world::Store::default();
    world.nodes[1].data.lineage.clear();
    world.boot(0);
    world.boot(1);
    assert!(
        world.run_until(20 * SECOND, |w| w.is_pair(1)),
        "{}",
        world.story()
    );
}

#[test]
fn diverged_without_a_live_master_waits_for_a_person() {
    let mut world = World::new(20);
    world.nodes[0].data.lineage.push((7, 3));
    world.nodes[1].data.lineage.push((8, 3));
    world.nodes[0].data.log.push(70);
    world.boot(0);
    world.boot(1);
    world.run(60 * SECOND);
    assert_eq!(world.phase(0), Some(Phase::Joining));
    assert_eq!(reasons(&world, 0), vec![Reason::NoDirection]);
    world.command(1, Command::ForceTakeover);
    settle(&mut world);
    assert!(world.is_pair(1));
    assert!(world.nodes[0].data.rescue.contains(&70));
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
    world.nodes[1].paused = false;
    world.feed(1, crate::input::Input::Tick);
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
        world.nodes[0].paused = false;
        world.feed(0, crate::input::Input::Tick);
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
