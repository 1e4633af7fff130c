//! `tandem flush`.

use super::text::{escape, time};
use super::{Exit, Outcome, duration, output};
use crate::api::client::Client;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Give up after this
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s")]
    timeout: Duration,
    /// Wait also until files that have grown are compared whole on both nodes
    #[arg(long)]
    verified: bool,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, client: &Client) -> Outcome {
    let report = match args.verified {
        true => client.flush_verified(args.timeout).await?,
        false => client.flush(args.timeout).await?,
    };
    let exit = if report.not_covered.is_empty() {
        Exit::Success
    } else {
        Exit::No
    };
    if args.json {
        output::json(&report)?;
        return Ok(exit);
    }
    for missing in &report.not_covered {
        output::complain(&format!(
            "not covered: tree {}: {}",
            escape(&missing.tree),
            escape(&missing.why)
        ));
    }
    let names: Vec<_> = report.covered.iter().map(|t| escape(&t.tree)).collect();
    if !names.is_empty() {
        let took = time(report.took_ms);
        output::line(&format!(
            "durable on the other side after {took}: {}",
            names.join(", ")
        ))?;
    }
    Ok(exit)
}
