//! What the worker shares with the handle and the sessions.

use super::command::{Command, Peer, Reply, VerifyAsk};
use super::error::CommandError;
use super::moving::MoveOrder;
use super::receivers::{Receiver, Receivers};
use super::sets::FreezeHooks;
use super::status::{Alarm, EngineStatus, Mode, SessionStatus};
use super::tree::Roots;
use crate::accounts::AccountFiles;
use crate::chunks::ChunkMemory;
use crate::index::Index;
use crate::lineage::NodeHeads;
use crate::progress::Transfers;
use crate::tail::Tails;
use crate::token::RoleToken;
use crate::tree::{PairConfig, TreeConfig, TreeId};
use crate::wire::Fuzzy;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Shared by the handle, the sessions and the worker.
pub(crate) struct Shared {
    /// Configuration. Its trees are those of the start; those in force are [`Shared::trees`].
    pub config: Arc<PairConfig>,
    /// The trees in force.
    pub trees: RwLock<Arc<Vec<TreeConfig>>>,
    /// Index.
    pub index: Index,
    /// Opened roots.
    pub roots: Roots,
    /// The right to apply.
    pub token: RoleToken,
    /// To the worker. 64 commands may wait; who sends more waits for room.
    pub commands: mpsc::Sender<Command>,
    /// Newest number that is durable in the index.
    pub head: watch::Sender<u64>,
    /// No scan is due or under way: the index knows all that lies in the trees. Until then nothing is "caught up".
    pub scanned: watch::Sender<bool>,
    /// A change was noticed some time ago and is not in the index yet: what receivers have is of before it.
    pub late: AtomicBool,
    /// Fires when the engine ends.
    pub end: CancellationToken,
    /// What the engine does; sessions end when it changes.
    pub mode: watch::Sender<Mode>,
    /// The peer as the session sees it.
    pub peer: watch::Sender<Peer>,
    /// Status.
    pub status: watch::Sender<EngineStatus>,
    /// The token of the session that counts.
    pub running: Mutex<Option<CancellationToken>>,
    /// The session's own status.
    pub session: Mutex<Option<SessionStatus>>,
    /// See [`EngineStatus::fresh_at`]; 0 is unknown.
    pub fresh_at: AtomicU64,
    /// Newest number that this node, as replica, answered as durable.
    pub answered: AtomicU64,
    /// This node, as replica, keeps no path as it is against the source's word.
    pub follows: AtomicBool,
    /// The replicas that this node feeds while it is the source.
    pub receivers: Receivers,
    /// Who sent in the newest session in which this node received.
    pub from: Mutex<Option<String>>,
    /// Number of the next session as replica.
    pub sessions: AtomicU64,
    /// Something became unsettled: the session asks the source for it.
    pub unsettled: Notify,
    /// Something that status shows was changed by somebody else than the worker: a session, an alarm.
    pub shows: Notify,
    /// Number of the rename that is under way, 0 for none: no session goes past it but by the rename itself.
    pub move_at: AtomicU64,
    /// Planned moves that wait for the trees to be equal: while there is one no limit holds.
    pub lifted: watch::Sender<usize>,
    /// How far the session is with each tree; empty while everything is durable there.
    pub transfers: Arc<Mutex<Transfers>>,
    /// The way to the source session for renames. One may wait for each tree.
    pub mover: Mutex<Option<mpsc::Sender<MoveOrder>>>,
    /// The way to the standby's session, for `verify`. 4 questions may wait.
    pub verifier: Mutex<Option<mpsc::Sender<VerifyAsk>>>,
    /// The users and groups of this node.
    pub accounts: AccountFiles,
    /// What is remembered of contents, for files that grow.
    pub tails: Tails,
    /// What large contents are made of.
    pub chunks: ChunkMemory,
    /// Files that have grown and were not read whole since.
    pub unverified: watch::Sender<usize>,
    /// The lists that a source tells of files that never rest.
    pub fuzzy: watch::Sender<Arc<Vec<Fuzzy>>>,
    /// Copies that are kept of files that never rest.
    pub kept: AtomicUsize,
    /// Commands that wait until no file is unverified.
    pub waiting_for_verified: AtomicUsize,
    /// Applying is paused.
    pub held: AtomicBool,
    /// Bytes in the spool.
    pub spooled: AtomicU64,
    /// Alarms of sessions and of reversals, by tree and kind.
    pub alarms: Mutex<BTreeMap<(Option<String>, &'static str), String>>,
    /// Runs the commands around a consistent set.
    pub freeze_hooks: RwLock<Option<Arc<dyn FreezeHooks>>>,
    /// A test keeps events from the worker, as a watcher that is slow.
    #[cfg(test)]
    pub events_held: AtomicBool,
    /// What a test makes of the reading of large contents.
    #[cfg(test)]
    pub readings: super::reading::Rehearsal,
    /// Where a test cuts the worker.
    #[cfg(test)]
    pub cuts: crate::cut::Cuts,
}

/// While it lives, no limit of a tree holds.
pub(crate) struct Lifted<'s>(&'s watch::Sender<usize>);

impl Drop for Lifted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|moves| *moves = moves.saturating_sub(1));
    }
}

/// Locks a value that is only ever written whole, so that a panic elsewhere cannot have left it half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The trees in force.
    pub fn trees(&self) -> Arc<Vec<TreeConfig>> {
        // Only ever replaced whole.
        let trees = self.trees.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&trees)
    }

    /// Other trees are in force.
    pub fn set_trees(&self, trees: Vec<TreeConfig>) {
        *self.trees.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(trees);
    }

    /// Runs the commands around a consistent set.
    pub fn freeze_hooks(&self) -> Option<Arc<dyn FreezeHooks>> {
        // Only ever replaced whole.
        let hooks = self.freeze_hooks.read();
        hooks.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How far the session is.
    pub fn transfers(&self) -> MutexGuard<'_, Transfers> {
        lock(&self.transfers)
    }

    /// Lifts all limits for as long as the answer lives.
    pub fn lift_limits(&self) -> Lifted<'_> {
        self.lifted.send_modify(|moves| *moves += 1);
        Lifted(&self.lifted)
    }

    /// Ends the session that runs.
    pub fn end_session(&self) {
        if let Some(session) = lock(&self.running).as_ref() {
            session.cancel();
        }
    }

    /// Notes the session's status.
    pub fn set_session(&self, status: Option<SessionStatus>) {
        let news = |s: &Option<SessionStatus>| s.as_ref().map(|s| s.caught_up);
        let now = news(&status);
        let before = std::mem::replace(&mut *lock(&self.session), status);
        // How much is in flight changes all the time, and is shown with what else is.
        if news(&before) != now {
            self.shows.notify_one();
        }
    }

    /// The session's status.
    pub fn session(&self) -> Option<SessionStatus> {
        lock(&self.session).clone()
    }

    /// Who sent in the newest session in which this node received.
    pub fn from(&self) -> Option<String> {
        lock(&self.from).clone()
    }

    /// This node receives from the node with this name.
    pub fn receives_from(&self, node: &str) {
        *lock(&self.from) = Some(node.to_owned());
    }

    /// The way to the session with a receiver, while there is one.
    pub fn verifier(&self, of: &Receiver) -> Option<mpsc::Sender<VerifyAsk>> {
        match of {
            Receiver::Standby => lock(&self.verifier).clone(),
            Receiver::Replica(name) => self.receivers.verifier(name),
        }
    }

    /// Whether a receiver gets a tree.
    pub fn receives(&self, of: &Receiver, tree: TreeId) -> bool {
        match of {
            Receiver::Standby => true,
            Receiver::Replica(name) => self.receivers.gets(name, tree),
        }
    }

    /// The standby and the replicas.
    pub fn all_receivers(&self) -> impl Iterator<Item = Receiver> {
        let replicas = self.receivers.names().into_iter();
        std::iter::once(Receiver::Standby).chain(replicas.map(Receiver::Replica))
    }

    /// A session with the standby begins or ends.
    pub fn set_verifier(&self, verifier: Option<mpsc::Sender<VerifyAsk>>) {
        *lock(&self.verifier) = verifier;
    }

    /// The way to the source session, while there is one.
    pub fn mover(&self) -> Option<mpsc::Sender<MoveOrder>> {
        lock(&self.mover).clone()
    }

    /// A source session begins or ends.
    pub fn set_mover(&self, mover: Option<mpsc::Sender<MoveOrder>>) {
        *lock(&self.mover) = mover;
    }

    /// Ends the session before this one.
    pub fn only_session(&self, token: CancellationToken) {
        if let Some(before) = lock(&self.running).replace(token) {
            before.cancel();
        }
    }

    /// Open alarms.
    pub fn alarms(&self) -> Vec<Alarm> {
        let alarm = |((tree, kind), text): (&(Option<String>, &'static str), &String)| Alarm {
            tree: tree.clone(),
            kind: (*kind).to_owned(),
            text: text.clone(),
        };
        lock(&self.alarms).iter().map(alarm).collect()
    }

    /// Raises (`Some`) or ends an alarm.
    pub fn alarm(&self, tree: Option<&str>, kind: &'static str, text: Option<String>) {
        let key = (tree.map(str::to_owned), kind);
        let before = match &text {
            Some(text) => lock(&self.alarms).insert(key, text.clone()),
            None => lock(&self.alarms).remove(&key),
        };
        if before == text {
            return;
        }
        if let Some(text) = &text {
            tracing::error!(tree, kind, text, "alarm");
        }
        self.shows.notify_one();
    }

    /// The worker panicked: from here on nothing is recorded, sent or applied, and everybody who looks must see that.
    pub fn worker_failed(&self, panic: &(dyn std::any::Any + Send)) {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let why = format!(
            "the data half of the agent failed and does nothing any more: `tandem restart`, and report this: {}",
            text.unwrap_or("no message")
        );
        self.token.revoke(Duration::ZERO);
        if let Some(session) = lock(&self.running).take() {
            session.cancel();
        }
        self.receivers.end_all();
        self.fresh_at.store(0, Ordering::Release);
        self.alarm(None, "worker", Some(why.clone()));
        self.status
            .send_modify(|status| status.nothing_holds(&why, self.alarms()));
    }

    /// Ends all alarms of a tree.
    pub fn end_alarms(&self, tree: &str) {
        lock(&self.alarms).retain(|(of, _), _| of.as_deref() != Some(tree));
    }

    /// Newest number answered as durable by this node as replica.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Acquire)
    }

    /// Somebody waits until no file is unverified.
    pub fn waits_for_verified(&self) -> bool {
        self.waiting_for_verified.load(Ordering::Acquire) > 0
    }

    /// Applying is paused.
    pub fn held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    /// Bytes in the spool.
    pub fn spooled(&self) -> u64 {
        self.spooled.load(Ordering::Acquire)
    }

    /// When the data were fresh, if known.
    pub fn fresh_at(&self) -> Option<u64> {
        Some(self.fresh_at.load(Ordering::Acquire)).filter(|at| *at != 0)
    }

    /// Whether the worker is to stop reading a content, however long that is: the agent ends, or this node, which receives, takes
    /// over, for which the token is revoked and the worker waited for.
    pub fn reading_ends(&self, receiver: bool) -> impl Fn() -> bool + Sync + '_ {
        move || self.end.is_cancelled() || (receiver && !self.token.is_granted())
    }

    /// Asks the worker and waits for its answer.
    ///
    /// # Errors
    /// [`CommandError::Ended`] when there is no worker any more.
    pub async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Command) -> Result<T, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(make(reply))
            .await
            .map_err(|_| CommandError::Ended)?;
        answer.await.map_err(|_| CommandError::Ended)
    }
}

/// What a source says of the trees in [`crate::wire::Hello::floors`].
pub(crate) fn floors(
    shared: &Shared,
    which: impl Fn(TreeId) -> bool,
) -> Result<Vec<(TreeId, u64)>, crate::index::IndexError> {
    let snapshot = shared.index.snapshot()?;
    let mut floors = Vec::new();
    for tree in shared.trees().iter().map(TreeConfig::id) {
        let floor = snapshot.floor(tree)?;
        if floor > 0 && which(tree) {
            floors.push((tree, floor));
        }
    }
    Ok(floors)
}

/// The heads of all configured trees, as of one moment of the index.
pub(crate) fn heads(shared: &Shared) -> Result<NodeHeads, CommandError> {
    use crate::lineage::{NodeName, TreeHead};
    let failed = |e: &dyn std::fmt::Display| CommandError::Index(e.to_string());
    let snapshot = shared.index.snapshot().map_err(|e| failed(&e))?;
    let mut trees = Vec::new();
    for tree in shared.trees().iter() {
        let open = shared.roots.get(tree.id());
        let empty = open.is_some_and(|open| crate::identity::is_empty(&open.root).unwrap_or(false));
        let head = snapshot.head(tree.id()).map_err(|e| failed(&e))?;
        trees.push(TreeHead {
            tree: tree.id(),
            head,
            empty,
        });
    }
    let node = NodeName::try_from(shared.config.node.as_str()).map_err(|e| failed(&e))?;
    NodeHeads::new(node, trees).map_err(|e| failed(&e))
}
