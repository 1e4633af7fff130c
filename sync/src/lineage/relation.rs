//! What follows from two nodes' positions (R2), and when nothing may follow (R6).

use super::chain::Leaves;
use super::{Branch, CopyState, EpochId, Head, MAX_LEAP, MAX_POSITION, Named, NodeName};
use crate::tree::{MAX_TREES, TreeId};
use serde::{Deserialize, Serialize};

/// One side of a comparison.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// Whose.
    pub node: &'a NodeName,
    /// Where the tree is there.
    pub head: &'a Head,
}

/// How my copy of a tree relates to the peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TreeRelation {
    /// Same epoch, same position, same completeness.
    Equal,
    /// The peer's head is in my lineage: I send.
    Ahead {
        /// Up to where we share.
        branch: Branch,
        /// How many numbers the peer has past it: unreplicated there.
        past: u64,
    },
    /// My head is in the peer's lineage: I receive, after what I have past the branch went to the rescue.
    Behind {
        /// Up to where we share.
        branch: Branch,
        /// How many numbers I have past it: unreplicated here.
        past: u64,
    },
    /// Neither head is in the other's lineage.
    Diverged {
        /// Up to where we share.
        branch: Branch,
    },
    /// No common epoch: refused until `tandem adopt`.
    Unrelated,
    /// Only I have no epoch: I receive (R5).
    MineUnborn,
    /// Only the peer has no epoch: I send.
    TheirsUnborn,
    /// Neither has an epoch.
    BothUnborn,
    /// The author of an epoch has less of it than the other side got from it (R6): restored or rolled back.
    Regressed(Regress),
}

/// Who shows less than it had (R6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Regress {
    /// This node.
    Mine,
    /// The peer.
    Theirs,
}

/// Compares one tree. Symmetric: the other side, asked the same, gives the mirrored answer.
pub fn compare(mine: Side<'_>, theirs: Side<'_>) -> TreeRelation {
    let (my_head, their_head) = match (mine.head.lineage.head(), theirs.head.lineage.head()) {
        (None, None) => return TreeRelation::BothUnborn,
        (None, Some(_)) => return TreeRelation::MineUnborn,
        (Some(_), None) => return TreeRelation::TheirsUnborn,
        (Some(a), Some(b)) => (a.id, b.id),
    };
    let Some(common) = mine.head.lineage.last_common(&theirs.head.lineage) else {
        return TreeRelation::Unrelated;
    };
    if has_lost(mine, theirs.head) {
        return TreeRelation::Regressed(Regress::Mine);
    }
    if has_lost(theirs, mine.head) {
        return TreeRelation::Regressed(Regress::Theirs);
    }
    let seq = shared(mine.head, common).min(shared(theirs.head, common));
    let branch = Branch { epoch: common, seq };
    match (my_head == common, their_head == common) {
        (true, true) => same_epoch(mine.head, theirs.head, branch),
        (true, false) => TreeRelation::Behind {
            branch,
            past: mine.head.seq - seq,
        },
        (false, true) => TreeRelation::Ahead {
            branch,
            past: theirs.head.seq - seq,
        },
        (false, false) => TreeRelation::Diverged { branch },
    }
}

/// Up to where `head` holds data of the epoch `id`, which is in its lineage.
fn shared(head: &Head, id: EpochId) -> u64 {
    head.lineage
        .leaves(id)
        .unwrap_or(Leaves::Never)
        .or_position(head.seq)
}

fn same_epoch(mine: &Head, theirs: &Head, branch: Branch) -> TreeRelation {
    // At the same position the more complete copy sends: the other one may have files of different moments.
    match (mine.seq, mine.state).cmp(&(theirs.seq, theirs.state)) {
        std::cmp::Ordering::Equal => TreeRelation::Equal,
        std::cmp::Ordering::Greater => TreeRelation::Ahead { branch, past: 0 },
        std::cmp::Ordering::Less => TreeRelation::Behind { branch, past: 0 },
    }
}

/// Whether `author` holds less of an epoch that it wrote than `other` got of it. A number is durable at its author
/// before it is sent, so the author was rolled back since: it is still there, or it went on from there by itself. (It is
/// no loss if it went on in an epoch of another node: then it was rewound, and what it had is in its rescue. Nor is a
/// copy under way an author's state.)
fn has_lost(author: Side<'_>, other: &Head) -> bool {
    let mut epochs = author.head.lineage.epochs().iter().peekable();
    while let Some(epoch) = epochs.next() {
        let left = match epochs.peek() {
            None if author.head.state == CopyState::Consistent => author.head.seq,
            Some(next) if next.node == *author.node => next.parent.map_or(0, |branch| branch.seq),
            _ => continue,
        };
        let got = other
            .lineage
            .leaves(epoch.id)
            .map_or(0, |leaves| leaves.or_position(other.seq));
        if epoch.node == *author.node && got > left {
            return true;
        }
    }
    false
}

/// R6 by memory: whether the peer `node`, last seen at `remembered`, now shows less. Being unborn is no regress (it
/// receives), nor is a copy that is being brought up to date, nor what it gave up for an epoch of another node.
pub fn regressed(node: &NodeName, remembered: &Head, shown: &Head) -> bool {
    if shown.state != CopyState::Consistent || shown.lineage.is_unborn() {
        return false;
    }
    let Some(had) = remembered.place() else {
        return false;
    };
    if holds(shown, had) {
        return false;
    }
    let Some(common) = remembered.lineage.last_common(&shown.lineage) else {
        // Another history altogether: adopted or initialised anew, which people do; the comparison refuses it.
        return false;
    };
    match shown.lineage.after(common) {
        None => true,
        Some(next) => next.node == *node,
    }
}

/// Whether `head` holds everything up to `place`.
fn holds(head: &Head, place: Branch) -> bool {
    head.lineage
        .leaves(place.epoch)
        .is_some_and(|leaves| leaves.or_position(head.seq) >= place.seq)
}

/// One tree as a node shows it to its peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeHead {
    /// Which tree.
    pub tree: TreeId,
    /// Where it is.
    pub head: Head,
    /// Nothing lies beneath its root.
    pub empty: bool,
}

/// All trees of a node as it shows them to its peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "HeadsParts")]
pub struct NodeHeads {
    /// Whose.
    pub node: NodeName,
    /// The trees, each once, at most [`MAX_TREES`], in the order of their ids.
    trees: Vec<TreeHead>,
}

/// [`NodeHeads`] before its trees are put in order.
#[derive(Deserialize)]
struct HeadsParts {
    node: NodeName,
    trees: Vec<TreeHead>,
}

/// A node showed too many trees, or one twice, or a position that nobody can have reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "more than {MAX_TREES} trees, one of them twice, or a position that nobody can have reached"
)]
pub struct HeadsError;

impl TryFrom<HeadsParts> for NodeHeads {
    type Error = HeadsError;
    fn try_from(parts: HeadsParts) -> Result<Self, HeadsError> {
        NodeHeads::new(parts.node, parts.trees)
    }
}

impl NodeHeads {
    /// The heads of `node`.
    pub fn new(node: NodeName, mut trees: Vec<TreeHead>) -> Result<Self, HeadsError> {
        trees.sort_by_key(|t| t.tree);
        let beyond = trees.iter().any(|tree| tree.head.seq > MAX_POSITION);
        if beyond
            || trees.len() > MAX_TREES
            || trees.windows(2).any(|pair| pair[0].tree == pair[1].tree)
        {
            return Err(HeadsError);
        }
        Ok(NodeHeads { node, trees })
    }

    /// The trees in the order of their ids.
    pub fn trees(&self) -> &[TreeHead] {
        &self.trees
    }

    /// One tree.
    pub fn get(&self, tree: TreeId) -> Option<&TreeHead> {
        self.trees
            .binary_search_by_key(&tree, |t| t.tree)
            .ok()
            .map(|at| &self.trees[at])
    }

    /// The highest position; zero: no tree has any history.
    fn highest(&self) -> u64 {
        let positions = self.trees.iter().map(|tree| tree.head.seq);
        positions.max().unwrap_or(0)
    }

    /// The highest number that is believed when `theirs` sends to this node. Who has no history begins where the source
    /// is. Everybody else is led on by no more than [`MAX_LEAP`] in a session, or one liar would take all numbers that
    /// there are. `None`: the source is further than that already.
    pub fn believes(&self, theirs: &NodeHeads) -> Option<u64> {
        let position = match self.highest() {
            0 => theirs.highest(),
            own => own,
        };
        let most = position.saturating_add(MAX_LEAP);
        (theirs.highest() <= most).then_some(most)
    }

    /// The same of some trees only.
    #[must_use]
    pub fn only(&self, which: impl Fn(TreeId) -> bool) -> Self {
        let trees = self.trees.iter().filter(|t| which(t.tree));
        NodeHeads {
            node: self.node.clone(),
            trees: trees.cloned().collect(),
        }
    }
}

/// Who sends, for the pair as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// No tree differs.
    Equal,
    /// I send.
    Ahead,
    /// I receive.
    Behind,
    /// A tree diverged, or two trees disagree: the live master with the higher term sends, else a person decides.
    Diverged,
    /// A tree has no common epoch: refused until `tandem adopt`.
    Unrelated,
    /// No tree has an epoch: waits for `tandem init --source`.
    BothUnborn,
    /// A node was restored or rolled back (R6): no automatic direction, whoever is master.
    Regressed,
}

/// The relation of two nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairRelation {
    /// Who sends.
    pub direction: Direction,
    /// The tree that decided it, where one did.
    pub cause: Option<Named<TreeRelation>>,
    /// Every tree that both nodes have. (A tree of only one of them is a matter of configuration, R7.)
    pub trees: Vec<Named<TreeRelation>>,
}

/// The direction of a pair: all trees must agree, for they share one sequence and move together.
pub fn combine(mine: &NodeHeads, theirs: &NodeHeads) -> PairRelation {
    let relation = |a: &TreeHead| {
        let b = theirs.get(a.tree)?;
        let mine = Side {
            node: &mine.node,
            head: &a.head,
        };
        Some((
            a.tree,
            compare(
                mine,
                Side {
                    node: &theirs.node,
                    head: &b.head,
                },
            ),
        ))
    };
    let trees: Vec<Named<TreeRelation>> = mine.trees.iter().filter_map(relation).collect();
    let (direction, cause) = if trees.is_empty() && mine.trees.len() + theirs.trees.len() > 0 {
        (Direction::Unrelated, None)
    } else {
        agree(&trees)
    };
    PairRelation {
        direction,
        cause,
        trees,
    }
}

fn agree(trees: &[Named<TreeRelation>]) -> (Direction, Option<Named<TreeRelation>>) {
    let first = |wanted: Direction| trees.iter().find(|(_, r)| r.direction() == wanted).copied();
    for refused in [
        Direction::Regressed,
        Direction::Unrelated,
        Direction::Diverged,
    ] {
        if let Some(tree) = first(refused) {
            return (refused, Some(tree));
        }
    }
    match (first(Direction::Ahead), first(Direction::Behind)) {
        // The tree that disagrees with the first one is named.
        (Some(a), Some(b)) => (Direction::Diverged, Some(if a.0 < b.0 { b } else { a })),
        (Some(tree), None) => (Direction::Ahead, Some(tree)),
        (None, Some(tree)) => (Direction::Behind, Some(tree)),
        // A tree that is unborn on both sides says nothing beside trees that are born.
        (None, None) => match (first(Direction::Equal), first(Direction::BothUnborn)) {
            (None, Some(tree)) => (Direction::BothUnborn, Some(tree)),
            _ => (Direction::Equal, None),
        },
    }
}

impl TreeRelation {
    /// The direction that this tree alone would have.
    pub fn direction(&self) -> Direction {
        match self {
            TreeRelation::Equal => Direction::Equal,
            TreeRelation::Ahead { .. } | TreeRelation::TheirsUnborn => Direction::Ahead,
            TreeRelation::Behind { .. } | TreeRelation::MineUnborn => Direction::Behind,
            TreeRelation::Diverged { .. } => Direction::Diverged,
            TreeRelation::Unrelated => Direction::Unrelated,
            TreeRelation::BothUnborn => Direction::BothUnborn,
            TreeRelation::Regressed(_) => Direction::Regressed,
        }
    }
}

/// For a replica, which follows whoever is master: a tree in which the sender at `theirs` was left behind by what `mine`
/// comes from. `None`: it may be followed, as far as this goes.
///
/// A master that was cut off and goes on sending has none of what its successor wrote. Where both wrote, the later term
/// counts, as in the pair.
pub fn left_behind(mine: &NodeHeads, theirs: &NodeHeads) -> Option<TreeId> {
    let term = |heads: &NodeHeads, tree| {
        let epoch = heads.get(tree).and_then(|t| t.head.lineage.head());
        epoch.map(|epoch| epoch.term)
    };
    let left = |(tree, relation): &Named<TreeRelation>| match relation {
        TreeRelation::Ahead { .. } => true,
        TreeRelation::Diverged { .. } => term(theirs, *tree) <= term(mine, *tree),
        _ => false,
    };
    let relation = combine(mine, theirs);
    relation.trees.into_iter().find(left).map(|(tree, _)| tree)
}

/// Which side alone has data, and so may be the first source of trees without any epoch without being asked (R2).
pub fn first_source(mine_empty: bool, theirs_empty: bool) -> Option<Direction> {
    match (mine_empty, theirs_empty) {
        (false, true) => Some(Direction::Ahead),
        (true, false) => Some(Direction::Behind),
        _ => None,
    }
}
