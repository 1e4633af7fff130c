//! Commands at a role change: hooks, and the argument vectors of services and command monitors.
//!
//! A command is an argument vector; no shell takes part. It gets the environment listed at [`Context`] and
//! nothing of the agent's own, no descriptor of the agent, its own process group, `/` as working directory and
//! an empty standard input. It is bounded in time: at its timeout the group gets SIGTERM, and SIGKILL
//! [`TERM_GRACE`] later. Of its output (both streams together) the last [`OUTPUT_KEPT`] bytes are kept.
//!
//! A command that starts a daemon should redirect the daemon's output: the pipe is closed [`OUTPUT_GRACE`]
//! after the command itself has ended.

pub mod run;
pub mod trust;

use crate::config::types::{Hook, HookEvent};
use std::time::Duration;
use tandem_failover::role::Role;
use tokio_util::sync::CancellationToken;

pub use run::{Report, RunError, run};

/// Time between SIGTERM and SIGKILL.
pub const TERM_GRACE: Duration = Duration::from_secs(2);
/// How much of a command's output is kept: enough for an error message with its surroundings.
pub const OUTPUT_KEPT: usize = 8 * 1024;
/// How long the output is still read after the command has ended while a process it left behind holds the pipe.
pub const OUTPUT_GRACE: Duration = Duration::from_millis(200);
/// `PATH` of every command, and where a program without a slash is looked up.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a command is told about the moment, as environment variables.
///
/// Besides these there are `PATH` ([`SEARCH_PATH`]), `LANG=C.UTF-8` and `HOME=/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// `TANDEM_PAIR`: name of the pair.
    pub pair: String,
    /// `TANDEM_NODE`: name of this node.
    pub node: String,
    /// `TANDEM_ROLE`: `master`, `standby`, `joining` or `fault`, the role that this node has now.
    pub role: Role,
    /// `TANDEM_TERM`: the term, decimal.
    pub term: u64,
    /// `TANDEM_EVENT`: `master`, `standby`, `freeze` or `thaw`, what the command is run for.
    pub event: &'static str,
    /// `TANDEM_CAUSE`: the decision behind it, one sentence for people.
    pub cause: String,
    /// `TANDEM_LAG_MS`: lag of the data in milliseconds, empty if unknown.
    pub lag: Option<Duration>,
}

impl Context {
    /// The variables in a fixed order.
    pub fn variables(&self) -> [(&'static str, String); 7] {
        [
            ("TANDEM_PAIR", self.pair.clone()),
            ("TANDEM_NODE", self.node.clone()),
            ("TANDEM_ROLE", self.role.to_string()),
            ("TANDEM_TERM", self.term.to_string()),
            ("TANDEM_EVENT", self.event.to_owned()),
            ("TANDEM_CAUSE", self.cause.clone()),
            (
                "TANDEM_LAG_MS",
                self.lag
                    .map(|lag| lag.as_millis().to_string())
                    .unwrap_or_default(),
            ),
        ]
    }
}

/// What became of one hook.
#[derive(Debug)]
pub struct HookResult {
    /// Its argument vector.
    pub argv: Vec<String>,
    /// What happened.
    pub outcome: Result<Report, RunError>,
}

/// Runs the hooks of one event in the order of the configuration, one after the other.
///
/// A hook that fails does not keep the others from running. After `cancel` no further hook is started and the
/// running one is ended; those that did not run are not in the result. Each hook is bounded by its own timeout
/// plus [`TERM_GRACE`]. Dropping the future kills the running command's process group.
pub async fn run_hooks(
    hooks: &[Hook],
    event: HookEvent,
    context: &Context,
    cancel: &CancellationToken,
) -> Vec<HookResult> {
    let mut results = Vec::new();
    for hook in hooks.iter().filter(|hook| hook.on == event) {
        if cancel.is_cancelled() {
            break;
        }
        let outcome = run(&hook.argv, context, hook.timeout, cancel).await;
        match &outcome {
            Ok(report) => tracing::info!(
                argv = ?hook.argv, event = ?event, took_ms = report.took.as_millis() as u64, "hook done"
            ),
            Err(error) => {
                tracing::warn!(argv = ?hook.argv, event = ?event, error = %error, "hook failed");
            }
        }
        results.push(HookResult {
            argv: hook.argv.clone(),
            outcome,
        });
    }
    results
}

#[cfg(test)]
mod tests;
