//! (pure) What is known of the comparison of a tree with a receiver's.

use super::contents::pace::{Plan, cost};
use super::receivers::Receiver;
use super::status::{VerifyRound, VerifyStatus};
use crate::lineage::EpochId;
use crate::path::RelPath;
use crate::wire::Differs;
use serde::{Deserialize, Serialize};

/// Differing paths that are named; the others are counted.
pub(super) const NAMED: usize = 20;

/// How far the comparison of a tree with a receiver's is. Durable.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Verified {
    /// The epoch in which it was compared.
    epoch: Option<EpochId>,
    /// The round that is under way.
    round: Option<Round>,
    /// The last complete one.
    last: Option<VerifyRound>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Round {
    begun_unix_ms: u64,
    /// The last path that was compared.
    after: Option<RelPath>,
    entries: u64,
    bytes: u64,
    differ: u64,
    named: Vec<String>,
}

impl Round {
    fn begun(unix_ms: u64) -> Round {
        Round {
            begun_unix_ms: unix_ms,
            after: None,
            entries: 0,
            bytes: 0,
            differ: 0,
            named: Vec::new(),
        }
    }
}

/// Paths that differ, and how.
pub(crate) type Found = Vec<(RelPath, Differs)>;

/// What a part showed.
pub(crate) struct Step {
    /// The last path of the part; `None`: the tree's end was reached.
    pub after: Option<RelPath>,
    pub entries: u64,
    pub bytes: u64,
    pub found: Found,
}

impl Verified {
    /// A whole tree was compared at once.
    pub fn whole(&self, round: VerifyRound) -> Verified {
        let mut kept = self.clone();
        // What the round under way found is judged by this one, which is newer.
        if let Some(round) = &mut kept.round {
            (round.differ, round.named) = (0, Vec::new());
        }
        kept.last = Some(round);
        kept
    }

    /// The same if it is of this epoch, else nothing.
    pub fn of(&self, epoch: Option<EpochId>) -> Verified {
        match self.epoch == epoch {
            true => self.clone(),
            false => Verified {
                epoch,
                ..Verified::default()
            },
        }
    }

    /// Something was compared.
    pub fn is_any(&self) -> bool {
        self.round.is_some() || self.last.is_some()
    }

    /// The last path that was compared in the round under way.
    pub fn after(&self) -> Option<RelPath> {
        self.round.as_ref()?.after.clone()
    }

    /// When the next part begins, milliseconds since 1970. A clock that was set back waits no longer than a period.
    pub fn due(&self, plan: Plan, now: u64) -> u64 {
        let (begun, done) = match (&self.round, &self.last) {
            (Some(round), _) => (round.begun_unix_ms, cost(round.entries, round.bytes)),
            (None, Some(last)) => (last.begun_unix_ms, plan.total),
            (None, None) => return now,
        };
        plan.due(begun.min(now), done)
    }

    /// With a part that was compared.
    pub fn with(&self, step: &Step, now: u64) -> Verified {
        let mut round = self.round.clone().unwrap_or_else(|| Round::begun(now));
        round.entries += step.entries;
        round.bytes += step.bytes;
        round.differ += step.found.len() as u64;
        let room = NAMED.saturating_sub(round.named.len());
        let named = step.found.iter().map(|(path, _)| path.to_string());
        round.named.extend(named.take(room));
        round.after.clone_from(&step.after);
        let (round, last) = match round.after {
            Some(_) => (Some(round), self.last.clone()),
            None => {
                let whole = VerifyRound {
                    begun_unix_ms: round.begun_unix_ms,
                    ended_unix_ms: now,
                    entries: round.entries,
                    bytes: round.bytes,
                    differ: round.differ,
                    named: round.named,
                };
                (None, Some(whole))
            }
        };
        Verified {
            epoch: self.epoch,
            round,
            last,
        }
    }

    /// For status.
    pub fn shown(&self, receiver: Receiver) -> VerifyStatus {
        let round = self.round.clone().unwrap_or_else(|| Round::begun(0));
        VerifyStatus {
            receiver,
            entries: round.entries,
            bytes: round.bytes,
            differ: round.differ,
            named: round.named,
            last: self.last.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn path(text: &str) -> RelPath {
        RelPath::from_bytes(text.as_bytes()).unwrap()
    }

    fn step(after: Option<&str>, found: usize) -> Step {
        let found = (0..found).map(|n| (path(&format!("f{n}")), Differs::Content));
        Step {
            after: after.map(path),
            entries: 10,
            bytes: 1000,
            found: found.collect(),
        }
    }

    #[test]
    fn a_round_goes_on_part_after_part_evenly_over_its_period() {
        let plan = Plan {
            total: 2 * cost(10, 1000),
            period: Duration::from_secs(100),
        };
        let fresh = Verified::default();
        assert_eq!(fresh.due(plan, 5_000), 5_000, "at once");
        let half = fresh.with(&step(Some("m"), 0), 5_000);
        assert_eq!(half.due(plan, 6_000), 55_000);
        let whole = half.with(&step(None, 0), 56_000);
        assert_eq!(whole.due(plan, 57_000), 105_000, "a period after the begin");
        let last = whole.last.expect("a whole round");
        assert_eq!((last.begun_unix_ms, last.ended_unix_ms), (5_000, 56_000));
        assert_eq!((last.entries, last.bytes, last.differ), (20, 2000, 0));
    }

    #[test]
    fn differences_are_counted_and_the_first_are_named() {
        let round = Verified::default().with(&step(Some("m"), 15), 0);
        let round = round.with(&step(Some("n"), 15), 0);
        let shown = round.shown(Receiver::Standby);
        assert_eq!((shown.differ, shown.named.len()), (30, NAMED));
        let by_hand = VerifyRound {
            begun_unix_ms: 1,
            ended_unix_ms: 2,
            entries: 3,
            bytes: 4,
            differ: 0,
            named: Vec::new(),
        };
        let whole = round.whole(by_hand.clone()).shown(Receiver::Standby);
        assert_eq!((whole.differ, whole.last), (0, Some(by_hand)));
    }

    #[test]
    fn another_epoch_begins_anew() {
        let (one, two) = (Some(EpochId(1)), Some(EpochId(2)));
        let of_one = Verified::default().of(one).with(&step(None, 1), 9);
        assert!(of_one.of(one).last.is_some());
        assert!(of_one.of(two).last.is_none());
    }
}
