//! Waiting for a condition, never for time alone.

use std::time::{Duration, Instant};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(30);

/// Looks until `condition` gives a value, at most `bound`; then panics with what it last complained about.
#[track_caller]
pub fn eventually<T>(
    bound: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(value) => return value,
            Err(why) if start.elapsed() >= bound => {
                panic!("not within {bound:?}: {what}\n  last seen: {why}")
            }
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// Looks for as long as `time` whether `condition` holds; panics when it once does not.
#[track_caller]
pub fn holds_for(time: Duration, what: &str, mut condition: impl FnMut() -> Result<(), String>) {
    let start = Instant::now();
    while start.elapsed() < time {
        if let Err(why) = condition() {
            panic!(
                "not for {time:?}: {what}\n  after {:?}: {why}",
                start.elapsed()
            );
        }
        std::thread::sleep(LOOK);
    }
}

/// The seed of a random test: `TANDEM_SEED`, else the usual one. It is printed.
pub fn seed(usual: u64) -> u64 {
    let named = std::env::var("TANDEM_SEED").ok();
    let seed = named.and_then(|s| s.parse().ok()).unwrap_or(usual);
    println!("seed {seed} (set TANDEM_SEED to repeat another one)");
    seed
}
