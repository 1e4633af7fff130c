//! The benchmarks: Tandem, and rsync and lsyncd as Debian has them, side by side in one run. Two hosts in network
//! namespaces, each with a disk of its own, joined by virtual cables.
//!
//! Like the demo, the program is several programs: it is also the `tandem` that runs on the nodes, and both ends of the
//! bare link.

mod agents;
mod bare;
mod case;
mod data;
mod error;
mod lag;
mod loops;
mod measure;
mod peers;
mod place;
mod report;
mod scenes;
mod sever;
mod statistics;

use crate::signals;
use case::Case;
use clap::{Parser, Subcommand};
use error::BenchError;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Measures Tandem beside what it replaces.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Replication of directory trees, beside rsync and lsyncd
    Sync(SyncOptions),
}

/// What of the replication is measured, and how large.
#[derive(Debug, clap::Args)]
struct SyncOptions {
    /// Only this case; may be given several times [default: all]
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<Case>,
    /// Pairs of runs of each repeated case [default: 3; 1 for those that take minutes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: Option<u32>,
    /// Write the rows as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Files of the tree with many files, 100 in each directory
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    files: u64,
    /// Directory on a disk, in which the disks of both hosts are made [default: beside this program]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Source tree of the case `linux`: a directory, or an archive that `tar` reads [default: the newest
    /// /usr/src/linux-source-*.tar.xz]
    #[arg(long, value_name = "PATH")]
    linux: Option<PathBuf>,
    /// Seconds of the case `changes`
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Divide the sizes of large files by this, for a quick look
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    shrink: u64,
}

impl SyncOptions {
    fn wants(&self, case: Case) -> bool {
        self.cases.is_empty() || self.cases.contains(&case)
    }
}

/// The program's `main`. Exit code 0 when everything was measured, whether or not targets are met; 1 when a case
/// failed; 130 after Ctrl-C.
pub fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    match Path::new(&name).file_name().and_then(|n| n.to_str()) {
        Some("tandem") => return tandem::cli::main(std::env::args_os()),
        Some(bare::PART) => return bare::main(std::env::args().skip(1)),
        _ => {}
    }
    tandem_lab::at_start();
    let Options {
        what: What::Sync(options),
    } = Options::parse();
    signals::watch();
    match scenes::run(&options) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(BenchError::Interrupted(_)) => {
            eprintln!("Interrupted. Nothing was left behind.");
            ExitCode::from(130)
        }
        Err(e) => {
            eprintln!("bench: {e}");
            ExitCode::FAILURE
        }
    }
}
