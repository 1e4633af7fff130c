//! The accepting side.

use super::{Keys, SshTransport, USER, Verdict, Whose};
use crate::link::transport::{CloneEvidence, Duplex, LinkError};
use crate::link::wire::Wire;
use russh::Channel;
use russh::server::{
    Auth, ChannelOpenHandle, Msg, PublicKeyOffer, RunningSession, Session, VerifiedPublicKey,
};
use tokio::sync::oneshot;

struct Handler {
    keys: Keys,
    verdict: Verdict,
    /// Where the one channel goes; taken by the first.
    channel: Option<oneshot::Sender<Channel<Msg>>>,
}

impl Handler {
    fn judge(&self, user: &str, key: &russh::keys::PublicKey) -> Whose {
        match self.keys.whose(key) {
            Whose::Peer if user != USER => Whose::Stranger,
            whose => whose,
        }
    }
}

impl russh::server::Handler for Handler {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(match self.judge(user, offer.public_key) {
            // Our own key is let go on to its proof: only then it is evidence of a clone.
            Whose::Peer | Whose::Own => Auth::Accept,
            Whose::Stranger => {
                self.verdict.set(LinkError::Stranger);
                Auth::reject()
            }
        })
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        match self.judge(user, key.public_key) {
            Whose::Peer => return Ok(Auth::Accept),
            Whose::Own => self.verdict.set(LinkError::OwnKey(CloneEvidence::Dialled)),
            Whose::Stranger => self.verdict.set(LinkError::Stranger),
        }
        Ok(Auth::reject())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        // A second channel is rejected by dropping the reply: one channel per connection.
        if let Some(taker) = self.channel.take() {
            reply.accept().await;
            // Nobody waits any more: the acceptor gave up and cuts the wire.
            let _ = taker.send(channel);
        }
        Ok(())
    }
}

/// Waits for authentication and the one channel. The caller bounds the time; cutting the wire ends it.
pub(super) async fn accept(
    transport: &SshTransport,
    mut wire: Wire,
) -> Result<Box<dyn Duplex>, LinkError> {
    let dials = transport.dials.clone();
    let verdict = Verdict::default();
    let reflected = verdict.clone();
    wire.on_first_line(move |line| {
        if dials.seen(line) {
            reflected.set(LinkError::Reflected);
        }
    });
    let (sender, channel) = oneshot::channel();
    let handler = Handler {
        keys: transport.keys.clone(),
        verdict: verdict.clone(),
        channel: Some(sender),
    };
    let session = russh::server::run_stream(transport.server.clone(), wire, handler)
        .await
        .map_err(|error| verdict.or(&error))?;
    let channel = tokio::select! {
        biased;
        channel = channel => channel.map_err(|_| verdict.or(&russh::Error::Disconnect))?,
        error = ended(session) => return Err(verdict.or(&error)),
    };
    Ok(Box::new(channel.into_stream()))
}

/// The session's end as an error: before the channel is there, any end is one. The session itself runs in a task of
/// its own and goes on when this future is dropped.
async fn ended(session: RunningSession<Handler>) -> russh::Error {
    match session.await {
        Ok(()) => russh::Error::Disconnect,
        Err(error) => error,
    }
}
