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
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Identification of a dialling agent, before its number.
const CLIENT_ID: &str = "SSH-2.0-tandem_";
/// Fixed user name.
pub const USER: &str = "tandem";
/// Flow control window of the channel: with smaller ones a fast link is not filled.
const WINDOW: u32 = 32 << 20;
/// Longest packet; russh's own bound.
const PACKET: u32 = 256 << 10;
/// Packets that wait for their reader, before TCP makes the sender wait: 16 MiB at most.
const CHANNEL_BUFFER: usize = 64;

/// ssh with pinned keys.
pub struct SshTransport {
    keys: Keys,
    private: Arc<PrivateKey>,
    dials: Dials,
    server: Arc<russh::server::Config>,
}

/// The keys that mean something here.
#[derive(Debug, Clone)]
struct Keys {
    own: PublicKey,
    peers: Arc<[PublicKey]>,
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
            KeyData::Ed25519(key) if self.peers.contains(&PublicKey(key.0)) => Whose::Peer,
            KeyData::Ed25519(key) if key.0 == self.own.0 => Whose::Own,
            _ => Whose::Stranger,
        }
    }
}

/// Connections that this node dials just now, each by the random number in its ssh identification. Whoever sends one
/// of them back to this node's own port shows it this node's own key, and must not look like a copy of this node.
///
/// The identification is part of what the host key signs (RFC 4253, section 8), so it cannot be changed on the way.
#[derive(Debug, Clone, Default)]
struct Dials(Arc<Mutex<HashMap<u64, bool>>>);

impl Dials {
    /// Enters a dial, until the guard is dropped.
    fn begin(&self) -> Dial {
        let number = rand::random();
        self.lock().insert(number, false);
        Dial {
            all: self.clone(),
            number,
        }
    }

    /// The first line of somebody who dialled this node. Whether it is one of its own dials.
    fn seen(&self, line: &[u8]) -> bool {
        let number = std::str::from_utf8(line).ok().and_then(|line| {
            let number = line.trim_end().strip_prefix(CLIENT_ID)?;
            u64::from_str_radix(number, 16).ok()
        });
        let mut dials = self.lock();
        let own = number.and_then(|n| dials.get_mut(&n));
        own.is_some_and(|back| {
            *back = true;
            true
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of them.
#[derive(Debug)]
struct Dial {
    all: Dials,
    number: u64,
}

impl Dial {
    fn id(&self) -> SshId {
        SshId::Standard(Cow::Owned(format!("{CLIENT_ID}{:016x}", self.number)))
    }

    /// Somebody sent it back to this node.
    fn came_back(&self) -> bool {
        self.all.lock().get(&self.number).is_some_and(|back| *back)
    }
}

impl Drop for Dial {
    fn drop(&mut self) {
        self.all.lock().remove(&self.number);
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
    /// For this node's key and those of whom it lets in, and of whom it dials.
    pub fn new(key: &NodeKey, peers: &[PublicKey]) -> Self {
        let keys = Keys {
            own: key.public(),
            peers: peers.into(),
        };
        let server = russh::server::Config {
            server_id: SshId::Standard(Cow::Borrowed("SSH-2.0-tandem")),
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
            dials: Dials::default(),
            server: Arc::new(server),
        }
    }
}

fn client_config(dial: &Dial) -> russh::client::Config {
    russh::client::Config {
        client_id: dial.id(),
        window_size: WINDOW,
        maximum_packet_size: PACKET,
        channel_buffer_size: CHANNEL_BUFFER,
        preferred: preferred(),
        inactivity_timeout: None,
        keepalive_interval: None,
        ..Default::default()
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
