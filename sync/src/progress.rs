//! How far behind, how fast, how long still.

use crate::tree::TreeId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
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

/// How much there is, or was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Work {
    /// Entries.
    pub entries: u64,
    /// Bytes of contents.
    pub bytes: u64,
}

impl Work {
    /// Both together.
    pub fn plus(self, other: Work) -> Work {
        Work {
            entries: self.entries.saturating_add(other.entries),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    /// What is left when `other` is done.
    pub fn minus(self, other: Work) -> Work {
        Work {
            entries: self.entries.saturating_sub(other.entries),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    fn at_least(self, other: Work) -> Work {
        Work {
            entries: self.entries.max(other.entries),
            bytes: self.bytes.max(other.bytes),
        }
    }
}

/// Less time than this is no basis for an estimate (nanoseconds).
const BASIS: u64 = 3 * SECOND;
/// What would take longer than this is not foreseen (seconds).
const FORESEEN: f64 = 366.0 * 86_400.0;

/// How far the transfer of one tree is.
#[derive(Debug, Clone)]
pub struct Transfer {
    begun: u64,
    /// The other side had nothing of it.
    first: bool,
    done: Work,
    total: Work,
    /// The total is all that there is to do.
    whole: bool,
    entries: Rate,
    bytes: Rate,
}

/// What can be said of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Done.
    pub done: Work,
    /// To be done in all.
    pub total: Work,
    /// The total is only what is known by now: there may be more.
    pub at_least: bool,
    /// Entries each second, over the last ten seconds.
    pub entries_per_second: u64,
    /// Bytes each second, over the last ten seconds.
    pub bytes_per_second: u64,
    /// Time that the rest takes at these rates. `None`: there is no basis to say.
    pub left: Option<Duration>,
}

impl Transfer {
    /// One that begins at `now`, with nothing known.
    /// `first`: the other side has nothing.
    pub fn new(now: u64, first: bool) -> Transfer {
        let mut rates = (Rate::default(), Rate::default());
        rates.0.add(now, 0);
        rates.1.add(now, 0);
        Transfer {
            begun: now,
            first,
            done: Work::default(),
            total: Work::default(),
            whole: false,
            entries: rates.0,
            bytes: rates.1,
        }
    }

    /// There is so much to do in all; `whole`: no more will be found.
    pub fn set_total(&mut self, total: Work, whole: bool) {
        (self.total, self.whole) = (total, whole);
    }

    /// So much more is done at `now`.
    pub fn add(&mut self, now: u64, more: Work) {
        self.done = self.done.plus(more);
        self.entries.add(now, more.entries);
        self.bytes.add(now, more.bytes);
    }

    /// The other side had nothing of it.
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// How long it goes on.
    pub fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.begun)
    }

    /// Done so far.
    pub fn done(&self) -> Work {
        self.done
    }

    /// What can be said at `now`.
    pub fn estimate(&self, now: u64) -> Estimate {
        let total = self.total.at_least(self.done);
        let rest = total.minus(self.done);
        let rates = (self.entries.per_second(now), self.bytes.per_second(now));
        // A file costs by its bytes and by itself. Whichever of the two takes longer is what is waited for; while one large
        // file comes no entry is done, and its bytes tell.
        let seconds = |left: u64, rate: f64| match left {
            0 => 0.0,
            left => left as f64 / rate,
        };
        let by_bytes = seconds(rest.bytes, rates.1);
        let left = match rates.0 == 0.0 && rest.bytes > 0 {
            true => by_bytes,
            false => by_bytes.max(seconds(rest.entries, rates.0)),
        };
        let basis = self.whole && now.saturating_sub(self.begun) >= BASIS && left < FORESEEN;
        Estimate {
            done: self.done,
            total,
            at_least: !self.whole,
            // A rate is far below the end of numbers.
            entries_per_second: rates.0 as u64,
            bytes_per_second: rates.1 as u64,
            left: basis.then(|| Duration::from_secs_f64(left)),
        }
    }
}

/// The transfers of a session, by tree. What came of an item counts as it comes; what had not to come, because it is there
/// already, counts when its batch is through.
#[derive(Debug, Clone, Default)]
pub struct Transfers {
    trees: BTreeMap<TreeId, Transfer>,
    /// Bytes that came, by batch and tree. At most the open batches.
    came: BTreeMap<(u64, TreeId), u64>,
}

impl Transfers {
    /// These trees, of which nothing was transferred at `now`, and of which the other side has nothing or something.
    pub fn of(trees: impl IntoIterator<Item = (TreeId, bool)>, now: u64) -> Transfers {
        let begin = |(tree, first)| (tree, Transfer::new(now, first));
        let trees = trees.into_iter().map(begin);
        Transfers {
            trees: trees.collect(),
            came: BTreeMap::new(),
        }
    }

    /// There is so much to do for a tree.
    pub fn set_total(&mut self, tree: TreeId, total: Work, whole: bool) {
        if let Some(transfer) = self.trees.get_mut(&tree) {
            transfer.set_total(total, whole);
        }
    }

    /// Bytes of an item of this batch came, or went.
    pub fn content(&mut self, now: u64, batch: u64, tree: TreeId, bytes: u64) {
        if let Some(transfer) = self.trees.get_mut(&tree) {
            // Of a source that announces anything.
            let came = self.came.entry((batch, tree)).or_default();
            *came = came.saturating_add(bytes);
            transfer.add(now, Work { entries: 0, bytes });
        }
    }

    /// A batch with these records is through.
    pub fn batch(&mut self, now: u64, batch: u64, records: impl Iterator<Item = (TreeId, u64)>) {
        let mut all: BTreeMap<TreeId, Work> = BTreeMap::new();
        for (tree, bytes) in records {
            let work = all.entry(tree).or_default();
            *work = work.plus(Work { entries: 1, bytes });
        }
        for (tree, work) in all {
            let bytes = self.came.remove(&(batch, tree)).unwrap_or_default();
            if let Some(transfer) = self.trees.get_mut(&tree) {
                transfer.add(now, work.minus(Work { entries: 0, bytes }));
            }
        }
    }

    /// Nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.trees.is_empty()
    }

    /// How far a tree is.
    pub fn get(&self, tree: TreeId) -> Option<&Transfer> {
        self.trees.get(&tree)
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

    fn work(entries: u64, bytes: u64) -> Work {
        Work { entries, bytes }
    }

    #[test]
    fn an_estimate_needs_a_basis() {
        let start = 50 * SECOND;
        let mut copy = Transfer::new(start, true);
        copy.set_total(work(100, 1000), true);
        let at = |copy: &Transfer, tenths: u64| copy.estimate(start + tenths * SECOND / 10);
        assert_eq!(at(&copy, 50).left, None, "nothing moves");
        copy.add(start + SECOND, work(10, 100));
        assert_eq!(at(&copy, 20).left, None, "too early to say");
        let now = at(&copy, 50);
        assert_eq!((now.entries_per_second, now.bytes_per_second), (2, 20));
        assert_eq!(now.left, Some(Duration::from_secs(45)));
        assert!(!now.at_least);
        copy.set_total(work(100, 1000), false);
        let now = at(&copy, 50);
        assert!(now.at_least);
        assert_eq!(now.left, None, "more may be found");
        copy.set_total(work(100, 1000), true);
        assert_eq!(at(&copy, 400).left, None, "it stands still");
    }

    #[test]
    fn what_takes_longer_counts() {
        let mut copy = Transfer::new(0, false);
        copy.add(5 * SECOND, work(10, 1_000_000));
        copy.set_total(work(10, 2_000_000), true);
        assert_eq!(
            copy.estimate(5 * SECOND).left,
            Some(Duration::from_secs(5)),
            "one large file"
        );
        copy.set_total(work(30, 1_000_000), true);
        assert_eq!(
            copy.estimate(5 * SECOND).left,
            Some(Duration::from_secs(10)),
            "many empty ones"
        );
        copy.set_total(work(10, 1_000_000), true);
        assert_eq!(copy.estimate(5 * SECOND).left, Some(Duration::ZERO));
        let mut one = Transfer::new(0, false);
        one.set_total(work(2, 2_000_000), true);
        one.add(5 * SECOND, work(0, 1_000_000));
        assert_eq!(
            one.estimate(5 * SECOND).left,
            Some(Duration::from_secs(5)),
            "no entry is done yet"
        );
        one.add(5 * SECOND, work(0, 1_000_000));
        assert_eq!(
            one.estimate(5 * SECOND).left,
            None,
            "entries are left, and none was done"
        );
        copy.set_total(work(3, 5), true);
        assert_eq!(
            copy.estimate(5 * SECOND).total,
            work(10, 1_000_000),
            "never less than is done"
        );
        copy.set_total(work(u64::MAX, u64::MAX), true);
        assert_eq!(copy.estimate(5 * SECOND).left, None, "not foreseen");
    }

    #[test]
    fn what_is_there_already_counts_when_its_batch_is_through() {
        let (a, b) = (TreeId::of("a"), TreeId::of("b"));
        let mut all = Transfers::of([(a, true), (b, false)], 0);
        let done = |all: &Transfers, tree| all.get(tree).unwrap().done();
        all.content(SECOND, 1, a, 60);
        all.content(SECOND, 2, a, 5);
        assert_eq!(done(&all, a), work(0, 65));
        all.batch(SECOND, 1, [(a, 60), (a, 40), (b, 7)].into_iter());
        assert_eq!(done(&all, a), work(2, 105));
        assert_eq!(done(&all, b), work(1, 7));
        all.batch(SECOND, 2, [(a, 5)].into_iter());
        assert_eq!(done(&all, a), work(3, 105));
        let strange = TreeId::of("strange");
        all.content(SECOND, 3, strange, 5);
        all.batch(SECOND, 3, [(strange, 5)].into_iter());
        assert!(all.get(strange).is_none());
        assert!(all.came.is_empty());
    }
}
