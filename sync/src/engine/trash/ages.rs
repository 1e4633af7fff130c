//! How long what is in the trash has been there, by the time that passed: what a clock of the day says of it may be wrong by years, and
//! a directory is named by that clock.
//!
//! The time is CLOCK_BOOTTIME. Over a reboot what passed since the last note, and while the machine was off, is not counted, as no
//! clock that can be trusted tells it: things stay longer for it, and never shorter.

use crate::commit::trash::SECONDS;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Of one tree. As many hours as there are directories in the trash, and the present one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ages {
    /// Seconds that passed.
    passed: u64,
    /// CLOCK_BOOTTIME, in seconds, when they had.
    uptime: u64,
    /// Hours since 1970, as the directories are named, and the second of `passed` since when each is there. Within an hour from then
    /// on more may have been put there.
    hours: BTreeMap<u64, u64>,
}

impl Ages {
    /// Nothing is there.
    pub fn is_empty(&self) -> bool {
        self.hours.is_empty()
    }

    /// Time passes up to this one. What lies before the last one is of another boot, all of which came behind it.
    pub fn pass(&mut self, uptime: u64) {
        let passed = uptime.checked_sub(self.uptime).unwrap_or(uptime);
        self.passed = self.passed.saturating_add(passed);
        self.uptime = uptime;
    }

    /// Something is put into an hour. True: that is to be noted before. The clock may have been set back into an hour that is there,
    /// which then begins anew.
    pub fn put(&mut self, hour: u64) -> bool {
        let lasts = self
            .hours
            .get(&hour)
            .is_some_and(|since| self.is_open(*since));
        if !lasts {
            self.hours.insert(hour, self.passed);
        }
        !lasts
    }

    /// These are in the trash. One of which nothing is known is there since now. True: there is something to note.
    pub fn found(&mut self, there: &BTreeSet<u64>) -> bool {
        let before = self.hours.len();
        let mut hours = std::mem::take(&mut self.hours);
        // Of a present one the directory may be yet to be made.
        hours.retain(|hour, since| there.contains(hour) || self.is_open(*since));
        let changed = hours.len() < before;
        let kept = hours.len();
        for hour in there {
            hours.entry(*hour).or_insert(self.passed);
        }
        self.hours = hours;
        changed || self.hours.len() > kept
    }

    /// Seconds until all of an hour has been there for `age`. `None`: nothing is known of it.
    pub fn left(&self, hour: u64, age: u64) -> Option<u64> {
        let since = self.hours.get(&hour)?;
        let end = since.saturating_add(SECONDS).saturating_add(age);
        Some(end.saturating_sub(self.passed))
    }

    fn is_open(&self, since: u64) -> bool {
        self.passed < since.saturating_add(SECONDS)
    }

    /// For tests: so many seconds passed.
    #[cfg(test)]
    pub fn later(mut self, seconds: u64) -> Ages {
        self.passed += seconds;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * SECONDS;

    #[test]
    fn only_time_that_passed_counts() {
        // CLOCK_BOOTTIME at the notes, and what passed between the first and the last at most.
        let table: [(&[u64], u64); 5] = [
            (&[100, 100], 0),
            (&[100, 160, 220], 120),
            // A reboot: what passed since the last note is not known.
            (&[100, 200, 30], 130),
            (&[100, 200, 30, 40, 10], 150),
            // Another boot, longer than the one before: never more than it lasted.
            (&[100, 500], 400),
        ];
        for (notes, passed) in table {
            let mut ages = Ages::default();
            ages.pass(notes[0]);
            let before = ages.passed;
            for uptime in &notes[1..] {
                ages.pass(*uptime);
            }
            assert_eq!(ages.passed - before, passed, "{notes:?}");
        }
    }

    #[test]
    fn what_is_put_there_stays_for_its_age_whatever_the_clock_says() {
        let mut ages = Ages::default();
        ages.pass(1000);
        // 1970, then the right time, then a leap of years and back.
        let (dead, right, ahead) = (0, 500_000, 600_000);
        assert!(ages.put(dead));
        assert_eq!(ages.left(dead, DAY), Some(DAY + SECONDS));
        ages.pass(1060);
        assert!(ages.put(right) && ages.put(ahead) && !ages.put(right));
        let there = [dead, right, ahead].into();
        assert!(!ages.found(&there));
        ages.pass(1000 + DAY + SECONDS - 1);
        assert_eq!(ages.left(dead, DAY), Some(1));
        ages.pass(1000 + DAY + SECONDS);
        let left = [dead, right, ahead].map(|hour| ages.left(hour, DAY).unwrap());
        assert_eq!(left, [0, 60, 60]);
        // An hour that comes again begins anew.
        assert!(ages.put(dead));
        assert_eq!(ages.left(dead, DAY), Some(DAY + SECONDS));
    }

    #[test]
    fn what_is_found_is_there_since_then_and_what_is_gone_is_forgotten() {
        let mut ages = Ages::default();
        assert!(!ages.found(&BTreeSet::new()) && ages.is_empty());
        assert_eq!(ages.left(7, DAY), None);
        assert!(ages.found(&[7].into()));
        assert!(!ages.found(&[7].into()));
        assert!(ages.put(9) && !ages.found(&[7].into()), "to be made");
        let mut ages = ages.later(SECONDS);
        assert_eq!(ages.left(7, DAY), Some(DAY));
        assert!(ages.found(&[7].into()));
        assert_eq!(ages.left(9, DAY), None);
        assert!(ages.found(&BTreeSet::new()) && ages.is_empty());
    }
}
