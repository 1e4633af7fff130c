//! Exit codes and the report of failures.

use super::text::escape;
use crate::api::client::ClientError;
use crate::api::types::{ApiError, ErrorCode};
use std::io;
use std::process::ExitCode;

/// How a command ends. Scripts rely on these numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: it was done; the answer is yes.
    Success,
    /// 1: the answer is no: not that role, there are differences, something is not covered.
    No,
    /// 2: the command line cannot be understood.
    Usage,
    /// 3: no agent answers on the socket, or it may not be opened.
    NoAgent,
    /// 4: the agent refuses; the message says why and what helps.
    Refused,
    /// 5: it did not happen within its bound of time.
    Timeout,
    /// 6: the configuration has errors.
    InvalidConfig,
    /// 7: something failed.
    Failed,
    /// Any other: the code of the command that `hold` ran.
    Code(u8),
}

/// The list for `--help` and the manual.
pub const HELP: &str = "\
Exit codes:
  0  done; the answer is yes
  1  the answer is no: not that role, differences found, not everything covered
  2  the command line cannot be understood
  3  no agent answers on the socket, or it may not be opened
  4  the agent refuses; the message says why
  5  it did not happen in time
  6  the configuration has errors
  7  something failed
`tandem hold` ends with the code of its command, or:
  124  the hold was ended first, and the command with it
  125  nothing was held and nothing was run
  126  the command cannot be run
  127  the command is not there
  128+N  the command died of signal N";

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::No => 1,
            Self::Usage => 2,
            Self::NoAgent => 3,
            Self::Refused => 4,
            Self::Timeout => 5,
            Self::InvalidConfig => 6,
            Self::Failed => 7,
            Self::Code(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// The agent did not answer, or said no.
    Client(ClientError),
    /// Something of this process failed, most likely its output.
    Io(io::Error),
    /// Anything else, with its code.
    Other(Exit, String),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Failure {
    /// Tells the person, and gives the exit code.
    pub fn report(&self) -> Exit {
        match self {
            // The reader of a pipe went away: nobody is left to be told.
            Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Self::Io(error) => say(&error.to_string(), None),
            Self::Client(ClientError::Api(ApiError { message, hint, .. })) => {
                say(message, hint.as_deref())
            }
            Self::Client(error @ ClientError::NoAgent { .. }) => {
                say(
                    &error.to_string(),
                    Some("`systemctl status tandem` shows why, `systemctl start tandem` starts it"),
                );
            }
            Self::Client(error) => say(&error.to_string(), None),
            Self::Other(_, message) => say(message, None),
        }
        self.exit()
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Io(_) => Exit::Failed,
            Self::Other(exit, _) => *exit,
            Self::Client(error) => match error {
                ClientError::NoAgent { .. } | ClientError::Permission { .. } => Exit::NoAgent,
                ClientError::Timeout(_) => Exit::Timeout,
                ClientError::Api(error) => of_code(error.code),
                ClientError::Connect { .. }
                | ClientError::Broken(_)
                | ClientError::Unreadable { .. }
                | ClientError::Write(_) => Exit::Failed,
            },
        }
    }
}

fn of_code(code: ErrorCode) -> Exit {
    match code {
        ErrorCode::NotFound
        | ErrorCode::Refused
        | ErrorCode::WrongRole
        | ErrorCode::PeerUnreachable
        | ErrorCode::Busy
        | ErrorCode::Stopping => Exit::Refused,
        ErrorCode::Timeout => Exit::Timeout,
        ErrorCode::InvalidConfig => Exit::InvalidConfig,
        ErrorCode::BadRequest | ErrorCode::Internal | ErrorCode::Unknown => Exit::Failed,
    }
}

fn say(message: &str, hint: Option<&str>) {
    // A message may have lines, such as the list of a configuration's errors.
    let lines: Vec<_> = message.trim_end().lines().map(escape).collect();
    super::output::complain(&lines.join("\n"));
    if let Some(hint) = hint {
        super::output::complain(&format!("hint: {}", escape(hint)));
    }
}
