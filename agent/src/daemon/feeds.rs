//! The replicas of a pair, fed while this node is master. Nothing of the pair waits for them.

use super::data::next_pause;
use crate::config::types::{Config, PublicKey, Replica};
use crate::keys::NodeKey;
use crate::link::{Timing, feed};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tandem_failover::view::View;
use tandem_sync::engine::{Engine, SessionEnd};
use tandem_sync::tree::ReplicaConfig;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A replica is away for so long before a person is told: it is longer than a restart of its agent, or of its machine.
const AWAY: Duration = Duration::from_secs(60);

/// One replica as it is dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    name: String,
    key: PublicKey,
    address: SocketAddr,
}

/// Feeds them. Clones share everything.
#[derive(Clone)]
pub struct Feeds {
    engine: Engine,
    key: NodeKey,
    targets: watch::Sender<Vec<Target>>,
    /// By name, of those that cannot be fed now: since when, and the last reason.
    away: Arc<Mutex<BTreeMap<String, Away>>>,
    /// The role machine's view, for this node's own identity.
    views: watch::Receiver<View>,
}

/// A replica that cannot be fed now.
#[derive(Debug, Clone)]
pub struct Away {
    since: Instant,
    /// Why.
    pub why: String,
}

impl Away {
    /// A person should look at it.
    pub fn is_long(&self) -> bool {
        self.since.elapsed() >= AWAY
    }
}

/// The replicas in the words of the sync half.
pub fn replicas(config: &Config) -> Vec<ReplicaConfig> {
    let replica = |r: &Replica| ReplicaConfig {
        name: r.name.clone(),
        trees: r.trees.clone(),
    };
    config.replicas.iter().map(replica).collect()
}

fn targets(config: &Config) -> Vec<Target> {
    let target = |r: &Replica| Target {
        name: r.name.clone(),
        key: r.key,
        address: SocketAddr::new(r.address, config.pair.port),
    };
    config.replicas.iter().map(target).collect()
}

impl Feeds {
    /// Nothing is begun by this.
    pub fn new(
        engine: Engine,
        key: NodeKey,
        config: &Config,
        views: watch::Receiver<View>,
    ) -> Self {
        Self {
            engine,
            key,
            targets: watch::Sender::new(targets(config)),
            away: Arc::default(),
            views,
        }
    }

    /// These are the replicas from here on.
    pub fn configure(&self, config: &Config) -> Result<(), String> {
        let taken = self.engine.set_replicas(&replicas(config));
        taken.map_err(|e| e.to_string())?;
        let new = targets(config);
        self.away()
            .retain(|name, _| new.iter().any(|t| t.name == *name));
        self.targets
            .send_if_modified(|old| std::mem::replace(old, new.clone()) != new);
        Ok(())
    }

    /// Those that cannot be fed now, by name.
    pub fn away(&self) -> MutexGuard<'_, BTreeMap<String, Away>> {
        // Each entry is whole before the next one begins.
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Feeds all of them until `cancel` fires.
    pub async fn feed(self, cancel: CancellationToken) {
        let mut list = self.targets.subscribe();
        self.away().clear();
        loop {
            let mut tasks = JoinSet::new();
            for target in list.borrow_and_update().iter().cloned() {
                tasks.spawn(self.clone().feed_one(target, cancel.clone()));
            }
            // Other replicas: all are dialled anew, which takes those that were there some milliseconds.
            tokio::select! {
                () = cancel.cancelled() => break,
                changed = list.changed() => if changed.is_err() { break },
            }
        }
        self.away().clear();
    }

    async fn feed_one(self, target: Target, cancel: CancellationToken) {
        let mut pause = Duration::ZERO;
        while !cancel.is_cancelled() {
            let begun = Instant::now();
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.own(true) => {}
            }
            tokio::select! {
                why = self.feed_once(&target, &cancel) => self.ended(&target.name, why),
                // Two machines with one key would send different data under one name.
                () = self.own(false) => self.ended(&target.name, Some("this node's key is used elsewhere".into())),
            }
            pause = next_pause(pause, begun.elapsed());
            tokio::select! {
                () = cancel.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One session, or an attempt at one. Gives why there is none; `None`: it ended with the role.
    async fn feed_once(&self, target: &Target, cancel: &CancellationToken) -> Option<String> {
        let Target { name, key, address } = target;
        let stream = match feed::dial(&self.key, *key, *address, &Timing::default()).await {
            Ok(stream) => stream,
            Err(error) => return Some(error.to_string()),
        };
        let gauge = Some(stream.gauge());
        let session = self
            .engine
            .run_feed_session(name, stream, gauge, cancel.child_token());
        let mut session = std::pin::pin!(session);
        let shown = async {
            let mut status = self.engine.status_changes();
            let up = |s: &tandem_sync::engine::EngineStatus| {
                s.replicas
                    .iter()
                    .any(|r| r.name == *name && r.session.is_some())
            };
            if status.wait_for(up).await.is_ok() && self.away().remove(name).is_some() {
                tracing::info!(replica = name, "fed again");
            }
            std::future::pending::<()>().await;
        };
        let result = tokio::select! {
            result = &mut session => result,
            () = shown => return None,
        };
        match result {
            Ok(SessionEnd::Cancelled | SessionEnd::RoleChanged) => None,
            Ok(SessionEnd::Refused { why, .. }) => Some(format!("it refuses: {why}")),
            Ok(SessionEnd::PeerClosed) => Some("it closed the connection".to_owned()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Notes why a replica is not fed. Each reason is logged once.
    fn ended(&self, name: &str, why: Option<String>) {
        let Some(why) = why else { return };
        let mut away = self.away();
        let before = away.get(name);
        if before.is_none_or(|before| before.why != why) {
            tracing::info!(replica = name, why, "replica is not fed");
        }
        let since = before.map_or_else(Instant::now, |before| before.since);
        away.insert(name.to_owned(), Away { since, why });
    }

    /// Returns when this node's key is known to be its own (or not), for as long as the agent runs.
    async fn own(&self, own: bool) {
        let mut views = self.views.clone();
        let wanted = |view: &View| view.trouble.own_key_elsewhere != own;
        if views.wait_for(wanted).await.is_err() {
            // The agent ends, and its sessions with it.
            std::future::pending::<()>().await;
        }
    }
}
