//! (pure) How often a receiver gets the same version of a large file that it asks for: each answer costs the source a reading of
//! all of it, and where the receiver says that it has most of it hardly a byte on the link.
//!
//! What cannot be applied is asked for each second, for as long as it cannot. So the first few answers come at once, and then
//! one each [`EVERY`]. A question that is not answered is asked again: it is passed over.

use std::collections::BTreeMap;

/// From this size on. What is smaller costs little more than the question.
pub(super) const FROM: u64 = 1 << 20;
/// Answers that come at once: whoever changes a file on the standby again and again gets it repaired as often.
const AT_ONCE: u32 = 8;
/// Between two answers after these (nanoseconds). Reading a file of some gigabytes takes a good part of it.
const EVERY: u64 = 20_000_000_000;
/// Versions that are remembered, some 300 KiB. With more, the one that was answered the longest ago is forgotten: a round through
/// so many large files takes longer than what is saved.
const MOST: usize = 4096;

/// What a version is known by: path, tree and number, hashed.
pub(super) type Version = [u8; 16];

/// The versions that were asked for in a session.
#[derive(Debug, Default)]
pub(super) struct Again {
    answered: BTreeMap<Version, Answered>,
}

#[derive(Debug)]
struct Answered {
    times: u32,
    /// The last time (nanoseconds).
    at: u64,
}

impl Again {
    /// Whether this version is sent when it is asked for now.
    pub fn is_due(&self, version: &Version, now: u64) -> bool {
        let known = self.answered.get(version);
        known.is_none_or(|known| known.times < AT_ONCE || now.saturating_sub(known.at) >= EVERY)
    }

    /// It is sent.
    pub fn note(&mut self, version: Version, now: u64) {
        if let Some(known) = self.answered.get_mut(&version) {
            // What was at rest for long begins anew.
            let rested = now.saturating_sub(known.at) >= EVERY * u64::from(AT_ONCE);
            known.times = if rested {
                1
            } else {
                known.times.saturating_add(1)
            };
            known.at = now;
            return;
        }
        if self.answered.len() >= MOST {
            let oldest = self.answered.iter().min_by_key(|(_, known)| known.at);
            let oldest = oldest.map(|(version, _)| *version);
            oldest.and_then(|version| self.answered.remove(&version));
        }
        let first = Answered { times: 1, at: now };
        self.answered.insert(version, first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn asked(again: &mut Again, version: Version, now: u64) -> bool {
        let due = again.is_due(&version, now);
        if due {
            again.note(version, now);
        }
        due
    }

    #[test]
    fn one_version_is_given_a_few_times_at_once_and_then_now_and_then() {
        let mut again = Again::default();
        let given = |again: &mut Again, seconds: std::ops::Range<u64>| {
            let all = seconds.map(|s| asked(again, [1; 16], s * SECOND));
            all.filter(|given| *given).count()
        };
        assert_eq!(given(&mut again, 0..8), 8);
        assert_eq!(given(&mut again, 8..1008), 50);
        assert!(asked(&mut again, [2; 16], 1008 * SECOND), "another version");
        assert_eq!(given(&mut again, 2000..2008), 8, "after a rest");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut again = Again::default();
        for n in 0..2 * MOST as u64 {
            let version = u128::from(n).to_le_bytes();
            assert!(asked(&mut again, version, n));
            assert!(again.answered.len() <= MOST);
        }
        assert!(
            again
                .answered
                .contains_key(&u128::from(MOST as u64).to_le_bytes())
        );
        assert!(
            !again
                .answered
                .contains_key(&u128::from(MOST as u64 - 1).to_le_bytes())
        );
    }
}
