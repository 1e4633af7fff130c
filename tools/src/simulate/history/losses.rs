//! Disks, images, state, keys: histories in which something is lost or doubled.

use super::{master, some_time};
use crate::simulate::node::Node;
use crate::simulate::reach::Class;
use crate::simulate::world::{SECOND, World};
use tandem_failover::heartbeat::Incarnation;
use tandem_failover::input::Input;

pub(super) fn disk_replaced(world: &mut World) {
    let old = master(world);
    let node = if world.dice.chance(60) { old } else { 1 - old };
    world.power_cut(node);
    some_time(world, 5 * SECOND);
    world.replace_disk(node);
    world.reached(Class::DiskReplaced);
    world.boot(node);
    some_time(world, 10 * SECOND);
}

pub(super) fn trees_restored(world: &mut World) {
    world.nodes.iter_mut().for_each(Node::take_image);
    some_time(world, 4 * SECOND);
    let node = world.dice.node();
    world.power_cut(node);
    some_time(world, 3 * SECOND);
    if world.restore_trees(node) {
        world.reached(Class::TreesRestored);
    }
    world.boot(node);
    some_time(world, 8 * SECOND);
    if world.dice.chance(50) {
        world.accept_trees(node);
        some_time(world, 4 * SECOND);
    }
}

pub(super) fn image_restored(world: &mut World) {
    let node = world.dice.node();
    world.nodes[node].take_image();
    some_time(world, 8 * SECOND);
    let moved = world.dice.chance(50);
    world.power_cut(node);
    if moved {
        world.run_until(6 * SECOND, |w| w.nodes[1 - node].acts());
    }
    if world.restore_image(node) {
        world.reached(Class::ImageRestored);
    }
    world.boot(node);
    some_time(world, 10 * SECOND);
}

pub(super) fn state_lost(world: &mut World) {
    let old = master(world);
    let node = world.dice.node();
    world.power_cut(node);
    some_time(world, 4 * SECOND);
    world.lose_state(node);
    world.reached(if node == old {
        Class::StateLostMaster
    } else {
        Class::StateLostStandby
    });
    world.boot(node);
    some_time(world, 10 * SECOND);
}

pub(super) fn cloned(world: &mut World) {
    let node = world.dice.node();
    let incarnation = Incarnation {
        counter: world.nodes[node].slots.incarnation + 1,
        nonce: [7; 16],
    };
    world.tell("a copy of the disk starts elsewhere, with key and state");
    world.feed(node, Input::OwnKeyElsewhere { incarnation });
    world.run(SECOND);
    let old = world.master();
    if let Some(master) = old {
        world.power_cut(master);
        world.run(5 * SECOND);
        if master != node && world.nodes[node].acts() {
            world.blame("a node whose key is used elsewhere took over by itself");
        }
    }
    world.reached(Class::Cloned);
}
