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
    let mut command = command.disable_help_subcommand(true);
    command.build();
    man_pages(&command, true, directory)
}

fn man_pages(command: &clap::Command, top: bool, directory: &Path) -> io::Result<()> {
    let mut below = 0;
    for command in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        man_pages(command, false, directory)?;
        below += 1;
    }
    let name = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name());
    let version = env!("CARGO_PKG_VERSION");
    let man = clap_mangen::Man::new(command.clone())
        .title(name.to_uppercase())
        .source(format!("tandem {version}"))
        .manual("Tandem");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if below > 0 {
        man.render_subcommands_section(&mut page)?;
    }
    page.extend(status_section(command, top).into_bytes());
    page.extend(if top { SURROUNDINGS } else { SEE_ALSO }.bytes());
    std::fs::write(directory.join(format!("{name}.1")), page)
}

/// Files and variables, for tandem(1).
const SURROUNDINGS: &str = r"
.SH FILES
.TP
/etc/tandem/tandem.toml
The configuration, the same on both nodes.
.TP
/etc/tandem/key
The private key of this node.
.TP
/run/tandem/tandem.sock
The agent\(aqs socket, for root.
.TP
/var/lib/tandem/events.jsonl
Every decision with what was known, one JSON object a line.
.SH ENVIRONMENT
.TP
TANDEM_LOG
What the agent logs: a level such as debug.
.TP
NO_COLOR
Without colours, if it is set.
";

const SEE_ALSO: &str = "
.SH SEE ALSO
tandem(1), which has all exit codes.
";

/// `EXIT STATUS`, out of what `--help` says behind the options.
fn status_section(command: &clap::Command, top: bool) -> String {
    let text = match command.get_after_help() {
        Some(text) if !top => text.to_string(),
        None if !top => return String::new(),
        _ => super::exit::HELP.to_owned(),
    };
    let mut section = "\n.SH EXIT STATUS\n".to_owned();
    for line in text.lines().filter(|line| *line != "Exit codes:") {
        match line.strip_prefix("  ").and_then(|l| l.split_once("  ")) {
            Some((code, meaning)) => section.push_str(&format!(".TP\n{code}\n{meaning}\n")),
            None => section.push_str(&format!(".PP\n{}\n", line.replace('`', "\\(aq"))),
        }
    }
    section
}

/// One file for each shell, under the name that the shell looks for.
pub(super) fn completions(mut command: clap::Command, directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "tandem", directory)?;
    }
    Ok(())
}
