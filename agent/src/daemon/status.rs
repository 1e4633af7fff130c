//! (pure) What the parts say of themselves, put together for the operator.

use super::alarms::alarms;
use super::feeds::Away;
use super::verify::receiver_name;
use crate::api::types as api;
use crate::config::types::{Config, CountsFor, Replica};
use std::collections::BTreeMap;
use std::time::Duration;
use tandem_failover::address::AddressState;
use tandem_failover::health::Health;
use tandem_failover::role::Role;
use tandem_failover::time::Instant;
use tandem_failover::view::{PeerIdentity, View};
use tandem_sync::engine as sync;
use tandem_sync::tree::TreeId;

/// Both clocks at one moment, so that every age in one report is of the same moment.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// `CLOCK_BOOTTIME`.
    pub boot: Instant,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

impl Now {
    /// Age of `then` in milliseconds.
    pub fn age_ms(self, then: Instant) -> u64 {
        millis(self.boot.saturating_duration_since(then))
    }

    /// `then` on the calendar, be it past or to come.
    pub fn unix_ms_of(self, then: Instant) -> u64 {
        let ahead = millis(then.saturating_duration_since(self.boot));
        (self.unix_ms + ahead).saturating_sub(self.age_ms(then))
    }
}

/// Whole milliseconds.
pub fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// What one monitor says.
#[derive(Debug, Clone, Default)]
pub struct MonitorState {
    /// Health as counted by rise and fall.
    pub health: Health,
    /// Failures in a row.
    pub failures: u32,
    /// Since when the health is what it is.
    pub since: Option<Instant>,
    /// The last result in words.
    pub last: String,
}

/// What one service did last.
#[derive(Debug, Clone, Default)]
pub struct ServiceState {
    /// `started`, `stopped`, `failed` or `unknown`.
    pub state: String,
    /// Since when.
    pub since_unix_ms: Option<u64>,
    /// Why it failed.
    pub last_error: Option<String>,
}

/// Everything that a status is made of.
pub struct Parts<'a> {
    /// Both clocks.
    pub now: Now,
    /// When the agent started.
    pub started_unix_ms: u64,
    /// The configuration in force.
    pub config: &'a Config,
    /// Which of its nodes this is.
    pub own: usize,
    /// The machine's view.
    pub view: &'a View,
    /// The engine's status.
    pub engine: &'a sync::EngineStatus,
    /// Epochs in each tree's lineage, in configured order.
    pub lineages: Vec<u64>,
    /// Relation of the data, as text.
    pub relation: String,
    /// The control session.
    pub session: api::SessionStatus,
    /// One per configured monitor, in that order.
    pub monitors: Vec<MonitorState>,
    /// One per configured service, in that order.
    pub services: Vec<ServiceState>,
    /// The floating addresses on this node.
    pub addresses: Vec<AddressState>,
    /// The configuration's file and digests.
    pub file: api::ConfigStatus,
    /// The last decision.
    pub last_decision: Option<api::DecisionReport>,
    /// What else needs a person: hooks that failed, notices that are not mailed.
    pub troubles: Vec<String>,
    /// Hold since and until.
    pub hold: Option<(u64, Option<u64>)>,
    /// Replicas that cannot be fed now.
    pub away: BTreeMap<String, Away>,
}

/// The whole report.
pub fn report(parts: Parts<'_>) -> api::StatusReport {
    let Parts { config, view, .. } = &parts;
    let mut report = api::StatusReport {
        api: api::API_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pair: config.pair.name.clone(),
        node: config.nodes[parts.own].name.clone(),
        role: role(view.role),
        phase: view.phase.to_string(),
        term: view.term,
        term_armed: view.term_armed,
        since_unix_ms: parts.now.unix_ms_of(view.since),
        started_unix_ms: parts.started_unix_ms,
        preferred: config.pair.preferred.clone(),
        relation: parts.relation.clone(),
        links: links(&parts),
        session: parts.session.clone(),
        peer: peer(&parts),
        monitors: monitors(&parts),
        trees: trees(&parts),
        config: parts.file.clone(),
        takeover: takeover(&parts),
        maintenance: maintenance(&parts),
        hold: parts.hold.map(|(since, until)| api::HoldStatus {
            since_unix_ms: since,
            until_unix_ms: until,
            spooled_bytes: parts.engine.spooled,
        }),
        addresses: addresses(&parts),
        last_decision: parts.last_decision.clone(),
        services: services(&parts),
        replicas: replicas(&parts),
        alarms: Vec::new(),
    };
    report.alarms = alarms(&report, view, parts.engine);
    let away = parts.away.iter().filter(|(_, away)| away.is_long());
    let away = away.map(|(name, away)| format!("the replica {name} is not fed: {}", away.why));
    report.alarms.extend(away);
    report.alarms.extend(lacking(&report.replicas));
    report.alarms.extend(parts.troubles);
    report
}

/// The role in the API's words.
pub fn role(role: Role) -> api::Role {
    match role {
        Role::Joining => api::Role::Joining,
        Role::Standby => api::Role::Standby,
        Role::Master => api::Role::Master,
        Role::Fault => api::Role::Fault,
    }
}

fn health(health: Health) -> api::Health {
    match health {
        Health::Good => api::Health::Good,
        Health::Bad => api::Health::Bad,
        Health::Unknown => api::Health::Unknown,
    }
}

fn links(parts: &Parts<'_>) -> Vec<api::LinkStatus> {
    let mine = &parts.config.nodes[parts.own].links;
    let theirs = &parts.config.nodes[1 - parts.own].links;
    mine.iter()
        .zip(theirs)
        .enumerate()
        .map(|(i, (mine, theirs))| {
            let view = parts.view.links.get(i);
            let heard_ms = view.and_then(|v| v.last_heard).map(|t| parts.now.age_ms(t));
            let dead_ms = millis(parts.config.pair.dead_after);
            api::LinkStatus {
                name: mine.name.clone(),
                device: mine.device.clone(),
                local: mine.address.to_string(),
                remote: theirs.address.to_string(),
                data: mine.data,
                carrier: view.and_then(|v| v.carrier),
                up: heard_ms.is_some_and(|age| age < dead_ms),
                heard_ms,
                heard_by_peer: view.is_some_and(|v| v.heard_by_peer),
                rtt_us: view
                    .and_then(|v| v.rtt)
                    .map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
                loss_percent: view.map(|v| f32::from(v.loss_per_mille) / 10.0),
            }
        })
        .collect()
}

fn peer(parts: &Parts<'_>) -> api::PeerStatus {
    let node = parts.config.nodes[1 - parts.own].name.clone();
    let Some(view) = &parts.view.peer else {
        return api::PeerStatus {
            node,
            alive: false,
            heard_ms: None,
            role: None,
            term: None,
            eligible: None,
            reasons: Vec::new(),
            services: api::Health::Unknown,
            network: api::Health::Unknown,
            identity: identity(parts.view).map(str::to_owned),
        };
    };
    api::PeerStatus {
        node,
        alive: view.heard,
        heard_ms: view.last_heard.map(|t| parts.now.age_ms(t)),
        role: Some(role(view.role)),
        term: Some(view.term),
        eligible: Some(view.eligible.is_ok()),
        reasons: view
            .eligible
            .err()
            .map(|reason| reason.to_string())
            .into_iter()
            .collect(),
        services: health(view.services),
        network: health(view.network),
        identity: identity(parts.view).map(str::to_owned),
    }
}

fn identity(view: &View) -> Option<&'static str> {
    match view.trouble.identity {
        PeerIdentity::Same if view.trouble.own_key_elsewhere => Some("cloned"),
        PeerIdentity::Same => None,
        PeerIdentity::Regressed => Some("regressed"),
        PeerIdentity::Cloned => Some("cloned"),
    }
}

fn monitors(parts: &Parts<'_>) -> Vec<api::MonitorStatus> {
    parts
        .config
        .monitors
        .iter()
        .zip(&parts.monitors)
        .map(|(config, state)| api::MonitorStatus {
            name: config.name.clone(),
            target: config.check.to_string(),
            counts_for: match config.counts_for {
                CountsFor::Service => "service".to_owned(),
                CountsFor::Network => "network".to_owned(),
            },
            health: health(state.health),
            failures: state.failures,
            since_unix_ms: state.since.map(|t| parts.now.unix_ms_of(t)),
            last_error: Some(state.last.clone()).filter(|_| state.failures > 0),
        })
        .collect()
}

fn trees(parts: &Parts<'_>) -> Vec<api::TreeStatus> {
    let standby = &parts.config.nodes[1 - parts.own].name;
    let mut trees = tree_statuses(parts.engine, &parts.lineages, parts.now);
    for (shown, tree) in trees.iter_mut().zip(&parts.engine.trees) {
        let compared = tree.verified.iter();
        shown.verified = compared.map(|of| verified(of, standby)).collect();
    }
    trees
}

/// Every tree, with the number of epochs of each, but for what only a master knows: how it compares with those that receive.
pub fn tree_statuses(
    engine: &sync::EngineStatus,
    lineages: &[u64],
    now: Now,
) -> Vec<api::TreeStatus> {
    let stale = engine
        .fresh_at
        .map(|at| now.age_ms(Instant::from_nanos(at)));
    let receives = matches!(engine.mode, sync::Mode::Replica);
    engine
        .trees
        .iter()
        .enumerate()
        .map(|(i, tree)| {
            let (state, stopped) = tree_state(&tree.state);
            api::TreeStatus {
                name: tree.name.clone(),
                path: tree.root.clone(),
                state,
                stopped,
                proven: tree.proven,
                epoch: tree.epoch.clone(),
                lineage_length: lineages.get(i).copied().unwrap_or(0),
                seq: tree.seq,
                acked: engine.acked,
                lag_ms: engine.lag.map(millis),
                stale_ms: stale.filter(|_| receives),
                queue: tree.queue,
                files: tree.files,
                bytes: tree.bytes,
                errors: tree.errors,
                last_error: tree.last_error.clone(),
                detector: tree.detector.clone(),
                detector_because: tree.detector_because.clone(),
                poll_ms: tree.poll.map(millis),
                contents: tree.contents.as_ref().map(contents),
                verified: Vec::new(),
                progress: tree.progress.as_ref().map(progress),
                rescued: tree.rescued,
                set: tree.set.as_ref().map(tree_set),
                mounts_below: tree.mounts_below.clone(),
                local_changes: tree.local_changes,
                kept: tree.kept,
                sockets_skipped: tree.sockets_skipped,
                unverified: tree.unverified,
                fuzzy: tree.fuzzy.clone(),
                fuzzy_more: tree.fuzzy_more,
                reading: tree.reading.clone(),
                inexact: inexact(tree),
            }
        })
        .collect()
}

fn inexact(tree: &sync::TreeStatus) -> BTreeMap<api::Counted, api::Inexact> {
    let shown = |(count, is): (&sync::Counted, &sync::Inexact)| {
        let count = match count {
            sync::Counted::Queue => api::Counted::Queue,
            sync::Counted::Errors => api::Counted::Errors,
            sync::Counted::Kept => api::Counted::Kept,
            sync::Counted::Unverified => api::Counted::Unverified,
            sync::Counted::LocalChanges => api::Counted::LocalChanges,
        };
        let is = match is {
            sync::Inexact::AtLeast => api::Inexact::AtLeast,
            sync::Inexact::About => api::Inexact::About,
        };
        (count, is)
    };
    tree.inexact.iter().map(shown).collect()
}

/// Replicas that are there and do not take all that they should have.
fn lacking(replicas: &[api::ReplicaStatus]) -> Vec<String> {
    let those = replicas.iter().filter(|replica| replica.up);
    let alarm =
        |r: &api::ReplicaStatus| Some(format!("the replica {}: {}", r.name, r.why.as_ref()?));
    those.filter_map(alarm).collect()
}

/// Nothing is known that it has not as it is here: no change that it has not answered, no path that it keeps, and no file of which
/// what was sent is of no single moment.
fn has_all(config: &Replica, replica: &sync::ReplicaStatus, engine: &sync::EngineStatus) -> bool {
    let gets = |tree: &&sync::TreeStatus| config.trees.contains(&tree.name);
    let mut trees = engine.trees.iter().filter(gets);
    replica.lag == Some(Duration::ZERO) && !replica.keeps && trees.all(|t| t.fuzzy.is_empty())
}

/// Why a replica that is there is not in sync.
fn lacks(config: &Replica, replica: &sync::ReplicaStatus) -> Option<String> {
    if replica.keeps {
        let why = "it keeps paths as they are for their flags, or cannot set all attributes: see `tandem status` there";
        return Some(why.into());
    }
    let lacks = |tree: &&String| replica.lacks.contains(&TreeId::of(tree));
    let names: Vec<&str> = config
        .trees
        .iter()
        .filter(lacks)
        .map(String::as_str)
        .collect();
    (!names.is_empty()).then(|| {
        format!(
            "it does not take {} now: see `tandem status` there",
            names.join(", ")
        )
    })
}

/// The replicas that this node feeds; none where it is not master.
fn replicas(parts: &Parts<'_>) -> Vec<api::ReplicaStatus> {
    let known = |name: &str| parts.engine.replicas.iter().find(|r| r.name == name);
    let all = parts.config.replicas.iter();
    all.filter_map(|config| {
        let replica = known(&config.name)?;
        let session = replica.session.as_ref();
        let away = parts.away.get(&config.name);
        Some(api::ReplicaStatus {
            name: config.name.clone(),
            address: config.address.to_string(),
            trees: config.trees.clone(),
            up: session.is_some(),
            in_sync: session.is_some_and(|s| s.caught_up) && has_all(config, replica, parts.engine),
            lag_ms: replica.lag.map(millis),
            acked: replica.acked,
            why: match session {
                Some(_) => lacks(config, replica),
                None => away.map(|a| a.why.clone()),
            },
        })
    })
    .collect()
}

fn tree_set(set: &sync::SetStatus) -> api::TreeSet {
    api::TreeSet {
        number: set.number,
        age_ms: super::roles::unix_ms().saturating_sub(set.made_unix_ms),
        there: set.there,
        next_ms: set.next.map(millis),
    }
}

fn contents(of: &sync::ContentsStatus) -> api::Contents {
    api::Contents {
        files: of.files,
        bytes: of.bytes,
        differed: of.differed,
        last_ended_unix_ms: of.last.map(|round| round.ended_unix_ms),
        last_files: of.last.map_or(0, |round| round.files),
        last_differed: of.last.map_or(0, |round| round.differed),
    }
}

fn verified(of: &sync::VerifyStatus, standby: &str) -> api::Verified {
    let last = of.last.as_ref();
    let named = match of.named.is_empty() {
        false => of.named.clone(),
        true => last.map(|last| last.named.clone()).unwrap_or_default(),
    };
    api::Verified {
        receiver: receiver_name(&of.receiver, standby).to_owned(),
        bytes: of.bytes,
        differ: of.differ,
        last_ended_unix_ms: last.map(|last| last.ended_unix_ms),
        last_entries: last.map_or(0, |last| last.entries),
        last_differ: last.map_or(0, |last| last.differ),
        named,
    }
}

fn tree_state(state: &sync::TreeState) -> (api::TreeState, Option<String>) {
    match state {
        sync::TreeState::Unborn => (api::TreeState::Unborn, None),
        sync::TreeState::Copying => (api::TreeState::Copying, None),
        sync::TreeState::CatchingUp => (api::TreeState::CatchingUp, None),
        sync::TreeState::Consistent => (api::TreeState::Consistent, None),
        sync::TreeState::Stopped { why } => (api::TreeState::Stopped, Some(why.clone())),
    }
}

fn progress(p: &sync::Progress) -> api::Progress {
    api::Progress {
        what: p.what.clone(),
        files_done: p.done.entries,
        files_total: p.total.map(|total| total.entries),
        bytes_done: p.done.bytes,
        bytes_total: p.total.map(|total| total.bytes),
        at_least: p.at_least,
        files_per_second: p.entries_per_second,
        bytes_per_second: p.bytes_per_second,
        eta_ms: p.left.map(millis),
    }
}

/// Who could take over now: this node if it does not serve, else its peer.
fn takeover(parts: &Parts<'_>) -> api::TakeoverStatus {
    let view = parts.view;
    if view.role != Role::Master {
        let mut reasons: Vec<String> = match &view.eligible {
            Ok(()) => Vec::new(),
            Err(reasons) => reasons.iter().map(ToString::to_string).collect(),
        };
        if !reasons.is_empty() {
            reasons.extend(parts.engine.reason.clone());
        }
        return api::TakeoverStatus {
            node: Some(parts.config.nodes[parts.own].name.clone()),
            possible: view.eligible.is_ok(),
            reasons,
        };
    }
    let node = Some(parts.config.nodes[1 - parts.own].name.clone());
    match &view.peer {
        Some(peer) if peer.heard => api::TakeoverStatus {
            node,
            possible: peer.eligible.is_ok(),
            reasons: peer
                .eligible
                .err()
                .map(|r| r.to_string())
                .into_iter()
                .collect(),
        },
        _ => api::TakeoverStatus {
            node,
            possible: false,
            reasons: vec!["the peer's agent is not heard".to_owned()],
        },
    }
}

fn maintenance(parts: &Parts<'_>) -> Option<api::MaintenanceStatus> {
    let view = parts.view.maintenance?;
    Some(api::MaintenanceStatus {
        here: view.here,
        until_unix_ms: view.until.map(|t| parts.now.unix_ms_of(t)),
    })
}

fn addresses(parts: &Parts<'_>) -> Vec<api::AddressStatus> {
    parts
        .config
        .floating_ips
        .iter()
        .map(|ip| {
            let of_this = |s: &&AddressState| {
                s.floating.address == ip.address && s.floating.device == ip.device
            };
            // Not known for a moment after a reload.
            let state = parts.addresses.iter().find(of_this);
            api::AddressStatus {
                address: format!("{}/{}", ip.address, ip.prefix),
                device: ip.device.clone(),
                label: ip.label.clone(),
                held: state.is_some_and(|s| s.held),
                error: state.and_then(|s| s.error.clone()),
                conflict: state
                    .and_then(|s| s.conflict)
                    .map(|mac| format!("{mac} answers for it too")),
            }
        })
        .collect()
}

fn services(parts: &Parts<'_>) -> Vec<api::ServiceStatus> {
    parts
        .config
        .services
        .iter()
        .zip(&parts.services)
        .map(|(config, state)| api::ServiceStatus {
            name: config.name.clone(),
            state: state.state.clone(),
            since_unix_ms: state.since_unix_ms,
            last_error: state.last_error.clone(),
        })
        .collect()
}
