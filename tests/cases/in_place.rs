//! Large files that are changed in place on the standby.

use crate::harness::*;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;
use tandem_lab::pair::DEFAULT_BODY;

const SIZE: usize = 6_000_000;

fn scene() -> Scene {
    let body = DEFAULT_BODY.replace("[[tree]]\n", "[[tree]]\nupdate = \"in-place\"\n");
    assert_ne!(body, DEFAULT_BODY);
    let scene = SceneOptions::new()
        .policy("address_lifetime = \"60s\"")
        .body(&body)
        .make();
    scene.fill();
    scene.write(ONE, "base", vec![1; SIZE]);
    scene.start();
    scene.flush(ONE);
    scene
}

fn edit(scene: &Scene, at: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new()
        .write(true)
        .open(scene.file(ONE, "base"))
        .expect("opened");
    file.write_all_at(bytes, at).expect("written");
}

fn inode(scene: &Scene) -> u64 {
    fs::metadata(scene.file(TWO, "base"))
        .expect("it is there")
        .ino()
}

/// No room for the journal: the old version stays, it is said, and with room again everything follows by itself.
#[test]
fn a_full_standby_cannot_journal_and_keeps_the_old_version() {
    let scene = scene();
    let (host, before) = (&scene.node(TWO).host, inode(&scene));
    let used = rustix::fs::statvfs(host.outside_path("/")).expect("counted");
    let used = (used.f_blocks - used.f_bfree) * used.f_frsize;
    host.limit_disk(Some(used + 1_000_000)).expect("limited");
    edit(&scene, 1_000_000, &vec![2; 4_000_000]);
    scene.wait_status(TWO, "says what has no room", |s| {
        s.alarms
            .iter()
            .any(|a| a.contains("base cannot be received") && a.contains("No space left"))
    });
    let old = fs::read(scene.file(TWO, "base")).expect("it is there");
    assert!(old == vec![1; SIZE], "the old version, whole");
    host.limit_disk(None).expect("room again");
    scene.wait_ready(ONE, TWO);
    scene.flush_and_compare(ONE);
    assert_eq!(inode(&scene), before, "changed in place");
    assert!(scene.rescued_paths(TWO).is_empty());
}

/// The standby is killed again and again while it changes a file in place. Once it answers, the file is whole: every
/// block of it carries the same number.
#[test]
fn kill_9_of_the_standby_leaves_no_mixture() {
    let scene = scene();
    let whole = || {
        let found = fs::read(scene.file(TWO, "base")).map_err(|e| e.to_string())?;
        match found.iter().all(|byte| *byte == found[0]) && found.len() == SIZE {
            true => Ok(found[0]),
            false => Err("a mixture of two versions".to_string()),
        }
    };
    let mut versions = 0;
    for round in 2..10_u8 {
        // Another file at the source, so that no reading meets half of its writing.
        let made = scene.node(ONE).host.outside_path("/srv/base");
        fs::write(&made, vec![round; SIZE]).expect("written");
        fs::rename(&made, scene.file(ONE, "base")).expect("renamed");
        let dir = scene.file(TWO, ".tandem");
        let begun = |name: &str| fs::read_dir(dir.join(name)).is_ok_and(|d| d.count() > 0);
        eventually(LONG, "something comes", || {
            match begun("staging") || begun("redo") || whole() == Ok(round) {
                true => Ok(()),
                false => Err("nothing yet".into()),
            }
        });
        scene.node(TWO).kill_agent();
        scene.start_agent(TWO);
        let found = whole().expect("whole as soon as the agent answers");
        assert!(
            found == round || found == round - 1,
            "{found} in round {round}"
        );
        versions += u32::from(found == round - 1);
        scene.wait_ready(ONE, TWO);
        scene.flush(ONE);
        assert_eq!(whole(), Ok(round));
    }
    println!("the old version was found {versions} times");
    scene.flush_and_compare(ONE);
    assert!(scene.rescued_paths(TWO).is_empty());
    holds_for(Duration::from_millis(100), "nothing is open", || {
        let open = fs::read_dir(scene.file(TWO, ".tandem/redo")).map_err(|e| e.to_string())?;
        match open.count() {
            0 => Ok(()),
            n => Err(format!("{n} journals")),
        }
    });
}
