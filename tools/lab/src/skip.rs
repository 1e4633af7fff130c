//! Tests that this machine cannot run.

use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::panic::Location;

/// A file to which a line is added for each: `tools/test` shows them at its end.
const LIST: &str = "TANDEM_SKIPPED";
/// With this, a test that cannot run has failed.
const ALL: &str = "TANDEM_TEST_ALL";

/// Says that a test, or a part of one, is not run here, and why. Not for what a test never does on any machine.
///
/// # Panics
/// With `TANDEM_TEST_ALL` in the environment: then everything is to be tested.
#[track_caller]
pub fn skipped(why: impl Display) {
    let line = format!("{}: {why}\n", Location::caller());
    assert!(std::env::var_os(ALL).is_none(), "not tested: {line}");
    eprint!("not tested: {line}");
    let Some(list) = std::env::var_os(LIST) else {
        return;
    };
    let list = File::options().append(true).create(true).open(list);
    // In one write, so that lines of tests that run at once do not mix.
    if let Err(error) = list.and_then(|mut list| list.write_all(line.as_bytes())) {
        eprintln!("it is not listed: {error}");
    }
}
