//! What an answer is when it is not the one asked for.

use serde::{Deserialize, Serialize};

/// The body of every answer whose HTTP status is not 2xx, and the last line of a stream that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What kind of failure.
    pub code: ErrorCode,
    /// One sentence for a person.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl ApiError {
    /// An error without a hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Kinds of failure. Each has one HTTP status and one exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request cannot be read.
    BadRequest,
    /// No such path, tree, rescue set or item.
    NotFound,
    /// The node's or the pair's state does not allow it now; the message says why.
    Refused,
    /// This node has the wrong role for it; ask the other one.
    WrongRole,
    /// It needs the other node, which does not answer.
    PeerUnreachable,
    /// Another operation of this kind is under way.
    Busy,
    /// Its bound of time is over. What was begun has been given up.
    Timeout,
    /// The configuration on disk is not valid.
    InvalidConfig,
    /// The agent is stopping.
    Stopping,
    /// Something failed inside the agent or its system; the journal has more.
    Internal,
    /// A code of a newer agent.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// The HTTP status that goes with it.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::NotFound => 404,
            Self::Refused | Self::WrongRole | Self::Busy => 409,
            Self::InvalidConfig => 422,
            Self::PeerUnreachable => 502,
            Self::Stopping => 503,
            Self::Timeout => 504,
            Self::Internal | Self::Unknown => 500,
        }
    }
}

/// One line of a stream: an event, or the error that ended it. A stream that ends without its last event
/// (each event type says which that is) was cut.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line<E> {
    /// The next event.
    Event(E),
    /// The operation failed; nothing follows.
    Error(ApiError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_of_a_newer_agent_is_read_as_unknown() {
        let error: ApiError =
            serde_json::from_str(r#"{"code":"never-heard-of","message":"x","more":1}"#).unwrap();
        assert_eq!(error.code, ErrorCode::Unknown);
    }

    #[test]
    fn a_line_is_tagged_by_event_or_error() {
        let line: Line<u32> = Line::Event(7);
        assert_eq!(serde_json::to_string(&line).unwrap(), r#"{"event":7}"#);
        let line: Line<u32> = Line::Error(ApiError::new(ErrorCode::Busy, "wait"));
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"error":{"code":"busy","message":"wait"}}"#
        );
    }
}
