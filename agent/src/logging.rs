//! Logs of the agent: to journald when systemd connected standard error to it, else to standard error.
//!
//! `TANDEM_LOG` chooses what is logged, in the syntax of `tracing_subscriber::EnvFilter`: a level (`debug`) or
//! `target=level` pairs separated by commas. Default: [`DEFAULT`]. Messages are short and fixed; what varies is in
//! fields.
//!
//! Who logs never waits: lines go through a bounded queue to a thread that writes them. journald that hangs on a
//! dead disk, or a pipe that nobody reads, costs lines, which are counted, and no thread of the agent. The failover loop logs too.

mod journal;
mod sink;

use sink::Sink;
use std::io::IsTerminal;
use std::os::linux::fs::MetadataExt;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// The environment variable.
pub const VARIABLE: &str = "TANDEM_LOG";
/// What is logged without it. russh logs every packet at debug.
pub const DEFAULT: &str = "info,russh=off";
/// Lines that wait to be written: what an agent says in a minute of trouble, some hundred KiB.
const MOST_LINES: usize = 1024;

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// `TANDEM_LOG` cannot be understood.
    #[error("{VARIABLE}: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// There is a global subscriber already.
    #[error(transparent)]
    Twice(#[from] TryInitError),
}

/// The thread that writes. When it is dropped, what waits is written, for a second at most.
#[must_use]
#[derive(Debug)]
pub struct Log(#[expect(dead_code, reason = "it only has to live")] WorkerGuard);

/// Installs the global subscriber; also takes what libraries log through the `log` crate. Call once.
pub fn init() -> Result<Log, LoggingError> {
    let wanted = std::env::var(VARIABLE).ok();
    let filter = filter(wanted.as_deref())?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer();
    if connected_to_journal()
        && let Ok(socket) = journal::Socket::open()
    {
        let (writer, log) = queued(Sink::new(socket, journal::lost));
        let layer = layer.event_format(journal::Entry).with_ansi(false);
        registry.with(layer.with_writer(writer)).try_init()?;
        return Ok(log);
    }
    let stderr = std::io::stderr();
    let layer = layer.with_ansi(stderr.is_terminal());
    let (writer, log) = queued(Sink::new(stderr, sink::lost));
    registry.with(layer.with_writer(writer)).try_init()?;
    Ok(log)
}

/// A writer that waits for nothing, before one that may.
fn queued<W: std::io::Write + Send + 'static>(sink: Sink<W>) -> (NonBlocking, Log) {
    let counter = sink.counter();
    let builder = NonBlockingBuilder::default().thread_name("tandem-log");
    let builder = builder.buffered_lines_limit(MOST_LINES).lossy(true);
    let (writer, guard) = builder.finish(sink);
    // Nothing was written before: this is the first one.
    let _ = counter.set(writer.error_counter());
    (writer, Log(guard))
}

/// The default, with what is wanted after it: a later directive for the same target wins.
fn filter(wanted: Option<&str>) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    match wanted.filter(|text| !text.is_empty()) {
        Some(wanted) => EnvFilter::builder().parse(format!("{DEFAULT},{wanted}")),
        None => EnvFilter::builder().parse(DEFAULT),
    }
}

/// systemd.exec(5): `JOURNAL_STREAM` is `device:inode` of the stream, and may have been inherited by a process whose
/// standard error is something else by now.
fn connected_to_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let Some((device, inode)) = stream.split_once(':') else {
        return false;
    };
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|meta| device.parse() == Ok(meta.st_dev()) && inode.parse() == Ok(meta.st_ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_comes_on_top_of_the_default() {
        assert_eq!(filter(None).unwrap().to_string(), "russh=off,info");
        assert_eq!(
            filter(Some("debug")).unwrap().to_string(),
            "russh=off,debug"
        );
        assert_eq!(
            filter(Some("russh=debug")).unwrap().to_string(),
            "russh=debug,info"
        );
        assert!(filter(Some("tandem=loud")).is_err());
    }
}
