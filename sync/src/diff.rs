//! A walk of a tree against its index: which paths are to be read again, and which are gone.
//!
//! Both come in path order, so they are merged while the walk goes on: memory does not grow with the tree. Nothing is
//! concluded about what the walk could not see (unreadable directories, other mounts).

use crate::entry::{IndexEntry, KindName, LocalKey};
use crate::filter::Filter;
use crate::path::RelPath;
use std::iter::Peekable;

/// What a walk found at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Something that can be replicated, with its key.
    Entry(KindName, LocalKey),
    /// Something that is not replicated (a socket): as if nothing were there.
    Nothing,
    /// Unknown from here down (unreadable, another mount): nothing there counts as gone.
    Unknown,
}

/// A path where the index and the tree differ, or may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Candidate {
    /// In the tree, not in the index (or only as a tombstone).
    New,
    /// Its key differs from the index, or the index has none: to be read.
    Changed(Box<IndexEntry>),
    /// In the index, no more in the tree.
    Gone(Box<IndexEntry>),
    /// In the index, excluded now: to be forgotten without a tombstone.
    Excluded(Box<IndexEntry>),
}

/// Paths came out of order: the walk or the index is wrong, and no conclusion may be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiffError<E> {
    /// The index could not be read.
    #[error(transparent)]
    Index(#[from] E),
    /// A path at or before the one before it.
    #[error("{0} came out of order in a walk")]
    Order(RelPath),
}

/// The merge of a walk with index entries, both in path order. Feed it with [`Merge::seen`], then [`Merge::finish`].
pub struct Merge<'f, I: Iterator> {
    index: Peekable<I>,
    exclude: &'f Filter,
    last: Option<RelPath>,
    /// Nothing at or beneath this counts as gone.
    unknown: Option<RelPath>,
}

impl<'f, E, I> Merge<'f, I>
where
    I: Iterator<Item = Result<(RelPath, IndexEntry), E>>,
{
    /// `index` gives the entries of the same range that is walked: without the directory at which the walk starts.
    pub fn new(index: I, exclude: &'f Filter) -> Self {
        Merge {
            index: index.peekable(),
            exclude,
            last: None,
            unknown: None,
        }
    }

    /// The walk is at `path`. Hands out everything that this makes certain, `path` itself last.
    pub fn seen(
        &mut self,
        path: &RelPath,
        sight: Sight,
        out: &mut impl FnMut(RelPath, Candidate),
    ) -> Result<(), DiffError<E>> {
        if self.last.as_ref().is_some_and(|last| path <= last) {
            return Err(DiffError::Order(path.clone()));
        }
        self.last = Some(path.clone());
        self.pass_over(Some(path), out)?;
        let same = matches!(self.index.peek(), Some(Ok((here, _))) if here == path);
        let entry = if same {
            self.next()?.map(|(_, entry)| entry)
        } else {
            None
        };
        let live = entry.filter(|entry| entry.current.is_some());
        match (sight, live) {
            (Sight::Entry(..), None) => out(path.clone(), Candidate::New),
            (Sight::Entry(kind, key), Some(entry)) => {
                let same_kind = entry
                    .current
                    .as_ref()
                    .is_some_and(|state| state.kind.name() == kind);
                if entry.local != Some(key) || !same_kind {
                    out(path.clone(), Candidate::Changed(Box::new(entry)));
                }
            }
            (Sight::Nothing, Some(entry)) => self.missing(path.clone(), entry, out),
            (Sight::Nothing, None) => {}
            (Sight::Unknown, _) => self.unknown = Some(path.clone()),
        }
        Ok(())
    }

    /// The walk is complete: what is left in the index is gone. A walk that was ended early must not be finished.
    pub fn finish(mut self, out: &mut impl FnMut(RelPath, Candidate)) -> Result<(), DiffError<E>> {
        self.pass_over(None, out)
    }

    /// Hands out the index entries before `upto` as missing.
    fn pass_over(
        &mut self,
        upto: Option<&RelPath>,
        out: &mut impl FnMut(RelPath, Candidate),
    ) -> Result<(), DiffError<E>> {
        loop {
            let before = match (self.index.peek(), upto) {
                (None, _) => false,
                (Some(Ok((path, _))), Some(upto)) => path < upto,
                (Some(_), _) => true,
            };
            if !before {
                return Ok(());
            }
            if let Some((path, entry)) = self.next()?
                && entry.current.is_some()
            {
                self.missing(path, entry, out);
            }
        }
    }

    fn missing(&self, path: RelPath, entry: IndexEntry, out: &mut impl FnMut(RelPath, Candidate)) {
        if self
            .unknown
            .as_ref()
            .is_some_and(|unknown| path.is_at_or_below(unknown))
        {
            return;
        }
        let is_dir = entry
            .current
            .as_ref()
            .is_some_and(|state| state.kind.is_dir());
        let excluded = path.is_private() || self.exclude.covers(&path, is_dir);
        let candidate = if excluded {
            Candidate::Excluded(Box::new(entry))
        } else {
            Candidate::Gone(Box::new(entry))
        };
        out(path, candidate);
    }

    fn next(&mut self) -> Result<Option<(RelPath, IndexEntry)>, DiffError<E>> {
        Ok(self.index.next().transpose()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::file;
    use crate::entry::{Kind, State};
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::convert::Infallible;

    fn p(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    fn key(ino: u64) -> LocalKey {
        LocalKey {
            dev: 1,
            ino,
            ctime_ns: 0,
            mtime_ns: 0,
            size: 0,
        }
    }

    fn run(
        index: &[(&str, IndexEntry)],
        walk: &[(&str, Sight)],
        exclude: &[&str],
    ) -> Result<Vec<String>, DiffError<Infallible>> {
        let filter = Filter::parse(exclude.iter().copied()).unwrap();
        let entries = index
            .iter()
            .map(|(path, entry)| Ok((p(path), entry.clone())));
        let mut merge = Merge::new(entries, &filter);
        let mut found = Vec::new();
        let mut out = |path: RelPath, candidate: Candidate| {
            let name = match candidate {
                Candidate::New => "new",
                Candidate::Changed(_) => "changed",
                Candidate::Gone(_) => "gone",
                Candidate::Excluded(_) => "excluded",
            };
            found.push(format!("{name} {path}"));
        };
        for (path, sight) in walk {
            merge.seen(&p(path), *sight, &mut out)?;
        }
        merge.finish(&mut out)?;
        Ok(found)
    }

    fn at(ino: u64) -> IndexEntry {
        IndexEntry::received(Some(file("x")), 1, Some(key(ino)))
    }

    fn see(ino: u64) -> Sight {
        Sight::Entry(KindName::File, key(ino))
    }

    #[test]
    fn table() {
        let unread = IndexEntry {
            local: None,
            ..at(6)
        };
        let tombstone = IndexEntry::received(None, 1, None);
        let dir = IndexEntry::received(
            Some(State {
                kind: Kind::Dir,
                meta: file("").meta,
            }),
            1,
            Some(key(9)),
        );
        let index = [
            ("a", at(1)),
            ("b", at(2)),
            ("c", tombstone.clone()),
            ("d", dir.clone()),
            ("d/x", at(3)),
            ("e", tombstone),
            ("f", unread),
            ("g", at(7)),
            ("k", dir),
        ];
        let walk = [
            ("a", see(1)),
            ("aa", see(20)),
            ("b", see(21)),
            ("c", see(22)),
            ("f", see(6)),
            ("h", see(23)),
            ("k", see(9)),
        ];
        let expected = [
            "new aa",
            "changed b",
            "new c",
            "gone d",
            "gone d/x",
            "changed f",
            "gone g",
            "new h",
            "changed k",
        ];
        assert_eq!(run(&index, &walk, &[]).unwrap(), expected);
    }

    #[test]
    fn nothing_is_gone_where_nothing_was_seen() {
        let index = [
            ("d", at(1)),
            ("d/x", at(2)),
            ("d/y/z", at(3)),
            ("d.x", at(4)),
            ("m", at(5)),
            ("m/in", at(6)),
        ];
        let walk = [("d", Sight::Unknown), ("m", Sight::Unknown)];
        assert_eq!(run(&index, &walk, &[]).unwrap(), ["gone d.x"]);
    }

    #[test]
    fn what_became_excluded_is_forgotten_not_deleted() {
        let index = [
            ("cache", at(1)),
            ("cache/x", at(2)),
            ("y.tmp", at(3)),
            ("z", at(4)),
        ];
        let expected = [
            "excluded cache",
            "excluded cache/x",
            "excluded y.tmp",
            "gone z",
        ];
        assert_eq!(run(&index, &[], &["/cache", "*.tmp"]).unwrap(), expected);
    }

    #[test]
    fn a_socket_is_as_good_as_nothing() {
        let index = [("a", at(1))];
        assert_eq!(
            run(&index, &[("a", Sight::Nothing), ("b", Sight::Nothing)], &[]).unwrap(),
            ["gone a"]
        );
    }

    #[test]
    fn a_walk_out_of_order_is_an_error() {
        for walk in [["b", "a"], ["a", "a"]] {
            let walk: Vec<_> = walk.iter().map(|path| (*path, see(1))).collect();
            assert!(matches!(run(&[], &walk, &[]), Err(DiffError::Order(_))));
        }
    }

    fn any_set() -> impl Strategy<Value = BTreeMap<RelPath, u64>> {
        let path = proptest::collection::vec("[ab.]", 1..4)
            .prop_filter_map("valid", |c| RelPath::new(c.join("/")).ok());
        proptest::collection::btree_map(path, 0u64..3, 0..12)
    }

    proptest! {
        #[test]
        fn equals_a_comparison_of_whole_maps(index in any_set(), walk in any_set()) {
            let filter = Filter::default();
            let entries = index.iter().map(|(path, ino)| Ok::<_, Infallible>((path.clone(), at(*ino))));
            let mut merge = Merge::new(entries, &filter);
            let mut found = BTreeMap::new();
            let mut out = |path, candidate: Candidate| drop(found.insert(path, candidate));
            for (path, ino) in &walk {
                merge.seen(path, see(*ino), &mut out).unwrap();
            }
            merge.finish(&mut out).unwrap();
            for path in index.keys().chain(walk.keys()).collect::<BTreeSet<_>>() {
                let expected = match (index.get(path), walk.get(path)) {
                    (None, _) => Some(Candidate::New),
                    (Some(ino), None) => Some(Candidate::Gone(Box::new(at(*ino)))),
                    (Some(a), Some(b)) => (a != b).then(|| Candidate::Changed(Box::new(at(*a)))),
                };
                prop_assert_eq!(found.get(path), expected.as_ref());
            }
        }
    }
}
