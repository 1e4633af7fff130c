//! `tandem tree accept`.

use super::text::escape;
use super::{Exit, Outcome, output};
use crate::api::client::Client;
use crate::api::types::{AcceptRequest, Done, path};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Resume a tree that a guard stopped: what it looks like now is meant
    Accept {
        /// Name of the tree
        name: String,
    },
}

pub(super) async fn run(command: Command, client: &Client) -> Outcome {
    let Command::Accept { name } = command;
    let done: Done = client
        .call(path::ACCEPT, &AcceptRequest { tree: name })
        .await?;
    output::line(&escape(&done.message))?;
    Ok(Exit::Success)
}
