//! The daemon: composes the failover half, the sync half and the link, and answers the local API.
//!
//! ```text
//!   tandem-failover (own thread) ──effects──▶ pump ──▶ data half (engine, sessions)
//!            ▲                                     ├──▶ services and hooks
//!            └────────────inputs───────────────────┤──▶ notices, journal
//!   link ──▶ peer's hello, lineages, forwarded commands, data streams
//! ```
//!
//! Nothing here decides anything: decisions are the role machine's and the lineage rules'.

mod alarms;
mod backend;
mod data;
pub(crate) mod execute;
pub mod facts;
mod feeds;
pub(crate) mod forward;
mod hold;
mod lifecycle;
mod moves;
mod on_disk;
mod peer;
mod pump;
mod replica;
mod rescue;
pub(crate) mod restore;
mod roles;
mod setup;
mod start;
mod status;
mod tickets;
mod trash;
mod tree_hooks;
mod verify;

pub use execute::execute_again;
pub use lifecycle::End;
pub use start::{AgentStart, StartError, run};

use crate::api::types as api;
use crate::config::Loaded;
use crate::config::facts::Facts;
use crate::journal::Journal;
use crate::link::PeerRpc;
use crate::notify::Notifier;
use data::DataHalf;
use hold::Held;
use on_disk::OnDisk;
use peer::PeerSide;
use restore::Restores;
use roles::Roles;
use status::{MonitorState, Now};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tandem_failover::address::AddressState;
use tandem_failover::driver::{AgentEffect, DriverHandle, Setup};
use tandem_failover::heartbeat::Incarnation;
use tandem_failover::input::Input;
use tandem_failover::probe::monitor::Board;
use tandem_failover::view::View;
use tandem_sync::engine::Engine;
use tandem_sync::lineage::NodeHeads;
use tickets::Tickets;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// What this node says of itself to the peer, for people and for R6.
#[derive(Debug, Clone, Copy)]
struct Identity {
    machine: [u8; 16],
    boot: [u8; 16],
    incarnation: u64,
}

/// The running agent.
pub struct Daemon {
    loaded: RwLock<Arc<Loaded>>,
    on_disk: OnDisk,
    /// Index of this node in the configuration.
    own: usize,
    identity: Identity,
    started_unix_ms: u64,
    engine: Engine,
    data: DataHalf,
    inputs: mpsc::Sender<Input>,
    views: watch::Receiver<View>,
    boards: watch::Receiver<Board>,
    addresses: watch::Receiver<Vec<AddressState>>,
    reconfigure: mpsc::Sender<Setup>,
    roles: Roles,
    notifier: Notifier,
    journal: Journal,
    tickets: Tickets,
    peer: Mutex<PeerSide>,
    /// For calls to the peer; `None` without a control connection.
    rpc: watch::Sender<Option<PeerRpc>>,
    held: Mutex<Option<Held>>,
    restores: Restores,
    last_decision: Mutex<Option<api::DecisionReport>>,
    facts_wake: Notify,
    /// Reloads come one after the other: each is the difference to what the one before left.
    reloading: tokio::sync::Mutex<()>,
    stop: CancellationToken,
    end: Mutex<End>,
    /// The failover loop has ended by itself.
    died: AtomicBool,
}

impl Daemon {
    /// The configuration in force.
    fn config(&self) -> Arc<Loaded> {
        self.loaded
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_config(&self, loaded: Loaded) {
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
    }

    /// The role machine's view now.
    fn view(&self) -> View {
        self.views.borrow().clone()
    }

    /// Follows the view.
    fn views(&self) -> watch::Receiver<View> {
        self.views.clone()
    }

    fn now(&self) -> Now {
        Now {
            boot: tandem_failover::clock::now(),
            unix_ms: roles::unix_ms(),
        }
    }

    /// The link met this node's own key. Which life of it that was is not known there.
    fn own_key_elsewhere(&self) {
        // Not a recording: both ends of that connection signed for it. So it counts as a life later than every other.
        let incarnation = Incarnation {
            counter: u64::MAX,
            ..Incarnation::default()
        };
        // The queue is short only when the loop is stuck; the next report comes with the next attempt.
        let _ = self.inputs.try_send(Input::OwnKeyElsewhere { incarnation });
    }

    /// The status, of one moment. Never waits for the engine, the driver or the peer.
    pub fn status_report(&self) -> api::StatusReport {
        let loaded = self.config();
        let config = &loaded.config;
        let view = self.view();
        let engine = self.engine.status();
        let board = self.boards.borrow().clone();
        let heads = self.engine.lineages().ok();
        let (relation, session) = self.peer_report(heads.as_ref());
        status::report(status::Parts {
            now: self.now(),
            started_unix_ms: self.started_unix_ms,
            config,
            own: self.own,
            view: &view,
            engine: &engine,
            lineages: self.lineage_lengths(heads.as_ref()),
            relation,
            session,
            monitors: board
                .states
                .iter()
                .map(|s| MonitorState {
                    health: s.health,
                    failures: s.failures,
                    since: s.since,
                    last: s.last.clone(),
                })
                .collect(),
            services: self.roles.states(&config.services),
            addresses: self.addresses.borrow().clone(),
            file: self.config_report(&loaded),
            last_decision: self
                .last_decision
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            troubles: self.troubles(),
            hold: self.hold_times(),
            away: self.data.feeds().away().clone(),
        })
    }

    fn troubles(&self) -> Vec<String> {
        let mut troubles = self.roles.failed_hooks();
        let mail = self.notifier.trouble();
        troubles.extend(mail.map(|why| format!("notices are not mailed: {why}")));
        troubles
    }

    fn lineage_lengths(&self, heads: Option<&NodeHeads>) -> Vec<u64> {
        let Some(heads) = heads else {
            return Vec::new();
        };
        let length = |tree: &crate::config::types::Tree| {
            let head = heads.get(tandem_sync::tree::TreeId::of(&tree.name));
            head.map_or(0, |h| h.head.lineage.epochs().len() as u64)
        };
        self.config().config.trees.iter().map(length).collect()
    }

    fn peer_report(&self, heads: Option<&NodeHeads>) -> (String, api::SessionStatus) {
        let peer = self.peer();
        let relation = match (heads, &peer.heads) {
            (Some(mine), Some(theirs)) => {
                format!("{:?}", facts::relation(mine, theirs, peer.restored))
            }
            _ => "Unknown".to_owned(),
        };
        let connected = self.rpc.borrow().is_some();
        let why = match (&peer.why, connected) {
            (_, true) => "the nodes are connected, and it is being made".to_owned(),
            (Some(why), false) => format!("no control connection: {why}"),
            (None, false) => "no control connection was made yet".to_owned(),
        };
        let engine = self.engine.status();
        let up = engine.session.is_some();
        // Nodes without a role exchange no data.
        let expected = engine.mode != tandem_sync::engine::Mode::Idle;
        let session = api::SessionStatus {
            up,
            link: peer.link.clone().filter(|_| up),
            why: (!connected || expected && !up).then_some(why),
        };
        (kebab(&relation), session)
    }

    fn config_report(&self, loaded: &Arc<Loaded>) -> api::ConfigStatus {
        let facts = Facts::of(&loaded.config);
        let digests = self.peer().digests;
        api::ConfigStatus {
            file: loaded.file.display().to_string(),
            mine: facts.digest().to_string(),
            peer: digests.map(|(whole, _)| crate::config::facts::Digest(whole).to_string()),
            equal: digests.map(|(whole, _)| whole == facts.digest().0),
            matters_equal: digests.map(|(_, matters)| matters == facts.matters().0),
            file_changed: self.on_disk.differs(loaded),
        }
    }
}

/// `TheName` as `the-name`.
fn kebab(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.extend(c.to_lowercase());
    }
    out
}

/// Ends the driver's thread without a change of role or addresses. Blocks for at most some seconds.
async fn end_driver(driver: DriverHandle) {
    let _ = tokio::task::spawn_blocking(move || driver.join()).await;
}

/// For the pump: the receiver of effects.
type Effects = mpsc::Receiver<AgentEffect>;
