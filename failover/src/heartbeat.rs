//! The heartbeat datagram: its content, and its bytes.
//!
//! # Format
//! One UDP datagram of at most [`MAX_LEN`] bytes:
//!
//! | offset | length | content |
//! |---|---|---|
//! | 0 | 4 | magic `TDHB` |
//! | 4 | 1 | protocol version of the sender |
//! | 5 | 1 | oldest version whose receivers understand this datagram |
//! | 6 | 16 | pair id |
//! | 22 | 8 | key id of the sender |
//! | 30 | n | [`Heartbeat`], postcard |
//! | 30 + n | 64 | ed25519 signature (RFC 8032) over all bytes before it |
//!
//! # Versions
//! Versions N and N-1 understand each other. A newer version appends fields at the end of [`Body`] and
//! nowhere else: what follows the known fields is ignored. It says in byte 5 from which version on that is
//! enough. A datagram that asks for more than [`VERSION`] is refused as a whole.
//!
//! Signing and verifying are the caller's: this module does no cryptography.

use crate::health::Health;
use crate::role::{Phase, Reason, Role};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest datagram, bytes: fits every path of the common Ethernet MTU with room for tunnels, so that no
/// heartbeat is ever fragmented.
pub const MAX_LEN: usize = 1200;
/// Protocol version that this code speaks.
pub const VERSION: u8 = 1;
/// Oldest protocol version that this code understands.
pub const OLDEST: u8 = 1;
/// Length of the signature, bytes.
pub const SIGNATURE_LEN: usize = 64;

const MAGIC: [u8; 4] = *b"TDHB";
const HEADER_LEN: usize = 30;

/// Identifies the pair. State and datagrams of another pair are refused. For datagrams it is a digest over its name and
/// both public keys; for state over the name alone, which stays when a node gets a new key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct PairId(pub [u8; 16]);

/// Short name of a public key: the first 8 bytes of its BLAKE3 hash.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct KeyId(pub [u8; 8]);

impl PairId {
    /// The id of the state of the pair `name`, whatever keys its nodes have.
    pub fn of_state(name: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(b"tandem pair state 1\0")
            .update(name.as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(id)
    }

    /// The id of the pair `name` with these two public keys, in any order.
    pub fn of(name: &str, a: &[u8; 32], b: &[u8; 32]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(b"tandem pair 1\0")
            .update(name.as_bytes())
            .update(b"\0");
        hasher.update(a.min(b)).update(a.max(b));
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(id)
    }
}

impl KeyId {
    /// Whether the node with this key goes on where two nodes are equal in everything else. Both know both keys, whatever
    /// their configurations say.
    pub fn wins_tie(self, peer: Self) -> bool {
        self > peer
    }

    /// The id of a public key.
    pub fn of(key: &[u8; 32]) -> Self {
        let mut id = [0; 8];
        id.copy_from_slice(&blake3::hash(key).as_bytes()[..8]);
        Self(id)
    }
}

/// One life of an agent: a counter that grows durably with every start, and a random part that nobody can
/// know before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Incarnation {
    /// Grows with every start of the agent.
    pub counter: u64,
    /// Random.
    pub nonce: [u8; 16],
}

/// What the sender says about hearing the receiver: the proof that it is no replay, and the measure that
/// tells one-way loss from silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Echo {
    /// The receiver's incarnation, as the sender knows it.
    pub incarnation: Incarnation,
    /// The last heartbeat of the receiver on this link: its counter, and how long ago it came, µs.
    pub on_link: Option<(u64, u32)>,
    /// How long ago the receiver was last heard on any link, ms. `None`: never proven.
    pub overall: Option<u32>,
}

/// One heartbeat on one link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The sender's life.
    pub incarnation: Incarnation,
    /// Number of this beat: strictly increasing in one incarnation, the same on every link.
    pub counter: u64,
    /// Index of the link on which it was sent.
    pub link: u8,
    /// What the sender hears of the receiver.
    pub echo: Option<Echo>,
    /// What the sender is and knows. Last, because it grows with new versions.
    pub body: Body,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// Role as operators see it.
    pub role: Role,
    /// Exact phase.
    pub phase: Phase,
    /// The term that this node uses (master) or follows.
    pub term: u64,
    /// Highest term that may have been used, as far as this node knows: seen, used or armed.
    pub term_seen: u64,
    /// The floating addresses are here and announced.
    pub holding: bool,
    /// It was the last to be master as far as it knows (durable).
    pub was_master: bool,
    /// It is the preferred node, as its configuration says.
    pub preferred: bool,
    /// Its durable `solo` mark (R4).
    pub solo: bool,
    /// Boot agreement: the master role is granted to the receiver's incarnation with this nonce.
    pub grant: Option<Grant>,
    /// Planned move: given away for good.
    pub ceded: Option<Ceded>,
    /// Whether it could take over; its first reason if not.
    pub against: Option<Reason>,
    /// Own public network.
    pub network: Health,
    /// Own services (as master).
    pub services: Health,
    /// The receiver's services as this node sees them at the floating IP.
    pub peer_services: Health,
    /// Maintenance is on here.
    pub maintenance: bool,
    /// When it ends by itself, ms from now. `None`: only when it is switched off.
    pub maintenance_left: Option<u32>,
    /// Applying is paused here.
    pub hold: bool,
    /// Age of the oldest change that is not durable on the receiver, ms.
    pub lag: Option<u32>,
    /// Every tree has a first epoch.
    pub born: bool,
    /// Digest over the newest epochs of all trees.
    pub epochs_digest: u64,
    /// Highest durable sequence number.
    pub seq: u64,
    /// Digest of the whole configuration.
    pub config_digest: u64,
    /// Digest of what must be equal.
    pub config_matters: u64,
    /// Which machine this is (R6).
    pub machine: MachineId,
    /// Heads of the trees, sorted by tree; at most [`TreeHead::MAX`].
    pub heads: Vec<TreeHead>,
}

#[cfg(test)]
impl Body {
    /// What a healthy standby says.
    pub(crate) fn of_standby(term: u64) -> Body {
        Body {
            role: Role::Standby,
            phase: Phase::Standby,
            term,
            term_seen: term,
            holding: false,
            was_master: false,
            preferred: false,
            solo: false,
            grant: None,
            ceded: None,
            against: None,
            network: Health::Good,
            services: Health::Unknown,
            peer_services: Health::Unknown,
            maintenance: false,
            maintenance_left: None,
            hold: false,
            lag: None,
            born: true,
            epochs_digest: 1,
            seq: 10,
            config_digest: 0,
            config_matters: 0,
            machine: MachineId::default(),
            heads: Vec::new(),
        }
    }
}

/// Which machine an agent runs on (R6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct MachineId {
    /// Digest of `/etc/machine-id` and the hardware's own identity as far as readable.
    pub machine: u64,
    /// Digest of the UUID of the file system that holds the state directory.
    pub root: u64,
    /// Digest of `/proc/sys/kernel/random/boot_id`: changes with every boot.
    pub boot: u64,
}

/// Boot agreement: "you be master".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grant {
    /// Nonce of the incarnation to which it is granted; no other may use it.
    pub to: [u8; 16],
    /// Least term that the grantee uses.
    pub term: u64,
}

/// The last point of return of a planned move, durable at the old master and repeated in every heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ceded {
    /// Term that the new master uses.
    pub term: u64,
    /// The new master.
    pub to: KeyId,
    /// Digest over the newest epochs that it must have.
    pub epochs_digest: u64,
    /// Sequence number that it must have at least. More came when somebody wrote beside the service until the end.
    pub seq: u64,
}

/// Head of one tree, as a summary for status and for the relation of the data before a session exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TreeHead {
    /// Short digest of the tree's name.
    pub tree: [u8; 4],
    /// Newest epoch; zero when unborn.
    pub epoch: [u8; 16],
    /// Copy state, as the sync half numbers it.
    pub state: u8,
}

impl TreeHead {
    /// Most trees: all heads fit into one heartbeat.
    pub const MAX: usize = 32;
}

/// Why a datagram is not a heartbeat for this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Too short or too long.
    #[error("impossible length")]
    Length,
    /// Another protocol.
    #[error("not a heartbeat")]
    Magic,
    /// The sender speaks only newer or only older versions.
    #[error(
        "protocol version {version} (understood by {oldest} and newer), this agent speaks {OLDEST} to {VERSION}"
    )]
    Version {
        /// Version of the sender.
        version: u8,
        /// Oldest version that it says is enough.
        oldest: u8,
    },
    /// Another pair.
    #[error("a heartbeat of another pair")]
    Pair,
    /// Neither of the two keys of the pair.
    #[error("sent by an unknown key")]
    Key,
    /// The signature does not match the pinned key.
    #[error("wrong signature")]
    Signature,
    /// The content makes no sense.
    #[error("damaged content")]
    Content,
}

/// Why a heartbeat cannot be written: it would be longer than [`MAX_LEN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a heartbeat would be longer than {MAX_LEN} bytes")]
pub struct TooLong;

/// Writes a heartbeat of `sender`; `sign` makes the ed25519 signature over the bytes that it is given.
///
/// # Errors
/// [`TooLong`], which a body with at most [`TreeHead::MAX`] heads never is.
pub fn encode(
    pair: PairId,
    sender: KeyId,
    heartbeat: &Heartbeat,
    sign: impl FnOnce(&[u8]) -> [u8; SIGNATURE_LEN],
) -> Result<Vec<u8>, TooLong> {
    let mut bytes = Vec::with_capacity(MAX_LEN);
    bytes.extend_from_slice(&MAGIC);
    bytes.push(VERSION);
    bytes.push(OLDEST);
    bytes.extend_from_slice(&pair.0);
    bytes.extend_from_slice(&sender.0);
    let mut bytes = postcard::to_extend(heartbeat, bytes).map_err(|_| TooLong)?;
    let signature = sign(&bytes);
    bytes.extend_from_slice(&signature);
    if bytes.len() > MAX_LEN {
        Err(TooLong)
    } else {
        Ok(bytes)
    }
}

/// Reads a datagram. `verify(sender, signed bytes, signature)` checks the signature with the pinned key of
/// `sender`; `None` says that this key is not pinned. Nothing of the content is looked at before that.
///
/// # Errors
/// See [`DecodeError`]; none of them is worth more than a counter and a rate-limited log line.
pub fn decode(
    pair: PairId,
    datagram: &[u8],
    verify: impl FnOnce(KeyId, &[u8], &[u8; SIGNATURE_LEN]) -> Option<bool>,
) -> Result<(KeyId, Heartbeat), DecodeError> {
    if datagram.len() > MAX_LEN || datagram.len() < HEADER_LEN + SIGNATURE_LEN {
        return Err(DecodeError::Length);
    }
    let (signed, signature) = datagram
        .split_last_chunk::<SIGNATURE_LEN>()
        .ok_or(DecodeError::Length)?;
    let (header, content) = signed
        .split_first_chunk::<HEADER_LEN>()
        .ok_or(DecodeError::Length)?;
    if header[..4] != MAGIC {
        return Err(DecodeError::Magic);
    }
    let (version, oldest) = (header[4], header[5]);
    if version < OLDEST || oldest > VERSION {
        return Err(DecodeError::Version { version, oldest });
    }
    if header[6..22] != pair.0 {
        return Err(DecodeError::Pair);
    }
    let mut sender = KeyId::default();
    sender.0.copy_from_slice(&header[22..]);
    match verify(sender, signed, signature) {
        None => return Err(DecodeError::Key),
        Some(false) => return Err(DecodeError::Signature),
        Some(true) => {}
    }
    let (heartbeat, rest) =
        postcard::take_from_bytes::<Heartbeat>(content).map_err(|_| DecodeError::Content)?;
    let too_much = version == VERSION && !rest.is_empty();
    if too_much || heartbeat.body.heads.len() > TreeHead::MAX {
        return Err(DecodeError::Content);
    }
    Ok((sender, heartbeat))
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}-{:02x}{:02x}",
            self.counter, self.nonce[0], self.nonce[1]
        )
    }
}

#[cfg(test)]
mod tests;
