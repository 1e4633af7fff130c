//! `tandem hold`: a command runs while nothing is applied.

use crate::harness::*;
use nix::sys::signal::Signal;
use std::process::Command;
use std::time::Duration;
use tandem::api::types::Role;
use tandem_lab::Process;

/// A backup that runs until it is stopped: the web server stands for it.
const BACKUP: [&str; 3] = ["/opt/lab/lab-web", "/srv", "8080"];

/// Starts `tandem hold` with `options` on the standby, and waits until it holds.
fn hold(scene: &Scene, options: &[&str]) -> Process {
    let mut command = Command::new("/opt/lab/tandem");
    command.arg("hold").args(options).arg("--").args(BACKUP);
    let process = scene.node(TWO).host.spawn(command).expect("started");
    scene.wait_status(TWO, "holds", |s| s.hold.is_some());
    process
}

fn code(process: &Process) -> Option<i32> {
    process.wait(SOON).and_then(|status| status.code())
}

#[test]
fn hold_pauses_applying_while_its_command_runs() {
    let scene = Scene::replicated();
    let backup = hold(&scene, &["--role", "standby"]);
    scene.write(ONE, "held", "spooled");
    scene.write(ONE, "index.html", "second page");
    scene.wait_status(TWO, "spools", |s| {
        s.hold.as_ref().is_some_and(|h| h.spooled_bytes > 0)
    });
    holds_for(Duration::from_secs(1), "the tree rests", || {
        match scene.read(TWO, "index.html")?.as_str() {
            "first page" if !exists(&scene.file(TWO, "held")) => Ok(()),
            other => Err(other.into()),
        }
    });
    backup.signal(Signal::SIGKILL);
    scene.wait_status(TWO, "holds no more", |s| s.hold.is_none());
    scene.wait_ready(ONE, TWO);
    scene.flush_and_compare(ONE);
    let refused = scene.tandem(
        ONE,
        &[
            "hold",
            "--role",
            "standby",
            "--",
            "/opt/lab/tandem",
            "--version",
        ],
    );
    assert!(!refused.success(), "{refused:?}");
}

#[test]
fn a_takeover_ends_a_hold_and_applies_the_spool_first() {
    let scene = Scene::replicated();
    let backup = hold(&scene, &["--role", "standby"]);
    scene.write(ONE, "held", "spooled");
    scene.flush(ONE);
    assert!(!exists(&scene.file(TWO, "held")));
    scene.power_cut(ONE);
    scene.wait_role(TWO, Role::Master);
    assert_eq!(scene.read(TWO, "held").as_deref(), Ok("spooled"));
    assert!(backup.wait(SOON).is_some(), "the command was signalled");
}

#[test]
fn a_hold_passes_on_the_code_of_its_command_and_says_why_it_cannot() {
    let scene = Scene::replicated();
    let held = |n: usize, args: &[&str]| {
        let all: Vec<&str> = ["hold"].iter().chain(args).copied().collect();
        scene.tandem(n, &all)
    };
    let code = |n: usize, args: &[&str]| held(n, args).code;
    assert_eq!(code(TWO, &["--", "/bin/sh", "-c", "exit 7"]), Some(7));
    let killed = ["--", "/bin/sh", "-c", "kill -KILL $$"];
    assert_eq!(code(TWO, &killed), Some(128 + 9));
    assert_eq!(code(TWO, &["--", "/nowhere/backup"]), Some(127));
    assert_eq!(code(TWO, &["--", "/etc/passwd"]), Some(126));
    for (n, args) in [
        (ONE, &["--", "/bin/true"][..]),
        (ONE, &["--role", "standby", "--", "/bin/true"]),
        (TWO, &["--role", "master", "--", "/bin/true"]),
    ] {
        let refused = held(n, args);
        assert_eq!(refused.code, Some(125), "{args:?}: {refused:?}");
        assert!(refused.stderr.contains("this node is"), "{refused:?}");
    }
    let first = hold(&scene, &[]);
    let second = held(TWO, &["--", "/bin/true"]);
    assert_eq!(second.code, Some(125), "{second:?}");
    first.signal(Signal::SIGTERM);
    assert_eq!(self::code(&first), Some(128 + 15), "the command got it");
    scene.wait_status(TWO, "holds no more", |s| s.hold.is_none());
    scene.flush_and_compare(ONE);
}

#[test]
fn a_hold_for_a_time_ends_by_itself() {
    let scene = Scene::replicated();
    let backup = hold(&scene, &["--for", "2s"]);
    let until = scene.status(TWO).expect("it answers").hold;
    assert!(until.is_some_and(|h| h.until_unix_ms.is_some()));
    scene.write(ONE, "held", "spooled");
    assert_eq!(code(&backup), Some(124));
    scene.wait_status(TWO, "holds no more", |s| s.hold.is_none());
    scene.wait_ready(ONE, TWO);
    scene.flush_and_compare(ONE);
    assert_eq!(scene.read(TWO, "held").as_deref(), Ok("spooled"));
}

#[test]
fn an_agent_that_dies_ends_the_hold_and_keeps_the_spool() {
    let scene = Scene::replicated();
    let backup = hold(&scene, &["--role", "standby"]);
    scene.write(ONE, "held", "spooled");
    scene.flush(ONE);
    // What the flush promised is durable on the standby, and is nowhere else after this.
    scene.node(TWO).kill_agent();
    assert_eq!(code(&backup), Some(124), "the command was told");
    scene.power_cut(ONE);
    scene.start_agent(TWO);
    assert!(
        scene
            .tandem(TWO, &["takeover", "--force", "--yes"])
            .success()
    );
    scene.wait_role(TWO, Role::Master);
    assert_eq!(scene.read(TWO, "held").as_deref(), Ok("spooled"));
}
