//! What is never destroyed.

use crate::harness::*;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use std::fs;
use std::path::Path;
use std::time::Duration;
use tandem::api::types::{Role, TreeState};
use tandem_lab::pair::WWW;
use tandem_lab::{Privilege, privilege, remove_tree};

const TREES: &str = r#"
[[tree]]
name = "www"
path = "/srv/www"
protect = ["/local.conf", "/keep/"]
"#;

fn set_flag(path: &Path, flag: IFlags, on: bool) {
    let file = fs::File::open(path).expect("opened");
    let flags = ioctl_getflags(&file).expect("flags are read");
    let new = if on { flags | flag } else { flags - flag };
    ioctl_setflags(&file, new).expect("flags are set");
}

#[test]
fn protected_files_are_untouched() {
    let scene = SceneOptions::new().body(TREES).make();
    scene.fill();
    scene.start();
    scene.flush(ONE);
    // Each node's own.
    for n in [ONE, TWO] {
        for name in ["local.conf", "keep/this"] {
            scene.write(n, name, format!("{}'s own", scene.node(n).name()));
        }
    }
    scene.write(ONE, "other", "goes on");
    scene.flush(ONE);
    fs::remove_file(scene.file(ONE, "local.conf")).expect("removed");
    fs::remove_dir_all(scene.file(ONE, "keep")).expect("removed");
    scene.write(ONE, "another", "after the delete");
    scene.flush(ONE);
    assert_eq!(scene.read(TWO, "other").as_deref(), Ok("goes on"));
    assert_eq!(
        scene.read(TWO, "another").as_deref(),
        Ok("after the delete")
    );
    for name in ["local.conf", "keep/this"] {
        assert_eq!(
            scene.read(TWO, name).as_deref(),
            Ok("mirror2's own"),
            "{name}"
        );
    }
}

/// Flags that keep a file from being changed on the standby: it stays, is named, and follows when the flag is gone.
#[test]
fn immutable_and_append_only_files_are_untouched() {
    // CAP_LINUX_IMMUTABLE means nothing in a user namespace.
    if privilege().expect("a lab is possible") != Privilege::Root {
        return tandem_lab::skipped("flags of files need root");
    }
    let scene = Scene::replicated();
    scene.flush(ONE);
    let flagged = [
        ("index.html", IFlags::IMMUTABLE),
        ("d0/f0", IFlags::APPEND),
        ("d1/f1", IFlags::IMMUTABLE),
        ("d2/f2", IFlags::APPEND),
    ];
    let before = flagged.map(|(name, _)| scene.read(TWO, name).expect("it is there"));
    for (name, flag) in flagged {
        set_flag(&scene.file(TWO, name), flag, true);
    }
    for name in ["index.html", "d0/f0"] {
        scene.write(ONE, name, "second page");
    }
    for name in ["d1/f1", "d2/f2"] {
        fs::remove_file(scene.file(ONE, name)).expect("removed");
    }
    scene.write(ONE, "other", "goes on");
    eventually(SOON, "what has no flag goes on", || {
        scene.read(TWO, "other").map(drop)
    });
    scene.wait_status(TWO, "counts the four files and names one", |s| {
        let tree = &s.trees[0];
        let named = |e: &String| flagged.iter().any(|(name, _)| e.contains(name));
        tree.errors == 4 && tree.last_error.as_ref().is_some_and(named)
    });
    for n in [ONE, TWO] {
        let flush = scene.tandem(n, &["flush"]);
        assert_eq!(flush.code, Some(1), "they are not covered: {flush:?}");
        for (name, _) in flagged {
            assert!(flush.stderr.contains(name), "{name}: {flush:?}");
        }
    }
    for ((name, _), before) in flagged.iter().zip(&before) {
        assert_eq!(scene.read(TWO, name).as_ref(), Ok(before), "{name}");
    }
    for (name, flag) in flagged {
        set_flag(&scene.file(TWO, name), flag, false);
    }
    eventually(LONG, "the freed files follow", || {
        let found =
            tandem_lab::compare_trees(&scene.node(ONE).www(), &scene.node(TWO).www(), &[".tandem"]);
        match found.map_err(|e| e.to_string())?.as_slice() {
            [] => Ok(()),
            [first, ..] => Err(first.to_string()),
        }
    });
    scene.flush(ONE);
}

/// The standby's disk is full: nothing is torn, it is said, and with room again everything follows by itself.
#[test]
fn a_full_standby_follows_when_there_is_room() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    let host = &scene.node(TWO).host;
    let pid = scene.node(TWO).agent().expect("it runs").pid();
    let used = rustix::fs::statvfs(host.outside_path("/")).expect("counted");
    let used = (used.f_blocks - used.f_bfree) * used.f_frsize;
    host.limit_disk(Some(used + 2_000_000)).expect("limited");
    // Made elsewhere: a file that is seen while it grows goes over as far as it is.
    let made = scene.node(ONE).host.outside_path("/srv/big");
    fs::write(&made, vec![7; 6_000_000]).expect("written");
    fs::rename(&made, scene.file(ONE, "big")).expect("renamed");
    scene.write(ONE, "index.html", "second page");
    scene.wait_status(TWO, "says what has no room", |s| {
        s.alarms
            .iter()
            .any(|a| a.contains("big cannot be received") && a.contains("No space left"))
    });
    scene.wait_status(ONE, "shows the growing lag", |s| {
        s.trees[0].lag_ms.is_some_and(|ms| ms > 500)
    });
    let old = fs::metadata(scene.file(TWO, "big")).expect("it is there");
    assert_eq!(old.len(), 3_000_000, "the old version, whole");
    host.limit_disk(None).expect("room again");
    scene.wait_ready(ONE, TWO);
    scene.flush_and_compare(ONE);
    let now = scene.node(TWO).agent().expect("it runs");
    assert!(
        now.is_running() && now.pid() == pid,
        "no restart was needed"
    );
    let rescued = scene.rescued_paths(TWO);
    assert!(rescued.is_empty(), "{rescued:?}");
    let alarms = scene.status(TWO).expect("it answers").alarms;
    assert!(alarms.is_empty(), "{alarms:?}");
}

#[test]
fn an_emptied_source_stops() {
    let scene = SceneOptions::new().make();
    scene.fill();
    for n in 0..300 {
        scene.write(ONE, &format!("many/{n}"), n.to_string());
    }
    scene.start();
    scene.flush_and_compare(ONE);
    let before = tandem_lab::summarize(&scene.node(TWO).www(), &[".tandem"]).expect("counted");
    for entry in fs::read_dir(scene.node(ONE).www()).expect("read") {
        let path = entry.expect("an entry").path();
        if path.file_name().is_some_and(|n| n != ".tandem") {
            remove_tree_or_file(&path);
        }
    }
    for n in [ONE, TWO] {
        scene.wait_status(n, "shows the stopped tree", |s| {
            s.trees[0].state == TreeState::Stopped
                && s.trees[0].stopped.is_some()
                && !s.alarms.is_empty()
                || n == TWO && s.alarms.iter().any(|a| a.contains("www"))
        });
    }
    // A burst is judged whole. What went before it was seen as one is no more than this.
    const UNSEEN: u64 = 10;
    holds_for(Duration::from_secs(3), "the standby keeps it", || {
        let now = tandem_lab::summarize(&scene.node(TWO).www(), &[".tandem"])
            .map_err(|e| e.to_string())?;
        if now.files + now.dirs + UNSEEN >= before.files + before.dirs {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    });
    let output = scene.tandem(ONE, &["tree", "accept", "www"]);
    assert!(output.success(), "tree accept: {output:?}");
    scene.write(ONE, "new", "life goes on");
    scene.wait_ready(ONE, TWO);
    scene.flush_and_compare(ONE);
}

fn remove_tree_or_file(path: &Path) {
    if path.is_dir() {
        remove_tree(path).expect("removed");
    } else {
        fs::remove_file(path).expect("removed");
    }
}

/// The tree's root is a mount point. Mounts are the host's own, so this test looks from inside.
#[test]
fn an_unmounted_source_stops() {
    let scene = SceneOptions::new().make();
    let node = scene.node(ONE);
    let mounted = node.host.enter(|| {
        let none = None::<&str>;
        nix::mount::mount(
            Some("disk2"),
            WWW,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            none,
        )?;
        for n in 0..300 {
            fs::write(format!("{WWW}/f{n}"), n.to_string())?;
        }
        Ok::<_, std::io::Error>(())
    });
    mounted.expect("the host is on").expect("mounted");
    node.kill_web();
    scene.start();
    scene.flush(ONE);
    let files = || {
        fs::read_dir(scene.node(TWO).www())
            .map(Iterator::count)
            .unwrap_or(0)
    };
    assert!(files() >= 300);
    let before = files();
    node.host
        .enter(|| nix::mount::umount2(WWW, nix::mount::MntFlags::MNT_DETACH))
        .expect("the host is on")
        .expect("unmounted");
    scene.wait_status(ONE, "shows that the root is gone", |s| {
        s.trees[0].state == TreeState::Stopped && !s.trees[0].proven && !s.alarms.is_empty()
    });
    holds_for(
        Duration::from_secs(4),
        "the standby keeps everything",
        || match files() {
            n if n == before => Ok(()),
            n => Err(format!("{n} of {before}")),
        },
    );
    // The same at boot: without its file system the node is no source.
    scene.power_cut(ONE);
    scene.power_on(ONE);
    holds_for(
        Duration::from_secs(4),
        "the standby keeps everything",
        || match files() {
            n if n >= before => Ok(()),
            n => Err(format!("{n} of {before}")),
        },
    );
    let status = scene.status(ONE).expect("it answers");
    assert!(
        status.role != Role::Master || status.trees[0].state == TreeState::Stopped,
        "{status:?}"
    );
}
