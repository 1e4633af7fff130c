use crate::keys::NodeKey;
use crate::link::message::{ErrorCode, Hello, OneWay, Request, Response};
use crate::link::ssh::SshTransport;
use crate::link::transport::{Duplex, LinkError, Transport};
use crate::link::wire::{Wire, WireHandle};
use crate::link::{
    BoxFuture, DataStream, Link, LinkConfig, LinkEvent, LinkPath, PeerHandler, PeerRpc, Timing,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Longer than anything here takes on a busy machine.
pub(super) const SOON: Duration = Duration::from_secs(30);

/// Waits for something that must happen.
pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {SOON:?}"),
    }
}

/// Polls a condition that no event tells.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    soon(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Answers requests, and tells one-way messages.
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) one_way: mpsc::UnboundedSender<OneWay>,
}

impl PeerHandler for Peer {
    fn hello(&self) -> Hello {
        Hello {
            pair: "test".into(),
            node: self.name.into(),
            agent_version: "0".into(),
            machine_id: [0; 16],
            boot_id: [0; 16],
            incarnation: 1,
            config_digest: [0; 32],
            config_matters: [0; 32],
            lineages: vec![1, 2, 3],
        }
    }

    fn request(&self, request: Request) -> BoxFuture<'_, Response> {
        Box::pin(async move {
            match request {
                Request::Forward(bytes) if bytes == b"never" => std::future::pending().await,
                Request::Forward(bytes) if bytes == b"huge" => {
                    Response::Forwarded(vec![0; 8 << 20])
                }
                Request::Forward(mut bytes) => {
                    bytes.reverse();
                    Response::Forwarded(bytes)
                }
                Request::Hello => Response::Hello(self.hello()),
                _ => Response::error(ErrorCode::Refused, "not here"),
            }
        })
    }

    fn one_way(&self, message: OneWay) {
        // The test may be over.
        let _ = self.one_way.send(message);
    }
}

/// One node under test.
pub(super) struct Node {
    pub(super) link: Link,
    pub(super) events: mpsc::Receiver<LinkEvent>,
    /// The other end of it, for a test that fills it.
    pub(super) tell: mpsc::Sender<LinkEvent>,
    pub(super) one_way: mpsc::UnboundedReceiver<OneWay>,
    pub(super) address: SocketAddr,
}

/// Two keys; the first is the smaller one, whose node dials.
pub(super) fn keys() -> (NodeKey, NodeKey) {
    let (one, two) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
    if one.public().0 < two.public().0 {
        (one, two)
    } else {
        (two, one)
    }
}

/// Addresses and a port of this test alone: `.1` dials, `.2` answers, `.3` is a proxy, others are strangers.
#[derive(Clone, Copy)]
pub(super) struct Place {
    network: [u8; 2],
    pub(super) port: u16,
}

impl Place {
    pub(super) fn new() -> Self {
        let id = std::process::id();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            network: [1 + ((id >> 8) % 250) as u8, id as u8],
            port: free.local_addr().unwrap().port(),
        }
    }

    pub(super) fn ip(&self, last: u8) -> IpAddr {
        let [a, b] = self.network;
        IpAddr::V4(Ipv4Addr::new(127, a, b, last))
    }

    pub(super) fn address(&self, last: u8) -> SocketAddr {
        SocketAddr::new(self.ip(last), self.port)
    }

    pub(super) fn path(&self, local: u8, peer: u8) -> LinkPath {
        LinkPath {
            name: format!("link{local}{peer}"),
            local: self.ip(local),
            peer: self.ip(peer),
            data: true,
        }
    }

    pub(super) fn node(
        &self,
        name: &'static str,
        key: &NodeKey,
        peer: &NodeKey,
        paths: Vec<LinkPath>,
        timing: Timing,
    ) -> Node {
        let address = SocketAddr::new(paths[0].local, self.port);
        let config = LinkConfig {
            key: key.clone(),
            peer_key: peer.public(),
            paths,
            port: self.port,
            timing,
        };
        let (sender, events) = mpsc::channel(64);
        let (one_way_sender, one_way) = mpsc::unbounded_channel();
        let handler = Arc::new(Peer {
            name,
            one_way: one_way_sender,
        });
        Node {
            link: Link::start(config, handler, sender.clone()),
            events,
            tell: sender,
            one_way,
            address,
        }
    }

    /// Two nodes that know each other; `a` dials.
    pub(super) fn pair(&self, timing: Timing) -> (Node, Node) {
        let (small, large) = keys();
        let a = self.node("a", &small, &large, vec![self.path(1, 2)], timing);
        let b = self.node("b", &large, &small, vec![self.path(2, 1)], timing);
        (a, b)
    }
}

impl Node {
    pub(super) async fn event(&mut self) -> LinkEvent {
        soon("an event", self.events.recv())
            .await
            .expect("the link is running")
    }

    /// The next `Connected`; other events before it are skipped.
    pub(super) async fn connected(&mut self) -> (PeerRpc, Hello) {
        loop {
            if let LinkEvent::Connected { rpc, hello, .. } = self.event().await {
                return (rpc, hello);
            }
        }
    }

    pub(super) async fn disconnected(&mut self) -> String {
        loop {
            if let LinkEvent::Disconnected { reason } = self.event().await {
                return reason;
            }
        }
    }

    pub(super) async fn incoming(&mut self) -> DataStream {
        loop {
            if let LinkEvent::Incoming(stream) = self.event().await {
                return stream;
            }
        }
    }

    pub(super) async fn listening(&self) {
        let ready = || {
            let status = self.link.status();
            status.paths.iter().all(|path| path.listening.is_ok())
        };
        until("listening", ready).await;
    }

    pub(super) fn sessions(&self) -> usize {
        let status = self.link.status();
        status.paths.iter().map(|path| path.sessions.len()).sum()
    }
}

/// A data connection from `from` to `to`.
pub(super) async fn data(from: &Node, to: &mut Node) -> (DataStream, DataStream) {
    let cancel = tokio_util::sync::CancellationToken::new();
    // An error is told at once, not as a connection that never came in.
    let dialled = async {
        let dialled = soon("a dialled data connection", from.link.dial_data(&cancel)).await;
        dialled.unwrap()
    };
    tokio::join!(dialled, to.incoming())
}

/// Dials as somebody with `key` who believes that `to` has the key `host`.
pub(super) async fn dial_as(
    key: &NodeKey,
    host: &NodeKey,
    to: SocketAddr,
) -> Result<(Box<dyn Duplex>, Arc<WireHandle>), LinkError> {
    let tcp = TcpStream::connect(to).await?;
    let (wire, handle) = Wire::new(tcp)?;
    let transport = SshTransport::new(key, &[host.public()]);
    let stream = soon("a handshake", transport.connect(wire)).await?;
    Ok((stream, handle))
}

/// Stands between two nodes; can hold all bytes back without closing anything, or close everything.
pub(super) struct Proxy {
    hold: Arc<AtomicBool>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub(super) async fn start(at: SocketAddr, to: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let hold = Arc::new(AtomicBool::new(false));
        let held = hold.clone();
        let accepting = tokio::spawn(async move {
            // Dropping the set, by aborting this task, closes every connection.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(to).await else {
                    continue;
                };
                let (near_read, near_write) = near.into_split();
                let (far_read, far_write) = far.into_split();
                connections.spawn(copy(near_read, far_write, held.clone()));
                connections.spawn(copy(far_read, near_write, held.clone()));
            }
        });
        Self { hold, accepting }
    }

    /// As if the cable was cut: nothing arrives, nothing is closed.
    pub(super) fn hold(&self) {
        self.hold.store(true, Ordering::Relaxed);
    }

    /// As if the machine in between died: every connection is closed, nothing is accepted.
    pub(super) async fn kill(self) {
        self.accepting.abort();
        assert!(self.accepting.await.unwrap_err().is_cancelled());
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    hold: Arc<AtomicBool>,
) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if hold.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
