//! The connections over which a master feeds a replica: one data stream each, dialled by the master, and no control
//! connection beside it.
//!
//! The replica listens at its own address and lets in the two nodes of the pair. The versions of what is said are agreed
//! on in the stream itself. Who is connected and silent is found dead by TCP within some 20 s, and makes
//! room at once for whoever is master now.

use super::dial::{self, ACCEPTED, TURNED_AWAY};
use super::listen::{ACCEPT_PAUSE, HalfOpen, Place, authenticate, bind};
use super::ssh::SshTransport;
use super::status::Purpose;
use super::transport::LinkError;
use super::wire::{Wire, WireHandle};
use super::{FeedStream, REPORT_EVERY, Timing};
use crate::config::types::PublicKey;
use crate::keys::NodeKey;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Authenticated streams that a replica holds: of each node one, and its successor while it dies.
const FEEDS: usize = 4;

/// A replica that takes nothing for so long is given up and dialled anew: without a control connection nothing else tells
/// one whose power was cut. It also counts while its disk keeps it from reading, which then costs a new session.
const PATIENCE: Duration = Duration::from_secs(20);

/// Dials a replica and opens a stream to it. Bounded by connect and handshake time. Cancel safe: a dropped dial leaves
/// nothing behind.
///
/// # Errors
/// What ended the attempt.
pub async fn dial(
    key: &NodeKey,
    replica: PublicKey,
    address: SocketAddr,
    timing: &Timing,
) -> Result<FeedStream, LinkError> {
    let transport = SshTransport::new(key, &[replica]);
    let tcp = tokio::time::timeout(timing.connect, TcpStream::connect(address))
        .await
        .map_err(|_| LinkError::ConnectTimeout(timing.connect))??;
    let (wire, handle) = Wire::patient(tcp, PATIENCE)?;
    let cut = handle.cut.clone().drop_guard();
    let opened = dial::open(&transport, wire, Purpose::Feed);
    let stream = tokio::time::timeout(timing.handshake, opened)
        .await
        .map_err(|_| LinkError::HandshakeTimeout(timing.handshake))??;
    cut.disarm();
    Ok(FeedStream::new(stream, handle, None))
}

/// What a replica needs to be fed.
#[derive(Debug, Clone)]
pub struct ListenConfig {
    /// Its own key.
    pub key: NodeKey,
    /// The keys of the two nodes.
    pub nodes: [PublicKey; 2],
    /// Where it listens.
    pub address: SocketAddr,
    /// Bounds in time.
    pub timing: Timing,
}

/// Shared by the tasks of a listener.
struct Shared {
    config: ListenConfig,
    transport: SshTransport,
    half_open: HalfOpen,
    places: Arc<Semaphore>,
    streams: mpsc::Sender<FeedStream>,
    /// When a stranger was last reported.
    reported: Mutex<Option<Instant>>,
}

/// Listens until `stop` fires, and gives the streams out. An address that cannot be bound is tried again; `state` says why
/// it cannot.
pub async fn listen(
    config: ListenConfig,
    streams: mpsc::Sender<FeedStream>,
    state: watch::Sender<Result<(), String>>,
    stop: CancellationToken,
) {
    let shared = Arc::new(Shared {
        transport: SshTransport::new(&config.key, &config.nodes),
        config,
        half_open: HalfOpen::default(),
        places: Arc::new(Semaphore::new(FEEDS)),
        streams,
        reported: Mutex::default(),
    });
    let _ = stop
        .clone()
        .run_until_cancelled_owned(accept_all(shared, state, stop))
        .await;
}

async fn accept_all(
    shared: Arc<Shared>,
    state: watch::Sender<Result<(), String>>,
    stop: CancellationToken,
) {
    let ListenConfig {
        address, timing, ..
    } = shared.config;
    let mut pause = timing.backoff_min;
    let listener = loop {
        match bind(address) {
            Ok(listener) => break listener,
            Err(error) => drop(state.send_replace(Err(format!("{address}: {error}")))),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(timing.backoff_max);
    };
    drop(state.send_replace(Ok(())));
    loop {
        match listener.accept().await {
            // The nodes' addresses are not known: they come from wherever their routes lead.
            Ok((tcp, remote)) => match shared.half_open.enter(true, Instant::now()) {
                Some(place) => {
                    let admitted = admit(Arc::clone(&shared), tcp, remote, place);
                    tokio::spawn(stop.clone().run_until_cancelled_owned(admitted));
                }
                None => shared.refused(remote, &LinkError::HalfOpen),
            },
            Err(error) => {
                tracing::debug!(local = %address, error = %error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn admit(shared: Arc<Shared>, tcp: TcpStream, remote: SocketAddr, place: Place) {
    let (wire, handle) = match Wire::new(tcp) {
        Ok(wire) => wire,
        // Gone before it was looked at.
        Err(error) => return tracing::debug!(remote = %remote, error = %error, "lost"),
    };
    let cut = handle.cut.clone().drop_guard();
    let taken = take(&shared, wire, &handle, place).await;
    match taken {
        Ok(stream) => {
            cut.disarm();
            // Nobody takes it: the agent ends.
            let _ = shared.streams.send(stream).await;
        }
        // Whoever only looks whether the port answers is no news.
        Err(_) if handle.bytes_in() == 0 && handle.closed.is_cancelled() => {}
        Err(error) => shared.refused(remote, &error),
    }
}

async fn take(
    shared: &Shared,
    wire: Wire,
    handle: &Arc<WireHandle>,
    place: Place,
) -> Result<FeedStream, LinkError> {
    let limit: Duration = shared.config.timing.handshake;
    let (mut stream, purpose) = tokio::select! {
        done = tokio::time::timeout(limit, authenticate(&shared.transport, wire)) => {
            done.unwrap_or(Err(LinkError::HandshakeTimeout(limit)))?
        }
        () = place.evicted.cancelled() => return Err(LinkError::HalfOpen),
    };
    drop(place);
    let permit = Arc::clone(&shared.places).try_acquire_owned();
    let unwanted = match (purpose, &permit) {
        (Purpose::Control | Purpose::Data, _) => Some("a replica is only fed"),
        (Purpose::Feed, Err(_)) => Some("too many data connections"),
        (Purpose::Feed, Ok(_)) => None,
    };
    let answer = match unwanted {
        Some(_) => TURNED_AWAY,
        None => ACCEPTED,
    };
    tokio::time::timeout(limit, stream.write_all(&[answer]))
        .await
        .map_err(|_| LinkError::HandshakeTimeout(limit))??;
    match unwanted {
        None => Ok(FeedStream::new(stream, Arc::clone(handle), permit.ok())),
        Some(why) => {
            dial::close(stream, handle).await;
            Err(LinkError::Unwanted(why))
        }
    }
}

impl Shared {
    /// Strangers cannot fill the log.
    fn refused(&self, remote: SocketAddr, error: &LinkError) {
        if !error.is_refusal(true) {
            return tracing::debug!(remote = %remote, error = %error, "no stream");
        }
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.is_none_or(|at| at.elapsed() >= REPORT_EVERY) {
            *reported = Some(Instant::now());
            tracing::warn!(remote = %remote, error = %error, "connection refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    fn key(n: u8) -> NodeKey {
        NodeKey::from_seed(&[n; 32])
    }

    /// A replica with key 3 that lets the nodes 1 and 2 in.
    async fn replica() -> (SocketAddr, mpsc::Receiver<FeedStream>, CancellationToken) {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let config = ListenConfig {
            key: key(3),
            nodes: [key(1).public(), key(2).public()],
            address,
            timing: Timing::default(),
        };
        let (streams, taken) = mpsc::channel(1);
        let (state, mut listening) = watch::channel(Err("not yet".to_owned()));
        let stop = CancellationToken::new();
        tokio::spawn(listen(config, streams, state, stop.clone()));
        listening.wait_for(Result::is_ok).await.unwrap();
        (address, taken, stop)
    }

    async fn dialled(by: u8, replica: u8, address: SocketAddr) -> Result<FeedStream, LinkError> {
        dial(&key(by), key(replica).public(), address, &Timing::default()).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn both_nodes_feed_a_replica_and_nobody_else_does() {
        let (address, mut taken, stop) = replica().await;
        for node in [1, 2] {
            let mut from = dialled(node, 3, address).await.unwrap();
            let mut to = taken.recv().await.unwrap();
            from.write_all(b"news").await.unwrap();
            from.flush().await.unwrap();
            let mut heard = [0; 4];
            to.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"news");
        }
        assert!(
            dialled(4, 3, address).await.is_err(),
            "a stranger is let in"
        );
        let wrong = dialled(1, 5, address).await;
        assert!(matches!(wrong, Err(LinkError::WrongHostKey)), "{wrong:?}");
        stop.cancel();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_streams_of_a_replica_are_bounded() {
        let (address, mut taken, stop) = replica().await;
        let mut held = Vec::new();
        for _ in 0..FEEDS {
            held.push((
                dialled(1, 3, address).await.unwrap(),
                taken.recv().await.unwrap(),
            ));
        }
        let one_more = dialled(2, 3, address).await;
        assert!(
            matches!(one_more, Err(LinkError::TurnedAway)),
            "{one_more:?}"
        );
        held.pop();
        dialled(2, 3, address).await.unwrap();
        stop.cancel();
    }
}
