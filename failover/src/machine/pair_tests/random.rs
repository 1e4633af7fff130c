//! Random histories: crashes, cuts, losses and commands in any order; then peace, and one pair must stand.

use super::world::{MS, SECOND, World};
use crate::input::Command;
use std::collections::BTreeSet;

/// One random misfortune or command.
fn misfortune(world: &mut World) {
    let node = world.dice.roll(2) as usize;
    let link = world.dice.roll(2) as usize;
    let up = world.nodes[node].machine.is_some();
    match world.dice.roll(15) {
        0 if world.nodes[node].host_up => world.power_cut(node),
        1 if up => world.kill_agent(node),
        2 | 3 if !world.nodes[node].host_up => world.boot(node),
        4 | 5 if world.nodes[node].host_up && !up => world.start_agent(node),
        6 => world.link[node][link] = !world.link[node][link],
        7 => world.nodes[node].public = !world.nodes[node].public,
        8 => world.nodes[node].service_broken = !world.nodes[node].service_broken,
        9 if up => world.command(node, Command::Switchover),
        10 if up && world.nodes[node].paused => world.resume(node),
        10 if up => world.nodes[node].paused = true,
        11 => world.loss_percent = world.dice.roll(3) * 15,
        12 if up => world.nodes[node].disk_broken = !world.nodes[node].disk_broken,
        14 => hurt_a_move(world),
        13 if up => world.command(node, Command::Failback),
        _ => {}
    }
}

/// Something happens in the middle of a planned move.
fn hurt_a_move(world: &mut World) {
    let Some(master) = world.master() else { return };
    world.command(master, Command::Switchover);
    let pause = world.dice.roll(60 * MS);
    world.run(pause);
    let node = world.dice.roll(2) as usize;
    match world.dice.roll(3) {
        0 if world.nodes[node].host_up => world.power_cut(node),
        1 if world.nodes[node].machine.is_some() => world.kill_agent(node),
        _ => {
            world.nodes[node].disk_broken = true;
            world.run(15 * SECOND);
            world.nodes[node].disk_broken = false;
        }
    }
}

/// One node dies for long; the other one, master alone, dies too and returns alone.
fn lonely(world: &mut World) {
    world.run(5 * SECOND);
    let dead = world.dice.roll(2) as usize;
    world.power_cut(dead);
    world.run(70 * SECOND);
    world.power_cut(1 - dead);
    world.boot(1 - dead);
    world.run(10 * SECOND);
}

fn peace(world: &mut World) {
    world.link = [[true; 2]; 2];
    world.loss_percent = 0;
    for node in 0..2 {
        let n = &mut world.nodes[node];
        n.public = true;
        n.service_broken = false;
        n.disk_broken = false;
        if !n.host_up {
            world.boot(node);
        } else if n.machine.is_none() {
            world.start_agent(node);
        } else {
            world.resume(node);
        }
    }
}

/// One history; adds the phases and words of its decisions to `reached`.
fn history(seed: u64, reached: &mut BTreeSet<String>) {
    let mut world = World::new(seed);
    world.boot(0);
    world.boot(1);
    if world.dice.roll(10) == 0 {
        lonely(&mut world);
    }
    let steps = 3 + world.dice.roll(12);
    for _ in 0..steps {
        let longest = if world.dice.roll(4) == 0 {
            80 * SECOND
        } else {
            4 * SECOND
        };
        let pause = 5 * MS + world.dice.roll(longest);
        world.run(pause);
        misfortune(&mut world);
    }
    peace(&mut world);
    let both = |w: &World| w.any_pair();
    if !world.run_until(120 * SECOND, both) {
        // Two sides that both wrote while apart, and then both died, wait for a person.
        let told: Vec<_> = world
            .nodes
            .iter()
            .map(|n| n.machine.as_ref().map(|m| m.waiting.clone()))
            .collect();
        let direction = crate::role::Reason::NoDirection;
        assert!(
            told.iter()
                .flatten()
                .any(|reasons| reasons.contains(&direction)),
            "seed {seed}: no pair\n{}",
            world.story()
        );
        world.command(0, Command::ForceTakeover);
        assert!(
            world.run_until(60 * SECOND, both),
            "seed {seed}: no pair by force\n{}",
            world.story()
        );
    }
    world.run(2 * SECOND);
    world.assert_nothing_lost();
    reached.extend(
        world
            .decisions
            .iter()
            .map(|(_, _, decision)| decision.why.clone()),
    );
    let master = world.master().expect("a pair has one");
    assert_eq!(
        world.nodes[0].data.lineage,
        world.nodes[1].data.lineage,
        "seed {seed}\n{}",
        world.story()
    );
    assert!(!world.serves(1 - master), "seed {seed}");
}

/// What the histories must have come by, or they prove little.
const CLASSES: &[&str] = &[
    "the two nodes agreed",
    "the peer handed the role over",
    "the peer is dead",
    "the peer hangs",
    "this node was master alone for long",
    "the peer died before it was seen to take the role",
    "it steps down",
    "the move is given up",
    "the takeover is called off",
    "this node was away",
    "nobody took over while this node was away",
    "no takeover",
    "does not take over",
    "this standby could not take over",
    "the peer is heard again",
    "the role stays here",
    "the durable state cannot be written",
    "the record could not be written in time",
];

#[test]
fn random_histories_end_with_one_pair_and_nothing_lost() {
    let mut reached = BTreeSet::new();
    for seed in 0..500 {
        history(seed, &mut reached);
    }
    let missing: Vec<_> = CLASSES
        .iter()
        .filter(|class| !reached.iter().any(|why| why.contains(**class)))
        .collect();
    assert!(missing.is_empty(), "never reached: {missing:?}");
}
