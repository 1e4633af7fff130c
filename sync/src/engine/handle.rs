//! The handle by which the agent talks to the engine.

use super::command::{Command, Peer, Recorded, Shared, heads};
use super::error::{CommandError, OpenError, SessionError};
use super::receivers::{Receiver, Receivers};
use super::report::{AcceptPrice, FlushReport, InitReport, NotCovered, RevokeReport, SessionEnd};
use super::sets::FreezeHooks;
use super::status::{EngineStatus, Mode};
use super::stream::Gauge;
use super::tree::Roots;
use super::worker::Worker;
use crate::accounts::AccountFiles;
use crate::chunks::ChunkMemory;
use crate::index::{Index, IndexIdentity};
use crate::lineage::{NodeHeads, NodeName, PairRelation, combine};
use crate::tail::Tails;
use crate::token::RoleToken;
use crate::tree::{MAX_REPLICAS, MAX_TREES, PairConfig, Part, ReplicaConfig, TreeConfig};
use crate::wire::MAX_RECORDS;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::DirBuilderExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How long a closing engine waits for its sessions.
const CLOSING: Duration = Duration::from_secs(5);
/// What a flush without time left still waits for the worker to name what it cannot cover.
const ASKING: Duration = Duration::from_millis(200);
/// Commands that may wait for the worker.
const COMMANDS: usize = 64;

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
    /// Opens the index and the roots, and starts the worker thread. Blocks for disk. A root that cannot be opened or
    /// proven is no error: its tree is shown as stopped, and tried again.
    ///
    /// # Errors
    /// The configuration, the state directory or the index cannot be used.
    pub fn open(config: PairConfig) -> Result<Engine, OpenError> {
        let node = check(&config)?;
        let state_dir = |source| OpenError::StateDir {
            path: config.state_dir.display().to_string(),
            source,
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&config.state_dir)
            .map_err(state_dir)?;
        let path = config.state_dir.join("index.redb");
        let identity = IndexIdentity {
            pair: config.pair.clone(),
            node: config.node.clone(),
        };
        let index_error = |why: &dyn std::fmt::Display| OpenError::Index {
            path: path.display().to_string(),
            why: why.to_string(),
        };
        let index = Index::open(&path, &identity).map_err(|e| index_error(&e))?;
        let last = index.snapshot().map_err(|e| index_error(&e))?.last_seq();
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let accounts = AccountFiles::new(&config.etc);
        let receivers = Receivers::default();
        if let Part::Node { replicas } = &config.part {
            receivers.configure(replicas);
        }
        let shared = Arc::new(Shared {
            accounts,
            trees: RwLock::new(Arc::new(config.trees.clone())),
            config: Arc::new(config),
            index,
            roots: Roots::default(),
            token: RoleToken::new(),
            commands,
            head: watch::Sender::new(last),
            scanned: watch::Sender::new(false),
            end: CancellationToken::new(),
            mode: watch::Sender::new(Mode::Idle),
            peer: watch::Sender::new(Peer::default()),
            status: watch::Sender::new(EngineStatus::nothing_yet()),
            running: Mutex::new(None),
            session: Mutex::new(None),
            fresh_at: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            follows: AtomicBool::new(false),
            fuzzy: watch::Sender::default(),
            receivers,
            from: Mutex::new(None),
            sessions: AtomicU64::new(1),
            unsettled: Notify::new(),
            shows: Notify::new(),
            move_at: AtomicU64::new(0),
            lifted: watch::Sender::new(0),
            transfers: Arc::default(),
            mover: Mutex::new(None),
            verifier: Mutex::new(None),
            tails: Tails::default(),
            chunks: ChunkMemory::default(),
            unverified: watch::Sender::new(0),
            waiting_for_verified: AtomicUsize::new(0),
            kept: AtomicUsize::new(0),
            held: AtomicBool::new(false),
            spooled: AtomicU64::new(0),
            alarms: Mutex::new(BTreeMap::new()),
            freeze_hooks: RwLock::new(None),
            #[cfg(test)]
            cuts: Default::default(),
            #[cfg(test)]
            events_held: AtomicBool::new(false),
        });
        let (running, ended) = watch::channel(());
        let worker = Worker::new(Arc::clone(&shared), node);
        std::thread::Builder::new()
            .name("tandem-sync".into())
            .spawn(move || {
                let shared = Arc::clone(&worker.shared);
                // Its memory is thrown away whole; what others read of it (index, token, status) is written whole.
                let run = AssertUnwindSafe(|| worker.run(receiver));
                if let Err(panic) = std::panic::catch_unwind(run) {
                    shared.worker_failed(panic.as_ref());
                }
                drop(running);
            })
            .map_err(OpenError::Thread)?;
        let alive = Arc::new(Alive {
            end: shared.end.clone(),
            ended,
        });
        Ok(Engine { shared, alive })
    }

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

    /// Returns when everything written before the call is durable on the peer, or names what is not. During a `hold` that
    /// is in the peer's spool, which is applied before anything else happens to the trees.
    ///
    /// # Errors
    /// [`CommandError::NotSource`], or not done within `timeout`.
    pub async fn flush(&self, timeout: Duration) -> Result<FlushReport, CommandError> {
        let report = self.flushed(timeout).await;
        // It is shown soon. Nobody waits for that: the worker has the next change at hand.
        self.shared.shows.notify_one();
        report
    }

    async fn flushed(&self, timeout: Duration) -> Result<FlushReport, CommandError> {
        let begun = Instant::now();
        if !matches!(*self.shared.mode.borrow(), Mode::Source { .. }) {
            return Err(CommandError::NotSource);
        }
        let mut barrier = None;
        let work = async {
            let recorded = barrier.insert(self.recorded().await?);
            let mut peer = self.shared.peer.subscribe();
            // Also without a session: a healed cable brings one within seconds.
            let reached = peer.wait_for(|p| p.acked >= recorded.head).await;
            Ok::<bool, CommandError>(reached.is_ok())
        };
        let durable = tokio::time::timeout(timeout, work).await;
        let peer = *self.shared.peer.borrow();
        let recorded = match barrier {
            Some(recorded) => recorded,
            None => {
                self.unrecorded(timeout.saturating_sub(begun.elapsed()))
                    .await?
            }
        };
        let durable = durable.unwrap_or(Ok(peer.acked >= recorded.head && recorded.head > 0))?;
        let mut not_covered = recorded.not_covered;
        if !durable {
            let why = match peer.session {
                false => "no session with the peer".to_owned(),
                true => format!("not durable on the peer within {timeout:?}"),
            };
            not_covered.push(NotCovered { tree: None, why });
        }
        let heads = heads(&self.shared)?;
        let mut report = FlushReport {
            seq: peer.acked.min(recorded.head),
            epochs: Vec::new(),
            covered: Vec::new(),
            not_covered,
            except: recorded.except,
            peer_follows: peer.follows,
            took: begun.elapsed(),
        };
        for tree in self.shared.trees().iter() {
            if let Some(epoch) = heads.get(tree.id()).and_then(|t| t.head.lineage.head()) {
                report
                    .epochs
                    .push((tree.name.clone(), epoch.id.to_string()));
            }
            let named = |n: &NotCovered| n.tree.as_ref() == Some(&tree.name);
            if durable && !report.not_covered.iter().any(named) {
                report.covered.push(tree.name.clone());
            }
        }
        Ok(report)
    }

    /// Everything that was written before the call is recorded, or it is named.
    async fn recorded(&self) -> Result<Recorded, CommandError> {
        let only = None;
        self.shared
            .ask(|reply| Command::Barrier { only, reply })
            .await
    }

    /// What is said of a flush whose barrier did not end in time.
    async fn unrecorded(&self, left: Duration) -> Result<Recorded, CommandError> {
        let except = match self.exceptions(left.max(ASKING)).await {
            Err(CommandError::Timeout(..)) => vec![NotCovered {
                tree: None,
                why: "whether every path can be read is not known: this node is busy".into(),
            }],
            asked => asked?,
        };
        Ok(Recorded {
            except,
            ..Recorded::default()
        })
    }

    /// As [`Engine::flush`], and returns when every file that has grown was read whole on this node and compared with the
    /// peer's, or names those that were not.
    ///
    /// # Errors
    /// As there.
    pub async fn flush_verified(&self, timeout: Duration) -> Result<FlushReport, CommandError> {
        let begun = Instant::now();
        let _waits = Waits::begin(&self.shared);
        let mut report = self.flush(timeout).await?;
        let mut unverified = self.shared.unverified.subscribe();
        let ask = Command::Compared;
        self.shared
            .commands
            .send(ask)
            .await
            .map_err(|_| CommandError::Ended)?;
        let left = timeout.saturating_sub(begun.elapsed());
        let none = async { unverified.wait_for(|files| *files == 0).await.is_ok() };
        let verified = tokio::time::timeout(left, none).await;
        if verified != Ok(true) {
            let named = self.shared.ask(Command::Unverified).await?;
            report
                .covered
                .retain(|name| !named.iter().any(|n| n.tree.as_ref() == Some(name)));
            report.not_covered.extend(named);
        }
        report.took = begun.elapsed();
        Ok(report)
    }

    /// Planned move, step 2: sends until less than one batch is left, while this node still serves and writes, at most
    /// `within`. What it leaves is what the last flush behind the fence has to send.
    ///
    /// # Errors
    /// [`CommandError::NotSource`], [`CommandError::NoSession`], [`CommandError::Timeout`].
    pub async fn drain(&self, within: Duration) -> Result<(), CommandError> {
        let begun = Instant::now();
        loop {
            let left = within.saturating_sub(begun.elapsed());
            self.final_flush(left).await?;
            let recorded = self.recorded().await?;
            let acked = self.shared.peer.borrow().acked;
            if recorded.head.saturating_sub(acked) < MAX_RECORDS as u64 {
                return Ok(());
            }
        }
    }

    /// Planned move, step 3, behind the fence: everything that was written before the call is durable on the peer within
    /// `within`, or it is an error.
    ///
    /// # Errors
    /// As [`Engine::drain`].
    pub async fn final_flush(&self, within: Duration) -> Result<FlushReport, CommandError> {
        let _lifted = self.shared.lift_limits();
        let report = self.flushed(within).await?;
        if report.covered.len() == self.shared.trees().len() {
            return Ok(report);
        }
        if !self.shared.peer.borrow().session {
            return Err(CommandError::NoSession);
        }
        let why: Vec<String> = report.not_covered.iter().map(|n| n.why.clone()).collect();
        Err(CommandError::Timeout(within, why.join("; ")))
    }
}

/// Somebody waits until no file is unverified: none is left to rest first.
struct Waits<'s>(&'s Shared);

impl<'s> Waits<'s> {
    fn begin(shared: &'s Shared) -> Self {
        shared.waiting_for_verified.fetch_add(1, Ordering::AcqRel);
        Waits(shared)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting_for_verified.fetch_sub(1, Ordering::AcqRel);
    }
}

fn check(config: &PairConfig) -> Result<NodeName, OpenError> {
    let node =
        NodeName::try_from(config.node.as_str()).map_err(|e| OpenError::Config(e.to_string()))?;
    check_trees(&config.trees).map_err(OpenError::Config)?;
    if let Part::Node { replicas } = &config.part {
        check_replicas(replicas).map_err(OpenError::Config)?;
    }
    Ok(node)
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

impl EngineStatus {
    /// Before the worker has looked.
    fn nothing_yet() -> Self {
        EngineStatus {
            mode: Mode::Idle,
            born: false,
            consistent: false,
            catching_up_only: false,
            reason: Some("starting".into()),
            seq: 0,
            acked: 0,
            epochs_digest: 0,
            peer_keeps: false,
            lag: None,
            fresh_at: None,
            hold: false,
            spooled: 0,
            session: None,
            replicas: Vec::new(),
            from: None,
            trees: Vec::new(),
            alarms: Vec::new(),
        }
    }
}
