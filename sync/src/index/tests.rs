use super::*;
use crate::entry::tests::file;
use crate::entry::{Acked, Base, Basis, ContentHash, Kind, LocalKey, State};
use crate::lineage::{Branch, CopyState, EpochId, Lineage, NodeName};
use crate::path::RelPath;
use crate::tree::TreeId;

const WWW: TreeId = TreeId([1; 16]);
const ETC: TreeId = TreeId([0xff; 16]);

fn p(text: &str) -> RelPath {
    if text.is_empty() {
        RelPath::root()
    } else {
        RelPath::new(text).unwrap()
    }
}

fn node(name: &str) -> NodeName {
    NodeName::try_from(name).unwrap()
}

fn identity() -> IndexIdentity {
    IndexIdentity {
        pair: "mirror".into(),
        node: "a".into(),
    }
}

fn key(ino: u64) -> LocalKey {
    LocalKey {
        dev: 7,
        ino,
        ctime_ns: 1,
        mtime_ns: 1,
        size: 1,
    }
}

fn dir() -> State {
    State {
        kind: Kind::Dir,
        meta: file("").meta,
    }
}

struct Fixture {
    _place: tempfile::TempDir,
    path: PathBuf,
    index: Index,
}

fn fixture() -> Fixture {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("index.redb");
    let index = Index::open(&path, &identity()).unwrap();
    Fixture {
        _place: place,
        path,
        index,
    }
}

impl Fixture {
    fn write<T>(&self, work: impl FnOnce(&mut Writer<'_>) -> Result<T, IndexError>) -> T {
        self.index.write(work).unwrap()
    }

    fn observe(&self, tree: TreeId, path: &str, state: Option<State>) -> Observed {
        self.write(|w| w.observe(tree, &p(path), state, None))
    }

    fn see(&self) -> Snapshot {
        self.index.snapshot().unwrap()
    }
}

fn names(changes: &[Located]) -> Vec<(u64, String)> {
    changes
        .iter()
        .map(|c| (c.entry.seq, c.path.to_string()))
        .collect()
}

#[test]
fn a_path_moves_to_the_number_of_its_last_change() {
    let f = fixture();
    assert_eq!(f.observe(WWW, "a", Some(file("1"))), Observed::Changed(1));
    assert_eq!(f.observe(WWW, "b", Some(file("1"))), Observed::Changed(2));
    assert_eq!(f.observe(ETC, "c", Some(file("1"))), Observed::Changed(3));
    assert_eq!(f.observe(WWW, "a", Some(file("1"))), Observed::Unchanged);
    assert_eq!(f.observe(WWW, "a", Some(file("2"))), Observed::Changed(4));
    assert_eq!(f.observe(WWW, "b", None), Observed::Changed(5));
    let see = f.see();
    let all = see.changes(0, 100).unwrap();
    assert_eq!(
        names(&all),
        [(3, "c".into()), (4, "a".into()), (5, "b".into())]
    );
    assert_eq!((all[0].tree, all[1].tree), (ETC, WWW));
    assert_eq!(names(&see.changes(3, 1).unwrap()), [(4, "a".into())]);
    assert!(
        see.changes(5, 10).unwrap().is_empty() && see.changes(u64::MAX, 10).unwrap().is_empty()
    );
    assert_eq!((see.last_seq(), see.count_changes(3, 10).unwrap()), (5, 2));
}

#[test]
fn counts_are_kept() {
    let f = fixture();
    f.observe(WWW, "", Some(dir()));
    f.observe(WWW, "d", Some(dir()));
    f.observe(WWW, "d/a", Some(file("four")));
    f.observe(
        WWW,
        "d/b",
        Some(State {
            kind: Kind::Fifo,
            meta: file("").meta,
        }),
    );
    let link = Kind::HardLink { to: p("d/a") };
    f.observe(
        WWW,
        "d/c",
        Some(State {
            kind: link,
            meta: file("").meta,
        }),
    );
    f.observe(ETC, "x", Some(file("xx")));
    let expected = Counts {
        files: 2,
        dirs: 1,
        others: 1,
        bytes: 4,
        links: 1,
        tombstones: 0,
    };
    assert_eq!(f.see().counts(WWW).unwrap(), expected);
    assert_eq!(expected.entries(), 4);
    f.observe(WWW, "d/a", Some(file("longer")));
    f.observe(WWW, "d/b", None);
    let expected = Counts {
        files: 2,
        dirs: 1,
        others: 0,
        bytes: 6,
        links: 1,
        tombstones: 1,
    };
    assert_eq!(f.see().counts(WWW).unwrap(), expected);
    f.observe(WWW, "d/b", Some(file("")));
    f.write(|w| w.remove(WWW, &p("d/c")));
    let expected = Counts {
        files: 2,
        dirs: 1,
        others: 0,
        bytes: 6,
        links: 0,
        tombstones: 0,
    };
    assert_eq!(f.see().counts(WWW).unwrap(), expected);
    assert_eq!(f.see().counts(ETC).unwrap().bytes, 2);
}

#[test]
fn ranges_of_paths() {
    let f = fixture();
    for path in ["", "a", "a/x", "a/x/y", "a/x.z", "a-b", "a.d", "b"] {
        f.observe(WWW, path, Some(dir()));
    }
    f.observe(ETC, "a", Some(file("")));
    let see = f.see();
    let list = |entries: Entries| {
        entries
            .map(|e| e.unwrap().0.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        list(see.entries(WWW, &p("")).unwrap()),
        [".", "a", "a/x", "a/x/y", "a/x.z", "a-b", "a.d", "b"]
    );
    assert_eq!(
        list(see.entries(WWW, &p("a/x.z")).unwrap()),
        ["a/x.z", "a-b", "a.d", "b"]
    );
    assert_eq!(
        list(see.below(WWW, &p("a")).unwrap()),
        ["a/x", "a/x/y", "a/x.z"]
    );
    assert_eq!(list(see.below(WWW, &p("")).unwrap()).len(), 7);
    assert_eq!(
        list(see.below(ETC, &p("")).unwrap()),
        ["a"],
        "the largest tree id"
    );
    assert!(list(see.below(WWW, &p("b")).unwrap()).is_empty());

    let children = |dir: &str, after: Option<&[u8]>, max| {
        let found = see.children(WWW, &p(dir), after, max).unwrap();
        found
            .into_iter()
            .map(|(path, _)| path.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(children("", None, 100), ["a", "a-b", "a.d", "b"]);
    assert_eq!(children("", None, 2), ["a", "a-b"]);
    assert_eq!(children("", Some(b"a-b"), 100), ["a.d", "b"]);
    assert_eq!(children("a", None, 100), ["a/x", "a/x.z"]);
    assert_eq!(children("a", Some(b"x"), 100), ["a/x.z"]);
    assert!(children("b", None, 100).is_empty());
}

#[test]
fn children_whose_directory_has_no_entry_do_not_hide_the_next() {
    let f = fixture();
    f.observe(WWW, "a/deep/er", Some(file("")));
    f.observe(WWW, "b", Some(file("")));
    let found = f.see().children(WWW, &p(""), None, 10).unwrap();
    assert_eq!(
        found
            .iter()
            .map(|(path, _)| path.to_string())
            .collect::<Vec<_>>(),
        ["b"]
    );
}

#[test]
fn inodes_and_contents_are_found() {
    let f = fixture();
    let big = |n: u8| {
        let kind = Kind::File {
            size: HASHED_FROM + 1,
            hash: ContentHash([n; 32]),
        };
        State {
            kind,
            meta: file("").meta,
        }
    };
    f.write(|w| {
        w.observe(WWW, &p("a"), Some(big(1)), Some(key(10)))?;
        w.observe(WWW, &p("b"), Some(big(1)), Some(key(11)))?;
        w.observe(ETC, &p("small"), Some(file("x")), Some(key(10)))?;
        w.observe(WWW, &p("d"), Some(dir()), Some(key(12)))
    });
    let see = f.see();
    assert_eq!(
        see.by_inode(7, 10, 9).unwrap(),
        [(WWW, p("a")), (ETC, p("small"))]
    );
    assert!(
        see.by_inode(7, 12, 9).unwrap().is_empty() && see.by_inode(8, 10, 9).unwrap().is_empty()
    );
    assert_eq!(
        see.by_hash(&ContentHash([1; 32]), 9).unwrap(),
        [(WWW, p("a")), (WWW, p("b"))]
    );
    assert_eq!(see.by_hash(&ContentHash([1; 32]), 1).unwrap().len(), 1);
    f.write(|w| {
        w.observe(WWW, &p("a"), Some(big(2)), Some(key(13)))?;
        w.observe(WWW, &p("b"), None, None)?;
        assert_eq!(w.by_inode(7, 13, 9)?, [(WWW, p("a"))]);
        Ok(())
    });
    let see = f.see();
    assert_eq!(see.by_inode(7, 10, 9).unwrap(), [(ETC, p("small"))]);
    assert!(see.by_inode(7, 11, 9).unwrap().is_empty());
    assert!(see.by_hash(&ContentHash([1; 32]), 9).unwrap().is_empty());
    assert_eq!(
        see.by_hash(&ContentHash([2; 32]), 9).unwrap(),
        [(WWW, p("a"))]
    );
}

#[test]
fn a_failed_transaction_leaves_nothing() {
    let f = fixture();
    f.observe(WWW, "a", Some(file("1")));
    let result: Result<(), IndexError> = f.index.write(|w| {
        w.observe(WWW, &p("b"), Some(file("2")), None)?;
        Err(IndexError::NotWriting)
    });
    assert!(result.is_err());
    let see = f.see();
    assert_eq!((see.last_seq(), see.get(WWW, &p("b")).unwrap()), (1, None));
    assert_eq!(f.observe(WWW, "c", Some(file("3"))), Observed::Changed(2));
}

/// Whoever meets it first: what the disk refuses in the midst of a transaction ends the database too.
#[test]
fn what_the_disk_refuses_within_a_transaction_ends_the_database() {
    let f = fixture();
    let refused = || redb::StorageError::Io(std::io::Error::other("no room"));
    let result: Result<(), IndexError> = f.index.write(|_| Err(refused().into()));
    assert!(result.is_err());
    assert!(f.index.failure().is_some_and(|why| why.contains("no room")));
    f.index.reopen().unwrap();
    assert_eq!(f.observe(WWW, "a", Some(file("1"))), Observed::Changed(1));
}

#[test]
fn a_snapshot_stays_at_its_moment_in_another_thread() {
    let f = fixture();
    f.observe(WWW, "a", Some(file("1")));
    let see = f.see();
    f.observe(WWW, "b", Some(file("2")));
    let seen = std::thread::spawn(move || see.changes(0, 9).unwrap().len())
        .join()
        .unwrap();
    assert_eq!((seen, f.see().changes(0, 9).unwrap().len()), (1, 2));
}

#[test]
fn another_pairs_nodes_or_versions_file_is_refused_by_name() {
    let f = fixture();
    f.observe(WWW, "a", Some(file("1")));
    assert!(matches!(
        Index::open_while(&f.path, &identity(), || false),
        Err(IndexError::InUse { .. })
    ));
    let Fixture {
        _place,
        path,
        index,
    } = f;
    drop(index);
    for other in [
        IndexIdentity {
            pair: "x".into(),
            ..identity()
        },
        IndexIdentity {
            node: "b".into(),
            ..identity()
        },
    ] {
        let error = Index::open(&path, &other).unwrap_err();
        assert!(
            matches!(&error, IndexError::Foreign { found, .. } if **found == identity()),
            "{error}"
        );
    }
    let index = Index::open(&path, &identity()).unwrap();
    assert_eq!(
        index.snapshot().unwrap().last_seq(),
        1,
        "a refusal changed nothing"
    );
    let transaction = index.held.database().unwrap().begin_write().unwrap();
    {
        let mut tables = tables::Tables::open(&transaction).unwrap();
        meta::write_format_as(&mut tables.meta, FORMAT_VERSION + 1, &identity()).unwrap();
    }
    transaction.commit().unwrap();
    drop(index);
    let error = Index::open(&path, &identity()).unwrap_err();
    assert!(
        matches!(error, IndexError::Version { found, .. } if found == FORMAT_VERSION + 1),
        "{error}"
    );
    std::fs::write(&path, b"this is not an index, but long enough to look at").unwrap();
    assert!(Index::open(&path, &identity()).is_err());
}

/// The file as a crash would leave it: copied while a transaction is open, and between commits.
#[test]
fn a_crash_keeps_the_last_commit() {
    let f = fixture();
    let copy = f.path.with_extension("copy");
    for round in 1..=20u64 {
        f.observe(WWW, "a", Some(file(&round.to_string())));
        f.observe(WWW, &format!("n{round}"), Some(file("x")));
        let result: Result<(), IndexError> = f.index.write(|w| {
            for n in 0..200 {
                w.observe(WWW, &p(&format!("torn{n}")), Some(file("y")), None)?;
            }
            std::fs::copy(&f.path, &copy).unwrap();
            Err(IndexError::NotWriting)
        });
        assert!(result.is_err());
        let after = Index::open(&copy, &identity()).unwrap().snapshot().unwrap();
        assert_eq!(after.last_seq(), 2 * round);
        assert_eq!(
            after.get(WWW, &p("a")).unwrap().unwrap().current,
            Some(file(&round.to_string()))
        );
        assert_eq!(after.get(WWW, &p("torn0")).unwrap(), None);
        assert_eq!(after.counts(WWW).unwrap().files, 1 + round);
    }
}

/// After a crash the file is walked only if something was written since the last rest.
#[test]
fn a_crash_behind_a_rest_costs_no_walk() {
    let f = fixture();
    let walks = |name: &str| {
        let copy = f.path.with_extension(name);
        std::fs::copy(&f.path, &copy).unwrap();
        let walked = Arc::new(AtomicU8::new(0));
        let seen = Arc::clone(&walked);
        let mut builder = Builder::new();
        builder.set_repair_callback(move |_| seen.store(1, Ordering::Relaxed));
        drop(builder.open(&copy).unwrap());
        walked.load(Ordering::Relaxed) == 1
    };
    f.observe(WWW, "a", Some(file("1")));
    assert!(!f.index.rest().unwrap());
    assert!(walks("written"), "it was just written");
    assert!(f.index.rest().unwrap());
    assert!(!walks("rested"));
    assert!(!f.index.rest().unwrap(), "once");
    f.observe(WWW, "a", Some(file("2")));
    assert!(walks("again"));
    f.index.rest_now().unwrap();
    assert!(!walks("ended"));
}

mod random;
mod roles;

/// Whoever restarts an agent meets the one that is ending.
#[test]
fn an_index_whose_holder_is_ending_is_waited_for() {
    let f = fixture();
    f.observe(WWW, "a", Some(file("1")));
    let mut holder = Some(f.index);
    let index = Index::open_while(&f.path, &identity(), || holder.take().is_some());
    assert_eq!(index.unwrap().snapshot().unwrap().last_seq(), 1);
    assert!(holder.is_none(), "it was in use");
}
