//! `tandem trash`: what the master deleted, on the standby.

use crate::harness::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;

const TREES: &str = r#"
[[tree]]
name = "www"
path = "/srv/www"
deletes = "trash"
"#;

fn deleted() -> Scene {
    let scene = SceneOptions::new().body(TREES).make();
    scene.fill();
    scene.write(ONE, "gone/sub/odd\\name", "odd");
    scene.write(ONE, "gone/file", "the first one");
    std::os::unix::fs::symlink("file", scene.file(ONE, "gone/link")).expect("linked");
    fs::create_dir(scene.file(ONE, "gone/bare")).expect("made");
    let mode = fs::Permissions::from_mode(0o751);
    fs::set_permissions(scene.file(ONE, "gone/sub"), mode).expect("set");
    scene.start();
    scene.flush(ONE);
    fs::remove_dir_all(scene.file(ONE, "gone")).expect("removed");
    scene.flush_and_compare(ONE);
    scene
}

#[test]
fn the_trash_is_listed_restored_and_emptied_on_the_standby() {
    let scene = deleted();
    let trash = |args: &[&str]| {
        let all: Vec<&str> = ["trash"].iter().chain(args).copied().collect();
        scene.tandem(TWO, &all)
    };
    let list = trash(&["list", "www"]);
    for name in ["gone/file", "gone/link", r"gone/sub/odd\\name", "4 entries"] {
        assert!(list.stdout.contains(name), "{name}: {list:?}");
    }
    let json = trash(&["list", "--json", "www", "gone/file"]);
    assert!(json.stdout.contains(r#""kind":"file""#), "{json:?}");
    assert_eq!(json.stdout.lines().count(), 2, "{json:?}");

    // A name as the list shows it, elsewhere.
    let moved = trash(&["restore", "www", r"gone/sub/odd\\name", "--to", "new/place"]);
    assert!(moved.success(), "{moved:?}");
    assert_eq!(scene.read(ONE, "new/place").as_deref(), Ok("odd"));

    // What the master has now is left alone, the rest comes back.
    scene.write(ONE, "gone/file", "the second one");
    let partly = trash(&["restore", "www", "gone"]);
    assert_eq!(partly.code, Some(1), "{partly:?}");
    assert!(partly.stderr.contains("--replace"), "{partly:?}");
    assert_eq!(
        scene.read(ONE, "gone/file").as_deref(),
        Ok("the second one")
    );
    assert_eq!(scene.read(ONE, r"gone/sub/odd\name").as_deref(), Ok("odd"));
    let sub = fs::metadata(scene.file(ONE, "gone/sub")).expect("it is back");
    assert_eq!(sub.permissions().mode() & 0o7777, 0o751);
    assert!(scene.file(ONE, "gone/bare").is_dir());
    let link = fs::read_link(scene.file(ONE, "gone/link")).expect("it is back");
    assert_eq!(link.to_str(), Some("file"));
    let replaced = trash(&["restore", "www", "gone/file", "--replace"]);
    assert!(replaced.success(), "{replaced:?}");
    scene.flush_and_compare(ONE);
    assert_eq!(scene.read(TWO, "gone/file").as_deref(), Ok("the first one"));

    for (args, words) in [
        (&["restore", "www", "never"][..], "the trash has no never"),
        (&["restore", "www", "gone", "--at", "yesterday"], "no hour"),
        (&["restore", "www", "../gone"], "component"),
        (&["restore", "www", "."], "below the root"),
        (&["list", "other"], "no tree named"),
    ] {
        let refused = trash(args);
        assert_eq!(refused.code, Some(4), "{refused:?}");
        assert!(refused.stderr.contains(words), "{words}: {refused:?}");
    }

    // There is no terminal to ask on.
    assert_eq!(trash(&["empty", "www"]).code, Some(1));
    let old = trash(&["empty", "www", "--older", "1d", "--yes"]);
    assert!(old.success(), "{old:?}");
    let has = |text: &str| trash(&["list"]).stdout.contains(text);
    assert!(has("gone/link"), "it is not so old");
    let all = trash(&["empty", "www", "--yes"]);
    assert!(all.success(), "{all:?}");
    assert!(has("nothing is in the trash"));
    scene.flush_and_compare(ONE);
}
