//! All trees of a pair together.

use super::*;

#[test]
fn all_trees_must_agree() {
    let a = epochs(&[("a", 1, 0)]);
    let heads = |name: &str, trees: &[Head]| {
        let tree = |(n, head): (usize, &Head)| TreeHead {
            tree: TreeId([n as u8; 16]),
            head: head.clone(),
            empty: false,
        };
        NodeHeads::new(node(name), trees.iter().enumerate().map(tree).collect()).unwrap()
    };
    let unborn = Head::default();
    let other = at(&epochs(&[("a", 8, 0)]), 1);
    let (low, high) = (at(&a, 5), at(&a, 9));
    // b's side: b wrote nothing, so lower is plainly behind.
    type Row<'a> = (&'a [Head], &'a [Head], Direction, Option<u8>);
    let one = std::slice::from_ref(&low);
    let table: &[Row<'_>] = &[
        (&[], &[], Direction::Equal, None),
        (one, &[], Direction::Unrelated, None),
        (
            &[low.clone(), low.clone()],
            &[low.clone(), low.clone()],
            Direction::Equal,
            None,
        ),
        (
            &[high.clone(), low.clone()],
            &[low.clone(), low.clone()],
            Direction::Ahead,
            Some(0),
        ),
        (
            &[high.clone(), high.clone()],
            &[low.clone(), unborn.clone()],
            Direction::Ahead,
            Some(0),
        ),
        (
            &[low.clone(), unborn.clone()],
            &[low.clone(), high.clone()],
            Direction::Behind,
            Some(1),
        ),
        (
            &[high.clone(), unborn.clone()],
            &[low.clone(), low.clone()],
            Direction::Diverged,
            Some(1),
        ),
        (
            &[high.clone(), other.clone()],
            &[low.clone(), low.clone()],
            Direction::Unrelated,
            Some(1),
        ),
        (
            &[low.clone(), high.clone()],
            &[high.clone(), low.clone()],
            Direction::Regressed,
            Some(0),
        ),
        (
            &[unborn.clone(), unborn.clone()],
            &[unborn.clone(), unborn.clone()],
            Direction::BothUnborn,
            Some(0),
        ),
        (
            &[unborn.clone(), low.clone()],
            &[unborn.clone(), low.clone()],
            Direction::Equal,
            None,
        ),
    ];
    for (mine, theirs, direction, cause) in table {
        let pair = combine(&heads("a", mine), &heads("b", theirs));
        let named = pair.cause.map(|(tree, _)| tree.0[0]);
        assert_eq!(
            (pair.direction, named),
            (*direction, *cause),
            "{mine:?}\n{theirs:?}"
        );
        assert_eq!(pair.trees.len(), mine.len().min(theirs.len()));
    }
    let twice = TreeHead {
        tree: TreeId([1; 16]),
        head: low,
        empty: true,
    };
    assert_eq!(
        NodeHeads::new(node("a"), vec![twice.clone(), twice]),
        Err(HeadsError)
    );
}
