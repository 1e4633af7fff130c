//! `tandem verify`.

use super::text::{bytes, count, escape};
use super::{Exit, Outcome, output};
use crate::api::client::{Client, EventStream};
use crate::api::types::{DifferenceKind, VerifyEvent, VerifyRequest, path};
use std::io::{IsTerminal, Write};
use std::num::NonZeroU64;

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 0: no differences are left. 1: there are some.")]
pub(super) struct Args {
    /// Compare with this replica; without it with the standby
    #[arg(long, value_name = "NAME")]
    replica: Option<String>,
    /// Only this tree
    #[arg(long, value_name = "NAME")]
    tree: Option<String>,
    /// Put the master's version in place where the other one differs
    #[arg(long)]
    repair: bool,
    /// Read at most so much each second on each side, for example 50MB/s
    #[arg(long, value_name = "RATE", value_parser = super::rate)]
    rate: Option<NonZeroU64>,
    /// Each event as a line of JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, client: &Client) -> Outcome {
    let request = VerifyRequest {
        replica: args.replica,
        tree: args.tree,
        repair: args.repair,
        rate: args.rate,
    };
    let mut events: EventStream<VerifyEvent> = client.stream(path::VERIFY, &request).await?;
    let mut progress = ProgressLine::new(!args.json);
    while let Some(event) = events.next().await? {
        if args.json {
            output::json_line(&event)?;
        }
        match event {
            VerifyEvent::Progress { tree, done, total } => {
                progress.show(&format!("{}: {done} of {total}", escape(&tree)));
            }
            VerifyEvent::Difference { .. } | VerifyEvent::NotCovered { .. } if args.json => {}
            VerifyEvent::Difference {
                tree,
                receiver,
                path,
                what,
                repaired,
            } => {
                progress.clear();
                let done = if repaired { ", repaired" } else { "" };
                let (tree, path) = (escape(&tree), escape(&path));
                let how = differs(what, &escape(&receiver));
                output::line(&format!("{tree}: {path}: {how}{done}"))?;
            }
            VerifyEvent::NotCovered {
                tree,
                receiver,
                why,
            } => {
                progress.clear();
                let tree = tree.map_or_else(String::new, |tree| format!("{}: ", escape(&tree)));
                let (receiver, why) = (escape(&receiver), escape(&why));
                output::complain(&format!("{tree}not covered on {receiver}: {why}"));
            }
            VerifyEvent::Done {
                entries,
                bytes: size,
                differences,
                repaired,
            } => {
                progress.clear();
                if !args.json {
                    let mut text = format!(
                        "{} compared, {}: {}",
                        count(entries, "entry"),
                        bytes(size),
                        count(differences, "difference")
                    );
                    if repaired > 0 {
                        text.push_str(&format!(", {repaired} repaired"));
                    }
                    output::line(&text)?;
                }
                return Ok(if differences > repaired {
                    Exit::No
                } else {
                    Exit::Success
                });
            }
        }
    }
    progress.clear();
    output::complain("the agent broke off before the comparison was complete");
    Ok(Exit::Failed)
}

fn differs(what: DifferenceKind, receiver: &str) -> String {
    match what {
        DifferenceKind::Missing => format!("missing on {receiver}"),
        DifferenceKind::Extra => format!("on {receiver} only"),
        DifferenceKind::Kind => format!("another kind of file on {receiver}"),
        DifferenceKind::Contents => format!("different contents on {receiver}"),
        DifferenceKind::Metadata => format!("different metadata on {receiver}"),
        DifferenceKind::Unreadable => format!("cannot be read on {receiver}"),
        DifferenceKind::Unknown => format!("differs on {receiver}"),
    }
}

/// One line on standard error that is written over, on a terminal only.
struct ProgressLine {
    on: bool,
    shown: bool,
}

impl ProgressLine {
    fn new(wanted: bool) -> Self {
        Self {
            on: wanted && std::io::stderr().is_terminal(),
            shown: false,
        }
    }

    fn show(&mut self, text: &str) {
        if self.on {
            self.shown = true;
            let _ = write!(std::io::stderr().lock(), "\r{text}\x1b[K");
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}
