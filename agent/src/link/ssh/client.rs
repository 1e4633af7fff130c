//! The dialling side.

use super::{Dial, Keys, SshTransport, USER, Verdict, Whose, client_config};
use crate::link::transport::{CloneEvidence, Duplex, LinkError};
use crate::link::wire::Wire;
use russh::client::{AuthResult, Handle, Msg};
use russh::keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{ChannelStream, Disconnect};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

struct Handler {
    keys: Keys,
    verdict: Verdict,
    dial: Dial,
}

impl russh::client::Handler for Handler {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        key: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        let whose = match key {
            PublicKeyOrCertificate::PublicKey { key, .. } => self.keys.whose(key),
            PublicKeyOrCertificate::Certificate(_) => Whose::Stranger,
        };
        match whose {
            Whose::Peer => return Ok(true),
            // Only passed on: this node's own listener has seen this very connection.
            Whose::Own if self.dial.came_back() => self.verdict.set(LinkError::Reflected),
            Whose::Own => self.verdict.set(LinkError::OwnKey(CloneEvidence::Answered)),
            Whose::Stranger => self.verdict.set(LinkError::WrongHostKey),
        }
        Ok(false)
    }
}

/// Connects, authenticates, opens the one channel. The caller bounds the time; cutting the wire ends it.
pub(super) async fn connect(
    transport: &SshTransport,
    wire: Wire,
) -> Result<Box<dyn Duplex>, LinkError> {
    let verdict = Verdict::default();
    let dial = transport.dials.begin();
    let config = Arc::new(client_config(&dial));
    let handler = Handler {
        keys: transport.keys.clone(),
        verdict: verdict.clone(),
        dial,
    };
    let failed = |error: russh::Error| verdict.or(&error);
    let mut handle = russh::client::connect_stream(config, wire, handler)
        .await
        .map_err(failed)?;
    let key = PrivateKeyWithHashAlg::new(transport.private.clone(), None);
    match handle
        .authenticate_publickey(USER, key)
        .await
        .map_err(failed)?
    {
        AuthResult::Success => {}
        AuthResult::Failure { .. } => {
            return Err(LinkError::Protocol(
                "the peer does not accept this node's key: is it in the peer's configuration?"
                    .to_owned(),
            ));
        }
    }
    let channel = handle.channel_open_session().await.map_err(failed)?;
    Ok(Box::new(ClientStream {
        channel: Some(channel.into_stream()),
        handle: Some(handle),
    }))
}

/// The channel with the handle of its session, which it closes.
struct ClientStream {
    channel: Option<ChannelStream<Msg>>,
    handle: Option<Handle<Handler>>,
}

impl ClientStream {
    fn channel(&mut self) -> io::Result<Pin<&mut ChannelStream<Msg>>> {
        let closed = || io::Error::from(io::ErrorKind::NotConnected);
        self.channel.as_mut().map(Pin::new).ok_or_else(closed)
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.channel()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.channel()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.channel()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.channel()?.poll_shutdown(cx)
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        drop(self.channel.take());
        let (Some(handle), Ok(runtime)) =
            (self.handle.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        // Queued behind what was written. The owner of the wire bounds the time.
        runtime.spawn(async move {
            let _ = handle
                .disconnect(Disconnect::ByApplication, "closed", "")
                .await;
        });
    }
}
