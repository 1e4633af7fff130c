//! How fast contents of a tree may be sent: limits by the time of day, and the clock that keeps to one.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::NonZeroU64;

/// Most limits of one tree: a day has few parts that differ.
pub const MAX_LIMITS: usize = 16;
/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// What was not sent in so long (nanoseconds) may be sent at once: less than anybody on the link notices.
const BURST: u64 = 100_000_000;
const SECOND: u128 = 1_000_000_000;

/// A part of each day, in minutes of the local time. It may go past midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Between {
    from: u16,
    to: u16,
}

/// Not a part of a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("two different times of a day are needed")]
pub struct NotBetween;

impl Between {
    /// From the first minute to the one before the second.
    ///
    /// # Errors
    /// Both are the same, or one is no minute of a day; the end of the day (1440) may be the second.
    pub fn new(from: u16, to: u16) -> Result<Between, NotBetween> {
        match from < DAY && to <= DAY && from != to % DAY {
            true => Ok(Between { from, to: to % DAY }),
            false => Err(NotBetween),
        }
    }

    /// Whether this minute of the day is in it.
    pub fn has(&self, minute: u16) -> bool {
        match self.from < self.to {
            true => (self.from..self.to).contains(&minute),
            false => minute >= self.from || minute < self.to,
        }
    }
}

impl fmt::Display for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.from, self.to);
        let parts = (from / 60, from % 60, to / 60, to % 60);
        write!(
            f,
            "{:02}:{:02}-{:02}:{:02}",
            parts.0, parts.1, parts.2, parts.3
        )
    }
}

/// What may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pace {
    /// As much as goes.
    Free,
    /// So many bytes a second.
    Rate(NonZeroU64),
    /// Nothing.
    Pause,
}

/// One limit of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// When it applies. `None`: always.
    pub between: Option<Between>,
    /// What it allows.
    pub pace: Pace,
}

/// What the first limit allows that applies at this minute of the day.
pub fn pace_at(limits: &[Limit], minute: u16) -> Pace {
    let applies = |l: &&Limit| l.between.is_none_or(|between| between.has(minute));
    limits.iter().find(applies).map_or(Pace::Free, |l| l.pace)
}

/// Says when the next bytes may be sent. What is sent is paid for afterwards, with the time that it takes at the pace.
#[derive(Debug, Clone)]
pub struct Meter {
    pace: Pace,
    /// What was sent is paid for at this time (nanoseconds).
    paid_at: u64,
}

impl Meter {
    /// At this pace, with nothing sent.
    pub fn new(pace: Pace) -> Meter {
        Meter { pace, paid_at: 0 }
    }

    /// Another pace from here on. What was sent at the old one is forgiven: it may be a long time at the new one.
    pub fn set_pace(&mut self, pace: Pace, now: u64) {
        if self.pace != pace {
            self.pace = pace;
            self.paid_at = self.paid_at.min(now);
        }
    }

    /// When the next bytes may be sent, which may be past. `None`: not at this pace.
    pub fn ready_at(&self) -> Option<u64> {
        match self.pace {
            Pace::Free => Some(0),
            Pace::Rate(_) => Some(self.paid_at),
            Pace::Pause => None,
        }
    }

    /// Whether bytes may be sent.
    pub fn is_ready(&self, now: u64) -> bool {
        self.ready_at().is_some_and(|at| at <= now)
    }

    /// So many bytes were sent.
    pub fn sent(&mut self, now: u64, bytes: u64) {
        if let Pace::Rate(rate) = self.pace {
            let takes = u128::from(bytes) * SECOND / u128::from(rate.get());
            let begin = self.paid_at.max(now.saturating_sub(BURST));
            self.paid_at = begin.saturating_add(u64::try_from(takes).unwrap_or(u64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(bytes: u64) -> Pace {
        Pace::Rate(NonZeroU64::new(bytes).unwrap())
    }

    #[test]
    fn parts_of_a_day() {
        let at = |hour: u16, minute: u16| hour * 60 + minute;
        let table = [
            ((8, 0), (18, 0), (8, 0), true),
            ((8, 0), (18, 0), (17, 59), true),
            ((8, 0), (18, 0), (18, 0), false),
            ((8, 0), (18, 0), (7, 59), false),
            ((22, 0), (6, 0), (23, 59), true),
            ((22, 0), (6, 0), (0, 0), true),
            ((22, 0), (6, 0), (5, 59), true),
            ((22, 0), (6, 0), (6, 0), false),
            ((22, 0), (6, 0), (12, 0), false),
            ((12, 0), (24, 0), (23, 59), true),
            ((12, 0), (24, 0), (0, 0), false),
        ];
        for (from, to, minute, expected) in table {
            let between = Between::new(at(from.0, from.1), at(to.0, to.1)).unwrap();
            assert_eq!(between.has(at(minute.0, minute.1)), expected, "{between}");
        }
        for (from, to) in [(60, 60), (0, DAY), (DAY, 5), (5, DAY + 1)] {
            assert_eq!(Between::new(from, to), Err(NotBetween));
        }
        assert_eq!(Between::new(90, DAY).unwrap().to_string(), "01:30-00:00");
    }

    #[test]
    fn the_first_limit_that_applies_counts() {
        let day = Limit {
            between: Some(Between::new(480, 1080).unwrap()),
            pace: Pace::Pause,
        };
        let always = Limit {
            between: None,
            pace: rate(5),
        };
        assert_eq!(pace_at(&[day, always], 500), Pace::Pause);
        assert_eq!(pace_at(&[day, always], 1080), rate(5));
        assert_eq!(pace_at(&[always, day], 500), rate(5));
        assert_eq!(pace_at(&[day], 5), Pace::Free);
        assert_eq!(pace_at(&[], 5), Pace::Free);
    }

    #[test]
    fn another_pace_forgives() {
        let mut meter = Meter::new(rate(10));
        meter.sent(0, 1000);
        assert!(!meter.is_ready(99 * SECOND as u64));
        meter.set_pace(rate(10), SECOND as u64);
        assert!(!meter.is_ready(SECOND as u64), "the same is no other");
        meter.set_pace(rate(1000), SECOND as u64);
        assert!(meter.is_ready(SECOND as u64));
        meter.set_pace(Pace::Pause, 0);
        assert_eq!(meter.ready_at(), None);
        meter.set_pace(Pace::Free, 0);
        meter.sent(0, u64::MAX);
        assert!(meter.is_ready(0));
    }

    proptest! {
        /// Whoever sends whenever it may sends as much as the rate says, but for one burst and the last piece.
        #[test]
        fn the_rate_is_kept_and_used(rate_of in 1_000u64..100_000_000, pieces in prop::collection::vec(1u64..300_000, 1..200), idle in 0u64..5_000_000_000) {
            let mut meter = Meter::new(rate(rate_of));
            let begun = 1_000_000_000_000 + idle;
            let (mut now, mut sum) = (begun, 0);
            for piece in &pieces {
                now = now.max(meter.ready_at().unwrap());
                prop_assert!(meter.is_ready(now));
                meter.sent(now, *piece);
                sum += piece;
            }
            let seconds = (now - begun) as f64 / 1e9;
            let most = rate_of as f64 * (seconds + 0.1) + 300_000.0;
            prop_assert!(sum as f64 <= most + 1.0, "{sum} bytes in {seconds} s");
            let last = *pieces.last().unwrap() as f64;
            prop_assert!(seconds <= (sum as f64 - last) / rate_of as f64 + 0.001, "{sum} bytes took {seconds} s");
        }
    }
}
