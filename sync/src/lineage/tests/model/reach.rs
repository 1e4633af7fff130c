//! That the random histories reach what they are to show; and a third node.

use super::*;

/// The random histories do reach what they are to show: every relation, and every one with something to rescue.
#[test]
fn every_relation_is_reached() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut reached: BTreeSet<&str> = BTreeSet::new();
    for round in 0..600 {
        let ops = ops(round % 2 == 1).new_tree(&mut runner).unwrap().current();
        let mut world = World::new();
        for op in &ops {
            world.act(op);
            reached.insert(match world.relation(0) {
                TreeRelation::Equal => "equal",
                TreeRelation::Ahead { past: 0, .. } => "ahead",
                TreeRelation::Ahead { .. } => "ahead, peer has unreplicated writes",
                TreeRelation::Behind { past: 0, .. } => "behind",
                TreeRelation::Behind { .. } => "behind, with unreplicated writes",
                TreeRelation::Diverged { .. } => "diverged",
                TreeRelation::MineUnborn => "mine unborn",
                TreeRelation::TheirsUnborn => "theirs unborn",
                TreeRelation::BothUnborn => "both unborn",
                TreeRelation::Regressed(Regress::Mine) => "regressed",
                TreeRelation::Regressed(Regress::Theirs) => "peer regressed",
                TreeRelation::Unrelated => "unrelated",
            });
            if world.nodes.iter().any(|n| !n.rescued.is_empty()) {
                reached.insert("rescued");
            }
            if world
                .nodes
                .iter()
                .any(|n| n.head.state == CopyState::CatchingUp)
            {
                reached.insert("catching up");
            }
            if world
                .nodes
                .iter()
                .any(|n| n.head.state == CopyState::Copying)
            {
                reached.insert("copying");
            }
            if world.nodes.iter().all(|n| n.writing) {
                reached.insert("two masters");
            }
        }
    }
    assert_eq!(reached.len(), 15, "{reached:?}");
}

/// A pair that went through a third node: b is replaced by c, which received from a; then the old b is plugged in again.
#[test]
fn an_old_node_that_comes_back_receives() {
    let a = Head::default().init(EpochId(1), 1, node("a"), 100).unwrap();
    let old_b = Head::default().advance(&a.lineage, 100, true).unwrap();
    let mut a = a;
    a.wrote(150);
    let c = Head::default().advance(&a.lineage, 150, true).unwrap();
    let mut c = c.begin(EpochId(2), 2, node("c")).unwrap();
    c.wrote(170);
    let (nb, nc) = (node("b"), node("c"));
    let seen = compare(
        Side {
            node: &nb,
            head: &old_b,
        },
        Side {
            node: &nc,
            head: &c,
        },
    );
    assert_eq!(
        seen,
        TreeRelation::Behind {
            branch: branch(1, 100),
            past: 0
        }
    );
    // If somebody had forced it to be master meanwhile, it diverged, and nothing is decided by itself.
    let forced = old_b.begin(EpochId(3), 3, node("b")).unwrap();
    let seen = compare(
        Side {
            node: &nb,
            head: &forced,
        },
        Side {
            node: &nc,
            head: &c,
        },
    );
    assert_eq!(
        seen,
        TreeRelation::Diverged {
            branch: branch(1, 100)
        }
    );
}
