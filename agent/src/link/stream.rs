//! A stream to the authenticated peer, as the rest of the agent sees it.

use super::status::SessionGuard;
use super::transport::Duplex;
use super::wire::WireHandle;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tandem_sync::engine::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// What was written before the drop may still leave for this long.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// A data connection. Write in pieces of 64 KiB or more: each write is at least one encrypted packet.
///
/// A write that waits ends with an error when the connection dies, a read with 0 bytes or an error. Reading 0 bytes means that the peer has
/// ended its direction, or is gone: a protocol above must mark its own end. Bulk in both directions at once can
/// block for ever (each side's ssh session waits for the other to read): send bulk one way, small answers back.
/// Dropping it closes the connection; what was written before still has `CLOSE_GRACE` to leave.
pub struct DataStream<G = SessionGuard> {
    /// `None` only while dropping.
    inner: Option<Box<dyn Duplex>>,
    wire: Arc<WireHandle>,
    closed_write: Pin<Box<WaitForCancellationFutureOwned>>,
    session: G,
}

/// A data connection to a replica. On the replica it holds one of the places for such connections.
pub type FeedStream = DataStream<Option<OwnedSemaphorePermit>>;

impl<G> fmt::Debug for DataStream<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataStream")
            .field("remote", &self.wire.remote)
            .finish_non_exhaustive()
    }
}

impl<G> DataStream<G> {
    pub(crate) fn new(inner: Box<dyn Duplex>, wire: Arc<WireHandle>, session: G) -> Self {
        Self {
            inner: Some(inner),
            closed_write: Box::pin(wire.closed.clone().cancelled_owned()),
            wire,
            session,
        }
    }

    /// Fires when the connection is gone.
    pub fn closed(&self) -> CancellationToken {
        self.wire.closed.clone()
    }

    /// Tells how much the link has to do.
    pub fn gauge(&self) -> Gauge {
        let wire = Arc::clone(&self.wire);
        Arc::new(move || Some(wire.link_use()))
    }

    pub(crate) fn wire(&self) -> &Arc<WireHandle> {
        &self.wire
    }

    fn inner(&mut self) -> io::Result<Pin<&mut Box<dyn Duplex>>> {
        self.inner.as_mut().map(Pin::new).ok_or_else(gone)
    }
}

impl DataStream {
    /// Name of the link that carries it.
    pub fn link(&self) -> &str {
        self.session.link()
    }

    pub(crate) fn session(&self) -> &SessionGuard {
        &self.session
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the connection is gone")
}

impl<G: Unpin> AsyncRead for DataStream<G> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Ends by itself when the connection does, after everything that had arrived.
        self.inner()?.poll_read(cx, buf)
    }
}

impl<G: Unpin> AsyncWrite for DataStream<G> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        // russh never wakes a writer that waits for its window when the connection dies.
        let polled = self.inner()?.poll_write(cx, buf);
        if polled.is_pending() && self.closed_write.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(gone()));
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.inner()?.poll_shutdown(cx);
        if polled.is_pending() && self.closed_write.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(gone()));
        }
        polled
    }
}

impl<G> Drop for DataStream<G> {
    fn drop(&mut self) {
        let wire = self.wire.clone();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // Outside of a runtime nothing can be closed politely, and russh's channel would panic in its drop.
            wire.cut.cancel();
            std::mem::forget(self.inner.take());
            return;
        };
        drop(self.inner.take());
        runtime.spawn(async move {
            let _ = tokio::time::timeout(CLOSE_GRACE, wire.closed.cancelled()).await;
            wire.cut.cancel();
        });
    }
}
