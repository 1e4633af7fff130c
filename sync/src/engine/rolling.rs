//! `verify` by schedule: part after part of a tree is compared with each receiver's, evenly over the period, from one end of
//! the tree to the other, and again.
//!
//! Where it is is durable, so a restart goes on. A change of master begins anew: the other side is another machine then.

use super::command::Command;
use super::compare::{Again, SETTLE};
use super::contents::pace::{Plan, cost};
use super::error::CommandError;
use super::handle::Engine;
use super::receivers::Receiver;
use super::shared::Shared;
use super::status::{Mode, VerifyRound, VerifyStatus};
use super::verified::{Found, Verified};
use super::worker::Worker;
use crate::index::{IndexError, Snapshot};
use crate::tree::{TreeConfig, TreeId};
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Mutex;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// Time between two looks whether a part is due.
const LOOK: Duration = Duration::from_secs(1);

/// What is known of each receiver of a tree. At most one for each of them.
pub(super) type Compared = BTreeMap<Receiver, Verified>;

/// Name of the value in the index.
fn compared_key(tree: TreeId) -> String {
    format!("compared/{tree}")
}

fn compared(index: &Snapshot, tree: TreeId) -> Result<Compared, IndexError> {
    Ok(index.value(&compared_key(tree))?.unwrap_or_default())
}

/// What is known of a receiver in the tree's newest epoch.
fn known(index: &Snapshot, tree: TreeId, of: &Receiver) -> Result<Verified, IndexError> {
    let epoch = index.head(tree)?.lineage.head().map(|epoch| epoch.id);
    let verified = compared(index, tree)?.remove(of);
    Ok(verified.unwrap_or_default().of(epoch))
}

/// For status: nothing of a receiver with which nothing was compared and nothing is to be.
pub(super) fn shown(
    index: &Snapshot,
    config: &TreeConfig,
    shared: &Shared,
) -> Result<Vec<VerifyStatus>, IndexError> {
    let tree = config.id();
    let epoch = index.head(tree)?.lineage.head().map(|epoch| epoch.id);
    let mut compared = compared(index, tree)?;
    let receivers = shared.all_receivers();
    let receivers = receivers.filter(|of| shared.receives(of, tree));
    let known = receivers.map(|of| {
        let verified = compared.remove(&of).unwrap_or_default().of(epoch);
        (of, verified)
    });
    let wanted = known.filter(|(_, verified)| verified.is_any() || config.verify.is_some());
    Ok(wanted.map(|(of, verified)| verified.shown(of)).collect())
}

pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

impl Engine {
    /// Compares by schedule until `cancel` fires, whenever this node is the source and a receiver is there. To be run once.
    ///
    /// Each receiver has a task of its own, so that none waits for another one's answer. What is read here is read for one
    /// of them after the other.
    pub async fn verify_by_schedule(&self, cancel: CancellationToken) {
        let turn = Arc::new(Mutex::new(()));
        let mut tasks = JoinSet::new();
        // At most one task for each receiver.
        let mut busy: BTreeMap<Receiver, AbortHandle> = BTreeMap::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.shared.end.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            while tasks.try_join_next().is_some() {}
            busy.retain(|_, task| !task.is_finished());
            for of in self.shared.all_receivers() {
                if busy.contains_key(&of) {
                    continue;
                }
                let (engine, to, turn) = (self.clone(), of.clone(), Arc::clone(&turn));
                let task = tasks.spawn(async move { engine.verify_due(&to, &turn).await });
                busy.insert(of, task);
            }
        }
    }

    /// Compares the next part of each tree of a receiver that is due.
    async fn verify_due(&self, of: &Receiver, turn: &Mutex<()>) {
        for config in self.shared.trees().iter() {
            let may = |_: &Duration| may_verify(&self.shared, config, of);
            let Some(period) = config.verify.filter(may) else {
                continue;
            };
            // The session may end meanwhile, and the role may change: the part is compared again.
            if let Err(error) = self.verify_next(config, period, of, turn).await {
                tracing::debug!(tree = config.name, receiver = %of, %error, "not verified");
            }
        }
    }

    /// Compares the next part of a tree if it is due.
    async fn verify_next(
        &self,
        config: &TreeConfig,
        period: Duration,
        of: &Receiver,
        turn: &Mutex<()>,
    ) -> Result<(), CommandError> {
        let tree = config.id();
        let (verified, plan) = {
            let snapshot = self.shared.index.snapshot().map_err(failed)?;
            let counts = snapshot.counts(tree).map_err(failed)?;
            let total = cost(counts.entries(), counts.bytes);
            let plan = Plan { total, period };
            (known(&snapshot, tree, of).map_err(failed)?, plan)
        };
        if verified.due(plan, unix_ms()) > unix_ms() {
            return Ok(());
        }
        // What is on its way, a first copy for example, would look like differences.
        if let Some(why) = self.settled(of, tree, SETTLE).await? {
            tracing::debug!(tree = config.name, receiver = %of, why, "not verified");
            return Ok(());
        }
        let rate = config
            .verify_rate
            .or_else(|| NonZeroU64::new(plan.per_second()));
        let part = {
            let _turn = turn.lock().await;
            self.read_part(tree, verified.after(), rate).await?
        };
        let mut step = self.compare_part(of, part).await?;
        let again = Again {
            rate,
            repair: false,
            patience: SETTLE,
        };
        step.found = self.confirmed(of, tree, step.found, again).await?;
        told(config, of, &step.found);
        self.keep_compared(tree, of, verified.with(&step, unix_ms()))
            .await
    }

    /// A whole tree was compared by hand.
    pub(super) async fn verified_whole(
        &self,
        of: &Receiver,
        tree: TreeId,
        round: VerifyRound,
    ) -> Result<(), CommandError> {
        let verified = {
            let snapshot = self.shared.index.snapshot().map_err(failed)?;
            known(&snapshot, tree, of).map_err(failed)?
        };
        self.keep_compared(tree, of, verified.whole(round)).await
    }

    async fn keep_compared(
        &self,
        tree: TreeId,
        of: &Receiver,
        verified: Verified,
    ) -> Result<(), CommandError> {
        let (of, verified) = (of.clone(), Box::new(verified));
        self.shared
            .ask(|reply| Command::KeepVerified {
                tree,
                of,
                verified,
                reply,
            })
            .await?
    }
}

impl Worker {
    /// Keeps what is known of a receiver. What was known of replicas that do not get the tree any more goes.
    pub(super) fn keep_verified(
        &self,
        tree: TreeId,
        of: Receiver,
        verified: Verified,
    ) -> Result<(), IndexError> {
        let key = compared_key(tree);
        self.shared.index.write(|w| {
            let mut all: Compared = w.value(&key)?.unwrap_or_default();
            all.insert(of, verified);
            all.retain(|of, _| self.shared.receives(of, tree));
            w.put_value(&key, &all)
        })
    }
}

fn failed(error: IndexError) -> CommandError {
    CommandError::Index(error.to_string())
}

fn told(config: &TreeConfig, of: &Receiver, found: &Found) {
    for (path, how) in found {
        tracing::warn!(tree = config.name, receiver = %of, %path, how = ?how, "another version is there");
    }
}

/// There is somebody to compare with, and something to be compared.
fn may_verify(shared: &Shared, config: &TreeConfig, of: &Receiver) -> bool {
    let source = matches!(*shared.mode.borrow(), Mode::Source { .. });
    let open = shared.roots.get(config.id()).is_some();
    let there = match of {
        Receiver::Standby => shared.peer.borrow().session,
        Receiver::Replica(name) => shared.receivers.takes(name, config.id()),
    };
    source && there && open && config.freeze.is_none()
}
