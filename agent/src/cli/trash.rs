//! `tandem trash`.

use super::text::{bytes, count, escape, time};
use super::{Exit, Outcome, output, rescue};
use crate::api::client::{Client, EventStream};
use crate::api::types::{
    Done, RestoreEvent, TrashEmptyRequest, TrashEntry, TrashEvent, TrashKind, TrashListRequest,
    TrashRestoreRequest, path,
};
use std::time::Duration;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// What is in the trash of this node, the newest hour first
    List {
        /// Only of this tree
        tree: Option<String>,
        /// Only at or below this path, written as the list shows it
        path: Option<String>,
        /// Each entry as a line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Put a file or a directory back in place on the master; what it has there is left alone
    Restore {
        /// Name of the tree
        tree: String,
        /// What, written as the list shows it; of a directory all that is in the trash
        path: String,
        /// From this hour of the list [default: the newest that has it]
        #[arg(long, value_name = "HOUR")]
        at: Option<String>,
        /// To this path of the tree [default: where it was]
        #[arg(long, value_name = "PATH")]
        to: Option<String>,
        /// Replace the master's versions, which are then lost
        #[arg(long)]
        replace: bool,
        /// With --replace: do not ask on a terminal
        #[arg(long)]
        yes: bool,
    },
    /// Delete for good what is in the trash of a tree
    Empty {
        /// Name of the tree
        tree: String,
        /// Only whole hours that are older than this, for example 12h or 3d [default: all]
        #[arg(long, value_name = "AGE", value_parser = super::duration)]
        older: Option<Duration>,
        /// Do not ask. Needed where there is no terminal to ask on
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn run(command: Command, client: &Client) -> Outcome {
    match command {
        Command::List { tree, path, json } => {
            list(&TrashListRequest { tree, path }, json, client).await
        }
        Command::Restore {
            tree,
            path,
            at,
            to,
            replace,
            yes,
        } => {
            let request = TrashRestoreRequest {
                tree,
                path,
                at,
                to,
                replace,
            };
            restore(&request, yes, client).await
        }
        Command::Empty { tree, older, yes } => empty(tree, older, yes, client).await,
    }
}

async fn list(request: &TrashListRequest, json: bool, client: &Client) -> Outcome {
    let mut events: EventStream<TrashEvent> = client.stream(path::TRASH, request).await?;
    let mut listed = 0;
    while let Some(event) = events.next().await? {
        match event {
            _ if json => {
                let last = matches!(event, TrashEvent::Done { .. });
                output::json_line(&event)?;
                if last {
                    return Ok(Exit::Success);
                }
            }
            TrashEvent::Entry(entry) => {
                listed += 1;
                output::line(&describe(&entry))?;
            }
            TrashEvent::Done {
                beyond,
                bytes,
                whole,
            } => {
                output::line(&summary(listed, beyond, bytes, whole))?;
                return Ok(Exit::Success);
            }
        }
    }
    output::complain("the agent broke off before everything was listed");
    Ok(Exit::Failed)
}

fn describe(entry: &TrashEntry) -> String {
    let size = match entry.kind {
        TrashKind::File => bytes(entry.size),
        TrashKind::Directory => "directory".to_owned(),
        TrashKind::Symlink => "link".to_owned(),
        TrashKind::Other => "other".to_owned(),
    };
    let left = entry.goes_in_ms.map(|left| format!("in {}", time(left)));
    format!(
        "{:<16}  {:<15}  {}  {size:>9}  {}",
        escape(&entry.hour),
        left.unwrap_or_default(),
        escape(&entry.tree),
        escape(&entry.path)
    )
}

fn summary(listed: u64, beyond: u64, size: u64, whole: bool) -> String {
    let least = if whole { "" } else { "at least " };
    let all = count(listed + beyond, "entry");
    let not_shown = match beyond {
        0 => String::new(),
        beyond => format!("; {beyond} of them are not shown: name a tree and a path"),
    };
    match listed {
        0 => "nothing is in the trash of this node there".to_owned(),
        _ => format!("{least}{all}, {}{not_shown}", bytes(size)),
    }
}

async fn restore(request: &TrashRestoreRequest, yes: bool, client: &Client) -> Outcome {
    let question = "What is in the trash replaces what the master has now, which is then lost.";
    if request.replace && !output::agreed(question, yes)? {
        return Ok(Exit::No);
    }
    let events: EventStream<RestoreEvent> = client.stream(path::TRASH_RESTORE, request).await?;
    rescue::follow(events).await
}

async fn empty(tree: String, older: Option<Duration>, yes: bool, client: &Client) -> Outcome {
    let what = match older {
        None => format!("all of the trash of {}", escape(&tree)),
        Some(_) => format!("the older hours of the trash of {}", escape(&tree)),
    };
    if !output::may_delete(&what, yes)? {
        return Ok(Exit::No);
    }
    let older_ms = older.map(super::to_ms);
    let request = TrashEmptyRequest { tree, older_ms };
    let done: Done = client.call(path::TRASH_EMPTY, &request).await?;
    output::line(&escape(&done.message))?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_when_it_went_and_how_long_it_stays() {
        let mut entry = TrashEntry {
            tree: "home".into(),
            hour: "2026-11-28T03".into(),
            goes_in_ms: Some(3 * 24 * 3_600_000),
            path: "alice/report.odt".into(),
            kind: TrashKind::File,
            size: 1200,
            mtime_unix_ms: 0,
        };
        let line = "2026-11-28T03     in 3 d           home     1.2 kB  alice/report.odt";
        assert_eq!(describe(&entry), line);
        entry.goes_in_ms = None;
        assert_eq!(describe(&entry), line.replace("in 3 d", "      "));
    }

    #[test]
    fn a_long_list_says_what_it_leaves_out() {
        assert_eq!(summary(2, 0, 1500, true), "2 entries, 1.5 kB");
        assert_eq!(
            summary(10_000, 5, 0, false),
            "at least 10005 entries, 0 B; 5 of them are not shown: name a tree and a path"
        );
        assert!(summary(0, 0, 0, true).starts_with("nothing"));
    }
}
