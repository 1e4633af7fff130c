//! The status of a replica.

use super::Replica;
use crate::api::types::{
    API_VERSION, ConfigStatus, Health, PeerStatus, Role, SessionStatus, StatusReport,
    TakeoverStatus, TreeState, TreeStatus,
};
use crate::config::facts::Facts;
use crate::daemon::alarms::data_alarms;
use crate::daemon::roles::unix_ms;
use crate::daemon::status::{Now, tree_statuses};
use std::sync::PoisonError;
use tandem_sync::engine::EngineStatus;
use tandem_sync::tree::TreeId;

impl Replica {
    /// Everything of one moment. Never waits for the engine.
    pub(super) fn status_report(&self) -> StatusReport {
        let loaded = self.config();
        let config = &loaded.config;
        let engine = self.engine.status();
        let heads = self.engine.lineages().ok();
        let epochs = |name: &str| {
            let head = heads.as_ref().and_then(|h| h.get(TreeId::of(name)));
            head.map_or(0, |h| h.head.lineage.epochs().len() as u64)
        };
        let lineages: Vec<u64> = engine.trees.iter().map(|t| epochs(&t.name)).collect();
        let now = Now {
            boot: tandem_failover::clock::now(),
            unix_ms: unix_ms(),
        };
        let trees = tree_statuses(&engine, &lineages, now);
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let session = session(&engine, &self.listening.borrow(), refused.as_deref());
        drop(refused);
        let term = engine.trees.iter().filter_map(|t| t.epoch_term).max();
        StatusReport {
            api: API_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pair: config.pair.name.clone(),
            node: self.name(),
            role: Role::Replica,
            phase: phase(&session, &trees).to_owned(),
            term: term.unwrap_or(0),
            term_armed: 0,
            since_unix_ms: self.started_unix_ms,
            started_unix_ms: self.started_unix_ms,
            preferred: config.pair.preferred.clone(),
            relation: "unknown".to_owned(),
            links: Vec::new(),
            peer: source(&engine),
            monitors: Vec::new(),
            config: ConfigStatus {
                file: loaded.file.display().to_string(),
                mine: Facts::of(config).digest().to_string(),
                peer: None,
                equal: None,
                matters_equal: None,
                file_changed: self.on_disk.differs(&loaded),
            },
            takeover: TakeoverStatus {
                node: None,
                possible: false,
                reasons: vec!["a replica never takes over".to_owned()],
            },
            maintenance: None,
            hold: None,
            addresses: Vec::new(),
            last_decision: None,
            services: Vec::new(),
            replicas: Vec::new(),
            alarms: alarms(&engine, &session),
            trees,
            session,
        }
    }
}

/// (pure) The session, or why there is none.
fn session(
    engine: &EngineStatus,
    listening: &Result<(), String>,
    refused: Option<&str>,
) -> SessionStatus {
    let up = engine.session.is_some();
    let why = match (listening, refused) {
        _ if up => None,
        (Err(why), _) => Some(format!("cannot listen: {why}")),
        (Ok(()), Some(why)) => Some(format!("who connected was refused: {why}")),
        (Ok(()), None) => Some("no master has connected".to_owned()),
    };
    SessionStatus {
        up,
        link: None,
        why,
    }
}

fn phase(session: &SessionStatus, trees: &[TreeStatus]) -> &'static str {
    let consistent = trees.iter().all(|t| t.state == TreeState::Consistent);
    match (session.up, consistent) {
        (false, _) => "waiting for a master",
        (true, false) => "catching up",
        (true, true) => "following",
    }
}

/// Who feeds this replica, in place of a peer.
fn source(engine: &EngineStatus) -> PeerStatus {
    PeerStatus {
        node: engine.from.clone().unwrap_or_else(|| "nobody".to_owned()),
        alive: engine.session.is_some(),
        heard_ms: None,
        role: engine.session.as_ref().map(|_| Role::Master),
        term: None,
        eligible: None,
        reasons: Vec::new(),
        services: Health::Unknown,
        network: Health::Unknown,
        identity: None,
    }
}

fn alarms(engine: &EngineStatus, session: &SessionStatus) -> Vec<String> {
    let mut alarms = data_alarms(engine);
    let why = session.why.iter();
    alarms.extend(why.map(|why| format!("nothing arrives: {why}")));
    alarms
}
