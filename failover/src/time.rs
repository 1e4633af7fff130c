//! Points in time as the machine sees them.

use serde::{Deserialize, Serialize};
use std::ops::Add;
use std::time::Duration;

/// A point in time: nanoseconds on `CLOCK_BOOTTIME` (`clock_gettime(2)`), which also counts while the
/// machine is suspended. The machine never reads it; the driver passes it in.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Instant(u64);

impl Instant {
    /// The point `nanos` nanoseconds after the machine's boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to `self`, zero when `earlier` is later.
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, d: Duration) -> Self {
        let nanos = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

/// A duration in words for people: `600 ms`, `1.5 s`, `1 h 5 min`. What is too small for the largest two units is left out.
pub fn spoken(d: Duration) -> String {
    let two = |large: u64, unit: &str, small: u64, part: &str| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {part}"),
    };
    let (ms, s) = (d.as_millis(), d.as_secs());
    match s {
        0 => format!("{ms} ms"),
        1..60 => match ms % 1000 / 100 {
            0 => format!("{s} s"),
            tenth => format!("{s}.{tenth} s"),
        },
        60..3600 => two(s / 60, "min", s % 60, "s"),
        3600..86_400 => two(s / 3600, "h", s / 60 % 60, "min"),
        _ => two(s / 86_400, "d", s / 3600 % 24, "h"),
    }
}

/// Whole microseconds of `d`, at most `u32::MAX` (71 minutes).
pub fn micros(d: Duration) -> u32 {
    u32::try_from(d.as_micros()).unwrap_or(u32::MAX)
}

/// Whole milliseconds of `d`, at most `u32::MAX`: how ages travel in heartbeats.
pub fn millis(d: Duration) -> u32 {
    u32::try_from(d.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_spoken_in_two_units() {
        let ms = Duration::from_millis;
        let spoken: Vec<String> = [0, 600, 1000, 1_500, 60_000, 90_000, 3_600_000, 3_900_000]
            .map(|n| spoken(ms(n)))
            .into();
        let expected = [
            "0 ms",
            "600 ms",
            "1 s",
            "1.5 s",
            "1 min",
            "1 min 30 s",
            "1 h",
            "1 h 5 min",
        ];
        assert_eq!(spoken, expected);
        assert_eq!(super::spoken(Duration::from_nanos(600_854_073)), "600 ms");
        assert_eq!(super::spoken(Duration::from_secs(90_000)), "1 d 1 h");
    }
}
