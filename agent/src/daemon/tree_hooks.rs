//! The commands around a consistent set of a tree, run as every other command of the agent is.

use super::Daemon;
use crate::hooks::{self, Context};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tandem_sync::engine::FreezeHooks;
use tokio::runtime::Handle;

/// Runs them on the agent's runtime, for the thread of the engine that waits.
pub struct TreeHooks {
    /// The engine, which has this, belongs to the daemon.
    daemon: Weak<Daemon>,
    runtime: Handle,
}

impl TreeHooks {
    /// For the trees of this daemon.
    pub fn new(daemon: &Arc<Daemon>, runtime: Handle) -> Self {
        Self {
            daemon: Arc::downgrade(daemon),
            runtime,
        }
    }
}

impl FreezeHooks for TreeHooks {
    fn run(
        &self,
        tree: &str,
        event: &'static str,
        argv: &[String],
        timeout: Duration,
    ) -> Result<(), String> {
        let daemon = self.daemon.upgrade().ok_or("the agent ends")?;
        let context = Context {
            event,
            cause: format!("a consistent set of the tree {tree}"),
            ..daemon.moment()
        };
        // What lets a tree go on is wanted also while the agent ends.
        let wanted = tokio_util::sync::CancellationToken::new();
        let run = hooks::run(argv, &context, timeout, &wanted);
        let done = self.runtime.block_on(run);
        done.map(drop).map_err(|error| error.to_string())
    }
}
