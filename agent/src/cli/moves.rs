//! `tandem failback`, `tandem switchover`, and the steps of a takeover.

use super::text::{escape, time};
use super::{Exit, Outcome, output};
use crate::api::client::{Client, EventStream};
use crate::api::types::{Empty, MoveEvent, path};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Each step as a line of JSON
    #[arg(long)]
    json: bool,
}

/// Which planned move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    Failback,
    Switchover,
}

pub(super) async fn run(args: Args, which: Move, client: &Client) -> Outcome {
    let path = match which {
        Move::Failback => path::FAILBACK,
        Move::Switchover => path::SWITCHOVER,
    };
    let events = client.stream(path, &Empty {}).await?;
    follow(events, args.json).await
}

/// Shows the steps of a move as they happen, and how it ends.
pub(super) async fn follow(mut events: EventStream<MoveEvent>, json: bool) -> Outcome {
    while let Some(event) = events.next().await? {
        if json {
            output::json_line(&event)?;
        }
        match event {
            MoveEvent::Step { text, at_ms, .. } if !json => {
                output::line(&format!("{:>9}  {}", time(at_ms), escape(&text)))?;
            }
            MoveEvent::Step { .. } => {}
            MoveEvent::Done {
                master,
                term,
                took_ms,
                moved,
            } => {
                let master = escape(&master);
                let text = if moved {
                    format!("{master} is master in term {term}, after {}", time(took_ms))
                } else {
                    format!("{master} is master already, in term {term}: nothing was moved")
                };
                if !json {
                    output::line(&text)?;
                }
                return Ok(Exit::Success);
            }
            MoveEvent::GivenUp { reason } => {
                output::complain(&format!(
                    "given up, everything is as before: {}",
                    escape(&reason)
                ));
                return Ok(Exit::Refused);
            }
        }
    }
    output::complain(
        "the agent broke off before it said how the move ended; `tandem status` shows it",
    );
    Ok(Exit::Failed)
}
