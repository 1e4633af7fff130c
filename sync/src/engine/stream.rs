//! A stream to the peer as two bounded queues of messages.
//!
//! Two tasks move the bytes; the session's own thread never waits for the stream. Both end with the cancel token, and the
//! token fires when either of them fails, so nobody waits for a stream that is gone (a blocked write on a dead
//! connection never wakes by itself).

use crate::engine::{SessionEnd, SessionError};
use crate::wire::{self, FrameError, Greeting, Message};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Messages that may wait in each direction. The protocol bounds what a replica says without being asked to far less;
/// on the sending side it is 16 MiB of contents at most.
const QUEUE: usize = 64;
/// Messages are put together into writes of this size.
const WRITE: usize = 256 << 10;
/// Time for the peer's greeting: it sends it at once.
const GREETING: Duration = Duration::from_secs(10);

/// Time for the last message of a session that ends.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why no more messages come.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The peer closed the stream between two messages.
    Closed,
    /// The token fired.
    Cancelled,
    /// Something that ends the session with an error.
    Failed(SessionError),
}

/// The two queues. Dropping it ends both tasks.
pub(crate) struct Channel {
    /// From the peer. `None` after the reason was taken from `ended`.
    pub incoming: mpsc::Receiver<Result<Message, Ended>>,
    /// To the peer.
    pub outgoing: mpsc::Sender<Message>,
    /// Fires when the session shall end.
    pub cancel: CancellationToken,
    /// The version in use.
    pub version: u16,
    /// Why the writer ended.
    failure: Failure,
}

/// The writer's error, if that is what ended a session.
type Failure = Arc<Mutex<Option<std::io::Error>>>;

impl Channel {
    /// How a session ends whose token fired: by its own will, or because the stream does not take bytes any more.
    pub fn cancelled(&self) -> Result<SessionEnd, SessionError> {
        // One value, written whole.
        let failure = self
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        failure.map_or(Ok(SessionEnd::Cancelled), |error| Err(error.into()))
    }

    /// Lets what was said last reach the peer, bounded.
    pub async fn finish(mut self) {
        let (nowhere, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.outgoing, nowhere));
        // The writer fires the token when it has written everything.
        let _ = tokio::time::timeout(LAST_WORDS, self.cancel.cancelled()).await;
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Exchanges greetings and starts the two tasks. `cancel` is the session's own token.
///
/// Cancel safe as far as a session is: dropped, it leaves a stream that cannot be used.
///
/// # Errors
/// The stream's, silence, no common version.
pub(crate) async fn open<S>(stream: S, cancel: CancellationToken) -> Result<Channel, SessionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let greeted = async {
        let ours = wire::encode(&Greeting::ours()).map_err(from_frame)?;
        writer.write_all(&ours).await?;
        writer.flush().await?;
        let body = wire::read_frame(&mut reader).await.map_err(from_frame)?;
        let body = body
            .ok_or_else(|| SessionError::Protocol("the stream ended before a greeting".into()))?;
        wire::decode_greeting(&body).map_err(from_frame)
    };
    let theirs = tokio::select! {
        () = cancel.cancelled() => return Err(SessionError::Stream(std::io::ErrorKind::Interrupted.into())),
        greeted = tokio::time::timeout(GREETING, greeted) => {
            greeted.map_err(|_| SessionError::Silent(GREETING, "greeting"))??
        }
    };
    let ours = Greeting::ours();
    let version = ours.common(&theirs).ok_or(SessionError::Version {
        ours_min: ours.min,
        ours_max: ours.max,
        theirs_min: theirs.min,
        theirs_max: theirs.max,
    })?;
    let (to_logic, incoming) = mpsc::channel(QUEUE);
    let (outgoing, from_logic) = mpsc::channel(QUEUE);
    tokio::spawn(read_all(reader, to_logic, cancel.clone()));
    let failure = Failure::default();
    tokio::spawn(write_all(
        writer,
        from_logic,
        cancel.clone(),
        Arc::clone(&failure),
    ));
    Ok(Channel {
        incoming,
        outgoing,
        cancel,
        version,
        failure,
    })
}

fn from_frame(error: FrameError) -> SessionError {
    match error {
        FrameError::Stream(error) => SessionError::Stream(error),
        other => SessionError::Protocol(other.to_string()),
    }
}

async fn read_all<R>(
    mut reader: R,
    queue: mpsc::Sender<Result<Message, Ended>>,
    cancel: CancellationToken,
) where
    R: AsyncRead + Unpin,
{
    loop {
        // The frame's future is dropped only together with the stream.
        let next = tokio::select! {
            () = cancel.cancelled() => Err(Ended::Cancelled),
            frame = wire::read_frame(&mut reader) => match frame {
                Ok(Some(body)) => wire::decode(&body).map_err(|e| Ended::Failed(from_frame(e))),
                Ok(None) => Err(Ended::Closed),
                Err(error) => Err(Ended::Failed(from_frame(error))),
            },
        };
        let last = next.is_err();
        tokio::select! {
            sent = queue.send(next) => if sent.is_err() { return },
            () = cancel.cancelled(), if !last => return,
        }
        if last {
            return;
        }
    }
}

async fn write_all<W>(
    mut writer: W,
    mut queue: mpsc::Receiver<Message>,
    cancel: CancellationToken,
    failure: Failure,
) where
    W: AsyncWrite + Unpin,
{
    let mut buffer = Vec::new();
    let work = async {
        while let Some(message) = queue.recv().await {
            buffer.clear();
            if let Err(error) = wire::encode_into(&message, &mut buffer) {
                tracing::error!(%error, "a message of our own cannot be sent");
                return;
            }
            while buffer.len() < WRITE
                && let Ok(message) = queue.try_recv()
            {
                if let Err(error) = wire::encode_into(&message, &mut buffer) {
                    tracing::error!(%error, "a message of our own cannot be sent");
                    return;
                }
            }
            if let Err(error) = async {
                writer.write_all(&buffer).await?;
                writer.flush().await
            }
            .await
            {
                tracing::debug!(%error, "the stream to the peer does not take bytes any more");
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                return;
            }
        }
        // The session is over and everything it said is on its way: tell the peer that nothing follows.
        if let Err(error) = writer.shutdown().await {
            tracing::debug!(%error, "closing the stream");
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = work => cancel.cancel(),
    }
}
