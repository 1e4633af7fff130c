//! What operators do, with crashes in the middle of it.

use super::{back, master, some_time};
use crate::simulate::reach::Class;
use crate::simulate::steps::{Step, Trap};
use crate::simulate::world::{SECOND, World};
use tandem_failover::input::{Command, Input};
use tandem_failover::role::Phase;

pub(super) fn planned_move(world: &mut World) {
    let old = master(world);
    world.run_until(10 * SECOND, World::is_pair);
    let pick = world.dice.roll(Step::ALL.len() as u64 + 2) as usize;
    if let Some(step) = Step::ALL.get(pick).copied() {
        let node = if step.of_leaving() { old } else { 1 - old };
        let victim = if world.dice.chance(70) {
            node
        } else {
            1 - node
        };
        let (power, after) = (world.dice.chance(60), world.dice.chance(50));
        let trap = Trap {
            node,
            step,
            victim,
            power,
            after,
        };
        world.trap = Some(trap);
    }
    world.command(old, Command::Switchover);
    if world.run_until(8 * SECOND, |w| {
        w.nodes[1 - old].phase == Some(Phase::Master)
    }) {
        world.reached(Class::Switchover);
    }
    some_time(world, 6 * SECOND);
    if world.dice.chance(50) {
        (0..2).for_each(|node| back(world, node));
        world.run_until(20 * SECOND, World::is_pair);
        let now = world.master().unwrap_or(0);
        world.command(now, Command::Failback);
        world.run(4 * SECOND);
    }
}

pub(super) fn configuration(world: &mut World) {
    let first = world.dice.node();
    let crash = world.dice.roll(3) as u8;
    let victim = world.dice.node();
    let matters = world.policy[0].config_matters + 1;
    for step in 0..3_u8 {
        if step == crash {
            world.power_cut(victim);
            world.reached(Class::ConfigCrash(crash));
            some_time(world, 4 * SECOND);
            world.boot(victim);
        }
        match step {
            0 => world.set_config(first, matters),
            1 => world.set_config(1 - first, matters),
            _ => {}
        }
        some_time(world, 2 * SECOND);
    }
    world.run(3 * SECOND);
}

pub(super) fn hold_and_maintenance(world: &mut World) {
    let old = master(world);
    world.run_until(10 * SECOND, World::is_pair);
    if world.dice.chance(50) {
        world.nodes[1 - old].hold = true;
        world.feed(1 - old, Input::Hold { active: true });
        some_time(world, 8 * SECOND);
        world.power_cut(old);
        world.run(5 * SECOND);
        world.reached(Class::Hold);
    } else {
        world.command(1 - old, Command::MaintenanceOn(None));
        some_time(world, 3 * SECOND);
        world.power_cut(old);
        world.run(5 * SECOND);
        world.reached(Class::Maintenance);
        if world.nodes[1 - old].acts() {
            world.blame("an automatic takeover in maintenance");
        }
    }
}
