//! What is said on the control connection. Wire format: postcard 1 of the types below; versioned.
//!
//! A control connection begins with one frame from each side: `TDM`, then the oldest and the newest protocol version
//! that it speaks (u16, little endian). Both go on with the newest version that both speak, or end. The second frame
//! is the [`Hello`] in that version.
//!
//! Rules for change: within a version nothing changes but that variants are added at the end of [`Request`],
//! [`Response`], [`OneWay`] and [`ErrorCode`]. A request that the receiver cannot decode is answered with
//! [`ErrorCode::Unsupported`]; a one-way message that it cannot decode is ignored. Anything else is a new version,
//! and an agent speaks at least the version before its newest.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Oldest version that this agent speaks.
pub const PROTOCOL_MIN: u16 = 1;
/// Newest version that this agent speaks.
pub const PROTOCOL_MAX: u16 = 1;

/// What an agent says of itself when a control connection begins.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Name of the pair.
    pub pair: String,
    /// Name of the node.
    pub node: String,
    /// Version of the agent, for people.
    pub agent_version: String,
    /// /etc/machine-id.
    pub machine_id: [u8; 16],
    /// /proc/sys/kernel/random/boot_id.
    pub boot_id: [u8; 16],
    /// Counts the starts of this agent.
    pub incarnation: u64,
    /// Digest of the whole configuration.
    pub config_digest: [u8; 32],
    /// Digest of what both nodes must agree on (R7).
    pub config_matters: [u8; 32],
    /// Lineages and positions of all trees, encoded by the sync half.
    pub lineages: Vec<u8>,
}

impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello")
            .field("pair", &self.pair)
            .field("node", &self.node)
            .field("agent_version", &self.agent_version)
            .field("incarnation", &self.incarnation)
            .field("lineages_len", &self.lineages.len())
            .finish_non_exhaustive()
    }
}

/// Asks for an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// A request of the local API that is to be carried out on the other node (JSON of the API's own type).
    Forward(Vec<u8>),
    /// Begins to put a file from the rescue back into a tree on the master; answered by
    /// [`Response::RestoreReady`]. The header's encoding belongs to the sync half.
    RestoreBegin(Vec<u8>),
    /// The next bytes of the file: at most [`CHUNK_MAX`]. Answered by [`Response::Done`].
    RestoreChunk {
        /// From [`Response::RestoreReady`].
        transfer: u64,
        /// The bytes.
        data: Vec<u8>,
    },
    /// The file is complete: put it into the tree. Answered by [`Response::Done`].
    RestoreEnd {
        /// From [`Response::RestoreReady`].
        transfer: u64,
        /// BLAKE3 of the whole file.
        hash: [u8; 32],
    },
    /// Forget the transfer. Answered by [`Response::Done`].
    RestoreAbort {
        /// From [`Response::RestoreReady`].
        transfer: u64,
    },
    /// Asks for the peer's [`Hello`] as it is now. Answered by [`Response::Hello`].
    Hello,
}

/// Most bytes of a [`Request::RestoreChunk`]: a quarter of a MiB takes some milliseconds and delays nothing.
pub const CHUNK_MAX: usize = 256 << 10;

/// Answers a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Not done.
    Error {
        /// For programs.
        code: ErrorCode,
        /// For people.
        text: String,
    },
    /// Done, nothing to say.
    Done,
    /// Answer to [`Request::Forward`] (JSON of the API's own type).
    Forwarded(Vec<u8>),
    /// Answer to [`Request::RestoreBegin`].
    RestoreReady {
        /// Names this transfer on this connection.
        transfer: u64,
    },
    /// Answer to [`Request::Hello`].
    Hello(Hello),
}

impl Response {
    /// An error.
    pub fn error(code: ErrorCode, text: impl Into<String>) -> Self {
        Self::Error {
            code,
            text: text.into(),
        }
    }
}

/// Why a request was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorCode {
    /// The receiver does not know this request.
    Unsupported,
    /// Too many requests at the same time.
    Busy,
    /// The answer does not fit into a frame.
    TooLong,
    /// The role or state of the receiver does not allow it.
    Refused,
    /// It was tried and failed.
    Failed,
}

/// Needs no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OneWay {
    /// The sender's lineages or positions changed in a way that matters to the relation. Whole, as in [`Hello`].
    Lineages(Vec<u8>),
    /// The sender's configuration changed.
    Config {
        /// As in [`Hello`].
        digest: [u8; 32],
        /// As in [`Hello`].
        matters: [u8; 32],
    },
}

/// Bytes of a message; cannot fail for these types.
pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_stdvec(message)
}

/// Decodes exactly one message: trailing bytes are an error.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Some(message),
        _ => None,
    }
}

/// The newest version that both ranges contain.
pub(crate) fn common_version(ours: (u16, u16), theirs: (u16, u16)) -> Option<u16> {
    let newest = ours.1.min(theirs.1);
    (newest >= ours.0 && newest >= theirs.0).then_some(newest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_newest_common_version_is_spoken() {
        assert_eq!(common_version((1, 1), (1, 1)), Some(1));
        assert_eq!(common_version((1, 2), (2, 3)), Some(2));
        assert_eq!(common_version((2, 3), (1, 2)), Some(2));
        assert_eq!(common_version((1, 1), (2, 3)), None);
        assert_eq!(common_version((2, 3), (1, 1)), None);
        assert_eq!(common_version((1, 1), (3, 2)), None);
    }

    /// The bytes of version 1, written down: a change of the format fails here.
    #[test]
    fn version_1_keeps_its_bytes() {
        let chunk = Request::RestoreChunk {
            transfer: 300,
            data: vec![9, 8],
        };
        assert_eq!(encode(&chunk).unwrap(), [2, 0xac, 2, 2, 9, 8]);
        assert_eq!(encode(&Request::Hello).unwrap(), [5]);
        let busy = Response::error(ErrorCode::Busy, "x");
        assert_eq!(encode(&busy).unwrap(), [0, 1, 1, b'x']);
        let lineages = OneWay::Lineages(vec![7]);
        assert_eq!(encode(&lineages).unwrap(), [0, 1, 7]);
        let hello = Hello {
            pair: "p".into(),
            node: "n".into(),
            agent_version: "v".into(),
            machine_id: [1; 16],
            boot_id: [2; 16],
            incarnation: 5,
            config_digest: [3; 32],
            config_matters: [4; 32],
            lineages: vec![6],
        };
        let bytes = [
            &[1, b'p', 1, b'n', 1, b'v'][..],
            &[1; 16],
            &[2; 16],
            &[5],
            &[3; 32],
            &[4; 32],
            &[1, 6],
        ]
        .concat();
        assert_eq!(encode(&hello).unwrap(), bytes);
        assert_eq!(decode::<Hello>(&bytes), Some(hello));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_do_not(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(request) = decode::<Request>(&bytes) {
                assert_eq!(decode::<Request>(&encode(&request).unwrap()), Some(request));
            }
            let _ = decode::<Hello>(&bytes);
            let _ = decode::<Response>(&bytes);
            let _ = decode::<OneWay>(&bytes);
        }
    }
}
