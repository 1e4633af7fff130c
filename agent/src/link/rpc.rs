//! Requests and answers over one control connection.

use super::frame::FRAME_MAX;
use super::message::{ErrorCode, OneWay, Request, Response, decode, encode};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Own calls that wait for their answers.
pub(crate) const CALLS: usize = 64;
/// Frames that wait to be written.
pub(crate) const OUT: usize = 64;
/// A one-way message waits this long for room.
const SEND_TIMEOUT: Duration = Duration::from_secs(3);
/// Kind and id before the body.
const HEADER: usize = 9;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The connection is gone. Whether the peer carried the request out is unknown.
    #[error("the connection to the other node is gone")]
    Disconnected,
    /// No answer in time. Whether the peer carries the request out is unknown.
    #[error("no answer of the other node within {0:?}")]
    TimedOut(Duration),
    /// The request does not fit into a frame; it was not sent.
    #[error("the request is too long")]
    TooLong,
    /// `CALLS` calls wait already; it was not sent.
    #[error("too many calls to the other node at the same time")]
    Busy,
    /// The peer said no.
    #[error("the other node: {text}")]
    Refused {
        /// For programs.
        code: ErrorCode,
        /// For people.
        text: String,
    },
}

/// Calls the peer over one control connection. Clones share it. Useless after that connection's
/// [`LinkEvent::Disconnected`](super::LinkEvent::Disconnected): every call then fails at once.
#[derive(Debug, Clone)]
pub struct PeerRpc {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) version: u16,
    pub(crate) closed: CancellationToken,
    pub(crate) urgent: Urgent,
    out: mpsc::Sender<Vec<u8>>,
    pending: Mutex<HashMap<u64, oneshot::Sender<Response>>>,
    next: AtomicU64,
}

/// Pings and pongs overtake everything that waits, so that the reader never waits for the writer.
#[derive(Debug, Default)]
pub(crate) struct Urgent {
    /// Latest ping to be sent, and latest to be answered; 0 is none.
    ping: AtomicU64,
    pong: AtomicU64,
    wake: Notify,
}

impl Urgent {
    pub(crate) fn ping(&self, id: u64) {
        self.ping.store(id, Ordering::Relaxed);
        self.wake.notify_one();
    }

    pub(crate) fn pong(&self, id: u64) {
        self.pong.store(id, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Waits for something to send. Cancel safe.
    pub(crate) async fn next(&self) -> Packet {
        loop {
            for (slot, kind) in [(&self.pong, Kind::Pong), (&self.ping, Kind::Ping)] {
                let id = slot.swap(0, Ordering::Relaxed);
                if id != 0 {
                    return Packet {
                        kind,
                        id,
                        body: Vec::new(),
                    };
                }
            }
            self.wake.notified().await;
        }
    }
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Request = 0,
    Response = 1,
    OneWay = 2,
    Ping = 3,
    Pong = 4,
}

/// One frame: kind (u8), id (u64, little endian), body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) kind: Kind,
    pub(crate) id: u64,
    pub(crate) body: Vec<u8>,
}

impl Packet {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.body.len());
        bytes.push(self.kind as u8);
        bytes.extend_from_slice(&self.id.to_le_bytes());
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// `None`: too short, or a kind that this version does not know.
    pub(crate) fn decode(mut bytes: Vec<u8>) -> Option<Self> {
        let header: [u8; HEADER] = bytes.get(..HEADER)?.try_into().ok()?;
        let [kind, id @ ..] = header;
        let kind = match kind {
            0 => Kind::Request,
            1 => Kind::Response,
            2 => Kind::OneWay,
            3 => Kind::Ping,
            4 => Kind::Pong,
            _ => return None,
        };
        bytes.drain(..HEADER);
        Some(Self {
            kind,
            id: u64::from_le_bytes(id),
            body: bytes,
        })
    }
}

/// Takes a call off the list, however the call ends.
struct Waiting<'a> {
    inner: &'a Inner,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.inner.pending().remove(&self.id);
    }
}

impl PeerRpc {
    pub(crate) fn new(version: u16, closed: CancellationToken) -> (Self, mpsc::Receiver<Vec<u8>>) {
        let (out, frames) = mpsc::channel(OUT);
        let inner = Inner {
            version,
            closed,
            urgent: Urgent::default(),
            out,
            pending: Mutex::new(HashMap::new()),
            next: AtomicU64::new(1),
        };
        let rpc = Self {
            inner: Arc::new(inner),
        };
        (rpc, frames)
    }

    /// Protocol version of this connection.
    pub fn version(&self) -> u16 {
        self.inner.version
    }

    /// Fires when the connection is gone.
    pub fn closed(&self) -> CancellationToken {
        self.inner.closed.clone()
    }

    /// Sends a request and waits for its answer, at most `deadline`. [`Response::Error`] becomes
    /// [`CallError::Refused`]. Dropping the future forgets the answer; the peer may carry the request out.
    pub async fn call(&self, request: &Request, deadline: Duration) -> Result<Response, CallError> {
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let frame = frame(Kind::Request, id, request)?;
        let (sender, answer) = oneshot::channel();
        let waiting = Waiting {
            inner: &self.inner,
            id,
        };
        {
            let mut pending = self.inner.pending();
            if pending.len() >= CALLS {
                return Err(CallError::Busy);
            }
            pending.insert(id, sender);
        }
        let exchange = async {
            self.inner
                .out
                .send(frame)
                .await
                .map_err(|_| CallError::Disconnected)?;
            answer.await.map_err(|_| CallError::Disconnected)
        };
        let answered = tokio::select! {
            biased;
            () = self.inner.closed.cancelled() => Err(CallError::Disconnected),
            answered = tokio::time::timeout(deadline, exchange) => {
                answered.unwrap_or(Err(CallError::TimedOut(deadline)))
            }
        };
        drop(waiting);
        match answered? {
            Response::Error { code, text } => Err(CallError::Refused { code, text }),
            response => Ok(response),
        }
    }

    /// Queues a one-way message; waits for room at most 3 s. `Ok` does not mean that it has arrived.
    pub async fn send(&self, message: &OneWay) -> Result<(), CallError> {
        let frame = frame(Kind::OneWay, 0, message)?;
        tokio::select! {
            biased;
            () = self.inner.closed.cancelled() => Err(CallError::Disconnected),
            sent = self.inner.out.send_timeout(frame, SEND_TIMEOUT) => {
                sent.map_err(|_| CallError::TimedOut(SEND_TIMEOUT))
            }
        }
    }
}

impl Inner {
    fn pending(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Response>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands an answer to its call; one that nobody waits for any more is dropped.
    pub(crate) fn answered(&self, id: u64, body: &[u8]) {
        let Some(waiting) = self.pending().remove(&id) else {
            return;
        };
        let response = decode(body)
            .unwrap_or_else(|| Response::error(ErrorCode::Unsupported, "unreadable answer"));
        // The call may have timed out in this moment.
        let _ = waiting.send(response);
    }

    /// Queues an answer; waits for room until the connection is gone.
    pub(crate) async fn answer(&self, id: u64, response: &Response) {
        let frame = answer_frame(id, response);
        tokio::select! {
            () = self.closed.cancelled() => {}
            // The writer is gone with its connection.
            _ = self.out.send(frame) => {}
        }
    }

    /// Queues an answer if there is room now; else the caller's deadline tells it.
    pub(crate) fn answer_now(&self, id: u64, response: &Response) {
        let _ = self.out.try_send(answer_frame(id, response));
    }
}

fn answer_frame(id: u64, response: &Response) -> Vec<u8> {
    match frame(Kind::Response, id, response) {
        Ok(frame) => frame,
        Err(_) => {
            let remark = Response::error(ErrorCode::TooLong, "the answer is too long");
            let body = encode(&remark).unwrap_or_default();
            Packet {
                kind: Kind::Response,
                id,
                body,
            }
            .encode()
        }
    }
}

fn frame<T: serde::Serialize>(kind: Kind, id: u64, message: &T) -> Result<Vec<u8>, CallError> {
    let body = encode(message).map_err(|_| CallError::TooLong)?;
    if body.len() + HEADER > FRAME_MAX {
        return Err(CallError::TooLong);
    }
    Ok(Packet { kind, id, body }.encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_keep_their_bytes() {
        let packet = Packet {
            kind: Kind::OneWay,
            id: 0x0102,
            body: vec![5, 6],
        };
        let bytes = packet.encode();
        assert_eq!(bytes, [2, 2, 1, 0, 0, 0, 0, 0, 0, 5, 6]);
        assert_eq!(Packet::decode(bytes), Some(packet));
        assert_eq!(Packet::decode(vec![5; 12]), None);
        assert_eq!(Packet::decode(vec![0; 8]), None);
    }

    #[tokio::test]
    async fn calls_are_bounded_and_leave_nothing_behind() {
        let closed = CancellationToken::new();
        let (rpc, mut frames) = PeerRpc::new(1, closed.clone());
        let short = Duration::from_millis(20);
        assert!(matches!(
            rpc.call(&Request::Hello, short).await,
            Err(CallError::TimedOut(_))
        ));
        assert!(rpc.inner.pending().is_empty());
        let long = Duration::from_secs(60);
        let calls: Vec<_> = (0..CALLS)
            .map(|_| {
                let rpc = rpc.clone();
                tokio::spawn(async move { rpc.call(&Request::Hello, long).await })
            })
            .collect();
        for _ in 0..=CALLS {
            frames.recv().await.unwrap();
        }
        assert!(matches!(
            rpc.call(&Request::Hello, long).await,
            Err(CallError::Busy)
        ));
        closed.cancel();
        for call in calls {
            assert!(matches!(call.await.unwrap(), Err(CallError::Disconnected)));
        }
        assert!(rpc.inner.pending().is_empty());
    }

    #[tokio::test]
    async fn a_request_that_is_too_long_is_not_sent() {
        let (rpc, mut frames) = PeerRpc::new(1, CancellationToken::new());
        let request = Request::Forward(vec![0; FRAME_MAX]);
        assert!(matches!(
            rpc.call(&request, Duration::from_secs(1)).await,
            Err(CallError::TooLong)
        ));
        assert!(frames.try_recv().is_err());
    }
}
