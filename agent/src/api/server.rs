//! The server side of the local API: HTTP/1.1 with JSON on a Unix socket that only root may open.
//!
//! It knows nothing of the agent but [`Backend`], which the daemon implements.

use super::types::{self, ApiError, ErrorCode, Line, path};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::stream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Longest request body: requests are names and numbers.
const BODY_BOUND: usize = 64 * 1024;

/// Events of one operation that wait for a slow reader. When it is full the operation waits.
pub const STREAM_QUEUE: usize = 64;

/// Events of an operation that takes time; the last line is a last event of its type, or an error.
pub type Lines<E> = mpsc::Receiver<Line<E>>;

/// A list as lines.
pub fn list<E: Send + 'static>(
    events: impl IntoIterator<Item = E, IntoIter: Send> + Send + 'static,
) -> Lines<E> {
    let (sender, lines) = mpsc::channel(STREAM_QUEUE);
    tokio::spawn(async move {
        for event in events {
            if sender.send(Line::Event(event)).await.is_err() {
                return;
            }
        }
    });
    lines
}

/// What the daemon answers. Every method may be dropped at any time: the daemon finishes or gives up what was begun
/// as its types say.
pub trait Backend: Send + Sync + 'static {
    /// `GET /v1/status`.
    fn status(&self) -> Answer<'_, types::StatusReport>;
    /// `GET /v1/role`.
    fn role(&self) -> Answer<'_, types::RoleReport>;
    /// `POST /v1/init`.
    fn init(&self, request: types::InitRequest) -> Answer<'_, types::InitReport>;
    /// `POST /v1/failback`.
    fn failback(&self, request: types::Empty) -> Answer<'_, Lines<types::MoveEvent>>;
    /// `POST /v1/switchover`.
    fn switchover(&self, request: types::Empty) -> Answer<'_, Lines<types::MoveEvent>>;
    /// `GET /v1/takeover`.
    fn takeover_price(&self) -> Answer<'_, types::TakeoverPrice>;
    /// `POST /v1/takeover`.
    fn takeover(&self, request: types::TakeoverRequest) -> Answer<'_, Lines<types::MoveEvent>>;
    /// `POST /v1/flush`.
    fn flush(&self, request: types::FlushRequest) -> Answer<'_, types::FlushReport>;
    /// `POST /v1/hold`. The hold ends when the lines are dropped.
    fn hold(&self, request: types::HoldRequest) -> Answer<'_, Lines<types::HoldEvent>>;
    /// `POST /v1/verify`.
    fn verify(&self, request: types::VerifyRequest) -> Answer<'_, Lines<types::VerifyEvent>>;
    /// `POST /v1/tree/accept`.
    fn accept(&self, request: types::AcceptRequest) -> Answer<'_, types::Done>;
    /// `POST /v1/tree/accept/price`.
    fn accept_price(&self, request: types::AcceptPriceRequest) -> Answer<'_, types::AcceptPrice>;
    /// `POST /v1/adopt`.
    fn adopt(&self, request: types::AdoptRequest) -> Answer<'_, types::Done>;
    /// `GET /v1/rescue`.
    fn rescue_list(&self) -> Answer<'_, types::RescueList>;
    /// `POST /v1/rescue/show`.
    fn rescue_show(
        &self,
        request: types::RescueShowRequest,
    ) -> Answer<'_, Lines<types::RescueItem>>;
    /// `POST /v1/rescue/file`: the bytes of one item.
    fn rescue_file(&self, request: types::RescueFileRequest) -> Answer<'_, std::fs::File>;
    /// `POST /v1/rescue/restore`.
    fn rescue_restore(
        &self,
        request: types::RestoreRequest,
    ) -> Answer<'_, Lines<types::RestoreEvent>>;
    /// `POST /v1/rescue/drop`.
    fn rescue_drop(&self, request: types::RescueSelection) -> Answer<'_, types::Done>;
    /// `POST /v1/trash`.
    fn trash_list(&self, request: types::TrashListRequest) -> Answer<'_, Lines<types::TrashEvent>>;
    /// `POST /v1/trash/restore`.
    fn trash_restore(
        &self,
        request: types::TrashRestoreRequest,
    ) -> Answer<'_, Lines<types::RestoreEvent>>;
    /// `POST /v1/trash/empty`.
    fn trash_empty(&self, request: types::TrashEmptyRequest) -> Answer<'_, types::Done>;
    /// `POST /v1/maintenance`.
    fn maintenance(&self, request: types::MaintenanceRequest) -> Answer<'_, types::Done>;
    /// `POST /v1/restart`.
    fn restart(&self) -> Answer<'_, types::Done>;
    /// `POST /v1/reload`.
    fn reload(&self) -> Answer<'_, types::ReloadReport>;
}

/// The future of an answer.
pub type Answer<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, ApiError>> + Send + 'a>>;

/// The socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The directory or the socket cannot be made.
    #[error("cannot listen on {}: {source}", .socket.display())]
    Listen {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may write in the socket's directory.
    #[error(
        "the directory {} (owner {owner}, mode {mode:o}) of the local socket must be root's and writable by nobody else: \
         chown root and chmod go-w",
        .dir.display()
    )]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// Another agent listens there.
    #[error("another agent is listening on {}: stop it first", .socket.display())]
    InUse {
        /// The socket.
        socket: PathBuf,
    },
}

/// Opens the socket with mode 0600 in a directory with mode 0700 when it has to be made. A socket that nobody
/// listens on is left over from an agent that was killed, and is replaced.
///
/// A directory in which others may write is refused: they could put a socket of their own in the place of this one,
/// and answer root's commands.
pub fn listen(socket: &Path) -> Result<Listener, ServeError> {
    let fail = |source| ServeError::Listen {
        socket: socket.to_owned(),
        source,
    };
    let dir = match socket.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(fail)?;
    let meta = std::fs::metadata(dir).map_err(fail)?;
    let me = rustix::process::geteuid().as_raw();
    if (meta.uid() != 0 && meta.uid() != me) || meta.mode() & 0o022 != 0 {
        return Err(ServeError::Directory {
            dir: dir.to_owned(),
            owner: meta.uid(),
            mode: meta.mode() & 0o7777,
        });
    }
    // Not followed: whatever has this name, only a socket can be somebody who listens.
    if let Ok(there) = std::fs::symlink_metadata(socket) {
        if there.file_type().is_socket() && std::os::unix::net::UnixStream::connect(socket).is_ok()
        {
            return Err(ServeError::InUse {
                socket: socket.to_owned(),
            });
        }
        std::fs::remove_file(socket).map_err(fail)?;
    }
    // The socket is made under a name that nobody knows, and gets its name with its permissions.
    let private = socket.with_extension(format!("{}", std::process::id()));
    let _ = std::fs::remove_file(&private);
    let listener = UnixListener::bind(&private).map_err(fail)?;
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    std::fs::rename(&private, socket).map_err(fail)?;
    Ok(Listener { listener, me })
}

/// The socket. It gives out connections of root and of this process's user only, whatever became of its mode.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    me: u32,
}

impl axum::serve::Listener for Listener {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            // The same method of tokio's listener, by axum: it waits when descriptors are lacking.
            let (stream, address) = axum::serve::Listener::accept(&mut self.listener).await;
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == 0 || peer.uid() == self.me => return (stream, address),
                Ok(peer) => tracing::warn!(uid = peer.uid(), "refused on the local socket"),
                // Gone already.
                Err(error) => tracing::debug!(%error, "lost on the local socket"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// Serves until `cancel` fires; then it returns when the answers that were begun are written. Events of an operation
/// that goes on count as such: the caller bounds the wait, and operations under way are dropped with the future.
pub async fn serve<B: Backend>(
    listener: Listener,
    backend: Arc<B>,
    cancel: CancellationToken,
) -> io::Result<()> {
    let app = router(backend);
    axum::serve(listener, app)
        .with_graceful_shutdown(cancel.cancelled_owned())
        .await
}

macro_rules! getter {
    ($method:ident) => {
        get(|State(b): State<Arc<B>>| async move { answer(b.$method().await) })
    };
}

macro_rules! poster {
    ($method:ident, $shape:ident) => {
        post(|State(b): State<Arc<B>>, body: Bytes| async move {
            match parse(&body) {
                Ok(request) => $shape(b.$method(request).await),
                Err(error) => refuse(&error),
            }
        })
    };
}

fn router<B: Backend>(backend: Arc<B>) -> Router {
    Router::new()
        .route(path::STATUS, getter!(status))
        .route(path::ROLE, getter!(role))
        .route(path::INIT, poster!(init, answer))
        .route(path::FAILBACK, poster!(failback, lines))
        .route(path::SWITCHOVER, poster!(switchover, lines))
        .route(
            path::TAKEOVER,
            getter!(takeover_price).merge(poster!(takeover, lines)),
        )
        .route(path::FLUSH, poster!(flush, answer))
        .route(path::HOLD, poster!(hold, lines))
        .route(path::VERIFY, poster!(verify, lines))
        .route(path::ACCEPT, poster!(accept, answer))
        .route(path::ACCEPT_PRICE, poster!(accept_price, answer))
        .route(path::ADOPT, poster!(adopt, answer))
        .route(path::RESCUE, getter!(rescue_list))
        .route(path::RESCUE_SHOW, poster!(rescue_show, lines))
        .route(path::RESCUE_FILE, poster!(rescue_file, file))
        .route(path::RESCUE_RESTORE, poster!(rescue_restore, lines))
        .route(path::RESCUE_DROP, poster!(rescue_drop, answer))
        .route(path::TRASH, poster!(trash_list, lines))
        .route(path::TRASH_RESTORE, poster!(trash_restore, lines))
        .route(path::TRASH_EMPTY, poster!(trash_empty, answer))
        .route(path::MAINTENANCE, poster!(maintenance, answer))
        .route(
            path::RESTART,
            post(|State(b): State<Arc<B>>| async move { answer(b.restart().await) }),
        )
        .route(
            path::RELOAD,
            post(|State(b): State<Arc<B>>| async move { answer(b.reload().await) }),
        )
        .fallback(unknown_path)
        .layer(DefaultBodyLimit::max(BODY_BOUND))
        .with_state(backend)
}

/// Another version of the API, or a question that a newer one has.
async fn unknown_path(uri: Uri) -> Response {
    let text = format!(
        "this agent does not know {}: it is tandem {} and speaks version {} of the API (/v{}/...)",
        uri.path(),
        env!("CARGO_PKG_VERSION"),
        types::API_VERSION,
        types::API_VERSION
    );
    let error = ApiError::new(ErrorCode::NotFound, text);
    refuse(
        &error.hint(
            "after an upgrade of the program `tandem restart` brings the agent to its version",
        ),
    )
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|e| {
        ApiError::new(
            ErrorCode::BadRequest,
            format!("the request cannot be read: {e}"),
        )
    })
}

fn answer<T: Serialize>(result: Result<T, ApiError>) -> Response {
    match result.map(|value| serde_json::to_vec(&value)) {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Ok(Err(e)) => refuse(&ApiError::new(ErrorCode::Internal, e.to_string())),
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &ApiError) -> Response {
    let status =
        StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let text = serde_json::to_vec(error).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

fn lines<E: Serialize + Send + 'static>(result: Result<Lines<E>, ApiError>) -> Response {
    let receiver = match result {
        Ok(receiver) => receiver,
        Err(error) => return refuse(&error),
    };
    let body = stream::unfold(receiver, |mut receiver| async move {
        let line = receiver.recv().await?;
        let text = serde_json::to_vec(&line).map(|mut text| {
            text.push(b'\n');
            text
        });
        Some((text, receiver))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (kind, Body::from_stream(body)).into_response()
}

fn file(result: Result<std::fs::File, ApiError>) -> Response {
    let file = match result {
        Ok(file) => tokio::fs::File::from_std(file),
        Err(error) => return refuse(&error),
    };
    let body = stream::unfold(file, |mut file| async move {
        use tokio::io::AsyncReadExt;
        let mut chunk = vec![0; 256 * 1024];
        match file.read(&mut chunk).await {
            Ok(0) => None,
            Ok(n) => {
                chunk.truncate(n);
                Some((Ok(chunk), file))
            }
            Err(e) => Some((Err(e), file)),
        }
    });
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    (kind, Body::from_stream(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).expect("it is there").mode() & 0o7777
    }

    #[tokio::test]
    async fn the_socket_is_closed_to_others_and_what_was_planted_is_replaced() {
        let temp = tempfile::tempdir().expect("temp dir");
        let dir = temp.path().join("run");
        let socket = dir.join("tandem.sock");
        drop(listen(&socket).expect("it listens"));
        assert_eq!((mode(&dir), mode(&socket)), (0o700, 0o600));
        // Nobody listens on it any more; a link of that name leads nowhere and is not followed.
        let elsewhere = temp.path().join("precious");
        std::fs::write(&elsewhere, b"x").expect("written");
        for target in [elsewhere.clone(), temp.path().join("nothing")] {
            std::fs::remove_file(&socket).expect("removed");
            std::os::unix::fs::symlink(&target, &socket).expect("linked");
            drop(listen(&socket).expect("it listens"));
            assert_eq!(mode(&socket), 0o600);
        }
        assert_eq!(std::fs::read(&elsewhere).expect("there"), b"x");
        let _first = listen(&socket).expect("it listens");
        assert!(matches!(listen(&socket), Err(ServeError::InUse { .. })));
    }

    #[tokio::test]
    async fn a_directory_in_which_others_write_is_refused() {
        let temp = tempfile::tempdir().expect("temp dir");
        for bad in [0o777, 0o1777, 0o770, 0o702] {
            std::fs::set_permissions(temp.path(), PermissionsExt::from_mode(bad)).expect("chmod");
            let refused = listen(&temp.path().join("tandem.sock"));
            assert!(
                matches!(refused, Err(ServeError::Directory { .. })),
                "{bad:o}"
            );
        }
        std::fs::set_permissions(temp.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
        drop(listen(&temp.path().join("tandem.sock")).expect("it listens"));
    }

    /// The mode of the socket is one lock, the caller's user is another.
    #[tokio::test]
    async fn another_user_is_not_let_in() {
        use axum::serve::Listener as _;
        let temp = tempfile::tempdir().expect("temp dir");
        let socket = temp.path().join("tandem.sock");
        std::fs::set_permissions(temp.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
        let mut listener = listen(&socket).expect("it listens");
        std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o666)).expect("chmod");
        // Root may become somebody else in one thread; without that right there is nobody to be refused.
        let path = socket.clone();
        let other = std::thread::spawn(move || {
            let other = rustix::thread::set_thread_uid(rustix::fs::Uid::from_raw(65534));
            other
                .is_ok()
                .then(|| std::os::unix::net::UnixStream::connect(path).expect("connected"))
        });
        let Some(mut other) = other.join().expect("the thread ends") else {
            return tandem_lab::skipped("no right to become another user");
        };
        let own = tokio::net::UnixStream::connect(&socket)
            .await
            .expect("connected");
        let (accepted, _) = listener.accept().await;
        let cred = accepted.peer_cred().expect("known");
        assert_eq!(cred.uid(), rustix::process::geteuid().as_raw());
        drop(own);
        // Hung up at once.
        let ended = std::io::Read::read(&mut other, &mut [0; 1]).map_or(0, |n| n);
        assert_eq!(ended, 0);
    }
}
