//! When the service moves by itself.

use crate::harness::*;
use std::time::{Duration, Instant};
use tandem::api::types::{Health, Role};
use tandem_lab::pair::DEFAULT_BODY;

/// The client's gap after a failure; typically about a second.
const GAP: Duration = Duration::from_secs(6);

fn takes_over(scene: &Scene, failure: impl FnOnce()) -> tandem_lab::Probe {
    scene.write(ONE, "before", "durable on both");
    scene.flush(ONE);
    let before = scene.status(ONE).expect("the master answers");
    let probe = scene.probe();
    scene.wait_served_by(&probe, ONE);
    let since = Instant::now();
    failure();
    let after = scene.wait_role(TWO, Role::Master);
    assert!(after.term > before.term, "{} > {}", after.term, before.term);
    assert!(after.last_decision.is_some(), "the decision is recorded");
    scene.wait_served_by(&probe, TWO);
    let gap = probe.log().longest_gap(since).expect("answers came");
    assert!(gap < GAP, "the client saw a gap of {gap:?}");
    assert_eq!(scene.read(TWO, "before").as_deref(), Ok("durable on both"));
    let answer = scene
        .http()
        .put("/after", "on the new master")
        .expect("stored");
    assert_eq!(answer.node, "mirror2");
    probe
}

#[test]
fn after_a_power_cut() {
    let scene = Scene::replicated();
    takes_over(&scene, || scene.power_cut(ONE));
}

/// The host lives on and answers pings and ARP for everything that its kernel still has.
#[test]
fn after_kill_9_of_agent_and_service() {
    let scene = SceneOptions::new()
        .policy("address_lifetime = \"4s\"")
        .make();
    scene.fill();
    scene.start();
    let probe = takes_over(&scene, || {
        scene.node(ONE).kill_agent();
        scene.node(ONE).kill_web();
    });
    // Nothing comes from the dead one when its addresses are gone, or before.
    let name = scene.node(TWO).name().to_string();
    holds_for(
        Duration::from_secs(5),
        "mirror2 goes on serving",
        || match probe.log().last_node() {
            Some(node) if node == name => Ok(()),
            other => Err(format!("answer from {other:?}")),
        },
    );
    scene.node(ONE).start_web().expect("the web server starts");
    scene.start_agent(ONE);
    scene.wait_ready(TWO, ONE);
    scene.flush_and_compare(TWO);
}

#[test]
fn after_the_service_alone_dies() {
    let scene = Scene::replicated();
    takes_over(&scene, || scene.node(ONE).kill_web());
    let old = scene.wait_status(ONE, "gave the role up", |s| s.role != Role::Master);
    assert!(old.addresses.iter().all(|a| !a.held), "{:?}", old.addresses);
    scene.node(ONE).start_web().expect("the web server starts");
    scene.wait_ready(TWO, ONE);
    scene.flush_and_compare(TWO);
}

/// Two targets watch the network of each node, and one of them is switched off: neither node is cut off.
#[test]
fn with_one_of_two_targets_of_the_network_dead() {
    let target = "\n[[monitor]]\nname = \"dns\"\ncheck = \"command\"\ncounts_for = \"network\"\n\
                  command = [\"/usr/bin/test\", \"-e\", \"/srv/www/dns\"]\ninterval = \"200ms\"\n";
    let body = format!("{DEFAULT_BODY}{target}");
    let scene = SceneOptions::new().body(&body).make();
    scene.fill();
    scene.start();
    let shows = |health: Health, what: &str| {
        for n in [ONE, TWO] {
            scene.wait_status(n, what, |s| {
                let mut dns = s.monitors.iter().filter(|m| m.name == "dns");
                dns.any(|m| m.health == health)
            });
        }
    };
    scene.write(ONE, "dns", "it answers");
    shows(Health::Good, "sees the target");
    std::fs::remove_file(scene.file(ONE, "dns")).expect("removed");
    shows(Health::Bad, "sees that it is dead");
    takes_over(&scene, || scene.power_cut(ONE));
}

/// Not its carrier only: the device itself, as with a driver that crashed.
#[test]
fn after_the_masters_public_device_is_gone() {
    let scene = Scene::replicated();
    takes_over(&scene, || {
        let mut delete = std::process::Command::new("/sbin/ip");
        delete.args(["link", "delete", "eth0"]);
        let output = scene.node(ONE).output(delete, Duration::from_secs(10));
        assert!(output.expect("it runs").success());
    });
    scene.wait_status(ONE, "gave the role up", |s| s.role != Role::Master);
}

#[test]
fn after_the_masters_public_cable_is_lost() {
    let scene = Scene::replicated();
    let cable = scene.node(ONE).host.cable("eth0");
    takes_over(&scene, || cable.cut().expect("cut"));
    scene.wait_status(ONE, "gave the role up", |s| s.role != Role::Master);
    cable.heal().expect("healed");
    // It becomes the standby, and the role does not move back by itself.
    scene.wait_ready(TWO, ONE);
    scene.flush_and_compare(TWO);
}
