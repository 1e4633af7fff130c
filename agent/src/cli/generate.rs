//! `tandem generate`: what is made from the definitions of the command line and the configuration.

use super::exit::Failure;
use super::{Exit, Outcome, output};
use crate::config::reference;
use clap_complete::Shell;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What
    #[arg(value_enum)]
    what: What,
    /// Where: a directory for man and completions, a file for the others [default: standard output for these]
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum What {
    /// Manual pages, one for each subcommand
    Man,
    /// Completions for bash, zsh, fish
    Completions,
    /// etc/reference.toml
    Reference,
    /// The tables of docs/configuration.md
    Tables,
}

pub(super) fn run(args: Args, command: clap::Command) -> Outcome {
    let directory = || {
        let out = args.out.as_deref();
        out.ok_or_else(|| Failure::Other(Exit::Usage, "this needs --out DIR".to_owned()))
    };
    match args.what {
        What::Man => man(command, directory()?)?,
        What::Completions => completions(command, directory()?)?,
        What::Reference => text(&reference::toml(), args.out.as_deref())?,
        What::Tables => text(&reference::markdown(), args.out.as_deref())?,
    }
    Ok(Exit::Success)
}

fn text(text: &str, out: Option<&Path>) -> Result<(), Failure> {
    match out {
        Some(file) => std::fs::write(file, text).map_err(Failure::Io),
        None => output::raw(text),
    }
}

/// `tandem.1`, `tandem-status.1`, `tandem-rescue-list.1` and so on.
pub(super) fn man(command: clap::Command, directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(command.disable_help_subcommand(true), directory)
}

/// One file for each shell, under the name that the shell looks for.
pub(super) fn completions(mut command: clap::Command, directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "tandem", directory)?;
    }
    Ok(())
}
