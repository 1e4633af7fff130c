//! `tandem status`.

use super::text::Style;
use super::{Exit, Outcome, duration, output, render};
use crate::api::client::{Client, ClientError};
use crate::api::types::StatusReport;
use std::io::IsTerminal;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
    /// Again and again, until interrupted
    #[arg(long)]
    watch: bool,
    /// With --watch: how often
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s", requires = "watch")]
    interval: Duration,
}

pub(super) async fn run(args: Args, client: &Client) -> Outcome {
    if !args.watch {
        let report = client.status().await?;
        if args.json {
            output::json(&report)?;
        } else {
            output::raw(&page(&report))?;
        }
        return Ok(Exit::Success);
    }
    loop {
        let answer = client.status().await;
        if args.json {
            // A program reads one status per line and sees from a missing one that the agent is gone.
            output::json_line(&answer?)?;
        } else {
            watch_page(&answer)?;
        }
        tokio::time::sleep(args.interval.max(Duration::from_millis(100))).await;
    }
}

fn page(report: &StatusReport) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    render::status(report, now, style())
}

/// Colours on a terminal, unless <https://no-color.org> says no.
fn style() -> Style {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    Style {
        on: std::io::stdout().is_terminal() && !refused,
    }
}

fn watch_page(answer: &Result<StatusReport, ClientError>) -> Result<(), super::Failure> {
    let text = match answer {
        Ok(report) => page(report),
        // It may be restarting: keep watching.
        Err(error) => format!("{}\n", super::text::escape(&error.to_string())),
    };
    if std::io::stdout().is_terminal() {
        // Home, the new text with each line's rest erased, then everything below: no flicker.
        let lines = text.replace('\n', "\x1b[K\n");
        output::raw(&format!("\x1b[H{lines}\x1b[J"))
    } else {
        output::raw(&format!("{text}\n"))
    }
}
