//! The cases by name.

use clap::ValueEnum;
use clap::builder::PossibleValue;

/// A case. Several are played in one scene, with the same data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    /// First copy of the Linux source tree.
    Linux,
    /// First copy of many small files.
    Small,
    /// The agent restarted, nothing changed.
    Restart,
    /// The data connection broken and made again.
    Reconnect,
    /// Lag of 100 changes each second.
    Changes,
    /// Memory of the agents.
    Memory,
    /// A large file with small edits.
    Edits,
    /// A log that grows.
    Log,
    /// One large file that the other side knows nothing of.
    Huge,
    /// A directory with many files renamed.
    Rename,
    /// Lag of one change in trees of growing size.
    Flat,
}

impl Case {
    /// Its name on the command line and in the output.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Small => "small",
            Self::Restart => "restart",
            Self::Reconnect => "reconnect",
            Self::Changes => "changes",
            Self::Memory => "memory",
            Self::Edits => "edits",
            Self::Log => "log",
            Self::Huge => "huge",
            Self::Rename => "rename",
            Self::Flat => "flat",
        }
    }
}

impl ValueEnum for Case {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::Linux,
            Self::Small,
            Self::Restart,
            Self::Reconnect,
            Self::Changes,
            Self::Memory,
            Self::Edits,
            Self::Log,
            Self::Huge,
            Self::Rename,
            Self::Flat,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}
