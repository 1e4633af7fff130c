//! `tandem maintenance`.

use super::text::escape;
use super::{Exit, Outcome, duration, output, to_ms};
use crate::api::client::Client;
use crate::api::types::{Done, MaintenanceRequest, path};
use std::time::Duration;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// No automatic moves from now on
    On {
        /// Ends by itself after this
        #[arg(long = "for", value_name = "TIME", value_parser = duration)]
        lasting: Option<Duration>,
    },
    /// Automatic moves again
    Off,
}

pub(super) async fn run(command: Command, client: &Client) -> Outcome {
    let request = match command {
        Command::On { lasting } => MaintenanceRequest {
            on: true,
            for_ms: lasting.map(to_ms),
        },
        Command::Off => MaintenanceRequest {
            on: false,
            for_ms: None,
        },
    };
    let done: Done = client.call(path::MAINTENANCE, &request).await?;
    output::line(&escape(&done.message))?;
    Ok(Exit::Success)
}
