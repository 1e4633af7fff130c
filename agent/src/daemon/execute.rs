//! `tandem restart`: the process executes its program file again, and a master's role goes with it.
//!
//! The role travels in an environment variable that names this process: the execution keeps the process id, and every
//! other process that inherits the variable has another one. So nothing but this one execution can use it.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use tandem_failover::machine::Handover;
use tandem_failover::time::Instant;

/// `FORMAT PID BOOTTIME_NS TERM`.
const VARIABLE: &str = "TANDEM_HANDOVER";

/// Version of the variable's content. An agent that does not know it joins as after any start.
const FORMAT: u64 = 1;

/// Executes this program again with the same arguments. Returns only when that fails.
pub fn execute_again(handover: Option<Handover>) -> std::io::Error {
    let program = match program() {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| program.clone().into());
    let mut command = std::process::Command::new(program);
    command.arg0(name).args(arguments);
    match handover {
        Some(handover) => command.env(VARIABLE, encode(handover, std::process::id())),
        None => command.env_remove(VARIABLE),
    };
    command.exec()
}

/// The file to execute: the path, not the open file, because an upgrade has put a new file there.
///
/// # Errors
/// `/proc` cannot be read, or there is no file of that name.
pub fn program() -> std::io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let program = program
        .to_str()
        .and_then(|p| p.strip_suffix(" (deleted)"))
        .map_or(program.clone(), Into::into);
    std::fs::metadata(&program)?;
    Ok(program)
}

/// The role that this process had before it executed itself; `None` after any other start.
pub fn handed_over() -> Option<Handover> {
    let text = std::env::var(VARIABLE).ok()?;
    decode(&text, std::process::id())
}

fn encode(handover: Handover, pid: u32) -> String {
    format!(
        "{FORMAT} {pid} {} {}",
        handover.at.as_nanos(),
        handover.term
    )
}

fn decode(text: &str, pid: u32) -> Option<Handover> {
    let numbers: Vec<u64> = text
        .split(' ')
        .map(|word| word.parse().ok())
        .collect::<Option<_>>()?;
    match numbers[..] {
        [FORMAT, of, at, term] if of == u64::from(pid) => Some(Handover {
            term,
            at: Instant::from_nanos(at),
        }),
        _ => None,
    }
}

/// The variable that names the role.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Some(handover) = decode(&String::from_utf8_lossy(bytes), 77) {
        assert_eq!(decode(&encode(handover, 77), 77), Some(handover));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_itself_goes_on() {
        let handover = Handover {
            term: 3,
            at: Instant::from_nanos(5),
        };
        let text = encode(handover, 77);
        assert_eq!(decode(&text, 77), Some(handover));
        assert_eq!(decode(&text, 78), None);
        for other in [
            "",
            "1 77 5",
            "2 77 5 3",
            "1 77 5 3 9",
            "1 77 x 3",
            "1 77 -5 3",
        ] {
            assert_eq!(decode(other, 77), None, "{other}");
        }
    }
}
