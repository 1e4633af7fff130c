//! The TCP socket below the secure channel: counts bytes, can be cut from outside, tells when it is gone.

use super::tcp_info;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tandem_sync::engine::LinkUse;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

/// Unacknowledged or unsendable bytes end the connection after this long (TCP_USER_TIMEOUT, tcp(7)). It also counts
/// while the receiver does not read, which a slow disk may do for a while; death of the peer is seen earlier, on the
/// control connection.
const USER_TIMEOUT: Duration = Duration::from_secs(120);
/// Silence after which the kernel asks whether the peer is there, then every [`KEEPALIVE`] again.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Time between two looks at the use of the link: a system call each.
const LOOK: Duration = Duration::from_millis(50);

/// The socket. Owned by the secure channel; dropped when that is over.
pub(crate) struct Wire {
    tcp: TcpStream,
    handle: Arc<WireHandle>,
    cut_read: Pin<Box<WaitForCancellationFutureOwned>>,
    cut_write: Pin<Box<WaitForCancellationFutureOwned>>,
    head: Option<Head>,
    /// When the kernel was asked for the use of the link.
    looked: Instant,
    _closed: DropGuard,
}

/// The first line that comes in, while it comes.
struct Head {
    line: Vec<u8>,
    then: ShowLine,
}

type ShowLine = Box<dyn FnOnce(&[u8]) + Send>;

/// Longest first line that is shown: RFC 4253 allows 255 bytes with their end.
const HEAD: usize = 255;

/// What others hold of it.
#[derive(Debug)]
pub(crate) struct WireHandle {
    pub(crate) remote: SocketAddr,
    /// Ends the connection at once, whatever its tasks wait for.
    pub(crate) cut: CancellationToken,
    /// Fires when the secure channel has let go of the socket.
    pub(crate) closed: CancellationToken,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    /// As of the last write that looked; microseconds.
    busy: AtomicU64,
    held: AtomicU64,
}

impl WireHandle {
    /// How much the link had to do, as of [`LOOK`] ago at most while something is sent.
    pub(crate) fn link_use(&self) -> LinkUse {
        LinkUse {
            busy: Duration::from_micros(self.busy.load(Ordering::Relaxed)),
            held: Duration::from_micros(self.held.load(Ordering::Relaxed)),
        }
    }

    pub(crate) fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Ordering::Relaxed)
    }
}

impl Wire {
    pub(crate) fn new(tcp: TcpStream) -> io::Result<(Self, Arc<WireHandle>)> {
        Self::patient(tcp, USER_TIMEOUT)
    }

    /// One that ends when what was sent is not taken for so long.
    pub(crate) fn patient(
        tcp: TcpStream,
        patience: Duration,
    ) -> io::Result<(Self, Arc<WireHandle>)> {
        tcp.set_nodelay(true)?;
        let socket = socket2::SockRef::from(&tcp);
        socket.set_tcp_user_timeout(Some(patience))?;
        socket.set_tcp_keepalive(
            &socket2::TcpKeepalive::new()
                .with_time(KEEPALIVE)
                .with_interval(KEEPALIVE)
                .with_retries(3),
        )?;
        let (cut, closed) = (CancellationToken::new(), CancellationToken::new());
        let handle = Arc::new(WireHandle {
            remote: tcp.peer_addr()?,
            cut: cut.clone(),
            closed: closed.clone(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            held: AtomicU64::new(0),
        });
        let wire = Self {
            tcp,
            handle: handle.clone(),
            cut_read: Box::pin(cut.clone().cancelled_owned()),
            cut_write: Box::pin(cut.cancelled_owned()),
            head: None,
            looked: Instant::now(),
            _closed: closed.drop_guard(),
        };
        Ok((wire, handle))
    }
}

impl Wire {
    /// Shows the first line that comes in to `then`, before the secure channel gets its end.
    pub(crate) fn on_first_line(&mut self, then: impl FnOnce(&[u8]) + Send + 'static) {
        self.head = Some(Head {
            line: Vec::new(),
            then: Box::new(then),
        });
    }

    /// Asks the kernel now and then: only who owns the socket can.
    fn look_at_link(&mut self) {
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        if let Some(used) = tcp_info::link_use(self.tcp.as_fd()) {
            let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            self.handle.busy.store(micros(used.busy), Ordering::Relaxed);
            self.handle.held.store(micros(used.held), Ordering::Relaxed);
        }
    }

    fn show_head(&mut self, new: &[u8]) {
        let Some(mut head) = self.head.take() else {
            return;
        };
        let end = new.iter().position(|b| *b == b'\n');
        let part = &new[..end.unwrap_or(new.len())];
        let room = HEAD - head.line.len();
        head.line.extend_from_slice(&part[..part.len().min(room)]);
        if end.is_some() || head.line.len() == HEAD {
            (head.then)(&head.line);
        } else {
            self.head = Some(head);
        }
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "connection was cut")
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut_read.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(cut()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.tcp).poll_read(cx, buf);
        let count = (buf.filled().len() - before) as u64;
        self.handle.bytes_in.fetch_add(count, Ordering::Relaxed);
        self.show_head(&buf.filled()[before..]);
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.cut_write.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(cut()));
        }
        self.look_at_link();
        let polled = Pin::new(&mut self.tcp).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = &polled {
            let count = *count as u64;
            self.handle.bytes_out.fetch_add(count, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
