//! `tandem reload` applies a changed configuration by difference, whole or not at all, with role and addresses kept.

use crate::harness::*;
use std::fs;
use std::path::{Path, PathBuf};
use tandem::api::types::Role;

/// Where the first tree lies.
const WWW: &str = "/srv/www";
/// Where the second tree lies, in each node's own file system.
const MORE: &str = "/srv/more";

fn more(scene: &Scene, n: usize, name: &str) -> PathBuf {
    scene.node(n).host.outside_path(MORE).join(name)
}

/// Puts this configuration on both nodes and has both take it.
fn reload(scene: &Scene, text: &str) {
    scene.pair.configure(text).expect("written");
    for n in [ONE, TWO] {
        let output = scene.tandem(n, &["reload"]);
        assert!(output.success(), "{output:?}");
    }
    scene.wait_ready(ONE, TWO);
    scene.wait_status(ONE, "equal configurations", |s| {
        s.config.equal == Some(true)
    });
}

#[test]
fn trees_and_their_filters_change_while_the_pair_runs() {
    let scene = Scene::replicated();
    let base = scene.pair.config();
    let term = scene.status(ONE).expect("it answers").term;
    scene.write(ONE, "cache/x", "before");
    scene.flush_and_compare(ONE);

    let excluding = base.replace(
        "name = \"www\"\n",
        "name = \"www\"\nexclude = [\"/cache\"]\nprotect = [\"/mine\"]\n",
    );
    assert_ne!(excluding, base);
    reload(&scene, &excluding);
    scene.write(ONE, "cache/x", "after");
    scene.write(ONE, "mine", "of the master");
    scene.flush(ONE);
    assert_eq!(scene.read(TWO, "cache/x").as_deref(), Ok("before"));
    reload(&scene, &base);
    scene.flush_and_compare(ONE);
    assert_eq!(scene.read(TWO, "cache/x").as_deref(), Ok("after"));

    for n in [ONE, TWO] {
        fs::create_dir(more(&scene, n, "")).expect("made");
    }
    fs::write(more(&scene, ONE, "f"), "of a new tree").expect("written");
    fs::write(more(&scene, TWO, "g"), "lay there").expect("written");
    let with_more = format!("{base}\n[[tree]]\nname = \"more\"\npath = \"{MORE}\"\n");
    reload(&scene, &with_more);
    scene.flush(ONE);
    let read = |n, name| fs::read_to_string(more(&scene, n, name));
    assert_eq!(read(TWO, "f").ok().as_deref(), Some("of a new tree"));
    assert!(read(TWO, "g").is_err(), "it is in the rescue");
    let rescued = scene.rescued(TWO);
    assert!(rescued.iter().any(|i| i.path == "g"), "{rescued:?}");

    reload(&scene, &base);
    fs::write(more(&scene, ONE, "f"), "of no tree").expect("written");
    scene.flush_and_compare(ONE);
    assert_eq!(read(TWO, "f").ok().as_deref(), Some("of a new tree"));
    let status = scene.status(ONE).expect("it answers");
    assert_eq!(
        (status.role, status.term),
        (Role::Master, term),
        "nothing moved"
    );
    assert_eq!(status.trees.len(), 1);
}

/// How much lies below a directory, but for what is the agent's.
fn entries(dir: &Path) -> u64 {
    let mut count = 0;
    for entry in fs::read_dir(dir).expect("a directory") {
        let entry = entry.expect("it can be read");
        if entry.file_name() != ".tandem" {
            let is_dir = entry.file_type().expect("a kind").is_dir();
            count += 1 + if is_dir { entries(&entry.path()) } else { 0 };
        }
    }
    count
}

/// What was of the outer tree is of the inner one from then on, and of that alone.
#[test]
fn a_tree_may_lie_in_another_one() {
    let scene = Scene::replicated();
    scene.write(ONE, "inner/f", "of the outer one");
    scene.flush_and_compare(ONE);
    let before = entries(&scene.file(ONE, ""));
    scene.wait_status(TWO, "all counted", |s| s.trees[0].files == before);
    let base = scene.pair.config();
    let inner = format!("{base}\n[[tree]]\nname = \"inner\"\npath = \"{WWW}/inner\"\n");
    reload(&scene, &inner);
    scene.flush(ONE);
    assert_eq!(
        scene.read(TWO, "inner/f").as_deref(),
        Ok("of the outer one")
    );
    scene.write(ONE, "inner/f", "of the inner one");
    scene.write(ONE, "inner/d/g", "of the inner one");
    scene.write(ONE, "g", "of the outer one");
    scene.flush(ONE);
    for (name, content) in [
        ("inner/f", "of the inner one"),
        ("inner/d/g", "of the inner one"),
        ("g", "of the outer one"),
    ] {
        assert_eq!(scene.read(TWO, name).as_deref(), Ok(content));
    }
    // The outer one has g more, and still what became excluded.
    scene.wait_status(TWO, "each counts once", |s| {
        let files: Vec<u64> = s.trees.iter().map(|t| t.files).collect();
        files == [before + 1, 3]
    });
    fs::remove_dir_all(scene.file(ONE, "inner/d")).expect("removed");
    scene.flush(ONE);
    assert!(scene.read(TWO, "inner/d/g").is_err());
    assert!(scene.rescued(TWO).is_empty());
}

#[test]
fn services_that_a_reload_adds_follow_the_role_at_once() {
    let scene = Scene::replicated();
    let service = |start: &str| {
        format!(
            "{}\n[[service]]\nname = \"db\"\nstart = [\"/opt/lab/tandem\", \"{start}\"]\nstop = [\"/opt/lab/tandem\", \"--version\"]\n",
            scene.pair.config()
        )
    };
    reload(&scene, &service("--version"));
    let state = |n: usize| {
        let status = scene.status(n).expect("it answers");
        status.services.first().map(|s| s.state.clone())
    };
    assert_eq!(state(ONE).as_deref(), Some("started"));
    assert_eq!(state(TWO).as_deref(), Some("stopped"));
    scene
        .pair
        .configure(&service("no-such-command"))
        .expect("written");
    let output = scene.tandem(ONE, &["reload"]);
    assert!(
        !output.success() && output.stderr.contains("service db"),
        "{output:?}"
    );
    assert_eq!(state(ONE).as_deref(), Some("failed"));
}

#[test]
fn what_needs_a_restart_is_named_and_nothing_is_applied() {
    let scene = Scene::replicated();
    let base = scene.pair.config();
    let before = scene.status(ONE).expect("it answers").config.mine;
    let text = base.replace("[pair]\n", "[pair]\nport = 7777\n").replace(
        "name = \"www\"\n",
        "name = \"www\"\nexclude = [\"/cache\"]\n",
    );
    scene.pair.configure(&text).expect("written");
    for n in [ONE, TWO] {
        let output = scene.tandem(n, &["reload"]);
        assert_eq!(output.code, Some(4), "{output:?}");
        for word in ["nothing was applied", "port", "7777", "tandem restart"] {
            assert!(output.stderr.contains(word), "{word}: {output:?}");
        }
        let status = scene.status(n).expect("it answers");
        assert_eq!(status.config.mine, before);
        assert!(status.config.file_changed);
    }
    scene.write(ONE, "cache/x", "no filter is in force");
    scene.flush_and_compare(ONE);
    assert!(exists(&scene.file(TWO, "cache/x")));
}
