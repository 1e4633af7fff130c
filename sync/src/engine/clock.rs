//! The engine's clock: CLOCK_BOOTTIME, which goes on while the machine sleeps.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since boot.
pub fn now() -> u64 {
    let t = clock_gettime(ClockId::Boottime);
    // Both parts of a time since boot are positive.
    u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0)
}

/// Milliseconds as nanoseconds.
pub const fn ms(n: u64) -> u64 {
    n * 1_000_000
}
