//! The roles that a node can have.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a node is to the pair, as operators see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Started, and not yet agreed with the peer who is master.
    Joining,
    /// Receives the data and watches the master.
    Standby,
    /// Holds the floating IPs and is the source of the data.
    Master,
    /// Follows, but could not serve: its own public network or services fail.
    Fault,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Joining => "joining",
            Self::Standby => "standby",
            Self::Master => "master",
            Self::Fault => "fault",
        })
    }
}
