//! Work that nobody waits for leaves the machine to others: it runs for a slice and then rests for three.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Time of work at once: below what anybody who waits for the core would feel.
const SLICE: Duration = Duration::from_millis(5);
/// Time of rest after it: a quarter of one core is used.
const REST: Duration = Duration::from_millis(15);
/// Steps between two looks at the clock, each of some microseconds.
const STEPS: u32 = 64;

/// Keeps one thread's share.
#[derive(Debug)]
pub(super) struct Duty {
    since: Cell<Instant>,
    steps: Cell<u32>,
}

impl Default for Duty {
    fn default() -> Duty {
        Duty {
            since: Cell::new(Instant::now()),
            steps: Cell::new(0),
        }
    }
}

impl Duty {
    /// To be called at each step of the work. Rests if the slice is over.
    pub fn keep(&self) {
        self.steps.set((self.steps.get() + 1) % STEPS);
        if self.steps.get() == 0 && self.since.get().elapsed() >= SLICE {
            std::thread::sleep(REST);
            self.since.set(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_that_is_over_is_followed_by_a_rest() {
        let (begun, duty) = (Instant::now(), Duty::default());
        let mut worked = Duration::ZERO;
        let mut rests = 0;
        while begun.elapsed() < 10 * (SLICE + REST) {
            let before = Instant::now();
            duty.keep();
            rests += u32::from(before.elapsed() >= REST);
            worked = before - begun;
        }
        assert!(worked >= SLICE && rests >= 1, "{rests} rests");
    }
}
