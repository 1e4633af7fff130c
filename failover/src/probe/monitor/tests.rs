use super::*;
use crate::address;
use crate::iface::Netlink;
use crate::testnet::{A4, B4, Host, Pair};

const FLOATING: &str = "192.0.2.80";

fn floating() -> FloatingAddress {
    FloatingAddress {
        address: FLOATING.parse().expect("literal"),
        prefix: 24,
        device: "eth0".into(),
        label: None,
    }
}

fn http() -> MonitorConfig {
    MonitorConfig {
        name: "web".into(),
        check: Check::Http(HttpCheck {
            address: FLOATING.parse().expect("literal"),
            port: 80,
            path: "/".into(),
            host: "www.example.com".into(),
            status: 200..=299,
        }),
        counts_for: CountsFor::Service,
        interval: Duration::from_millis(50),
        timeout: Duration::from_millis(200),
        fall: 2,
        rise: 1,
    }
}

fn hold(host: &Host, held: bool) {
    host.block_on(move || async move {
        let netlink = Netlink::open().expect("netlink opens");
        if held {
            address::hold(&netlink, &[floating()], Duration::from_secs(60))
                .await
                .expect("held");
        } else {
            address::release(&netlink, &[floating()])
                .await
                .expect("released");
        }
    });
}

async fn surroundings(peer: &str) -> Surroundings {
    let netlink = Netlink::open().expect("netlink opens");
    let interfaces = InterfaceTable::default();
    interfaces.replace(netlink.interfaces().await.expect("listed"));
    Surroundings {
        floating: vec![floating()],
        peers: BTreeMap::from([("eth0".to_owned(), peer.parse().expect("literal"))]),
        interfaces,
    }
}

/// Runs the monitor on A, which watches B, and hands out its board.
fn watch_from_a(
    pair: &Pair,
    peer: &'static str,
) -> (watch::Receiver<Board>, watch::Sender<Vantage>) {
    let (board, shown) = watch::channel(Board {
        vantage: Vantage::Watcher,
        states: vec![],
    });
    let (vantage, stand) = watch::channel(Vantage::Watcher);
    let _running = pair.a.spawn(move || async move {
        run(vec![http()], vec![], surroundings(peer).await, stand, board).await;
    });
    (shown, vantage)
}

fn wait_for(
    pair: &Pair,
    board: &watch::Receiver<Board>,
    what: &'static str,
    f: fn(&MonitorState) -> bool,
) {
    let mut board = board.clone();
    let found = pair.a.block_on(move || async move {
        let all = board.wait_for(|b| b.states.first().is_some_and(f));
        tokio::time::timeout(Duration::from_secs(10), all)
            .await
            .is_ok()
    });
    assert!(found, "not within 10 s: {what}");
}

#[test]
fn a_service_at_the_peer_is_good_then_bad_when_it_stops_and_good_again() {
    let pair = Pair::new();
    hold(&pair.b, true);
    let server = pair.b.serve_http();
    let (board, _vantage) = watch_from_a(&pair, B4);
    wait_for(&pair, &board, "good", |s| s.health == Health::Good);
    drop(server);
    wait_for(&pair, &board, "bad: refused at the peer's MAC", |s| {
        s.health == Health::Bad
    });
    let _server = pair.b.serve_http();
    wait_for(&pair, &board, "good again", |s| s.health == Health::Good);
    hold(&pair.b, false);
    wait_for(
        &pair,
        &board,
        "bad: nobody has the address while the peer is there",
        |s| s.health == Health::Bad && s.last.contains("nobody has the address"),
    );
}

#[test]
fn a_cut_of_the_own_cable_is_no_evidence_against_the_peer() {
    let pair = Pair::new();
    hold(&pair.b, true);
    let _server = pair.b.serve_http();
    let (board, _vantage) = watch_from_a(&pair, B4);
    wait_for(&pair, &board, "good", |s| s.health == Health::Good);
    let mut seen = board.clone();
    let bad = pair.a.spawn(move || async move {
        let bad = seen.wait_for(|b| b.states[0].health == Health::Bad);
        tokio::time::timeout(Duration::from_secs(3), bad)
            .await
            .is_ok()
    });
    pair.a.set_link("eth0", false);
    wait_for(&pair, &board, "unknown", |s| s.health == Health::Unknown);
    assert!(
        !bad.recv_timeout(Duration::from_secs(10)).expect("ends"),
        "never bad"
    );
}

#[test]
fn a_third_machine_with_the_address_does_not_count() {
    let pair = Pair::new();
    hold(&pair.b, true);
    let _server = pair.b.serve_http();
    // The peer is said to be at an address that nobody has, so B is a stranger.
    let (board, _vantage) = watch_from_a(&pair, "192.0.2.77");
    wait_for(&pair, &board, "not counted", |s| {
        s.last.contains("MAC is not known")
    });
    assert_eq!(board.borrow().states[0].health, Health::Unknown);
}

#[test]
fn never_succeeded_is_unknown_and_a_change_of_place_begins_anew() {
    let pair = Pair::new();
    hold(&pair.b, true);
    let (board, vantage) = watch_from_a(&pair, B4);
    wait_for(&pair, &board, "refused", |s| s.last.contains("refused"));
    assert_eq!(board.borrow().states[0].health, Health::Unknown);
    let server = pair.b.serve_http();
    wait_for(&pair, &board, "good", |s| s.health == Health::Good);
    // A takes the address over and asks itself: nobody serves here.
    hold(&pair.b, false);
    drop(server);
    hold(&pair.a, true);
    vantage.send(Vantage::Holder).expect("monitors run");
    wait_for(&pair, &board, "asked locally", |s| {
        s.last.contains("refused")
    });
    assert_eq!(board.borrow().states[0].health, Health::Unknown);
    let _server = pair.a.serve_http();
    wait_for(&pair, &board, "good here", |s| s.health == Health::Good);
    let seen = board.borrow().clone();
    let all = summary(&seen.states, seen.vantage);
    assert_eq!(
        (all.own_services, all.peer_services),
        (Health::Good, Health::Unknown)
    );
}

#[test]
fn asked_once_it_serves_only_at_the_peer() {
    let pair = Pair::new();
    hold(&pair.b, true);
    let _server = pair.b.serve_http();
    let once = |peer: &'static str| {
        pair.a.block_on(move || async move {
            let around = surroundings(peer).await;
            any_service_once(&[http()], &around, Duration::from_millis(600)).await
        })
    };
    assert!(once(B4));
    assert!(!once(A4), "the peer is somebody else");
}

fn network(name: &str, check: Check) -> MonitorConfig {
    MonitorConfig {
        name: name.into(),
        check,
        counts_for: CountsFor::Network,
        interval: Duration::from_millis(50),
        timeout: Duration::from_secs(5),
        fall: 2,
        rise: 1,
    }
}

fn ping(name: &str, address: &str) -> MonitorConfig {
    network(name, Check::Ping(address.parse().expect("literal")))
}

fn slow() -> MonitorConfig {
    let argv = ["/bin/sleep", "0.5"].map(String::from).to_vec();
    network("slow", Check::Command(CommandCheck { argv }))
}

#[test]
fn of_the_own_network_only_what_can_be_answered_in_time_is_asked_in_the_round() {
    const QUICK: Option<Duration> = Some(Duration::from_millis(1));
    const SLOW: Option<Duration> = Some(Duration::from_millis(500));
    let (living, dead) = (ping("gateway", B4), ping("dns", "192.0.2.77"));
    let rows = [
        (vec![], Health::Unknown),
        (vec![(living.clone(), QUICK)], Health::Good),
        (vec![(dead.clone(), QUICK)], Health::Bad),
        (vec![(dead.clone(), QUICK), (living, QUICK)], Health::Good),
        (vec![(slow(), SLOW)], Health::Unknown),
        (vec![(slow(), SLOW), (dead.clone(), QUICK)], Health::Bad),
        // It never succeeded.
        (vec![(dead, None)], Health::Unknown),
    ];
    let pair = Pair::new();
    for (known, expected) in rows {
        let found = pair.a.block_on(move || async move {
            let monitors: Vec<_> = known.iter().map(|(monitor, _)| monitor.clone()).collect();
            let shown = known.iter().map(|(monitor, took)| MonitorState {
                took: *took,
                ..state(monitor, Health::Good, "")
            });
            let states: Vec<_> = shown.collect();
            let around = surroundings(B4).await;
            // An answer that must come may take long on a machine that does many things.
            let within = match expected {
                Health::Good => Duration::from_secs(5),
                Health::Unknown | Health::Bad => Duration::from_millis(300),
            };
            network_once(&monitors, &states, &around, within).await
        });
        assert_eq!(found, expected);
    }
}

/// How long an answer took is measured, and kept with everything else over a change of the other monitors.
#[test]
fn a_change_of_the_monitors_keeps_what_the_unchanged_ones_know() {
    Pair::new().a.block_on(|| async {
        let (board, mut shown) = watch::channel(Board {
            vantage: Vantage::Watcher,
            states: vec![],
        });
        let (_vantage, stand) = watch::channel(Vantage::Watcher);
        let around = surroundings(B4).await;
        let before = vec![slow(), ping("gateway", B4)];
        let running = run(
            before.clone(),
            vec![],
            around.clone(),
            stand.clone(),
            board.clone(),
        );
        let known = shown
            .wait_for(|b| b.states.len() == 2 && b.states.iter().all(|s| s.health == Health::Good));
        tokio::select! {
            () = running => panic!("it ends"),
            known = tokio::time::timeout(Duration::from_secs(10), known) => {
                known.expect("in time").expect("the board is there");
            }
        }
        let measured = shown.borrow().states.clone();
        assert!(measured[0].took.expect("measured") >= Duration::from_millis(500));
        let changed = MonitorConfig { fall: 7, ..slow() };
        let after = vec![ping("gateway", B4), changed, http()];
        // Polled once: it has asked nobody yet.
        tokio::select! {
            biased;
            () = run(after, before, around, stand, board) => panic!("it ends"),
            () = std::future::ready(()) => {}
        }
        let states = shown.borrow().states.clone();
        let health = states.iter().map(|s| s.health).collect::<Vec<_>>();
        assert_eq!(health, [Health::Good, Health::Unknown, Health::Unknown]);
        assert!(states[0].took.is_some() && states[0].took == measured[1].took);
    });
}

#[test]
fn one_dead_target_is_no_network_that_fails() {
    let network = |healths: &[Health]| {
        let of = |health: &Health| state(&ping("", B4), *health, "");
        let states: Vec<_> = healths.iter().map(of).collect();
        summary(&states, Vantage::Watcher).network
    };
    assert_eq!(network(&[Health::Good, Health::Bad]), Health::Good);
    assert_eq!(network(&[Health::Bad, Health::Unknown]), Health::Bad);
    assert_eq!(network(&[Health::Bad, Health::Bad]), Health::Bad);
}
