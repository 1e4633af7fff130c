//! How far behind, how fast, how long still.

use std::collections::VecDeque;
use std::time::Duration;

/// Most stretches of numbers that the lag queue keeps apart. Bounds the memory; beyond it neighbours are put together,
/// which can only make the shown lag larger.
pub const MAX_STRETCHES: usize = 1024;

/// When changes were noticed, until they are durable on the other side.
#[derive(Debug, Clone, Default)]
pub struct LagQueue {
    /// Last number of a stretch, and when the oldest change in it was noticed. Numbers ascend.
    stretches: VecDeque<(u64, u64)>,
}

impl LagQueue {
    /// The change with number `seq` was noticed at `noticed` (nanoseconds since boot). Numbers come in ascending order.
    pub fn push(&mut self, seq: u64, noticed: u64) {
        if let Some((last, oldest)) = self.stretches.back_mut() {
            // Nothing is lost by joining what was noticed later to what must be acknowledged after it.
            if *last >= seq || *oldest == noticed {
                (*last, *oldest) = ((*last).max(seq), (*oldest).min(noticed));
                return;
            }
        }
        if self.stretches.len() == MAX_STRETCHES {
            self.halve();
        }
        self.stretches.push_back((seq, noticed));
    }

    /// Everything up to `seq` is durable on the other side.
    pub fn ack(&mut self, seq: u64) {
        while self.stretches.front().is_some_and(|(last, _)| *last <= seq) {
            self.stretches.pop_front();
        }
    }

    /// Age of the oldest change that is not durable on the other side. Zero: everything is.
    pub fn lag(&self, now: u64) -> Duration {
        let oldest = self.stretches.iter().map(|(_, noticed)| *noticed).min();
        Duration::from_nanos(oldest.map_or(0, |noticed| now.saturating_sub(noticed)))
    }

    /// True if everything is durable on the other side.
    pub fn is_empty(&self) -> bool {
        self.stretches.is_empty()
    }

    /// Joins neighbours two by two.
    fn halve(&mut self) {
        let old = std::mem::take(&mut self.stretches);
        let mut old = old.into_iter();
        while let Some((first, noticed)) = old.next() {
            let joined = old
                .next()
                .map_or((first, noticed), |(last, other)| (last, noticed.min(other)));
            self.stretches.push_back(joined);
        }
    }
}

/// How many stretches of a second a rate is the mean of.
const RATE_SECONDS: u64 = 10;
const SECOND: u64 = 1_000_000_000;

/// How many units a second, over the last ten seconds.
#[derive(Debug, Clone, Default)]
pub struct Rate {
    /// Second since boot, and how many units in it. At most [`RATE_SECONDS`] + 1, oldest first.
    seconds: VecDeque<(u64, u64)>,
    started: Option<u64>,
}

impl Rate {
    /// `count` units were done at `now`.
    pub fn add(&mut self, now: u64, count: u64) {
        self.started.get_or_insert(now);
        let second = now / SECOND;
        match self.seconds.back_mut() {
            Some((last, sum)) if *last >= second => *sum = sum.saturating_add(count),
            _ => self.seconds.push_back((second, count)),
        }
        while self
            .seconds
            .front()
            .is_some_and(|(s, _)| s + RATE_SECONDS < second)
        {
            self.seconds.pop_front();
        }
    }

    /// Units a second at `now`. Zero before a tenth of a second has passed: too little to say.
    pub fn per_second(&self, now: u64) -> f64 {
        let Some(started) = self.started else {
            return 0.0;
        };
        let from = (now / SECOND).saturating_sub(RATE_SECONDS);
        let sum: u64 = self
            .seconds
            .iter()
            .filter(|(s, _)| *s >= from)
            .map(|(_, n)| n)
            .sum();
        let span = now.saturating_sub(started.max(from * SECOND));
        if span < SECOND / 10 {
            0.0
        } else {
            sum as f64 * SECOND as f64 / span as f64
        }
    }
}

/// Progress of a copy: units done of a total that may still grow.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    done: u64,
    total: u64,
    rate: Rate,
}

impl Progress {
    /// `total` units are to be done, `done` of them already are.
    pub fn new(done: u64, total: u64) -> Self {
        Progress {
            done,
            total: total.max(done),
            rate: Rate::default(),
        }
    }

    /// There is more, or less, to do than was known.
    pub fn set_total(&mut self, total: u64) {
        self.total = total.max(self.done);
    }

    /// `count` more are done at `now`.
    pub fn add(&mut self, now: u64, count: u64) {
        self.done = self.done.saturating_add(count);
        self.total = self.total.max(self.done);
        self.rate.add(now, count);
    }

    /// Units done.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Units in all, as far as known.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Units a second, over the last ten seconds.
    pub fn per_second(&self, now: u64) -> f64 {
        self.rate.per_second(now)
    }

    /// Time that the rest takes at the present rate. `None`: nothing moves, or it would take more than a year.
    pub fn remaining(&self, now: u64) -> Option<Duration> {
        let left = self.total - self.done;
        if left == 0 {
            return Some(Duration::ZERO);
        }
        let seconds = left as f64 / self.per_second(now);
        (seconds < 366.0 * 86_400.0).then(|| Duration::from_secs_f64(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_lag_is_the_age_of_the_oldest_change() {
        let mut queue = LagQueue::default();
        assert_eq!(queue.lag(5 * SECOND), Duration::ZERO);
        queue.push(1, SECOND);
        queue.push(2, 2 * SECOND);
        queue.push(3, SECOND / 2);
        assert_eq!(queue.lag(3 * SECOND), Duration::from_millis(2500));
        queue.ack(2);
        assert_eq!(
            queue.lag(3 * SECOND),
            Duration::from_millis(2500),
            "number 3 was noticed first"
        );
        queue.ack(3);
        assert!(queue.is_empty());
        assert_eq!(queue.lag(9 * SECOND), Duration::ZERO);
    }

    proptest! {
        /// Against a queue without bound: never less, and at most what joining neighbours can add.
        #[test]
        fn the_bound_only_makes_the_lag_larger(gaps in proptest::collection::vec(0u64..10, 1..5000), acked in 0u64..6000) {
            let (mut queue, mut now, mut all) = (LagQueue::default(), 0, Vec::new());
            for (seq, gap) in gaps.iter().enumerate() {
                now += gap;
                queue.push(seq as u64 + 1, now);
                all.push((seq as u64 + 1, now));
                prop_assert!(queue.stretches.len() <= MAX_STRETCHES);
            }
            queue.ack(acked);
            let oldest = all.iter().filter(|(seq, _)| *seq > acked).map(|(_, noticed)| *noticed).min();
            let exact = oldest.map_or(0, |noticed| now - noticed);
            let shown = queue.lag(now).as_nanos() as u64;
            prop_assert!(shown >= exact);
            prop_assert_eq!(queue.is_empty(), oldest.is_none());
            if gaps.len() <= MAX_STRETCHES && gaps.iter().all(|gap| *gap > 0) {
                prop_assert_eq!(shown, exact);
            }
        }
    }

    #[test]
    fn rates() {
        let mut rate = Rate::default();
        assert_eq!(rate.per_second(0), 0.0);
        let start = 100 * SECOND;
        for tenth in 0..50 {
            rate.add(start + tenth * SECOND / 10, 10);
        }
        let mean = rate.per_second(start + 5 * SECOND);
        assert!((99.0..=101.0).contains(&mean), "{mean}");
        assert_eq!(
            rate.per_second(start + 30 * SECOND),
            0.0,
            "nothing for more than ten seconds"
        );
        for second in 0..1000 {
            rate.add(start + second * SECOND, 1);
        }
        assert!(rate.seconds.len() as u64 <= RATE_SECONDS + 1);
    }

    #[test]
    fn progress_of_a_copy() {
        let mut copy = Progress::new(0, 1000);
        assert_eq!(copy.remaining(0), None, "nothing moves yet");
        for tenth in 1..=10 {
            copy.add(tenth * SECOND / 10, 50);
        }
        assert_eq!((copy.done(), copy.total()), (500, 1000));
        let left = copy.remaining(SECOND).unwrap();
        assert!(
            (Duration::from_millis(800)..Duration::from_millis(1100)).contains(&left),
            "{left:?}"
        );
        copy.add(SECOND, 600);
        assert_eq!(
            (copy.done(), copy.total(), copy.remaining(SECOND)),
            (1100, 1100, Some(Duration::ZERO))
        );
        copy.set_total(5);
        assert_eq!(copy.total(), 1100);
        assert_eq!(Progress::new(0, u64::MAX).remaining(SECOND), None);
    }
}
