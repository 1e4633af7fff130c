//! Logs of the agent: to journald when systemd connected standard error to it, else to standard error.
//!
//! `TANDEM_LOG` chooses what is logged, in the syntax of `tracing_subscriber::EnvFilter`: a level (`debug`) or
//! `target=level` pairs separated by commas. Default: [`DEFAULT`]. Messages are short and fixed; what varies is in
//! fields.

use std::io::IsTerminal;
use std::os::linux::fs::MetadataExt;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// The environment variable.
pub const VARIABLE: &str = "TANDEM_LOG";
/// What is logged without it. russh logs every packet at debug.
pub const DEFAULT: &str = "info,russh=off";

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

/// Installs the global subscriber; also takes what libraries log through the `log` crate. Call once.
pub fn init() -> Result<(), LoggingError> {
    let wanted = std::env::var(VARIABLE).ok();
    let filter = filter(wanted.as_deref())?;
    let registry = tracing_subscriber::registry().with(filter);
    if connected_to_journal()
        && let Ok(journal) = tracing_journald::layer()
    {
        registry.with(journal).try_init()?;
        return Ok(());
    }
    let stderr = std::io::stderr();
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(stderr.is_terminal())
        .with_writer(std::io::stderr);
    registry.with(layer).try_init()?;
    Ok(())
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
