//! A stream to the peer as two bounded queues of packs, each of them some messages.
//!
//! Two tasks move the bytes; the session's own thread never waits for the stream. Both end with the cancel token, and the
//! token fires when either of them fails, so nobody waits for a stream that is gone (a blocked write on a dead
//! connection never wakes by itself).
//!
//! A message goes through five threads from one session to the other. For a small file that costs more than the file, so
//! each step takes a pack: the session fills one as long as it has something to say, and the reader gives out in one piece
//! what had arrived.

use crate::engine::{SessionEnd, SessionError, clock};
use crate::wire::{self, Body, FrameError, Greeting, Message};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

mod squeeze;
use squeeze::Squeeze;
pub use squeeze::{Gauge, LinkUse};

/// Packs that may wait in each direction: 4 MiB on the sending side. The transport below has a buffer of its own.
pub(crate) const QUEUE: usize = 16;
/// The same to one of many receivers: 1 MiB.
pub(crate) const SHORT_QUEUE: usize = 4;
/// Bytes of a pack: what is larger gains nothing (russh's largest packet).
pub(crate) const PACK: usize = 256 << 10;
/// Bytes that are read into one piece of memory, and the room that one must have left to be read into: what is cut at its end is copied
/// to the next one.
const BUFFER: usize = 2 * PACK;
const ROOM: usize = 64 << 10;
/// Messages of a received pack that are given out at once: decoded they take more memory than on the wire.
const PACK_MESSAGES: usize = 512;
/// Longest time for which a message waits for others that go with it. A build for tests says less in that time.
const HOLD: u64 = clock::ms(if cfg!(test) { 20 } else { 1 });
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

/// Messages from the peer.
pub(crate) struct Incoming {
    queue: mpsc::Receiver<VecDeque<Result<Message, Ended>>>,
    /// What is left of the last pack.
    pack: VecDeque<Result<Message, Ended>>,
}

impl Incoming {
    /// The next message. `None` after the reason for the end was given. Cancel safe.
    pub async fn recv(&mut self) -> Option<Result<Message, Ended>> {
        if self.pack.is_empty() {
            self.pack = self.queue.recv().await?;
        }
        self.pack.pop_front()
    }
}

/// Frames that go to the peer in one piece.
pub(crate) struct Pack {
    frames: Vec<u8>,
    begun: u64,
}

impl Pack {
    /// An empty one.
    pub fn new() -> Pack {
        Pack {
            frames: Vec::new(),
            begun: clock::now(),
        }
    }

    /// Adds a message.
    ///
    /// # Errors
    /// A message that the peer would not accept, which is this end's own fault.
    pub fn push(&mut self, message: &Message) -> Result<(), SessionError> {
        wire::encode_into(message, &mut self.frames)
            .map_err(|e| SessionError::Local(format!("a message cannot be sent: {e}")))
    }

    /// It is to be sent now, whatever else there is to say: it is large enough, or its first message has waited enough.
    pub fn is_due(&self) -> bool {
        self.frames.len() >= PACK || clock::now().saturating_sub(self.begun) >= HOLD
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

/// Messages to the peer. Clones go into the same queue.
#[derive(Clone)]
pub(crate) struct Outgoing(mpsc::Sender<Vec<u8>>);

/// The stream is gone.
#[derive(Debug)]
pub(crate) struct Gone;

/// Room for one pack.
pub(crate) struct Room<'a>(mpsc::Permit<'a, Vec<u8>>);

impl Outgoing {
    /// To nobody.
    #[cfg(test)]
    pub fn nowhere() -> Outgoing {
        Outgoing(mpsc::channel(1).0)
    }

    /// Waits for room. Cancel safe.
    pub async fn reserve(&self) -> Result<Room<'_>, Gone> {
        self.0.reserve().await.map(Room).map_err(|_| Gone)
    }

    /// Sends one message.
    pub async fn send(&self, message: Message) -> Result<(), Gone> {
        let mut pack = Pack::new();
        if let Err(error) = pack.push(&message) {
            tracing::error!(%error, "a session ends");
            return Err(Gone);
        }
        self.0.send(pack.frames).await.map_err(|_| Gone)
    }

    /// Sends a message if there is room for it.
    pub fn try_send(&self, message: &Message) {
        if let Ok(permit) = self.0.try_reserve() {
            let mut pack = Pack::new();
            if pack.push(message).is_ok() {
                permit.send(pack.frames);
            }
        }
    }
}

impl Room<'_> {
    /// Sends a pack; an empty one is nothing.
    pub fn send(self, pack: Pack) {
        if !pack.is_empty() {
            self.0.send(pack.frames);
        }
    }
}

/// The two queues. Dropping it ends both tasks.
pub(crate) struct Channel {
    /// From the peer.
    pub incoming: Incoming,
    /// To the peer.
    pub outgoing: Outgoing,
    /// Fires when the session shall end.
    pub cancel: CancellationToken,
    /// The version in use.
    pub version: u16,
    /// Whether the peer takes what is sent.
    pub took: Took,
    /// Why the writer ended.
    failure: Failure,
}

/// When the stream last took bytes (CLOCK_BOOTTIME nanoseconds); clones share it.
#[derive(Clone)]
pub(crate) struct Took(Arc<AtomicU64>);

impl Took {
    /// That moment.
    pub fn at(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
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
        drop(std::mem::replace(&mut self.outgoing, Outgoing(nowhere)));
        // The writer fires the token when it has written everything.
        let _ = tokio::time::timeout(LAST_WORDS, self.cancel.cancelled()).await;
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Exchanges greetings and starts the two tasks. `queue` packs may wait for the stream; they are compressed while its link
/// is full, as `gauge` says. `cancel` is the session's own
/// token.
///
/// Cancel safe as far as a session is: dropped, it leaves a stream that cannot be used.
///
/// # Errors
/// The stream's, silence, no common version.
pub(crate) async fn open<S>(
    stream: S,
    queue: usize,
    gauge: Option<Gauge>,
    cancel: CancellationToken,
) -> Result<Channel, SessionError>
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
    let (outgoing, from_logic) = mpsc::channel(queue);
    tokio::spawn(read_all(reader, to_logic, cancel.clone()));
    let failure = Failure::default();
    let took = Took(Arc::new(AtomicU64::new(clock::now())));
    tokio::spawn(write_all(
        writer,
        from_logic,
        Squeeze::new(gauge, clock::now()),
        cancel.clone(),
        (Arc::clone(&failure), took.clone()),
    ));
    Ok(Channel {
        incoming: Incoming {
            queue: incoming,
            pack: VecDeque::new(),
        },
        outgoing: Outgoing(outgoing),
        cancel,
        version,
        took,
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
    reader: R,
    queue: mpsc::Sender<VecDeque<Result<Message, Ended>>>,
    cancel: CancellationToken,
) where
    R: AsyncRead + Unpin,
{
    let mut reader = Reader::new(reader);
    loop {
        // The pack's future is dropped only together with the stream.
        let pack = tokio::select! {
            () = cancel.cancelled() => VecDeque::from([Err(Ended::Cancelled)]),
            pack = reader.pack() => pack,
        };
        let last = matches!(pack.back(), Some(Err(_)));
        tokio::select! {
            sent = queue.send(pack) => if sent.is_err() { return },
            () = cancel.cancelled(), if !last => return,
        }
        if last {
            return;
        }
    }
}

/// What comes from the peer.
struct Reader<R> {
    stream: R,
    /// What has come and was not given out. What was given out shares its memory.
    buffer: BytesMut,
    /// What is left of a compressed pack.
    unpacked: Bytes,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    fn new(stream: R) -> Self {
        Reader {
            stream,
            buffer: BytesMut::new(),
            unpacked: Bytes::new(),
        }
    }

    /// Waits for one message and takes those along that have come with it whole, as many as a sender puts into a pack. A message can
    /// take twenty times as much memory as on the wire, and as many packs wait as the queue has. An error is the last.
    async fn pack(&mut self) -> VecDeque<Result<Message, Ended>> {
        let mut pack = VecDeque::new();
        let mut bytes = 0;
        loop {
            let next = self.message().await;
            let last = next.is_err();
            bytes += next.as_ref().map_or(0, |(_, length)| *length);
            pack.push_back(next.map(|(message, _)| message));
            if last || pack.len() == PACK_MESSAGES || bytes >= PACK || !self.has_more() {
                return pack;
            }
        }
    }

    /// The next message is here, or what ends the stream.
    fn has_more(&self) -> bool {
        !self.unpacked.is_empty() || wire::begins_with_frame(&self.buffer)
    }

    /// The next message, and its bytes.
    async fn message(&mut self) -> Result<(Message, usize), Ended> {
        let failed = |error| Ended::Failed(from_frame(error));
        let body = loop {
            if !self.unpacked.is_empty() {
                break wire::next_frame(&mut self.unpacked).map_err(failed)?;
            }
            match wire::take_body(&mut self.buffer).map_err(failed)? {
                Ok(Body::Message(body)) => break body,
                Ok(Body::Pack(body)) => self.unpacked = wire::unpack(&body).map_err(failed)?,
                Err(missing) => self.read(missing).await?,
            }
        };
        let message = wire::decode(&body).map_err(failed)?;
        Ok((message, body.len()))
    }

    /// Reads what has come; at least `missing` bytes are to come, and [`wire::MAX_FRAME`] at most.
    async fn read(&mut self, missing: usize) -> Result<(), Ended> {
        let failed = |error: std::io::Error| Ended::Failed(error.into());
        if self.buffer.capacity() - self.buffer.len() < missing.max(ROOM) {
            self.buffer.reserve(missing.max(BUFFER));
        }
        match self
            .stream
            .read_buf(&mut self.buffer)
            .await
            .map_err(failed)?
        {
            0 if self.buffer.is_empty() => Err(Ended::Closed),
            0 => Err(failed(std::io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }
}

async fn write_all<W>(
    mut writer: W,
    mut queue: mpsc::Receiver<Vec<u8>>,
    mut squeeze: Squeeze,
    cancel: CancellationToken,
    (failure, took): (Failure, Took),
) where
    W: AsyncWrite + Unpin,
{
    let work = async {
        while let Some(mut frames) = queue.recv().await {
            // Small packs that wait go with it.
            while frames.len() < PACK
                && let Ok(more) = queue.try_recv()
            {
                frames.extend_from_slice(&more);
            }
            if squeeze.wants(clock::now()) {
                let packed = wire::pack(&frames);
                squeeze.was(packed.is_some());
                frames = packed.unwrap_or(frames);
            }
            if let Err(error) = put(&mut writer, &frames, &took).await {
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

/// Writes all of it, and notes each part that the stream took.
async fn put<W>(writer: &mut W, mut bytes: &[u8], took: &Took) -> std::io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    while !bytes.is_empty() {
        let count = writer.write(bytes).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        took.0.store(clock::now(), Ordering::Relaxed);
        bytes = &bytes[count..];
    }
    writer.flush().await
}

#[cfg(test)]
mod tests;
