//! The clock of the failover half.

use crate::time::Instant;
use rustix::time::{ClockId, clock_gettime};

/// Now on `CLOCK_BOOTTIME` (`clock_gettime(2)`): nanoseconds since boot, suspended time included.
pub fn now() -> Instant {
    let t = clock_gettime(ClockId::Boottime);
    // Both fields are never negative on this clock: it starts at 0 at boot.
    let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(t.tv_nsec).unwrap_or(0);
    Instant::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_goes_back_and_agrees_with_the_uptime() {
        let first = now();
        let uptime = std::fs::read_to_string("/proc/uptime").expect("/proc is mounted");
        let seconds: f64 = uptime
            .split(' ')
            .next()
            .and_then(|s| s.parse().ok())
            .expect("proc(5) says: two numbers");
        let second = now();
        assert!(second >= first);
        let ours = first.as_nanos() as f64 / 1e9;
        assert!((ours - seconds).abs() < 1.0, "{ours} s against {seconds} s");
    }
}
