//! The histories: a beginning, one that belongs to a class, and misfortunes in any order.

use super::event::Mutation;
use super::reach::Class;
use super::world::{MS, SECOND, World};
use tandem_failover::input::Command;

mod losses;
mod moves;
mod outages;

/// The script that begins with a half-made copy.
const FIRST_COPY: &str = "first copy";

/// A scripted part of a history.
type Script = fn(&mut World);

/// Scripts that the seeds take in turn. What they reach is counted where it shows.
pub const SCRIPTS: [(&str, Script); 23] = [
    ("only misfortunes", |_| {}),
    ("crash and return", outages::crash_and_return),
    ("heard the new term, then alone", outages::heard_then_alone),
    ("private link cut", outages::private_cut),
    ("agent dead", outages::agent_dead),
    ("public network", outages::public_cut),
    ("one-way loss", outages::one_way),
    ("both links cut", outages::both_cut),
    ("both links cut, a fence", outages::both_cut_with_a_fence),
    ("both boot", outages::both_boot),
    ("lonely boots", outages::lonely_boots),
    ("stale node alone", outages::stale_alone),
    ("double failover", outages::double_failover),
    (FIRST_COPY, outages::first_copy),
    ("reversal", outages::reversal),
    ("disk replaced", losses::disk_replaced),
    ("trees restored", losses::trees_restored),
    ("image restored", losses::image_restored),
    ("state lost", losses::state_lost),
    ("cloned", losses::cloned),
    ("planned move", moves::planned_move),
    ("configuration", moves::configuration),
    ("hold and maintenance", moves::hold_and_maintenance),
];

/// One whole history.
pub fn play(seed: u64, mutation: Option<Mutation>) -> World {
    let mut world = World::new(seed, mutation);
    let (title, script) = SCRIPTS[(seed % SCRIPTS.len() as u64) as usize];
    world.tell(format!("seed {seed}: {title}"));
    begin(&mut world, title == FIRST_COPY);
    script(&mut world);
    let more = world.dice.roll(6);
    for _ in 0..more {
        if world.violation.is_none() {
            misfortune(&mut world);
            let longest = if world.dice.chance(15) { 12 } else { 3 };
            let pause = 20 * MS + world.dice.roll(longest * SECOND);
            world.run(pause);
        }
    }
    if world.violation.is_none() {
        world.peace();
    }
    world
}

/// A pair that has just been set up: alpha has files; beta has none, or some of its own.
fn begin(world: &mut World, leave_copying: bool) {
    for _ in 0..(4 + world.dice.roll(30)) {
        world.write(0);
    }
    world.nodes[0].data.sync();
    let explicit = world.dice.chance(50);
    if explicit {
        for _ in 0..world.dice.roll(6) {
            world.write(1);
        }
        world.nodes[1].data.sync();
    }
    world.boot(0);
    let gap = world.dice.roll(3 * SECOND);
    world.run(gap);
    world.boot(1);
    if explicit {
        world.run(3 * SECOND);
        world.init(0);
    }
    if leave_copying {
        world.run_until(20 * SECOND, |w| w.reach.has(Class::Copying));
    } else {
        world.run_until(40 * SECOND, World::is_pair);
        let work = world.dice.roll(3 * SECOND);
        world.run(work);
        for node in 0..2 {
            if world.dice.chance(40) {
                world.nodes[node].take_image();
            }
        }
    }
}

/// One random misfortune or command.
fn misfortune(world: &mut World) {
    let (node, link) = (world.dice.node(), world.dice.node());
    match world.dice.roll(19) {
        0 | 1 => world.power_cut(node),
        2 => world.kill_agent(node),
        3..=5 => world.boot(node),
        6..=7 => world.start_agent(node),
        8 => world.open[node][link] = !world.open[node][link],
        9 => world.nodes[node].public = !world.nodes[node].public,
        10 => world.nodes[node].service_broken = !world.nodes[node].service_broken,
        11 => world.command(node, Command::Switchover),
        12 => world.command(node, Command::Failback),
        13 => world.nodes[node].paused = world.nodes[node].awake(),
        14 => world.nodes[node].paused = false,
        15 => (world.loss, world.wild) = (world.dice.roll(3) * 20, world.dice.chance(50)),
        16 => world.nodes[node].slots_broken = !world.nodes[node].slots_broken,
        17 => world.command(node, Command::ForceTakeover),
        _ => world.command(node, Command::Stop),
    }
}

/// Who is master now; a pair that has none gets time for it.
fn master(world: &mut World) -> usize {
    world.run_until(15 * SECOND, |w| w.master().is_some());
    world.master().unwrap_or(0)
}

fn some_time(world: &mut World, most: u64) {
    let nanos = world.dice.roll(most);
    world.run(nanos);
}

fn fall(world: &mut World, node: usize) {
    if world.dice.chance(70) {
        world.power_cut(node);
    } else {
        world.nodes[node].service_broken = true;
        world.kill_agent(node);
    }
}

fn back(world: &mut World, node: usize) {
    world.nodes[node].service_broken = false;
    world.boot(node);
    world.start_agent(node);
}
