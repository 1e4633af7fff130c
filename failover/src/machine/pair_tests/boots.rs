//! Who serves after a start: both, one, alone, with newer, older, no or diverged data.

use super::histories::{pair, reasons, settle, told};
use super::world::{SECOND, Store, World};
use crate::effect::NoticeKind;
use crate::input::Command;
use crate::role::{Phase, Reason};

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
fn an_empty_replaced_disk_on_the_preferred_node_receives() {
    let mut world = pair(18);
    world.power_cut(0);
    assert!(world.run_until(5 * SECOND, |w| w.phase(1) == Some(Phase::Master)));
    world.nodes[0].data = Store::default();
    world.power_cut(1);
    world.boot(0);
    world.boot(1);
    settle(&mut world);
    assert!(world.is_pair(1));
}

#[test]
fn neither_has_data_and_one_side_is_empty() {
    let mut world = World::new(19);
    world.nodes[0].data = Store::default();
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
