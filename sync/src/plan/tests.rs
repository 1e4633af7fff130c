use super::*;
use crate::entry::tests::file;
use std::convert::Infallible;

mod model;

#[derive(Default)]
pub(super) struct Index(pub BTreeMap<RelPath, IndexEntry>);

impl Known for Index {
    type Error = Infallible;
    fn entry(&self, path: &RelPath) -> Result<Option<IndexEntry>, Infallible> {
        Ok(self.0.get(path).cloned())
    }
    fn below(&self, dir: &RelPath) -> Result<Vec<(RelPath, IndexEntry)>, Infallible> {
        Ok(self
            .0
            .iter()
            .filter(|(p, _)| p.is_below(dir))
            .map(|(p, e)| (p.clone(), e.clone()))
            .collect())
    }
    fn names(&self, local: &LocalKey) -> Result<Vec<RelPath>, Infallible> {
        let same = |e: &IndexEntry| {
            e.local
                .is_some_and(|l| (l.dev, l.ino) == (local.dev, local.ino))
        };
        Ok(self
            .0
            .iter()
            .filter(|(_, e)| same(e))
            .map(|(p, _)| p.clone())
            .collect())
    }
}

pub(super) fn p(text: &str) -> RelPath {
    if text.is_empty() {
        RelPath::root()
    } else {
        RelPath::new(text).unwrap()
    }
}

pub(super) fn key(ino: u64) -> LocalKey {
    LocalKey {
        dev: 1,
        ino,
        ctime_ns: 0,
        mtime_ns: 0,
        size: 0,
    }
}

fn dir() -> State {
    State {
        kind: Kind::Dir,
        meta: file("").meta,
    }
}

fn link(to: &str) -> State {
    State {
        kind: Kind::HardLink { to: p(to) },
        meta: file("").meta,
    }
}

/// An index of live entries; each gets the inode of its place in the list, hard links that of their first name.
fn index(entries: &[(&str, State)]) -> Index {
    let ino = |name: &str| entries.iter().position(|(n, _)| *n == name).unwrap() as u64;
    let entry = |(name, state): &(&str, State)| {
        let local = match &state.kind {
            Kind::HardLink { to } => key(ino(&to.to_string())),
            _ => key(ino(name)),
        };
        (
            p(name),
            IndexEntry::received(Some(state.clone()), 1, Some(local)),
        )
    };
    Index(entries.iter().map(entry).collect())
}

struct Case<'a> {
    protect: &'a [&'a str],
    deletes: Deletes,
}

const PLAIN: Case<'static> = Case {
    protect: &[],
    deletes: Deletes::Mirror,
};

fn planned(
    case: &Case<'_>,
    known: &Index,
    records: &[(&str, Option<State>)],
) -> Result<Plan, PlanError<Infallible>> {
    let protect = Filter::parse(case.protect.iter().copied()).unwrap();
    let exclude = Filter::parse(["*.excluded"]).unwrap();
    let paths: Vec<RelPath> = records.iter().map(|(name, _)| p(name)).collect();
    let incoming: Vec<Incoming<'_>> = paths
        .iter()
        .zip(records)
        .map(|(path, (_, state))| Incoming {
            path,
            state: state.as_ref(),
        })
        .collect();
    plan(
        &incoming,
        Policy {
            deletes: case.deletes,
            protect: &protect,
            exclude: &exclude,
        },
        known,
    )
}

fn short(plan: &Plan) -> Vec<String> {
    let name = |action: &Action| match action {
        Action::RemoveFile => "rm",
        Action::RemoveDir => "rmdir",
        Action::MakeDir { implied: false } => "mkdir",
        Action::MakeDir { implied: true } => "mkdir?",
        Action::Put(_) => "put",
        Action::Link { .. } => "link",
        Action::SetMeta(_) => "meta",
        Action::FinishDir(_) => "finish",
        Action::RestoreTime(_) => "time",
    };
    plan.steps
        .iter()
        .map(|s| format!("{} {}", name(&s.action), s.path))
        .collect()
}

#[test]
fn order_of_a_mixed_batch() {
    let known = index(&[
        ("", dir()),
        ("gone", dir()),
        ("gone/deep", dir()),
        ("gone/deep/x", file("x")),
        ("was-dir", dir()),
        ("was-dir/y", file("y")),
        ("was-file", file("z")),
        ("same", file("same")),
    ]);
    let mut touched = file("same");
    touched.meta.mode = 0o600;
    let plan = planned(
        &PLAIN,
        &known,
        &[
            ("gone", None),
            ("gone/deep", None),
            ("gone/deep/x", None),
            ("was-dir", Some(file("now a file"))),
            ("was-dir/y", None),
            ("was-file", Some(dir())),
            ("was-file/new", Some(file("n"))),
            ("same", Some(touched)),
            ("h2", Some(link("h1"))),
            ("h1", Some(file("h"))),
            ("far/away/f", Some(file("f"))),
        ],
    )
    .unwrap();
    assert_eq!(
        short(&plan),
        [
            "rm was-dir/y",
            "rmdir was-dir", // room
            "mkdir? far",
            "mkdir? far/away",
            "mkdir was-file", // directories
            "put far/away/f",
            "put h1",
            "put was-dir",
            "put was-file/new", // contents
            "link h2",
            "meta same", // names, metadata
            "rm gone/deep/x",
            "rmdir gone/deep",
            "rmdir gone", // removals
            "finish was-file",
            "time .", // ends
        ]
    );
    assert!(plan.skipped.is_empty() && plan.kept.is_empty());
    assert_eq!(plan.removals(), 5);
    let expects = |path: &str| {
        plan.steps
            .iter()
            .find(|s| s.path == p(path))
            .unwrap()
            .expect
    };
    assert_eq!(
        expects("was-file"),
        Expect::Known(KindName::File, Some(key(6)))
    );
    assert_eq!(
        (expects("h1"), expects("same")),
        (Expect::Nothing, Expect::Known(KindName::File, Some(key(7))))
    );
}

#[test]
fn what_is_protected_is_not_touched_and_keeps_its_directories() {
    let case = Case {
        protect: &["/d/keep", "locked/"],
        ..PLAIN
    };
    let known = index(&[
        ("", dir()),
        ("d", dir()),
        ("d/keep", file("mine")),
        ("d/sub", dir()),
        ("d/sub/x", file("x")),
        ("d/z", file("z")),
        ("locked", dir()),
        ("locked/in", file("mine")),
    ]);
    let gone = planned(
        &case,
        &known,
        &[
            ("d", None),
            ("d/keep", None),
            ("d/z", None),
            ("locked", None),
        ],
    )
    .unwrap();
    assert_eq!(
        short(&gone),
        ["rm d/z", "rm d/sub/x", "rmdir d/sub", "time d"]
    );
    assert_eq!(gone.kept, [p("d")]);
    assert_eq!(
        gone.skipped,
        [(p("d/keep"), Why::Protected), (p("locked"), Why::Protected)]
    );

    let changed = planned(
        &case,
        &known,
        &[
            ("d", Some(file("now a file"))),
            ("d/keep", Some(file("theirs"))),
            ("locked/new", Some(file("x"))),
        ],
    )
    .unwrap();
    assert!(changed.steps.is_empty(), "{:?}", changed.steps);
    let why: BTreeMap<_, _> = changed.skipped.iter().cloned().collect();
    assert_eq!(why[&p("d")], Why::Occupied);
    assert_eq!(why[&p("locked/new")], Why::Protected);
}

#[test]
fn deletes_that_are_kept() {
    let case = Case {
        deletes: Deletes::Keep,
        ..PLAIN
    };
    let known = index(&[
        ("", dir()),
        ("d", dir()),
        ("d/x", file("x")),
        ("e", dir()),
        ("f", file("f")),
    ]);
    let plan = planned(
        &case,
        &known,
        &[
            ("d", None),
            ("d/x", None),
            ("f", Some(file("2"))),
            ("e", Some(file("now a file"))),
        ],
    )
    .unwrap();
    assert_eq!(
        short(&plan),
        ["rmdir e", "put e", "put f", "time ."],
        "an empty directory is in nobody's way"
    );
    assert_eq!(plan.skipped, [(p("d"), Why::Kept), (p("d/x"), Why::Kept)]);
    let plan = planned(&case, &known, &[("d", Some(file("now a file")))]).unwrap();
    assert_eq!(plan.skipped, [(p("d"), Why::Occupied)]);
    assert!(plan.steps.is_empty());
}

#[test]
fn hard_links() {
    let group = index(&[
        ("", dir()),
        ("a", file("1")),
        ("b", link("a")),
        ("c", link("a")),
    ]);
    // New content under the first name: the others follow though no record names them.
    let plan = planned(&PLAIN, &group, &[("a", Some(file("2")))]).unwrap();
    assert_eq!(short(&plan), ["put a", "link b", "link c", "time ."]);
    // The first name goes: the second inherits the content without a transfer.
    let plan = planned(
        &PLAIN,
        &group,
        &[("a", None), ("b", Some(file("1"))), ("c", Some(link("b")))],
    )
    .unwrap();
    assert_eq!(short(&plan), ["link c", "meta b", "rm a", "time ."]);
    // A name becomes a file of its own with the same content: it must not stay linked.
    let plan = planned(&PLAIN, &group, &[("b", Some(file("1")))]).unwrap();
    assert_eq!(short(&plan), ["put b", "time ."]);
    // Only metadata: nothing to do for the further names.
    let mut touched = file("1");
    touched.meta.uid = 7;
    let plan = planned(
        &PLAIN,
        &group,
        &[("a", Some(touched)), ("b", Some(link("a")))],
    )
    .unwrap();
    assert_eq!(short(&plan), ["meta a"]);
}

#[test]
fn what_no_source_sends_is_refused() {
    let known = Index::default();
    for (path, state) in [
        ("", Some(file("x"))),
        ("", None),
        (".tandem", Some(dir())),
        (".tandem/marker", None),
        (".tandem/rescue/x", Some(file("x"))),
        ("a", Some(link(".tandem/marker"))),
        ("a", Some(link("a"))),
    ] {
        let result = planned(&PLAIN, &known, &[(path, state)]);
        assert!(matches!(result, Err(PlanError::Forbidden(_))), "{path}");
    }
    let twice = planned(&PLAIN, &known, &[("a", None), ("a", Some(file("x")))]);
    assert_eq!(twice, Err(PlanError::Twice(p("a"))));
}

#[test]
fn excluded_here_means_untouched() {
    let known = index(&[("", dir()), ("d", dir()), ("d/x.excluded", file("x"))]);
    let plan = planned(
        &PLAIN,
        &known,
        &[
            ("y.excluded", Some(file("x"))),
            ("d/x.excluded", None),
            ("d", None),
        ],
    )
    .unwrap();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.kept, [p("d")]);
    assert_eq!(plan.skipped.len(), 2);
}

#[test]
fn a_record_in_a_directory_that_the_batch_removes_waits_for_the_next() {
    let known = index(&[("", dir()), ("d", dir())]);
    let plan = planned(&PLAIN, &known, &[("d", None), ("d/x", Some(file("x")))]).unwrap();
    assert_eq!(plan.skipped, [(p("d/x"), Why::NoParent)]);
    assert_eq!(short(&plan), ["rmdir d", "time ."]);
}

#[test]
fn a_name_that_an_apply_left_behind_is_linked_again() {
    let mut known = index(&[("", dir()), ("a", file("new")), ("b", link("a"))]);
    let record = [("b", Some(link("a")))];
    assert_eq!(short(&planned(&PLAIN, &known, &record).unwrap()), [""; 0]);
    // The first name was replaced, its further name was not linked: they are two files here.
    let behind = known.0.get_mut(&p("b")).unwrap();
    behind.local = Some(key(77));
    let plan = planned(&PLAIN, &known, &record).unwrap();
    assert_eq!(short(&plan), ["link b", "time ."]);
}
