//! `tandem rescue`.

use super::exit::Failure;
use super::text::{ago, bytes, count, escape};
use super::{Exit, Outcome, output};
use crate::api::client::{Client, EventStream};
use crate::api::types::{
    Done, RescueChange, RescueFileRequest, RescueItem, RescueSelection, RescueSet,
    RescueShowRequest, RestoreEvent, RestoreRequest, path,
};
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// All sets of this node
    List {
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// The entries of a set, or with a number the content of one
    Show {
        /// Name of the set
        set: String,
        /// Number of an entry: its content goes to standard output
        item: Option<u64>,
        /// Each entry as a line of JSON
        #[arg(long, conflicts_with = "item")]
        json: bool,
    },
    /// Put files back in place on the master; what it has in another version is left alone
    Restore {
        #[command(flatten)]
        selection: Selection,
        /// Replace the master's versions, which are then lost
        #[arg(long)]
        replace: bool,
        /// With --replace: do not ask on a terminal
        #[arg(long)]
        yes: bool,
    },
    /// Delete entries of the rescue for good
    Drop {
        #[command(flatten)]
        selection: Selection,
        /// Do not ask. Needed where there is no terminal to ask on
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Selection {
    /// Name of the set
    set: String,
    /// Numbers of entries [default: all of the set]
    items: Vec<u64>,
}

impl From<Selection> for RescueSelection {
    fn from(selection: Selection) -> Self {
        Self {
            set: selection.set,
            items: selection.items,
        }
    }
}

pub(super) async fn run(command: Command, client: &Client) -> Outcome {
    match command {
        Command::List { json } => list(json, client).await,
        Command::Show {
            set,
            item: None,
            json,
        } => show(set, json, client).await,
        Command::Show {
            set,
            item: Some(item),
            ..
        } => content(set, item, client).await,
        Command::Restore {
            selection,
            replace,
            yes,
        } => {
            let request = RestoreRequest {
                selection: selection.into(),
                replace,
            };
            restore(&request, yes, client).await
        }
        Command::Drop { selection, yes } => discard(selection, yes, client).await,
    }
}

async fn list(json: bool, client: &Client) -> Outcome {
    let list = client.rescue_list().await?;
    if json {
        output::json(&list)?;
        return Ok(Exit::Success);
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    for set in &list.sets {
        output::line(&describe(set, now))?;
    }
    if list.sets.is_empty() {
        output::line("nothing is in the rescue of this node")?;
    }
    Ok(Exit::Success)
}

fn describe(set: &RescueSet, now: u64) -> String {
    let unknown = if set.base_unknown {
        "\n    what the peer had acknowledged was not known, so every differing file is here"
    } else {
        ""
    };
    format!(
        "{}  tree {}, {}, {}, {}: {}\n    {}{unknown}",
        escape(&set.id),
        escape(&set.tree),
        count(set.items, "entry"),
        bytes(set.bytes),
        ago(set.made_unix_ms, now),
        escape(&set.why),
        escape(&set.directory),
    )
}

async fn show(set: String, json: bool, client: &Client) -> Outcome {
    let mut items: EventStream<RescueItem> = client
        .stream(path::RESCUE_SHOW, &RescueShowRequest { set })
        .await?;
    while let Some(item) = items.next().await? {
        if json {
            output::json_line(&item)?;
        } else {
            output::line(&describe_item(&item))?;
        }
    }
    Ok(Exit::Success)
}

fn describe_item(item: &RescueItem) -> String {
    let change = match item.change {
        RescueChange::Created => "created",
        RescueChange::Changed => "changed",
        RescueChange::Deleted => "deleted",
        RescueChange::Renamed => "renamed",
        RescueChange::Metadata => "metadata",
        RescueChange::Differs => "differs",
        RescueChange::Unknown => "unknown",
    };
    let other = item
        .other
        .as_ref()
        .map(|o| format!(" <-> {}", escape(o)))
        .unwrap_or_default();
    format!(
        "{:>6}  {change:<8}  {:>9}  {}{other}",
        item.number,
        bytes(item.size),
        escape(&item.path)
    )
}

async fn content(set: String, item: u64, client: &Client) -> Outcome {
    if std::io::stdout().is_terminal() {
        let hint = "a file's bytes do not go to a terminal; redirect them: tandem rescue show SET ITEM > FILE";
        return Err(Failure::Other(Exit::Usage, hint.to_owned()));
    }
    let stdout = std::io::stdout().as_fd().try_clone_to_owned()?;
    let mut out = tokio::fs::File::from_std(stdout.into());
    client
        .download(
            path::RESCUE_FILE,
            &RescueFileRequest { set, item },
            &mut out,
        )
        .await?;
    Ok(Exit::Success)
}

async fn restore(request: &RestoreRequest, yes: bool, client: &Client) -> Outcome {
    let question = "The rescued versions replace what the master has now, which is then lost.";
    if request.replace && !output::agreed(question, yes)? {
        return Ok(Exit::No);
    }
    follow(client.stream(path::RESCUE_RESTORE, request).await?).await
}

/// Shows what is put back, and what is not.
pub(super) async fn follow(mut events: EventStream<RestoreEvent>) -> Outcome {
    while let Some(event) = events.next().await? {
        match event {
            RestoreEvent::Restored { path } => {
                output::line(&format!("restored {}", escape(&path)))?
            }
            RestoreEvent::Failed { path, why } => {
                output::complain(&format!("{}: {}", escape(&path), escape(&why)))
            }
            RestoreEvent::Done { restored, failed } => {
                output::line(&format!("{restored} restored on the master, {failed} not"))?;
                return Ok(if failed == 0 { Exit::Success } else { Exit::No });
            }
        }
    }
    output::complain("the agent broke off before everything was restored");
    Ok(Exit::Failed)
}

async fn discard(selection: Selection, yes: bool, client: &Client) -> Outcome {
    let what = match selection.items.len() {
        0 => "the whole set".to_owned(),
        n => count(n as u64, "entry"),
    };
    if !output::may_delete(&what, yes)? {
        return Ok(Exit::No);
    }
    let done: Done = client
        .call(path::RESCUE_DROP, &RescueSelection::from(selection))
        .await?;
    output::line(&escape(&done.message))?;
    Ok(Exit::Success)
}
