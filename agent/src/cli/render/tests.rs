//! Golden pages: what an operator sees, as files beside this one.

use super::*;
use crate::api::types::*;

const NOW: u64 = 1_800_000_000_000;

fn plain(report: &StatusReport) -> String {
    status(report, NOW, Style { on: false })
}

fn compare(name: &str, shown: &str, expected: &str) {
    assert!(
        shown == expected,
        "{name} differs; shown is:\n{shown}\nexpected was:\n{expected}"
    );
}

fn link(name: &str, data: bool) -> LinkStatus {
    LinkStatus {
        name: name.into(),
        device: "eth1".into(),
        local: "192.168.1.1".into(),
        remote: "192.168.1.2".into(),
        data,
        carrier: Some(true),
        up: true,
        heard_ms: Some(84),
        heard_by_peer: true,
        rtt_us: Some(312),
        loss_percent: Some(0.0),
    }
}

fn tree(name: &str) -> TreeStatus {
    TreeStatus {
        name: name.into(),
        path: format!("/{name}"),
        state: TreeState::Consistent,
        stopped: None,
        proven: true,
        epoch: Some("8f716b9e8e7bcf2f0011223344556677".into()),
        lineage_length: 3,
        seq: 48_211,
        acked: 48_211,
        lag_ms: Some(0),
        stale_ms: None,
        queue: 0,
        files: 78_600,
        bytes: 1_449_999_999,
        errors: 0,
        last_error: None,
        detector: "fanotify".into(),
        detector_because: None,
        poll_ms: None,
        contents: None,
        verified: vec![],
        progress: None,
        rescued: 0,
        set: None,
        mounts_below: vec![],
        local_changes: 0,
        kept: 0,
        sockets_skipped: 0,
        unverified: 0,
        fuzzy: Vec::new(),
        fuzzy_more: 0,
        reading: None,
        inexact: Default::default(),
    }
}

fn master() -> StatusReport {
    StatusReport {
        api: 1,
        version: "0.1.0".into(),
        pair: "mirror".into(),
        node: "mirror1".into(),
        role: Role::Master,
        phase: "serving".into(),
        term: 7,
        term_armed: 8,
        since_unix_ms: NOW - 273_600_000,
        started_unix_ms: NOW - 273_700_000,
        preferred: "mirror1".into(),
        relation: "equal".into(),
        links: vec![link("private", true), link("public", false)],
        session: SessionStatus {
            up: true,
            link: Some("private".into()),
            why: None,
        },
        peer: PeerStatus {
            node: "mirror2".into(),
            alive: true,
            heard_ms: Some(84),
            role: Some(Role::Standby),
            term: Some(7),
            eligible: Some(true),
            reasons: vec![],
            services: Health::Good,
            network: Health::Good,
            identity: None,
        },
        monitors: vec![MonitorStatus {
            name: "http".into(),
            target: "http 192.0.2.74:80/".into(),
            counts_for: "service".into(),
            health: Health::Good,
            failures: 0,
            since_unix_ms: Some(NOW - 273_500_000),
            last_error: Some("an old one".into()),
        }],
        trees: vec![tree("etc"), tree("home")],
        config: ConfigStatus {
            file: "/etc/tandem/tandem.toml".into(),
            mine: "8f716b9e8e7bcf2f".into(),
            peer: Some("8f716b9e8e7bcf2f".into()),
            equal: Some(true),
            matters_equal: Some(true),
            file_changed: false,
        },
        takeover: TakeoverStatus {
            node: Some("mirror2".into()),
            possible: true,
            reasons: vec![],
        },
        maintenance: None,
        hold: None,
        addresses: vec![AddressStatus {
            address: "192.0.2.74/24".into(),
            device: "eth0".into(),
            label: Some("eth0:1".into()),
            held: true,
            error: None,
            conflict: None,
        }],
        replicas: vec![],
        last_decision: Some(DecisionReport {
            at_unix_ms: NOW - 273_600_000,
            why: "became master by agreement with mirror2".into(),
            inputs: vec![],
        }),
        services: vec![ServiceStatus {
            name: "web".into(),
            state: "started".into(),
            since_unix_ms: Some(NOW - 273_590_000),
            last_error: None,
        }],
        alarms: vec![],
    }
}

/// Everything that can be wrong at once.
fn troubled() -> StatusReport {
    let mut r = master();
    r.node = "mirror2".into();
    r.role = Role::Standby;
    r.phase = "following".into();
    r.relation = "behind".into();
    r.alarms = vec![
        "the standby cannot take over".into(),
        "evil \x1b[2J name".into(),
    ];
    r.maintenance = Some(MaintenanceStatus {
        here: true,
        until_unix_ms: Some(NOW + 3_300_000),
    });
    r.hold = Some(HoldStatus {
        since_unix_ms: NOW - 60_000,
        until_unix_ms: None,
        spooled_bytes: 12_300_000,
    });
    r.takeover.possible = false;
    r.takeover.reasons = vec!["tree home is copying".into(), "maintenance".into()];
    r.peer.node = "mirror1".into();
    r.peer.alive = false;
    r.peer.heard_ms = Some(4200);
    r.session = SessionStatus {
        up: false,
        link: None,
        why: Some("mirror1 does not answer on private".into()),
    };
    r.links[0].up = false;
    r.links[0].carrier = Some(false);
    r.links[0].rtt_us = None;
    r.links[0].loss_percent = None;
    r.links[1].up = false;
    r.links[1].heard_ms = None;
    r.links[1].loss_percent = Some(37.4);
    r.trees[0].state = TreeState::Stopped;
    r.trees[0].stopped =
        Some("61 % of the entries are gone: `tandem tree accept etc` resumes it".into());
    r.trees[0].errors = 2;
    r.trees[0].last_error = Some("ssh/moduli: immutable".into());
    r.trees[0].rescued = 1;
    r.trees[0].mounts_below = vec!["/etc/secrets".into()];
    r.trees[0].local_changes = 10_000;
    r.trees[0].kept = 10_000;
    r.trees[0].inexact = [
        (Counted::LocalChanges, Inexact::AtLeast),
        (Counted::Kept, Inexact::AtLeast),
        (Counted::Errors, Inexact::About),
    ]
    .into();
    r.trees[0].sockets_skipped = 3;
    r.trees[1].state = TreeState::Copying;
    r.trees[1].detector = "inotify".into();
    r.trees[1].detector_because = Some("fanotify: Operation not permitted (EPERM)".into());
    r.trees[1].poll_ms = Some(2000);
    r.trees[1].contents = Some(Contents {
        files: 1200,
        bytes: 40_000_000,
        differed: 1,
        last_ended_unix_ms: Some(NOW - 86_400_000),
        last_files: 78_600,
        last_differed: 2,
    });
    r.trees[1].proven = false;
    r.trees[1].stale_ms = Some(90_000);
    r.trees[1].progress = Some(Progress {
        what: "receiving".into(),
        files_done: 1200,
        files_total: Some(78_600),
        bytes_done: 40_000_000,
        bytes_total: Some(1_449_999_999),
        at_least: false,
        files_per_second: 3300,
        bytes_per_second: 110_000_000,
        eta_ms: Some(12_800),
    });
    r.monitors[0].health = Health::Bad;
    r.monitors[0].failures = 3;
    r.monitors[0].last_error = Some("connection refused".into());
    r.addresses[0].conflict = Some("02:00:00:00:00:07 answers for it".into());
    r.addresses[0].held = false;
    r.config.equal = Some(false);
    r.config.matters_equal = Some(false);
    r.config.file_changed = true;
    r.services[0].state = "failed".into();
    r.services[0].last_error = Some("exit code 1".into());
    r
}

#[test]
fn a_total_that_may_grow_says_so() {
    let mut r = master();
    r.trees[1].progress = Some(Progress {
        what: "copy".into(),
        files_done: 5,
        files_total: Some(9),
        bytes_done: 1_000,
        bytes_total: Some(2_000),
        at_least: true,
        files_per_second: 1,
        bytes_per_second: 100,
        eta_ms: None,
    });
    let page = plain(&r);
    let line = "copy: 5 of at least 9 files, 1.0 kB of at least 2.0 kB, 1 files/s, 100 B/s";
    assert!(page.lines().any(|l| l.trim() == line), "{page}");
}

#[test]
fn a_healthy_master() {
    compare(
        "master.txt",
        &plain(&master()),
        include_str!("tests/master.txt"),
    );
}

#[test]
fn a_standby_in_trouble() {
    compare(
        "troubled.txt",
        &plain(&troubled()),
        include_str!("tests/troubled.txt"),
    );
}

#[test]
fn a_node_that_has_just_begun() {
    let mut r = master();
    r.role = Role::Joining;
    r.phase = "waiting for mirror2".into();
    r.term = 0;
    r.relation = "unknown".into();
    r.peer.alive = false;
    r.peer.heard_ms = None;
    r.session.up = false;
    r.session.link = None;
    r.config.equal = None;
    r.takeover = TakeoverStatus {
        node: None,
        possible: false,
        reasons: vec![],
    };
    r.last_decision = None;
    r.trees[0].state = TreeState::Unborn;
    r.trees[0].epoch = None;
    r.trees[0].proven = false;
    r.trees.truncate(1);
    r.links.clear();
    r.monitors.clear();
    r.services.clear();
    r.addresses[0].held = false;
    compare("joining.txt", &plain(&r), include_str!("tests/joining.txt"));
}

#[test]
fn colours_change_nothing_but_colours() {
    for report in [master(), troubled()] {
        let coloured = status(&report, NOW, Style { on: true });
        assert!(coloured.contains("\x1b["));
        let mut bare = String::new();
        let mut rest = coloured.as_str();
        while let Some(at) = rest.find("\x1b[") {
            bare.push_str(&rest[..at]);
            let end = rest[at..].find('m').unwrap();
            rest = &rest[at + end + 1..];
        }
        bare.push_str(rest);
        assert_eq!(bare, plain(&report));
    }
}

#[test]
fn nothing_from_outside_reaches_the_terminal() {
    let text = serde_json::to_string(&troubled()).unwrap();
    // Every text of the report, with an escape sequence in it.
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    poison(&mut value);
    let report: StatusReport = serde_json::from_value(value).unwrap();
    let shown = plain(&report);
    assert!(!shown.contains('\x1b'), "{shown:?}");
    assert!(shown.contains("u{1b}[31mpoison"));
}

fn poison(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => {
            // Words of an enum become its unknown value, or stay.
            let kept = [
                "standby",
                "master",
                "good",
                "bad",
                "stopped",
                "copying",
                "consistent",
            ];
            if !kept.contains(&text.as_str()) {
                text.push_str("\x1b[31mpoison\r");
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(poison),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(poison),
        _ => {}
    }
}
