//! An old master comes back with writes of its own. Nothing that the new master has is lost, and nothing of
//! the old one's is destroyed: it is in the rescue.

use crate::harness::*;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tandem::api::types::{Role, TreeState};

/// A path, what the old master does with it at the end, what the new one does with it, and whether the old
/// one's version must be in the rescue.
struct Quarrel {
    path: &'static str,
    old: fn(&Path),
    new: fn(&Path),
    rescued: bool,
}

const QUARRELS: &[Quarrel] = &[
    Quarrel {
        path: "old-clock-ahead",
        old: |p| put(p, "old", 4_000_000_000),
        new: |p| put(p, "new", 1_000),
        rescued: true,
    },
    Quarrel {
        path: "old-clock-behind",
        old: |p| put(p, "old", 1_000),
        new: |p| put(p, "new", 2_000),
        rescued: true,
    },
    Quarrel {
        path: "equal-mtime-and-size",
        old: |p| put(p, "old", 5_000),
        new: |p| put(p, "new", 5_000),
        rescued: true,
    },
    Quarrel {
        path: "deleted-by-new",
        old: |p| put(p, "old", 6_000),
        new: remove,
        rescued: true,
    },
    Quarrel {
        path: "deleted-by-old",
        old: remove,
        new: |p| put(p, "new", 7_000),
        rescued: true,
    },
    Quarrel {
        path: "recreated-by-new",
        old: |p| put(p, "old", 8_000),
        new: |p| {
            remove(p);
            put(p, "new", 8_000)
        },
        rescued: true,
    },
    Quarrel {
        path: "file-became-directory",
        old: |p| put(p, "old", 9_000),
        new: |p| {
            remove(p);
            put(&p.join("inside"), "new", 9_000)
        },
        rescued: true,
    },
    Quarrel {
        path: "directory-became-file/inside",
        old: |p| put(p, "old", 10_000),
        new: |p| {
            let d = p.parent().expect("a parent");
            fs::remove_dir_all(d).expect("removed");
            put(d, "new", 10_000)
        },
        rescued: true,
    },
    Quarrel {
        path: "made-by-both",
        old: |p| put(p, "old", 11_000),
        new: |p| put(p, "new", 11_000),
        rescued: true,
    },
    Quarrel {
        path: "made-by-old",
        old: |p| put(p, "old", 12_000),
        new: |_| (),
        rescued: true,
    },
    Quarrel {
        path: "directory-deleted-by-new/made-by-old",
        old: |p| put(p, "old", 12_000),
        new: |p| fs::remove_dir_all(p.parent().expect("a parent")).expect("removed"),
        rescued: true,
    },
    Quarrel {
        path: "changed-by-new-only",
        old: |_| (),
        new: |p| put(p, "new", 13_000),
        rescued: false,
    },
    Quarrel {
        path: "untouched",
        old: |_| (),
        new: |_| (),
        rescued: false,
    },
];

fn put(path: &Path, text: &str, mtime: u64) {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("made");
    }
    fs::write(path, text).expect("written");
    let time: SystemTime = UNIX_EPOCH + Duration::from_secs(mtime);
    let file = fs::File::options().append(true).open(path).expect("opened");
    file.set_modified(time).expect("set");
}

fn remove(path: &Path) {
    fs::remove_file(path).expect("removed");
}

#[test]
fn never_overwrites_newer_data() {
    let scene = SceneOptions::new().make();
    scene.fill();
    for quarrel in QUARRELS.iter().filter(|q| !q.path.contains("made-by")) {
        put(&scene.file(ONE, quarrel.path), "base", 100);
    }
    put(
        &scene.file(ONE, "directory-deleted-by-new/base"),
        "base",
        100,
    );
    scene.start();
    scene.flush_and_compare(ONE);

    scene.node(ONE).host.cable("eth1").cut().expect("cut");
    for quarrel in QUARRELS {
        (quarrel.old)(&scene.file(ONE, quarrel.path));
    }
    scene.power_cut(ONE);
    scene.wait_role(TWO, Role::Master);
    for quarrel in QUARRELS {
        (quarrel.new)(&scene.file(TWO, quarrel.path));
    }
    let snapshot = scene.pair.lab.dir().join("snapshot");
    let copied = Command::new("cp")
        .args(["-a", "--"])
        .arg(scene.node(TWO).www())
        .arg(&snapshot)
        .status()
        .expect("cp runs");
    assert!(copied.success());

    scene.node(ONE).host.cable("eth1").heal().expect("healed");
    scene.power_on(ONE);
    scene.wait_ready(TWO, ONE);
    scene.flush_and_compare(TWO);
    let changed = tandem_lab::compare_trees(&snapshot, &scene.node(TWO).www(), &[".tandem"])
        .expect("compared");
    assert!(
        changed.is_empty(),
        "the new master's tree was changed: {changed:?}"
    );
    let rescued: BTreeSet<String> = scene
        .rescued(ONE)
        .into_iter()
        .map(|item| item.path)
        .collect();
    for quarrel in QUARRELS {
        assert_eq!(
            rescued.contains(quarrel.path),
            quarrel.rescued,
            "{}: {rescued:?}",
            quarrel.path
        );
    }
    let kept = QUARRELS
        .iter()
        .filter(|q| q.rescued && q.path != "deleted-by-old")
        .count();
    let found = rescued_files(&scene, |bytes| bytes == b"old").count();
    assert_eq!(
        found, kept,
        "rescued versions with the old master's content"
    );
}

/// Files in the rescue of the old master whose content is `ours`: what was rescued can be had back, byte for byte.
fn rescued_files(scene: &Scene, ours: impl Fn(&[u8]) -> bool) -> impl Iterator<Item = PathBuf> {
    let mut walk = vec![scene.file(ONE, ".tandem/rescue")];
    let mut files = Vec::new();
    std::iter::from_fn(move || {
        loop {
            if let Some(file) = files.pop() {
                if fs::read(&file).is_ok_and(|bytes| ours(&bytes)) {
                    return Some(file);
                }
                continue;
            }
            for entry in fs::read_dir(walk.pop()?).into_iter().flatten() {
                let entry = entry.expect("an entry");
                match entry.file_type().expect("a type").is_dir() {
                    true => walk.push(entry.path()),
                    false => files.push(entry.path()),
                }
            }
        }
    })
}

/// Writes of the old master that were never replicated.
const LATE: usize = 3000;
/// Writes of the new one that the old one has to receive.
const NEWER: usize = 5000;

/// Both have written a lot since they lost each other; the old master is about to come back.
fn before_a_long_reversal() -> Scene {
    let scene = Scene::replicated();
    scene.flush(ONE);
    scene.node(ONE).host.cable("eth1").cut().expect("cut");
    for n in 0..LATE {
        scene.write(ONE, &format!("late/{}/{n}", n % 20), "old");
    }
    scene.power_cut(ONE);
    scene.wait_role(TWO, Role::Master);
    for n in 0..NEWER {
        scene.write(
            TWO,
            &format!("newer/{}/{n}", n % 50),
            format!("new {n}").repeat(100),
        );
    }
    scene.node(ONE).host.cable("eth1").heal().expect("healed");
    scene
}

#[track_caller]
fn nothing_is_lost(scene: &Scene) {
    scene.wait_ready(TWO, ONE);
    scene.flush_and_compare(TWO);
    assert_eq!(rescued_files(scene, |bytes| bytes == b"old").count(), LATE);
    let listed = scene.rescued_paths(ONE);
    let late = listed
        .iter()
        .filter(|path| path.starts_with("late/"))
        .count();
    assert!(late >= LATE, "{late} of {LATE} are listed");
}

/// The source dies while the old master receives: what it has is a mixture, and it is not promoted.
#[test]
fn the_new_master_dies_during_the_reversal() {
    let scene = before_a_long_reversal();
    scene.power_on(ONE);
    eventually(SOON, "the reversal is under way", || {
        match fs::read_dir(scene.file(ONE, "newer")).map(Iterator::count) {
            Ok(n) if n > 0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    scene.power_cut(TWO);
    let status = scene.status(ONE).expect("it answers");
    let state = status.trees[0].state;
    assert_ne!(state, TreeState::Consistent, "the power cut came in time");
    scene.never_master(ONE);
    scene.power_on(TWO);
    nothing_is_lost(&scene);
}

/// The old master dies itself while it puts its writes aside.
#[test]
fn the_old_master_dies_during_the_rescue() {
    let scene = before_a_long_reversal();
    scene.power_on(ONE);
    eventually(SOON, "the rescue is under way", || {
        let first = rescued_files(&scene, |bytes| bytes == b"old").next();
        first.map(drop).ok_or("nothing yet".into())
    });
    scene.power_cut(ONE);
    let kept = rescued_files(&scene, |bytes| bytes == b"old").count();
    assert!(kept < LATE, "the power cut came in time");
    scene.power_on(ONE);
    nothing_is_lost(&scene);
}
