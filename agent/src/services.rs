//! Services that follow the role.
//!
//! Becoming master starts the services in the order of the configuration, then runs the `master` hooks. Losing
//! the role stops them in reverse order, then runs the `standby` hooks. A service that fails does not keep the
//! others from being started or stopped. The next role change ends what is still running of the one before.

use crate::config::types::{Hook, HookEvent, Service, ServiceControl};
use crate::hooks::{Context, HookResult, Report, RunError, run, run_hooks};
use std::sync::{Mutex as SyncMutex, PoisonError};
use std::time::Duration;
use tandem_failover::effect::ServiceCommand;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// systemd answers from its memory; where it hangs, the stop itself finds out.
const ASK_SYSTEMD: Duration = Duration::from_secs(5);

/// Start or stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start.
    Start,
    /// Stop.
    Stop,
}

/// What became of one service.
#[derive(Debug)]
pub struct ServiceResult {
    /// Its name.
    pub name: String,
    /// What was asked.
    pub action: Action,
    /// What happened.
    pub outcome: Result<Report, RunError>,
}

/// What became of one command of the role machine.
#[derive(Debug, Default)]
pub struct RoleReport {
    /// Services in the order in which they were driven.
    pub services: Vec<ServiceResult>,
    /// Hooks in the order in which they ran.
    pub hooks: Vec<HookResult>,
    /// A later role change ended it early; the rest was not done.
    pub obsolete: bool,
}

impl RoleReport {
    /// `Ok` if everything was done and succeeded, else one line with every failure.
    pub fn result(&self) -> Result<(), String> {
        let mut failures: Vec<String> = Vec::new();
        for service in &self.services {
            if let Err(error) = &service.outcome {
                failures.push(format!("service {}: {error}", service.name));
            }
        }
        for hook in &self.hooks {
            if let Err(error) = &hook.outcome {
                failures.push(format!("hook {error}"));
            }
        }
        if self.obsolete {
            failures.push("ended early by the next role change".to_owned());
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(failures.join("; "))
        }
    }
}

/// Drives the services and hooks of this node, one role change at a time.
#[derive(Debug)]
pub struct Services {
    config: SyncMutex<(Vec<Service>, Vec<Hook>)>,
    /// Ends the command that runs now.
    current: SyncMutex<CancellationToken>,
    /// Held while a command is carried out.
    turn: Mutex<()>,
}

impl Services {
    /// Nothing is started or stopped by this.
    pub fn new(services: Vec<Service>, hooks: Vec<Hook>) -> Self {
        Self {
            config: SyncMutex::new((services, hooks)),
            current: SyncMutex::new(CancellationToken::new()),
            turn: Mutex::new(()),
        }
    }

    /// Takes a new configuration, and brings what it adds to where the role has the others: `action`, or nothing where
    /// the role is none or changes. A service that is started and stopped in another way counts as added, and its old
    /// way is stopped first. A service that is no longer named is none of Tandem's any more: it is left as it is.
    ///
    /// Waits for a role change under way, and is ended by the next one, which finds the new configuration. Bounded by the
    /// timeouts of the services concerned. Dropping the future may leave an added service as it was.
    pub async fn reconfigure(
        &self,
        services: Vec<Service>,
        hooks: Vec<Hook>,
        action: Option<Action>,
        context: &Context,
    ) -> RoleReport {
        let cancel = self.next(false);
        let new = services.clone();
        let old = std::mem::replace(
            &mut *self.config.lock().unwrap_or_else(PoisonError::into_inner),
            (services, hooks),
        );
        let mut report = RoleReport::default();
        let Some(action) = action else { return report };
        let _turn = self.turn.lock().await;
        let in_both = |list: &[Service], one: &Service| {
            list.iter()
                .any(|s| s.name == one.name && s.control == one.control)
        };
        let changed = old
            .0
            .iter()
            .rev()
            .filter(|old| !in_both(&new, old) && new.iter().any(|new| new.name == old.name));
        drive(changed, Action::Stop, context, &cancel, &mut report).await;
        let added = new.iter().filter(|new| !in_both(&old.0, new));
        match action {
            Action::Start => drive(added, action, context, &cancel, &mut report).await,
            Action::Stop => drive(added.rev(), action, context, &cancel, &mut report).await,
        }
        report.obsolete = cancel.is_cancelled();
        report
    }

    /// Carries out a command of the role machine.
    ///
    /// Ends what is obsolete first: a start or stop ends everything that runs, a thaw ends a freeze, a freeze
    /// waits. Bounded by the sum of the timeouts of the services and hooks concerned. Dropping the future kills
    /// the process group that runs at that moment.
    pub async fn carry_out(&self, command: ServiceCommand, context: &Context) -> RoleReport {
        let cancel = self.next(command != ServiceCommand::Freeze);
        let _turn = self.turn.lock().await;
        let (services, hooks) = self
            .config
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut report = RoleReport::default();
        let event = match command {
            ServiceCommand::Start => {
                drive(
                    services.iter(),
                    Action::Start,
                    context,
                    &cancel,
                    &mut report,
                )
                .await;
                HookEvent::Master
            }
            ServiceCommand::Stop => {
                let reverse = services.iter().rev();
                drive(reverse, Action::Stop, context, &cancel, &mut report).await;
                HookEvent::Standby
            }
            ServiceCommand::Freeze => HookEvent::Freeze,
            ServiceCommand::Thaw => HookEvent::Thaw,
        };
        report.hooks = run_hooks(&hooks, event, context, &cancel).await;
        report.obsolete = cancel.is_cancelled();
        report
    }

    /// Nothing is being started, stopped, frozen or thawed at this moment.
    pub fn rest(&self) -> bool {
        self.turn.try_lock().is_ok()
    }

    fn next(&self, ends_current: bool) -> CancellationToken {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if ends_current {
            current.cancel();
            *current = CancellationToken::new();
        }
        current.clone()
    }
}

async fn drive<'a>(
    services: impl Iterator<Item = &'a Service>,
    action: Action,
    context: &Context,
    cancel: &CancellationToken,
    report: &mut RoleReport,
) {
    for service in services {
        if cancel.is_cancelled() {
            return;
        }
        let mut argv = argv_of(&service.control, action);
        if let (ServiceControl::Unit(unit), Action::Stop) = (&service.control, action)
            && job_waits(unit, context, cancel).await
        {
            // systemd.unit(5): at a shutdown the unit's own stop waits for the agent, which is ordered after it. A stop
            // that waited for that order would wait for ever.
            argv.insert(2, "--job-mode=ignore-dependencies".to_owned());
        }
        let outcome = run(&argv, context, service.timeout, cancel).await;
        match &outcome {
            Ok(done) => tracing::info!(
                service = service.name, action = ?action, took_ms = done.took.as_millis() as u64,
                "service done"
            ),
            Err(error) => tracing::warn!(
                service = service.name, action = ?action, error = %error, "service failed"
            ),
        }
        report.services.push(ServiceResult {
            name: service.name.clone(),
            action,
            outcome,
        });
    }
}

/// Whether systemd has a job for the unit already: then both stop together, as at a shutdown. Where that cannot be
/// asked, there is none.
async fn job_waits(unit: &str, context: &Context, cancel: &CancellationToken) -> bool {
    let argv = ["systemctl", "show", "--property=Job", "--value", "--", unit].map(str::to_owned);
    let shown = run(&argv, context, ASK_SYSTEMD, cancel).await;
    shown.is_ok_and(|report| names_a_job(&report.output))
}

/// `systemctl show --property=Job --value` prints the number of a job, or nothing.
fn names_a_job(output: &str) -> bool {
    output.trim().parse::<u32>().is_ok_and(|job| job > 0)
}

fn argv_of(control: &ServiceControl, action: Action) -> Vec<String> {
    match (control, action) {
        (ServiceControl::Unit(unit), action) => {
            let verb = match action {
                Action::Start => "start",
                Action::Stop => "stop",
            };
            ["systemctl", verb, "--", unit].map(str::to_owned).to_vec()
        }
        (ServiceControl::Argv { start, .. }, Action::Start) => start.clone(),
        (ServiceControl::Argv { stop, .. }, Action::Stop) => stop.clone(),
    }
}

#[cfg(test)]
mod tests;
