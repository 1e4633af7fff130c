//! Power, agents, cables: histories in which nothing is lost for good.

use super::{back, fall, master, some_time};
use crate::simulate::effects::FenceDevice;
use crate::simulate::reach::Class;
use crate::simulate::world::{MS, SECOND, World};
use std::time::Duration;
use tandem_failover::input::{Command, Input};
use tandem_failover::role::Phase;

pub(super) fn crash_and_return(world: &mut World) {
    let old = master(world);
    fall(world, old);
    some_time(world, 8 * SECOND);
    back(world, old);
    world.run_until(15 * SECOND, World::is_pair);
}

pub(super) fn heard_then_alone(world: &mut World) {
    let old = master(world);
    fall(world, old);
    world.run_until(10 * SECOND, |w| w.nodes[1 - old].acts());
    some_time(world, 2 * SECOND);
    world.open = [[false, true]; 2];
    back(world, old);
    let heard = world.run_until(15 * SECOND, |w| w.nodes[old].phase == Some(Phase::Standby));
    let behind = world.nodes[0].data.digest() != world.nodes[1].data.digest();
    world.power_cut(1 - old);
    world.run(10 * SECOND);
    if world.dice.chance(50) {
        world.power_cut(old);
        world.boot(old);
        world.run(12 * SECOND);
    }
    if heard && behind && world.master().is_none() {
        world.reached(Class::HeardTermThenAlone);
    }
}

pub(super) fn private_cut(world: &mut World) {
    let old = master(world);
    world.open = [[false, true]; 2];
    world.run(8 * SECOND);
    some_time(world, 20 * SECOND);
    if world.master() == Some(old) {
        world.power_cut(old);
        world.run(6 * SECOND);
        if !world.nodes[1 - old].acts() {
            world.reached(Class::PrivateCutThenHostDies);
            world.reached(Class::Refused);
        }
    }
}

pub(super) fn agent_dead(world: &mut World) {
    let old = master(world);
    world.kill_agent(old);
    some_time(world, 9 * SECOND);
    if world.nodes[old].works() && !world.nodes[1 - old].acts() {
        world.power_cut(old);
        world.reached(Class::AgentDeadHostDiesLater);
    }
    world.run(5 * SECOND);
}

pub(super) fn public_cut(world: &mut World) {
    let old = master(world);
    let which = world.dice.roll(3);
    let (here, there) = (which != 1, which != 0);
    world.nodes[old].public = !here;
    world.nodes[1 - old].public = !there;
    world.reached(match (here, there) {
        (true, true) => Class::PublicCutBoth,
        (true, false) => Class::PublicCutMaster,
        _ => Class::PublicCutStandby,
    });
    world.run(2 * SECOND);
    some_time(world, 12 * SECOND);
}

pub(super) fn one_way(world: &mut World) {
    let from = world.dice.node();
    let before = world.master();
    world.open[from] = [false; 2];
    world.run(2 * SECOND);
    if before.is_some() {
        world.reached(Class::OneWayLoss);
    }
    some_time(world, 12 * SECOND);
}

pub(super) fn both_cut(world: &mut World) {
    master(world);
    world.open = [[false; 2]; 2];
    if world.dice.chance(60) {
        let node = world.dice.node();
        world.nodes[node].public = false;
    }
    world.reached(Class::BothLinksCut);
    world.run(2 * SECOND);
    some_time(world, 15 * SECOND);
}

/// A standby that hears and sees nothing of its master, which goes on: only the device can tell, or see to it, that it does not.
pub(super) fn both_cut_with_a_fence(world: &mut World) {
    let old = master(world);
    let devices = [FenceDevice::Works, FenceDevice::Fails, FenceDevice::Hangs];
    world.fence_device = devices[world.dice.roll(3) as usize];
    set_fence(world, Some(Duration::from_secs(2)));
    world.open = [[false; 2]; 2];
    world.nodes[old].public = false;
    world.run(4 * SECOND);
    some_time(world, 4 * SECOND);
    let (powered, acts) = (world.nodes[old].powered, world.nodes[1 - old].acts());
    match world.fence_device {
        FenceDevice::Works if acts && !powered => world.reached(Class::FencedFirst),
        _ if acts => world.blame("a takeover without its fence"),
        _ => {}
    }
    set_fence(world, None);
}

fn set_fence(world: &mut World, bound: Option<Duration>) {
    for node in 0..2 {
        world.policy[node].peer_fence = bound;
        let policy = Box::new(world.policy[node].clone());
        world.feed(node, Input::Policy(policy));
    }
}

pub(super) fn both_boot(world: &mut World) {
    master(world);
    let first = world.dice.node();
    world.power_cut(first);
    some_time(world, 4 * SECOND);
    world.power_cut(1 - first);
    some_time(world, SECOND);
    world.boot(1 - first);
    some_time(world, 3 * SECOND);
    world.boot(first);
    world.reached(Class::BothBoot);
    world.run_until(20 * SECOND, World::is_pair);
}

pub(super) fn lonely_boots(world: &mut World) {
    let old = master(world);
    world.power_cut(1 - old);
    // With enough silence it is solo and may boot alone (R4); with less it must wait.
    some_time(world, 16 * SECOND);
    for _ in 0..3 {
        world.power_cut(old);
        some_time(world, SECOND);
        let (solo, was_master) = (
            world.nodes[old].slots.solo,
            world.nodes[old].slots.was_master,
        );
        world.boot(old);
        world.run(8 * SECOND);
        if was_master {
            world.reached(Class::OldMasterBootsAlone);
        }
        if world.nodes[old].acts() && !solo && world.violation.is_none() {
            world.blame("a node without solo mark became master alone");
        }
    }
    world.reached(Class::LonelyReboots);
}

pub(super) fn stale_alone(world: &mut World) {
    let old = master(world);
    let stale = 1 - old;
    world.power_cut(stale);
    world.run(SECOND);
    some_time(world, 10 * SECOND);
    world.power_cut(old);
    world.boot(stale);
    world.run(10 * SECOND);
    world.reached(Class::StaleBootsAlone);
    if world.nodes[stale].acts() {
        world.blame("a stale node became master alone");
    }
}

pub(super) fn double_failover(world: &mut World) {
    let old = master(world);
    world.power_cut(old);
    let first = world.run_until(8 * SECOND, |w| w.nodes[1 - old].acts());
    some_time(world, 3 * SECOND);
    world.boot(old);
    world.run_until(20 * SECOND, World::is_pair);
    some_time(world, 3 * SECOND);
    world.power_cut(1 - old);
    let second = world.run_until(8 * SECOND, |w| w.nodes[old].acts());
    if first && second {
        world.reached(Class::DoubleFailover);
    }
}

pub(super) fn first_copy(world: &mut World) {
    let Some(source) = world.master() else { return };
    world.power_cut(source);
    world.run(6 * SECOND);
    if !world.nodes[1 - source].acts() {
        world.reached(Class::Refused);
    }
    if world.dice.chance(50) {
        world.boot(source);
        some_time(world, 6 * SECOND);
    }
}

pub(super) fn reversal(world: &mut World) {
    let old = master(world);
    // The old master collects writes that nobody else gets.
    world.open = [[false, true]; 2];
    some_time(world, 3 * SECOND);
    for _ in 0..8 {
        world.write(old);
    }
    world.nodes[old].data.sync();
    world.run(300 * MS);
    world.power_cut(old);
    world.run_until(6 * SECOND, |w| w.nodes[1 - old].acts());
    world.run(SECOND);
    world.open = [[true; 2]; 2];
    world.boot(old);
    let late = world.dice.chance(50);
    world.run_until(8 * SECOND, |w| {
        let data = &w.nodes[old].data;
        data.to_rescue() || (late && !data.consistent())
    });
    some_time(world, 400 * MS);
    world.power_cut(1 - old);
    world.run(5 * SECOND);
    if world.dice.chance(30) {
        world.command(old, Command::ForceTakeover);
        world.run(3 * SECOND);
    }
}
