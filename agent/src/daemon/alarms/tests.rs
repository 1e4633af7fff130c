//! A healthy pair has no alarm; each trouble alone has exactly its own.

use super::super::facts::STOPPED;
use super::alarms;
use crate::api::types::*;
use tandem_failover::health::Health as Known;
use tandem_failover::heartbeat::TreeHead;
use tandem_failover::input::ProbeAnswers;
use tandem_failover::role::{Phase, Reason};
use tandem_failover::time::Instant;
use tandem_failover::view::{PeerIdentity, PeerView, TroubleView, View};
use tandem_sync::engine::{Alarm, EngineStatus, Mode, SessionStatus as DataSession};
use tandem_sync::tree::TreeId;

struct Scene {
    report: StatusReport,
    view: View,
    engine: EngineStatus,
}

fn link(name: &str) -> LinkStatus {
    LinkStatus {
        name: name.into(),
        device: "eth1".into(),
        local: "198.51.100.1".into(),
        remote: "198.51.100.2".into(),
        data: true,
        carrier: Some(true),
        up: true,
        heard_ms: Some(84),
        heard_by_peer: true,
        rtt_us: Some(312),
        loss_percent: Some(0.0),
    }
}

fn report() -> StatusReport {
    StatusReport {
        api: 1,
        version: "0.1.0".into(),
        pair: "mirror".into(),
        node: "mirror1".into(),
        role: Role::Master,
        phase: "master".into(),
        term: 7,
        term_armed: 8,
        since_unix_ms: 0,
        started_unix_ms: 0,
        preferred: "mirror1".into(),
        relation: "equal".into(),
        links: vec![link("private"), link("public")],
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
        replicas: vec![],
        monitors: vec![MonitorStatus {
            name: "web".into(),
            target: "http".into(),
            counts_for: "service".into(),
            health: Health::Good,
            failures: 0,
            since_unix_ms: None,
            last_error: None,
        }],
        trees: vec![],
        config: ConfigStatus {
            file: "/etc/tandem/tandem.toml".into(),
            mine: "1".into(),
            peer: Some("1".into()),
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
            label: None,
            held: true,
            error: None,
            conflict: None,
        }],
        last_decision: None,
        services: vec![ServiceStatus {
            name: "db".into(),
            state: "started".into(),
            since_unix_ms: None,
            last_error: None,
        }],
        alarms: vec![],
    }
}

fn view() -> View {
    View {
        role: tandem_failover::role::Role::Master,
        phase: Phase::Master,
        term: 7,
        term_armed: 8,
        since: Instant::default(),
        waiting: vec![],
        eligible: Ok(()),
        maintenance: None,
        hold: false,
        addresses_held: true,
        fenced: false,
        solo: false,
        own_network: Known::Good,
        own_services: Known::Good,
        peer_services: Known::Unknown,
        config_equal: Some(true),
        config_matters_equal: Some(true),
        links: vec![],
        peer: None,
        last_decision: None,
        trouble: TroubleView::default(),
    }
}

/// A master whose standby could take over.
fn master() -> Scene {
    Scene {
        report: report(),
        view: view(),
        engine: EngineStatus {
            peer_keeps: false,
            mode: Mode::Source { term: 7 },
            born: true,
            consistent: true,
            catching_up_only: true,
            reason: None,
            seq: 9,
            acked: 9,
            epochs_digest: 1,
            lag: None,
            fresh_at: None,
            hold: false,
            spooled: 0,
            session: Some(DataSession {
                version: 1,
                in_flight: 0,
                bytes: 0,
                caught_up: true,
            }),
            replicas: vec![],
            from: None,
            trees: vec![],
            alarms: vec![],
        },
    }
}

/// Its standby.
fn standby() -> Scene {
    let mut scene = master();
    scene.report.node = "mirror2".into();
    scene.report.peer.node = "mirror1".into();
    scene.report.peer.role = Some(Role::Master);
    scene.report.role = Role::Standby;
    scene.report.addresses[0].held = false;
    scene.view.role = tandem_failover::role::Role::Standby;
    scene.view.phase = Phase::Standby;
    scene.view.peer_services = Known::Good;
    scene.engine.mode = Mode::Replica;
    scene
}

fn shown(scene: &Scene) -> Vec<String> {
    alarms(&scene.report, &scene.view, &scene.engine)
}

type Change = fn(&mut Scene);

#[track_caller]
fn each(scene: fn() -> Scene, table: &[(&str, Change)]) {
    assert_eq!(shown(&scene()), Vec::<String>::new());
    for (expected, change) in table {
        let mut scene = scene();
        change(&mut scene);
        let shown = shown(&scene);
        assert!(
            shown.len() == 1 && shown[0].contains(expected),
            "{expected:?} expected, shown: {shown:?}"
        );
    }
}

fn unheard(s: &mut Scene) {
    s.report.peer.alive = false;
    for link in &mut s.report.links {
        (link.up, link.heard_by_peer) = (false, false);
    }
    s.report.session.up = false;
    s.engine.session = None;
}

fn silent(s: &mut Scene, answers: [bool; 4]) {
    let [icmp, arp, tcp, service] = answers;
    unheard(s);
    s.view.trouble.probes = Some(ProbeAnswers {
        icmp,
        arp,
        tcp,
        service,
        ..ProbeAnswers::SILENT
    });
}

#[test]
fn of_a_master() {
    each(
        master,
        &[
            ("mirror2 is silent: this master has no standby", unheard),
            ("mirror2 could not take over: its data is old", |s| {
                s.report.takeover.possible = false;
                s.report.takeover.reasons = vec!["its data is old".into()];
            }),
            ("mirror2 is master too", |s| {
                s.report.peer.role = Some(Role::Master)
            }),
            ("192.0.2.74/24 is not on this master's eth0", |s| {
                s.report.addresses[0].held = false;
            }),
            ("are fenced", |s| s.view.fenced = true),
            ("the term cannot be written", |s| {
                s.view.trouble.write_failed = true
            }),
            ("192.0.2.74/24: 02:00:00:00:00:07 answers for it too", |s| {
                s.report.addresses[0].conflict =
                    Some("02:00:00:00:00:07 answers for it too".into());
            }),
            ("this master's eth0: no network device eth0", |s| {
                s.report.addresses[0].held = false;
                s.report.addresses[0].error = Some("no network device eth0".into());
            }),
            ("the role stays here: no standby", |s| {
                s.view.trouble.refused = Some("the role stays here: no standby".into());
            }),
            (
                "no data session with mirror2, changes stay on this node: a reason",
                |s| {
                    s.report.session.up = false;
                    s.report.session.why = Some("a reason".into());
                },
            ),
            ("mirror2: no control connection", |s| {
                s.report.session.why = Some("no control connection: cut".into());
            }),
            ("(solo)", |s| s.view.solo = true),
            ("mirror2 keeps paths as they are for their flags", |s| {
                s.engine.peer_keeps = true
            }),
            ("tree www: emptied", |s| {
                s.engine.alarms = vec![Alarm {
                    tree: Some("www".into()),
                    kind: "guard".into(),
                    text: "emptied".into(),
                }];
            }),
        ],
    );
}

#[test]
fn of_either_node() {
    let table: &[(&str, Change)] = &[
        ("link private is down: nothing is heard", |s| {
            s.report.links[0].up = false;
        }),
        ("link private is down: no carrier on eth1", |s| {
            s.report.links[0].carrier = Some(false);
        }),
        ("does not hear this node", |s| {
            s.report.links[1].heard_by_peer = false;
        }),
        ("the configuration differs", |s| {
            s.report.config.matters_equal = Some(false);
        }),
        ("`tandem adopt`", |s| {
            s.view.trouble.identity = PeerIdentity::Regressed;
        }),
        ("used by two machines", |s| {
            s.view.trouble.identity = PeerIdentity::Cloned;
        }),
        ("uses this node's key", |s| {
            s.view.trouble.own_key_elsewhere = true;
        }),
        ("monitor web fails: HTTP status 500", |s| {
            s.report.monitors[0].health = Health::Bad;
            s.report.monitors[0].last_error = Some("HTTP status 500".into());
        }),
        ("service db failed: exit code 1", |s| {
            s.report.services[0].state = "failed".into();
            s.report.services[0].last_error = Some("exit code 1".into());
        }),
    ];
    each(master, table);
    each(standby, table);
}

#[test]
fn of_a_standby() {
    each(
        standby,
        &[
            ("is on eth0 of this node, which is not master", |s| {
                s.report.addresses[0].held = true;
            }),
            ("mirror1 is silent, its service still answers", |s| {
                silent(s, [false, true, false, true]);
            }),
            ("mirror1 is silent, its service still answers", |s| {
                silent(s, [false, true, false, false]);
            }),
            ("mirror1 is silent, its machine still answers", |s| {
                silent(s, [false, true, false, false]);
                s.view.peer_services = Known::Bad;
            }),
            ("mirror1 is silent: nothing of it answers", |s| {
                silent(s, [false; 4]);
            }),
            ("mirror1 is silent, and no question to it leaves", |s| {
                unheard(s);
                s.view.trouble.probes = Some(ProbeAnswers::default());
            }),
            ("its changes do not arrive", |s| s.report.session.up = false),
            ("could not take over: stale", |s| {
                s.report.takeover.possible = false;
                s.report.takeover.reasons = vec!["stale".into()];
            }),
        ],
    );
}

#[test]
fn of_a_node_that_waits() {
    let mut scene = standby();
    scene.report.role = Role::Joining;
    scene.view.phase = Phase::Joining;
    scene.view.waiting = vec![Reason::PeerSilent];
    scene.engine.mode = Mode::Idle;
    unheard(&mut scene);
    let shown = shown(&scene);
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(shown[0].contains("the agent on mirror1 is silent"));
    assert!(shown[1].contains("waits to join: the peer is not heard"));
}

/// Only while it is heard: later its status is unknown.
#[test]
fn of_a_tree_that_is_stopped_on_the_other_node() {
    let mut scene = standby();
    scene.report.trees = vec![tree("etc"), tree("www")];
    scene.view.peer = Some(peer_that_stopped("www"));
    let expected = "tree www: stopped on mirror1, whose status says why";
    assert_eq!(shown(&scene), [expected]);
    if let Some(peer) = &mut scene.view.peer {
        peer.heard = false;
    }
    assert_eq!(shown(&scene), Vec::<String>::new());
}

fn peer_that_stopped(name: &str) -> PeerView {
    let mut tree = [0; 4];
    tree.copy_from_slice(&TreeId::of(name).0[..4]);
    PeerView {
        heard: true,
        identity: PeerIdentity::Same,
        role: tandem_failover::role::Role::Master,
        phase: Phase::Master,
        term: 7,
        last_heard: None,
        eligible: Ok(()),
        network: Known::Good,
        services: Known::Good,
        heads: vec![TreeHead {
            tree,
            epoch: [1; 16],
            state: STOPPED,
        }],
        seq: 9,
        lag: None,
        hold: false,
        config_digest: 1,
    }
}

fn tree(name: &str) -> TreeStatus {
    TreeStatus {
        name: name.into(),
        path: format!("/{name}"),
        state: TreeState::Consistent,
        stopped: None,
        proven: true,
        epoch: None,
        lineage_length: 1,
        seq: 9,
        acked: 9,
        lag_ms: None,
        stale_ms: None,
        queue: 0,
        files: 1,
        bytes: 1,
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
        fuzzy: vec![],
        fuzzy_more: 0,
        reading: None,
        inexact: Default::default(),
    }
}

/// Nothing hides anything else, and nothing is said twice.
#[test]
fn of_everything_at_once() {
    let mut scene = master();
    scene.view.trouble.identity = PeerIdentity::Regressed;
    scene.report.addresses[0].held = false;
    scene.view.waiting = vec![Reason::AddressInUse, Reason::AddressInUse];
    scene.report.links[0].carrier = Some(false);
    scene.report.monitors[0].health = Health::Bad;
    unheard(&mut scene);
    let shown = shown(&scene);
    assert_eq!(shown.len(), 6, "{shown:?}");
    assert!(shown[0].contains("adopt"), "the most important first");
}
