//! Heartbeats on the wire: one UDP socket per link, bound to the link's address (and to its device where that is
//! permitted), never to all addresses.
//!
//! What comes in is bounded three times: by the socket's queue, by the number of signatures that are checked per second
//! and link, and by the queue to the loop. What is over a bound is dropped, as on a bad cable.

use crate::clock;
use crate::heartbeat::{
    self, DecodeError, Heartbeat, Incarnation, KeyId, MAX_LEN, PairId, SIGNATURE_LEN,
};
use crate::input::Input;
use crate::time::Instant;
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use socket2::{Domain, Protocol, Socket, Type};
use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::rc::Rc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

/// Room for incoming heartbeats in the kernel, in bytes: some tens of them. Older news than that is worth nothing.
const QUEUE_BYTES: usize = 64 * 1024;

/// How long a link whose socket cannot be opened (its address is not there yet) waits until the next try. Begins short,
/// for a socket of this agent that is just being closed, and doubles up to this.
const RETRY: Duration = Duration::from_secs(1);
const FIRST_RETRY: Duration = Duration::from_millis(20);

/// Most signatures checked per second and link. A peer sends about five; the rest is room for its short bursts. At
/// about 60 us each, a flood costs the loop 1.2 % of its time.
const CHECKS_PER_SECOND: u32 = 200;

/// The same for datagrams that do not come from the peer's address. They can only be a copy of this node.
const STRANGERS_PER_SECOND: u32 = 10;

/// Distance of two log lines about refused datagrams of one link.
const COMPLAINT: Duration = Duration::from_secs(60);

/// One link, seen from this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkConfig {
    /// Device of this end.
    pub device: String,
    /// Address of this end.
    pub own: IpAddr,
    /// Address of the other end.
    pub peer: IpAddr,
}

/// The keys of the pair.
pub struct Keys {
    /// The pair.
    pub pair: PairId,
    /// This node's key.
    pub own: Ed25519KeyPair,
    /// This node's public key (RFC 8032).
    pub own_public: [u8; 32],
    /// The peer's pinned public key.
    pub peer_public: [u8; 32],
}

impl Keys {
    fn sign(&self, heartbeat: &Heartbeat) -> Result<Vec<u8>, heartbeat::TooLong> {
        heartbeat::encode(self.pair, KeyId::of(&self.own_public), heartbeat, |bytes| {
            let signature = self.own.sign(bytes);
            let mut out = [0; SIGNATURE_LEN];
            // An ed25519 signature has exactly this length (RFC 8032 5.1.6).
            out.copy_from_slice(signature.as_ref());
            out
        })
    }

    /// Reads a datagram; says whether this node's own key signed it.
    fn read(&self, datagram: &[u8]) -> Result<(bool, Heartbeat), DecodeError> {
        let own = KeyId::of(&self.own_public);
        let peer = KeyId::of(&self.peer_public);
        let (sender, heartbeat) =
            heartbeat::decode(self.pair, datagram, |sender, signed, signature| {
                let key = match sender {
                    s if s == peer => &self.peer_public,
                    s if s == own => &self.own_public,
                    _ => return None,
                };
                Some(
                    UnparsedPublicKey::new(&ED25519, key)
                        .verify(signed, signature)
                        .is_ok(),
                )
            })?;
        Ok((sender == own, heartbeat))
    }
}

/// Counters of one link, for status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkCounters {
    /// Heartbeats sent.
    pub sent: u64,
    /// Heartbeats that could not be sent.
    pub unsent: u64,
    /// Heartbeats of the peer with a right signature.
    pub received: u64,
    /// Datagrams refused: other senders, wrong signatures, rubbish.
    pub refused: u64,
    /// Datagrams dropped unseen because too many came.
    pub dropped: u64,
}

/// One link's socket and what belongs to it. Used by one thread.
struct Link {
    config: LinkConfig,
    port: u16,
    index: u8,
    socket: RefCell<Option<Rc<UdpSocket>>>,
    counters: Cell<LinkCounters>,
    open_error: RefCell<Option<String>>,
}

/// The sockets of all links. Lives in a `LocalSet` of the loop's thread.
pub(crate) struct Beats {
    keys: Rc<Keys>,
    links: Vec<Rc<Link>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Beats {
    /// Opens a socket per link; those that cannot be opened are tried again each second. Heartbeats go to `inputs`.
    pub(crate) fn open(
        keys: Rc<Keys>,
        links: &[LinkConfig],
        port: u16,
        own: Incarnation,
        inputs: &mpsc::Sender<(Instant, Input)>,
    ) -> Self {
        let links: Vec<Rc<Link>> = links
            .iter()
            .zip(0_u8..)
            .map(|(config, index)| {
                Rc::new(Link {
                    config: config.clone(),
                    port,
                    index,
                    socket: RefCell::default(),
                    counters: Cell::default(),
                    open_error: RefCell::default(),
                })
            })
            .collect();
        let tasks = links
            .iter()
            .map(|link| {
                tokio::task::spawn_local(serve(
                    Rc::clone(link),
                    Rc::clone(&keys),
                    own,
                    inputs.clone(),
                ))
            })
            .collect();
        Self { keys, links, tasks }
    }

    /// Signs and sends, without waiting. A full queue or an absent socket loses this beat; it is counted.
    pub(crate) fn send(&self, heartbeat: &Heartbeat) {
        let Some(link) = self.links.get(usize::from(heartbeat.link)) else {
            return;
        };
        let datagram = match self.keys.sign(heartbeat) {
            Ok(datagram) => datagram,
            Err(error) => {
                tracing::error!(%error, "heartbeat not sent");
                return;
            }
        };
        let sent = link.socket.borrow().as_ref().is_some_and(|socket| {
            // An error (no carrier, no route, refused by the peer's kernel) is this beat's loss; the next is tried anew.
            socket.try_send_to(&datagram, link.peer_address()).is_ok()
        });
        link.count(|c| if sent { c.sent += 1 } else { c.unsent += 1 });
    }

    /// Counters per link.
    pub(crate) fn counters(&self) -> Vec<LinkCounters> {
        self.links.iter().map(|l| l.counters.get()).collect()
    }

    /// Closes the sockets now. What is sent later is lost and counted.
    pub(crate) fn close(&self) {
        for task in &self.tasks {
            task.abort();
        }
        for link in &self.links {
            *link.socket.borrow_mut() = None;
        }
    }
}

impl Drop for Beats {
    fn drop(&mut self) {
        self.close();
    }
}

impl Link {
    fn count(&self, change: impl FnOnce(&mut LinkCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    fn peer_address(&self) -> SocketAddr {
        scoped(self.config.peer, self.port, &self.config.device)
    }

    fn open(&self) -> io::Result<UdpSocket> {
        let own = scoped(self.config.own, self.port, &self.config.device);
        let socket = Socket::new(Domain::for_address(own), Type::DGRAM, Some(Protocol::UDP))?;
        if own.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Keeps other devices' packets out. Not permitted in some containers; the address alone is enough then.
        if let Err(error) = socket.bind_device(Some(self.config.device.as_bytes())) {
            tracing::debug!(device = self.config.device, %error, "socket not bound to the device");
        }
        socket.set_recv_buffer_size(QUEUE_BYTES)?;
        // Before bulk data in the device's queue (socket(7), 6 is the highest without privileges).
        socket.set_priority(6)?;
        socket.set_nonblocking(true)?;
        socket.bind(&own.into())?;
        UdpSocket::from_std(socket.into())
    }

    /// Opens the socket, again and again until it works.
    async fn opened(&self) -> Rc<UdpSocket> {
        let mut pause = FIRST_RETRY;
        loop {
            match self.open() {
                Ok(socket) => {
                    tracing::info!(device = self.config.device, address = %self.config.own, "link is open");
                    *self.open_error.borrow_mut() = None;
                    let socket = Rc::new(socket);
                    *self.socket.borrow_mut() = Some(Rc::clone(&socket));
                    return socket;
                }
                Err(error) => {
                    let text = error.to_string();
                    let mut last = self.open_error.borrow_mut();
                    if last.as_ref() != Some(&text) {
                        tracing::warn!(device = self.config.device, address = %self.config.own, %error, "link cannot be opened");
                        *last = Some(text);
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY);
        }
    }
}

/// A socket address; link-local IPv6 addresses get their device as scope (RFC 4007).
fn scoped(address: IpAddr, port: u16, device: &str) -> SocketAddr {
    match address {
        IpAddr::V6(a) if a.is_unicast_link_local() => {
            let scope = crate::iface::index_of(device).unwrap_or(0);
            SocketAddrV6::new(a, port, 0, scope).into()
        }
        other => (other, port).into(),
    }
}

/// Receives on one link for ever.
async fn serve(
    link: Rc<Link>,
    keys: Rc<Keys>,
    own: Incarnation,
    inputs: mpsc::Sender<(Instant, Input)>,
) {
    let mut for_peer = Allowance::new(CHECKS_PER_SECOND, clock::now());
    let mut for_strangers = Allowance::new(STRANGERS_PER_SECOND, clock::now());
    let mut last_complaint = None;
    // One byte more than the longest heartbeat, so that a longer datagram is seen to be one.
    let mut buffer = [0; MAX_LEN + 1];
    loop {
        let socket = link.opened().await;
        let device = crate::iface::index_of(&link.config.device).ok();
        let mut checks = tokio::time::interval(RETRY);
        loop {
            let received = tokio::select! {
                received = socket.recv_from(&mut buffer) => received,
                _ = checks.tick() => {
                    // A device that was taken away and came back is another one; the socket is bound to the old.
                    if crate::iface::index_of(&link.config.device).ok() == device {
                        continue;
                    }
                    break;
                }
            };
            let (length, from) = match received {
                Ok(received) => received,
                // The peer's kernel says that nobody listens there: no news here.
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => {
                    tracing::warn!(device = link.config.device, %error, "link failed, opening it again");
                    break;
                }
            };
            let now = clock::now();
            let allowance = if from.ip() == link.config.peer {
                &mut for_peer
            } else {
                &mut for_strangers
            };
            if !allowance.take(now) {
                link.count(|c| c.dropped += 1);
                continue;
            }
            match accept(&link, &keys, own, &buffer[..length], from) {
                Ok(Some(input)) => {
                    link.count(|c| c.received += 1);
                    if inputs.try_send((now, input)).is_err() {
                        link.count(|c| c.dropped += 1);
                    }
                }
                Ok(None) => link.count(|c| c.refused += 1),
                Err(error) => {
                    link.count(|c| c.refused += 1);
                    let due = last_complaint
                        .is_none_or(|at| now.saturating_duration_since(at) >= COMPLAINT);
                    if due {
                        last_complaint = Some(now);
                        let refused = link.counters.get().refused;
                        tracing::warn!(device = link.config.device, %from, %error, refused, "datagram refused");
                    }
                }
            }
        }
        *link.socket.borrow_mut() = None;
        tokio::time::sleep(RETRY).await;
    }
}

/// What a datagram means. `None`: an echo of this node's own.
fn accept(
    link: &Link,
    keys: &Keys,
    own: Incarnation,
    datagram: &[u8],
    from: SocketAddr,
) -> Result<Option<Input>, DecodeError> {
    let (mine, heartbeat) = keys.read(datagram)?;
    if mine {
        // Somebody throws this node's own datagrams back: no second node.
        let other = heartbeat.incarnation != own;
        return Ok(other.then_some(Input::OwnKeyElsewhere {
            incarnation: heartbeat.incarnation,
        }));
    }
    if from.ip() != link.config.peer || heartbeat.link != link.index {
        // Rightly signed, but not on the way that the configuration names: a replay onto another link must not make a
        // dead link look alive.
        return Err(DecodeError::Content);
    }
    Ok(Some(Input::Heartbeat {
        link: link.index,
        heartbeat: Box::new(heartbeat),
    }))
}

/// So many per second.
struct Allowance {
    limit: u32,
    left: u32,
    since: Instant,
}

impl Allowance {
    fn new(limit: u32, now: Instant) -> Self {
        Self {
            limit,
            left: limit,
            since: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self::new(self.limit, now);
        }
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }
}

#[cfg(test)]
mod tests;
