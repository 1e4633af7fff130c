//! Replicas: fed by whichever node is master, without a part in failover.

use crate::harness::*;
use nix::sys::signal::Signal;
use std::fs;
use std::time::{Duration, Instant};
use tandem::api::types::{ReplicaStatus, Role, StatusReport, TreeState};

/// The replicas stand behind the two nodes.
const WEB1: usize = 2;
const WEB2: usize = 3;

/// A flush with a standby on the same machine takes some milliseconds; this leaves room for a busy one, and is far below
/// any timeout of a connection that hangs.
const FLUSH: Duration = Duration::from_secs(5);

/// The usual scene with two replicas that have everything.
fn fed() -> Scene {
    let scene = SceneOptions::new().replicas(2).make();
    scene.fill();
    scene.start();
    for web in [WEB1, WEB2] {
        scene.start_agent(web);
    }
    wait_fed(&scene, ONE, &[WEB1, WEB2]);
    scene
}

fn of<'s>(status: &'s StatusReport, scene: &Scene, web: usize) -> &'s ReplicaStatus {
    let mut replicas = status.replicas.iter();
    let name = scene.node(web).name();
    let found = replicas.find(|r| r.name == name);
    found.expect("a master shows every replica")
}

/// Waits until the master says that these replicas have everything, and they say the same.
#[track_caller]
fn wait_fed(scene: &Scene, master: usize, webs: &[usize]) {
    scene.wait_status(master, "feeds the replicas", |s| {
        let fed = |web: &usize| {
            // After a reload they are not there at once.
            let name = scene.node(*web).name();
            let mut replicas = s.replicas.iter();
            replicas.any(|r| r.name == name && r.in_sync && r.lag_ms == Some(0))
        };
        s.role == Role::Master && webs.iter().all(fed)
    });
    for web in webs {
        scene.wait_status(*web, "has everything", |s| {
            let consistent = s.trees.iter().all(|t| t.state == TreeState::Consistent);
            s.role == Role::Replica && s.session.up && consistent
        });
    }
}

#[track_caller]
fn assert_equal(scene: &Scene, left: usize, right: usize) {
    let (a, b) = (scene.node(left).www(), scene.node(right).www());
    let found = tandem_lab::compare_trees(&a, &b, &[".tandem"]).expect("the trees can be read");
    let list: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(
        found.is_empty(),
        "the trees differ:\n  {}",
        list.join("\n  ")
    );
}

/// Waits until a file in the tree of a machine has this content.
#[track_caller]
fn wait_file(scene: &Scene, n: usize, name: &str, content: &str) {
    let what = format!("{name} is on {}", scene.node(n).name());
    eventually(SOON, &what, || match scene.read(n, name)? {
        found if found == content => Ok(()),
        found => Err(found),
    });
}

/// Bytes that a replica has received on its cable since it was switched on.
fn received(scene: &Scene, web: usize) -> u64 {
    let pid = scene.node(web).agent().expect("it runs").pid();
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).expect("its network is seen");
    let line = text.lines().find_map(|l| l.trim().strip_prefix("eth0:"));
    let first = line.expect("it has the device").split_whitespace().next();
    first.expect("a counter").parse().expect("a number")
}

#[test]
fn they_follow_the_new_master_and_keep_what_only_the_old_one_had_sent() {
    let scene = fed();
    for web in [WEB1, WEB2] {
        assert_equal(&scene, ONE, web);
    }
    let before = received(&scene, WEB1);
    // The pair's data go over the private cable only, the replicas' over the public one.
    let cable = scene.node(ONE).host.cable("eth1");
    cable.deafen().expect("deaf");
    cable.mute().expect("mute");
    scene.write(ONE, "late", "the standby never got it");
    for web in [WEB1, WEB2] {
        wait_file(&scene, web, "late", "the standby never got it");
    }
    scene.power_cut(ONE);
    scene.wait_role(TWO, Role::Master);
    scene.write(TWO, "of-two", "written on mirror2");
    wait_fed(&scene, TWO, &[WEB1, WEB2]);
    for web in [WEB1, WEB2] {
        wait_file(&scene, web, "of-two", "written on mirror2");
        assert_equal(&scene, TWO, web);
        assert_eq!(scene.rescued_paths(web), ["late"]);
        let status = scene.status(web).expect("it answers");
        assert_eq!(status.peer.node, "mirror2");
    }
    let sent = received(&scene, WEB1) - before;
    assert!(
        sent < 1_000_000,
        "{sent} bytes came: the tree was sent again"
    );
    // The old master comes back and is the standby; the replicas stay with the new one.
    scene.power_on(ONE);
    cable.heal().expect("healed");
    scene.wait_ready(TWO, ONE);
    scene.write(TWO, "after", "goes on");
    scene.flush(TWO);
    wait_fed(&scene, TWO, &[WEB1, WEB2]);
    assert_equal(&scene, TWO, WEB2);
}

#[test]
fn one_that_hangs_and_one_that_is_dead_slow_nothing() {
    let scene = fed();
    scene
        .node(WEB1)
        .agent()
        .expect("it runs")
        .signal(Signal::SIGSTOP);
    scene.power_cut(WEB2);
    for n in 0..40 {
        scene.write(ONE, &format!("much/{n}"), vec![n as u8; 1_000_000]);
    }
    let begun = Instant::now();
    scene.flush(ONE);
    let took = begun.elapsed();
    assert!(took < FLUSH, "the flush took {took:?}");
    assert_equal_trees(&scene);
    let status = scene.wait_status(ONE, "knows who is behind", |s| {
        let lags = |web| of(s, &scene, web).lag_ms.is_none_or(|lag| lag > 0);
        // What was written a moment ago is looked at once more, and that is sent too: the pair comes to rest by itself.
        lags(WEB1) && lags(WEB2) && s.trees.iter().all(|t| t.lag_ms == Some(0))
    });
    assert!(status.takeover.possible, "{}", brief(&status));
    scene
        .node(WEB1)
        .agent()
        .expect("it runs")
        .signal(Signal::SIGCONT);
    scene.power_on(WEB2);
    wait_fed(&scene, ONE, &[WEB1, WEB2]);
    for web in [WEB1, WEB2] {
        assert_equal(&scene, ONE, web);
    }
}

/// Damage on one replica is named with it, and mended there alone; who is away is said.
#[test]
fn verify_compares_a_replica_and_mends_it_alone() {
    let scene = fed();
    scene.flush(ONE);
    scene.power_cut(WEB2);
    damage(&scene.file(WEB1, "d4/f39"), 1_000);
    // From the standby too: the master compares.
    let output = scene.tandem(TWO, &["verify", "--replica", "web1"]);
    let named = "www: d4/f39: different contents on web1\n";
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stdout.starts_with(named), "{output:?}");
    scene.wait_status(ONE, "names the replica", |s| {
        let mut verified = s.trees[0].verified.iter();
        let found = verified.any(|v| v.receiver == "web1" && v.named == ["d4/f39"]);
        let command = "verify --replica web1 --tree www --repair";
        found && s.alarms.iter().any(|alarm| alarm.contains(command))
    });
    let page = scene.tandem(ONE, &["status"]).stdout;
    assert!(page.contains("verified against web1"), "{page}");
    let output = scene.tandem(ONE, &["verify"]);
    assert!(output.success(), "the standby has no damage: {output:?}");
    let repair = ["verify", "--replica", "web1", "--tree", "www", "--repair"];
    let output = scene.tandem(ONE, &repair);
    assert!(output.success(), "{output:?}");
    assert_equal(&scene, ONE, WEB1);
    assert_eq!(scene.rescued_paths(WEB1), ["d4/f39"]);
    assert!(scene.rescued_paths(TWO).is_empty());
    scene.wait_status(ONE, "has nothing to say of web1", |s| {
        !s.alarms.iter().any(|alarm| alarm.contains("web1"))
    });
    for (replica, said) in [("web2", "replica web2 is away"), ("web9", "web9")] {
        let output = scene.tandem(ONE, &["verify", "--replica", replica]);
        assert!(
            !output.success() && output.stderr.contains(said),
            "{output:?}"
        );
    }
}

#[test]
fn its_commands_are_those_of_a_receiver() {
    let scene = fed();
    assert_eq!(scene.tandem(WEB1, &["is", "replica"]).code, Some(0));
    assert_eq!(scene.tandem(WEB1, &["is", "standby"]).code, Some(1));
    for command in [
        &["init", "--source"][..],
        &["flush"],
        &["failback"],
        &["verify"],
        &["maintenance", "on"],
    ] {
        let output = scene.tandem(WEB1, command);
        assert!(!output.success(), "{command:?}: {output:?}");
        let said = output.stderr.contains("this machine is a replica");
        assert!(said, "{command:?}: {output:?}");
    }
    let check = scene.tandem(WEB1, &["check"]);
    assert!(check.stdout.contains("is the replica web1"), "{check:?}");
    let page = scene.tandem(WEB1, &["status"]).stdout;
    assert!(
        page.contains("REPLICA") && page.contains("mirror1"),
        "{page}"
    );
    let page = scene.tandem(ONE, &["status"]).stdout;
    assert!(page.contains("web1") && page.contains("in sync"), "{page}");
    // What somebody writes here is no data: the master's version comes back, this one is in the rescue.
    scene.write(WEB1, "index.html", "written on the replica");
    wait_file(&scene, WEB1, "index.html", "first page");
    eventually(SOON, "it is in the rescue", || {
        let found = scene.rescued_paths(WEB1);
        match found == ["index.html"] {
            true => Ok(()),
            false => Err(format!("{found:?}")),
        }
    });
    let restart = scene.tandem(WEB1, &["restart"]);
    assert!(restart.success(), "{restart:?}");
    scene.write(ONE, "later", "after the restart");
    wait_file(&scene, WEB1, "later", "after the restart");
    // Without it in the configuration it is not fed; with it it is again.
    let with = scene.pair.config();
    let without = with.split("[[replica]]").next().expect("the beginning");
    scene.node(ONE).configure(without).expect("written");
    assert!(scene.tandem(ONE, &["reload"]).success());
    scene.wait_status(ONE, "has no replicas", |s| s.replicas.is_empty());
    fs::rename(scene.file(ONE, "d1"), scene.file(ONE, "renamed")).expect("renamed");
    scene.flush(ONE);
    scene.node(ONE).configure(&with).expect("written");
    assert!(scene.tandem(ONE, &["reload"]).success());
    wait_fed(&scene, ONE, &[WEB1, WEB2]);
    assert_equal(&scene, ONE, WEB1);
}
