//! During a full first copy: the status answers at once, heartbeats arrive, nothing moves.

use crate::harness::*;
use std::time::{Duration, Instant};
use tandem::api::types::{Role, TreeState};

#[test]
fn status_and_heartbeats_during_a_first_copy() {
    let scene = SceneOptions::new().make();
    scene.fill();
    for d in 0..100 {
        for f in 0..150 {
            scene.write(ONE, &format!("many/{d}/{f}"), vec![(d ^ f) as u8; 3000]);
        }
    }
    for n in 0..20_u8 {
        scene.write(ONE, &format!("large/{n}"), vec![n; 10_000_000]);
    }
    let probe = scene.probe();
    scene.start_agent(ONE);
    scene.start_agent(TWO);
    scene.init(ONE);
    scene.wait_served_by(&probe, ONE);
    let since = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let apis = [scene.api(ONE), scene.api(TWO)];
    let mut took = Vec::new();
    let mut copying = 0;
    loop {
        for n in [ONE, TWO] {
            let asked = Instant::now();
            let status = runtime.block_on(apis[n].status()).expect("it answers");
            took.push(asked.elapsed());
            let role = if n == ONE {
                Role::Master
            } else {
                Role::Standby
            };
            assert!(
                status.role == role || status.role == Role::Joining,
                "{}",
                brief(&status)
            );
            if status.role == Role::Joining {
                continue;
            }
            assert!(status.peer.alive, "{}", brief(&status));
            for link in &status.links {
                assert!(link.up, "{link:?}");
                assert!(link.heard_ms.is_none_or(|ms| ms < 600), "{link:?}");
            }
            copying += usize::from(n == TWO && status.trees[0].state == TreeState::Copying);
        }
        let ready = scene.status(TWO).expect("it answers");
        if ready.takeover.possible {
            break;
        }
        assert!(since.elapsed() < LONG, "the copy ends: {}", brief(&ready));
    }
    // The receivers' own account of the whole time, not only of the moments that were looked at.
    for (n, api) in [ONE, TWO].into_iter().zip(&apis) {
        let status = runtime.block_on(api.status()).expect("it answers");
        for link in &status.links {
            let lost = link.loss_percent.unwrap_or(100.0);
            assert!(lost < 3.0, "{lost} % of the heartbeats were lost: {link:?}");
        }
        let log = scene.node(n).log_text();
        assert!(
            !log.contains("is silent on every link"),
            "node {n} missed its peer"
        );
    }
    assert!(copying >= 3, "looked {copying} times during the copy");
    took.sort();
    // The last twentieth belongs to the machine, not to the agent.
    let slow = took[took.len() * 95 / 100];
    assert!(
        slow < Duration::from_millis(100),
        "{} answers, 95 % within {slow:?}",
        took.len()
    );
    let gap = probe.log().longest_gap(since).expect("answers came");
    assert!(
        gap < Duration::from_secs(1),
        "the client saw a gap of {gap:?}"
    );
    scene.flush_and_compare(ONE);
}
