//! Services, hooks and what became of them.

use super::status::ServiceState;
use crate::config::types::{Hook, Service};
use crate::hooks::Context;
use crate::services::{Action, RoleReport, Services};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tandem_failover::effect::ServiceCommand;

/// Drives the services and remembers the last result of each.
pub struct Roles {
    services: Services,
    last: Mutex<BTreeMap<String, ServiceState>>,
    /// What failed of the hooks of the last change of role.
    failed_hooks: Mutex<Vec<String>>,
}

impl Roles {
    /// Nothing is started by this.
    pub fn new(services: Services) -> Self {
        Self {
            services,
            last: Mutex::default(),
            failed_hooks: Mutex::default(),
        }
    }

    /// The services themselves, to take a new configuration.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// Takes a new configuration; see [`Services::reconfigure`]. Gives what failed.
    pub async fn reconfigure(
        &self,
        services: Vec<Service>,
        hooks: Vec<Hook>,
        action: Option<Action>,
        context: &Context,
    ) -> Option<String> {
        let report = self
            .services
            .reconfigure(services, hooks, action, context)
            .await;
        self.remember(&report);
        report.result().err()
    }

    /// Carries out a command of the role machine. Bounds are those of [`Services::carry_out`].
    pub async fn carry_out(
        &self,
        command: ServiceCommand,
        context: &Context,
    ) -> Result<(), String> {
        let report = self.services.carry_out(command, context).await;
        self.remember(&report);
        report.result()
    }

    /// One state per configured service.
    pub fn states(&self, services: &[Service]) -> Vec<ServiceState> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        services
            .iter()
            .map(|service| {
                last.get(&service.name).cloned().unwrap_or(ServiceState {
                    state: "unknown".to_owned(),
                    ..ServiceState::default()
                })
            })
            .collect()
    }

    /// What failed of the hooks of the last change of role, one sentence each.
    pub fn failed_hooks(&self) -> Vec<String> {
        let failed = self.failed_hooks.lock();
        failed.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, report: &RoleReport) {
        let failed = report
            .hooks
            .iter()
            .filter_map(|hook| hook.outcome.as_ref().err());
        let failed =
            failed.map(|error| format!("a hook failed at the last change of role: {error}"));
        *self
            .failed_hooks
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = failed.collect();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        for done in &report.services {
            let (state, last_error) = match (&done.outcome, done.action) {
                (Ok(_), Action::Start) => ("started", None),
                (Ok(_), Action::Stop) => ("stopped", None),
                (Err(error), _) => ("failed", Some(error.to_string())),
            };
            let state = ServiceState {
                state: state.to_owned(),
                since_unix_ms: Some(unix_ms()),
                last_error,
            };
            last.insert(done.name.clone(), state);
        }
    }
}

/// Milliseconds since 1970; zero when the clock is before that.
pub fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, super::status::millis)
}
