//! (pure) What the sync half says, in the failover half's words. The two never import each other.

use std::time::Duration;
use tandem_failover::heartbeat::TreeHead;
use tandem_failover::input::{DataFacts, Relation};
use tandem_failover::time::Instant;
use tandem_sync::engine::{EngineStatus, TreeState, TreeStatus};
use tandem_sync::lineage::{
    Direction, NodeHeads, PairRelation, Regress, TreeRelation, combine, first_source,
};
use tandem_sync::tree::TreeId;

/// In a head's copy state: the tree is stopped here. The copy state itself is a small number.
pub const STOPPED: u8 = 0x80;

/// The facts about this node's data.
///
/// `theirs` is what the peer last said of its lineages, and whether it came back with less; `None` when it has said nothing since this agent started.
pub fn data_facts(
    status: &EngineStatus,
    mine: &NodeHeads,
    theirs: Option<(&NodeHeads, bool)>,
    max_stale: Duration,
) -> DataFacts {
    DataFacts {
        born: status.born,
        consistent: status.consistent,
        catching_up_only: status.catching_up_only,
        fresh_until: status
            .fresh_at
            .map(|at| Instant::from_nanos(at) + max_stale),
        relation: theirs.map_or(Relation::Unknown, |(theirs, restored)| {
            relation(mine, theirs, restored)
        }),
        reason: status.reason.clone(),
        heads: heads(mine, status),
        epochs_digest: status.epochs_digest,
        seq: status.seq,
        lag: status.lag,
    }
}

/// R2 over all trees, with the case in which exactly one side has files decided.
///
/// `restored` says whether the peer showed less than it had when this life of it said hello. Later than that its word
/// is only older than the data that it sent meanwhile: the two travel on different connections.
pub fn relation(mine: &NodeHeads, theirs: &NodeHeads, restored: bool) -> Relation {
    let pair = combine(mine, theirs);
    match pair.direction {
        Direction::Regressed if !restored && !own_loss(&pair) => Relation::Equal,
        Direction::Equal => Relation::Equal,
        Direction::Ahead => Relation::Ahead,
        Direction::Behind => Relation::Behind,
        Direction::Diverged => Relation::Diverged,
        // The failover half recognises a regressed peer by what it remembers itself (R6); to the data the two
        // nodes have no direction until a person decides.
        Direction::Unrelated | Direction::Regressed => Relation::Unrelated,
        Direction::BothUnborn => match first_source(empty(mine), empty(theirs)) {
            Some(Direction::Ahead) => Relation::BothUnbornMineFilled,
            Some(Direction::Behind) => Relation::BothUnbornPeersFilled,
            _ => Relation::BothUnborn,
        },
    }
}

/// Whether a comparison says that the peer shows less than it wrote itself.
pub fn peer_lost(mine: &NodeHeads, theirs: &NodeHeads) -> bool {
    let lost = TreeRelation::Regressed(Regress::Theirs);
    combine(mine, theirs)
        .trees
        .iter()
        .any(|(_, relation)| *relation == lost)
}

fn own_loss(pair: &PairRelation) -> bool {
    let lost = TreeRelation::Regressed(Regress::Mine);
    pair.trees.iter().any(|(_, relation)| *relation == lost)
}

fn empty(heads: &NodeHeads) -> bool {
    heads.trees().iter().all(|tree| tree.empty)
}

fn heads(mine: &NodeHeads, status: &EngineStatus) -> Vec<TreeHead> {
    let stopped = |id: TreeId| {
        let of_tree = |t: &&TreeStatus| TreeId::of(&t.name) == id;
        let state = status.trees.iter().find(of_tree).map(|t| &t.state);
        matches!(state, Some(TreeState::Stopped { .. }))
    };
    mine.trees()
        .iter()
        .take(TreeHead::MAX)
        .map(|tree| {
            let mut id = [0; 4];
            id.copy_from_slice(&tree.tree.0[..4]);
            TreeHead {
                tree: id,
                epoch: tree
                    .head
                    .lineage
                    .head()
                    .map_or([0; 16], |epoch| epoch.id.0.to_be_bytes()),
                state: tree.head.state as u8 | if stopped(tree.tree) { STOPPED } else { 0 },
            }
        })
        .collect()
}
