//! `tandem rescue`: what a returning master had written and the pair had not acknowledged.

use crate::harness::*;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use tandem::api::types::Role;

/// The first node writes `writes` that nobody receives, and dies; the second takes over and `meanwhile` happens there;
/// the first one returns. Gives the name of its one rescue set.
fn returned(scene: &Scene, writes: impl Fn(), meanwhile: impl Fn()) -> String {
    scene.flush(ONE);
    scene.node(ONE).host.cable("eth1").cut().expect("cut");
    writes();
    scene.power_cut(ONE);
    scene.wait_role(TWO, Role::Master);
    meanwhile();
    scene.node(ONE).host.cable("eth1").heal().expect("healed");
    scene.power_on(ONE);
    scene.wait_ready(TWO, ONE);
    let sets = scene.rescue_list(ONE).sets;
    assert_eq!(sets.len(), 1, "{sets:?}");
    sets[0].id.clone()
}

#[test]
fn rescue_is_listed_restored_and_dropped() {
    let scene = Scene::replicated();
    scene.flush(ONE);
    scene.node(ONE).host.cable("eth1").cut().expect("cut");
    scene.write(ONE, "late", "wanted back");
    scene.power_cut(ONE);
    scene.wait_role(TWO, Role::Master);
    scene.node(ONE).host.cable("eth1").heal().expect("healed");
    scene.power_on(ONE);
    scene.wait_ready(TWO, ONE);
    let sets = scene.rescue_list(ONE).sets;
    assert_eq!(sets.len(), 1, "{sets:?}");
    let output = scene.tandem(ONE, &["rescue", "restore", &sets[0].id]);
    assert!(output.success(), "{output:?}");
    scene.flush_and_compare(TWO);
    assert_eq!(scene.read(TWO, "late").as_deref(), Ok("wanted back"));
    assert_eq!(scene.read(ONE, "late").as_deref(), Ok("wanted back"));
    let output = scene.tandem(ONE, &["rescue", "drop", "--yes", &sets[0].id]);
    assert!(output.success(), "{output:?}");
    assert!(scene.rescue_list(ONE).sets.is_empty());
}

#[test]
fn a_restore_leaves_what_the_master_wrote_since() {
    let scene = Scene::replicated();
    let set = returned(
        &scene,
        || scene.write(ONE, "both", "the old master's"),
        || scene.write(TWO, "both", "the new master's"),
    );
    let refused = scene.tandem(ONE, &["rescue", "restore", &set]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("--replace"), "{refused:?}");
    assert_eq!(scene.read(TWO, "both").as_deref(), Ok("the new master's"));
    let done = scene.tandem(ONE, &["rescue", "restore", "--replace", &set]);
    assert!(done.success(), "{done:?}");
    scene.flush_and_compare(TWO);
    assert_eq!(scene.read(ONE, "both").as_deref(), Ok("the old master's"));
}

#[test]
fn names_of_any_bytes_are_shown_safely_and_come_back() {
    let scene = Scene::replicated();
    let name = OsStr::from_bytes(b"od\x1b[31m\nd\xff");
    let set = returned(
        &scene,
        || fs::write(scene.file(ONE, "").join(name), "odd").expect("written"),
        || {},
    );
    let shown = scene.tandem(ONE, &["rescue", "show", &set]);
    assert!(shown.stdout.contains(r"od\x1b[31m\x0ad\xff"), "{shown:?}");
    let restored = scene.tandem(ONE, &["rescue", "restore", &set]);
    assert!(restored.success(), "{restored:?}");
    for output in [&shown, &restored] {
        assert!(!output.stdout.contains('\x1b'), "{output:?}");
    }
    let there = fs::read(scene.file(TWO, "").join(name));
    assert_eq!(there.expect("restored"), b"odd");
}

#[test]
fn nothing_is_dropped_by_mistake() {
    let scene = Scene::replicated();
    let set = returned(
        &scene,
        || {
            scene.write(ONE, "late", "one");
            scene.write(ONE, "later", "two");
        },
        || {},
    );
    let drop = |args: &[&str]| {
        let all: Vec<&str> = ["rescue", "drop"].iter().chain(args).copied().collect();
        scene.tandem(ONE, &all)
    };
    // There is no terminal to ask on.
    let unasked = drop(&[&set]);
    assert_eq!(unasked.code, Some(1), "{unasked:?}");
    for args in [&["--yes", &set, "99"][..], &["--yes", "no-such-set"]] {
        let unknown = drop(args);
        assert_eq!(unknown.code, Some(4), "{unknown:?}");
        assert!(unknown.stderr.contains("the rescue has no"), "{unknown:?}");
    }
    assert_eq!(scene.rescued(ONE).len(), 2);
    assert!(drop(&["--yes", &set, "1"]).success());
    assert_eq!(scene.rescued(ONE).len(), 1);
    // With its last entry the set is gone.
    assert!(drop(&["--yes", &set, "2"]).success());
    assert!(scene.rescue_list(ONE).sets.is_empty());
}
