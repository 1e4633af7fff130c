//! Two real drivers with real machines on two hosts; only the data half and the services are played.

use super::*;
use crate::fence::Fence;
use crate::guardian::release_addresses;
use crate::input::{Command, DataFacts, DataReport, Relation};
use crate::probe::http::HttpCheck;
use crate::probe::monitor::{Check, CountsFor};
use crate::role::Phase;
use std::path::Path;

/// Bound of each step of the story: far above what it takes.
const STEP: Duration = Duration::from_secs(15);

/// A running node with a played agent.
struct Node {
    view: watch::Receiver<View>,
    inputs: mpsc::Sender<Input>,
    answers: channel::Receiver<Result<String, String>>,
    /// Dropping it ends the played agent, and with it the driver.
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    ended: channel::Receiver<()>,
}

/// What the data half would say: everything is the same on both nodes, and fresh.
fn facts() -> Input {
    Input::Data(Box::new(DataFacts {
        born: true,
        consistent: true,
        fresh_until: Some(clock::now() + Duration::from_secs(60)),
        relation: Relation::Equal,
        epochs_digest: 7,
        seq: 1,
        lag: Some(Duration::ZERO),
        ..DataFacts::default()
    }))
}

fn node_setup(own: u8) -> Setup {
    let peer = 3 - own;
    let mut policy = Policy::new(pair_id(), KeyId::of(&key(own).1), KeyId::of(&key(peer).1));
    policy.preferred = own == 1;
    let address = |node: u8| if node == 1 { A4 } else { B4 }.parse().expect("literal");
    Setup {
        policy,
        links: vec![LinkConfig {
            device: "eth0".into(),
            own: address(own),
            peer: address(peer),
        }],
        monitors: vec![MonitorConfig {
            name: "web".into(),
            check: Check::Http(HttpCheck {
                address: FLOATING.parse().expect("literal"),
                port: 80,
                path: "/".into(),
                host: "www.example.com".into(),
                status: 200..=299,
            }),
            counts_for: CountsFor::Service,
            interval: Duration::from_millis(100),
            timeout: Duration::from_secs(1),
            fall: 2,
            rise: 1,
        }],
        ..setup()
    }
}

impl Node {
    fn start(host: &Host, own: u8, state: &Path) -> Self {
        let directory = state.to_owned();
        let handle = host.block_on(move || async move {
            let keys = Keys {
                pair: pair_id(),
                own: key(own).0,
                own_public: key(own).1,
                peer_public: key(3 - own).1,
            };
            spawn(DriverConfig {
                keys,
                state_directory: directory,
                setup: node_setup(own),
                handover: None,
            })
            .expect("starts")
        });
        let (view, inputs) = (handle.view.clone(), handle.inputs.clone());
        let (answer, answers) = channel::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let ended = host.spawn(move || async move {
            play(handle, answer, stopped).await;
        });
        Self {
            view,
            inputs,
            answers,
            stop: Some(stop),
            ended,
        }
    }

    fn wait(&self, what: &str, wanted: impl Fn(&View) -> bool) -> View {
        let deadline = std::time::Instant::now() + STEP;
        loop {
            let view = self.view.borrow().clone();
            if wanted(&view) {
                return view;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "not within {STEP:?}: {what}; {view:#?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn command(&self, command: Command) -> Result<String, String> {
        let ticket = Ticket(1000);
        self.inputs
            .blocking_send(Input::Operator { ticket, command })
            .expect("the loop runs");
        self.answers
            .recv_timeout(STEP)
            .expect("every command is answered")
    }

    /// Ends the agent as kill -9 would: nothing is handed over or released.
    fn kill(mut self) {
        drop(self.stop.take());
        self.ended.recv_timeout(STEP).expect("it ends");
    }
}

/// Answers for the data half and the services.
async fn play(
    mut handle: DriverHandle,
    answer: channel::Sender<Result<String, String>>,
    mut stopped: tokio::sync::oneshot::Receiver<()>,
) {
    let mut fresh = tokio::time::interval(Duration::from_millis(200));
    loop {
        let input = tokio::select! {
            _ = &mut stopped => break,
            _ = fresh.tick() => facts(),
            effect = handle.effects.recv() => match effect {
                Some(AgentEffect::Data { ticket, .. }) => Input::DataDone {
                    ticket,
                    result: Ok(DataReport { epochs_digest: 7, seq: 1 }),
                },
                Some(AgentEffect::Services { ticket, .. }) => {
                    Input::ServicesDone { ticket, result: Ok(()) }
                }
                Some(AgentEffect::Answer { result, .. }) => {
                    // The test may not be waiting for it.
                    let _ = answer.send(result);
                    continue;
                }
                Some(_) => continue,
                None => break,
            },
        };
        if handle.inputs.send(input).await.is_err() {
            break;
        }
    }
    // Not on this thread: it waits for the driver's threads.
    let joined = tokio::task::spawn_blocking(move || handle.join()).await;
    joined.expect("does not panic");
}

/// Who answers for the floating address, asked on a host that does not hold it.
fn owner(asked_on: &Host) -> Option<crate::iface::Mac> {
    asked_on.block_on(|| async {
        let netlink = Netlink::open().expect("netlink opens");
        let eth0 = netlink.interface("eth0").await.expect("exists");
        let target = FLOATING.parse().expect("literal");
        crate::announce::who_has(&eth0, target, Duration::from_secs(2))
            .await
            .expect("asked")
    })
}

/// A node shows its role as soon as it has decided: the addresses follow.
fn holds(host: &Host, what: &str) {
    host.wait_until(what, || async {
        let netlink = Netlink::open().expect("netlink opens");
        let held = address::held(&netlink, &[floating()]).await;
        !held.expect("listed").is_empty()
    });
}

fn is(role: Role) -> impl Fn(&View) -> bool {
    move |view| view.role == role
}

fn ready(view: &View) -> bool {
    // A node that gave the role away and waits is a standby too, behind its fence.
    view.phase == Phase::Standby && view.eligible.is_ok()
}

#[test]
fn agree_take_over_return_and_fail_back() {
    let pair = Pair::new();
    let (state_a, state_b) = (tempfile::tempdir(), tempfile::tempdir());
    let (state_a, state_b) = (state_a.expect("a directory"), state_b.expect("a directory"));

    // Both start; the preferred one becomes master, and the other could take over.
    let a = Node::start(&pair.a, 1, state_a.path());
    let b = Node::start(&pair.b, 2, state_b.path());
    a.wait("A is master", is(Role::Master));
    b.wait("B could take over", ready);
    holds(&pair.a, "A holds the address");
    assert!(!held(&pair.b));
    assert_eq!(owner(&pair.b), Some(pair.a.mac()));

    // A's power is cut: the agent is gone and its kernel says nothing any more, though the cable stays.
    a.kill();
    pair.a.block_on(|| async {
        let mut all = vec![floating(), floating()];
        all[1].address = A4.parse().expect("literal");
        drop(Fence::raise(&all).expect("fenced"));
    });
    let cut = std::time::Instant::now();
    let view = b.wait("B has taken over", is(Role::Master));
    let gap = cut.elapsed();
    assert!(gap < Duration::from_secs(4), "{gap:?}");
    assert!(view.term > 1);
    holds(&pair.b, "B holds the address");

    // A comes back without its addresses, and follows; its durable state survived.
    pair.a.block_on(|| async {
        std::thread::spawn(|| release_addresses(&[floating()]))
            .join()
            .expect("does not panic")
            .expect("released")
    });
    let a = Node::start(&pair.a, 1, state_a.path());
    a.wait("A could take over", ready);
    assert_eq!(b.view.borrow().role, Role::Master);
    assert!(held(&pair.b) && !held(&pair.a));

    b.wait("B knows it", |v| {
        v.peer
            .as_ref()
            .is_some_and(|p| p.heard && p.eligible.is_ok())
    });

    // Fail-back: the planned move to the preferred node.
    let answer = b.command(Command::Failback);
    assert!(answer.is_ok(), "{answer:?}");
    a.wait("A is master again", is(Role::Master));
    b.wait("B could take over again", ready);
    holds(&pair.a, "A holds the address again");
    assert!(!held(&pair.b));
    assert_eq!(owner(&pair.b), Some(pair.a.mac()));
    assert_eq!(a.view.borrow().term, b.view.borrow().term);
}

#[test]
fn a_killed_agent_whose_kernel_answers_loses_nothing_but_its_own_time() {
    let pair = Pair::new();
    let (state_a, state_b) = (tempfile::tempdir(), tempfile::tempdir());
    let (state_a, state_b) = (state_a.expect("a directory"), state_b.expect("a directory"));
    let a = Node::start(&pair.a, 1, state_a.path());
    let b = Node::start(&pair.b, 2, state_b.path());
    a.wait("A is master", is(Role::Master));
    b.wait("B could take over", ready);
    // Only the agent dies, and no monitor says that the service does: no takeover, and the address stays.
    a.kill();
    b.wait("B hears nothing", |v| {
        v.peer.as_ref().is_some_and(|p| !p.heard)
    });
    let deadline = std::time::Instant::now() + Duration::from_secs(2);
    while std::time::Instant::now() < deadline {
        assert_ne!(
            b.view.borrow().role,
            Role::Master,
            "the peer's kernel answers"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(held(&pair.a));
    // Its successor finds the role and the address where they were.
    let a = Node::start(&pair.a, 1, state_a.path());
    a.wait("A is master again", is(Role::Master));
    b.wait("B could take over", ready);
}

/// Agent and service of the master die together, its kernel lives on: the standby takes over, whether the guardian has
/// removed the address or the dead node still answers for it.
fn agent_and_service_die(guardian: bool) {
    let pair = Pair::new();
    let (state_a, state_b) = (tempfile::tempdir(), tempfile::tempdir());
    let (state_a, state_b) = (state_a.expect("a directory"), state_b.expect("a directory"));
    let a = Node::start(&pair.a, 1, state_a.path());
    let b = Node::start(&pair.b, 2, state_b.path());
    let server = pair.a.serve_http();
    a.wait("A is master and serves", |v| {
        v.role == Role::Master && v.own_services == Health::Good
    });
    b.wait("B could take over and sees the service", |v| {
        ready(v) && v.peer_services == Health::Good
    });
    // From here on, A's network hears who claims the address.
    let heard = pair.a.spawn(|| async {
        let netlink = Netlink::open().expect("netlink opens");
        let eth0 = netlink.interface("eth0").await.expect("exists");
        let target = FLOATING.parse().expect("literal");
        let listener = crate::announce::Listener::open(&eth0, target).expect("opens");
        listener.next().await.expect("heard")
    });
    drop(server);
    a.kill();
    if guardian {
        pair.a.block_on(|| async {
            std::thread::spawn(|| release_addresses(&[floating()]))
                .join()
                .expect("does not panic")
                .expect("released")
        });
    }
    b.wait("B has taken over", is(Role::Master));
    let mac = heard.recv_timeout(STEP).expect("B announces");
    assert_eq!(mac, pair.b.mac());
}

#[test]
fn a_hung_node_that_still_answers_for_the_address_is_succeeded() {
    agent_and_service_die(false);
}

#[test]
fn a_hung_node_without_the_address_is_succeeded() {
    agent_and_service_die(true);
}
