//! What can go wrong in the lab.

use std::io;

/// An error of the lab, with what was being done.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// This process may not make namespaces. The text is a sentence for the user.
    #[error("{0}")]
    NotPrivileged(String),
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel refused a network change.
    #[error("{what}: {source}")]
    Netlink {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: rtnetlink::Error,
    },
    /// The host did not come up; its first process said why.
    #[error("host {host} did not boot: {why}")]
    Boot {
        /// The host.
        host: String,
        /// What its first process said.
        why: String,
    },
    /// A guest kernel could not be used; the text says why.
    #[error("{0}")]
    Guest(String),
    /// The host is switched off.
    #[error("host {0} is off")]
    Off(String),
}

impl LabError {
    /// Adds what was being done to a system error.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// The same for an error of `nix`.
    pub(crate) fn os(what: impl Into<String>) -> impl FnOnce(nix::Error) -> Self {
        let what = what.into();
        move |errno| Self::Io {
            what,
            source: errno.into(),
        }
    }
}
