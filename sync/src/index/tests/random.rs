//! Random work on an index, compared with a plain map; and the tables with each other.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

type Model = BTreeMap<(TreeId, RelPath), IndexEntry>;

#[derive(Debug, Clone)]
enum Op {
    Observe(TreeId, RelPath, Option<(u8, u64)>),
    Remove(TreeId, RelPath),
    SetLocal(TreeId, RelPath, Option<u64>),
    Ack(u64),
    PeerAt(u64),
    Purge(usize),
    Rename(TreeId, usize, RelPath),
    Abort(TreeId, RelPath),
    Reopen,
}

fn place() -> impl Strategy<Value = (TreeId, RelPath)> {
    let path = proptest::collection::vec("[ab.]{1,2}", 1..4)
        .prop_filter_map("valid", |c| RelPath::new(c.join("/")).ok());
    (prop_oneof![Just(WWW), Just(ETC)], path)
}

fn any_op() -> impl Strategy<Value = Op> {
    let state = proptest::option::weighted(0.7, (0u8..4, 0u64..5));
    prop_oneof![
        10 => (place(), state).prop_map(|((tree, path), state)| Op::Observe(tree, path, state)),
        1 => place().prop_map(|(tree, path)| Op::Remove(tree, path)),
        1 => (place(), proptest::option::of(0u64..5)).prop_map(|((tree, path), ino)| Op::SetLocal(tree, path, ino)),
        2 => (0u64..40).prop_map(Op::Ack),
        1 => (0u64..40).prop_map(Op::PeerAt),
        1 => (0usize..4).prop_map(Op::Purge),
        6 => (place(), 0usize..8).prop_map(|((tree, path), n)| Op::Rename(tree, n, path)),
        1 => place().prop_map(|(tree, path)| Op::Abort(tree, path)),
        1 => Just(Op::Reopen),
    ]
}

/// Small, large, a directory, a link.
fn state(n: u8) -> State {
    match n {
        0 => dir(),
        1 => State {
            kind: Kind::HardLink { to: p("a") },
            meta: file("").meta,
        },
        2 => file("small"),
        _ => {
            let kind = Kind::File {
                size: HASHED_FROM + u64::from(n),
                hash: ContentHash([n; 32]),
            };
            State {
                kind,
                meta: file("").meta,
            }
        }
    }
}

/// Every table says the same as the entries themselves.
fn check(see: &Snapshot, model: &Model) {
    for tree in [WWW, ETC] {
        let listed: Vec<_> = see
            .entries(tree, &RelPath::root())
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let expected: Vec<_> = model
            .iter()
            .filter(|((t, _), _)| *t == tree)
            .map(|((_, path), e)| (path.clone(), e.clone()))
            .collect();
        assert_eq!(listed, expected);
        let mut counts = Counts::default();
        expected
            .iter()
            .for_each(|(path, entry)| counts.add(entry, path.is_root(), 1));
        assert_eq!(see.counts(tree).unwrap(), counts);
        for (dir, _) in expected
            .iter()
            .chain([&(RelPath::root(), IndexEntry::received(None, 0, None))])
        {
            let inside = expected.iter().filter(|(path, _)| path.is_below(dir));
            let direct: Vec<_> = inside
                .clone()
                .filter(|(path, _)| path.depth() == dir.depth() + 1)
                .cloned()
                .collect();
            assert_eq!(see.children(tree, dir, None, 100).unwrap(), direct);
            assert_eq!(
                see.below(tree, dir)
                    .unwrap()
                    .map(Result::unwrap)
                    .collect::<Vec<_>>(),
                inside.cloned().collect::<Vec<_>>()
            );
        }
    }
    let mut by_seq: Vec<(u64, TreeId, RelPath)> = model
        .iter()
        .filter(|(_, e)| e.seq != 0)
        .map(|((tree, path), e)| (e.seq, *tree, path.clone()))
        .collect();
    by_seq.sort();
    let changes = see.changes(0, 1000).unwrap();
    assert_eq!(
        changes
            .iter()
            .map(|c| (c.entry.seq, c.tree, c.path.clone()))
            .collect::<Vec<_>>(),
        by_seq
    );
    for ino in 0..5 {
        let regular = |e: &IndexEntry| {
            let kind = e.current.as_ref().map(|s| s.kind.name());
            kind == Some(crate::entry::KindName::File) && e.local == Some(key(ino))
        };
        let expected: BTreeSet<_> = model
            .iter()
            .filter(|(_, e)| regular(e))
            .map(|(place, _)| place.clone())
            .collect();
        assert_eq!(
            see.by_inode(7, ino, 100)
                .unwrap()
                .into_iter()
                .collect::<BTreeSet<_>>(),
            expected
        );
    }
    let large = |e: &IndexEntry| {
        e.current
            .as_ref()
            .is_some_and(|s| s.kind.hash() == Some(&ContentHash([3; 32])))
    };
    let expected: BTreeSet<_> = model
        .iter()
        .filter(|(_, e)| large(e))
        .map(|(place, _)| place.clone())
        .collect();
    assert_eq!(
        see.by_hash(&ContentHash([3; 32]), 100)
            .unwrap()
            .into_iter()
            .collect::<BTreeSet<_>>(),
        expected
    );
}

use crate::entry::IndexEntry;

/// Directories with more entries stay where they lie: both ways are taken.
const FEW: usize = 1;

/// Renames the n-th directory, if a file system would.
fn rename(f: &mut Fixture, model: &mut Model, tree: TreeId, n: usize, to: &RelPath) {
    let is = |kind: fn(&Kind) -> bool| {
        let live = |e: &IndexEntry| e.current.as_ref().is_some_and(|state| kind(&state.kind));
        let paths = model
            .iter()
            .filter(move |((t, _), e)| *t == tree && live(e));
        paths.map(|((_, path), _)| path.clone()).collect::<Vec<_>>()
    };
    let dirs = is(Kind::is_dir);
    let Some(from) = dirs.get(n).filter(|from| !from.is_root()) else {
        return;
    };
    let lies = is(|_| true).iter().any(|path| path.is_at_or_below(to));
    let links = is(|kind| matches!(kind, Kind::HardLink { .. }));
    if lies || !links.is_empty() || to.is_at_or_below(from) || from.is_at_or_below(to) {
        return;
    }
    let own = |(t, path): &(TreeId, RelPath)| *t == tree && path.is_at_or_below(from);
    let below = |dir: &RelPath| {
        model
            .keys()
            .filter(|(t, p)| *t == tree && p.is_below(dir))
            .count()
    };
    let whole = below(from) > FEW && below(to) < FEW;
    let moved: Vec<_> = model
        .iter()
        .filter(|(place, e)| own(place) && (whole || e.current.is_some()))
        .map(|((_, path), e)| (path.clone(), e.clone()))
        .collect();
    f.index
        .rename_with(FEW, tree, from, to, |_| Ok(()))
        .unwrap();
    for (path, _) in &moved {
        model.remove(&(tree, path.clone()));
    }
    for (path, entry) in moved {
        let new = path.moved(from, to).unwrap();
        model.insert((tree, new), entry);
    }
}

fn act(f: &mut Fixture, model: &mut Model, acked: &mut Acked, last: &mut u64, op: &Op) {
    match op {
        Op::Observe(tree, path, found) => {
            let (current, local) = (found.map(|(n, _)| state(n)), found.map(|(_, ino)| key(ino)));
            let observed = f.write(|w| w.observe(*tree, path, current.clone(), local));
            let old = model.get(&(*tree, path.clone()));
            match IndexEntry::observe(old, acked, current, local, *last + 1) {
                crate::entry::Change::Unchanged => assert_eq!(observed, Observed::Unchanged),
                crate::entry::Change::LocalOnly(entry) => {
                    assert_eq!(observed, Observed::LocalOnly);
                    model.insert((*tree, path.clone()), entry);
                }
                crate::entry::Change::Changed(entry) => {
                    *last += 1;
                    assert_eq!(observed, Observed::Changed(*last));
                    model.insert((*tree, path.clone()), entry);
                }
            }
        }
        Op::Remove(tree, path) => {
            f.write(|w| w.remove(*tree, path));
            model.remove(&(*tree, path.clone()));
        }
        Op::SetLocal(tree, path, ino) => {
            f.write(|w| w.set_local(*tree, path, ino.map(key)));
            if let Some(entry) = model.get_mut(&(*tree, path.clone())) {
                entry.local = ino.map(key);
            }
        }
        Op::Ack(seq) => {
            f.write(|w| {
                w.ack(*seq);
                Ok(())
            });
            acked.advance((*seq).min(*last));
        }
        Op::Rename(tree, n, to) => rename(f, model, *tree, *n, to),
        Op::PeerAt(seq) => {
            f.write(|w| {
                w.peer_at(*seq);
                Ok(())
            });
            if *seq < acked.upto {
                acked.forget(*last);
            }
            acked.advance((*seq).min(*last));
        }
        Op::Purge(max) => {
            let removed = f.write(|w| w.purge_tombstones(u64::MAX, *max));
            let mut old: Vec<_> = model
                .iter()
                .filter(|(_, e)| e.current.is_none() && e.seq <= acked.upto)
                .map(|(place, e)| (e.seq, place.clone()))
                .collect();
            old.sort();
            assert_eq!(removed, old.len().min(*max));
            old.iter()
                .take(*max)
                .for_each(|(_, place)| drop(model.remove(place)));
        }
        Op::Abort(tree, path) => {
            let result: Result<(), IndexError> = f.index.write(|w| {
                w.observe(*tree, path, Some(file("never kept")), None)?;
                Err(IndexError::NotWriting)
            });
            assert!(result.is_err());
        }
        Op::Reopen => {
            let placeholder = tempfile::tempdir().unwrap();
            // The file is locked while it is open: close it first.
            f.index = Index::open(&placeholder.path().join("other"), &identity()).unwrap();
            f.index = Index::open(&f.path, &identity()).unwrap();
        }
    }
}

/// Mostly directories in directories, and renames of them.
fn any_rename() -> impl Strategy<Value = Op> {
    let path =
        || proptest::collection::vec("[ab]", 1..4).prop_map(|c| RelPath::new(c.join("/")).unwrap());
    let state = prop_oneof![3 => Just(Some((0, 0))), 2 => Just(Some((3, 1))), 1 => Just(None)];
    prop_oneof![
        6 => (path(), state).prop_map(|(path, state)| Op::Observe(WWW, path, state)),
        6 => (path(), 0usize..8).prop_map(|(path, n)| Op::Rename(WWW, n, path)),
        1 => Just(Op::Ack(u64::MAX)),
        1 => Just(Op::Purge(4)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]
    #[test]
    fn renamed_directories_are_found_at_their_paths(ops in proptest::collection::vec(any_rename(), 30..80)) {
        let mut f = fixture();
        let (mut model, mut acked, mut last) = (Model::new(), Acked::default(), 0);
        for op in &ops {
            act(&mut f, &mut model, &mut acked, &mut last, op);
            if matches!(op, Op::Rename(..)) {
                check(&f.see(), &model);
            }
        }
        check(&f.see(), &model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]
    #[test]
    fn all_tables_agree_with_a_plain_map(ops in proptest::collection::vec(any_op(), 1..40)) {
        let mut f = fixture();
        let (mut model, mut acked, mut last) = (Model::new(), Acked::default(), 0);
        for op in &ops {
            act(&mut f, &mut model, &mut acked, &mut last, op);
        }
        let see = f.see();
        prop_assert_eq!((see.last_seq(), see.acked()), (last, acked));
        check(&see, &model);
    }
}
