//! The secure channel by ssh (RFC 4251-4254) with russh: one connection, one session channel, public keys only.
//!
//! Host key and user key of a node are the same ed25519 key. The server accepts exactly the peer's key for the user
//! [`USER`], by `publickey` (RFC 4252, section 7) and nothing else; the client accepts exactly the peer's key as host
//! key. Both signatures are verified by russh before the handlers here see the key.

mod client;
mod server;

use super::transport::{BoxFuture, Duplex, LinkError, Transport};
use super::wire::Wire;
use crate::config::types::PublicKey;
use crate::keys::NodeKey;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, PrivateKey};
use russh::{MethodKind, MethodSet, Preferred, SshId};
use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

/// Fixed user name.
pub const USER: &str = "tandem";
/// Flow control window of the channel: with smaller ones a fast link is not filled.
const WINDOW: u32 = 32 << 20;
/// Longest packet; russh's own bound.
const PACKET: u32 = 256 << 10;
/// Packets that wait for their reader, before TCP makes the sender wait: 16 MiB at most.
const CHANNEL_BUFFER: usize = 64;

/// ssh with two pinned keys.
pub struct SshTransport {
    keys: Keys,
    private: Arc<PrivateKey>,
    client: Arc<russh::client::Config>,
    server: Arc<russh::server::Config>,
}

/// The two keys that mean something here.
#[derive(Debug, Clone, Copy)]
struct Keys {
    own: PublicKey,
    peer: PublicKey,
}

/// Whose key it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Peer,
    Own,
    Stranger,
}

impl Keys {
    fn whose(&self, key: &russh::keys::PublicKey) -> Whose {
        match key.key_data() {
            KeyData::Ed25519(key) if key.0 == self.peer.0 => Whose::Peer,
            KeyData::Ed25519(key) if key.0 == self.own.0 => Whose::Own,
            _ => Whose::Stranger,
        }
    }
}

/// Why a handler refused; its error type is russh's and has no room for it.
#[derive(Debug, Clone, Default)]
struct Verdict(Arc<Mutex<Option<LinkError>>>);

impl Verdict {
    fn set(&self, error: LinkError) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    /// The verdict, or else what russh says.
    fn or(&self, error: &russh::Error) -> LinkError {
        let verdict = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (verdict, error) {
            (Some(verdict), _) => verdict,
            (None, russh::Error::IO(error)) => {
                LinkError::Protocol(format!("connection lost: {error}"))
            }
            (None, error) => LinkError::Protocol(error.to_string()),
        }
    }
}

impl SshTransport {
    /// For this node's key and the one peer.
    pub fn new(key: &NodeKey, peer: PublicKey) -> Self {
        let keys = Keys {
            own: key.public(),
            peer,
        };
        let id = || SshId::Standard(Cow::Borrowed("SSH-2.0-tandem"));
        let client = russh::client::Config {
            client_id: id(),
            window_size: WINDOW,
            maximum_packet_size: PACKET,
            channel_buffer_size: CHANNEL_BUFFER,
            preferred: preferred(),
            inactivity_timeout: None,
            keepalive_interval: None,
            ..Default::default()
        };
        let server = russh::server::Config {
            server_id: id(),
            methods: MethodSet::from(&[MethodKind::PublicKey][..]),
            // Which key is accepted is no secret: it is public.
            auth_rejection_time: std::time::Duration::ZERO,
            keys: vec![key.ssh().clone()],
            window_size: WINDOW,
            maximum_packet_size: PACKET,
            channel_buffer_size: CHANNEL_BUFFER,
            preferred: preferred(),
            max_auth_attempts: 2,
            inactivity_timeout: None,
            keepalive_interval: None,
            ..Default::default()
        };
        Self {
            keys,
            private: Arc::new(key.ssh().clone()),
            client: Arc::new(client),
            server: Arc::new(server),
        }
    }
}

fn preferred() -> Preferred {
    Preferred {
        kex: Cow::Borrowed(&[
            russh::kex::MLKEM768X25519_SHA256,
            russh::kex::CURVE25519,
            russh::kex::EXTENSION_SUPPORT_AS_CLIENT,
            russh::kex::EXTENSION_SUPPORT_AS_SERVER,
            russh::kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
            russh::kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
        ]),
        key: Cow::Borrowed(&[Algorithm::Ed25519]),
        cipher: Cow::Borrowed(&[russh::cipher::AES_256_GCM]),
        compression: Cow::Borrowed(&[russh::compression::NONE]),
        ..Preferred::DEFAULT
    }
}

impl Transport for SshTransport {
    fn connect(&self, wire: Wire) -> BoxFuture<'_, Result<Box<dyn Duplex>, LinkError>> {
        Box::pin(client::connect(self, wire))
    }

    fn accept(&self, wire: Wire) -> BoxFuture<'_, Result<Box<dyn Duplex>, LinkError>> {
        Box::pin(server::accept(self, wire))
    }
}
