//! The configuration: one TOML file, the same on both nodes.
//!
//! [`parse`] reports every problem of a text at once, each with its place. [`facts`] compares configurations:
//! digests between the nodes, differences for a reload. [`schema`] lists every key.

pub mod facts;
pub mod own;
pub mod problem;
pub mod reference;
pub mod schema;
pub mod types;

mod actions;
mod decode;
mod network;
mod nodes;
mod section;
mod time;
mod trees;
mod value;
mod watching;

pub use problem::{Problem, Problems};
pub use time::{format_duration, parse_duration};

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use types::{Config, Node, PublicKey};

/// Where the configuration is unless the command line says otherwise.
pub const DEFAULT_FILE: &str = "/etc/tandem/tandem.toml";

/// Where the key is unless the configuration says otherwise.
pub const DEFAULT_KEY: &str = "/etc/tandem/key";

/// Where the API listens unless the configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/tandem/tandem.sock";

/// Largest file that is read: the limits on trees and the rest allow far less.
const FILE_BOUND: u64 = 1 << 20;

/// A valid configuration, and what is doubtful in it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The file it came from.
    pub file: PathBuf,
    /// What it says.
    pub config: Config,
    /// What is allowed and probably not meant.
    pub warnings: Problems,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It has errors.
    #[error("{0}")]
    Invalid(Problems),
}

/// Reads and checks a file. Blocks on the disk.
pub fn load(file: &Path) -> Result<Loaded, LoadError> {
    let read = |source| LoadError::Read {
        file: file.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .and_then(|f| f.take(FILE_BOUND + 1).read_to_end(&mut bytes))
        .map_err(read)?;
    if bytes.len() as u64 > FILE_BOUND {
        return Err(read(io::Error::other("it is larger than 1 MiB")));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let line = e.as_bytes()[..e.utf8_error().valid_up_to()]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        read(io::Error::other(format!("line {} is not UTF-8", line + 1)))
    })?;
    parse(file, &text).map_err(LoadError::Invalid)
}

/// Checks a text; `file` is its name in messages.
pub fn parse(file: &Path, text: &str) -> Result<Loaded, Problems> {
    let mut notes = decode::Notes::default();
    let config = decode::decode(text, &mut notes);
    match config {
        Some(config) if notes.errors.is_empty() => Ok(Loaded {
            file: file.to_owned(),
            config,
            warnings: Problems::new(file, text, "warning", notes.warnings),
        }),
        _ => Err(Problems::new(file, text, "error", notes.errors)),
    }
}

impl Config {
    /// This node and its peer, by this node's key. `None`: the key is of neither node.
    pub fn sides(&self, key: &PublicKey) -> Option<(&Node, &Node)> {
        let [first, second] = &self.nodes;
        if first.key == *key {
            Some((first, second))
        } else if second.key == *key {
            Some((second, first))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests;
