//! The life of one control connection: versions, hello, then requests and pings until it ends.

use super::frame::{self, FRAME_MAX};
use super::message::{
    ErrorCode, Hello, OneWay, PROTOCOL_MAX, PROTOCOL_MIN, Request, Response, common_version,
    decode, encode,
};
use super::rpc::{Kind, Packet, PeerRpc};
use super::stream::DataStream;
use super::wire::WireHandle;
use super::{LinkError, LinkEvent, Shared, Timing};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const MAGIC: &[u8; 3] = b"TDM";

/// Why a control connection ended.
#[derive(Debug)]
enum End {
    /// The stream ended or failed.
    Gone(String),
    /// Nothing was received for [`Timing::dead`].
    Silent,
    /// The peer made a newer one.
    Replaced,
    /// The peer broke the protocol.
    Malformed,
}

impl End {
    fn reason(&self) -> String {
        match self {
            Self::Gone(text) => text.clone(),
            Self::Silent => "the peer is silent".to_owned(),
            Self::Replaced => "replaced by a newer connection".to_owned(),
            Self::Malformed => "the peer sent a frame that means nothing".to_owned(),
        }
    }
}

/// Runs a control connection to its end. The error is one of the beginning; after that its end is an event.
pub(super) async fn run(shared: &Arc<Shared>, mut stream: DataStream) -> Result<(), LinkError> {
    let handshake = shared.config.timing.handshake;
    let (version, hello) = tokio::time::timeout(handshake, greet(shared, &mut stream))
        .await
        .map_err(|_| LinkError::HandshakeTimeout(handshake))??;
    let mine = CancellationToken::new();
    let before = {
        let mut current = shared
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, mine.clone())
    };
    before.cancel();
    // The one before has told its end when it lets go of this.
    let _turn = shared.turn.lock().await;
    let path = stream.session().path();
    let closed = CancellationToken::new();
    let gone = closed.clone().drop_guard();
    let (rpc, frames) = PeerRpc::new(version, closed);
    tracing::info!(
        link = stream.link(),
        node = hello.node,
        version,
        "connected to the peer"
    );
    shared.handler.greeted(&hello);
    let connected = LinkEvent::Connected {
        rpc: rpc.clone(),
        hello,
        link: stream.link().to_owned(),
    };
    // First, so that whoever hears of it can dial data at once.
    shared.control.send_replace(Some(path));
    if shared.events.send(connected).await.is_err() {
        shared.control.send_replace(None);
        return Err(LinkError::Cancelled);
    }
    let end = live(shared, stream, &rpc, frames, &mine).await;
    shared.control.send_replace(None);
    drop(gone);
    if matches!(end, End::Silent) {
        shared.registry.cut_data(path);
    }
    let reason = end.reason();
    tracing::info!(
        link = shared.path(path).name,
        reason,
        "disconnected from the peer"
    );
    // The agent may be going down.
    let _ = shared.events.send(LinkEvent::Disconnected { reason }).await;
    Ok(())
}

/// Versions, then hellos, both ways at once.
async fn greet(shared: &Shared, stream: &mut DataStream) -> Result<(u16, Hello), LinkError> {
    let ours = (PROTOCOL_MIN, PROTOCOL_MAX);
    let mut first = MAGIC.to_vec();
    first.extend_from_slice(&ours.0.to_le_bytes());
    first.extend_from_slice(&ours.1.to_le_bytes());
    frame::write(stream, &first).await?;
    let theirs = read_frame(stream).await?;
    let theirs = parse_versions(&theirs).ok_or_else(|| malformed("version frame"))?;
    let version = common_version(ours, theirs).ok_or(LinkError::Versions {
        theirs_min: theirs.0,
        theirs_max: theirs.1,
        ours_min: ours.0,
        ours_max: ours.1,
    })?;
    let hello = encode(&shared.handler.hello()).map_err(|_| malformed("own hello"))?;
    frame::write(stream, &hello).await?;
    let hello = decode(&read_frame(stream).await?).ok_or_else(|| malformed("hello"))?;
    Ok((version, hello))
}

fn malformed(what: &str) -> LinkError {
    LinkError::Protocol(format!("malformed {what}"))
}

/// Later versions may append to the first frame.
fn parse_versions(bytes: &[u8]) -> Option<(u16, u16)> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let min = u16::from_le_bytes(rest.get(..2)?.try_into().ok()?);
    let max = u16::from_le_bytes(rest.get(2..4)?.try_into().ok()?);
    Some((min, max))
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, LinkError> {
    let frame = frame::read(stream, FRAME_MAX).await?;
    frame.ok_or_else(|| LinkError::Io(io::ErrorKind::UnexpectedEof.into()))
}

async fn live(
    shared: &Arc<Shared>,
    stream: DataStream,
    rpc: &PeerRpc,
    frames: mpsc::Receiver<Vec<u8>>,
    replaced: &CancellationToken,
) -> End {
    let wire = stream.wire().clone();
    let sent_ping = Mutex::new(None);
    let rtt = |id: u64| {
        let sent: &Mutex<Option<(u64, Instant)>> = &sent_ping;
        let sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.and_then(|(expected, at)| (expected == id).then(|| at.elapsed()))
    };
    // The books keep the entry while the stream's halves live; the guard of the stream itself is inside of them.
    let session = stream.session().handle();
    let (reader, writer) = tokio::io::split(stream);
    let pong = |id: u64| {
        if let Some(rtt) = rtt(id) {
            session.set_rtt(rtt);
        }
    };
    tokio::select! {
        biased;
        () = replaced.cancelled() => End::Replaced,
        end = read_all(shared, reader, rpc, pong) => end,
        end = write_all(writer, rpc, frames) => end,
        () = watch(shared, &wire, rpc, &sent_ping) => End::Silent,
    }
}

/// Never waits for the writer, so that two full connections cannot block each other.
async fn read_all(
    shared: &Arc<Shared>,
    mut reader: ReadHalf<DataStream>,
    rpc: &PeerRpc,
    pong: impl Fn(u64),
) -> End {
    loop {
        let frame = match frame::read(&mut reader, FRAME_MAX).await {
            Ok(Some(frame)) => frame,
            Ok(None) => return End::Gone("the peer ended the connection".to_owned()),
            Err(error) => return End::Gone(error.to_string()),
        };
        let Some(packet) = Packet::decode(frame) else {
            return End::Malformed;
        };
        match packet.kind {
            Kind::Request => request(shared, rpc, packet.id, &packet.body),
            Kind::Response => rpc.inner.answered(packet.id, &packet.body),
            Kind::OneWay => match decode::<OneWay>(&packet.body) {
                Some(message) => shared.handler.one_way(message),
                None => tracing::debug!("one-way message of a newer agent ignored"),
            },
            Kind::Ping => rpc.inner.urgent.pong(packet.id),
            Kind::Pong => pong(packet.id),
        }
    }
}

/// Starts the work on a request in a task of its own, which outlives the connection if need be.
fn request(shared: &Arc<Shared>, rpc: &PeerRpc, id: u64, body: &[u8]) {
    let Some(request) = decode::<Request>(body) else {
        let unsupported = Response::error(ErrorCode::Unsupported, "this agent does not know that");
        return rpc.inner.answer_now(id, &unsupported);
    };
    let Ok(permit) = shared.requests.clone().try_acquire_owned() else {
        let busy = Response::error(ErrorCode::Busy, "too many requests at the same time");
        return rpc.inner.answer_now(id, &busy);
    };
    let (handler, rpc) = (shared.handler.clone(), rpc.clone());
    shared.spawn(async move {
        let response = handler.request(request).await;
        rpc.inner.answer(id, &response).await;
        drop(permit);
    });
}

async fn write_all(
    mut writer: WriteHalf<DataStream>,
    rpc: &PeerRpc,
    mut frames: mpsc::Receiver<Vec<u8>>,
) -> End {
    loop {
        let written = tokio::select! {
            biased;
            packet = rpc.inner.urgent.next() => write(&mut writer, &packet.encode()).await,
            Some(frame) = frames.recv() => write(&mut writer, &frame).await,
        };
        if let Err(error) = written {
            return End::Gone(error.to_string());
        }
    }
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> io::Result<()> {
    frame::write(writer, frame).await
}

/// Pings, and returns when nothing was received for too long. Any byte counts, also those of a long frame.
async fn watch(
    shared: &Shared,
    wire: &WireHandle,
    rpc: &PeerRpc,
    sent_ping: &Mutex<Option<(u64, Instant)>>,
) {
    let timing = shared.config.timing;
    let mut silence = Silence::new(Instant::now(), wire.bytes_in());
    let mut id = 0;
    loop {
        id += 1;
        *sent_ping.lock().unwrap_or_else(PoisonError::into_inner) = Some((id, Instant::now()));
        rpc.inner.urgent.ping(id);
        tokio::time::sleep(timing.ping).await;
        if silence.is_death(Instant::now(), wire.bytes_in(), &timing) {
            return;
        }
    }
}

/// Judges when nothing is received. Pure: time is an argument.
struct Silence {
    bytes: u64,
    heard: Instant,
    looked: Instant,
}

impl Silence {
    fn new(now: Instant, bytes: u64) -> Self {
        Self {
            bytes,
            heard: now,
            looked: now,
        }
    }

    /// Whether `bytes` received in all by `now` mean that the peer is dead. To be asked every `timing.ping`; an
    /// interval of twice that means that this process itself did not run (a paused machine), and what the peer sent
    /// meanwhile has not been read yet: the silence begins anew.
    fn is_death(&mut self, now: Instant, bytes: u64, timing: &Timing) -> bool {
        let stalled = now.duration_since(self.looked) > timing.ping * 2;
        self.looked = now;
        if bytes != self.bytes || stalled {
            self.bytes = bytes;
            self.heard = now;
        }
        now.duration_since(self.heard) >= timing.dead
    }
}

#[cfg(feature = "fuzz")]
pub(super) fn fuzz(bytes: &[u8]) {
    if let Some(theirs) = parse_versions(bytes) {
        let common = common_version((PROTOCOL_MIN, PROTOCOL_MAX), theirs);
        assert!(common.is_none_or(|v| (PROTOCOL_MIN..=PROTOCOL_MAX).contains(&v)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn silence_is_death_but_an_own_pause_is_not() {
        let (timing, start) = (Timing::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut silence = Silence::new(start, 0);
        assert!(!silence.is_death(at(1), 10, &timing));
        assert!(!silence.is_death(at(2), 10, &timing));
        assert!(!silence.is_death(at(3), 10, &timing));
        // Paused for an hour.
        assert!(!silence.is_death(at(3603), 10, &timing));
        assert!(!silence.is_death(at(3604), 10, &timing));
        assert!(!silence.is_death(at(3605), 10, &timing));
        assert!(silence.is_death(at(3606), 10, &timing));
    }
}
