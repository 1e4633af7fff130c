//! The client's end of the local API.

mod lines;

pub use lines::EventStream;

use super::types::{self, ApiError, ErrorCode, path};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

/// Bound of connecting: the socket is local, so a longer wait means that the agent's accept queue is full.
const CONNECT_BOUND: Duration = Duration::from_secs(5);
/// Bound of a question that the agent answers from memory.
const QUICK: Duration = Duration::from_secs(10);
/// Bound of an answer that waits for durable writes or a scan.
const SLOW: Duration = Duration::from_secs(300);
/// Largest answer that is read into memory: 32 trees with all their fields are far below it.
const ANSWER_BOUND: usize = 16 << 20;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("no agent is running (nothing listens on {})", .socket.display())]
    NoAgent {
        /// The socket that was tried.
        socket: PathBuf,
    },
    /// The socket is there and may not be opened.
    #[error("permission denied on {}: the agent answers only to root", .socket.display())]
    Permission {
        /// The socket that was tried.
        socket: PathBuf,
    },
    /// The socket cannot be opened for another reason.
    #[error("cannot connect to {}: {source}", .socket.display())]
    Connect {
        /// The socket that was tried.
        socket: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The connection broke or what came over it is not HTTP.
    #[error("the agent broke the connection off: {0}")]
    Broken(String),
    /// The answer cannot be read: another program, or an agent of another version.
    #[error("the agent's answer to {path} cannot be read: {reason}")]
    Unreadable {
        /// The path that was asked.
        path: String,
        /// Why.
        reason: String,
    },
    /// The agent did not answer in time.
    #[error("the agent did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The agent said no.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// What was received could not be written.
    #[error("cannot write: {0}")]
    Write(io::Error),
}

/// A handle on the agent's socket. Each call opens its own connection, so that a dropped future or stream ends its
/// operation and disturbs no other. All calls are cancel safe in the sense that nothing stays open here; whether the
/// agent goes on with what was asked is said at each type of `types`.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the agent that listens on `socket`. Nothing is opened yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The whole status.
    pub async fn status(&self) -> Result<types::StatusReport, ClientError> {
        self.get(path::STATUS).await
    }

    /// The role only.
    pub async fn role(&self) -> Result<types::RoleReport, ClientError> {
        self.get(path::ROLE).await
    }

    /// What a takeover by force would cost now.
    pub async fn takeover_price(&self) -> Result<types::TakeoverPrice, ClientError> {
        self.get(path::TAKEOVER).await
    }

    /// All rescue sets.
    pub async fn rescue_list(&self) -> Result<types::RescueList, ClientError> {
        self.get(path::RESCUE).await
    }

    /// Flush; waits a little longer than the agent does, so that the agent's own answer arrives.
    pub async fn flush(&self, timeout: Duration) -> Result<types::FlushReport, ClientError> {
        self.flush_to(timeout, false).await
    }

    /// The same, and until no file is unverified.
    pub async fn flush_verified(
        &self,
        timeout: Duration,
    ) -> Result<types::FlushReport, ClientError> {
        self.flush_to(timeout, true).await
    }

    async fn flush_to(
        &self,
        timeout: Duration,
        verified: bool,
    ) -> Result<types::FlushReport, ClientError> {
        let request = types::FlushRequest {
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            verified,
        };
        self.call_within(path::FLUSH, &request, timeout.saturating_add(QUICK))
            .await
    }

    /// Asks `path` for its answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let ask = self.send(Method::GET, path, Bytes::new());
        bounded(QUICK, async { read_json(path, ask.await?).await }).await
    }

    /// Posts `request` to `path`; for what may wait for durable writes.
    pub async fn call<Q: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        request: &Q,
    ) -> Result<T, ClientError> {
        self.call_within(path, request, SLOW).await
    }

    /// As [`Self::call`], with a bound of the caller's.
    pub async fn call_within<Q: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        request: &Q,
        within: Duration,
    ) -> Result<T, ClientError> {
        let ask = self.send(Method::POST, path, to_body(path, request)?);
        bounded(within, async { read_json(path, ask.await?).await }).await
    }

    /// Posts `request` to `path` and gives the events of the answer as they come. Dropping the stream closes the
    /// connection.
    pub async fn stream<Q: Serialize, E: DeserializeOwned>(
        &self,
        path: &str,
        request: &Q,
    ) -> Result<EventStream<E>, ClientError> {
        let response =
            bounded(SLOW, self.send(Method::POST, path, to_body(path, request)?)).await?;
        let response = refuse_errors(path, response).await?;
        Ok(EventStream::new(path, response.into_body()))
    }

    /// Posts `request` to `path` and copies the answer's bytes to `to` as they come. Gives their number.
    pub async fn download<Q: Serialize>(
        &self,
        path: &str,
        request: &Q,
        to: &mut (impl tokio::io::AsyncWrite + Unpin),
    ) -> Result<u64, ClientError> {
        let response =
            bounded(SLOW, self.send(Method::POST, path, to_body(path, request)?)).await?;
        let mut body = refuse_errors(path, response).await?.into_body();
        let mut total = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| ClientError::Broken(e.to_string()))?;
            if let Some(data) = frame.data_ref() {
                to.write_all(data).await.map_err(ClientError::Write)?;
                total += data.len() as u64;
            }
        }
        to.flush().await.map_err(ClientError::Write)?;
        Ok(total)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = tokio::time::timeout(CONNECT_BOUND, UnixStream::connect(&self.socket))
            .await
            .map_err(|_| ClientError::Timeout(CONNECT_BOUND))?
            .map_err(|e| self.connect_error(e))?;
        let (mut sender, connection) = http1::handshake(hyper_util::rt::TokioIo::new(stream))
            .await
            .map_err(|e| ClientError::Broken(e.to_string()))?;
        // The task ends with the connection: when the answer was read, or its reader was dropped.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "tandem")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|e| ClientError::Broken(e.to_string()))?;
        sender
            .send_request(request)
            .await
            .map_err(|e| ClientError::Broken(e.to_string()))
    }

    fn connect_error(&self, source: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NoAgent { socket }
            }
            io::ErrorKind::PermissionDenied => ClientError::Permission { socket },
            _ => ClientError::Connect { socket, source },
        }
    }
}

async fn bounded<T>(
    within: Duration,
    work: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    tokio::time::timeout(within, work)
        .await
        .map_err(|_| ClientError::Timeout(within))?
}

fn to_body<Q: Serialize>(path: &str, request: &Q) -> Result<Bytes, ClientError> {
    let text = serde_json::to_vec(request).map_err(|e| unreadable(path, e))?;
    Ok(Bytes::from(text))
}

fn unreadable(path: &str, reason: impl ToString) -> ClientError {
    ClientError::Unreadable {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

async fn refuse_errors(
    path: &str,
    response: Response<Incoming>,
) -> Result<Response<Incoming>, ClientError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = read_body(response).await?;
    match serde_json::from_slice::<ApiError>(&body) {
        Ok(error) => Err(error.into()),
        Err(_) if status.as_u16() == 404 => Err(ApiError::new(
            ErrorCode::NotFound,
            format!("the agent does not know {path}"),
        )
        .hint("the agent is older than this command: run `tandem restart` after an upgrade")
        .into()),
        Err(e) => Err(unreadable(path, format!("HTTP status {status}, {e}"))),
    }
}

async fn read_json<T: DeserializeOwned>(
    path: &str,
    response: Response<Incoming>,
) -> Result<T, ClientError> {
    let body = read_body(refuse_errors(path, response).await?).await?;
    serde_json::from_slice(&body).map_err(|e| unreadable(path, e))
}

async fn read_body(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = Limited::new(response.into_body(), ANSWER_BOUND)
        .collect()
        .await;
    Ok(body
        .map_err(|e| ClientError::Broken(e.to_string()))?
        .to_bytes())
}

#[cfg(test)]
mod tests;
