//! Signals, reload, restart and the end of the agent.

use super::backend::engine_error;
use super::{Daemon, execute, setup};
use crate::api::types::{ApiError, Done, ErrorCode, ReloadReport};
use crate::config::Loaded;
use crate::config::facts::{Applies, Facts};
use crate::link::message::OneWay;
use crate::services::Action;
use crate::systemd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tandem_failover::effect::ServiceCommand;
use tandem_failover::input::Command;
use tandem_failover::machine::Handover;
use tandem_failover::role::Phase;
use tandem_failover::time::Instant;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a stop takes beyond its move, hooks and services: threads that end, records that are written.
const STOP_SLACK: Duration = Duration::from_secs(30);

/// What the process does after the daemon has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum End {
    /// Exits.
    #[default]
    Exit,
    /// Executes the program file again, which may be a newer one, with the role that it had.
    Restart(Option<Handover>),
}

/// Reads the configuration anew from its file.
pub async fn load_again(loaded: &Loaded) -> Result<Loaded, ApiError> {
    let file = loaded.file.clone();
    tokio::task::spawn_blocking(move || crate::config::load(&file))
        .await
        .map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))?
        .map_err(|e| ApiError::new(ErrorCode::InvalidConfig, e.to_string()))
}

/// Has the agent end, and its process execute itself again.
pub fn end_in_restart(end: &Mutex<End>, stop: &CancellationToken) -> Result<Done, ApiError> {
    let program =
        execute::program().map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))?;
    *end.lock().unwrap_or_else(PoisonError::into_inner) = End::Restart(None);
    // The server writes the answer to this call before it ends.
    stop.cancel();
    Ok(Done {
        message: format!("the agent executes {} again", program.display()),
    })
}

impl Daemon {
    /// SIGTERM and SIGINT stop, SIGHUP reloads. Returns when the agent has nothing left to do.
    pub async fn follow_signals(self: Arc<Self>) -> std::io::Result<()> {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        loop {
            tokio::select! {
                _ = term.recv() => self.begin_stop("SIGTERM"),
                _ = int.recv() => self.begin_stop("SIGINT"),
                _ = hangup.recv() => {
                    if let Err(error) = self.reload().await {
                        tracing::warn!(error = %error, "reload refused");
                    }
                }
                () = self.stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Hands over if the standby is ready, else releases the addresses; each step is bounded by the machine. Asked again
    /// during a hand-over, it releases the addresses without waiting for the standby.
    fn begin_stop(self: &Arc<Self>, cause: &'static str) {
        tracing::info!(cause, "stopping");
        systemd::stopping();
        // With the time between the steps, and a move that is given up for a plain stop.
        let config = &self.config().config;
        let machine = setup::policy(config, self.own).stop_bound();
        let bound = machine.max(config.hand_over_bound() + config.pair.move_timeout) + STOP_SLACK;
        systemd::extend_timeout(bound);
        let daemon = self.clone();
        tokio::spawn(async move {
            daemon.wait_for_standby().await;
            // The end comes from the machine, with its last effect. Only if it does not answer, the agent ends by itself.
            match daemon.ask_machine_within(Command::Stop, bound).await {
                Ok(done) => tracing::info!(cause, done, "stop"),
                Err(error) if error.code == ErrorCode::Refused => {
                    tracing::info!(cause, why = error.message, "stop");
                }
                Err(error) => {
                    tracing::warn!(cause, error = %error, "stopped without the role machine");
                    daemon.stop.cancel();
                }
            }
        });
    }

    /// `tandem restart`: the process executes itself again; addresses and role stay.
    ///
    /// Refused where the new process could not go on: in the middle of a change of role, or with a configuration that
    /// the new process would refuse.
    pub async fn restart(&self) -> Result<Done, ApiError> {
        let phase = self.view().phase;
        let rests = matches!(phase, Phase::Joining | Phase::Standby | Phase::Master);
        if !rests || !self.roles.services().rest() {
            let text =
                format!("a change of role is under way ({phase}): try again when it is over");
            return Err(ApiError::new(ErrorCode::Busy, text));
        }
        let loaded = load_again(&self.config()).await?;
        if loaded.config.nodes[self.own].key != self.config().config.nodes[self.own].key {
            let text = "this node has another key in the configuration: stop and start the agent";
            return Err(ApiError::new(ErrorCode::Refused, text));
        }
        end_in_restart(&self.end, &self.stop)
    }

    /// How long the failover half may take to end. A restart does not wait for probes that are under way.
    pub fn time_to_end(&self) -> Duration {
        match *self.end.lock().unwrap_or_else(PoisonError::into_inner) {
            End::Restart(_) => Duration::from_millis(200),
            End::Exit => Duration::from_secs(10),
        }
    }

    /// What the process does when the daemon has ended. The failover loop was told to end at `at`.
    pub fn how_it_ends(&self, at: Instant) -> End {
        let end = *self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let view = self.view();
        let term = view.term;
        match end {
            End::Restart(_) if view.phase == Phase::Master => {
                End::Restart(Some(Handover { term, at }))
            }
            end => end,
        }
    }

    /// `tandem reload`: reads the configuration again and applies it whole, or not at all.
    pub async fn reload(&self) -> Result<ReloadReport, ApiError> {
        let _one = self.reloading.lock().await;
        systemd::reloading();
        let result = self.try_reload().await;
        systemd::ready();
        if let Ok(report) = &result {
            tracing::info!(
                changes = report.changes.len(),
                digest = report.digest,
                "reloaded"
            );
            self.journal.record("reload", report);
        }
        result
    }

    async fn try_reload(&self) -> Result<ReloadReport, ApiError> {
        let old = self.config();
        let loaded = load_again(&old).await?;
        let (before, after) = (Facts::of(&old.config), Facts::of(&loaded.config));
        let changes = before.changes_to(&after);
        let needs_restart: Vec<String> = changes
            .iter()
            .filter(|c| c.applies == Applies::AfterRestart)
            .map(|c| c.text.clone())
            .collect();
        let mut report = ReloadReport {
            changes: changes.iter().map(|c| c.text.clone()).collect(),
            needs_restart,
            digest: after.digest().to_string(),
            failed: Vec::new(),
        };
        if !report.needs_restart.is_empty() || changes.is_empty() {
            // Whole or not at all: nothing is applied when a part needs a restart.
            return Ok(report);
        }
        let config = &loaded.config;
        let setup = setup::driver(config, self.own);
        let trees = setup::trees(config, self.own, &loaded.file)
            .map_err(|e| ApiError::new(ErrorCode::InvalidConfig, e.to_string()))?;
        // First what can fail: then nothing was applied.
        let taken = self.engine.set_trees(trees.trees).await;
        taken.map_err(|e| engine_error(&e))?;
        let fed = self.data.feeds().configure(config);
        fed.map_err(|why| ApiError::new(ErrorCode::Internal, why))?;
        self.notifier.configure(config.mail.clone());
        let (services, hooks) = (config.services.clone(), config.hooks.clone());
        let message = OneWay::Config {
            digest: after.digest().0,
            matters: after.matters().0,
        };
        self.set_config(loaded);
        if self.reconfigure.send(setup).await.is_err() {
            return Err(ApiError::new(ErrorCode::Stopping, "the agent is stopping"));
        }
        let (action, role) = match self.view().phase {
            Phase::Master => (Some(Action::Start), ServiceCommand::Start),
            Phase::Standby => (Some(Action::Stop), ServiceCommand::Stop),
            // The change of role under way, or the next one, drives them.
            _ => (None, ServiceCommand::Stop),
        };
        let context = self.context(role);
        let failed = self
            .roles
            .reconfigure(services, hooks, action, &context)
            .await;
        report.failed.extend(failed);
        let rpc = self.rpc.borrow().clone();
        if let Some(rpc) = rpc {
            let _ = rpc.send(&message).await;
        }
        self.facts_changed();
        Ok(report)
    }
}
