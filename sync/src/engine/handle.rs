//! The handle by which the agent talks to the engine.

use super::command::Command;
use super::error::{CommandError, SessionError};
use super::receivers::Receiver;
use super::report::{AcceptPrice, InitReport, RevokeReport, SessionEnd};
use super::sets::FreezeHooks;
use super::shared::{Shared, heads};
use super::status::EngineStatus;
use super::stream::Gauge;
use crate::lineage::{NodeHeads, PairRelation, combine};
use crate::tree::{MAX_REPLICAS, MAX_TREES, Part, ReplicaConfig, TreeConfig};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

mod flush;
pub(super) mod open;

/// How long a closing engine waits for its sessions.
const CLOSING: Duration = Duration::from_secs(5);

/// The trees of one node. Cheap to clone; when the last clone is gone, sessions and worker end.
#[derive(Clone)]
pub struct Engine {
    pub(super) shared: Arc<Shared>,
    alive: Arc<Alive>,
}

/// Ends the engine when it is dropped.
struct Alive {
    end: CancellationToken,
    /// Closed when the worker has ended.
    ended: watch::Receiver<()>,
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("node", &self.shared.config.node)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Ends the engine whatever other clones there are: sessions end, an apply in flight ends whole, the worker closes
    /// the index. Returns when that is done.
    pub async fn close(self) {
        self.alive.end.cancel();
        let mut ended = self.alive.ended.clone();
        // The sender is dropped with the worker, which is the error that is waited for.
        while ended.changed().await.is_ok() {}
        // Sessions end at their next step; the index's file is free when they have. Other clones are not waited for.
        let sessions = async {
            while Arc::strong_count(&self.shared) > Arc::strong_count(&self.alive) {
                tokio::task::yield_now().await;
            }
        };
        let _ = tokio::time::timeout(CLOSING, sessions).await;
    }

    /// The first epoch of every tree that has none: `tandem init --source`, or R2's first direction. Durable when it
    /// returns.
    ///
    /// # Errors
    /// A tree is stopped, or the index fails.
    pub async fn init_source(&self) -> Result<InitReport, CommandError> {
        self.shared.ask(Command::Init).await?
    }

    /// This node is master with `term`: a new epoch for every tree is durable when it returns. The scan for changes that
    /// were not seen before begins then.
    ///
    /// # Errors
    /// [`CommandError::Unborn`] (R5), or the index fails.
    pub async fn begin_source(&self, term: u64) -> Result<(), CommandError> {
        self.shared
            .ask(|reply| Command::BeginSource { term, reply })
            .await?
    }

    /// This node follows: sessions as replica are accepted and applied.
    ///
    /// # Errors
    /// [`CommandError::Ended`].
    pub async fn begin_replica(&self) -> Result<(), CommandError> {
        self.shared.ask(Command::BeginReplica).await?
    }

    /// Who runs the commands around consistent sets. Until it is told no set is taken.
    pub fn run_freeze_hooks_by(&self, hooks: Arc<dyn FreezeHooks>) {
        // Only ever replaced whole.
        let by = self.shared.freeze_hooks.write();
        *by.unwrap_or_else(std::sync::PoisonError::into_inner) = Some(hooks);
    }

    /// Neither sends nor applies.
    ///
    /// # Errors
    /// [`CommandError::Ended`].
    pub async fn idle(&self) -> Result<(), CommandError> {
        self.shared.ask(Command::Idle).await?
    }

    /// Revokes the role token: no apply becomes visible from here on. Waits at most `within` for the one in flight.
    /// Does not go through the worker, and so never waits for anything else. Blocks; call it from a thread that may.
    pub fn revoke(&self, within: Duration) -> RevokeReport {
        let begun = Instant::now();
        let clean = self.shared.token.revoke(within);
        RevokeReport {
            clean,
            took: begun.elapsed(),
        }
    }

    /// Runs one session as the source over `stream` until it ends. Needs a multi-thread runtime. What is sent is compressed
    /// while the link is full, as `gauge` says; never without one.
    ///
    /// Cancel by the token; dropping the future ends the session at its next step.
    ///
    /// # Errors
    /// What ended it, if that was an error. The next session begins with what is durable.
    pub async fn run_source_session<S>(
        &self,
        stream: S,
        gauge: Option<Gauge>,
        cancel: CancellationToken,
    ) -> Result<SessionEnd, SessionError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (shared, to) = (Arc::clone(&self.shared), Receiver::Standby);
        crate::source::session::run(shared, to, stream, gauge, cancel).await
    }

    /// Runs one session as the source over `stream` to the replica with this name, as [`Engine::run_source_session`].
    /// Nothing of the pair waits for it.
    ///
    /// # Errors
    /// As there; [`SessionError::Role`] also if there is no such replica.
    pub async fn run_feed_session<S>(
        &self,
        replica: &str,
        stream: S,
        gauge: Option<Gauge>,
        cancel: CancellationToken,
    ) -> Result<SessionEnd, SessionError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let to = Receiver::Replica(replica.to_owned());
        crate::source::session::run(Arc::clone(&self.shared), to, stream, gauge, cancel).await
    }

    /// Runs one session as the replica, as [`Engine::run_source_session`].
    ///
    /// # Errors
    /// As there.
    pub async fn run_replica_session<S>(
        &self,
        stream: S,
        cancel: CancellationToken,
    ) -> Result<SessionEnd, SessionError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        crate::replica::session::run(Arc::clone(&self.shared), stream, cancel).await
    }

    /// What this node has: lineages, positions, completeness, emptiness. Reads the index.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn lineages(&self) -> Result<NodeHeads, CommandError> {
        heads(&self.shared)
    }

    /// How this node's data relate to the peer's (R2).
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn relation(&self, theirs: &NodeHeads) -> Result<PairRelation, CommandError> {
        Ok(combine(&heads(&self.shared)?, theirs))
    }

    /// The newest status, without waiting.
    pub fn status(&self) -> EngineStatus {
        self.shared.status.borrow().clone()
    }

    /// Status as it changes, at most twenty times a second.
    pub fn status_changes(&self) -> watch::Receiver<EngineStatus> {
        self.shared.status.subscribe()
    }

    /// These are the trees from here on; what differs is changed in place, and the mode stays.
    ///
    /// A tree that is new is opened; on a source it gets its first epoch, so that its first copy goes from here. A tree that
    /// goes is let go of: its files, its rescue and what the index knows of it stay. Where the root, the filters or a
    /// policy of a tree are others, the tree is scanned. What the old filters excluded and the new ones do not is received
    /// again; what the new ones exclude is left as it is on both nodes.
    ///
    /// # Errors
    /// The list cannot be used, or the index fails; then nothing was changed.
    pub async fn set_trees(&self, trees: Vec<TreeConfig>) -> Result<(), CommandError> {
        check_trees(&trees).map_err(CommandError::Trees)?;
        self.shared
            .ask(|reply| Command::SetTrees { trees, reply })
            .await?
    }

    /// These are the replicas from here on. Sessions with others end.
    ///
    /// # Errors
    /// The list cannot be used; then nothing was changed.
    pub fn set_replicas(&self, replicas: &[ReplicaConfig]) -> Result<(), CommandError> {
        if self.shared.config.part == Part::Replica {
            return Err(CommandError::Replica);
        }
        check_replicas(replicas).map_err(CommandError::Trees)?;
        self.shared.receivers.configure(replicas);
        Ok(())
    }

    /// Lets exactly those deletions pass that the guard held back, and moves the tree again. `most`: what was shown as
    /// the price; when more is gone by now nothing is done.
    ///
    /// # Errors
    /// No such tree, more is gone than `most`, or the index fails.
    pub async fn accept(&self, tree: &str, most: Option<u64>) -> Result<(), CommandError> {
        let tree = tree.to_owned();
        self.shared
            .ask(|reply| Command::Accept { tree, most, reply })
            .await?
    }

    /// What [`Engine::accept`] would let go now. Walks the tree if the guard stopped it.
    ///
    /// # Errors
    /// No such tree, or the index fails.
    pub async fn accept_price(&self, tree: &str) -> Result<AcceptPrice, CommandError> {
        let tree = tree.to_owned();
        self.shared
            .ask(|reply| Command::AcceptPrice { tree, reply })
            .await?
    }

    /// Pauses applying on the replica: what comes is spooled, durably, and answered.
    ///
    /// # Errors
    /// The spool cannot be used.
    pub async fn hold(&self) -> Result<(), CommandError> {
        self.shared.ask(Command::Hold).await?
    }

    /// Ends a hold; returns when what was spooled is applied.
    ///
    /// # Errors
    /// It cannot be applied (it stays in the spool, and is tried again), or not within `within` (it goes on).
    pub async fn release_hold(&self, within: Duration) -> Result<(), CommandError> {
        let released = tokio::time::timeout(within, self.shared.ask(Command::Release)).await;
        released
            .map_err(|_| CommandError::Timeout(within, "applying what was spooled".into()))??
    }

    /// A takeover ends a hold: as [`Engine::release_hold`], and nothing where there is none.
    ///
    /// # Errors
    /// As there.
    pub async fn end_hold(&self, within: Duration) -> Result<(), CommandError> {
        if !self.shared.held() && self.shared.spooled() == 0 {
            return Ok(());
        }
        self.release_hold(within).await
    }

    /// Gives up this node's own history: what lies in its trees becomes of no history, and the peer's trees are received
    /// as for the first time. What differs goes to the rescue.
    ///
    /// # Errors
    /// This node is the source, or the index fails.
    pub async fn adopt(&self) -> Result<(), CommandError> {
        self.shared.ask(Command::Adopt).await?
    }
}

fn check_replicas(replicas: &[ReplicaConfig]) -> Result<(), String> {
    let names: BTreeSet<_> = replicas.iter().map(|r| &r.name).collect();
    match names.len() == replicas.len() && replicas.len() <= MAX_REPLICAS {
        true => Ok(()),
        false => Err(format!(
            "more than {MAX_REPLICAS} replicas, or two of one name"
        )),
    }
}

fn check_trees(trees: &[TreeConfig]) -> Result<(), String> {
    if trees.len() > MAX_TREES {
        return Err(format!("more than {MAX_TREES} trees"));
    }
    let names: BTreeSet<_> = trees.iter().map(|t| t.id()).collect();
    match names.len() == trees.len() {
        true => Ok(()),
        false => Err("two trees of one name".into()),
    }
}
