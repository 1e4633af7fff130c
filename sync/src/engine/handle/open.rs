//! How an engine begins: index, shared state, worker.

use super::{Alive, Engine, check_replicas, check_trees};
use crate::accounts::AccountFiles;
use crate::chunks::ChunkMemory;
use crate::engine::command::{Command, Peer};
use crate::engine::error::OpenError;
use crate::engine::receivers::Receivers;
use crate::engine::shared::Shared;
use crate::engine::status::{EngineStatus, Mode};
use crate::engine::tree::Roots;
use crate::engine::worker::Worker;
use crate::index::{Index, IndexIdentity};
use crate::lineage::NodeName;
use crate::tail::Tails;
use crate::token::RoleToken;
use crate::tree::{PairConfig, Part};
use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, RwLock};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Commands that may wait for the worker.
const COMMANDS: usize = 64;

impl Engine {
    /// Opens the index and the roots, and starts the worker thread. Blocks for disk. A root that cannot be opened or
    /// proven is no error: its tree is shown as stopped, and tried again.
    ///
    /// # Errors
    /// The configuration, the state directory or the index cannot be used.
    pub fn open(config: PairConfig) -> Result<Engine, OpenError> {
        let (worker, receiver) = prepare(config)?;
        let shared = Arc::clone(&worker.shared);
        let (running, ended) = watch::channel(());
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
}

/// The worker, with all that it shares, before it works, and the commands for it.
pub(in crate::engine) fn prepare(
    config: PairConfig,
) -> Result<(Worker, mpsc::Receiver<Command>), OpenError> {
    let node = check(&config)?;
    let (index, last) = open_index(&config)?;
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
        late: AtomicBool::new(false),
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
        #[cfg(test)]
        readings: Default::default(),
    });
    Ok((Worker::new(shared, node), receiver))
}

/// The index, and its last sequence number.
fn open_index(config: &PairConfig) -> Result<(Index, u64), OpenError> {
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
    Ok((index, last))
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
