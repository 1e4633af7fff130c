//! Building the parts and taking them down again.

use super::backend::Api;
use super::data::DataHalf;
use super::feeds::Feeds;
use super::lifecycle::End;
use super::on_disk::OnDisk;
use super::peer::{Handler, LINK_EVENTS};
use super::restore::Restores;
use super::roles::{Roles, unix_ms};
use super::tree_hooks::TreeHooks;
use super::{Daemon, Identity, end_driver, execute, replica, setup};
use crate::api::server;
use crate::config::{Loaded, Who};
use crate::journal::{Journal, Limits};
use crate::keys::NodeKey;
use crate::link::{Link, LinkConfig, LinkEvent, Timing};
use crate::notify::Notifier;
use crate::services::Services;
use crate::systemd::{self, Heart, Watchdog};
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;
use tandem_failover::driver::{self, DriverConfig, DriverError, DriverHandle};
use tandem_failover::heartbeat_io::{Keys, LinkCounters};
use tandem_sync::engine::{Engine, OpenError};
use tandem_sync::filter::PatternError;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How often the status line of systemd and the watchdog are looked after, when no watchdog asks for less.
pub(super) const PULSE: Duration = Duration::from_secs(5);

/// How long answers of the API may take to be written when the agent ends. They are short and the reader is on this
/// machine; the events of an operation that goes on are not waited for longer.
pub(super) const ANSWERS: Duration = Duration::from_millis(500);

/// What the daemon starts with. Everything in it has been checked.
#[derive(Debug)]
pub struct AgentStart {
    /// The configuration, and the file that `reload` reads again.
    pub loaded: Loaded,
    /// This machine's key; it is of one of the configuration's nodes or replicas.
    pub key: NodeKey,
    /// Where the API listens: the command line's word before the configuration's.
    pub socket: PathBuf,
}

/// Why the agent does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory.
    #[error("state directory {}: {source}", .path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent has the state directory.
    #[error("another agent uses {}: stop it first", .path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// A pattern of a tree.
    #[error(transparent)]
    Filter(#[from] PatternError),
    /// The data half.
    #[error(transparent)]
    Engine(#[from] OpenError),
    /// The failover half.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The local API.
    #[error(transparent)]
    Serve(#[from] server::ServeError),
    /// Threads, signals, the runtime.
    #[error("starting: {0}")]
    Start(#[from] io::Error),
    /// The failover half has ended by itself.
    #[error("the failover loop has ended: see the log before this line")]
    LoopEnded,
}

/// Runs the agent until it is stopped. Blocks.
pub fn run(start: AgentStart) -> Result<End, StartError> {
    tandem_sync::heap::keep();
    // Two workers: the engine and the failover loop have threads of their own; what runs here mostly waits.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let result = match start.loaded.config.who(&start.key.public()) {
        Some(Who::Replica(own)) => runtime.block_on(replica::run_in(start, own)),
        // The command line has checked that it is one of them.
        Some(Who::Node(_)) | None => runtime.block_on(run_in(start)),
    };
    match result {
        // The execution ends every thread; a master has no time to wait for them.
        Ok(End::Restart(_)) => runtime.shutdown_background(),
        // A probe or a hook that hangs does not keep the agent from ending.
        _ => runtime.shutdown_timeout(Duration::from_secs(2)),
    }
    result
}

async fn run_in(start: AgentStart) -> Result<End, StartError> {
    let AgentStart {
        loaded,
        key,
        socket,
    } = start;
    let state_dir = loaded.config.agent.state_dir.clone();
    let _lock = lock(&state_dir)?;
    let own = side(&loaded, &key);
    let listener = server::listen(&socket)?;
    let trees = setup::trees(&loaded.config, own, &loaded.file)?;
    // First of all: a master that executed itself again keeps its addresses, however long the index takes.
    let driver = driver::spawn(DriverConfig {
        keys: keys(&loaded, own, &key)?,
        state_directory: state_dir,
        setup: setup::driver(&loaded.config, own),
        handover: execute::handed_over(),
    })?;
    // Before the index is opened, which may take its time: after `tandem restart` systemd waits for no start.
    let watchdog = Watchdog::start()?;
    let counters = driver.counters.clone();
    tokio::spawn(beat_with_loop(counters, watchdog.heart("failover")));
    let engine = match Engine::open(trees) {
        Ok(engine) => engine,
        Err(error) => {
            end_driver(driver).await;
            return Err(error.into());
        }
    };
    let (daemon, mut driver, events) = compose(loaded, own, key, engine, driver)?;
    daemon.engine.run_freeze_hooks_by(Arc::new(TreeHooks::new(
        &daemon,
        tokio::runtime::Handle::current(),
    )));
    let effects = std::mem::replace(&mut driver.effects, mpsc::channel(1).1);
    let api = server::serve(listener, Arc::new(Api(daemon.clone())), daemon.stop.clone());
    let tasks = [
        tokio::spawn(daemon.clone().pump(effects)),
        tokio::spawn(daemon.clone().follow_link(events)),
        tokio::spawn(daemon.clone().follow_data()),
        tokio::spawn(pulse(daemon.clone(), watchdog)),
    ];
    let api = tokio::spawn(api);
    let (engine, stop) = (daemon.engine.clone(), daemon.stop.clone());
    tokio::spawn(async move { engine.verify_by_schedule(stop).await });
    systemd::ready();
    tracing::info!(
        node = daemon.config().config.nodes[own].name,
        pair = daemon.config().config.pair.name,
        version = env!("CARGO_PKG_VERSION"),
        "agent started"
    );
    daemon.clone().follow_signals().await?;
    end(daemon, driver, &socket, tasks, api).await
}

async fn end(
    daemon: Arc<Daemon>,
    driver: DriverHandle,
    socket: &Path,
    tasks: [tokio::task::JoinHandle<()>; 4],
    mut api: tokio::task::JoinHandle<io::Result<()>>,
) -> Result<End, StartError> {
    // First what was answered, the answer to `restart` itself among it.
    let _ = tokio::time::timeout(ANSWERS, &mut api).await;
    for task in tasks {
        task.abort();
    }
    api.abort();
    daemon.data.stop();
    let at = daemon.now().boot;
    let _ = tokio::time::timeout(daemon.time_to_end(), end_driver(driver)).await;
    let end = daemon.how_it_ends(at);
    // What was recorded last must not be lost; a restart of a master has no more time than this.
    daemon.journal.flush(Duration::from_millis(200));
    let _ = std::fs::remove_file(socket);
    tracing::info!(end = ?end, "agent ended");
    if daemon.died.load(std::sync::atomic::Ordering::Acquire) {
        return Err(StartError::LoopEnded);
    }
    Ok(end)
}

fn compose(
    loaded: Loaded,
    own: usize,
    key: NodeKey,
    engine: Engine,
    driver: DriverHandle,
) -> Result<(Arc<Daemon>, DriverHandle, mpsc::Receiver<LinkEvent>), StartError> {
    let config = loaded.config.clone();
    let state_dir = config.agent.state_dir.clone();
    let (events_in, events) = mpsc::channel(LINK_EVENTS);
    let journal = Journal::open(&state_dir, Limits::default())?;
    let link_config = LinkConfig {
        key: key.clone(),
        peer_key: config.nodes[1 - own].key,
        paths: setup::link_paths(&config, own),
        port: config.pair.port,
        timing: Timing::default(),
    };
    let daemon = Arc::new_cyclic(|weak| {
        let link = Link::start(link_config, Arc::new(Handler(weak.clone())), events_in);
        let feeds = Feeds::new(engine.clone(), key.clone(), &config, driver.view.clone());
        Daemon {
            own,
            identity: identity(driver.boot.incarnation.counter),
            started_unix_ms: unix_ms(),
            data: DataHalf::new(engine.clone(), Arc::new(link), feeds, driver.view.clone()),
            engine,
            inputs: driver.inputs.clone(),
            views: driver.view.clone(),
            boards: driver.monitors.clone(),
            addresses: driver.addresses.clone(),
            reconfigure: driver.reconfigure_sender(),
            roles: Roles::new(Services::new(config.services.clone(), config.hooks.clone())),
            notifier: Notifier::start(&config.pair.name, &config.nodes[own].name, config.mail),
            journal,
            tickets: Default::default(),
            peer: Mutex::default(),
            rpc: Default::default(),
            held: Mutex::default(),
            restores: Restores::default(),
            last_decision: Mutex::default(),
            facts_wake: Notify::new(),
            reloading: tokio::sync::Mutex::default(),
            stop: CancellationToken::new(),
            end: Mutex::default(),
            died: Default::default(),
            loaded: RwLock::new(Arc::new(loaded)),
            on_disk: OnDisk::default(),
        }
    });
    Ok((daemon, driver, events))
}

/// One agent per state directory: two would write the same index.
pub(super) fn lock(state_dir: &Path) -> Result<File, StartError> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    let fail = |source| StartError::State {
        path: state_dir.to_owned(),
        source,
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)
        .map_err(fail)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(state_dir.join("lock"))
        .map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::Locked {
            path: state_dir.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(fail(source)),
    }
}

/// Which of the two nodes this is. The command line has checked that it is one of them.
fn side(loaded: &Loaded, key: &NodeKey) -> usize {
    usize::from(loaded.config.nodes[0].key != key.public())
}

fn keys(loaded: &Loaded, own: usize, key: &NodeKey) -> Result<Keys, StartError> {
    let pair = ring::signature::Ed25519KeyPair::from_seed_unchecked(&key.seed())
        .map_err(|e| io::Error::other(e.to_string()))?;
    Ok(Keys {
        pair: setup::pair_id(&loaded.config),
        own: pair,
        own_public: key.public().0,
        peer_public: loaded.config.nodes[1 - own].key.0,
    })
}

fn identity(incarnation: u64) -> Identity {
    let short = |path: &str| {
        let mut id = [0; 16];
        if let Ok(text) = std::fs::read(path) {
            id.copy_from_slice(&blake3::hash(&text).as_bytes()[..16]);
        }
        id
    };
    Identity {
        machine: short("/etc/machine-id"),
        boot: short("/proc/sys/kernel/random/boot_id"),
        incarnation,
    }
}

/// The failover loop shows its counters about every second: as long as it does, it turns.
async fn beat_with_loop(mut counters: watch::Receiver<Vec<LinkCounters>>, heart: Heart) {
    while counters.changed().await.is_ok() {
        heart.beat();
    }
}

/// Feeds the watchdog as long as this runtime turns, and tells systemd in a line what the agent does.
async fn pulse(daemon: Arc<Daemon>, watchdog: Watchdog) {
    let heart = watchdog.heart("agent");
    let every = watchdog.beat_every().map_or(PULSE, |d| d.min(PULSE));
    loop {
        heart.beat();
        systemd::status(&daemon.line());
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = daemon.stop.cancelled() => return,
        }
    }
}
