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
mod limits;
mod network;
mod nodes;
mod quantity;
pub mod rate;
mod replicas;
mod section;
mod time;
mod trees;
mod value;
mod watching;

pub use problem::{Problem, Problems};
pub use time::{format_duration, parse_duration};

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use types::{Config, HookEvent, PublicKey};

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
    // Without O_NONBLOCK a fifo in its place would stop whoever reads it.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(file)
        .map_err(read)?;
    if !opened.metadata().map_err(read)?.is_file() {
        return Err(read(io::Error::other("it is not a regular file")));
    }
    let mut bytes = Vec::new();
    opened
        .take(FILE_BOUND + 1)
        .read_to_end(&mut bytes)
        .map_err(read)?;
    if bytes.len() as u64 > FILE_BOUND {
        return Err(read(io::Error::other("it is larger than 1 MiB")));
    }
    let text = String::from_utf8(bytes)
        .map_err(|e| LoadError::Invalid(not_utf8(file, e.as_bytes(), &e.utf8_error())))?;
    parse(file, &text).map_err(LoadError::Invalid)
}

/// Points at the first byte that is no UTF-8. Nothing else can be said of such a text.
fn not_utf8(file: &Path, bytes: &[u8], error: &std::str::Utf8Error) -> Problems {
    let at = error.valid_up_to();
    // The valid part is the same in both, and the mark that replaces the first wrong byte has three bytes.
    let text = String::from_utf8_lossy(bytes);
    let byte = bytes.get(at).copied().unwrap_or_default();
    let problem = Problem::new(at..at + 3, format!("not UTF-8: the byte 0x{byte:02x}"));
    let problem = problem.hint("save the file in the encoding UTF-8");
    Problems::new(file, &text, "error", vec![problem])
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

/// One of the configured machines, by its index there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// A node of the pair.
    Node(usize),
    /// A replica.
    Replica(usize),
}

impl Config {
    /// The longest that a hand-over at SIGTERM may take by its own bounds: the planned move, and what runs before and
    /// after it, one after the other.
    pub fn hand_over_bound(&self) -> Duration {
        let hooks = self.hooks.iter().filter(|h| h.on != HookEvent::Master);
        let hooks: Duration = hooks.map(|h| h.timeout).sum();
        let services: Duration = self.services.iter().map(|s| s.timeout).sum();
        self.pair.move_timeout + hooks + services
    }

    /// Which of the configured machines has this key.
    pub fn who(&self, key: &PublicKey) -> Option<Who> {
        let node = self.nodes.iter().position(|n| n.key == *key);
        let replica = || self.replicas.iter().position(|r| r.key == *key);
        node.map(Who::Node).or_else(|| replica().map(Who::Replica))
    }

    /// The names of all nodes and replicas.
    pub fn machines(&self) -> Vec<&str> {
        let nodes = self.nodes.iter().map(|n| n.name.as_str());
        let replicas = self.replicas.iter().map(|r| r.name.as_str());
        nodes.chain(replicas).collect()
    }
}

#[cfg(test)]
mod tests;
