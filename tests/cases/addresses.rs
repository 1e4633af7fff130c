//! Several floating addresses: they move together, and one that cannot be had keeps no other.

use crate::harness::*;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tandem::api::types::Role;
use tandem_lab::HttpClient;
use tandem_lab::pair::{FLOATING, FLOATING6, WEB_PORT};

/// A third address beside the usual two, one of IPv4 with a label and one of IPv6.
const THIRD: &str = r#"
[[floating_ip]]
address = "192.0.2.75/24"
device = "eth0"
label = "eth0:2"
"#;

fn addresses() -> [IpAddr; 3] {
    [
        FLOATING,
        FLOATING6,
        "192.0.2.75".parse().expect("a literal"),
    ]
}

fn scene() -> Scene {
    let scene = SceneOptions::new().floating(THIRD).make();
    scene.fill();
    scene.start();
    scene.flush(ONE);
    scene
}

/// Waits until the client gets answers of `n` at `address`.
#[track_caller]
fn serves(scene: &Scene, n: usize, address: IpAddr) {
    let server = SocketAddr::new(address, WEB_PORT);
    let client = HttpClient::new(&scene.pair.client, server, Duration::from_millis(500));
    let name = scene.node(n).name();
    eventually(SOON, &format!("{name} serves {address}"), || {
        match client.get("/index.html") {
            Ok(answer) if answer.node == name => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[track_caller]
fn all_served_by(scene: &Scene, n: usize) {
    for address in addresses() {
        serves(scene, n, address);
    }
}

#[test]
fn all_move_together() {
    let scene = scene();
    let labels: Vec<_> = scene
        .wait_role(ONE, Role::Master)
        .addresses
        .into_iter()
        .map(|a| a.label)
        .collect();
    assert_eq!(labels, [Some("eth0:1".into()), None, Some("eth0:2".into())]);
    all_served_by(&scene, ONE);
    let output = scene.tandem(ONE, &["switchover"]);
    assert!(output.success(), "{output:?}");
    all_served_by(&scene, TWO);
    scene.wait_ready(TWO, ONE);
    scene.power_cut(TWO);
    all_served_by(&scene, ONE);
}

/// IPv6 is off at the standby's interface. A takeover serves what can be served, says what is missing, and adds it
/// when that becomes possible.
#[test]
fn one_that_cannot_be_added_keeps_no_other() {
    let scene = scene();
    let ipv6 = |off: &'static str| {
        let file = "/proc/sys/net/ipv6/conf/eth0/disable_ipv6";
        let written = scene.node(TWO).host.enter(move || fs::write(file, off));
        written.expect("the host is on").expect("written");
    };
    ipv6("1");
    scene.power_cut(ONE);
    let [first, sixth, third] = addresses();
    serves(&scene, TWO, first);
    serves(&scene, TWO, third);
    let status = scene.wait_status(TWO, "is master and names the missing address", |s| {
        s.role == Role::Master && s.alarms.iter().any(|a| a.contains("2001:db8::74"))
    });
    let held: Vec<bool> = status.addresses.iter().map(|a| a.held).collect();
    assert_eq!(held, [true, false, true]);
    // It is a master in full: what it writes belongs to it.
    scene.write(TWO, "after", "on the new master");
    ipv6("0");
    scene.wait_status(TWO, "has all addresses", |s| {
        s.addresses.iter().all(|a| a.held)
    });
    serves(&scene, TWO, sixth);
    scene.power_on(ONE);
    scene.wait_ready(TWO, ONE);
    scene.flush_and_compare(TWO);
}
