//! The whole story once, as the demo tells it.

use crate::harness::*;
use std::time::{Duration, Instant};

#[test]
fn the_story_of_the_demo() {
    let scene = Scene::replicated();
    scene.flush_and_compare(ONE);
    let probe = scene.probe();
    scene.wait_served_by(&probe, ONE);

    let answer = scene
        .http()
        .put("/changed", "through the floating IP")
        .expect("stored");
    assert_eq!((answer.status, answer.node.as_str()), (200, "mirror1"));
    eventually(SOON, "the change arrives", || {
        match scene.read(TWO, "changed")?.as_str() {
            "through the floating IP" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });

    // The IPv6 address as well.
    let server = std::net::SocketAddr::new(tandem_lab::pair::FLOATING6, tandem_lab::pair::WEB_PORT);
    let client6 = tandem_lab::HttpClient::new(&scene.pair.client, server, Duration::from_secs(2));
    assert_eq!(client6.get("/changed").expect("answered").node, "mirror1");

    // The private cable goes an instant before the power: what is written in between cannot have arrived.
    scene.node(ONE).host.cable("eth1").cut().expect("cut");
    scene.write(ONE, "late", "written just before the power cut");
    let cut = Instant::now();
    scene.power_cut(ONE);
    scene.wait_served_by(&probe, TWO);
    let gap = probe.log().longest_gap(cut).expect("answers came");
    assert!(
        gap < Duration::from_secs(5),
        "the client saw a gap of {gap:?}"
    );
    let answer = scene
        .http()
        .put("/new-master", "written on the new master")
        .expect("stored");
    assert_eq!((answer.status, answer.node.as_str()), (200, "mirror2"));
    assert_eq!(client6.get("/changed").expect("answered").node, "mirror2");

    scene.node(ONE).host.cable("eth1").heal().expect("healed");
    scene.power_on(ONE);
    scene.wait_ready(TWO, ONE);
    scene.flush_and_compare(TWO);
    assert!(!exists(&scene.file(ONE, "late")));
    let rescued = scene.rescued(ONE);
    assert!(
        rescued.iter().any(|item| item.path == "late"),
        "{rescued:?}"
    );

    let moved = Instant::now();
    let output = scene.tandem(ONE, &["failback"]);
    assert!(output.success(), "failback: {output:?}");
    scene.wait_served_by(&probe, ONE);
    scene.wait_ready(ONE, TWO);
    let gap = probe.log().longest_gap(moved).expect("answers came");
    assert!(
        gap < Duration::from_secs(3),
        "fail-back had a gap of {gap:?}"
    );
    assert_eq!(
        scene.read(ONE, "new-master").as_deref(),
        Ok("written on the new master")
    );
    scene.write(ONE, "last", "after the fail-back");
    scene.flush_and_compare(ONE);
    rsync_sees_no_difference(&scene);
}
