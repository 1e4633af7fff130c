//! Standard output, standard error and questions to a person.

use super::exit::Failure;
use std::io::{self, BufRead, IsTerminal, Write};

/// Writes a line to standard output. A closed pipe is an error, not a panic.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(Failure::Io)
}

/// Writes text as it is to standard output.
pub(super) fn raw(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Failure::Io)
}

/// Writes a value as one JSON text with line breaks.
pub(super) fn json<T: serde::Serialize>(value: &T) -> Result<(), Failure> {
    line(&serde_json::to_string_pretty(value).map_err(io::Error::from)?)
}

/// Writes a value as JSON on one line.
pub(super) fn json_line<T: serde::Serialize>(value: &T) -> Result<(), Failure> {
    line(&serde_json::to_string(value).map_err(io::Error::from)?)
}

/// Writes a line to standard error, prefixed by the program's name. Nobody can be told if that fails.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "tandem: {text}");
}

/// Whether a person can be asked: both ends are a terminal.
pub(super) fn interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks for a "yes". Anything else, also the end of the input, is a no.
pub(super) fn confirmed(question: &str) -> Result<bool, Failure> {
    let mut err = io::stderr().lock();
    write!(err, "{question} Type yes to go on: ").and_then(|()| err.flush())?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

/// Asks a person, where there is one, and says so when nothing is done for that.
pub(super) fn agreed(question: &str, yes: bool) -> Result<bool, Failure> {
    if yes || !interactive() || confirmed(question)? {
        return Ok(true);
    }
    complain("nothing was done");
    Ok(false)
}

/// The same before something is deleted, which is never done where nobody can be asked.
pub(super) fn may_delete(what: &str, yes: bool) -> Result<bool, Failure> {
    if !yes && !interactive() {
        complain(&format!(
            "this deletes {what} for good, and there is no terminal to ask on: `--yes` does it"
        ));
        return Ok(false);
    }
    agreed(&format!("This deletes {what} for good."), yes)
}

/// Writes text as it is to standard error.
pub(super) fn complain_raw(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
