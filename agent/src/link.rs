//! The link: authenticated connections between the two agents, over TCP on the link addresses.
//!
//! There is one *control* connection (requests, answers, one-way messages; see [`message`]) and a bounded number of
//! *data* connections (byte streams of the replication). Each is a TCP connection of its own, so that bulk never
//! delays control. The agent with the smaller public key dials control, trying the links in order, for ever; the one
//! that has data to send dials data, over links that allow it.
//!
//! Nothing but the node whose key is pinned gets past the handshake ([`Timing::handshake`] in all); connections that
//! have not proved that key are bounded in number ([`HALF_OPEN`]). This node's own key shown by somebody else is
//! reported as [`LinkEvent::Cloned`].
//!
//! | module | what |
//! |---|---|
//! | [`message`] | what is said on the control connection, versioned |
//! | `rpc`, `frame`, `control` | requests with ids over length-capped frames; the life of a control connection |
//! | [`feed`] | to a replica, which has no control connection |
//! | `listen`, `dial` | accepting and making connections, with their bounds |
//! | [`transport`] | the border to the secure channel: ssh today ([`ssh`]); TLS with pinned keys would fit as well |
//! | `wire`, [`stream`] | the TCP socket below and the stream above the secure channel: counting, cutting |
//! | [`status`] | what is shown |

mod control;
mod dial;
pub mod feed;
mod frame;
mod listen;
pub mod message;
mod rpc;
pub mod ssh;
pub mod status;
pub mod stream;
mod tcp_info;
pub mod transport;
mod wire;

/// What the peer says on the control connection: a frame, its packet, and what is in it.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz(bytes: &[u8]) {
    let frames = async {
        let mut reader = bytes;
        let mut frames = vec![bytes.to_vec()];
        while let Ok(Some(frame)) = frame::read(&mut reader, frame::FRAME_MAX).await {
            assert!(
                frame.len() <= bytes.len(),
                "a frame of bytes that never came"
            );
            frames.push(frame);
        }
        frames
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    for frame in runtime.expect("a runtime without drivers").block_on(frames) {
        control::fuzz(&frame);
        let _ = message::decode::<Hello>(&frame);
        let Some(packet) = rpc::Packet::decode(frame.clone()) else {
            continue;
        };
        assert_eq!(packet.encode(), frame);
        if let Some(request) = message::decode::<Request>(&packet.body) {
            let again = message::encode(&request).expect("a request can be encoded");
            assert_eq!(message::decode::<Request>(&again), Some(request));
        }
        let _ = message::decode::<Response>(&packet.body);
        let _ = message::decode::<OneWay>(&packet.body);
    }
}

#[cfg(test)]
mod tests;

use crate::config::types::{Node, PublicKey};
use crate::keys::NodeKey;
use message::{Hello, OneWay, Request, Response};
use status::{LinkStatus, Registry};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use transport::{CloneEvidence, Transport};

pub use rpc::{CallError, PeerRpc};
pub use stream::{DataStream, FeedStream};
pub use transport::{BoxFuture, LinkError};

/// Connections that are being authenticated. Half of it is kept for the peer's own link addresses, so that
/// strangers cannot keep the peer out.
pub const HALF_OPEN: usize = 8;
/// Data connections in each direction: one session, its successor while the old one dies, and room for two more.
pub const DATA_SESSIONS: usize = 4;
/// Requests of the peer that are worked on at the same time.
pub const REQUESTS: usize = 32;

/// One link between the nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkPath {
    /// Its name.
    pub name: String,
    /// Address of this node's end: listened at, and source of what is dialled.
    pub local: IpAddr,
    /// Address of the peer's end.
    pub peer: IpAddr,
    /// Whether data connections may use it.
    pub data: bool,
}

/// Bounds in time. The defaults are for a local network; tests shorten some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// TCP connect. Default 1 s: a link that needs longer is tried again.
    pub connect: Duration,
    /// From the accepted TCP connection to the authenticated one. Default 5 s.
    pub handshake: Duration,
    /// Interval of pings on the control connection. Default 1 s.
    pub ping: Duration,
    /// Control connection: nothing received for this long is death. Default 3 s.
    pub dead: Duration,
    /// First pause after a failed dial. Default 100 ms.
    pub backoff_min: Duration,
    /// Longest pause after a failed dial. Default 2 s.
    pub backoff_max: Duration,
    /// How long a data connection may outlive the control connection. Default 10 s: longer than it takes to make
    /// a new one over another link.
    pub orphan: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            handshake: Duration::from_secs(5),
            ping: Duration::from_secs(1),
            dead: Duration::from_secs(3),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(2),
            orphan: Duration::from_secs(10),
        }
    }
}

/// What the link needs to know.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// This node's key.
    pub key: NodeKey,
    /// The only other key that is let in.
    pub peer_key: PublicKey,
    /// The links in order of preference.
    pub paths: Vec<LinkPath>,
    /// TCP port of both nodes.
    pub port: u16,
    /// Bounds in time.
    pub timing: Timing,
}

impl LinkConfig {
    /// The links between two nodes of the configuration, which names both ends in the same order. Default timing.
    pub fn between(key: NodeKey, own: &Node, peer: &Node, port: u16) -> Self {
        let ends = own.links.iter().zip(&peer.links);
        Self {
            key,
            peer_key: peer.key,
            paths: ends
                .map(|(own, peer)| LinkPath {
                    name: own.name.clone(),
                    local: own.address,
                    peer: peer.address,
                    data: own.data,
                })
                .collect(),
            port,
            timing: Timing::default(),
        }
    }
}

/// What happens on the link.
#[derive(Debug)]
pub enum LinkEvent {
    /// A control connection is up; it replaces the one before.
    Connected {
        /// For calls to the peer.
        rpc: PeerRpc,
        /// What the peer said of itself.
        hello: Hello,
        /// Name of the link.
        link: String,
    },
    /// The control connection is gone. Always follows its `Connected`.
    Disconnected {
        /// Why.
        reason: String,
    },
    /// The peer dialled a data connection.
    Incoming(DataStream),
    /// Somebody else has this node's private key. At most one event every [`REPORT_EVERY`].
    Cloned {
        /// Where from.
        from: SocketAddr,
        /// What was seen.
        evidence: CloneEvidence,
    },
    /// Somebody who is not the peer was turned away. At most one event every [`REPORT_EVERY`]; all are counted in
    /// the status.
    Refused {
        /// Where from (or whom this node dialled).
        from: SocketAddr,
        /// Why.
        error: LinkError,
    },
}

/// Strangers cannot fill the log or the queue of events.
pub const REPORT_EVERY: Duration = Duration::from_secs(10);

/// What the agent does with the peer's messages. Called from the link's tasks.
pub trait PeerHandler: Send + Sync + 'static {
    /// What this node says of itself now. Must not block.
    fn hello(&self) -> Hello;

    /// A connection begins with the peer's hello. Called before any message of that connection is given out, and
    /// after the last one of the connection before. Must not block.
    fn greeted(&self, hello: &Hello) {
        let _ = hello;
    }

    /// Answers a request. At most [`REQUESTS`] run at the same time; a request that has begun is carried to its end
    /// even if the connection is gone by then.
    fn request(&self, request: Request) -> BoxFuture<'_, Response>;

    /// Takes a one-way message. Messages come in the order in which they were sent. Must not block.
    fn one_way(&self, message: OneWay);
}

/// Shared by all tasks of a link.
pub(crate) struct Shared {
    config: LinkConfig,
    transport: Arc<dyn Transport>,
    handler: Arc<dyn PeerHandler>,
    events: mpsc::Sender<LinkEvent>,
    registry: Arc<Registry>,
    requests: Arc<Semaphore>,
    /// The link of the authenticated control connection.
    control: watch::Sender<Option<usize>>,
    /// Ends the control connection that is current: the newest wins.
    current: std::sync::Mutex<CancellationToken>,
    /// Held by a control connection from its `Connected` to its `Disconnected`.
    turn: tokio::sync::Mutex<()>,
    reports: status::Reports,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The running link. Dropping it ends every connection and listener.
pub struct Link {
    shared: Arc<Shared>,
}

impl Link {
    /// Starts listeners and the dialler on the current tokio runtime.
    ///
    /// `events` should hold at least 16; the link waits for room before it goes on with a new connection, but drops
    /// `Cloned` and `Refused` when there is none.
    pub fn start(
        config: LinkConfig,
        handler: Arc<dyn PeerHandler>,
        events: mpsc::Sender<LinkEvent>,
    ) -> Self {
        let transport = Arc::new(ssh::SshTransport::new(&config.key, &[config.peer_key]));
        Self::start_over(config, transport, handler, events)
    }

    fn start_over(
        config: LinkConfig,
        transport: Arc<dyn Transport>,
        handler: Arc<dyn PeerHandler>,
        events: mpsc::Sender<LinkEvent>,
    ) -> Self {
        let registry = Arc::new(Registry::new(&config));
        let shared = Arc::new(Shared {
            config,
            transport,
            handler,
            events,
            registry,
            requests: Arc::new(Semaphore::new(REQUESTS)),
            control: watch::Sender::new(None),
            current: std::sync::Mutex::new(CancellationToken::new()),
            turn: tokio::sync::Mutex::new(()),
            reports: status::Reports::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let half_open = Arc::new(listen::HalfOpen::default());
        for path in 0..shared.config.paths.len() {
            let task = listen::listen(shared.clone(), path, half_open.clone());
            shared.spawn(task);
        }
        if shared.dials_control() {
            shared.spawn(dial::keep_control(shared.clone()));
        }
        Self { shared }
    }

    /// Opens a data connection to the peer over the first link with `data` that works.
    ///
    /// Needs a control connection ([`LinkError::NoControl`] else): only then both sides have agreed on a version.
    /// Ends early with [`LinkError::Cancelled`] when `cancel` fires; bounded by connect and handshake time of each
    /// link. Cancel safe: a dropped dial leaves nothing behind.
    pub async fn dial_data(&self, cancel: &CancellationToken) -> Result<DataStream, LinkError> {
        tokio::select! {
            () = cancel.cancelled() => Err(LinkError::Cancelled),
            () = self.shared.stop.cancelled() => Err(LinkError::Cancelled),
            dialled = dial::data(&self.shared) => dialled,
        }
    }

    /// What is to be shown. Cheap; never waits.
    pub fn status(&self) -> LinkStatus {
        self.shared.registry.status()
    }

    /// Follows whether there is a control connection, and over which link (index into the configured ones).
    pub fn control(&self) -> watch::Receiver<Option<usize>> {
        self.shared.control.subscribe()
    }

    /// Ends everything and waits until listeners and sockets are closed, so that the port is free again.
    pub async fn shutdown(self) {
        self.shared.stop.cancel();
        self.shared.registry.cut_all();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        self.shared.registry.cut_all();
    }
}

impl Shared {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks
            .spawn(async move { stop.run_until_cancelled(task).await });
    }

    /// Both nodes know both keys, so that exactly one of them dials.
    fn dials_control(&self) -> bool {
        self.config.key.public().0 < self.config.peer_key.0
    }

    fn path(&self, index: usize) -> &LinkPath {
        &self.config.paths[index]
    }

    /// Counts and reports a connection that came to nothing, `accepted` or dialled.
    fn failed(&self, path: usize, remote: SocketAddr, accepted: bool, error: LinkError) {
        self.registry.failed(path, &error, accepted);
        let refused = error.is_refusal(accepted);
        let event = match error {
            LinkError::OwnKey(evidence) => LinkEvent::Cloned {
                from: remote,
                evidence,
            },
            error if refused => LinkEvent::Refused {
                from: remote,
                error,
            },
            _ => return,
        };
        if !self.reports.due(&event) {
            return;
        }
        match &event {
            LinkEvent::Cloned { from, evidence } => {
                tracing::error!(remote = %from, evidence = ?evidence, "own key used by another machine");
            }
            LinkEvent::Refused { from, error } => {
                tracing::warn!(remote = %from, error = %error, "connection refused");
            }
            _ => {}
        }
        // A full queue: the next report comes when this goes on.
        let _ = self.events.try_send(event);
    }
}
