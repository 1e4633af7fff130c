//! The agent of a replica: it is fed by whichever node is master, and has no part in failover. There is no driver, no
//! service and no link here: an engine that only receives, a listener, and the local API.

mod backend;
mod status;

use super::data::log_end;
use super::lifecycle::{End, end_in_restart, load_again};
use super::on_disk::OnDisk;
use super::rescue::RescueSide;
use super::roles::unix_ms;
use super::setup;
use super::start::{ANSWERS, AgentStart, PULSE, StartError, lock};
use super::trash::TrashSide;
use crate::api::server;
use crate::api::types::{ApiError, Done, ErrorCode, ReloadReport};
use crate::config::facts::Facts;
use crate::config::{Loaded, types};
use crate::journal::{Journal, Limits};
use crate::link::FeedStream;
use crate::link::Timing;
use crate::link::feed::{self, ListenConfig};
use crate::systemd::{self, Watchdog};
use backend::Api;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tandem_sync::engine::{Engine, SessionEnd, SessionError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Streams that wait to be taken: there are few, and each is taken at once.
const STREAMS: usize = 4;
/// What the journal's last records may take.
const LAST_RECORDS: Duration = Duration::from_millis(200);

/// The running agent.
struct Replica {
    loaded: RwLock<Arc<Loaded>>,
    on_disk: OnDisk,
    /// Index of this machine among the replicas of the configuration.
    own: usize,
    started_unix_ms: u64,
    engine: Engine,
    journal: Journal,
    /// Why the last one who connected was refused, until another session ends otherwise.
    refused: Mutex<Option<String>>,
    /// Whether its address is listened at, or why not.
    listening: watch::Receiver<Result<(), String>>,
    /// Reloads come one after the other.
    reloading: tokio::sync::Mutex<()>,
    stop: CancellationToken,
    end: Mutex<End>,
}

/// Runs it until it is stopped.
pub async fn run_in(start: AgentStart, own: usize) -> Result<End, StartError> {
    let AgentStart {
        loaded,
        key,
        socket,
    } = start;
    let config = &loaded.config;
    let state_dir = config.agent.state_dir.clone();
    let _lock = lock(&state_dir)?;
    let api = server::listen(&socket)?;
    let trees = setup::replica_trees(config, own, &loaded.file)?;
    // Before the index is opened, which may take its time: after `tandem restart` systemd waits for no start.
    let watchdog = Watchdog::start()?;
    let engine = Engine::open(trees)?;
    let receives = engine.begin_replica().await;
    receives.map_err(|e| StartError::Start(std::io::Error::other(e.to_string())))?;
    let (streams_in, streams) = mpsc::channel(STREAMS);
    let (state, listening) = watch::channel(Err("not yet".to_owned()));
    let stop = CancellationToken::new();
    let listener = ListenConfig {
        key,
        nodes: config.nodes.each_ref().map(|node| node.key),
        address: SocketAddr::new(config.replicas[own].address, config.pair.port),
        timing: Timing::default(),
    };
    tokio::spawn(feed::listen(listener, streams_in, state, stop.clone()));
    let replica = Arc::new(Replica {
        own,
        started_unix_ms: unix_ms(),
        engine,
        journal: Journal::open(&state_dir, Limits::default())?,
        refused: Mutex::default(),
        listening,
        reloading: tokio::sync::Mutex::default(),
        stop,
        end: Mutex::default(),
        on_disk: OnDisk::default(),
        loaded: RwLock::new(Arc::new(loaded)),
    });
    tokio::spawn(Arc::clone(&replica).take(streams));
    tokio::spawn(Arc::clone(&replica).pulse(watchdog));
    let serve = server::serve(
        api,
        Arc::new(Api(Arc::clone(&replica))),
        replica.stop.clone(),
    );
    let mut serve = tokio::spawn(serve);
    systemd::ready();
    tracing::info!(
        replica = replica.name(),
        pair = replica.config().config.pair.name,
        version = env!("CARGO_PKG_VERSION"),
        "agent started"
    );
    Arc::clone(&replica).follow_signals().await?;
    // First what was answered, the answer to `restart` itself among it.
    let _ = tokio::time::timeout(ANSWERS, &mut serve).await;
    serve.abort();
    replica.journal.flush(LAST_RECORDS);
    let _ = std::fs::remove_file(socket);
    let end = *replica.end.lock().unwrap_or_else(PoisonError::into_inner);
    tracing::info!(end = ?end, "agent ended");
    Ok(end)
}

impl Replica {
    /// The configuration in force.
    fn config(&self) -> Arc<Loaded> {
        // Only ever replaced whole.
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&loaded)
    }

    fn name(&self) -> String {
        self.config().config.replicas[self.own].name.clone()
    }

    fn rescue(&self) -> RescueSide<'_> {
        RescueSide {
            engine: &self.engine,
            journal: &self.journal,
        }
    }

    fn trash(&self) -> TrashSide<'_> {
        TrashSide {
            engine: &self.engine,
            journal: &self.journal,
        }
    }

    /// Receives from whoever feeds this replica. Which of two counts is the engine's decision.
    async fn take(self: Arc<Self>, mut streams: mpsc::Receiver<FeedStream>) {
        while let Some(stream) = streams.recv().await {
            let replica = Arc::clone(&self);
            tokio::spawn(async move {
                let stop = replica.stop.clone();
                let result = replica.engine.run_replica_session(stream, stop).await;
                replica.ended(&result);
            });
        }
    }

    /// A master that was left behind dials again and again: each reason to refuse is logged once.
    fn ended(&self, result: &Result<SessionEnd, SessionError>) {
        let why = match result {
            Ok(SessionEnd::Refused { why, .. }) => Some(why.clone()),
            other => {
                log_end("receive", other);
                None
            }
        };
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = why.as_ref().filter(|why| refused.as_ref() != Some(*why)) {
            tracing::warn!(why, "who connected is refused");
        }
        *refused = why;
    }

    async fn pulse(self: Arc<Self>, watchdog: Watchdog) {
        let heart = watchdog.heart("agent");
        let every = watchdog.beat_every().map_or(PULSE, |d| d.min(PULSE));
        loop {
            heart.beat();
            let status = self.engine.status();
            let data = match status.consistent {
                true => "consistent",
                false => "not consistent",
            };
            let from = status.from.as_deref().unwrap_or("nobody yet");
            systemd::status(&format!("replica, from {from}, data {data}"));
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// SIGTERM and SIGINT stop, SIGHUP reloads.
    async fn follow_signals(self: Arc<Self>) -> std::io::Result<()> {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        loop {
            tokio::select! {
                _ = term.recv() => self.stop.cancel(),
                _ = int.recv() => self.stop.cancel(),
                _ = hangup.recv() => {
                    if let Err(error) = self.reload().await {
                        tracing::warn!(error = %error, "reload refused");
                    }
                }
                () = self.stop.cancelled() => {
                    systemd::stopping();
                    return Ok(());
                }
            }
        }
    }

    /// `tandem restart`: the process executes itself again.
    async fn restart(&self) -> Result<Done, ApiError> {
        let loaded = load_again(&self.config()).await?;
        let key = self.config().config.replicas[self.own].key;
        if loaded.config.who(&key).is_none() {
            let text = "this replica's key is not in the configuration any more";
            return Err(ApiError::new(ErrorCode::Refused, text));
        }
        end_in_restart(&self.end, &self.stop)
    }

    /// `tandem reload`: the trees; what the pair does besides is none of this machine's business.
    async fn reload(&self) -> Result<ReloadReport, ApiError> {
        let _one = self.reloading.lock().await;
        systemd::reloading();
        let result = self.try_reload().await;
        systemd::ready();
        if let Ok(report) = &result {
            self.journal.record("reload", report);
        }
        result
    }

    async fn try_reload(&self) -> Result<ReloadReport, ApiError> {
        let old = self.config();
        let loaded = load_again(&old).await?;
        let (before, after) = (Facts::of(&old.config), Facts::of(&loaded.config));
        let mut report = ReloadReport {
            changes: before
                .changes_to(&after)
                .into_iter()
                .map(|c| c.text)
                .collect(),
            needs_restart: built_at_start(&old.config, &loaded.config, self.own),
            digest: after.digest().to_string(),
            failed: Vec::new(),
        };
        if !report.needs_restart.is_empty() || report.changes.is_empty() {
            report.failed.clear();
            return Ok(report);
        }
        let trees = setup::replica_trees(&loaded.config, self.own, &loaded.file)
            .map_err(|e| ApiError::new(ErrorCode::InvalidConfig, e.to_string()))?;
        let taken = self.engine.set_trees(trees.trees).await;
        taken.map_err(|e| super::backend::engine_error(&e))?;
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
        Ok(report)
    }
}

/// (pure) What of a new configuration a running replica cannot take.
fn built_at_start(old: &types::Config, new: &types::Config, own: usize) -> Vec<String> {
    let is = |config: &types::Config| {
        let replica = config.replicas.get(own);
        replica.map(|r| (r.name.clone(), r.key, r.address))
    };
    let keys = |config: &types::Config| config.nodes.each_ref().map(|node| node.key);
    let mut changes = Vec::new();
    if is(old) != is(new) {
        changes.push("this replica's place, name, key or address".to_owned());
    }
    if keys(old) != keys(new) {
        changes.push("the keys of the nodes".to_owned());
    }
    if (&old.pair.name, old.pair.port) != (&new.pair.name, new.pair.port) {
        changes.push("the name or the port of the pair".to_owned());
    }
    if old.agent != new.agent {
        changes.push("[agent]".to_owned());
    }
    changes
}
