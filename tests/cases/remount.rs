//! A tree's root is a mount point, and mounts change while the agents run. Mounts are the host's own, so these tests look from
//! inside.

use crate::harness::*;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;
use tandem::api::types::TreeState;
use tandem_lab::pair::WWW;

/// Where the file system of the tree stays mounted all the time.
const DISK: &str = "/srv/disk";
const NONE: Option<&str> = None;

fn bind() -> io::Result<()> {
    Ok(mount(Some(DISK), WWW, NONE, MsFlags::MS_BIND, NONE)?)
}

fn unmount() -> io::Result<()> {
    Ok(umount2(WWW, MntFlags::MNT_DETACH)?)
}

fn tmpfs(at: &str) -> io::Result<()> {
    Ok(mount(
        Some("disk2"),
        at,
        Some("tmpfs"),
        MsFlags::empty(),
        NONE,
    )?)
}

/// Does something as the master's administrator.
fn inside(scene: &Scene, job: impl FnOnce() -> io::Result<()> + Send + 'static) {
    let done = scene.node(ONE).host.enter(job).expect("the host is on");
    done.expect("it is done");
}

/// The files of a directory.
fn files(dir: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            found.insert(name, fs::read_to_string(entry.path())?);
        }
    }
    Ok(found)
}

fn there(scene: &Scene) -> BTreeMap<String, String> {
    files(&scene.node(TWO).www()).expect("the standby's tree")
}

/// The tree is stopped, and the standby loses nothing by it.
fn stops(scene: &Scene) {
    let before = there(scene);
    assert!(before.len() >= 300);
    scene.wait_status(ONE, "shows that the root is another one", |s| {
        s.trees[0].state == TreeState::Stopped && !s.trees[0].proven && !s.alarms.is_empty()
    });
    let keeps = || match there(scene) == before {
        true => Ok(()),
        false => Err("it has changed".to_owned()),
    };
    holds_for(
        Duration::from_secs(2),
        "the standby keeps everything",
        keeps,
    );
}

/// The root is back: the tree goes on, and the standby is as what is there now.
fn goes_on(scene: &Scene) {
    scene.wait_status(ONE, "goes on", |s| {
        s.trees[0].proven && s.trees[0].state == TreeState::Consistent && s.alarms.is_empty()
    });
    scene.flush(ONE);
    let here = scene.node(ONE).host.enter(|| files(Path::new(WWW)));
    let here = here.expect("the host is on").expect("the master's tree");
    assert_eq!(there(scene), here);
    assert!(here.len() >= 300);
}

/// While the root is not there the file system of the tree is written to: of that no event counts.
#[test]
fn what_is_mounted_over_or_away_and_back_is_scanned() {
    let scene = SceneOptions::new().make();
    inside(&scene, || {
        fs::create_dir_all(DISK)?;
        tmpfs(DISK)?;
        for n in 0..300 {
            fs::write(format!("{DISK}/f{n}"), n.to_string())?;
        }
        bind()
    });
    scene.node(ONE).kill_web();
    scene.start();
    scene.flush(ONE);

    inside(&scene, || {
        tmpfs(WWW)?;
        fs::write(format!("{WWW}/foreign"), "of another file system")
    });
    stops(&scene);
    inside(&scene, || {
        fs::write(format!("{DISK}/f1"), "changed while covered")?;
        fs::write(format!("{DISK}/covered"), "new")?;
        fs::remove_file(format!("{DISK}/f2"))?;
        unmount()
    });
    goes_on(&scene);
    assert!(!there(&scene).contains_key("foreign"));

    inside(&scene, unmount);
    stops(&scene);
    inside(&scene, || {
        fs::write(format!("{DISK}/f3"), "changed while away")?;
        fs::write(format!("{DISK}/away"), "new")?;
        fs::remove_file(format!("{DISK}/f4"))?;
        bind()
    });
    goes_on(&scene);
    // Events come again.
    inside(&scene, || fs::write(format!("{WWW}/after"), "as before"));
    scene.flush(ONE);
    assert!(there(&scene).contains_key("after"));
}
