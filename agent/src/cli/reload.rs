//! `tandem reload` and `tandem restart`.

use super::text::escape;
use super::{Exit, Outcome, output};
use crate::api::client::Client;
use crate::api::types::{Done, Empty, ReloadReport, path};

pub(super) async fn reload(client: &Client) -> Outcome {
    let report: ReloadReport = client.call(path::RELOAD, &Empty {}).await?;
    if !report.needs_restart.is_empty() {
        output::complain(
            "nothing was applied, because this is built at the agent's start; `tandem restart` applies all of it with \
             role and addresses kept:",
        );
        for change in &report.needs_restart {
            output::complain(&format!("  {}", escape(change)));
        }
        return Ok(Exit::Refused);
    }
    for change in &report.changes {
        output::line(&escape(change))?;
    }
    if report.changes.is_empty() {
        output::line("nothing has changed")?;
    }
    output::line(&format!(
        "configuration {} is in use",
        escape(&report.digest)
    ))?;
    if !report.failed.is_empty() {
        output::complain("applied, but not all of it succeeded:");
        for failed in &report.failed {
            output::complain(&format!("  {}", escape(failed)));
        }
        return Ok(Exit::Failed);
    }
    Ok(Exit::Success)
}

pub(super) async fn restart(client: &Client) -> Outcome {
    let done: Done = client.call(path::RESTART, &Empty {}).await?;
    output::line(&escape(&done.message))?;
    Ok(Exit::Success)
}
