//! (pure) How fast contents are compared.

use std::time::Duration;

/// Opening a file costs about as much as reading so many bytes.
const FILE: u64 = 64 << 10;
/// Highest rate, in bytes each second. What does not get round within the period at it takes longer, which the status
/// shows: 19 TB are compared within a week.
const MOST: u64 = 32 << 20;
/// Lowest rate at which one file is read: the longer a reading takes, the more likely the file changes meanwhile.
const LEAST: u64 = 1 << 20;

/// What files cost, in bytes.
pub fn cost(files: u64, bytes: u64) -> u64 {
    files.saturating_mul(FILE).saturating_add(bytes)
}

/// A tree's round.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// What all its files cost.
    pub total: u64,
    /// How long the round takes.
    pub period: Duration,
}

impl Plan {
    /// When as much as `done` of a round that began at `begun` may be followed by more (both in milliseconds).
    pub fn due(self, begun: u64, done: u64) -> u64 {
        let period = self.period.as_millis();
        let share = period * u128::from(done.min(self.total)) / u128::from(self.total.max(1));
        begun.saturating_add(u64::try_from(share).unwrap_or(u64::MAX))
    }

    /// At which rate a piece is read, in bytes each second.
    pub fn per_second(self) -> u64 {
        let period = self.period.as_millis().max(1);
        let rate = u128::from(self.total) * 1000 / period;
        u64::try_from(rate).unwrap_or(MOST).clamp(LEAST, MOST)
    }
}

/// How long after its begin so much may have been read.
pub fn earliest(cost: u64, per_second: u64) -> Duration {
    let nanos = u128::from(cost) * 1_000_000_000 / u128::from(per_second.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_follows_from_tree_and_period_within_its_bounds() {
        let rate = |total, seconds| {
            let period = Duration::from_secs(seconds);
            Plan { total, period }.per_second()
        };
        assert_eq!(rate(10 << 30, 1024), 10 << 20);
        assert_eq!(rate(10 << 30, 1), MOST);
        assert_eq!(rate(0, 86_400), LEAST);
        assert_eq!(rate(u64::MAX, 1), MOST);
        assert_eq!(earliest(MOST, MOST), Duration::from_secs(1));
    }
}
