//! Trees that carry the flags of `chattr`.

use crate::harness::*;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use std::fs;
use std::path::Path;
use tandem_lab::{Privilege, privilege};

const TREES: &str = r#"
[[tree]]
name = "www"
path = "/srv/www"
flags = true
# A flag alone raises no event.
poll = "1s"
"#;

/// The flags that this test sets and looks at.
const LOOKED_AT: IFlags = IFlags::IMMUTABLE
    .union(IFlags::APPEND)
    .union(IFlags::NOATIME);

fn flags(path: &Path) -> Result<IFlags, String> {
    let said = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let file = fs::File::open(path).map_err(|e| said(&e))?;
    let all = ioctl_getflags(&file).map_err(|e| said(&e))?;
    Ok(all & LOOKED_AT)
}

fn set(path: &Path, to: IFlags) -> Result<(), String> {
    let said = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let file = fs::File::open(path).map_err(|e| said(&e))?;
    let others = ioctl_getflags(&file).map_err(|e| said(&e))? - LOOKED_AT;
    ioctl_setflags(&file, others | to).map_err(|e| said(&e))
}

/// Why flags cannot be set on the disks of this scene.
fn impossible(scene: &Scene) -> Option<String> {
    // CAP_LINUX_IMMUTABLE means nothing in a user namespace.
    if privilege().expect("a lab is possible") != Privilege::Root {
        return Some("flags of files need root".to_owned());
    }
    let probe = scene.file(ONE, "probe");
    fs::write(&probe, "").expect("written");
    let done = set(&probe, LOOKED_AT).and_then(|()| set(&probe, IFlags::empty()));
    fs::remove_file(&probe).expect("removed");
    done.err()
}

#[track_caller]
fn wait_flags(scene: &Scene, name: &str, wanted: IFlags) {
    let what = format!("{name} has {wanted:?} on the standby");
    eventually(SOON, &what, || match flags(&scene.file(TWO, name))? {
        found if found == wanted => Ok(()),
        found => Err(format!("{found:?}")),
    });
}

/// They arrive, keep nothing from following the master, and go again.
#[test]
fn flags_follow_the_master_and_so_do_the_files_that_have_them() {
    let scene = SceneOptions::new().body(TREES).make();
    if let Some(why) = impossible(&scene) {
        return tandem_lab::skipped(why);
    }
    scene.fill();
    scene.start();
    scene.flush(ONE);
    let flagged = [
        ("index.html", IFlags::IMMUTABLE),
        ("d0/f0", IFlags::APPEND),
        ("d1/f1", IFlags::NOATIME),
        ("d2", IFlags::IMMUTABLE | IFlags::NOATIME),
    ];
    for (name, flag) in flagged {
        set(&scene.file(ONE, name), flag).expect("set");
    }
    for (name, flag) in flagged {
        wait_flags(&scene, name, flag);
    }
    // What is immutable because the master says so makes way for the master, and is immutable again.
    let page = scene.file(ONE, "index.html");
    set(&page, IFlags::empty()).expect("taken away");
    fs::write(&page, "second page").expect("written");
    set(&page, IFlags::IMMUTABLE).expect("set");
    let mut log = fs::File::options();
    let mut log = log
        .append(true)
        .open(scene.file(ONE, "d0/f0"))
        .expect("opened");
    std::io::Write::write_all(&mut log, b"one more line\n").expect("appended");
    drop(log);
    eventually(SOON, "the page and its flag are there", || {
        let page = scene.read(TWO, "index.html")?;
        match (page.as_str(), flags(&scene.file(TWO, "index.html"))?) {
            ("second page", IFlags::IMMUTABLE) => Ok(()),
            found => Err(format!("{found:?}")),
        }
    });
    wait_flags(&scene, "d0/f0", IFlags::APPEND);
    // What somebody does on the standby is put right.
    set(&scene.file(TWO, "d1/f1"), IFlags::IMMUTABLE).expect("set");
    wait_flags(&scene, "d1/f1", IFlags::NOATIME);
    // They go, by themselves and with their files.
    for name in ["index.html", "d2"] {
        set(&scene.file(ONE, name), IFlags::empty()).expect("taken away");
        wait_flags(&scene, name, IFlags::empty());
    }
    for name in ["d0/f0", "d1/f1"] {
        let path = scene.file(ONE, name);
        set(&path, IFlags::empty()).expect("taken away");
        fs::remove_file(path).expect("removed");
    }
    scene.flush_and_compare(ONE);
    assert!(scene.rescued_paths(TWO).is_empty());
}
