//! What happens later, and what may be broken on purpose.

use super::data::Batch;
use tandem_failover::input::Input;
use tandem_failover::slots::Durable;
use tandem_sync::lineage::NodeHeads;

/// A rule that is broken on purpose, to prove that the oracle sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// The machine is told that its data is equal to the peer's, whatever it is.
    LyingRelation,
    /// The role token is not revoked: what is in flight is applied by a master.
    TokenKept,
    /// What is past the branch is dropped without a rescue.
    NoRescue,
    /// No heartbeat of the preferred node arrives, though both nodes count as being in contact.
    DeafToPeer,
    /// The machine is told that half a copy is whole and fresh.
    LyingConsistency,
}

/// Something that happens later.
#[derive(Debug, Clone)]
pub enum Event {
    /// The machine asked to be called.
    Tick {
        /// Whose.
        node: usize,
        /// In which life of the agent.
        life: u64,
    },
    /// A fact arrives.
    Input {
        /// Where.
        node: usize,
        /// For which life of the agent.
        life: u64,
        /// What.
        input: Box<Input>,
    },
    /// A write to the term slots has reached the disk.
    Written {
        /// Where.
        node: usize,
        /// By which life of the agent.
        life: u64,
        /// Which.
        generation: u64,
        /// What.
        durable: Box<Durable>,
    },
    /// Changes of the source arrive at the replica.
    Batch {
        /// The replica.
        node: usize,
        /// For which life of its agent.
        life: u64,
        /// Under which role token the session was accepted.
        token: u64,
        /// When the source made it.
        made: u64,
        /// What.
        batch: Box<Batch>,
    },
    /// The peer says where its trees are.
    Lineages {
        /// Who hears it.
        node: usize,
        /// In which life of its agent.
        life: u64,
        /// Which life of the peer says so.
        from: u64,
        /// What.
        heads: Box<NodeHeads>,
    },
    /// Data half, monitors and client.
    Pulse,
}

impl Event {
    /// The node whose agent it is for.
    pub fn of_agent(&self) -> Option<usize> {
        match self {
            Self::Tick { node, .. } | Self::Input { node, .. } | Self::Written { node, .. } => {
                Some(*node)
            }
            Self::Batch { node, .. } | Self::Lineages { node, .. } => Some(*node),
            Self::Pulse => None,
        }
    }
}
