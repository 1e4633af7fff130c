//! The border to the secure channel.

use super::wire::Wire;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

pub use futures_util::future::BoxFuture;

/// A byte stream to the authenticated peer.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Makes a stream to the one peer out of a TCP connection, or fails. Everything else of the link is above this.
///
/// The caller bounds the time and cuts the [`Wire`] when it gives up; an implementation then ends by itself.
/// It must tell nothing to the other side that proves less than the pinned key, and must fire
/// [`Wire::closed`](super::wire::WireHandle) by dropping the wire when the connection is over.
pub(crate) trait Transport: Send + Sync + 'static {
    /// The dialling side.
    fn connect(&self, wire: Wire) -> BoxFuture<'_, Result<Box<dyn Duplex>, LinkError>>;
    /// The accepting side.
    fn accept(&self, wire: Wire) -> BoxFuture<'_, Result<Box<dyn Duplex>, LinkError>>;
}

/// How somebody else showed this node's own key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloneEvidence {
    /// A connection to this node proved possession of this node's key.
    Dialled,
    /// The machine at the peer's address proved possession of this node's key.
    Answered,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// TCP or the system.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The secure channel failed: garbage, a cut, no common algorithm.
    #[error("handshake failed: {0}")]
    Protocol(String),
    /// Somebody with another key dialled this node.
    #[error("the caller's key is not the peer's")]
    Stranger,
    /// The machine at the peer's address has another key.
    #[error("the machine at the peer's address has another key than the configuration says")]
    WrongHostKey,
    /// This node's own key, on another machine (R6: cloned).
    #[error("another machine uses this node's key")]
    OwnKey(CloneEvidence),
    /// The machine at the peer's address passes this node's connection on to this node itself.
    #[error("the machine at the peer's address sends this node's connections back to it")]
    Reflected,
    /// Not authenticated in time.
    #[error("not authenticated within {0:?}")]
    HandshakeTimeout(Duration),
    /// Too many connections wait for their authentication.
    #[error("too many half-open connections")]
    HalfOpen,
    /// TCP connect took too long.
    #[error("no connection within {0:?}")]
    ConnectTimeout(Duration),
    /// The peer said no: too many data connections, or a control connection from the wrong side.
    #[error("the peer turned the connection away")]
    TurnedAway,
    /// This side said no, for the same reasons.
    #[error("connection of an authenticated peer turned away: {0}")]
    Unwanted(&'static str),
    /// Data needs a control connection first.
    #[error("no control connection")]
    NoControl,
    /// No link has `data = true`.
    #[error("no link is allowed to carry data")]
    NoDataLink,
    /// The protocol versions of the two agents do not overlap.
    #[error(
        "the peer speaks protocol {theirs_min} to {theirs_max}, this agent {ours_min} to {ours_max}"
    )]
    Versions {
        /// Oldest of the peer.
        theirs_min: u16,
        /// Newest of the peer.
        theirs_max: u16,
        /// Oldest of this agent.
        ours_min: u16,
        /// Newest of this agent.
        ours_max: u16,
    },
    /// No longer wanted.
    #[error("cancelled")]
    Cancelled,
}

impl LinkError {
    /// Whether somebody was turned away who is not, or does not behave like, the peer. Of a connection that this
    /// node dialled only another host key says so: the rest is a peer that starts or dies.
    pub(crate) fn is_refusal(&self, accepted: bool) -> bool {
        match self {
            Self::WrongHostKey | Self::OwnKey(_) | Self::Reflected => true,
            Self::Stranger
            | Self::HandshakeTimeout(_)
            | Self::HalfOpen
            | Self::Unwanted(_)
            | Self::Protocol(_) => accepted,
            _ => false,
        }
    }
}
