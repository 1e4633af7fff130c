use super::*;
use proptest::prelude::*;

fn noise(n: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; n];
    blake3::Hasher::new_derive_key("tandem tests")
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

fn apply(pieces: &[Piece], basis: &[u8], new: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Copy { from, len } => {
                out.extend_from_slice(&basis[*from as usize..(*from + *len) as usize])
            }
            Piece::Literal(range) => out.extend_from_slice(&new[range.clone()]),
        }
    }
    out
}

fn copied(pieces: &[Piece]) -> u64 {
    pieces
        .iter()
        .map(|p| {
            if let Piece::Copy { len, .. } = p {
                *len
            } else {
                0
            }
        })
        .sum()
}

#[test]
fn chunks_follow_the_size_and_have_an_end() {
    assert_eq!(chunk_size(0), Some(64 << 10));
    assert_eq!(chunk_size(2 << 30), Some(64 << 10));
    assert_eq!(chunk_size((2 << 30) + 1), Some(128 << 10));
    assert_eq!(chunk_size(32 << 40), Some(1 << 30));
    assert_eq!(chunk_size((32 << 40) + 1), None);
}

#[test]
fn sums_see_exactly_the_changed_chunks() {
    let chunk = 64 << 10;
    let old = noise(5 * chunk + 100, 1);
    let mut builder = SumsBuilder::new(chunk as u32);
    for part in old.chunks(10_007) {
        assert!(builder.update(part));
    }
    let sums = builder.finish().unwrap().1.sums();
    assert_eq!((sums.size, sums.sums.len()), (old.len() as u64, 6));
    let mut new = old.clone();
    new[2 * chunk] ^= 1;
    let same: Vec<bool> = new
        .chunks(chunk)
        .enumerate()
        .map(|(i, part)| sums.same_at((i * chunk) as u64, part))
        .collect();
    assert_eq!(same, [true, true, false, true, true, true]);
    assert!(
        !sums.same_at(1, &old[1..=chunk]),
        "only aligned chunks are known"
    );
    assert!(
        !sums.same_at(5 * chunk as u64, &old[5 * chunk..5 * chunk + 50]),
        "half a last chunk is unknown"
    );
}

#[test]
fn an_insertion_costs_a_block_not_a_window() {
    let old = noise(WINDOW + 50_000, 2);
    let mut new = old[..WINDOW].to_vec();
    new.splice(300_000..300_000, *b"inserted");
    let (from, len) = window_of_basis(0, new.len() as u64, old.len() as u64);
    let basis = &old[from as usize..(from + len) as usize];
    let pieces = diff(&signature_of(basis), from, len, &new).unwrap();
    assert_eq!(apply(&pieces, &old, &new), new);
    assert!(
        copied(&pieces) > (WINDOW - 3 * 4096) as u64,
        "{} bytes copied",
        copied(&pieces)
    );
}

#[test]
fn nothing_in_common_is_all_literal_and_the_judge_stops() {
    let (old, new) = (noise(WINDOW, 3), noise(WINDOW, 4));
    let pieces = diff(&signature_of(&old), 0, old.len() as u64, &new).unwrap();
    assert_eq!(copied(&pieces), 0);
    let mut judge = Judge::default();
    for _ in 0..4 {
        assert!(judge.pays());
        judge.note(WINDOW as u64, copied(&pieces), 1000);
    }
    assert!(!judge.pays());
    let mut slow = Judge::default();
    (0..4).for_each(|_| slow.note(1000, 1000, 1_000_000));
    assert!(
        !slow.pays(),
        "all matched, but it took a second per megabyte"
    );
}

#[test]
fn hostile_signatures_are_refused() {
    let good = signature_of(&noise(10_000, 5));
    let new = noise(10_000, 6);
    let refused = |s: &[u8], len| assert!(diff(s, 0, len, &new).is_err());
    refused(&good, 20_000);
    refused(&good[..11], 10_000);
    refused(&[], 0);
    let mut zero_block = good.clone();
    zero_block[4..8].fill(0);
    refused(&zero_block, 10_000);
    let mut long_hash = good.clone();
    long_hash[8..12].copy_from_slice(&16u32.to_be_bytes());
    refused(&long_hash, 10_000);
    refused(&good, u64::MAX);
    assert!(diff(&good, 0, 10_000, &new).is_ok());
}

#[test]
fn hostile_deltas_are_refused() {
    let delta = |tail: &[u8]| [&DELTA_MAGIC.to_be_bytes()[..], tail].concat();
    let new = [0u8; 10];
    assert_eq!(
        parse(&delta(&[0x45, 2, 10, 0]), 100, 12, &new).unwrap(),
        [Piece::Copy { from: 102, len: 10 }]
    );
    for bad in [
        &[0x45, 3, 10, 0][..],
        &[0x45, 0, 11, 0],
        &[0x55],
        &[0],
        &[0x44, 255, 255, 255, 255, 255, 255, 255, 255],
        &[
            0x54, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 1, 0,
        ],
        &[],
    ] {
        assert!(parse(&delta(bad), 100, 12, &new).is_err(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn any_pair_of_contents_is_rebuilt(
        seed in 0u64..50,
        old_len in 0usize..60_000,
        edits in prop::collection::vec((0usize..60_000, 0usize..9_000, prop::collection::vec(any::<u8>(), 0..50)), 0..4),
    ) {
        let old = noise(old_len, seed);
        let mut new = old.clone();
        for (at, remove, insert) in edits {
            let at = at.min(new.len());
            let end = (at + remove).min(new.len());
            new.splice(at..end, insert);
        }
        let pieces = diff(&signature_of(&old), 0, old.len() as u64, &new).unwrap();
        prop_assert_eq!(apply(&pieces, &old, &new), new);
    }

    #[test]
    fn no_bytes_make_it_panic(signature in prop::collection::vec(any::<u8>(), 0..200), delta in prop::collection::vec(any::<u8>(), 0..60)) {
        let new = noise(5000, 7);
        let _ = diff(&signature, 0, 5000, &new);
        let with_magic = [&DELTA_MAGIC.to_be_bytes()[..], &delta].concat();
        let _ = parse(&with_magic, 0, 5000, &new);
    }
}

/// Weak hashes that all match and strong ones that never do: one window costs a second, and it stays the only one.
#[test]
fn a_crafted_signature_costs_one_window() {
    let mut judge = Judge::default();
    judge.note(WINDOW as u64, 0, 100_000_000);
    assert!(judge.pays(), "a busy machine");
    judge.note(WINDOW as u64, 0, 5_000_000_000);
    assert!(!judge.pays());
}

#[test]
fn zeros_that_are_told_have_the_sums_of_zeros_that_are_there() {
    let chunk = 128u32 << 10;
    let parts: [(usize, bool); 8] = [
        (3 << 17, true),
        (100, true),
        (50, false),
        (140_000, true),
        (300_000, true),
        (128 << 10, false),
        (128 << 10, true),
        (77, true),
    ];
    let (mut told, mut read) = (SumsBuilder::new(chunk), SumsBuilder::new(chunk));
    for (size, zeros) in parts {
        let bytes = vec![u8::from(!zeros); size];
        assert!(match zeros {
            true => told.zeros(size as u64),
            false => told.update(&bytes),
        });
        assert!(read.update(&bytes));
    }
    assert_eq!(told.finish(), read.finish());
    let mut huge = SumsBuilder::new(1 << 30);
    assert!(huge.zeros(16 << 40));
    assert_eq!(
        huge.finish().map(|(_, chunks)| chunks.hashes.len()),
        Some(16 << 10)
    );
}
