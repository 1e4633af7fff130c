//! Accepting connections: on the link addresses only, with bounds before and after authentication.

use super::dial::{self, ACCEPTED, PREFACE, TURNED_AWAY};
use super::status::Purpose;
use super::transport::{Duplex, Transport};
use super::wire::{Wire, WireHandle};
use super::{HALF_OPEN, LinkError, LinkEvent, Shared, control};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Connections that the kernel may hold for us.
const BACKLOG: i32 = 32;
/// Pause after `accept` failed (no descriptors, no memory).
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An honest handshake takes some tens of milliseconds. Whoever has not proved its key after this long makes room when
/// somebody else comes: a user of the peer's machine who holds all places cannot keep the peer's agent out.
const PRECEDENCE: Duration = Duration::from_millis(500);

/// Places for connections that are not authenticated yet.
#[derive(Default)]
pub(super) struct HalfOpen {
    anybody: Places,
    peer: Places,
}

/// Half of them, the oldest first.
#[derive(Default, Clone)]
struct Places(Arc<Mutex<Vec<(Instant, CancellationToken)>>>);

/// A place that is taken, until it is dropped.
pub(super) struct Place {
    places: Places,
    /// Fires when somebody else needs the place.
    pub(super) evicted: CancellationToken,
}

impl HalfOpen {
    pub(super) fn enter(&self, from_peer_address: bool, now: Instant) -> Option<Place> {
        let reserved = from_peer_address.then(|| self.peer.enter(now)).flatten();
        reserved.or_else(|| self.anybody.enter(now))
    }
}

impl Places {
    fn enter(&self, now: Instant) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.len() >= HALF_OPEN / 2 {
            let (since, evicted) = taken.first()?;
            if now.saturating_duration_since(*since) < PRECEDENCE {
                return None;
            }
            evicted.cancel();
            taken.remove(0);
        }
        let evicted = CancellationToken::new();
        taken.push((now, evicted.clone()));
        Some(Place {
            places: self.clone(),
            evicted,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // So that only one that was not evicted is still in the list and not cancelled.
        self.evicted.cancel();
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|(_, evicted)| !evicted.is_cancelled());
    }
}

/// Listens at one link's address for ever. If the address cannot be bound it is tried again, every
/// [`Timing::backoff_max`](super::Timing::backoff_max) at most.
pub(super) async fn listen(shared: Arc<Shared>, path: usize, half_open: Arc<HalfOpen>) {
    let timing = shared.config.timing;
    let local = SocketAddr::new(shared.path(path).local, shared.config.port);
    let mut pause = timing.backoff_min;
    let listener = loop {
        match bind(local) {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::debug!(local = %local, error = %error, "cannot listen");
                shared.registry.listening(path, Err(error.to_string()));
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(timing.backoff_max);
    };
    shared.registry.listening(path, Ok(()));
    loop {
        match listener.accept().await {
            Ok((tcp, remote)) => {
                let from_peer = shared.config.paths.iter().any(|p| p.peer == remote.ip());
                match half_open.enter(from_peer, Instant::now()) {
                    Some(place) => shared.spawn(admit(shared.clone(), path, tcp, remote, place)),
                    None => shared.failed(path, remote, true, LinkError::HalfOpen),
                }
            }
            Err(error) => {
                tracing::debug!(local = %local, error = %error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The address need not be there yet (IP_FREEBIND, ip(7)), so that nothing depends on the order of start.
pub(super) fn bind(local: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(local),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    match local.ip() {
        IpAddr::V4(_) => socket.set_freebind_v4(true)?,
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    socket.bind(&local.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

async fn admit(shared: Arc<Shared>, path: usize, tcp: TcpStream, remote: SocketAddr, place: Place) {
    let (wire, handle) = match Wire::new(tcp) {
        Ok(wire) => wire,
        // Gone before it was looked at.
        Err(error) => return tracing::debug!(remote = %remote, error = %error, "lost"),
    };
    let cut = handle.cut.clone().drop_guard();
    let limit = shared.config.timing.handshake;
    let authenticated = tokio::select! {
        done = tokio::time::timeout(limit, authenticate(&*shared.transport, wire)) => {
            done.unwrap_or(Err(LinkError::HandshakeTimeout(limit)))
        }
        () = place.evicted.cancelled() => Err(LinkError::HalfOpen),
    };
    drop(place);
    let taken = match authenticated {
        Ok((stream, purpose)) => {
            cut.disarm();
            take(&shared, path, purpose, stream, handle).await
        }
        // Whoever only looks whether the port answers (the peer's own probe of this host) is no news.
        Err(_) if handle.bytes_in() == 0 && handle.closed.is_cancelled() => return,
        Err(error) => Err(error),
    };
    if let Err(error) = taken {
        shared.failed(path, remote, true, error);
    }
}

pub(super) async fn authenticate(
    transport: &dyn Transport,
    wire: Wire,
) -> Result<(Box<dyn Duplex>, Purpose), LinkError> {
    let mut stream = transport.accept(wire).await?;
    let mut preface = [0; PREFACE.len() + 1];
    stream.read_exact(&mut preface).await?;
    let purpose = match preface.split_last() {
        Some((last, start)) if start == PREFACE => dial::purpose(*last),
        _ => None,
    };
    let purpose = purpose.ok_or_else(|| LinkError::Protocol("malformed preface".to_owned()))?;
    Ok((stream, purpose))
}

/// Gives an authenticated connection to those who use it, or turns it away.
async fn take(
    shared: &Arc<Shared>,
    path: usize,
    purpose: Purpose,
    mut stream: Box<dyn Duplex>,
    wire: Arc<WireHandle>,
) -> Result<(), LinkError> {
    let cut = wire.cut.clone().drop_guard();
    let limit = shared.config.timing.handshake;
    let unwanted = match purpose {
        Purpose::Control if shared.dials_control() => Some("control is dialled by this node"),
        Purpose::Data if !shared.path(path).data => Some("this link carries no data"),
        Purpose::Feed => Some("this is no replica"),
        _ => None,
    };
    let entered = match unwanted {
        Some(why) => Err(why),
        None => shared
            .registry
            .enter(path, purpose, false, wire.clone())
            .ok_or("too many data connections"),
    };
    let answer = if entered.is_ok() {
        ACCEPTED
    } else {
        TURNED_AWAY
    };
    tokio::time::timeout(limit, stream.write_all(&[answer]))
        .await
        .map_err(|_| LinkError::HandshakeTimeout(limit))??;
    let session = match entered {
        Ok(session) => session,
        Err(why) => {
            // Dropping it politely lets the answer leave.
            dial::close(stream, &wire).await;
            return Err(LinkError::Unwanted(why));
        }
    };
    cut.disarm();
    let stream = super::DataStream::new(stream, wire, session);
    match purpose {
        Purpose::Control => control::run(shared, stream).await,
        Purpose::Data => {
            shared.spawn(dial::orphan(shared.clone(), stream.wire().clone()));
            let incoming = shared.events.send(LinkEvent::Incoming(stream)).await;
            incoming.map_err(|_| LinkError::Cancelled)
        }
        // Turned away above.
        Purpose::Feed => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_not_there_yet_can_be_bound() {
        // Documentation addresses (RFC 5737, RFC 3849): on no machine.
        bind("192.0.2.77:0".parse().unwrap()).unwrap();
        if std::path::Path::new("/proc/net/if_inet6").exists() {
            bind("[2001:db8::77]:0".parse().unwrap()).unwrap();
        }
    }

    #[test]
    fn half_of_the_places_are_kept_for_the_peer() {
        let (places, now) = (HalfOpen::default(), Instant::now());
        let enter = |peer| {
            let places = &places;
            (0..HALF_OPEN).filter_map(move |_| places.enter(peer, now))
        };
        let strangers: Vec<_> = enter(false).collect();
        assert_eq!(strangers.len(), HALF_OPEN / 2);
        let peer: Vec<_> = enter(true).collect();
        assert_eq!(peer.len(), HALF_OPEN / 2);
        drop(strangers);
        assert!(places.enter(true, now).is_some());
    }

    #[test]
    fn who_proves_nothing_makes_room() {
        let (places, now) = (HalfOpen::default(), Instant::now());
        let all = 0..HALF_OPEN;
        let silent: Vec<_> = all.filter_map(|_| places.enter(true, now)).collect();
        assert_eq!(silent.len(), HALF_OPEN);
        assert!(places.enter(true, now + PRECEDENCE / 2).is_none());
        let honest = places.enter(true, now + PRECEDENCE).expect("a place");
        let evicted = || silent.iter().filter(|place| place.evicted.is_cancelled());
        assert_eq!(evicted().count(), 1);
        // It has its own time now; the next one comes at the cost of another.
        places.enter(true, now + PRECEDENCE).expect("a place");
        assert_eq!(evicted().count(), 2);
        assert!(!honest.evicted.is_cancelled());
        drop(silent);
        let left = places.peer.0.lock().expect("whole").len()
            + places.anybody.0.lock().expect("whole").len();
        assert_eq!(left, 1);
    }
}
