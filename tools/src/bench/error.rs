//! Why something was not measured.

use crate::signals::Interrupted;
use std::io;

/// Why something was not measured.
#[derive(Debug, thiserror::Error)]
pub(super) enum BenchError {
    /// The laboratory failed.
    #[error(transparent)]
    Lab(#[from] tandem_lab::LabError),
    /// An agent did not answer.
    #[error(transparent)]
    Agent(#[from] tandem::api::client::ClientError),
    /// Something was not as it has to be.
    #[error("{0}")]
    Broken(String),
    /// A file operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Ctrl-C or SIGTERM.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl BenchError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
