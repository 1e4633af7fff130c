//! Both nodes live and do not hear each other, or one of them hangs: when they meet again there is one master, at
//! once, and nothing that the other one wrote is lost.

use crate::harness::*;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};
use tandem::api::types::Role;

/// Time from the first contact until the loser has left its addresses: one heartbeat (200 ms), and what a busy
/// machine needs to carry it out.
const YIELDS: Duration = Duration::from_millis(1200);

/// The node gives up role and addresses, within [`YIELDS`] after `contact`.
#[track_caller]
fn yields(scene: &Scene, n: usize, contact: Instant) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let api = scene.api(n);
    eventually(SOON, "the loser has yielded", || {
        let status = runtime.block_on(api.status()).map_err(|e| e.to_string())?;
        if status.role == Role::Master || status.addresses.iter().any(|a| a.held) {
            return Err(brief(&status));
        }
        Ok(())
    });
    let took = contact.elapsed();
    assert!(took < YIELDS, "it yielded after {took:?}");
}

/// The new master's data are on both nodes; what the old one wrote besides is in its rescue.
#[track_caller]
fn ends_with_two(scene: &Scene, rescued: &[&str]) {
    scene.wait_ready(TWO, ONE);
    scene.flush_and_compare(TWO);
    assert_eq!(
        scene.read(ONE, "of-two").as_deref(),
        Ok("written on mirror2")
    );
    let found = scene.rescued_paths(ONE);
    for path in rescued {
        assert!(found.iter().any(|f| f == path), "{path}: {found:?}");
    }
}

/// The documented limit of two nodes without a witness: both are master until they hear each other.
#[test]
fn both_links_cut_and_healed() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    let probe = scene.probe();
    scene.wait_served_by(&probe, ONE);
    let cables = ["eth0", "eth1"].map(|device| scene.node(ONE).host.cable(device));
    // The carrier stays, as with a dead switch behind another one: a master that sees its public cable go would hand
    // over at once, while the peer still counts as heard.
    for cable in &cables {
        cable.deafen().expect("deaf");
        cable.mute().expect("mute");
    }
    scene.wait_role(TWO, Role::Master);
    scene.wait_served_by(&probe, TWO);
    let one = scene.status(ONE).expect("it answers");
    assert_eq!(one.role, Role::Master, "nobody tells it: {}", brief(&one));
    scene.write(ONE, "of-one", "written on mirror1");
    scene.write(ONE, "index.html", "changed by mirror1");
    scene.write(TWO, "index.html", "changed by mirror2");
    scene.write(TWO, "of-two", "written on mirror2");
    // The private cable first: the two meet where no client is.
    cables[1].heal().expect("healed");
    yields(&scene, ONE, Instant::now());
    cables[0].heal().expect("healed");
    ends_with_two(&scene, &["of-one", "index.html"]);
    let split = probe.log();
    let last = split.good.iter().rev().find(|(_, node)| node == "mirror1");
    let first = split.good.iter().find(|(_, node)| node == "mirror2");
    let order = last.zip(first).map(|(last, first)| last.0 < first.0);
    assert_eq!(order, Some(true), "a client never went back to the loser");
}

/// Every program of the master stops; its kernel answers pings and ARP, and keeps the addresses.
#[test]
fn a_hung_master_is_replaced_and_yields_when_it_wakes() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    let probe = scene.probe();
    scene.wait_served_by(&probe, ONE);
    let hung = Instant::now();
    scene.node(ONE).host.signal_all(Signal::SIGSTOP);
    scene.wait_role(TWO, Role::Master);
    scene.wait_served_by(&probe, TWO);
    let gap = probe.log().longest_gap(hung).expect("answers came");
    assert!(gap < Duration::from_secs(6), "a gap of {gap:?}");
    scene.write(TWO, "of-two", "written on mirror2");
    scene.write(ONE, "of-one", "written on mirror1");
    let woken = Instant::now();
    scene.node(ONE).host.signal_all(Signal::SIGCONT);
    yields(&scene, ONE, woken);
    ends_with_two(&scene, &["of-one"]);
    let status = scene.status(TWO).expect("it answers");
    assert_eq!(status.role, Role::Master);
}

/// A virtual machine that is paused and goes on later: nothing of it answers meanwhile.
#[test]
fn a_paused_master_is_replaced_and_yields_when_it_goes_on() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    let probe = scene.probe();
    scene.wait_served_by(&probe, ONE);
    let node = scene.node(ONE);
    let cables = ["eth0", "eth1"].map(|device| node.host.cable(device));
    node.host.signal_all(Signal::SIGSTOP);
    for cable in &cables {
        cable.cut().expect("cut");
    }
    scene.wait_role(TWO, Role::Master);
    scene.write(TWO, "of-two", "written on mirror2");
    scene.wait_served_by(&probe, TWO);
    for cable in &cables {
        cable.heal().expect("healed");
    }
    let woken = Instant::now();
    node.host.signal_all(Signal::SIGCONT);
    yields(&scene, ONE, woken);
    ends_with_two(&scene, &[]);
}

/// A paused standby does not take its own pause for the master's silence.
#[test]
fn a_paused_standby_does_not_take_over() {
    let scene = Scene::replicated();
    let probe = scene.probe();
    scene.wait_served_by(&probe, ONE);
    let since = Instant::now();
    for _ in 0..3 {
        scene.node(TWO).host.signal_all(Signal::SIGSTOP);
        let paused = Instant::now();
        holds_for(
            Duration::from_millis(1500),
            "the master stays",
            || match scene.status(ONE)?.role {
                Role::Master => Ok(()),
                other => Err(format!("{other:?}")),
            },
        );
        assert!(paused.elapsed() > Duration::from_millis(1000));
        scene.node(TWO).host.signal_all(Signal::SIGCONT);
        scene.wait_status(TWO, "hears again", |s| s.peer.alive);
        scene.wait_ready(ONE, TWO);
    }
    let log = scene.node(TWO).log_text();
    assert!(!log.contains("to=taking"), "it began to take over");
    let gap = probe.log().longest_gap(since).expect("answers came");
    assert!(gap < Duration::from_secs(1), "a gap of {gap:?}");
}

/// The standby hears nobody at all, and its own network is gone: that is its own fault and nobody's death.
#[test]
fn a_standby_that_is_cut_off_stays_what_it_is() {
    let scene = Scene::replicated();
    let probe = scene.probe();
    scene.wait_served_by(&probe, ONE);
    let since = Instant::now();
    let cables = ["eth0", "eth1"].map(|device| scene.node(TWO).host.cable(device));
    for cable in &cables {
        cable.cut().expect("cut");
    }
    it_stays_standby(&scene);
    scene.write(ONE, "meanwhile", "x");
    for cable in &cables {
        cable.heal().expect("healed");
    }
    scene.wait_ready(ONE, TWO);
    scene.flush_and_compare(ONE);
    let gap = probe.log().longest_gap(since).expect("answers came");
    assert!(gap < Duration::from_secs(1), "a gap of {gap:?}");
}

/// The same behind switches, or in a virtual machine: its devices have their carrier all the time, and its monitor of the network
/// needs seconds to fall, longer than a master's death takes to be seen.
#[test]
fn a_standby_that_is_cut_off_behind_a_switch_stays_what_it_is() {
    let scene = Scene::replicated();
    let probe = scene.probe();
    scene.wait_served_by(&probe, ONE);
    let since = Instant::now();
    let term = scene.status(ONE).expect("a status").term;
    let cables = ["eth0", "eth1"].map(|device| scene.node(TWO).host.cable(device));
    for cable in &cables {
        cable.deafen().expect("deaf");
        cable.mute().expect("mute");
    }
    it_stays_standby(&scene);
    for cable in &cables {
        cable.heal().expect("healed");
    }
    scene.wait_ready(ONE, TWO);
    assert_eq!(scene.status(ONE).expect("a status").term, term);
    let gap = probe.log().longest_gap(since).expect("answers came");
    assert!(gap < Duration::from_secs(1), "a gap of {gap:?}");
}

fn it_stays_standby(scene: &Scene) {
    holds_for(Duration::from_secs(3), "it does not take over", || {
        match (scene.status(ONE)?, scene.status(TWO)?) {
            (one, two) if one.role == Role::Master && two.role != Role::Master => Ok(()),
            (one, two) => Err(format!("{}\n  and {}", brief(&one), brief(&two))),
        }
    });
}
