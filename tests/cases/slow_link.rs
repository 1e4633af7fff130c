//! A link that is slower than the core gets compressed data; another one does not.

use crate::harness::*;
use std::process::Command;

/// Lines like those of a log: zstd makes a fourth of them, or less.
fn text(file: usize) -> String {
    let line = |n: usize| {
        format!(
            "198.51.100.{} - - \"GET /{}/{}.html HTTP/1.1\" 200 {}\n",
            n % 251,
            file,
            n * 7919 % 100_003,
            n * 31 % 40_009
        )
    };
    (0..30_000).map(line).collect()
}

/// Bytes that came in over the private link since the node is up (proc_pid_net(5)).
fn received(scene: &Scene, n: usize) -> u64 {
    let mut command = Command::new("cat");
    command.arg("/proc/self/net/dev");
    let output = scene.node(n).output(command, SOON).expect("cat runs");
    let line = output.stdout.lines().find_map(|line| {
        let (name, counts) = line.split_once(':')?;
        (name.trim() == "eth1").then(|| counts.split_whitespace().next())?
    });
    let line = line.expect("the private link is there");
    line.parse().expect("a count")
}

/// Bytes on the cable until all of it is on the standby, in percent of what was written.
fn carried(scene: &Scene, from: usize) -> u64 {
    let (before, mut bytes) = (received(scene, TWO), 0);
    for file in from..from + 20 {
        let content = text(file);
        bytes += content.len() as u64;
        scene.write(ONE, &format!("logs/{file}"), content);
    }
    scene.flush_and_compare(ONE);
    (received(scene, TWO) - before) * 100 / bytes
}

#[test]
fn a_full_link_carries_compressed_data() {
    let scene = Scene::replicated();
    let plain = carried(&scene, 0);
    assert!(plain >= 100, "{plain} % on a fast link");
    // 5 MB a second, and a queue of 100 ms before the sender waits.
    let mut slow = Command::new("tc");
    slow.args(["qdisc", "add", "dev", "eth1", "root", "tbf"])
        .args(["rate", "40mbit", "burst", "32k", "latency", "100ms"]);
    let slow = scene.node(ONE).output(slow, SOON).expect("tc runs");
    assert!(slow.success(), "{slow:?}");
    let full = carried(&scene, 100);
    assert!(full < 60, "{full} % on a full link");
}
