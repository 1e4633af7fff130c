//! The commands, each against a running pair.

use crate::harness::*;
use std::time::{Duration, Instant};
use tandem::api::types::Role;

#[test]
fn is_says_the_role_by_its_exit_code() {
    let scene = Scene::replicated();
    let code = |n: usize, role: &str| scene.tandem(n, &["is", role]).code;
    assert_eq!(
        (code(ONE, "master"), code(TWO, "standby")),
        (Some(0), Some(0))
    );
    assert!(code(ONE, "standby").is_some_and(|c| c != 0));
    assert!(code(TWO, "master").is_some_and(|c| c != 0));
    let text = scene.tandem(ONE, &["status"]);
    assert!(
        text.success() && text.stdout.contains("master") && text.stdout.contains("www"),
        "{text:?}"
    );
}

#[test]
fn flush_returns_when_all_is_durable_there() {
    let scene = Scene::replicated();
    for n in 0..20 {
        scene.write(ONE, "flushed", format!("version {n}"));
        scene.flush(ONE);
        assert_eq!(scene.read(TWO, "flushed"), Ok(format!("version {n}")));
    }
    scene.power_cut(TWO);
    scene.write(ONE, "flushed", "nobody receives this");
    let output = scene.tandem(ONE, &["flush", "--timeout", "1s"]);
    assert!(!output.success(), "{output:?}");
    assert!(output.stderr.contains("not covered"), "{output:?}");
}

/// A cut cable shows as silence: nothing closes the connection.
#[test]
fn flush_over_a_cut_cable_ends_in_time_and_says_why() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    scene.node(ONE).host.cable("eth1").cut().expect("cut");
    scene.write(ONE, "flushed", "nobody receives this");
    let begun = Instant::now();
    let output = scene.tandem(ONE, &["flush", "--timeout", "1s"]);
    let took = begun.elapsed();
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output.stderr.contains("not durable on the peer within 1s"),
        "{output:?}"
    );
    assert!(
        !output.stdout.contains("durable on the other side"),
        "{output:?}"
    );
    assert!(took < Duration::from_secs(2), "took {took:?}");
}

#[test]
fn verify_finds_and_repairs_silent_damage() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    let output = scene.tandem(ONE, &["verify"]);
    assert!(output.success(), "{output:?}");
    damage(&scene.file(TWO, "d4/f39"), 1_000);
    // Of a file with two names.
    damage(&scene.file(TWO, "big"), 1_000_000);
    let found = scene.tandem(ONE, &["verify"]);
    assert!(
        !found.success() && found.stdout.contains("d4/f39") && found.stdout.contains("big"),
        "{found:?}"
    );
    let repaired = scene.tandem(ONE, &["verify", "--repair"]);
    scene.flush_and_compare(ONE);
    let output = scene.tandem(ONE, &["verify"]);
    assert!(output.success(), "{output:?} after {repaired:?}");
    let mut kept = scene.rescued_paths(TWO);
    kept.sort();
    assert_eq!(kept, ["big", "d4/f39"], "each damaged version once");
}

#[test]
fn verify_by_schedule_names_silent_damage() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    damage(&scene.file(TWO, "d4/f39"), 1_000);
    // The first round begins when there is a schedule.
    let tree = "path = \"/srv/www\"\n";
    let scheduled = format!("{tree}verify = \"1m\"\nverify_rate = \"50MB/s\"\n");
    let text = scene.pair.config().replace(tree, &scheduled);
    scene.pair.configure(&text).expect("written");
    for n in [TWO, ONE] {
        let output = scene.tandem(n, &["reload"]);
        assert!(output.success(), "{output:?}");
    }
    scene.wait_status(ONE, "names it", |s| {
        let verified = s.trees[0].verified.first();
        let found = verified.is_some_and(|v| v.last_differ == 1 && v.named == ["d4/f39"]);
        found && s.alarms.iter().any(|alarm| alarm.contains("d4/f39"))
    });
    let repaired = scene.tandem(ONE, &["verify", "--repair", "--rate", "50MB/s"]);
    assert!(repaired.success(), "{repaired:?}");
    scene.wait_status(ONE, "has nothing to say any more", |s| {
        !s.alarms.iter().any(|alarm| alarm.contains("d4/f39"))
    });
    scene.flush_and_compare(ONE);
}

#[test]
fn switchover_moves_and_maintenance_prevents() {
    let scene = Scene::replicated();
    let output = scene.tandem(ONE, &["switchover"]);
    assert!(output.success(), "{output:?}");
    scene.wait_ready(TWO, ONE);
    let output = scene.tandem(TWO, &["maintenance", "on"]);
    assert!(output.success(), "{output:?}");
    scene.wait_status(ONE, "shows the maintenance", |s| s.maintenance.is_some());
    scene.power_cut(TWO);
    holds_for(Duration::from_secs(4), "nothing moves", || {
        match scene.status(ONE)? {
            s if s.role == Role::Master => Err("it is master".into()),
            _ => Ok(()),
        }
    });
}

#[test]
fn takeover_by_force_shows_its_price() {
    let scene = SceneOptions::new().policy("max_stale = \"2s\"").make();
    scene.fill();
    scene.start();
    scene.node(ONE).host.cable("eth1").cut().expect("cut");
    scene.wait_status(TWO, "is stale", |s| !s.takeover.possible);
    scene.power_cut(ONE);
    let asked = scene.tandem(TWO, &["takeover"]);
    assert!(
        !asked.success(),
        "without --force it only shows the price: {asked:?}"
    );
    let unasked = scene.tandem(TWO, &["takeover", "--force"]);
    assert_eq!(unasked.code, Some(1), "nobody can be asked: {unasked:?}");
    assert!(unasked.stderr.contains("--yes"), "{unasked:?}");
    assert_eq!(scene.status(TWO).expect("it answers").role, Role::Standby);
    let done = scene.tandem(TWO, &["takeover", "--force", "--yes"]);
    assert!(done.success(), "{done:?}");
    assert!(done.stdout.contains("mirror2 is master"), "{done:?}");
    for shown in [&asked, &unasked, &done] {
        let price = "writes may be missing";
        assert!(shown.stdout.contains(price), "the price first: {shown:?}");
    }
    scene.wait_role(TWO, Role::Master);
}

#[test]
fn restart_and_sigterm_keep_the_service() {
    let scene = Scene::replicated();
    let probe = scene.probe();
    scene.wait_served_by(&probe, ONE);
    let since = Instant::now();
    let pid = scene.node(ONE).agent().expect("it runs").pid();
    let before = scene.status(ONE).expect("it answers");
    let (started, term) = (before.started_unix_ms, before.term);
    let output = scene.tandem(ONE, &["restart"]);
    assert!(output.success(), "{output:?}");
    scene.wait_status(ONE, "runs anew as master", |s| {
        s.started_unix_ms > started && s.role == Role::Master
    });
    assert_eq!(scene.node(ONE).agent().expect("it runs").pid(), pid);
    assert_eq!(
        scene.status(ONE).expect("it answers").term,
        term,
        "the role was kept, not won anew"
    );
    scene.wait_ready(ONE, TWO);
    let gap = probe.log().longest_gap(since).expect("answers came");
    assert!(
        gap < Duration::from_secs(1),
        "the client saw a gap of {gap:?}"
    );
    // SIGTERM: hands over first.
    scene
        .node(ONE)
        .agent()
        .expect("it runs")
        .signal(nix::sys::signal::Signal::SIGTERM);
    scene.wait_role(TWO, Role::Master);
    scene.wait_served_by(&probe, TWO);
    let ended = scene.node(ONE).agent().expect("known").wait(SOON);
    assert_eq!(ended.and_then(|s| s.code()), Some(0));
    scene.start_agent(ONE);
    scene.wait_ready(TWO, ONE);
    scene.flush_and_compare(TWO);
}

/// The standby has only just stepped down: it says with one of its next heartbeats that it could take over.
#[test]
fn a_stop_right_after_a_move_hands_over() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    let probe = scene.probe();
    scene.wait_served_by(&probe, ONE);
    let moved = scene.tandem(ONE, &["switchover"]);
    assert!(moved.success(), "{moved:?}");
    let stopped = Instant::now();
    let agent = scene.node(TWO).agent().expect("it runs");
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    scene.wait_role(ONE, Role::Master);
    scene.wait_served_by(&probe, ONE);
    let gap = probe.log().longest_gap(stopped).expect("answers");
    assert!(
        gap < Duration::from_millis(1500),
        "not handed over: {gap:?}"
    );
}

#[test]
fn restart_alone_keeps_the_service() {
    let scene = Scene::replicated();
    let probe = scene.probe();
    scene.wait_served_by(&probe, ONE);
    scene.power_cut(TWO);
    scene.wait_status(ONE, "misses its peer", |s| !s.peer.alive);
    let before = scene.status(ONE).expect("it answers");
    let since = Instant::now();
    // A configuration that the new process would refuse: nothing ends.
    let good = scene.pair.config();
    scene
        .pair
        .configure(&good.replace("[[tree]]", "[[tre]]"))
        .expect("written");
    let output = scene.tandem(ONE, &["restart"]);
    assert!(!output.success(), "{output:?}");
    scene.pair.configure(&good).expect("written");
    let output = scene.tandem(ONE, &["restart"]);
    assert!(output.success(), "{output:?}");
    let after = scene.wait_status(ONE, "runs anew as master", |s| {
        s.started_unix_ms > before.started_unix_ms
            && s.role == Role::Master
            && s.addresses.iter().all(|a| a.held)
    });
    assert_eq!(after.term, before.term);
    assert_eq!(after.trees[0].epoch, before.trees[0].epoch);
    scene.write(ONE, "index.html", "written after the restart");
    scene.power_on(TWO);
    scene.wait_ready(ONE, TWO);
    scene.flush_and_compare(ONE);
    let gap = probe.log().longest_gap(since).expect("answers came");
    assert!(
        gap < Duration::from_secs(1),
        "the client saw a gap of {gap:?}"
    );
}

#[test]
fn reload_applies_by_difference_or_not_at_all() {
    let scene = Scene::replicated();
    let good = scene.pair.config();
    scene
        .pair
        .configure(&good.replace("[[tree]]", "[[tre]]"))
        .expect("written");
    let output = scene.tandem(ONE, &["reload"]);
    assert!(
        !output.success() && output.stderr.contains("tre"),
        "{output:?}"
    );
    assert_eq!(scene.status(ONE).expect("it answers").role, Role::Master);
    let new = good.replace("name = \"www\"\n", "name = \"www\"\nmax_delete = \"40%\"\n");
    assert_ne!(new, good);
    scene.pair.configure(&new).expect("written");
    for n in [ONE, TWO] {
        let output = scene.tandem(n, &["reload"]);
        assert!(output.success(), "{output:?}");
    }
    scene.wait_ready(ONE, TWO);
    scene.wait_status(ONE, "equal configurations", |s| {
        s.config.equal == Some(true)
    });
    let check = scene.tandem(ONE, &["check"]);
    assert!(check.success(), "{check:?}");
}
