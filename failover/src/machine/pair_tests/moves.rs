//! Planned moves, with a crash before and after each step.

use super::histories::pair;
use super::world::{MS, SECOND, Trap, World};
use crate::input::Command;
use crate::role::Phase;

#[test]
fn a_planned_move_loses_nothing_and_shows_no_two_masters() {
    for seed in 0..50 {
        let mut world = pair(seed);
        world.run(SECOND);
        world.command(0, Command::Switchover);
        let begun = world.now;
        assert!(
            world.run_until(5 * SECOND, |w| w.serves(1)),
            "{}",
            world.story()
        );
        assert!(
            world.now - begun < 600 * MS,
            "{} ms",
            (world.now - begun) / MS
        );
        assert!(
            world.run_until(10 * SECOND, |w| w.is_pair(1)),
            "{}",
            world.story()
        );
        assert_eq!(world.overlap, 0);
        assert!(
            matches!(world.answers.as_slice(), [(_, Ok(_))]),
            "{:?}",
            world.answers
        );
        let all = &world.nodes[1].data.log;
        assert!(
            world.acknowledged.iter().all(|w| all.contains(w)),
            "{}",
            world.story()
        );
        assert!(world.nodes[0].data.rescue.is_empty());
        // And back, once the master has heard that the standby is ready.
        world.run(SECOND);
        world.command(1, Command::Failback);
        assert!(
            world.run_until(10 * SECOND, |w| w.is_pair(0)),
            "{}",
            world.story()
        );
        let all = &world.nodes[0].data.log;
        assert!(world.acknowledged.iter().all(|w| all.contains(w)));
    }
}

/// Every step of the move, crashed before it is done, on either node, agent or host.
#[test]
fn a_crash_at_each_step_ends_with_one_master_and_no_lost_write() {
    let mut places = 0;
    for victim in 0..2 {
        for at_node in 0..2 {
            for host in [false, true] {
                for at in 1..40 {
                    let mut world = pair(at as u64);
                    world.run(SECOND);
                    world.trap = Some(Trap {
                        node: at_node,
                        at,
                        host,
                        victim,
                    });
                    world.hits = 0;
                    world.command(0, Command::Switchover);
                    world.run(5 * SECOND);
                    if world.trap.take().is_some() {
                        break;
                    }
                    places += 1;
                    crashed(&mut world, victim, host);
                }
            }
        }
    }
    assert!(places > 60, "only {places} places were reached");
}

fn crashed(world: &mut World, victim: usize, host: bool) {
    // The other one alone, for a while.
    world.run(10 * SECOND);
    if host {
        world.boot(victim);
    } else {
        world.start_agent(victim);
    }
    let found = world.run_until(60 * SECOND, World::any_pair);
    assert!(
        found,
        "no pair after a crash of node {victim} (host {host})\n{}",
        world.story()
    );
    world.run(SECOND);
    world.assert_nothing_lost();
    assert_eq!(world.overlap, 0, "{}", world.story());
}

#[test]
fn both_crash_after_the_last_point_of_return() {
    for seed in 0..30 {
        let mut world = pair(seed);
        world.run(SECOND);
        world.command(0, Command::Switchover);
        assert!(
            world.run_until(5 * SECOND, |w| w.phase(0) == Some(Phase::Ceded)),
            "{}",
            world.story()
        );
        world.power_cut(0);
        world.power_cut(1);
        world.boot(0);
        world.boot(1);
        assert!(
            world.run_until(30 * SECOND, World::any_pair),
            "{}",
            world.story()
        );
        world.assert_nothing_lost();
    }
}

#[test]
fn after_ceding_the_old_master_alone_comes_back_with_a_new_term() {
    let mut world = pair(1);
    world.run(SECOND);
    world.command(0, Command::Switchover);
    assert!(world.run_until(5 * SECOND, |w| w.phase(0) == Some(Phase::Ceded)));
    world.power_cut(1);
    assert!(
        world.run_until(10 * SECOND, |w| w.phase(0) == Some(Phase::Master)),
        "{}",
        world.story()
    );
    assert!(world.serves(0));
    world.boot(1);
    assert!(
        world.run_until(30 * SECOND, |w| w.is_pair(0)),
        "{}",
        world.story()
    );
}

#[test]
fn a_record_that_cannot_be_written_is_taken_back() {
    let mut world = pair(2);
    world.run(SECOND);
    world.command(0, Command::Switchover);
    world.nodes[0].disk_broken = true;
    world.run(12 * SECOND);
    assert_eq!(world.phase(0), Some(Phase::Ceding), "{}", world.story());
    assert_eq!(world.phase(1), Some(Phase::Standby));
    world.nodes[0].disk_broken = false;
    assert!(
        world.run_until(10 * SECOND, |w| w.is_pair(0)),
        "{}",
        world.story()
    );
    assert!(matches!(world.answers.as_slice(), [(_, Err(_))]));
    world.run(SECOND);
    assert!(world.nodes[0].disk.ceded.is_none() && world.nodes[0].disk.was_master);
}

#[test]
fn a_move_that_cannot_flush_is_given_up_and_service_goes_on() {
    let mut world = pair(3);
    world.run(SECOND);
    // Data only: heartbeats still pass on the other link.
    world.link[0][0] = false;
    world.link[1][0] = false;
    world.command(0, Command::Switchover);
    world.run(15 * SECOND);
    assert_eq!(world.phase(0), Some(Phase::Master), "{}", world.story());
    assert!(world.serves(0));
    assert!(matches!(world.answers.as_slice(), [(_, Err(_))]));
}

#[test]
fn stop_hands_over_when_the_standby_is_ready() {
    let mut world = pair(4);
    world.run(SECOND);
    world.command(0, Command::Stop);
    assert!(
        world.run_until(20 * SECOND, |w| w.nodes[0].exited),
        "{}",
        world.story()
    );
    assert!(world.run_until(10 * SECOND, |w| w.phase(1) == Some(Phase::Master)));
    assert!(!world.nodes[0].addresses && !world.nodes[0].services);
    assert_eq!(world.overlap, 0);
    let all = &world.nodes[1].data.log;
    assert!(world.acknowledged.iter().all(|w| all.contains(w)));
}

#[test]
fn stop_without_a_ready_standby_releases_the_address() {
    let mut world = pair(5);
    world.power_cut(1);
    world.run(2 * SECOND);
    world.command(0, Command::Stop);
    assert!(
        world.run_until(20 * SECOND, |w| w.nodes[0].exited),
        "{}",
        world.story()
    );
    assert!(!world.nodes[0].addresses && !world.nodes[0].services);
    assert!(matches!(world.answers.as_slice(), [(_, Ok(_))]));
}

/// Whenever the second request comes: one master remains, and this node keeps no address.
#[test]
fn asked_twice_to_stop_it_waits_for_no_hand_over() {
    let mut given_up = 0;
    for later in 0..60 {
        let mut world = pair(later);
        world.run(SECOND);
        world.command(0, Command::Stop);
        world.run(later * 2 * MS);
        if world.nodes[0].exited {
            continue;
        }
        world.command(0, Command::Stop);
        assert!(
            world.run_until(SECOND, |w| w.nodes[0].exited),
            "{}",
            world.story()
        );
        assert!(!world.nodes[0].addresses && !world.nodes[0].services);
        let text = |(_, answer): &(_, Result<String, String>)| format!("{answer:?}");
        let answers: Vec<String> = world.answers.iter().map(text).collect();
        assert_eq!(answers.len(), 2, "each is answered once: {answers:?}");
        given_up += usize::from(answers.iter().any(|a| a.contains("given up")));
        assert!(
            world.run_until(20 * SECOND, |w| w.phase(1) == Some(Phase::Master)),
            "{}",
            world.story()
        );
        // What was not flushed is on this node, and in the rescue when it comes back.
        world.start_agent(0);
        assert!(
            world.run_until(60 * SECOND, World::any_pair),
            "{}",
            world.story()
        );
        world.run(SECOND);
        world.assert_nothing_lost();
        assert_eq!(world.overlap, 0);
    }
    assert!(given_up > 0, "no hand-over was interrupted");
}

#[test]
fn a_stop_does_not_wait_for_a_standby_that_dies_on_the_way() {
    let mut world = pair(8);
    world.run(SECOND);
    world.command(0, Command::Stop);
    assert!(world.run_until(5 * SECOND, |w| w.phase(0) == Some(Phase::Ceded)));
    world.power_cut(1);
    // The role goes nowhere, or comes back and is given up: well within the bound of systemd.
    assert!(
        world.run_until(15 * SECOND, |w| w.nodes[0].exited),
        "{}",
        world.story()
    );
    assert!(!world.nodes[0].addresses);
}

#[test]
fn stop_of_a_standby_leaves_the_master_alone() {
    let mut world = pair(6);
    world.command(1, Command::Stop);
    assert!(world.run_until(20 * SECOND, |w| w.nodes[1].exited));
    world.run(5 * SECOND);
    assert!(world.serves(0));
}

#[test]
fn commands_on_the_wrong_node_are_refused() {
    let mut world = pair(7);
    world.command(1, Command::Switchover);
    world.command(0, Command::Failback);
    world.command(0, Command::ForceTakeover);
    let answers: Vec<bool> = world
        .answers
        .iter()
        .map(|(_, result)| result.is_ok())
        .collect();
    assert_eq!(answers, [false, true, false]);
}

#[test]
fn force_takeover_of_a_live_master() {
    let mut world = pair(8);
    world.command(1, Command::ForceTakeover);
    assert!(
        world.run_until(10 * SECOND, |w| w.is_pair(1)),
        "{}",
        world.story()
    );
    world.assert_nothing_lost();
    assert!(world.overlap <= 210 * MS);
}
