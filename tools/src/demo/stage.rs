//! What the audience sees.

use crate::signals;
use crate::text::size;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Prints steps and facts with the time since the beginning.
pub(super) struct Stage {
    begin: Instant,
    colour: bool,
    steps: u32,
}

impl Stage {
    pub(super) fn new() -> Self {
        Self {
            begin: Instant::now(),
            colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            steps: 0,
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }

    /// A line without time.
    pub(super) fn note(&self, text: &str) {
        // Nobody reads any more, as behind `| head`: the end, in order. A terminal that is gone says so by SIGHUP.
        if let Err(e) = writeln!(std::io::stdout(), "{text}")
            && e.kind() == std::io::ErrorKind::BrokenPipe
        {
            signals::interrupt();
        }
    }

    /// A new step.
    pub(super) fn step(&mut self, title: &str) {
        self.steps += 1;
        self.note("");
        self.note(&self.paint("1", &format!("{}. {title}", self.steps)));
    }

    /// Something that happens, now.
    pub(super) fn event(&self, text: &str) {
        self.line(" ", text);
    }

    /// Something that was checked and holds.
    pub(super) fn holds(&self, text: &str) {
        self.line(&self.paint("32", "✓"), text);
    }

    fn line(&self, mark: &str, text: &str) {
        let at = format!("{:7.2} s", self.begin.elapsed().as_secs_f64());
        self.note(&format!("{} {mark} {text}", self.paint("2", &at)));
    }

    /// The end, when something did not hold.
    pub(super) fn failed(&self, why: &str) {
        self.note("");
        self.note(&format!("{} {why}", self.paint("1;31", "FAILED:")));
    }

    /// Time since the beginning.
    pub(super) fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Shows how far something is, until the value is dropped: on a terminal by a bar, else by a line now and then.
    /// Without `total`, in bytes, only what is done is known.
    pub(super) fn progress(&self, total: Option<u64>) -> Progress<'_> {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
        let style = match total {
            Some(_) => {
                "          {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}"
            }
            None => "          {decimal_bytes} {decimal_bytes_per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Progress {
            stage: self,
            bar,
            total,
            told: Cell::new(Instant::now()),
        }
    }
}

/// From one line about progress to the next, where there is no terminal.
const TELL: Duration = Duration::from_secs(2);

/// How far something is.
pub(super) struct Progress<'a> {
    stage: &'a Stage,
    bar: ProgressBar,
    total: Option<u64>,
    told: Cell<Instant>,
}

impl Progress<'_> {
    /// So many bytes are done.
    pub(super) fn at(&self, done: u64) {
        self.bar.set_position(done);
        if self.bar.is_hidden() && self.told.get().elapsed() >= TELL {
            self.told.set(Instant::now());
            self.stage.event(&match self.total {
                Some(total) => format!("{} of {} until now", size(done), size(total)),
                None => format!("{} until now", size(done)),
            });
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
