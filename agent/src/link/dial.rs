//! Making connections, and what both ends of one agree on first.
//!
//! The dialling side begins with [`PREFACE`] and one byte for the purpose; the other answers with one byte.

use super::status::Purpose;
use super::stream::DataStream;
use super::transport::{Duplex, Transport};
use super::wire::{Wire, WireHandle};
use super::{LinkError, Shared, control};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

/// Name and version of what is above the secure channel.
pub(super) const PREFACE: &[u8; 7] = b"tandem1";
pub(super) const ACCEPTED: u8 = b'+';
pub(super) const TURNED_AWAY: u8 = b'-';
/// How long a refused connection may take to carry its refusal.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// The purpose of a preface's last byte.
pub(super) fn purpose(byte: u8) -> Option<Purpose> {
    match byte {
        b'c' => Some(Purpose::Control),
        b'd' => Some(Purpose::Data),
        b'r' => Some(Purpose::Feed),
        _ => None,
    }
}

fn byte(purpose: Purpose) -> u8 {
    match purpose {
        Purpose::Control => b'c',
        Purpose::Data => b'd',
        Purpose::Feed => b'r',
    }
}

/// Pause before a connection that lasted is made again: the other end has to learn first that the old one ended.
const AT_ONCE: Duration = Duration::from_millis(5);

/// Keeps a control connection for ever: tries the links in order, with a growing pause after each failed round.
/// After a connection has ended the preferred link is tried first again; at once, if it lasted, else after a pause that
/// doubles with each, so that connections that end at once are not made without end.
pub(super) async fn keep_control(shared: Arc<Shared>) {
    let timing = shared.config.timing;
    let mut pause = timing.backoff_min;
    loop {
        let mut met = false;
        for path in 0..shared.config.paths.len() {
            let begun = Instant::now();
            let remote = SocketAddr::new(shared.path(path).peer, shared.config.port);
            let ended = match connect(&shared, path, Purpose::Control).await {
                Ok(stream) => control::run(&shared, stream).await,
                Err(error) => Err(error),
            };
            match ended {
                Ok(()) => {
                    met = true;
                    if begun.elapsed() > timing.backoff_min {
                        pause = AT_ONCE;
                    }
                    break;
                }
                Err(error) => {
                    tracing::debug!(remote = %remote, error = %error, "no control connection");
                    shared.failed(path, remote, false, error);
                }
            }
        }
        if !met {
            pause = pause.max(timing.backoff_min);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(timing.backoff_max);
    }
}

/// Dials a data connection over the first link that works; gives the first link's error if none does.
pub(super) async fn data(shared: &Arc<Shared>) -> Result<DataStream, LinkError> {
    if shared.control.borrow().is_none() {
        return Err(LinkError::NoControl);
    }
    let mut first_error = None;
    let paths = shared.config.paths.iter().enumerate();
    for (path, _) in paths.filter(|(_, path)| path.data) {
        match connect(shared, path, Purpose::Data).await {
            Ok(stream) => {
                shared.spawn(orphan(shared.clone(), stream.wire().clone()));
                return Ok(stream);
            }
            Err(error) => {
                shared.registry.failed(path, &error, false);
                first_error.get_or_insert(error);
            }
        }
    }
    Err(first_error.unwrap_or(LinkError::NoDataLink))
}

/// One attempt over one link: TCP, secure channel, preface. Cancel safe: dropping it cuts the connection.
async fn connect(
    shared: &Arc<Shared>,
    path: usize,
    purpose: Purpose,
) -> Result<DataStream, LinkError> {
    let timing = shared.config.timing;
    let tcp = tokio::time::timeout(timing.connect, tcp(shared, path))
        .await
        .map_err(|_| LinkError::ConnectTimeout(timing.connect))??;
    let (wire, handle) = Wire::new(tcp)?;
    let cut = handle.cut.clone().drop_guard();
    let stream = tokio::time::timeout(timing.handshake, open(&*shared.transport, wire, purpose))
        .await
        .map_err(|_| LinkError::HandshakeTimeout(timing.handshake))??;
    let session = shared
        .registry
        .enter(path, purpose, true, handle.clone())
        .ok_or(LinkError::Unwanted("too many data connections"))?;
    cut.disarm();
    Ok(DataStream::new(stream, handle, session))
}

/// From this node's address on the link, so that the other side knows the link by it.
async fn tcp(shared: &Shared, path: usize) -> io::Result<TcpStream> {
    let path = shared.path(path);
    let socket = match path.peer {
        std::net::IpAddr::V4(_) => TcpSocket::new_v4()?,
        std::net::IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.bind(SocketAddr::new(path.local, 0))?;
    socket
        .connect(SocketAddr::new(path.peer, shared.config.port))
        .await
}

pub(super) async fn open(
    transport: &dyn Transport,
    wire: Wire,
    purpose: Purpose,
) -> Result<Box<dyn Duplex>, LinkError> {
    let mut stream = transport.connect(wire).await?;
    let mut preface = PREFACE.to_vec();
    preface.push(byte(purpose));
    stream.write_all(&preface).await?;
    let mut answer = [0];
    stream.read_exact(&mut answer).await?;
    match answer {
        [ACCEPTED] => Ok(stream),
        [TURNED_AWAY] => Err(LinkError::TurnedAway),
        _ => Err(LinkError::Protocol("malformed answer".to_owned())),
    }
}

/// Closes a connection that is not wanted: what was written still leaves, for [`CLOSE_GRACE`] at most.
pub(super) async fn close(mut stream: Box<dyn Duplex>, wire: &WireHandle) {
    let polite = async {
        // It is being closed anyway.
        let _ = stream.shutdown().await;
        wire.closed.cancelled().await;
    };
    let _ = tokio::time::timeout(CLOSE_GRACE, polite).await;
    wire.cut.cancel();
}

/// Cuts a data connection that has outlived the control connection for too long.
pub(super) async fn orphan(shared: Arc<Shared>, wire: Arc<WireHandle>) {
    let limit = shared.config.timing.orphan;
    let mut control = shared.control.subscribe();
    let lost = async {
        // Neither wait can fail: the sender is in `shared`.
        while control.wait_for(Option::is_none).await.is_ok() {
            let again = control.wait_for(Option::is_some);
            if tokio::time::timeout(limit, again).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = wire.closed.cancelled() => {}
        () = lost => {
            tracing::warn!(remote = %wire.remote, "data connection cut: no control connection");
            wire.cut.cancel();
        }
    }
}
