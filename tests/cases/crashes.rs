//! Agents are killed at random points; the trees become equal all the same.

use crate::harness::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tandem_lab::pair::DEFAULT_BODY;

/// Kills of one run.
const KILLS: u32 = 50;

/// One random change of a tree. Names are few, so that changes meet.
fn change(rng: &mut StdRng, root: &Path) -> std::io::Result<()> {
    let name = |rng: &mut StdRng| {
        root.join(format!(
            "w{}/x{}",
            rng.random_range(0..6),
            rng.random_range(0..30)
        ))
    };
    let path = name(rng);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match rng.random_range(0..10) {
        0..=4 => {
            let size = if rng.random_ratio(1, 20) {
                2_000_000
            } else {
                rng.random_range(0..40_000)
            };
            let byte = rng.random();
            fs::write(&path, vec![byte; size])
        }
        5 => {
            use std::io::Write;
            let mut file = fs::File::options().append(true).create(true).open(&path)?;
            file.write_all(b"appended\n")
        }
        6 => fs::remove_file(&path),
        7 => fs::rename(&path, name(rng)),
        8 => fs::hard_link(&path, name(rng)),
        _ => fs::remove_dir_all(root.join(format!("w{}", rng.random_range(0..6)))),
    }
}

struct Writer {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(root: PathBuf, seed: u64) -> Self {
        let (stop, done) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            let mut rng = StdRng::seed_from_u64(seed);
            while !stopped.load(Ordering::Relaxed) {
                // Names that are not there, or are there already, are part of the game.
                if change(&mut rng, &root).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(rng.random_range(0..8)));
            }
        });
        Self {
            stop,
            done,
            thread: Some(thread),
        }
    }

    fn stop(&mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the writer does not panic");
        }
        self.done.load(Ordering::Relaxed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn kill_9_fifty_times() {
    let seed = seed(20_261_121);
    // The question is whether the data converge, not who is master: while an agent is dead the kernel must
    // keep the addresses.
    // The writer removes whole directories: in a minute more than half of such a small tree, which is no mishap here.
    let body = DEFAULT_BODY.replace("/srv/www\"", "/srv/www\"\nmax_delete = 100000");
    let scene = SceneOptions::new()
        .policy("address_lifetime = \"60s\"")
        .body(&body)
        .make();
    scene.fill();
    scene.start();
    let mut writer = Writer::start(scene.node(ONE).www(), seed);
    let mut rng = StdRng::seed_from_u64(seed ^ 1);
    for _ in 0..KILLS {
        let victim = if rng.random() { ONE } else { TWO };
        std::thread::sleep(Duration::from_millis(rng.random_range(0..400)));
        scene.node(victim).kill_agent();
        std::thread::sleep(Duration::from_millis(rng.random_range(0..100)));
        scene.node(victim).start_agent().expect("it starts again");
    }
    let changes = writer.stop();
    println!("{changes} changes");
    assert!(changes > 500, "the writer wrote");
    scene.wait_ready(ONE, TWO);
    scene.write(ONE, "last", "after all");
    scene.flush_and_compare(ONE);
    assert_eq!(scene.read(TWO, "last").as_deref(), Ok("after all"));
    rsync_sees_no_difference(&scene);
    let rescued = scene.rescued(TWO);
    assert!(
        rescued.is_empty(),
        "the standby had nothing of its own: {rescued:?}"
    );
}
