//! The demo: two nodes and a client in private network namespaces play the whole story, with real data, and
//! every step is measured and checked.
//!
//! The program is several programs: it is also the `tandem` that runs on the nodes, their web servers and
//! their first processes. So one build is enough.

mod comparison;
mod copy;
mod place;
mod stage;
mod steps;
mod story;
mod watch;

use crate::signals::{self, Interrupted};
use clap::Parser;
use stage::Stage;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Names (files, directories, links) in the private copy without `--full`.
const MAX_FILES: u64 = 60_000;
/// Bytes of the private copy without `--full`.
const MAX_BYTES: u64 = 500_000_000;

/// Plays the story of a Tandem pair on this machine: first copy, power cut, takeover, return, fail-back.
#[derive(Debug, Parser)]
#[command(name = "demo", version)]
struct Options {
    /// Directory whose private copy is the data of the pair. It is only read.
    #[arg(long, value_name = "DIR", default_value = "/usr/share")]
    tree: PathBuf,
    /// Take all of it, not only 500 MB or 60000 files.
    #[arg(long)]
    full: bool,
}

/// Why the demo did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// The laboratory failed.
    #[error(transparent)]
    Lab(#[from] tandem_lab::LabError),
    /// Something was not as it has to be.
    #[error("{0}")]
    Broken(String),
    /// A file operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Ctrl-C or SIGTERM.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl DemoError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// The demo's `main`. Exit code 0 only if every step held; 130 after Ctrl-C.
pub fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    if Path::new(&name).file_name().is_some_and(|n| n == "tandem") {
        return tandem::cli::main(std::env::args_os());
    }
    tandem_lab::at_start();
    let options = Options::parse();
    signals::watch();
    let mut stage = Stage::new();
    match story::play(&options, &mut stage) {
        Ok(()) => ExitCode::SUCCESS,
        Err(DemoError::Interrupted(_)) => {
            stage.note("\nInterrupted. Nothing was left behind.");
            ExitCode::from(130)
        }
        Err(e) => {
            stage.failed(&e.to_string());
            ExitCode::FAILURE
        }
    }
}
