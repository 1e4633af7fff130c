//! Who is let in: nobody but the two pinned nodes, and none of them twice.

use crate::harness::*;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tandem::api::types::{Role, StatusReport};
use tandem_lab::pair::{Node, Pair, private_address, public_address};
use tandem_lab::remove_tree;

/// Port of heartbeats and sessions.
const PORT: u16 = 7461;

/// A copy of the first node's disk, key and state and all, in another machine with the same addresses.
#[test]
fn a_cloned_node_is_refused() {
    let scene = Scene::replicated();
    scene.write(ONE, "before", "x");
    scene.flush(ONE);
    scene.power_cut(ONE);
    scene.wait_role(TWO, Role::Master);
    scene.write(TWO, "after", "y");
    let clone = scene.pair.clone_of(ONE).expect("the clone is made");
    clone.power_on().expect("it boots");
    let status = scene.wait_status(TWO, "sees the clone", |s| s.peer.identity.is_some());
    assert_eq!(status.role, Role::Master);
    let named = status.alarms.iter().any(|a| a.contains("tandem adopt"));
    assert!(named, "the remedy is named: {:?}", status.alarms);
    holds_for(
        Duration::from_secs(4),
        "the clone gets no role and no data",
        || {
            let two = scene.status(TWO)?;
            if two.role != Role::Master || two.session.up {
                return Err(brief(&two));
            }
            if exists(&clone.www().join("after")) {
                return Err("the clone was given data".into());
            }
            Ok(())
        },
    );
    assert_eq!(scene.read(TWO, "after").as_deref(), Ok("y"));
    clone.power_cut().expect("off");
    // The true one is still welcome, as soon as a person has said that the peer is to be trusted again.
    scene.power_on(ONE);
    scene.wait_status(TWO, "hears the true one", |s| s.peer.alive);
    assert!(!scene.status(TWO).expect("it answers").session.up);
    let adopted = scene.tandem(TWO, &["adopt", "--yes"]);
    assert!(adopted.success(), "{adopted:?}");
    scene.wait_ready(TWO, ONE);
    scene.flush_and_compare(TWO);
}

/// The standby's disk died with everything on it, its key too. The master takes the new key by a restart that keeps its
/// role, as its `reload` says.
#[test]
fn a_replaced_node_with_a_new_key_receives() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    scene.power_cut(TWO);
    scene.write(ONE, "meanwhile", "x");
    let two = scene.node(TWO);
    for lost in ["/srv/www", "/var/lib/tandem"] {
        let dir = two.host.outside_path(lost);
        remove_tree(&dir).expect("removed");
        std::fs::create_dir(&dir).expect("made");
    }
    std::fs::remove_file(two.host.outside_path("/etc/tandem/key")).expect("removed");
    two.host.boot().expect("it boots");
    let key = two.keygen().expect("a new key");
    let config = scene.pair.config().replace(scene.pair.key(TWO), &key);
    scene.pair.configure(&config).expect("configured");
    let reload = scene.tandem(ONE, &["reload"]);
    assert!(reload.stderr.contains("tandem restart"), "{reload:?}");
    let probe = scene.probe();
    scene.wait_served_by(&probe, ONE);
    let begin = Instant::now();
    assert!(scene.tandem(ONE, &["restart"]).success());
    two.start_web().expect("the service starts");
    two.start_agent().expect("the agent starts");
    scene.wait_ready(ONE, TWO);
    scene.flush_and_compare(ONE);
    let gap = probe.log().longest_gap(begin).expect("answers");
    assert!(
        gap < Duration::from_secs(1),
        "the service was away for {gap:?}"
    );
}

/// Makes a copy of a node while both are off, then starts the pair and the copy beside it: the same key, state and
/// addresses twice on both networks.
fn with_a_copy_of(n: usize) -> (Scene, Node) {
    let scene = Scene::replicated();
    scene.flush(ONE);
    for node in [TWO, ONE] {
        scene.power_cut(node);
    }
    let copy = scene.pair.clone_of(n).expect("the copy is made");
    for node in [ONE, TWO] {
        scene.node(node).power_on().expect("it boots");
    }
    scene.wait_ready(ONE, TWO);
    scene.flush(ONE);
    copy.power_on().expect("it boots");
    (scene, copy)
}

/// Somebody says that there are two, and the copy gets neither role nor address nor data.
#[track_caller]
fn the_copy_gets_nothing(scene: &Scene, copy: &Node) {
    eventually(SOON, "the copy is noticed, and the remedy named", || {
        let both = [scene.status(ONE)?, scene.status(TWO)?];
        let named = |s: &StatusReport| s.alarms.iter().any(|a| a.contains("tandem adopt"));
        match both.iter().any(named) {
            true => Ok(()),
            false => Err(format!("{}\n  and {}", brief(&both[0]), brief(&both[1]))),
        }
    });
    scene.write(ONE, "after", "not for copies");
    holds_for(Duration::from_secs(3), "the copy gets nothing", || {
        let one = scene.status(ONE)?;
        if one.role != Role::Master || scene.status(TWO)?.role == Role::Master {
            return Err(brief(&one));
        }
        let said = copy
            .tandem(&["status", "--json"])
            .map_err(|e| e.to_string())?;
        let own: StatusReport = serde_json::from_str(&said.stdout).map_err(|e| e.to_string())?;
        if own.role == Role::Master || own.addresses.iter().any(|a| a.held) {
            return Err(brief(&own));
        }
        match exists(&copy.www().join("after")) {
            true => Err("it was given data".into()),
            false => Ok(()),
        }
    });
}

/// The copy is gone, and a person says so where it was noticed, once the node has missed it.
#[track_caller]
fn without_the_copy(scene: &Scene, copy: &Node) {
    copy.power_cut().expect("off");
    for n in [ONE, TWO] {
        scene.wait_status(n, "is not in contact with the copy any more", |s| {
            s.peer.identity.is_none() || !s.peer.alive || s.peer.role != Some(Role::Joining)
        });
        let status = scene.status(n).expect("it answers");
        if status.alarms.iter().any(|a| a.contains("tandem adopt")) {
            let adopted = scene.tandem(n, &["adopt", "--yes"]);
            assert!(adopted.success(), "{adopted:?}");
        }
    }
    // A copy that takes the master's hardware address away from it may make it hand over: its public network fails.
    let master = scene.settled();
    eventually(SOON, "the pair works", || {
        // Connections to the copy's hardware address die one after the other.
        let output = scene.tandem(master, &["flush", "--timeout", "5s"]);
        output.success().then_some(()).ok_or(output.stderr)
    });
    assert_equal_trees(scene);
    assert_eq!(scene.read(TWO, "after").as_deref(), Ok("not for copies"));
}

#[test]
fn a_copy_beside_the_living_master() {
    let (scene, copy) = with_a_copy_of(ONE);
    the_copy_gets_nothing(&scene, &copy);
    without_the_copy(&scene, &copy);
}

#[test]
fn a_copy_beside_the_living_standby() {
    let (scene, copy) = with_a_copy_of(TWO);
    the_copy_gets_nothing(&scene, &copy);
    without_the_copy(&scene, &copy);
}

#[test]
fn a_strangers_key_gets_nowhere() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    scene.power_cut(ONE);
    scene.wait_role(TWO, Role::Master);
    // The stranger sits at the first node's cables and believes that it is the first node.
    let node = scene.node(ONE);
    // It has a state of its own: this one's belongs to the pair of the true keys.
    let state = node.host.outside_path("/var/lib/tandem");
    remove_tree(&state).expect("removed");
    std::fs::create_dir(&state).expect("made");
    node.host.boot().expect("it boots");
    std::fs::rename(
        node.host.outside_path("/etc/tandem/key"),
        node.host.outside_path("/etc/tandem/true-key"),
    )
    .expect("moved");
    let true_config = scene.pair.config();
    let strange = node.keygen().expect("a key");
    node.configure(&true_config.replacen(scene.pair.key(ONE), &strange, 1))
        .expect("configured");
    scene.write(TWO, "secret", "not for strangers");
    scene.start_agent(ONE);
    holds_for(Duration::from_secs(5), "the stranger is not heard", || {
        let two = scene.status(TWO)?;
        if two.role != Role::Master || two.peer.alive || two.session.up {
            return Err(brief(&two));
        }
        if exists(&scene.file(ONE, "secret")) || scene.status(ONE)?.role == Role::Master {
            return Err("the stranger got something".into());
        }
        Ok(())
    });
}

/// Sends noise of several kinds at a node until it is told to stop.
fn noise(target: SocketAddr, stop: &AtomicBool) {
    let udp = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    let mut kept = Vec::new();
    let mut n = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let bytes: Vec<u8> = (0..1200_u32)
            .map(|i| (n.rotate_left(i % 32) ^ i) as u8)
            .collect();
        let _ = udp.send_to(&bytes[..(n % 1200) as usize], target);
        if let Ok(mut stream) = TcpStream::connect_timeout(&target, Duration::from_millis(200)) {
            let timeout = Some(Duration::from_millis(20));
            stream.set_read_timeout(timeout).expect("a timeout");
            match n % 4 {
                // Nothing at all: half open for as long as the test runs.
                0 => kept.push(stream),
                1 => {
                    let _ = stream.write_all(&bytes);
                    let _ = stream.read(&mut [0; 64]);
                }
                2 => {
                    let _ = stream.write_all(b"SSH-2.0-stranger\r\n");
                    let _ = stream.write_all(&bytes);
                    kept.push(stream);
                }
                _ => {
                    let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n");
                }
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn resident_kib(pair: &Pair, n: usize) -> u64 {
    let pid = pair.nodes[n].agent().expect("it runs").pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .expect("a size");
    line.trim()
        .trim_end_matches(" kB")
        .trim()
        .parse()
        .expect("a number")
}

#[test]
fn garbage_and_half_open_connections_get_nowhere() {
    let scene = Scene::replicated();
    let probe = scene.probe();
    scene.wait_served_by(&probe, ONE);
    let before = [
        resident_kib(&scene.pair, ONE),
        resident_kib(&scene.pair, TWO),
    ];
    let since = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let targets: [IpAddr; 2] = [public_address(ONE), public_address(TWO)];
    let noises: Vec<_> = targets
        .into_iter()
        .map(|ip| {
            let (target, stop) = (SocketAddr::new(ip, PORT), Arc::clone(&stop));
            scene
                .pair
                .client
                .enter_thread(move || noise(target, &stop))
                .expect("the client is on")
        })
        .collect();
    for n in 0..40 {
        scene.write(ONE, "in-the-noise", n.to_string());
        scene.flush(ONE);
        for (node, role) in [(ONE, Role::Master), (TWO, Role::Standby)] {
            let status = scene.status(node).expect("it answers");
            assert!(
                status.role == role && status.peer.alive,
                "{}",
                brief(&status)
            );
        }
    }
    let after = [
        resident_kib(&scene.pair, ONE),
        resident_kib(&scene.pair, TWO),
    ];
    // Strangers hold every place for those who are not let in yet: the true peer gets in all the same.
    scene.node(TWO).kill_agent();
    scene.start_agent(TWO);
    scene.wait_ready(ONE, TWO);
    scene.flush(ONE);
    stop.store(true, Ordering::Relaxed);
    for thread in noises {
        thread.join().expect("no panic").expect("the client is on");
    }
    let gap = probe.log().longest_gap(since).expect("answers came");
    assert!(
        gap < Duration::from_secs(1),
        "the client saw a gap of {gap:?}"
    );
    for (node, (before, after)) in before.into_iter().zip(after).enumerate() {
        assert!(
            after < before + 64 * 1024,
            "node {node}: {before} KiB became {after} KiB"
        );
    }
    scene.flush_and_compare(ONE);
}

/// Nothing listens but on link addresses.
#[test]
fn only_link_addresses_listen() {
    let scene = Scene::replicated();
    let floating = SocketAddr::new(tandem_lab::pair::FLOATING, PORT);
    let refused = scene
        .pair
        .client
        .enter(move || TcpStream::connect_timeout(&floating, Duration::from_secs(1)).is_err())
        .expect("the client is on");
    assert!(refused, "the floating IP answers on the agent's port");
    let local = SocketAddr::new(private_address(ONE), PORT);
    let open = scene
        .node(TWO)
        .host
        .enter(move || TcpStream::connect_timeout(&local, Duration::from_secs(1)).is_ok())
        .expect("the node is on");
    assert!(open, "the link address does not answer");
}
