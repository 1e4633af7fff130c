//! The other node, over the control connection: what it said of itself, and what it asks for.

use super::Daemon;
use super::data::trusted;
use super::facts::peer_lost;
use super::forward::Forwarded;
use crate::api::types::{ApiError, ErrorCode as ApiCode};
use crate::link::message::{ErrorCode, Hello, OneWay, Request, Response};
use crate::link::{BoxFuture, CallError, LinkEvent, PeerHandler, PeerRpc};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;
use tandem_sync::lineage::NodeHeads;
use tokio::sync::mpsc;

/// Events of the link that may wait for the daemon.
pub const LINK_EVENTS: usize = 64;

/// A node that has just come back makes its connection within this time, or it is not there.
const CONNECT_WAIT: Duration = Duration::from_secs(2);

/// Pause before a command goes over the next connection.
const FORWARD_AGAIN: Duration = Duration::from_millis(100);

/// Longest encoded lineages that are decoded: 32 trees with full lineages are below 3 MB.
const LINEAGES_BOUND: usize = 4 << 20;

/// What is known of the other node by the control connection.
#[derive(Default)]
pub struct PeerSide {
    /// The link of the connection.
    pub link: Option<String>,
    /// Why there is no connection.
    pub why: Option<String>,
    /// What it said of its lineages last. Kept when the connection breaks: the lineages do not go away with it.
    pub heads: Option<NodeHeads>,
    /// How many connections there were.
    pub connections: u64,
    /// Which life of its agent said hello last.
    pub incarnation: Option<u64>,
    /// When that life began, it showed less than it had written before: restored or rolled back (R6).
    pub restored: bool,
    /// Digests of its configuration: whole, and the part that matters.
    pub digests: Option<([u8; 32], [u8; 32])>,
}

/// Answers the peer. Weak, because the link outlives nothing of the daemon.
pub struct Handler(pub Weak<Daemon>);

impl PeerHandler for Handler {
    fn hello(&self) -> Hello {
        match self.0.upgrade() {
            Some(daemon) => daemon.hello(),
            None => Hello {
                pair: String::new(),
                node: String::new(),
                agent_version: env!("CARGO_PKG_VERSION").to_owned(),
                machine_id: [0; 16],
                boot_id: [0; 16],
                incarnation: 0,
                config_digest: [0; 32],
                config_matters: [0; 32],
                lineages: Vec::new(),
            },
        }
    }

    fn greeted(&self, hello: &Hello) {
        // Here and not with the event, which may be handled after newer lineages have come.
        if let Some(daemon) = self.0.upgrade() {
            daemon.greeted(hello);
        }
    }

    fn request(&self, request: Request) -> BoxFuture<'_, Response> {
        let daemon = self.0.upgrade();
        Box::pin(async move {
            match daemon {
                Some(daemon) => daemon.peer_asks(request).await,
                None => Response::error(ErrorCode::Refused, "the agent is stopping"),
            }
        })
    }

    fn one_way(&self, message: OneWay) {
        let Some(daemon) = self.0.upgrade() else {
            return;
        };
        match message {
            OneWay::Lineages(bytes) => daemon.heard_lineages(&bytes),
            OneWay::Config { digest, matters } => {
                daemon.peer().digests = Some((digest, matters));
            }
        }
        daemon.facts_changed();
    }
}

impl Daemon {
    /// What is known of the peer.
    pub fn peer(&self) -> std::sync::MutexGuard<'_, PeerSide> {
        self.peer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this node says of itself.
    pub fn hello(&self) -> Hello {
        let loaded = self.config();
        let facts = crate::config::facts::Facts::of(&loaded.config);
        Hello {
            pair: loaded.config.pair.name.clone(),
            node: loaded.config.nodes[self.own].name.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            machine_id: self.identity.machine,
            boot_id: self.identity.boot,
            incarnation: self.identity.incarnation,
            config_digest: facts.digest().0,
            config_matters: facts.matters().0,
            lineages: self.encoded_heads(),
        }
    }

    /// This node's lineages as they go to the peer. Empty when the index cannot be read: the peer then knows nothing.
    pub fn encoded_heads(&self) -> Vec<u8> {
        self.engine
            .lineages()
            .map_err(|e| e.to_string())
            .and_then(|heads| postcard::to_stdvec(&heads).map_err(|e| e.to_string()))
            .unwrap_or_else(|error| {
                tracing::warn!(error, "lineages cannot be read");
                Vec::new()
            })
    }

    fn heard_lineages(&self, bytes: &[u8]) {
        if bytes.len() > LINEAGES_BOUND {
            tracing::warn!(bytes = bytes.len(), "lineages of the peer are too long");
            return;
        }
        match postcard::from_bytes::<NodeHeads>(bytes) {
            Ok(heads) => self.peer().heads = Some(heads),
            Err(error) => tracing::warn!(error = %error, "lineages of the peer cannot be read"),
        }
    }

    /// A connection begins: what the peer has now, and whether this life of it began with less than it had.
    fn greeted(&self, hello: &Hello) {
        self.heard_lineages(&hello.lineages);
        let mine = self.engine.lineages().ok();
        let mut peer = self.peer();
        peer.connections += 1;
        if peer.incarnation.replace(hello.incarnation) != Some(hello.incarnation) {
            peer.restored = match (&mine, &peer.heads) {
                (Some(mine), Some(theirs)) => peer_lost(mine, theirs),
                _ => false,
            };
        }
        peer.digests = Some((hello.config_digest, hello.config_matters));
    }

    /// Follows the link until it ends.
    pub async fn follow_link(self: Arc<Self>, mut events: mpsc::Receiver<LinkEvent>) {
        while let Some(event) = events.recv().await {
            self.link_event(event);
        }
    }

    fn link_event(self: &Arc<Self>, event: LinkEvent) {
        match event {
            LinkEvent::Connected { rpc, hello, link } => {
                tracing::info!(
                    link,
                    peer = hello.node,
                    version = hello.agent_version,
                    "peer connected"
                );
                {
                    let mut peer = self.peer();
                    self.rpc.send_replace(Some(rpc));
                    peer.link = Some(link);
                    peer.why = None;
                }
                self.facts_changed();
                self.data.wake();
            }
            LinkEvent::Disconnected { reason } => {
                tracing::info!(reason, "peer disconnected");
                let mut peer = self.peer();
                self.rpc.send_replace(None);
                peer.link = None;
                peer.why = Some(reason);
            }
            LinkEvent::Incoming(stream) => {
                tokio::spawn(self.data.clone().receive(stream));
            }
            LinkEvent::Cloned { from, evidence } => {
                tracing::warn!(from = %from, evidence = ?evidence, "this node's key is used elsewhere");
                self.own_key_elsewhere();
            }
            LinkEvent::Refused { from, error } => {
                tracing::warn!(from = %from, error = %error, "a stranger was turned away");
            }
        }
    }

    async fn peer_asks(self: Arc<Self>, request: Request) -> Response {
        if !trusted(&self.view()) && !matches!(request, Request::Hello) {
            let text = "the identity of the node that asks is in doubt here: see `tandem status` on this node";
            return Response::error(ErrorCode::Refused, text);
        }
        match request {
            Request::Hello => Response::Hello(self.hello()),
            Request::Forward(bytes) => match serde_json::from_slice::<Forwarded>(&bytes) {
                Ok(asked) => match self.carry_out_forwarded(asked).await {
                    Ok(answer) => Response::Forwarded(answer),
                    Err(error) => Response::error(code_of(&error), error.message),
                },
                Err(error) => Response::error(
                    ErrorCode::Unsupported,
                    format!("this agent does not know the forwarded command: {error}"),
                ),
            },
            Request::RestoreBegin(header) => self.restores.begin(&self, &header).await,
            Request::RestoreChunk { transfer, data } => self.restores.chunk(transfer, data).await,
            Request::RestoreEnd { transfer, hash } => {
                self.restores.end(&self, transfer, hash).await
            }
            Request::RestoreAbort { transfer } => self.restores.abort(transfer),
        }
    }

    /// Asks the other node to carry out a command of the local API, at most `within`. When the connection breaks meanwhile,
    /// a command that may be repeated goes over the next one; of another one it is said that its end is unknown.
    pub async fn forward(
        &self,
        command: &Forwarded,
        within: Duration,
    ) -> Result<Vec<u8>, ApiError> {
        let deadline = tokio::time::Instant::now() + within;
        let bytes = serde_json::to_vec(command)
            .map_err(|e| ApiError::new(ApiCode::Internal, e.to_string()))?;
        loop {
            let rpc = self.peer_rpc().await?;
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            match rpc.call(&Request::Forward(bytes.clone()), left).await {
                Ok(Response::Forwarded(answer)) => return Ok(answer),
                Ok(other) => {
                    return Err(ApiError::new(
                        ApiCode::Internal,
                        format!("unexpected answer of the other node: {other:?}"),
                    ));
                }
                Err(CallError::Disconnected) if command.is_repeatable() && !left.is_zero() => {
                    tracing::info!(
                        command = command.name(),
                        "connection lost, the command is repeated"
                    );
                    tokio::time::sleep(FORWARD_AGAIN).await;
                }
                Err(error) => return Err(call_error(command, error)),
            }
        }
    }

    /// The connection for calls, or why there is none. Waits a moment for one that is being made.
    pub async fn peer_rpc(&self) -> Result<PeerRpc, ApiError> {
        let mut rpcs = self.rpc.subscribe();
        if let Ok(Ok(rpc)) =
            tokio::time::timeout(CONNECT_WAIT, rpcs.wait_for(Option::is_some)).await
            && let Some(rpc) = rpc.clone()
        {
            return Ok(rpc);
        }
        let peer = self.peer();
        let why = peer.why.as_deref().unwrap_or("it was never connected");
        Err(ApiError::new(
            ApiCode::PeerUnreachable,
            format!("no control connection to the other node: {why}"),
        ))
    }
}

/// What became of a forwarded command, for whoever gave it.
fn call_error(command: &Forwarded, error: CallError) -> ApiError {
    let name = command.name();
    let unknown = |code, error: &CallError| {
        let text = format!(
            "{error}; whether it carries `{name}` out is unknown: look at `tandem status` before you repeat it"
        );
        ApiError::new(code, text)
    };
    match error {
        CallError::Disconnected => unknown(ApiCode::PeerUnreachable, &error),
        CallError::TimedOut(_) => unknown(ApiCode::Timeout, &error),
        CallError::Busy => ApiError::new(ApiCode::Busy, error.to_string()),
        CallError::TooLong => ApiError::new(ApiCode::BadRequest, error.to_string()),
        CallError::Refused { code, .. } => {
            let code = match code {
                ErrorCode::Refused => ApiCode::Refused,
                ErrorCode::Busy => ApiCode::Busy,
                ErrorCode::Unsupported | ErrorCode::TooLong | ErrorCode::Failed => {
                    ApiCode::Internal
                }
            };
            ApiError::new(code, error.to_string())
        }
    }
}

fn code_of(error: &ApiError) -> ErrorCode {
    match error.code {
        ApiCode::Refused | ApiCode::WrongRole | ApiCode::Busy => ErrorCode::Refused,
        _ => ErrorCode::Failed,
    }
}
