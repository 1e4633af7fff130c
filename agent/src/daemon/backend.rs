//! The local API's commands, carried out by the daemon.

use super::Daemon;
use super::forward::Forwarded;
use super::status::{millis, role};
use crate::api::server::{Answer, Backend, Lines};
use crate::api::types::{self, ApiError, ErrorCode};
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;
use tandem_failover::input::Command;
use tandem_failover::role::Role;
use tandem_failover::view::PeerIdentity;
use tandem_sync::engine::{CommandError, Engine, NotCovered, TreeState, TreeStatus};

/// What a forwarded command may take beyond its own bound.
const FORWARD_SLACK: Duration = Duration::from_secs(2);

/// How long the standby's worker may be busy when it is asked what it keeps as it is.
const EXCEPTIONS: Duration = Duration::from_secs(10);

/// The daemon as the API server sees it.
pub struct Api(pub Arc<Daemon>);

fn not_covered(of: &NotCovered) -> types::NotCovered {
    types::NotCovered {
        tree: of.tree.clone().unwrap_or_else(|| "(all trees)".to_owned()),
        why: of.why.clone(),
    }
}

/// The engine's errors in the API's words.
pub fn engine_error(error: &CommandError) -> ApiError {
    let code = match error {
        CommandError::NoSuchTree(_)
        | CommandError::NoSuchReplica(_)
        | CommandError::NotReceived { .. }
        | CommandError::BadPath(_)
        | CommandError::NotInRescue(_)
        | CommandError::NotInTrash(_) => ErrorCode::NotFound,
        CommandError::NotSource | CommandError::IsSource => ErrorCode::WrongRole,
        CommandError::NoSession | CommandError::ReplicaAway(_) => ErrorCode::PeerUnreachable,
        CommandError::Timeout(..) | CommandError::ReplicaBehind(..) => ErrorCode::Timeout,
        CommandError::Ended => ErrorCode::Stopping,
        CommandError::Unborn(_)
        | CommandError::NeverRests { .. }
        | CommandError::Root { .. }
        | CommandError::Occupied(_)
        | CommandError::TooMuch(..)
        | CommandError::MoreGone { .. } => ErrorCode::Refused,
        _ => ErrorCode::Internal,
    };
    ApiError::new(code, error.to_string())
}

/// What `tree accept` lets go on this machine.
pub async fn accept_price(
    engine: &Engine,
    node: String,
    request: &types::AcceptPriceRequest,
) -> Result<types::AcceptPrice, ApiError> {
    let price = engine.accept_price(&request.tree).await;
    let price = price.map_err(|e| engine_error(&e))?;
    Ok(types::AcceptPrice {
        tree: request.tree.clone(),
        node,
        why: price.why,
        gone: price.gone,
        examples: price.examples.iter().map(ToString::to_string).collect(),
    })
}

/// `tree accept` on this machine.
pub async fn accept(
    engine: &Engine,
    request: &types::AcceptRequest,
) -> Result<types::Done, ApiError> {
    let tree = request.tree.as_str();
    let stopped = |t: &TreeStatus| matches!(t.state, TreeState::Stopped { .. });
    let trees = engine.status().trees;
    let stopped = trees.iter().any(|t| t.name == tree && stopped(t));
    let accepted = engine.accept(tree, request.most).await;
    accepted.map_err(|e| engine_error(&e))?;
    Ok(types::Done {
        message: if stopped {
            format!("tree {tree} goes on")
        } else {
            format!("tree {tree} was not stopped: there was nothing to accept")
        },
    })
}

impl Daemon {
    /// Refuses unless this node is master.
    pub fn must_be_master(&self) -> Result<(), ApiError> {
        let view = self.view();
        if view.role == Role::Master {
            return Ok(());
        }
        let text = format!("this node is {}, not master", view.role);
        Err(ApiError::new(ErrorCode::WrongRole, text))
    }

    /// `flush` on the master.
    pub async fn flush_here(
        &self,
        request: types::FlushRequest,
    ) -> Result<types::FlushReport, ApiError> {
        self.must_be_master()?;
        let within = Duration::from_millis(request.timeout_ms);
        let done = match request.verified {
            true => self.engine.flush_verified(within).await,
            false => self.engine.flush(within).await,
        };
        let report = done.map_err(|e| engine_error(&e))?;
        let covered = report.covered.iter().map(|tree| types::FlushedTree {
            tree: tree.clone(),
            seq: report.seq,
            epoch: report
                .epochs
                .iter()
                .find(|(name, _)| name == tree)
                .map_or_else(String::new, |(_, epoch)| epoch.clone()),
        });
        let missing = report.not_covered.iter().chain(&report.except);
        let mut not_covered: Vec<_> = missing.map(not_covered).collect();
        if !report.covered.is_empty() && !report.peer_follows {
            not_covered.extend(
                self.exceptions_there(within.saturating_sub(report.took))
                    .await,
            );
        }
        Ok(types::FlushReport {
            covered: covered.collect(),
            not_covered,
            took_ms: millis(report.took),
        })
    }

    /// What the standby keeps as it is, of what the master changed. An answer that does not come is an exception too:
    /// an older agent cannot say it.
    async fn exceptions_there(&self, within: Duration) -> Vec<types::NotCovered> {
        let asked = self.forwarded(Forwarded::Exceptions, within);
        let answer = tokio::time::timeout(within, asked).await;
        let why = match answer {
            Ok(Ok(exceptions)) => return exceptions,
            Ok(Err(error)) => error.message,
            Err(_) => "it did not answer in time".to_owned(),
        };
        vec![not_covered(&NotCovered {
            tree: None,
            why: format!("which paths the standby must not change is not known: {why}"),
        })]
    }

    /// That, on the standby.
    pub async fn exceptions_here(&self) -> Result<Vec<types::NotCovered>, ApiError> {
        let asked = self.engine.exceptions(EXCEPTIONS).await;
        let exceptions = asked.map_err(|e| engine_error(&e))?;
        Ok(exceptions.iter().map(not_covered).collect())
    }

    /// What `tree accept` lets go, on this node.
    pub async fn accept_price_here(
        &self,
        request: &types::AcceptPriceRequest,
    ) -> Result<types::AcceptPrice, ApiError> {
        let node = self.config().config.nodes[self.own].name.clone();
        accept_price(&self.engine, node, request).await
    }

    /// `tree accept`, on this node.
    pub async fn accept_here(
        &self,
        request: &types::AcceptRequest,
    ) -> Result<types::Done, ApiError> {
        accept(&self.engine, request).await
    }

    async fn flush(&self, request: types::FlushRequest) -> Result<types::FlushReport, ApiError> {
        if self.view().role == Role::Master {
            return self.flush_here(request).await;
        }
        let within = Duration::from_millis(request.timeout_ms) + FORWARD_SLACK;
        self.forwarded(Forwarded::Flush(request), within).await
    }

    async fn init(&self) -> Result<types::InitReport, ApiError> {
        let peer_is_master = {
            let view = self.view();
            view.peer
                .as_ref()
                .is_some_and(|p| p.heard && p.role == Role::Master)
        };
        if peer_is_master {
            let text = "the other node is master: it is the source already";
            return Err(ApiError::new(ErrorCode::Refused, text));
        }
        let report = self.engine.init_source().await;
        let report = report.map_err(|e| engine_error(&e))?;
        self.facts_changed();
        self.ask_machine(Command::Initialised).await?;
        let trees = self.engine.status().trees;
        let born = trees.into_iter().filter(|t| report.born.contains(&t.name));
        Ok(types::InitReport {
            trees: born
                .map(|t| types::InitTree {
                    tree: t.name,
                    epoch: t.epoch.unwrap_or_default(),
                })
                .collect(),
        })
    }

    fn price(&self) -> types::TakeoverPrice {
        let now = self.now();
        let view = self.view();
        let status = self.engine.status();
        let stale = status
            .fresh_at
            .map(|at| now.age_ms(tandem_failover::time::Instant::from_nanos(at)));
        let report = self.status_report();
        let peer = view.peer.as_ref();
        let trees = report.trees.iter().map(|tree| types::TreePrice {
            tree: tree.name.clone(),
            state: tree.state,
            stale_ms: stale,
            note: price_note(tree),
        });
        types::TakeoverPrice {
            node: report.node.clone(),
            role: role(view.role),
            free: view.eligible.is_ok() && !peer.is_some_and(|p| p.heard && p.role == Role::Master),
            reasons: report.takeover.reasons.clone(),
            peer_heard: peer.is_some_and(|p| p.heard),
            peer_role: peer.map(|p| role(p.role)),
            peer_silent_ms: peer.and_then(|p| p.last_heard).map(|t| now.age_ms(t)),
            trees: trees.collect(),
        }
    }

    async fn adopt(&self, request: types::AdoptRequest) -> Result<types::Done, ApiError> {
        if !request.force {
            let text = "adopt forgets what is known of the other node's history: confirm it";
            return Err(ApiError::new(ErrorCode::BadRequest, text));
        }
        let trouble = self.view().trouble;
        if trouble.identity != PeerIdentity::Same || trouble.own_key_elsewhere {
            // First who it is. Whose data count is another question, and this one may be all that there is.
            self.ask_machine(Command::AcceptPeer).await?;
            self.facts_changed();
            return Ok(types::Done {
                message: "the other node is accepted as it is now; no data were given up"
                    .to_owned(),
            });
        }
        self.engine.adopt().await.map_err(|e| engine_error(&e))?;
        self.ask_machine(Command::AcceptPeer).await?;
        self.facts_changed();
        Ok(types::Done {
            message:
                "the other node's data are taken as the truth: what differs here goes to the rescue"
                    .to_owned(),
        })
    }

    async fn maintenance(
        &self,
        request: types::MaintenanceRequest,
    ) -> Result<types::Done, ApiError> {
        let command = if request.on {
            Command::MaintenanceOn(request.for_ms.map(Duration::from_millis))
        } else {
            Command::MaintenanceOff
        };
        let mut message = self.ask_machine(command).await?;
        let there = self.view().maintenance.is_some_and(|m| m.peer);
        if there && !request.on {
            let peer = &self.config().config.nodes[1 - self.own].name;
            message = format!(
                "{message} here, and still on at {peer}: `tandem maintenance off` there ends it"
            );
        }
        Ok(types::Done { message })
    }
}

/// What is here of a tree; how old it is stands beside it.
fn price_note(tree: &types::TreeStatus) -> String {
    match (&tree.state, &tree.stopped) {
        (types::TreeState::Consistent, _) => "complete".to_owned(),
        (types::TreeState::CatchingUp, _) => {
            "a mixture of moments: files of different ages".to_owned()
        }
        (types::TreeState::Copying, _) => "half-copied: files are missing".to_owned(),
        (types::TreeState::Unborn, _) => "never copied: everything is missing".to_owned(),
        (_, Some(why)) => format!("stopped: {why}"),
        _ => "its state is not known".to_owned(),
    }
}

macro_rules! answer {
    ($work:expr) => {
        Box::pin(async move { $work })
    };
}
pub(super) use answer;

impl Backend for Api {
    fn status(&self) -> Answer<'_, types::StatusReport> {
        answer!(Ok(self.0.status_report()))
    }

    fn role(&self) -> Answer<'_, types::RoleReport> {
        let view = self.0.view();
        answer!(Ok(types::RoleReport {
            role: role(view.role),
            term: view.term,
            node: self.0.config().config.nodes[self.0.own].name.clone(),
        }))
    }

    fn init(&self, request: types::InitRequest) -> Answer<'_, types::InitReport> {
        answer!(if request.source {
            self.0.init().await
        } else {
            let text = "say which way the first copy goes: `tandem init --source` on the node that has the data";
            Err(ApiError::new(ErrorCode::BadRequest, text))
        })
    }

    fn failback(&self, _: types::Empty) -> Answer<'_, Lines<types::MoveEvent>> {
        answer!(Ok(self.0.failback_lines()))
    }

    fn switchover(&self, _: types::Empty) -> Answer<'_, Lines<types::MoveEvent>> {
        answer!(Ok(self.0.switchover_lines()))
    }

    fn takeover_price(&self) -> Answer<'_, types::TakeoverPrice> {
        answer!(Ok(self.0.price()))
    }

    fn takeover(&self, request: types::TakeoverRequest) -> Answer<'_, Lines<types::MoveEvent>> {
        answer!(if request.force {
            Ok(self.0.takeover_lines())
        } else {
            let text = "a takeover by hand must be confirmed: look at its price first";
            Err(ApiError::new(ErrorCode::BadRequest, text))
        })
    }

    fn flush(&self, request: types::FlushRequest) -> Answer<'_, types::FlushReport> {
        answer!(self.0.flush(request).await)
    }

    fn hold(&self, request: types::HoldRequest) -> Answer<'_, Lines<types::HoldEvent>> {
        answer!(self.0.hold_lines(request).await)
    }

    fn verify(&self, request: types::VerifyRequest) -> Answer<'_, Lines<types::VerifyEvent>> {
        answer!(Ok(self.0.verify_lines(request)))
    }

    fn accept(&self, request: types::AcceptRequest) -> Answer<'_, types::Done> {
        answer!(self.0.accept_anywhere(request).await)
    }

    fn accept_price(&self, request: types::AcceptPriceRequest) -> Answer<'_, types::AcceptPrice> {
        answer!(self.0.accept_price_anywhere(request).await)
    }

    fn adopt(&self, request: types::AdoptRequest) -> Answer<'_, types::Done> {
        answer!(self.0.adopt(request).await)
    }

    fn rescue_list(&self) -> Answer<'_, types::RescueList> {
        answer!(self.0.rescue().list().await)
    }

    fn rescue_show(
        &self,
        request: types::RescueShowRequest,
    ) -> Answer<'_, Lines<types::RescueItem>> {
        answer!(self.0.rescue().show(request).await)
    }

    fn rescue_file(&self, request: types::RescueFileRequest) -> Answer<'_, File> {
        answer!(self.0.rescue().file(request).await)
    }

    fn rescue_restore(
        &self,
        request: types::RestoreRequest,
    ) -> Answer<'_, Lines<types::RestoreEvent>> {
        answer!(self.0.rescue_restore(request).await)
    }

    fn trash_list(&self, request: types::TrashListRequest) -> Answer<'_, Lines<types::TrashEvent>> {
        answer!(self.0.trash().list(request).await)
    }

    fn trash_restore(
        &self,
        request: types::TrashRestoreRequest,
    ) -> Answer<'_, Lines<types::RestoreEvent>> {
        answer!(self.0.trash_restore(request).await)
    }

    fn trash_empty(&self, request: types::TrashEmptyRequest) -> Answer<'_, types::Done> {
        answer!(self.0.trash().empty(request).await)
    }

    fn rescue_drop(&self, request: types::RescueSelection) -> Answer<'_, types::Done> {
        answer!(self.0.rescue().drop(request).await)
    }

    fn maintenance(&self, request: types::MaintenanceRequest) -> Answer<'_, types::Done> {
        answer!(self.0.maintenance(request).await)
    }

    fn restart(&self) -> Answer<'_, types::Done> {
        answer!(self.0.restart().await)
    }

    fn reload(&self) -> Answer<'_, types::ReloadReport> {
        answer!(self.0.reload().await)
    }
}
