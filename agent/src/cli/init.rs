//! `tandem init --source`.

use super::{Exit, Outcome, output};
use crate::api::client::Client;
use crate::api::types::{InitReport, InitRequest, path};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// This node has the data. The other one receives; what it has besides goes to its rescue
    #[arg(long, required = true)]
    source: bool,
}

pub(super) async fn run(args: Args, client: &Client) -> Outcome {
    let request = InitRequest {
        source: args.source,
    };
    let report: InitReport = client.call(path::INIT, &request).await?;
    for tree in &report.trees {
        output::line(&format!("tree {}: first epoch {}", tree.tree, tree.epoch))?;
    }
    output::line(if report.trees.is_empty() {
        "nothing was done: every tree has its first epoch already"
    } else {
        "this node is the source"
    })?;
    Ok(Exit::Success)
}
