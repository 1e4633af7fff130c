//! The chain itself: folding, decoding.

use super::*;

#[test]
fn old_epochs_are_folded_away() {
    let mut long = Lineage::first(EpochId(1), 1, node("a"));
    let early = long.clone();
    for n in 2..=MAX_EPOCHS as u128 + 10 {
        long = long
            .begin(
                EpochId(n),
                1,
                node(if n % 2 == 0 { "b" } else { "a" }),
                n as u64 * 10,
            )
            .unwrap();
    }
    assert_eq!((long.epochs().len(), long.folded()), (MAX_EPOCHS, 10));
    let bytes = postcard::to_stdvec(&long).unwrap();
    assert!(bytes.len() < 64 << 10, "{} bytes", bytes.len());
    assert_eq!(postcard::from_bytes::<Lineage>(&bytes).unwrap(), long);
    // Too old to be known: refused, not guessed.
    assert_eq!(
        relation(&at(&early, 5), &at(&long, 99_999)),
        TreeRelation::Unrelated
    );
    // The last one that was folded away is still known.
    let at_fold = early
        .begin(EpochId(2), 1, node("b"), 20)
        .unwrap()
        .cut_behind(EpochId(2))
        .unwrap();
    let mut short = at_fold;
    for n in 3..=10u128 {
        short = short
            .begin(
                EpochId(n),
                1,
                node(if n % 2 == 0 { "b" } else { "a" }),
                n as u64 * 10,
            )
            .unwrap();
    }
    assert!(matches!(
        relation(&at(&short, 110), &at(&long, 99_999)),
        TreeRelation::Behind { past: 0, .. }
    ));
}

#[test]
fn decoding_refuses_what_is_no_chain() {
    let epoch = |id: u128, parent: Option<(u128, u64)>| Epoch {
        id: EpochId(id),
        term: 1,
        node: node("a"),
        parent: parent.map(|(epoch, seq)| branch(epoch, seq)),
    };
    let round = |folded: u64, epochs: Vec<Epoch>| {
        postcard::from_bytes::<Lineage>(&postcard::to_stdvec(&(folded, epochs)).unwrap())
    };
    assert!(round(0, vec![]).is_ok());
    assert!(
        round(
            0,
            vec![
                epoch(1, None),
                epoch(2, Some((1, 5))),
                epoch(3, Some((2, 5)))
            ]
        )
        .is_ok()
    );
    assert!(round(3, vec![epoch(2, Some((1, 5)))]).is_ok());
    for (folded, bad) in [
        (0, vec![epoch(1, Some((9, 5)))]),
        (1, vec![epoch(1, None)]),
        (0, vec![epoch(1, None), epoch(2, None)]),
        (0, vec![epoch(1, None), epoch(2, Some((9, 5)))]),
        (0, vec![epoch(1, None), epoch(1, Some((1, 5)))]),
        (
            0,
            vec![
                epoch(1, None),
                epoch(2, Some((1, 9))),
                epoch(3, Some((2, 5))),
            ],
        ),
        (
            0,
            (0..=MAX_EPOCHS as u128)
                .map(|n| epoch(n, (n > 0).then(|| (n - 1, 1))))
                .collect(),
        ),
    ] {
        assert!(round(folded, bad).is_err());
    }
    assert!(NodeName::try_from("").is_err() && NodeName::try_from("x".repeat(65)).is_err());
}
