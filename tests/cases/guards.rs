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

fn set_immutable(path: &Path, on: bool) -> std::io::Result<()> {
    let file = fs::File::open(path)?;
    let flags = ioctl_getflags(&file)?;
    let new = if on {
        flags | IFlags::IMMUTABLE
    } else {
        flags - IFlags::IMMUTABLE
    };
    Ok(ioctl_setflags(&file, new)?)
}

#[test]
fn protected_and_immutable_files_are_untouched() {
    let scene = SceneOptions::new().body(TREES).make();
    scene.fill();
    scene.start();
    scene.flush(ONE);
    // Each node's own.
    scene.write(TWO, "local.conf", "mirror2's own");
    scene.write(TWO, "keep/this", "mirror2's own");
    scene.write(ONE, "local.conf", "mirror1's own");
    scene.write(ONE, "keep/this", "mirror1's own");
    // CAP_LINUX_IMMUTABLE means nothing in a user namespace.
    let immutable = privilege().expect("a lab is possible") == Privilege::Root;
    if immutable {
        set_immutable(&scene.file(TWO, "index.html"), true).expect("made immutable");
    }
    scene.write(ONE, "index.html", "second page");
    scene.write(ONE, "other", "goes on");
    eventually(SOON, "what is not protected goes on", || {
        scene.read(TWO, "other").map(drop)
    });
    if immutable {
        scene.wait_status(TWO, "names the immutable file", |s| {
            s.trees[0]
                .last_error
                .as_ref()
                .is_some_and(|e| e.contains("index.html"))
        });
        assert_eq!(scene.read(TWO, "index.html").as_deref(), Ok("first page"));
        set_immutable(&scene.file(TWO, "index.html"), false).expect("made mutable");
    }
    for name in ["local.conf", "keep/this"] {
        assert_eq!(
            scene.read(TWO, name).as_deref(),
            Ok("mirror2's own"),
            "{name}"
        );
    }
    eventually(LONG, "the freed file follows", || {
        match scene.read(TWO, "index.html")?.as_str() {
            "second page" => Ok(()),
            other => Err(other.into()),
        }
    });
    fs::remove_file(scene.file(ONE, "local.conf")).expect("removed");
    scene.write(ONE, "another", "after the delete");
    eventually(SOON, "the delete was seen", || {
        scene.read(TWO, "another").map(drop)
    });
    assert_eq!(
        scene.read(TWO, "local.conf").as_deref(),
        Ok("mirror2's own")
    );
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
    holds_for(
        Duration::from_secs(3),
        "the standby keeps everything",
        || {
            let now = tandem_lab::summarize(&scene.node(TWO).www(), &[".tandem"])
                .map_err(|e| e.to_string())?;
            if now == before {
                Ok(())
            } else {
                Err(format!("{now:?}"))
            }
        },
    );
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
