//! Planned moves that are broken at any moment: afterwards there is one master, and it has everything that a client
//! was told is stored.

use crate::harness::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tandem_lab::HttpClient;
use tandem_lab::pair::WEB_PORT;

/// Moves of one run, each with one kill.
const MOVES: u32 = 10;

/// Stores numbered files through the floating address and remembers which were acknowledged.
struct Uploader {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<u32>>>,
}

impl Uploader {
    fn start(scene: &Scene) -> Self {
        let server = (tandem_lab::pair::FLOATING, WEB_PORT).into();
        let client = HttpClient::new(&scene.pair.client, server, Duration::from_millis(300));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut acknowledged = Vec::new();
            for n in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let stored = client.put(&format!("/up/{n}"), n.to_string());
                if stored.is_ok_and(|answer| answer.status == 200) {
                    acknowledged.push(n);
                }
                // The upload rate of one client, so that the tree stays small.
                std::thread::sleep(Duration::from_millis(5));
            }
            acknowledged
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    fn stop(&mut self) -> Vec<u32> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is stopped once");
        thread.join().expect("the uploader does not panic")
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn kill_9_of_either_agent_during_planned_moves() {
    let seed = seed(20_261_126);
    let mut rng = StdRng::seed_from_u64(seed);
    // While an agent is dead the kernel keeps the addresses: a kill moves nothing by itself.
    let scene = SceneOptions::new()
        .policy("address_lifetime = \"60s\"")
        .make();
    scene.fill();
    scene.start();
    let mut uploader = Uploader::start(&scene);
    let mut master = ONE;
    let mut moved = 0;
    for round in 0..MOVES {
        let mut command = Command::new("/opt/lab/tandem");
        command.arg(if master == ONE {
            "switchover"
        } else {
            "failback"
        });
        let mover = scene.node(master).host.spawn(command).expect("started");
        // The moments are what is tested: a move takes a third of a second.
        std::thread::sleep(Duration::from_millis(rng.random_range(0..400)));
        let victim = if rng.random() { ONE } else { TWO };
        scene.node(victim).kill_agent();
        std::thread::sleep(Duration::from_millis(rng.random_range(0..100)));
        scene.start_agent(victim);
        // First the command: it may have waited for the agent, and begins only now.
        assert!(mover.wait(LONG).is_some(), "the command ends");
        let now = scene.settled();
        println!(
            "{round}: mirror{} was killed, master mirror{}",
            victim + 1,
            now + 1
        );
        moved += u32::from(now != master);
        master = now;
    }
    let acknowledged = uploader.stop();
    println!("{moved} of {MOVES} moves, {} uploads", acknowledged.len());
    assert!(acknowledged.len() > 50, "the client stored something");
    scene.flush_and_compare(master);
    let lost: Vec<u32> = acknowledged
        .into_iter()
        .filter(|n| scene.read(master, &format!("up/{n}")) != Ok(n.to_string()))
        .collect();
    assert!(lost.is_empty(), "acknowledged, and not there: {lost:?}");
}

/// Files that are removed while a planned move runs, as `rm -rf` does: paced, so that the whole move lies within it.
const REMOVED: u32 = 6000;
const PACE: Duration = Duration::from_micros(200);

/// A planned move is bounded and short for the clients also while the master deletes thousands of files, and afterwards the
/// trees are equal.
#[test]
fn a_planned_move_during_a_large_deletion() {
    let scene = SceneOptions::new().make();
    scene.fill();
    for n in 0..REMOVED {
        scene.write(ONE, &format!("goes/d{}/f{n}", n % 50), n.to_string());
        // Beside what stays it is no mass deletion for the guard.
        scene.write(ONE, &format!("stays/d{}/f{n}", n % 50), n.to_string());
    }
    scene.start();
    scene.flush(ONE);
    let probe = scene.probe();
    scene.wait_served_by(&probe, ONE);
    let root = scene.file(ONE, "goes");
    let removing = std::thread::spawn(move || {
        for n in 0..REMOVED {
            // After the move the tree is the standby's, which brings back what is removed there.
            let _ = std::fs::remove_file(root.join(format!("d{}/f{n}", n % 50)));
            std::thread::sleep(PACE);
        }
    });
    let begun = Instant::now();
    let moved = scene.tandem(ONE, &["switchover"]);
    let took = begun.elapsed();
    println!("{moved:?} after {took:?}");
    assert!(moved.success(), "{moved:?}");
    assert!(took < Duration::from_secs(10), "the move took {took:?}");
    removing.join().expect("removed");
    let now = scene.settled();
    assert_eq!(now, TWO);
    scene.wait_served_by(&probe, TWO);
    let gap = probe.log().longest_gap(begun).expect("answers");
    println!("the clients saw a gap of {gap:?}");
    // Two thirds of a second on a machine that does nothing else: what the last flush has to carry is a batch of deletions.
    // Three seconds were seen beside two tests that make the disk durable all the time.
    assert!(
        gap < Duration::from_secs(6),
        "the service was away for {gap:?}"
    );
    scene.flush_and_compare(TWO);
}

/// Somebody else than the service writes on the master until the moment it is standby, and beyond. Every move succeeds: what
/// must be on the other side is what was there before the fence. Nothing of it all is lost.
#[test]
fn planned_moves_while_somebody_writes_beside_the_service() {
    const ROUNDS: usize = 6;
    let scene = SceneOptions::new().make();
    scene.fill();
    scene.start();
    scene.flush(ONE);
    let dirs = [ONE, TWO].map(|n| scene.file(n, ""));
    let at = Arc::new(AtomicUsize::new(ONE));
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (at, stop) = (Arc::clone(&at), Arc::clone(&stop));
        move || {
            let mut written = Vec::new();
            for n in 0u32.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let name = format!("beside-{n}");
                let path = dirs[at.load(Ordering::Relaxed)].join(&name);
                if std::fs::write(path, n.to_string()).is_ok() {
                    written.push(name);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            written
        }
    });
    let mut master = ONE;
    for round in 0..ROUNDS {
        let command = if master == ONE {
            "switchover"
        } else {
            "failback"
        };
        let moved = scene.tandem(master, &[command]);
        assert!(moved.success(), "round {round}: {moved:?}");
        at.store(1 - master, Ordering::Relaxed);
        assert_eq!(scene.settled(), 1 - master, "round {round}");
        master = 1 - master;
    }
    stop.store(true, Ordering::Relaxed);
    let written = writer.join().expect("the writer does not panic");
    scene.flush_and_compare(master);
    let rescued = [ONE, TWO].map(|n| scene.rescued_paths(n).join("\n"));
    let lost: Vec<&String> = written
        .iter()
        .filter(|name| scene.read(master, name).is_err())
        .filter(|name| {
            !rescued
                .iter()
                .any(|all| all.lines().any(|l| l.ends_with(*name)))
        })
        .collect();
    println!("{} written beside the service", written.len());
    assert!(
        lost.is_empty(),
        "neither in the tree nor in a rescue: {lost:?}"
    );
}
