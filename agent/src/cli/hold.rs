//! `tandem hold -- COMMAND`: runs a command while nothing is applied to the trees.
//!
//! The hold lasts as long as the connection to the agent. It is closed when the command ends, and by the kernel however
//! this process ends. When the agent ends the hold first (a takeover), the command is told by SIGTERM and, if it does
//! not listen, ended by SIGKILL; the agent does not wait for that.

mod child;

use super::text::{escape, time};
use super::{Exit, Outcome, duration, is, output, to_ms};
use crate::api::client::{Client, ClientError, EventStream};
use crate::api::types::{HoldEvent, HoldRequest, path};
use child::{Child, Signals};
use std::ffi::OsString;
use std::time::Duration;

/// How a hold ends besides by its command: the numbers of timeout(1) and env(1).
const ENDED_EARLY: Exit = Exit::Code(124);
const NOT_HELD: Exit = Exit::Code(125);
const CANNOT_RUN: Exit = Exit::Code(126);
const NOT_FOUND: Exit = Exit::Code(127);

/// From SIGTERM to SIGKILL when the hold ended before its command. A backup may want to remove its temporary files.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only if this node has this role
    #[arg(long, value_enum)]
    role: Option<is::Asked>,
    /// End the hold, and the command, after this
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    lasting: Option<Duration>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(super) async fn run(args: Args, client: &Client) -> Outcome {
    let request = HoldRequest {
        role: args.role.map(Into::into),
        for_ms: args.lasting.map(to_ms),
    };
    let mut events: EventStream<HoldEvent> = match begin(client, &request).await {
        Ok(events) => events,
        Err(failure) => {
            failure.report();
            return Ok(NOT_HELD);
        }
    };
    // Before the command starts, so that a signal in between is not lost.
    let mut signals = Signals::new()?;
    let mut child = match Child::spawn(&args.command) {
        Ok(child) => child,
        Err(error) => {
            let program = args.command[0].to_string_lossy();
            output::complain(&format!("cannot run {}: {error}", escape(&program)));
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            return Ok(if missing { NOT_FOUND } else { CANNOT_RUN });
        }
    };
    loop {
        tokio::select! {
            ended = child.wait() => return Ok(Exit::Code(ended?)),
            signal = signals.next() => child.pass(signal),
            event = events.next() => {
                output::complain(&format!("{}; the command is told to end", why(event)));
                // Nothing to hold any more: the agent must not wait for this connection.
                drop(events);
                return end(&mut child, &mut signals).await;
            }
        }
    }
}

/// Asks for the hold and waits until it is in force.
async fn begin(
    client: &Client,
    request: &HoldRequest,
) -> Result<EventStream<HoldEvent>, super::Failure> {
    let mut events: EventStream<HoldEvent> = client.stream(path::HOLD, request).await?;
    match events.next().await? {
        Some(HoldEvent::Held { .. }) => Ok(events),
        Some(HoldEvent::Ended { text, .. }) => Err(super::Failure::Other(NOT_HELD, text)),
        None => Err(ClientError::Broken("before anything was held".to_owned()).into()),
    }
}

/// In words, why the hold is over although the command runs.
fn why(event: Result<Option<HoldEvent>, ClientError>) -> String {
    match event {
        Ok(Some(HoldEvent::Ended { text, .. })) => format!("the hold is over: {}", escape(&text)),
        Ok(Some(HoldEvent::Held { .. })) => {
            "the agent holds a second time, which it never should".to_owned()
        }
        Ok(None) => "the agent ended the hold without a word".to_owned(),
        Err(error) => format!("the hold is over: {}", escape(&error.to_string())),
    }
}

async fn end(child: &mut Child, signals: &mut Signals) -> Outcome {
    child.pass(libc::SIGTERM);
    let bound = tokio::time::sleep(GRACE);
    tokio::pin!(bound);
    loop {
        tokio::select! {
            ended = child.wait() => {
                ended?;
                return Ok(ENDED_EARLY);
            }
            signal = signals.next() => child.pass(signal),
            () = &mut bound => break,
        }
    }
    output::complain(&format!(
        "the command did not end within {}: killed",
        time(to_ms(GRACE))
    ));
    child.pass(libc::SIGKILL);
    child.wait().await?;
    Ok(ENDED_EARLY)
}
