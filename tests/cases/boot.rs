//! Who becomes master when machines come back, and with whose data.

use crate::harness::*;
use std::fs;
use std::time::Duration;
use tandem::api::types::{Role, TreeState};
use tandem_lab::remove_tree;

#[test]
fn both_return_at_once() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    scene.power_cut(ONE);
    scene.power_cut(TWO);
    for n in [ONE, TWO] {
        scene.node(n).power_on().expect("it boots");
    }
    // Equal data: the preferred node.
    scene.wait_ready(ONE, TWO);
    scene.flush_and_compare(ONE);
}

#[test]
fn both_return_and_the_newer_data_win() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    scene.power_cut(ONE);
    scene.wait_role(TWO, Role::Master);
    scene.write(TWO, "newer", "only on mirror2");
    eventually(SOON, "mirror2 knows its own write", || {
        let status = scene.status(TWO)?;
        let files = status.trees[0].queue;
        if files > 0 {
            Ok(())
        } else {
            Err(format!("queue {files}"))
        }
    });
    scene.power_cut(TWO);
    for n in [ONE, TWO] {
        scene.node(n).power_on().expect("it boots");
    }
    scene.wait_ready(TWO, ONE);
    scene.flush_and_compare(TWO);
    assert_eq!(scene.read(ONE, "newer").as_deref(), Ok("only on mirror2"));
}

#[test]
fn one_boots_alone() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    scene.power_cut(ONE);
    scene.power_cut(TWO);
    scene.power_on(TWO);
    scene.never_master(TWO);
    scene.wait_status(TWO, "waits and says why", |s| {
        s.role == Role::Joining && !s.alarms.is_empty()
    });
    scene.power_cut(TWO);
    // The old master cannot know either whether the other took over meanwhile.
    scene.power_on(ONE);
    scene.never_master(ONE);
    scene.power_on(TWO);
    scene.wait_ready(ONE, TWO);
    scene.flush_and_compare(ONE);
}

#[test]
fn a_master_that_was_alone_may_boot_alone() {
    let scene = SceneOptions::new().policy("max_stale = \"2s\"").make();
    scene.fill();
    scene.start();
    scene.flush(ONE);
    scene.power_cut(TWO);
    // Longer than the other one could still have taken over by itself.
    holds_for(Duration::from_secs(5), "the master stays", || {
        match scene.status(ONE)? {
            s if s.role == Role::Master => Ok(()),
            s => Err(format!("{:?}", s.role)),
        }
    });
    scene.write(ONE, "alone", "written alone");
    scene.power_cut(ONE);
    scene.power_on(ONE);
    scene.wait_role(ONE, Role::Master);
    scene.power_on(TWO);
    scene.wait_ready(ONE, TWO);
    scene.flush_and_compare(ONE);
    assert_eq!(scene.read(TWO, "alone").as_deref(), Ok("written alone"));
}

/// The master dies, its successor writes and dies, the first one comes back alone with the old data.
#[test]
fn double_failure() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    scene.power_cut(ONE);
    scene.wait_role(TWO, Role::Master);
    scene.write(TWO, "newer", "only on mirror2");
    scene.power_cut(TWO);
    scene.power_on(ONE);
    scene.never_master(ONE);
    scene.power_on(TWO);
    scene.wait_ready(TWO, ONE);
    scene.flush_and_compare(TWO);
    assert_eq!(scene.read(ONE, "newer").as_deref(), Ok("only on mirror2"));
}

#[test]
fn a_half_copied_standby_is_not_promoted() {
    let scene = SceneOptions::new().make();
    // The first copy takes seconds, however fast the machine is.
    let limited = format!(
        "{}\n[[tree.limit]]\nrate = \"5MB/s\"\n",
        scene.pair.config()
    );
    scene.pair.configure(&limited).expect("written");
    scene.fill();
    for d in 0..60 {
        for f in 0..200 {
            scene.write(
                ONE,
                &format!("many/{d}/{f}"),
                format!("{d} {f}").repeat(400),
            );
        }
    }
    scene.start_agent(ONE);
    scene.init(ONE);
    scene.start_agent(TWO);
    eventually(SOON, "the first copy has begun", || {
        let some = fs::read_dir(scene.file(TWO, "many")).map_err(|e| e.to_string())?;
        if some.count() > 0 {
            Ok(())
        } else {
            Err("nothing yet".into())
        }
    });
    scene.power_cut(ONE);
    let status = scene.status(TWO).expect("it answers");
    assert_eq!(
        status.trees[0].state,
        TreeState::Copying,
        "the power cut came in time"
    );
    scene.never_master(TWO);
    scene.wait_status(TWO, "says why", |s| {
        !s.takeover.possible && !s.takeover.reasons.is_empty()
    });
    scene.power_on(ONE);
    scene.wait_ready(ONE, TWO);
    scene.flush_and_compare(ONE);
}

/// The standby starts again and again, and nobody is there. What the absent master wrote last is newer.
#[test]
fn three_lonely_reboots() {
    let scene = SceneOptions::new().policy("max_stale = \"2s\"").make();
    scene.fill();
    scene.start();
    scene.flush(ONE);
    scene.power_cut(TWO);
    scene.write(ONE, "newer", "only on mirror1");
    scene.power_cut(ONE);
    for _ in 0..3 {
        scene.power_on(TWO);
        scene.never_master(TWO);
        scene.power_cut(TWO);
    }
    for n in [TWO, ONE] {
        scene.node(n).power_on().expect("it boots");
    }
    scene.wait_ready(ONE, TWO);
    scene.flush_and_compare(ONE);
    assert_eq!(scene.read(TWO, "newer").as_deref(), Ok("only on mirror1"));
}

/// An old master hears that there is a new one, and receives nothing of its data: the number that it heard makes
/// its data no newer.
#[test]
fn heard_the_new_term_and_then_stood_alone() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    scene.power_cut(ONE);
    let two = scene.wait_role(TWO, Role::Master);
    scene.write(TWO, "newer", "only on mirror2");
    // The public network carries heartbeats and no data.
    let cable = scene.node(ONE).host.cable("eth1");
    cable.cut().expect("cut");
    scene.power_on(ONE);
    scene.wait_status(ONE, "hears the new term", |s| {
        s.peer.alive && s.term == two.term && s.role == Role::Standby
    });
    assert!(!exists(&scene.file(ONE, "newer")));
    scene.power_cut(TWO);
    scene.never_master(ONE);
    scene.power_cut(ONE);
    scene.power_on(ONE);
    scene.never_master(ONE);
    cable.heal().expect("healed");
    scene.power_on(TWO);
    scene.wait_ready(TWO, ONE);
    scene.flush_and_compare(TWO);
    assert_eq!(scene.read(ONE, "newer").as_deref(), Ok("only on mirror2"));
}

#[test]
fn an_empty_replaced_disk_receives() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    scene.power_cut(ONE);
    scene.wait_role(TWO, Role::Master);
    scene.write(TWO, "meanwhile", "x");
    let before = tandem_lab::summarize(&scene.node(TWO).www(), &[".tandem"]).expect("counted");
    // Key and configuration were put on the new disk again; data and state are gone.
    for lost in ["/srv/www", "/var/lib/tandem"] {
        let dir = scene.node(ONE).host.outside_path(lost);
        remove_tree(&dir).expect("removed");
        fs::create_dir(&dir).expect("made");
    }
    scene.power_on(ONE);
    scene.wait_ready(TWO, ONE);
    scene.flush_and_compare(TWO);
    let after = tandem_lab::summarize(&scene.node(ONE).www(), &[".tandem"]).expect("counted");
    assert_eq!(before, after);
}
