//! All detectors against the real file system. Every wait ends with a condition and is bounded.

use super::*;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};

struct Setup {
    temp: tempfile::TempDir,
    tree: TreeId,
    watcher: Watcher,
    events: Receiver<Event>,
}

fn start_with(best: Detector, room: usize, interval: Duration) -> Setup {
    let temp = tempfile::tempdir().expect("temp dir");
    std::fs::create_dir(temp.path().join("tree")).expect("mkdir");
    let root = Arc::new(Root::open(&temp.path().join("tree")).expect("root"));
    let private = Arc::new(Private::open(&root).expect("private"));
    let tree = TreeId::of("t");
    let (sender, events) = sync_channel(room);
    let trees = vec![WatchTree {
        id: tree,
        root,
        private,
        poll: interval,
    }];
    let options = Options {
        best,
        own: Arc::default(),
    };
    let sink = Box::new(move |event| sender.try_send(event).is_ok());
    let watcher = Watcher::start(trees, options, sink).expect("threads");
    Setup {
        temp,
        tree,
        watcher,
        events,
    }
}

/// `None` where the detector is not permitted.
#[track_caller]
fn start(best: Detector) -> Option<Setup> {
    start_with_room(best, 100_000)
}

#[track_caller]
fn start_with_room(best: Detector, room: usize) -> Option<Setup> {
    let setup = start_with(best, room, Duration::from_secs(600));
    let watching = setup.watcher.watching(setup.tree).expect("watched");
    if watching.detector != best {
        let because = watching.because.unwrap_or_default();
        tandem_lab::skipped(format_args!("{best} is not possible: {because}"));
        return None;
    }
    Some(setup)
}

impl Setup {
    fn dir(&self) -> std::path::PathBuf {
        self.temp.path().join("tree")
    }

    fn next(&self) -> Event {
        self.events
            .recv_timeout(Duration::from_secs(60))
            .expect("an event within a minute")
    }

    /// Everything reported before the barrier.
    fn until_barrier(&self, token: u64) -> Vec<Event> {
        self.watcher.barrier(self.tree, token).expect("sentinel");
        let mut seen = Vec::new();
        loop {
            match self.next() {
                Event::Barrier { token: got, .. } if got == token => return seen,
                event => seen.push(event),
            }
        }
    }
}

fn covers(events: &[Event], wanted: &RelPath) -> bool {
    events.iter().any(|event| match event {
        Event::Dirty {
            path, recursive, ..
        } => path == wanted || *recursive && wanted.is_below(path),
        Event::Made { path, .. } => path == wanted,
        Event::Moved { to, .. } => wanted.is_below(to),
        Event::Overflow { .. } => true,
        _ => false,
    })
}

fn relative(base: &Path, path: &Path) -> RelPath {
    let relative = path.strip_prefix(base).expect("below");
    RelPath::new(relative.as_os_str().as_encoded_bytes()).expect("valid")
}

/// Does what a consumer does: a recursive report lists the directory, at that moment.
fn follow(setup: &Setup, known: &mut BTreeSet<RelPath>, event: &Event) {
    let base = setup.dir();
    match event {
        Event::Dirty {
            path, recursive, ..
        } => {
            let at = base.join(path);
            if at.symlink_metadata().is_ok() {
                known.insert(path.clone());
            }
            if *recursive {
                let walk = walkdir::WalkDir::new(&at).min_depth(1).into_iter();
                let listed = walk.flatten().map(|entry| relative(&base, entry.path()));
                known.extend(listed.filter(|path| !path.is_private()));
            }
        }
        Event::Made { path, .. } => {
            known.insert(path.clone());
        }
        Event::Closed { .. } => {}
        other => panic!("{other:?}"),
    }
}

/// 1200 files in new nested directories, the consumer listing at the same time: none missed.
fn storm(best: Detector) {
    let Some(setup) = start(best) else { return };
    let base = setup.dir();
    let mut expected = BTreeSet::new();
    let mut known = BTreeSet::new();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for d in 0..60 {
                let dir = base.join(format!("a{d}/b/c{}", d % 3));
                std::fs::create_dir_all(&dir).expect("mkdir");
                for f in 0..20 {
                    std::fs::write(dir.join(format!("f{f}")), b"x").expect("write");
                }
            }
        });
        while !writer.is_finished() {
            if let Ok(event) = setup.events.recv_timeout(Duration::from_millis(5)) {
                follow(&setup, &mut known, &event);
            }
        }
    });
    for event in setup.until_barrier(1) {
        follow(&setup, &mut known, &event);
    }
    for entry in walkdir::WalkDir::new(&base).min_depth(1) {
        let path = relative(&base, entry.expect("readable").path());
        if !path.is_private() {
            expected.insert(path);
        }
    }
    assert_eq!(expected.len(), 60 * 23);
    let missed: Vec<_> = expected.difference(&known).collect();
    assert!(missed.is_empty(), "{} missed: {missed:?}", missed.len());
    assert!(!known.iter().any(RelPath::is_private));
}

/// Each kind of change is reported before the barrier after it.
fn every_change(best: Detector) {
    let Some(setup) = start(best) else { return };
    let base = setup.dir();
    let at = |name: &str| base.join(name);
    let mut token = 10;
    let mut check = |what: &str, names: &[&str], change: &dyn Fn()| {
        change();
        token += 1;
        let events = setup.until_barrier(token);
        for name in names {
            let path = RelPath::new(name).expect("valid");
            assert!(covers(&events, &path), "{what}: {name} not in {events:?}");
        }
    };
    let open = |name: &str| std::fs::File::options().append(true).open(at(name));
    check("create", &["f"], &|| {
        std::fs::write(at("f"), b"1").expect("write")
    });
    check("append", &["f"], &|| {
        use std::io::Write;
        open("f").expect("open").write_all(b"2").expect("write");
    });
    check("truncate", &["f"], &|| {
        open("f").expect("open").set_len(0).expect("truncate")
    });
    check("chmod", &["f"], &|| {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(at("f"), mode).expect("chmod");
    });
    check("link", &["g"], &|| {
        std::fs::hard_link(at("f"), at("g")).expect("link")
    });
    check("symlink", &["l"], &|| {
        std::os::unix::fs::symlink("x", at("l")).expect("symlink")
    });
    check("rename", &["g", "h"], &|| {
        std::fs::rename(at("g"), at("h")).expect("rename")
    });
    check("mkdir", &["d", "d/e"], &|| {
        std::fs::create_dir_all(at("d/e")).expect("mkdir")
    });
    check("write below", &["d/e/f"], &|| {
        std::fs::write(at("d/e/f"), b"1").expect("write")
    });
    check("rename a directory", &["d", "d/e/f", "n", "n/e/f"], &|| {
        std::fs::rename(at("d"), at("n")).expect("rename");
    });
    check("write in it", &["n/e/f"], &|| {
        std::fs::write(at("n/e/f"), b"22").expect("write")
    });
    let outside = setup.temp.path().join("outside");
    check("move out", &["n", "n/e"], &|| {
        std::fs::rename(at("n"), &outside).expect("rename")
    });
    check("move in", &["m", "m/e/f"], &|| {
        std::fs::rename(&outside, at("m")).expect("rename")
    });
    check("write after", &["m/e/f"], &|| {
        std::fs::write(at("m/e/f"), b"3").expect("write")
    });
    check("unlink", &["f"], &|| {
        std::fs::remove_file(at("f")).expect("unlink")
    });
    check("rm -r", &["m", "m/e/f"], &|| {
        std::fs::remove_dir_all(at("m")).expect("rm")
    });
    check("root's mode", &[], &|| {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::Permissions::from_mode(0o711);
        std::fs::set_permissions(&base, mode).expect("chmod");
    });
}

/// With room for a few events only: an overflow is told, then the barrier; later changes are told again.
fn overflow(best: Detector) {
    let Some(setup) = start_with_room(best, 4) else {
        return;
    };
    for i in 0..500 {
        std::fs::write(setup.dir().join(format!("f{i}")), b"x").expect("write");
    }
    let events = setup.until_barrier(7);
    let tree = setup.tree;
    assert!(events.contains(&Event::Overflow { tree }), "{events:?}");
    std::fs::write(setup.dir().join("late"), b"x").expect("write");
    let events = setup.until_barrier(8);
    assert!(covers(&events, &RelPath::new("late").expect("valid")));
}

fn root_gone(best: Detector) {
    let Some(setup) = start(best) else { return };
    std::fs::rename(setup.dir(), setup.temp.path().join("moved")).expect("rename");
    let tree = setup.tree;
    while setup.next() != (Event::RootGone { tree }) {}
}

#[test]
fn fanotify_misses_nothing_in_a_storm() {
    storm(Detector::Fanotify);
}

#[test]
fn inotify_misses_nothing_in_a_storm() {
    storm(Detector::Inotify);
}

#[test]
fn fanotify_reports_every_change() {
    every_change(Detector::Fanotify);
}

#[test]
fn inotify_reports_every_change() {
    every_change(Detector::Inotify);
}

#[test]
fn fanotify_overflow_is_told() {
    overflow(Detector::Fanotify);
}

#[test]
fn inotify_overflow_is_told() {
    overflow(Detector::Inotify);
}

#[test]
fn a_root_that_goes_is_told() {
    root_gone(Detector::Fanotify);
    root_gone(Detector::Inotify);
}

#[test]
fn polling_reports_the_whole_tree_again_and_again() {
    let setup = start_with(Detector::Poll, 100, Duration::from_millis(20));
    let whole = Event::Dirty {
        tree: setup.tree,
        path: RelPath::root(),
        recursive: true,
    };
    for _ in 0..3 {
        assert_eq!(setup.next(), whole);
    }
    assert!(
        setup.until_barrier(3).contains(&whole),
        "before the barrier"
    );
    let watching = setup.watcher.watching(setup.tree).expect("watched");
    assert_eq!(watching.detector, Detector::Poll);
}

#[test]
fn a_path_beyond_path_max_is_told_by_a_directory_above() {
    let Some(setup) = start(Detector::Fanotify) else {
        return;
    };
    let root = Root::open(&setup.dir()).expect("root");
    crate::beneath::tests::make_deep(&root, 40);
    let events = setup.until_barrier(1);
    let mut path = RelPath::root();
    for level in 0..40 {
        path = path
            .join(format!("{level:-<250}").as_bytes())
            .expect("valid");
    }
    assert!(covers(&events, &path.join(b"file").expect("valid")));
    drop(setup.watcher);
    crate::private::remove_below(root.fd(), 0).expect("removed");
}

#[test]
fn changes_elsewhere_on_the_file_system_are_not_told() {
    let Some(setup) = start(Detector::Fanotify) else {
        return;
    };
    std::fs::create_dir(setup.temp.path().join("tree2")).expect("mkdir");
    std::fs::write(setup.temp.path().join("tree2/f"), b"x").expect("write");
    std::fs::write(setup.dir().join(".tandem/staging/f"), b"x").expect("write");
    assert_eq!(setup.until_barrier(1), []);
}

/// The number of a removed directory is soon given to another: its last events do not become a look at whole trees.
#[test]
fn directories_that_come_and_go_elsewhere_are_not_told() {
    let Some(setup) = start(Detector::Fanotify) else {
        return;
    };
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let elsewhere = setup.temp.path().join(format!("tree{worker}"));
            scope.spawn(move || {
                for _ in 0..400 {
                    std::fs::create_dir(&elsewhere).expect("mkdir");
                    std::fs::write(elsewhere.join("f"), b"x").expect("write");
                    std::fs::remove_dir_all(&elsewhere).expect("rm");
                }
            });
        }
    });
    assert_eq!(setup.until_barrier(1), []);
}

/// Listed, a new directory would show what is renamed into it before it is told from where.
#[test]
fn fanotify_tells_by_itself_what_comes_into_a_new_directory() {
    let Some(setup) = start(Detector::Fanotify) else {
        return;
    };
    let path = |name: &str| RelPath::new(name).expect("valid");
    let (base, tree) = (setup.dir(), setup.tree);
    std::fs::create_dir(base.join("old")).expect("mkdir");
    setup.until_barrier(1);
    std::fs::create_dir_all(base.join("new/deep")).expect("mkdir");
    std::fs::write(base.join("new/deep/file"), b"x").expect("write");
    std::fs::rename(base.join("old"), base.join("new/moved")).expect("rename");
    let events = setup.until_barrier(2);
    for name in ["new", "new/deep"] {
        let made = Event::Made {
            tree,
            path: path(name),
        };
        assert!(events.contains(&made), "{name} in {events:?}");
    }
    let (from, to) = (path("old"), path("new/moved"));
    assert!(events.contains(&Event::Moved { tree, from, to }));
    assert!(covers(&events, &path("new/deep/file")), "{events:?}");
    let listed = |event: &Event| matches!(event, Event::Dirty { path, recursive: true, .. } if !path.as_bytes().starts_with(b"old"));
    assert!(!events.iter().any(listed), "{events:?}");
}

/// The end of a writing is told of a file that was there, behind the news of it, and not of one that is new.
#[test]
fn fanotify_tells_when_a_file_that_was_there_is_closed() {
    let Some(setup) = start(Detector::Fanotify) else {
        return;
    };
    let path = |name: &str| RelPath::new(name).expect("valid");
    let closed = |events: &[Event], name: &str| {
        let at = |wanted: &dyn Fn(&Event) -> bool| events.iter().position(wanted);
        let dirty = at(&|event| matches!(event, Event::Dirty { path: p, .. } if *p == path(name)));
        let closed =
            at(&|event| matches!(event, Event::Closed { path: p, .. } if *p == path(name)));
        assert!(dirty.is_some(), "{name} not in {events:?}");
        assert!(closed.is_none() || closed > dirty, "{events:?}");
        closed.is_some()
    };
    let file = setup.dir().join("f");
    std::fs::write(&file, b"1").expect("write");
    setup.until_barrier(1);
    std::fs::write(&file, b"2").expect("write");
    assert!(closed(&setup.until_barrier(2), "f"));
    // Open still: there is more to come.
    let open = std::fs::File::options().append(true).open(&file);
    let mut open = open.expect("open");
    std::io::Write::write_all(&mut open, b"3").expect("write");
    assert!(!closed(&setup.until_barrier(3), "f"));
    drop(open);
    assert!(closed(&setup.until_barrier(4), "f"));
    std::fs::rename(&file, setup.dir().join("g")).expect("rename");
    assert!(!closed(&setup.until_barrier(5), "g"));
}
