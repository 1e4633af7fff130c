//! `tandem adopt`.

use super::text::escape;
use super::{Exit, Outcome, output};
use crate::api::client::Client;
use crate::api::types::{AdoptRequest, Done, path};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Do not ask on a terminal
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(args: Args, client: &Client) -> Outcome {
    let question = "If the other node's identity is in doubt (restored, rolled back, copied), it is accepted as it is now, and \
                    no data are given up. Else this node gives up its own lineage and receives what the other node has; what \
                    it has besides goes to its rescue.";
    if !output::agreed(question, args.yes)? {
        return Ok(Exit::No);
    }
    let done: Done = client
        .call(path::ADOPT, &AdoptRequest { force: true })
        .await?;
    output::line(&escape(&done.message))?;
    Ok(Exit::Success)
}
