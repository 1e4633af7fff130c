//! Whose data count when a node comes back with another past than it left with: lost state, put-back backups and
//! snapshots, data that never met.

use crate::harness::*;
use std::fs;
use tandem::api::types::Role;
use tandem_lab::remove_tree;

const STATE: &str = "/var/lib/tandem";

fn lose_state(scene: &Scene, n: usize) {
    let dir = scene.node(n).host.outside_path(STATE);
    remove_tree(&dir).expect("removed");
    fs::create_dir(&dir).expect("made");
}

#[track_caller]
fn accept_peer(scene: &Scene, n: usize) {
    let output = scene.tandem(n, &["adopt", "--yes"]);
    assert!(output.success(), "adopt: {output:?}");
}

/// The standby knows nothing any more of what it has. It receives; what only it has goes to its rescue.
#[test]
fn state_lost_on_the_standby() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    scene.power_cut(TWO);
    lose_state(&scene, TWO);
    scene.write(TWO, "index.html", "another content");
    scene.write(TWO, "only-here", "of nobody else");
    scene.write(ONE, "meanwhile", "x");
    scene.power_on(TWO);
    scene.wait_ready(ONE, TWO);
    scene.flush_and_compare(ONE);
    let sets = scene.rescue_list(TWO).sets;
    assert!(sets.iter().all(|set| set.base_unknown), "{sets:?}");
    let mut paths = scene.rescued_paths(TWO);
    paths.sort();
    assert_eq!(
        paths,
        ["index.html", "only-here"],
        "equal files are not in it"
    );
}

/// The old master comes back without state. The other one is master by then: it has the data.
#[test]
fn state_lost_on_the_master() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    scene.node(ONE).host.cable("eth1").cut().expect("cut");
    scene.write(ONE, "late", "never replicated");
    scene.power_cut(ONE);
    scene.wait_role(TWO, Role::Master);
    scene.write(TWO, "newer", "only on mirror2");
    lose_state(&scene, ONE);
    scene.node(ONE).host.cable("eth1").heal().expect("healed");
    scene.power_on(ONE);
    scene.wait_ready(TWO, ONE);
    scene.flush_and_compare(TWO);
    assert_eq!(scene.read(ONE, "newer").as_deref(), Ok("only on mirror2"));
    let sets = scene.rescue_list(ONE).sets;
    assert!(sets.iter().all(|set| set.base_unknown), "{sets:?}");
    assert!(scene.rescued_paths(ONE).contains(&"late".to_string()));
}

/// Both boot, and the one that was master has lost its state: it is never the source.
#[test]
fn state_lost_on_the_master_and_both_boot() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    scene.power_cut(ONE);
    scene.power_cut(TWO);
    lose_state(&scene, ONE);
    scene.write(ONE, "index.html", "changed by nobody knows whom");
    for n in [ONE, TWO] {
        scene.node(n).power_on().expect("it boots");
    }
    scene.wait_ready(TWO, ONE);
    scene.flush_and_compare(TWO);
    assert_eq!(scene.read(TWO, "index.html").as_deref(), Ok("first page"));
    assert_eq!(scene.rescued_paths(ONE), ["index.html"]);
}

/// Nobody knows anything any more: a person says again whose data count.
#[test]
fn state_lost_on_both() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    for n in [ONE, TWO] {
        scene.power_cut(n);
        lose_state(&scene, n);
    }
    scene.write(ONE, "index.html", "of mirror1");
    scene.write(TWO, "index.html", "of mirror2");
    for n in [ONE, TWO] {
        scene.power_on(n);
    }
    for n in [ONE, TWO] {
        scene.wait_status(n, "waits for a first direction", |s| {
            s.role != Role::Master && s.alarms.iter().any(|a| a.contains("tandem init --source"))
        });
    }
    scene.init(TWO);
    scene.wait_ready(TWO, ONE);
    scene.flush_and_compare(TWO);
    assert_eq!(scene.read(ONE, "index.html").as_deref(), Ok("of mirror2"));
    assert_eq!(scene.rescued_paths(ONE), ["index.html"]);
}

/// Two nodes with data of their own that never met: nothing moves until a person says who receives.
#[test]
fn unrelated_data_wait_for_adopt() {
    let scene = SceneOptions::new().make();
    scene.fill();
    for (n, other) in [(ONE, TWO), (TWO, ONE)] {
        scene.write(n, "both", format!("of {}", scene.node(n).name()));
        scene.write(n, &format!("only-{n}"), "x");
        scene.start_agent(n);
        scene.init(n);
        scene.wait_status(n, "has its first epoch", |s| s.trees[0].epoch.is_some());
        scene.power_cut(n);
        assert!(!exists(&scene.file(other, &format!("only-{n}"))));
    }
    for n in [ONE, TWO] {
        scene.power_on(n);
    }
    for n in [ONE, TWO] {
        let status = scene.wait_status(n, "sees unrelated data", |s| s.relation == "unrelated");
        assert!(!status.takeover.possible, "{}", brief(&status));
        scene.wait_status(n, "names the remedy", |s| {
            s.alarms.iter().any(|a| a.contains("tandem adopt"))
        });
    }
    scene.never_master(TWO);
    assert_eq!(scene.read(ONE, "both").as_deref(), Ok("of mirror1"));
    assert_eq!(scene.read(TWO, "both").as_deref(), Ok("of mirror2"));
    accept_peer(&scene, ONE);
    scene.wait_ready(TWO, ONE);
    scene.flush_and_compare(TWO);
    assert_eq!(scene.read(ONE, "both").as_deref(), Ok("of mirror2"));
    let rescued = scene.rescued_paths(ONE);
    for path in ["both", "only-0", "index.html", "big"] {
        assert!(rescued.iter().any(|p| p == path), "{path}: {rescued:?}");
    }
}

/// Each wrote as master of a term that the other one never followed: a person says whose data count. Nothing is lost.
#[test]
fn diverged_data_wait_for_a_person() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    let write_as_master = |n: usize| {
        scene.wait_role(n, Role::Master);
        scene.write(n, "both", format!("of {}", scene.node(n).name()));
        scene.wait_status(n, "knows its own write", |s| s.trees[0].queue > 0);
        scene.power_cut(n);
    };
    scene.power_cut(ONE);
    write_as_master(TWO);
    scene.power_on(ONE);
    let output = scene.tandem(ONE, &["takeover", "--force", "--yes"]);
    assert!(output.success(), "{output:?}");
    write_as_master(ONE);
    for n in [ONE, TWO] {
        scene.power_on(n);
    }
    for n in [ONE, TWO] {
        scene.wait_status(n, "names the remedy", |s| {
            s.role != Role::Master
                && s.alarms
                    .iter()
                    .any(|a| a.contains("tandem takeover --force"))
        });
    }
    let output = scene.tandem(ONE, &["takeover", "--force", "--yes"]);
    assert!(output.success(), "{output:?}");
    scene.wait_ready(ONE, TWO);
    scene.flush_and_compare(ONE);
    assert_eq!(scene.read(TWO, "both").as_deref(), Ok("of mirror1"));
    assert_eq!(scene.rescued_paths(TWO), ["both"]);
}

/// The trees of a returning node were put back from a backup while it was off. Nothing newer is overwritten.
#[test]
fn trees_restored_from_backup_while_away() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    let backup = scene.node(ONE).host.snapshot().expect("copied");
    scene.write(ONE, "index.html", "second page");
    scene.write(ONE, "since-the-backup", "x");
    scene.flush_and_compare(ONE);
    scene.power_cut(ONE);
    scene.wait_role(TWO, Role::Master);
    scene.write(TWO, "newer", "only on mirror2");
    scene
        .node(ONE)
        .host
        .restore(&backup, "/srv")
        .expect("restored");
    scene.power_on(ONE);
    scene.wait_ready(TWO, ONE);
    scene.flush_and_compare(TWO);
    assert_eq!(scene.read(TWO, "index.html").as_deref(), Ok("second page"));
    assert_eq!(scene.read(ONE, "since-the-backup").as_deref(), Ok("x"));
    // What lay there differs from what the pair had: it is kept.
    assert!(scene.rescued_paths(ONE).contains(&"index.html".to_string()));
}

/// The standby's machine is put back to an earlier moment, state and data alike: it does not pass for current.
#[test]
fn a_snapshot_of_the_standby_is_put_back() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    scene.power_cut(TWO);
    let snapshot = scene.node(TWO).host.snapshot().expect("copied");
    scene.power_on(TWO);
    scene.wait_ready(ONE, TWO);
    scene.write(ONE, "index.html", "second page");
    scene.flush(ONE);
    scene.power_cut(TWO);
    scene
        .node(TWO)
        .host
        .restore(&snapshot, "/")
        .expect("restored");
    scene.power_on(TWO);
    let status = scene.wait_status(ONE, "sees the past", |s| s.peer.identity.is_some());
    assert!(!status.takeover.possible && status.role == Role::Master);
    assert!(status.alarms.iter().any(|a| a.contains("tandem adopt")));
    accept_peer(&scene, ONE);
    scene.wait_ready(ONE, TWO);
    scene.flush_and_compare(ONE);
    assert_eq!(scene.read(TWO, "index.html").as_deref(), Ok("second page"));
}

/// The preferred node is put back to an earlier moment while both are off. It has forgotten what it acknowledged:
/// it is not chosen, and nothing of the other's is overwritten.
#[test]
fn a_snapshot_of_the_master_is_put_back_and_both_boot() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    for n in [TWO, ONE] {
        scene.power_cut(n);
    }
    let snapshot = scene.node(ONE).host.snapshot().expect("copied");
    for n in [ONE, TWO] {
        scene.node(n).power_on().expect("it boots");
    }
    scene.wait_ready(ONE, TWO);
    scene.write(ONE, "index.html", "second page");
    scene.write(ONE, "since", "x");
    scene.flush_and_compare(ONE);
    scene.power_cut(ONE);
    scene.power_cut(TWO);
    scene
        .node(ONE)
        .host
        .restore(&snapshot, "/")
        .expect("restored");
    for n in [ONE, TWO] {
        scene.power_on(n);
    }
    scene.wait_status(TWO, "sees the past", |s| s.peer.identity.is_some());
    scene.never_master(ONE);
    assert_eq!(scene.read(TWO, "index.html").as_deref(), Ok("second page"));
    accept_peer(&scene, TWO);
    scene.wait_ready(TWO, ONE);
    scene.flush_and_compare(TWO);
    for n in [ONE, TWO] {
        assert_eq!(scene.read(n, "index.html").as_deref(), Ok("second page"));
        assert_eq!(scene.read(n, "since").as_deref(), Ok("x"));
    }
}
