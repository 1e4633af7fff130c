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
    let stdout = std::io::stdout();
    match rustix::termios::tcgetwinsize(&stdout) {
        Ok(size) if stdout.is_terminal() => {
            let fitted = fit(&text, size.ws_row.into(), size.ws_col.into());
            // Home, the new text with each line's rest erased, then everything below: no flicker.
            output::raw(&format!("\x1b[H{fitted}\x1b[J"))
        }
        _ => output::raw(&format!("{text}\n")),
    }
}

/// The page as far as it fits on a screen, so that it never scrolls: what is most important stands on top. Pure.
pub(super) fn fit(text: &str, rows: usize, columns: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    // The cursor needs a line of its own. A screen that says nothing of its size has room for everything.
    let room = rows.checked_sub(1).filter(|r| *r > 0).unwrap_or(usize::MAX);
    let shown = if lines.len() > room {
        room - 1
    } else {
        lines.len()
    };
    let mut out = String::new();
    for line in &lines[..shown] {
        out.push_str(cut(line, columns));
        // What the cut may have left on is switched off.
        out.push_str("\x1b[0m\x1b[K\n");
    }
    if shown < lines.len() {
        let rest = format!("... {} more lines do not fit", lines.len() - shown);
        out.push_str(cut(&rest, columns));
        out.push_str("\x1b[K\n");
    }
    out
}

/// The beginning of a line that has at most `columns` characters; colours (`ESC [ ... m`) take no room.
fn cut(line: &str, columns: usize) -> &str {
    if columns == 0 {
        return line;
    }
    let (mut width, mut colour) = (0, false);
    for (at, c) in line.char_indices() {
        match c {
            '\x1b' => colour = true,
            'm' if colour => colour = false,
            _ if colour => {}
            _ if width == columns => return &line[..at],
            _ => width += 1,
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_never_scrolls() {
        let page = "one\n\x1b[31mtwo and more\x1b[0m\nthree\nfour\n";
        assert_eq!(fit(page, 0, 0).lines().count(), 4);
        assert_eq!(fit(page, 5, 80).lines().count(), 4);
        let small = fit(page, 4, 7);
        let lines: Vec<&str> = small.lines().collect();
        assert_eq!(
            lines,
            [
                "one\x1b[0m\x1b[K",
                "\x1b[31mtwo and\x1b[0m\x1b[K",
                "... 2 m\x1b[K"
            ]
        );
    }
}
