//! `verify` by schedule: part after part of a tree is compared with the standby's, evenly over the period, from one end of
//! the tree to the other, and again.
//!
//! Where it is is durable, so a restart goes on. A change of master begins anew: the other side is another machine then.

use super::command::{Command, Shared};
use super::contents::pace::{Plan, cost};
use super::error::CommandError;
use super::handle::Engine;
use super::status::{Mode, VerifyRound, VerifyStatus};
use super::verify::{Found, SETTLE};
use crate::index::{IndexError, Snapshot};
use crate::lineage::EpochId;
use crate::path::RelPath;
use crate::tree::{TreeConfig, TreeId};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_util::sync::CancellationToken;

/// Time between two looks whether a part is due.
const LOOK: Duration = Duration::from_secs(1);
/// Differing paths that are named; the others are counted.
pub(super) const NAMED: usize = 20;

/// How far the comparison of a tree with the standby's is. Durable.
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

/// What a part showed.
pub(super) struct Step {
    /// The last path of the part; `None`: the tree's end was reached.
    pub after: Option<RelPath>,
    pub entries: u64,
    pub bytes: u64,
    pub found: Found,
}

impl Verified {
    /// A whole tree was compared at once.
    pub fn whole(&self, epoch: Option<EpochId>, round: VerifyRound) -> Verified {
        let mut kept = self.of(epoch);
        // What the round under way found is judged by this one, which is newer.
        if let Some(round) = &mut kept.round {
            (round.differ, round.named) = (0, Vec::new());
        }
        kept.last = Some(round);
        kept
    }

    /// The same if it is of this epoch, else nothing.
    fn of(&self, epoch: Option<EpochId>) -> Verified {
        match self.epoch == epoch {
            true => self.clone(),
            false => Verified {
                epoch,
                ..Verified::default()
            },
        }
    }

    /// When the next part begins, milliseconds since 1970. A clock that was set back waits no longer than a period.
    fn due(&self, plan: Plan, now: u64) -> u64 {
        let (begun, done) = match (&self.round, &self.last) {
            (Some(round), _) => (round.begun_unix_ms, cost(round.entries, round.bytes)),
            (None, Some(last)) => (last.begun_unix_ms, plan.total),
            (None, None) => return now,
        };
        plan.due(begun.min(now), done)
    }

    /// With a part that was compared.
    fn with(&self, step: &Step, now: u64) -> Verified {
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

    fn shown(&self) -> VerifyStatus {
        let round = self.round.clone().unwrap_or_else(|| Round::begun(0));
        VerifyStatus {
            entries: round.entries,
            bytes: round.bytes,
            differ: round.differ,
            named: round.named,
            last: self.last.clone(),
        }
    }
}

/// Name of the value in the index.
pub(super) fn verified_key(tree: TreeId) -> String {
    format!("verified/{tree}")
}

/// What is known of a tree in its newest epoch.
fn known(index: &Snapshot, tree: TreeId) -> Result<(Option<EpochId>, Verified), IndexError> {
    let epoch = index.head(tree)?.lineage.head().map(|epoch| epoch.id);
    let verified: Option<Verified> = index.value(&verified_key(tree))?;
    Ok((epoch, verified.unwrap_or_default().of(epoch)))
}

/// For status: `None` where nothing was compared and nothing is to be.
pub(super) fn shown(
    index: &Snapshot,
    config: &TreeConfig,
) -> Result<Option<VerifyStatus>, IndexError> {
    let (_, verified) = known(index, config.id())?;
    let any = verified.round.is_some() || verified.last.is_some();
    Ok((any || config.verify.is_some()).then(|| verified.shown()))
}

pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

impl Engine {
    /// Compares by schedule until `cancel` fires, whenever this node is the source and the standby is there. To be run once.
    pub async fn verify_by_schedule(&self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.shared.end.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            for config in self.shared.trees().iter() {
                let Some(period) = config.verify.filter(|_| may_verify(&self.shared, config))
                else {
                    continue;
                };
                // The session may end meanwhile, and the role may change: the part is compared again.
                if let Err(error) = self.verify_next(config, period).await {
                    tracing::debug!(tree = config.name, %error, "not verified");
                }
            }
        }
    }

    /// Compares the next part of a tree if it is due.
    async fn verify_next(&self, config: &TreeConfig, period: Duration) -> Result<(), CommandError> {
        let failed = |e: IndexError| CommandError::Index(e.to_string());
        let tree = config.id();
        let (verified, plan) = {
            let snapshot = self.shared.index.snapshot().map_err(failed)?;
            let counts = snapshot.counts(tree).map_err(failed)?;
            let total = cost(counts.entries(), counts.bytes);
            let plan = Plan { total, period };
            (known(&snapshot, tree).map_err(failed)?.1, plan)
        };
        if verified.due(plan, unix_ms()) > unix_ms() {
            return Ok(());
        }
        // What is on its way, a first copy for example, would look like differences.
        let flushed = self.flush(SETTLE).await?;
        if !flushed.covered.contains(&config.name) {
            return Ok(());
        }
        let after = verified.round.as_ref().and_then(|r| r.after.clone());
        let rate = config
            .verify_rate
            .or_else(|| NonZeroU64::new(plan.per_second()));
        let mut step = self.compare_part(tree, after, rate).await?;
        step.found = self.confirmed(tree, step.found, rate, false).await?;
        for (path, how) in &step.found {
            tracing::warn!(tree = config.name, %path, how = ?how, "the standby's version differs");
        }
        self.keep_verified(tree, verified.with(&step, unix_ms()))
            .await
    }

    /// A whole tree was compared by hand.
    pub(super) async fn verified_whole(
        &self,
        tree: TreeId,
        round: VerifyRound,
    ) -> Result<(), CommandError> {
        let failed = |e: IndexError| CommandError::Index(e.to_string());
        let (epoch, verified) = {
            let snapshot = self.shared.index.snapshot().map_err(failed)?;
            known(&snapshot, tree).map_err(failed)?
        };
        self.keep_verified(tree, verified.whole(epoch, round)).await
    }

    async fn keep_verified(&self, tree: TreeId, verified: Verified) -> Result<(), CommandError> {
        let verified = Box::new(verified);
        self.shared
            .ask(|reply| Command::KeepVerified {
                tree,
                verified,
                reply,
            })
            .await?
    }
}

/// There is somebody to compare with, and something to be compared.
fn may_verify(shared: &Shared, config: &TreeConfig) -> bool {
    let source = matches!(*shared.mode.borrow(), Mode::Source { .. });
    let peer = *shared.peer.borrow();
    let open = shared.roots.get(config.id()).is_some();
    source && peer.session && open && config.freeze.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Differs;

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
        let shown = round.shown();
        assert_eq!((shown.differ, shown.named.len()), (30, NAMED));
        let by_hand = VerifyRound {
            begun_unix_ms: 1,
            ended_unix_ms: 2,
            entries: 3,
            bytes: 4,
            differ: 0,
            named: Vec::new(),
        };
        let whole = round.whole(None, by_hand.clone()).shown();
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
