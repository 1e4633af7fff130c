//! Configurations that differ, keys that do not fit, agents that are not there: what the operator is told.

use crate::harness::*;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

#[test]
fn a_difference_of_configurations_is_shown_and_counts_where_it_matters() {
    let scene = Scene::replicated();
    let good = scene.pair.config();
    let reload = |text: &str| {
        scene.node(TWO).configure(text).expect("written");
        let output = scene.tandem(TWO, &["reload"]);
        assert!(output.success(), "{output:?}");
    };
    // A monitor is each node's own affair.
    reload(&good.replace("timeout = \"500ms\"", "timeout = \"600ms\""));
    for n in [ONE, TWO] {
        scene.wait_status(n, "shows a difference that does not matter", |s| {
            s.config.equal == Some(false)
                && s.config.matters_equal == Some(true)
                && s.takeover.possible
        });
    }
    // Which addresses move is not.
    let other = good.replace("192.0.2.74/24", "192.0.2.75/24");
    reload(&other.replace("address = \"192.0.2.74\"", "address = \"192.0.2.75\""));
    for n in [ONE, TWO] {
        scene.wait_status(n, "refuses the standby", |s| {
            s.config.matters_equal == Some(false) && !s.takeover.possible
        });
        let page = scene.tandem(n, &["status"]).stdout;
        assert!(page.contains("differs from the peer's in"), "{page}");
    }
    reload(&good);
    scene.wait_ready(ONE, TWO);
    // Nor is for how long the standby's data count as fresh: the master reckons with it when it starts alone.
    reload(&good.replace("[pair]", "[pair]\nmax_stale = \"1h\""));
    for n in [ONE, TWO] {
        scene.wait_status(n, "refuses the standby for its policy", |s| {
            s.config.matters_equal == Some(false) && !s.takeover.possible
        });
    }
    reload(&good);
    scene.wait_ready(ONE, TWO);
}

#[test]
fn a_key_that_does_not_fit_is_refused_with_the_reason() {
    let scene = SceneOptions::new().make();
    let key = scene.node(ONE).host.outside_path("/etc/tandem/key");
    let mode = |mode| std::fs::set_permissions(&key, PermissionsExt::from_mode(mode));
    mode(0o640).expect("changed");
    let loose = scene.tandem(ONE, &["agent"]);
    assert_eq!(loose.code, Some(6), "{loose:?}");
    assert!(loose.stderr.contains("its mode is 0640"), "{loose:?}");
    let again = scene.tandem(ONE, &["keygen"]);
    assert!(!again.success() && again.stderr.contains("not overwritten"));
    std::fs::remove_file(&key).expect("removed");
    let missing = scene.tandem(ONE, &["agent"]);
    assert!(missing.stderr.contains("`tandem keygen`"), "{missing:?}");
    assert!(scene.tandem(ONE, &["keygen"]).success());
    // A new key, and a configuration that has the old one.
    let stranger = scene.tandem(ONE, &["agent"]);
    assert_eq!(stranger.code, Some(6), "{stranger:?}");
    assert!(
        stranger.stderr.contains("belongs to neither"),
        "{stranger:?}"
    );
    let check = scene.tandem(ONE, &["check"]);
    assert!(check.stdout.contains("none of its nodes"), "{check:?}");
}

#[test]
fn without_agent_every_question_has_the_same_code() {
    let scene = SceneOptions::new().make();
    for args in [
        &["status"][..],
        &["is", "master"],
        &["is", "standby"],
        &["flush"],
        &["rescue", "list"],
    ] {
        let output = scene.tandem(ONE, args);
        assert_eq!(output.code, Some(3), "{args:?}: {output:?}");
        assert!(output.stderr.contains("no agent is running"), "{output:?}");
    }
    scene.start_agent(ONE);
    let mut command = Command::new("/usr/bin/setpriv");
    command.args(["--reuid", "65534", "--clear-groups", "--"]);
    command.args(["/opt/lab/tandem", "status"]);
    let other = scene.node(ONE).output(command, SOON).expect("it ends");
    // A user namespace with one user has no other one to become.
    if !other.stderr.contains("setpriv:") {
        assert_eq!(other.code, Some(3), "{other:?}");
        assert!(other.stderr.contains("only to root"), "{other:?}");
    }
}

#[test]
fn maintenance_is_shown_on_both_nodes_and_ends_where_it_began() {
    let scene = Scene::replicated();
    let output = scene.tandem(ONE, &["maintenance", "on", "--for", "1h"]);
    assert!(output.stdout.contains("1 h"), "{output:?}");
    scene.wait_status(TWO, "shows the maintenance of the peer", |s| {
        s.maintenance.as_ref().is_some_and(|m| !m.here)
    });
    let page = scene.tandem(TWO, &["status"]).stdout;
    assert!(page.contains("switched on at mirror1"), "{page}");
    let elsewhere = scene.tandem(TWO, &["maintenance", "off"]);
    assert!(
        elsewhere.stdout.contains("still on at mirror1"),
        "{elsewhere:?}"
    );
    assert!(
        scene
            .tandem(ONE, &["maintenance", "on", "--for", "1s"])
            .success()
    );
    for n in [ONE, TWO] {
        scene.wait_status(n, "is out of maintenance by itself", |s| {
            s.maintenance.is_none()
        });
    }
    scene.wait_ready(ONE, TWO);
}
