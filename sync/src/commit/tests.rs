//! Applies on the real file system.

use super::*;
use crate::beneath::tests::is_real_root;
use crate::entry::{ContentHash, Kind, KindName, LinkTarget, Meta, State, Xattrs};
use crate::plan::{Action, Expect, Step};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

mod hostile;
mod swapped;

struct Setup {
    temp: tempfile::TempDir,
    root: Root,
    private: Private,
    token: RoleToken,
}

const TIME: i128 = 1_600_000_000_123_456_789;

fn setup() -> Setup {
    let temp = tempfile::tempdir().expect("temp dir");
    std::fs::create_dir(temp.path().join("t")).expect("mkdir");
    let root = Root::open(&temp.path().join("t")).expect("root");
    let private = Private::open(&root).expect("private");
    let token = RoleToken::new();
    token.grant();
    Setup {
        temp,
        root,
        private,
        token,
    }
}

/// No bytes: the root.
fn path(text: &str) -> RelPath {
    RelPath::from_bytes(text.as_bytes()).expect("valid")
}

fn meta(mode: u32) -> Meta {
    Meta {
        mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime_ns: TIME,
        xattrs: Xattrs::default(),
    }
}

fn step(at: &str, expect: Expect, action: Action) -> Work {
    Work {
        step: Step {
            path: path(at),
            action,
            expect,
        },
        content: None,
    }
}

impl Setup {
    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn file(&self, at: &str, expect: Expect, content: &[u8]) -> Work {
        let hash = ContentHash::of(content);
        let state = State {
            kind: Kind::File {
                size: content.len() as u64,
                hash,
            },
            meta: meta(0o640),
        };
        let mut work = step(at, expect, Action::Put(state));
        work.content = Some(Content::Staged(
            Staged::whole(&self.private, content, hash).expect("staged"),
        ));
        work
    }

    fn known(&self, at: &str) -> Expect {
        let stat = self.root.stat(&path(at)).expect("stat").expect("there");
        let kind = match stat.file_type() {
            rustix::fs::FileType::Directory => KindName::Dir,
            rustix::fs::FileType::Symlink => KindName::Symlink,
            _ => KindName::File,
        };
        Expect::Known(kind, Some(stat.key()))
    }

    fn apply(&self, work: Vec<Work>) -> Report {
        self.apply_with(work, &|_, _| false)
    }

    fn apply_with(&self, work: Vec<Work>, protect: &dyn Fn(&RelPath, bool) -> bool) -> Report {
        let target = Target {
            trash: None,
            root: &self.root,
            private: &self.private,
            protect,
        };
        let Ok(report) = apply(
            &target,
            work,
            &self.token,
            || Ok::<_, std::convert::Infallible>(()),
            || {},
        );
        report
    }

    fn staging_is_empty(&self) -> bool {
        let staging = self.at(".tandem/staging");
        std::fs::read_dir(staging).expect("dir").next().is_none()
    }
}

/// What somebody writes into a file between its rename and the end of the apply is not taken for the pair's version.
#[test]
fn a_file_that_somebody_wrote_meanwhile_has_no_key() {
    let setup = setup();
    std::fs::write(setup.at("b"), "old").expect("written");
    let work = vec![
        setup.file("a", Expect::Nothing, b"new"),
        setup.file("b", setup.known("b"), b"new"),
    ];
    let a = setup.at("a");
    let writes = |path: &RelPath, _: bool| {
        if path.as_bytes() == b"b" && a.exists() {
            std::fs::write(&a, "somebody's").expect("written");
        }
        false
    };
    let report = setup.apply_with(work, &writes);
    assert_eq!(std::fs::read(&a).expect("read"), b"somebody's");
    let key = |n: usize| report.outcomes[n].result.as_ref().expect("applied");
    assert_eq!(key(0), &None);
    assert!(key(1).is_some());
}

/// What the source wrote behind a stricter mode of the directory is behind it here, and what gives rights comes last.
#[test]
fn a_directory_becomes_stricter_before_and_laxer_after_what_comes_into_it() {
    for (before, after, meanwhile) in [
        (0o755, 0o700, 0o700),
        (0o700, 0o755, 0o700),
        (0o1777, 0o755, 0o1777),
    ] {
        let setup = setup();
        let dir = setup.at("d");
        let mode = || dir.metadata().expect("stat").mode() & 0o7777;
        std::fs::create_dir(&dir).expect("mkdir");
        std::fs::write(setup.at("d/f"), "old").expect("written");
        use std::os::unix::fs::PermissionsExt;
        let set = std::fs::Permissions::from_mode(before);
        std::fs::set_permissions(&dir, set).expect("mode");
        let work = vec![
            setup.file("d/f", setup.known("d/f"), b"new"),
            step("d", Expect::Nothing, Action::FinishDir(meta(after))),
        ];
        let seen = std::cell::Cell::new(None);
        let sees = |path: &RelPath, _: bool| {
            if path.as_bytes() == b"d/f" {
                seen.set(Some(mode()));
            }
            false
        };
        let report = setup.apply_with(work, &sees);
        assert!(failed(&report).is_empty(), "{report:?}");
        assert_eq!((seen.get(), mode()), (Some(meanwhile), after));
    }
}

fn failed(report: &Report) -> Vec<(String, Fault)> {
    let named = |(path, fault): (&RelPath, &Fault)| (path.to_string(), fault.clone());
    report.failures().map(named).collect()
}

fn make_dir(at: &str) -> Work {
    step(at, Expect::Nothing, Action::MakeDir { implied: false })
}

fn finish_dir(at: &str) -> Work {
    step(at, Expect::Nothing, Action::FinishDir(meta(0o750)))
}

fn put(at: &str, kind: Kind) -> Work {
    let state = State {
        kind,
        meta: meta(0o600),
    };
    step(at, Expect::Nothing, Action::Put(state))
}

#[test]
fn a_whole_tree_appears_with_all_its_kinds() {
    let setup = setup();
    let target = LinkTarget::try_from(b"f".to_vec()).expect("valid");
    let null = rustix::fs::makedev(1, 3);
    // A user namespace may make no device: a second fifo stands for it.
    let device = if is_real_root() {
        Kind::CharDevice { rdev: null }
    } else {
        Kind::Fifo
    };
    let report = setup.apply(vec![
        make_dir("d"),
        make_dir("d/e"),
        setup.file("d/e/f", Expect::Nothing, b"hello"),
        put("d/l", Kind::Symlink { target }),
        put("d/p", Kind::Fifo),
        put("d/c", device),
        step("d/g", Expect::Nothing, Action::Link { to: path("d/e/f") }),
        finish_dir("d/e"),
        finish_dir("d"),
    ]);
    assert_eq!(failed(&report), []);
    assert_eq!(std::fs::read(setup.at("d/g")).expect("read"), b"hello");
    let (f, g) = (setup.at("d/e/f"), setup.at("d/g"));
    let (f, g) = (f.metadata().expect("stat"), g.metadata().expect("stat"));
    assert_eq!((f.ino(), f.nlink()), (g.ino(), 2));
    for name in ["d", "d/e", "d/e/f", "d/l", "d/p", "d/c"] {
        let stat = setup.root.stat(&path(name)).expect("stat").expect("there");
        assert_eq!(stat.mtime_ns, TIME, "{name}");
    }
    assert_eq!(
        setup.at("d").metadata().expect("stat").mode() & 0o7777,
        0o750
    );
    for outcome in &report.outcomes {
        let now = key_at(&setup.root, &outcome.path).expect("stat");
        assert_eq!(outcome.result, Ok(now), "{}", outcome.path);
        assert_eq!(outcome.missed, [], "{}", outcome.path);
    }
    let root_now = key_at(&setup.root, &RelPath::root()).expect("stat");
    assert_eq!(report.dirs.get(&RelPath::root()).copied(), root_now);
    assert!(setup.staging_is_empty());
}

#[test]
fn what_is_not_as_expected_stays() {
    let setup = setup();
    for name in ["changed", "same", "new"] {
        std::fs::write(setup.at(name), b"old").expect("write");
    }
    let changed = setup.known("changed");
    std::fs::write(setup.at("changed"), b"by somebody").expect("write");
    let same = setup.known("same");
    let report = setup.apply(vec![
        setup.file("changed", changed, b"1"),
        setup.file("same", same, b"2"),
        setup.file("new", Expect::Nothing, b"3"),
        setup.file("gone", same, b"4"),
        step("changed", changed, Action::RemoveFile),
        setup.file("kind", Expect::Known(KindName::File, None), b"5"),
        step("nothing", same, Action::RemoveFile),
        step("no/nothing", same, Action::RemoveFile),
    ]);
    let by_others = Fault::Changed("another version is there");
    let expected = [
        ("changed", by_others.clone()),
        ("new", Fault::Changed("something is there")),
        ("gone", Fault::Changed("it is gone")),
        ("changed", by_others),
        ("kind", Fault::Changed("it is gone")),
    ];
    let expected = expected.map(|(name, fault)| (name.to_owned(), fault));
    assert_eq!(failed(&report), expected);
    assert_eq!(
        std::fs::read(setup.at("changed")).expect("read"),
        b"by somebody"
    );
    assert_eq!(std::fs::read(setup.at("same")).expect("read"), b"2");
    assert_eq!(std::fs::read(setup.at("new")).expect("read"), b"old");
    assert!(setup.staging_is_empty());
}

#[test]
fn a_directory_and_a_file_change_places() {
    let setup = setup();
    std::fs::create_dir_all(setup.at("d/e")).expect("mkdir");
    std::fs::write(setup.at("d/e/f"), b"x").expect("write");
    std::fs::write(setup.at("f"), b"x").expect("write");
    let report = setup.apply(vec![
        step("d/e/f", setup.known("d/e/f"), Action::RemoveFile),
        step("d/e", setup.known("d/e"), Action::RemoveDir),
        step("d", setup.known("d"), Action::RemoveDir),
        step("f", setup.known("f"), Action::MakeDir { implied: false }),
        setup.file("d", Expect::Nothing, b"now a file"),
        setup.file("f/inner", Expect::Nothing, b"in it"),
        finish_dir("f"),
    ]);
    assert_eq!(failed(&report), []);
    assert_eq!(std::fs::read(setup.at("d")).expect("read"), b"now a file");
    assert_eq!(std::fs::read(setup.at("f/inner")).expect("read"), b"in it");
    assert!(setup.staging_is_empty());
}

#[test]
fn hard_links_of_one_group_are_replaced_together() {
    let setup = setup();
    std::fs::write(setup.at("a"), b"old").expect("write");
    std::fs::hard_link(setup.at("a"), setup.at("b")).expect("link");
    std::fs::hard_link(setup.at("a"), setup.at("c")).expect("link");
    let (a, b, c) = (setup.known("a"), setup.known("b"), setup.known("c"));
    let report = setup.apply(vec![
        setup.file("a", a, b"new"),
        step("b", b, Action::Link { to: path("a") }),
        step("c", c, Action::RemoveFile),
    ]);
    assert_eq!(failed(&report), []);
    let stat = setup.at("b").metadata().expect("stat");
    assert_eq!(stat.nlink(), 2);
    assert_eq!(std::fs::read(setup.at("b")).expect("read"), b"new");
    assert!(!setup.at("c").exists());
    // A second time is no change.
    let b = setup.known("b");
    let report = setup.apply(vec![step("b", b, Action::Link { to: path("a") })]);
    assert_eq!(failed(&report), []);
    // A first name that failed is nothing to link to.
    std::fs::write(setup.at("a"), b"somebody").expect("write");
    let report = setup.apply(vec![
        setup.file("a", a, b"newer"),
        step("d", Expect::Nothing, Action::Link { to: path("a") }),
    ]);
    assert_eq!(failed(&report).len(), 2);
    assert!(!setup.at("d").exists());
}

#[test]
fn times_of_directories_stay_unless_asked_for() {
    let setup = setup();
    std::fs::create_dir(setup.at("d")).expect("mkdir");
    std::fs::write(setup.at("d/f"), b"x").expect("write");
    let before = setup.root.stat(&path("d")).expect("stat").expect("there");
    let report = setup.apply(vec![setup.file("d/f", setup.known("d/f"), b"y")]);
    assert_eq!(failed(&report), []);
    let after = setup.root.stat(&path("d")).expect("stat").expect("there");
    assert_eq!(after.mtime_ns, before.mtime_ns);
    assert_eq!(report.dirs.get(&path("d")), Some(&after.key()));
    let report = setup.apply(vec![
        setup.file("d/g", Expect::Nothing, b"y"),
        step("d", Expect::Nothing, Action::RestoreTime(meta(0))),
        step("", Expect::Nothing, Action::RestoreTime(meta(0))),
    ]);
    assert_eq!(failed(&report), []);
    let after = setup.root.stat(&path("d")).expect("stat").expect("there");
    assert_eq!((after.mtime_ns, after.mode), (TIME, before.mode));
    let root = setup
        .root
        .stat(&RelPath::root())
        .expect("stat")
        .expect("there");
    assert_eq!(root.mtime_ns, TIME);
}

#[test]
fn metadata_alone_change_in_place() {
    let setup = setup();
    std::fs::write(setup.at("f"), b"x").expect("write");
    let before = setup.known("f");
    let work = step("f", before, Action::SetMeta(meta(0o4711)));
    let report = setup.apply(vec![work]);
    assert_eq!(failed(&report), []);
    let stat = setup.root.stat(&path("f")).expect("stat").expect("there");
    assert_eq!((stat.mode & 0o7777, stat.mtime_ns), (0o4711, TIME));
    assert_eq!(report.outcomes[0].result, Ok(Some(stat.key())));
}

#[test]
fn a_revoked_token_stops_before_the_first_name() {
    let setup = setup();
    assert!(setup.token.revoke(std::time::Duration::ZERO));
    let report = setup.apply(vec![make_dir("d"), setup.file("f", Expect::Nothing, b"x")]);
    assert_eq!(report.stopped, Some(Fault::Revoked));
    assert_eq!(report.failures().count(), 2);
    assert!(!setup.at("d").exists() && !setup.at("f").exists());
    assert!(setup.staging_is_empty());
}

#[test]
fn a_token_that_is_revoked_meanwhile_stops_between_two_paths() {
    let setup = setup();
    let count = AtomicBool::new(false);
    let work = (0..50)
        .map(|i| {
            std::fs::write(setup.at(&format!("f{i}")), b"x").expect("write");
            step(
                &format!("f{i}"),
                setup.known(&format!("f{i}")),
                Action::RemoveFile,
            )
        })
        .collect();
    // The protection is asked about each path that is there, in order: revoke at the twentieth.
    let protect = |at: &RelPath, _: bool| {
        if at == &path("f20") {
            count.store(true, Ordering::Relaxed);
            assert!(!setup.token.revoke(std::time::Duration::ZERO), "still held");
        }
        false
    };
    let report = setup.apply_with(work, &protect);
    assert!(count.load(Ordering::Relaxed));
    assert_eq!(report.stopped, Some(Fault::Revoked));
    assert_eq!(report.failures().count(), 29);
    assert!(!setup.at("f20").exists() && setup.at("f21").exists());
    assert!(setup.token.revoke(std::time::Duration::ZERO), "released");
}

#[test]
fn many_files_are_applied_by_syncfs() {
    let setup = setup();
    let mut work = vec![make_dir("d")];
    work.extend((0..200).map(|i| {
        let name = format!("d/{i}");
        setup.file(&name, Expect::Nothing, name.as_bytes())
    }));
    work.push(finish_dir("d"));
    let report = setup.apply(work);
    assert_eq!(failed(&report), []);
    assert_eq!(std::fs::read_dir(setup.at("d")).expect("dir").count(), 200);
    assert_eq!(std::fs::read(setup.at("d/77")).expect("read"), b"d/77");
}

#[test]
fn a_reader_never_sees_a_mixture() {
    let setup = setup();
    let versions: Vec<Vec<u8>> = (0..4u8).map(|v| vec![v; 300_000]).collect();
    std::fs::write(setup.at("f"), &versions[0]).expect("write");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0u32;
            while !stop.load(Ordering::Relaxed) || reads == 0 {
                let got = std::fs::read(setup.at("f")).expect("always there");
                assert!(versions.contains(&got), "a mixture of {} bytes", got.len());
                reads += 1;
            }
        });
        for version in versions.iter().cycle().take(40) {
            let report = setup.apply(vec![setup.file("f", setup.known("f"), version)]);
            assert_eq!(failed(&report), []);
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().expect("no mixture");
    });
}

#[test]
fn contents_must_be_as_announced() {
    let setup = setup();
    let hash = ContentHash::of(b"12345");
    let short = |bytes: &[u8], size: u64| -> Result<Staged, Fault> {
        let mut staging = Staging::begin(&setup.private, size)?;
        staging.write(bytes)?;
        staging.finish(hash)
    };
    assert_eq!(short(b"1234", 5).err(), Some(Fault::WrongContent));
    assert_eq!(short(b"123456", 5).err(), Some(Fault::WrongContent));
    assert_eq!(short(b"12346", 5).err(), Some(Fault::WrongContent));
    assert!(short(b"12345", 5).is_ok());
    std::fs::write(setup.at("basis"), b"0012345").expect("write");
    let basis = setup.root.open_file(&path("basis")).expect("open");
    let mut staging = Staging::begin(&setup.private, 5).expect("begun");
    staging.copy_from(&basis, 2, 3).expect("copied");
    staging.write(b"45").expect("written");
    assert_eq!(staging.written(), 5);
    staging.finish(hash).expect("the announced content");
    let mut staging = Staging::begin(&setup.private, 100).expect("begun");
    assert_eq!(staging.copy_from(&basis, 5, 3), Err(Fault::WrongContent));
    drop(staging);
    assert!(setup.staging_is_empty());
    let mut work = setup.file("f", Expect::Nothing, b"x");
    work.content = None;
    assert_eq!(
        failed(&setup.apply(vec![work])),
        [("f".to_owned(), Fault::NoContent)]
    );
}

#[test]
fn a_wait_for_the_disk_that_another_thread_began_is_waited_for() {
    let setup = setup();
    let staged = || {
        let hash = ContentHash::of(b"content");
        Staged::whole(&setup.private, b"content", hash).expect("staged")
    };
    let mut ran = staged();
    let done = std::sync::Arc::new(AtomicBool::new(false));
    let work = ran.sync_ahead().expect("a descriptor");
    assert!(ran.is_underway());
    let told = std::sync::Arc::clone(&done);
    let thread = std::thread::spawn(move || {
        told.store(true, Ordering::SeqCst);
        work();
    });
    ran.sync().expect("durable");
    assert!(done.load(Ordering::SeqCst), "it was begun");
    thread.join().expect("no panic");
    // Nobody runs it: whoever waits does it.
    let mut dropped = staged();
    drop(dropped.sync_ahead());
    dropped.sync().expect("durable");
    // Other attributes than the disk began with: it is not all of it any more.
    let mut changed = staged();
    changed.dress(&meta(0o600));
    let _work = changed.sync_ahead();
    changed.dressed(&meta(0o640)).expect("applied");
    assert!(!changed.is_underway());
}
