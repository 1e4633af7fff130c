//! The command line. Each subcommand is a file; all of them know the agent only through [`crate::api::types`].

mod adopt;
mod agent;
mod check;
mod exit;
mod flush;
mod generate;
mod hold;
mod init;
mod is;
mod keygen;
mod maintenance;
mod moves;
mod output;
mod release;
mod reload;
mod render;
mod rescue;
mod status;
mod takeover;
mod text;
mod trash;
mod tree;
mod verify;

pub use exit::Exit;

use crate::api::client::Client;
use crate::config;
use clap::{Args, CommandFactory, Parser, Subcommand};
use exit::Failure;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// The page of a status, as `tandem status` shows it.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz_status(report: &crate::api::types::StatusReport) -> String {
    render::status(report, 1_800_000_000_000, text::Style { on: false })
}

/// The whole command line, for `tandem`, its manual and its completions.
#[derive(Debug, Parser)]
#[command(
    name = "tandem",
    version,
    about = "Keeps two Linux machines as one service: replication and failover",
    after_help = exit::HELP,
    propagate_version = true,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every subcommand takes.
#[derive(Debug, Clone, Args)]
struct Global {
    /// The configuration
    #[arg(long, global = true, value_name = "FILE", default_value = config::DEFAULT_FILE)]
    config: PathBuf,
    /// The agent's socket [default: what the configuration says]
    #[arg(long, global = true, value_name = "FILE")]
    socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show roles, links, trees, and whether the standby could take over now
    Status(status::Args),
    /// Give the pair its first direction, once: this node has the data
    Init(init::Args),
    /// Move the master role to the preferred node
    Failback(moves::Args),
    /// Move the master role to the other node
    Switchover(moves::Args),
    /// Show what becoming master by force would cost now, and do it
    Takeover(takeover::Args),
    /// Answer by exit code whether this node has a role, for cron and scripts
    Is(is::Args),
    /// Wait until all that was written before this call is durable on the other side
    Flush(flush::Args),
    /// Run a command, for example a backup, while nothing is applied to the trees
    Hold(hold::Args),
    /// Compare the contents of both sides
    Verify(verify::Args),
    /// Act on one tree
    #[command(subcommand)]
    Tree(tree::Command),
    /// Give up this node's own lineage and receive what the other node has
    Adopt(adopt::Args),
    /// What was put aside before it was overwritten
    #[command(subcommand)]
    Rescue(rescue::Command),
    /// What the master deleted and this node keeps for a while (deletes = "trash")
    #[command(subcommand)]
    Trash(trash::Command),
    /// Switch automatic moves off and on
    #[command(subcommand)]
    Maintenance(maintenance::Command),
    /// Make this node's key and print the line for the configuration
    Keygen(keygen::Args),
    /// Report every error of the configuration at once
    Check,
    /// Run the agent in the foreground
    Agent,
    /// Execute the agent again, for an upgrade; it keeps role and addresses
    Restart,
    /// Apply a changed configuration, whole or not at all
    Reload,
    /// Remove the floating addresses of a node whose agent has ended
    #[command(hide = true)]
    Release,
    /// Write manual pages, completions, the reference of the configuration
    #[command(hide = true)]
    Generate(generate::Args),
}

/// What a subcommand needs of its surroundings.
#[derive(Debug, Clone)]
struct Context {
    config: PathBuf,
    socket: Option<PathBuf>,
}

impl Context {
    /// A client of the agent of this machine.
    fn client(&self) -> Client {
        Client::new(self.socket())
    }

    /// The socket of the command line, else of the configuration, else the default. A configuration with errors does
    /// not keep anybody from asking the agent that runs.
    fn socket(&self) -> PathBuf {
        if let Some(socket) = &self.socket {
            return socket.clone();
        }
        match config::load(&self.config) {
            Ok(loaded) => loaded.config.agent.socket,
            Err(_) => PathBuf::from(config::DEFAULT_SOCKET),
        }
    }
}

type Outcome = Result<Exit, Failure>;

/// Runs the command line `args`, the program's name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are "errors" with code 0; real ones have 2. Nobody can be told of a closed output.
            let _ = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    let context = Context {
        config: cli.global.config,
        socket: cli.global.socket,
    };
    match run(cli.command, &context) {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report().into(),
    }
}

fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Agent => agent::run(context),
        Command::Release => release::run(context),
        Command::Keygen(args) => keygen::run(args, context),
        Command::Generate(args) => generate::run(args, Cli::command()),
        Command::Check => check::run(context),
        other => on_runtime(ask(other, context)),
    }
}

/// Carries out the commands that ask the agent. One thread is enough, and `hold` needs its command to be started by
/// the main thread.
fn on_runtime(work: impl Future<Output = Outcome>) -> Outcome {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Io)?
        .block_on(work)
}

async fn ask(command: Command, context: &Context) -> Outcome {
    let client = context.client();
    match command {
        Command::Status(args) => status::run(args, &client).await,
        Command::Init(args) => init::run(args, &client).await,
        Command::Failback(args) => moves::run(args, moves::Move::Failback, &client).await,
        Command::Switchover(args) => moves::run(args, moves::Move::Switchover, &client).await,
        Command::Takeover(args) => takeover::run(args, &client).await,
        Command::Is(args) => is::run(args, &client).await,
        Command::Flush(args) => flush::run(args, &client).await,
        Command::Hold(args) => hold::run(args, &client).await,
        Command::Verify(args) => verify::run(args, &client).await,
        Command::Tree(command) => tree::run(command, &client).await,
        Command::Adopt(args) => adopt::run(args, &client).await,
        Command::Rescue(command) => rescue::run(command, &client).await,
        Command::Trash(command) => trash::run(command, &client).await,
        Command::Maintenance(command) => maintenance::run(command, &client).await,
        Command::Restart => reload::restart(&client).await,
        Command::Reload => reload::reload(&client).await,
        Command::Agent
        | Command::Release
        | Command::Keygen(_)
        | Command::Generate(_)
        | Command::Check => {
            unreachable!("carried out by `run`, which calls this for the others")
        }
    }
}

/// Reads a duration of the command line.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    config::parse_duration(text).map_err(|why| format!("{why}; for example 500ms, 60s, 10m, 1h"))
}

/// Reads a rate of the command line.
fn rate(text: &str) -> Result<std::num::NonZeroU64, String> {
    config::rate::parse_rate(text).map_err(|why| format!("{why}; for example 50MB/s"))
}

/// A duration as the API has it.
fn to_ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
