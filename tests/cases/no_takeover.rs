//! When the service must not move, and what is shown instead.

use crate::harness::*;
use std::time::{Duration, Instant};
use tandem::api::types::Role;

/// Long enough for every silence to be noticed: heartbeats are missed after 600 ms.
const WATCHED: Duration = Duration::from_secs(4);

fn stay(scene: &Scene, master: usize, standby: usize) -> impl FnMut() -> Result<(), String> {
    move || {
        let (m, s) = (scene.status(master)?, scene.status(standby)?);
        if m.role != Role::Master || s.role == Role::Master {
            return Err(format!("{:?} and {:?}", m.role, s.role));
        }
        Ok(())
    }
}

fn assert_no_gap(probe: &tandem_lab::Probe, since: Instant) {
    let gap = probe.log().longest_gap(since).expect("answers came");
    assert!(
        gap < Duration::from_secs(1),
        "the client saw a gap of {gap:?}"
    );
}

#[test]
fn when_only_the_private_cable_is_lost() {
    let scene = SceneOptions::new().policy("max_stale = \"3s\"").make();
    scene.fill();
    scene.start();
    let probe = scene.probe();
    scene.wait_served_by(&probe, ONE);
    let since = Instant::now();
    scene.node(ONE).host.cable("eth1").cut().expect("cut");
    holds_for(WATCHED, "nothing moves", stay(&scene, ONE, TWO));
    assert_no_gap(&probe, since);
    scene.write(ONE, "while-cut", "not on the standby");
    for n in [ONE, TWO] {
        scene.wait_status(n, "shows the dead link", |s| {
            s.links.iter().any(|l| l.name == "private" && !l.up)
                && s.links.iter().any(|l| l.name == "public" && l.up)
        });
    }
    let status = scene.wait_status(TWO, "says that it could not take over", |s| {
        !s.takeover.possible
    });
    assert!(!status.takeover.reasons.is_empty(), "{status:?}");
    for n in [ONE, TWO] {
        scene.wait_status(n, "says so as alarms", |s| {
            let says = |what: &str| s.alarms.iter().any(|a| a.contains(what));
            says("link private") && says("mirror2 could not take over") && says("no data session")
        });
    }
    // Days later, as it were, the master dies: the old data are not promoted.
    scene.power_cut(ONE);
    holds_for(
        WATCHED,
        "the stale standby is not promoted",
        || match scene.status(TWO)? {
            s if s.role == Role::Master => Err("it is master".into()),
            _ => Ok(()),
        },
    );
    scene.wait_status(TWO, "shows why", |s| {
        !s.takeover.possible && !s.alarms.is_empty()
    });
    scene.node(ONE).host.cable("eth1").heal().expect("healed");
    scene.power_on(ONE);
    scene.wait_ready(ONE, TWO);
    scene.flush_and_compare(ONE);
    assert_eq!(
        scene.read(TWO, "while-cut").as_deref(),
        Ok("not on the standby")
    );
}

/// Nothing of the master is heard, and the floating IP answers.
#[test]
fn when_the_only_link_is_lost() {
    let scene = SceneOptions::new().make();
    let public = |n: usize| {
        let address = tandem_lab::pair::public_address(n);
        format!("[[node.link]]\nname = \"public\"\naddress = \"{address}\"\ndevice = \"eth0\"\n")
    };
    let both = scene.pair.config();
    let one = [ONE, TWO]
        .iter()
        .fold(both.clone(), |text, n| text.replace(&public(*n), ""));
    assert_ne!(one, both);
    scene.pair.configure(&one).expect("written");
    scene.fill();
    scene.start();
    let probe = scene.probe();
    scene.wait_served_by(&probe, ONE);
    let since = Instant::now();
    let cable = scene.node(ONE).host.cable("eth1");
    cable.cut().expect("cut");
    scene.wait_status(TWO, "has asked", |s| {
        s.alarms
            .iter()
            .any(|a| a.contains("the agent on mirror1 is silent"))
    });
    holds_for(WATCHED, "nothing moves", stay(&scene, ONE, TWO));
    assert_no_gap(&probe, since);
    cable.heal().expect("healed");
    scene.wait_ready(ONE, TWO);
}

#[test]
fn when_only_the_standbys_public_cable_is_lost() {
    let scene = Scene::replicated();
    let probe = scene.probe();
    scene.wait_served_by(&probe, ONE);
    let since = Instant::now();
    let cable = scene.node(TWO).host.cable("eth0");
    cable.cut().expect("cut");
    holds_for(WATCHED, "nothing moves", stay(&scene, ONE, TWO));
    assert_no_gap(&probe, since);
    for n in [ONE, TWO] {
        let status = scene.wait_status(n, "says that no takeover is possible", |s| {
            !s.takeover.possible
        });
        assert!(!status.takeover.reasons.is_empty(), "{status:?}");
    }
    // Replication goes on over the private cable.
    scene.write(ONE, "meanwhile", "x");
    scene.flush_and_compare(ONE);
    cable.heal().expect("healed");
    scene.wait_ready(ONE, TWO);
}

#[test]
fn when_only_the_agent_is_lost() {
    let scene = Scene::replicated();
    let probe = scene.probe();
    scene.wait_served_by(&probe, ONE);
    let since = Instant::now();
    scene.node(ONE).kill_agent();
    holds_for(WATCHED, "the standby does not take over", || {
        match scene.status(TWO)? {
            s if s.role == Role::Master => Err("it is master".into()),
            _ => Ok(()),
        }
    });
    let status = scene.wait_status(TWO, "shows the silent peer", |s| {
        !s.peer.alive
            && s.alarms
                .iter()
                .any(|a| a == "the agent on mirror1 is silent, its service still answers")
    });
    assert_eq!(status.role, Role::Standby);
    scene.start_agent(ONE);
    scene.wait_ready(ONE, TWO);
    assert_no_gap(&probe, since);
    scene.write(ONE, "after", "x");
    scene.flush_and_compare(ONE);
}

#[test]
fn a_standby_left_stale_is_not_promoted_later() {
    let scene = SceneOptions::new()
        .policy("max_stale = \"3s\"\naddress_lifetime = \"60s\"")
        .make();
    scene.fill();
    scene.start();
    scene.node(ONE).kill_agent();
    scene.write(ONE, "unseen", "written without an agent");
    scene.wait_status(TWO, "is stale", |s| {
        !s.takeover.possible && !s.alarms.is_empty()
    });
    holds_for(WATCHED, "it stays a standby", || {
        match scene.status(TWO)? {
            s if s.takeover.possible => Err("it could take over".into()),
            s if s.role == Role::Master => Err("it is master".into()),
            _ => Ok(()),
        }
    });
    scene.power_cut(ONE);
    holds_for(WATCHED, "it is not promoted", || {
        match scene.status(TWO)? {
            s if s.role == Role::Master => Err("it is master".into()),
            _ => Ok(()),
        }
    });
    scene.power_on(ONE);
    scene.wait_ready(ONE, TWO);
    scene.flush_and_compare(ONE);
    assert_eq!(
        scene.read(TWO, "unseen").as_deref(),
        Ok("written without an agent")
    );
}

/// Each node hears or is heard on one link only, in one direction only.
#[test]
fn when_loss_is_one_way() {
    let scene = Scene::replicated();
    let probe = scene.probe();
    scene.wait_served_by(&probe, ONE);
    for (name, cable) in [
        (
            "the standby hears nothing on the cable",
            scene.node(TWO).host.cable("eth1"),
        ),
        (
            "the master hears nothing on the cable",
            scene.node(ONE).host.cable("eth1"),
        ),
    ] {
        cable.deafen().expect("deaf");
        holds_for(WATCHED, name, stay(&scene, ONE, TWO));
        cable.heal().expect("healed");
    }
    scene.wait_ready(ONE, TWO);
    scene.write(ONE, "after", "x");
    scene.flush_and_compare(ONE);
}
