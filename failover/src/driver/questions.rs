//! The thread that asks other machines: confirmation rounds, conflicts, monitors, and the fence device.

use super::{PeerFence, Setup};
use crate::address::{FloatingAddress, Ledger};
use crate::announce::{announce, who_has};
use crate::effect::Ticket;
use crate::heartbeat_io::LinkConfig;
use crate::iface::{InterfaceTable, Mac};
use crate::input::{Input, ProbeAnswers};
use crate::probe::command::{self, CommandCheck};
use crate::probe::monitor::{self, Board, MonitorConfig, MonitorState, Surroundings, Vantage};
use crate::probe::{Outlet, Reply, arp, icmp, tcp};
use futures_util::future::join_all;
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Room for orders, and most of them under way at once. The machine has one or two.
const ORDERS: usize = 16;

/// What the loop wants of this thread.
#[derive(Debug)]
pub(super) enum Order {
    Peer { ticket: Ticket, within: Duration },
    Conflict { ticket: Ticket, within: Duration },
    FencePeer(Ticket),
    Setup(Box<Setup>),
}

/// The thread, seen from the loop.
pub(super) struct Questions {
    /// Orders; never waited for.
    pub(super) orders: mpsc::Sender<Order>,
    /// What the monitors show.
    pub(super) board: watch::Receiver<Board>,
    pub(super) thread: std::thread::JoinHandle<()>,
}

/// Starts the thread.
pub(super) fn spawn(
    setup: &Setup,
    ledger: Ledger,
    interfaces: InterfaceTable,
    vantage: watch::Receiver<Vantage>,
    results: mpsc::Sender<Input>,
) -> io::Result<Questions> {
    let (orders, orders_in) = mpsc::channel(ORDERS);
    let (board_out, board) = watch::channel(Board {
        vantage: Vantage::Watcher,
        states: Vec::new(),
    });
    let setup = setup.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let thread = std::thread::Builder::new()
        .name("tandem-probe".into())
        .spawn(move || {
            runtime.block_on(async move {
                let mut worker = Worker {
                    targets: Targets::new(&setup, interfaces.clone()),
                    interfaces,
                    ledger,
                    vantage,
                    board: board_out,
                    results,
                    monitors: None,
                    tasks: JoinSet::new(),
                };
                worker.start_monitors(Vec::new());
                announce_own(&worker.targets).await;
                worker.run(orders_in).await;
            });
            // A program that hangs on a dead disk must not hold up the end of the agent.
            runtime.shutdown_background();
        })?;
    Ok(Questions {
        orders,
        board,
        thread,
    })
}

/// Who and what is asked.
#[derive(Debug, Clone)]
struct Targets {
    links: Vec<LinkConfig>,
    port: u16,
    addresses: Vec<FloatingAddress>,
    monitors: Vec<MonitorConfig>,
    peer_fence: Option<PeerFence>,
    surroundings: Surroundings,
}

impl Targets {
    fn new(setup: &Setup, interfaces: InterfaceTable) -> Self {
        let peers = setup
            .links
            .iter()
            .rev()
            .map(|l| (l.device.clone(), l.peer))
            .collect();
        Self {
            links: setup.links.clone(),
            port: setup.port,
            addresses: setup.addresses.clone(),
            monitors: setup.monitors.clone(),
            peer_fence: setup.peer_fence.clone(),
            surroundings: Surroundings {
                floating: setup.addresses.clone(),
                peers,
                interfaces,
            },
        }
    }
}

struct Worker {
    targets: Targets,
    interfaces: InterfaceTable,
    ledger: Ledger,
    vantage: watch::Receiver<Vantage>,
    board: watch::Sender<Board>,
    results: mpsc::Sender<Input>,
    monitors: Option<AbortOnDropHandle<()>>,
    tasks: JoinSet<()>,
}

impl Worker {
    async fn run(&mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            tokio::select! {
                order = orders.recv(), if self.tasks.len() < ORDERS => match order {
                    Some(order) => self.carry_out(order),
                    None => return,
                },
                Some(_) = self.tasks.join_next() => {}
            }
        }
    }

    /// The board shows the monitors `before`.
    fn start_monitors(&mut self, before: Vec<MonitorConfig>) {
        self.monitors = Some(AbortOnDropHandle::new(tokio::spawn(monitor::run(
            self.targets.monitors.clone(),
            before,
            self.targets.surroundings.clone(),
            self.vantage.clone(),
            self.board.clone(),
        ))));
    }

    fn is_holder(&self) -> bool {
        *self.vantage.borrow() == Vantage::Holder
    }

    fn carry_out(&mut self, order: Order) {
        let (targets, results) = (self.targets.clone(), self.results.clone());
        match order {
            Order::Setup(setup) => {
                let new = Targets::new(&setup, self.interfaces.clone());
                let old = std::mem::replace(&mut self.targets, new);
                let restart = old.monitors != self.targets.monitors
                    || old.addresses != self.targets.addresses
                    || old.links != self.targets.links;
                if restart {
                    self.start_monitors(old.monitors);
                }
            }
            Order::Peer { ticket, within } => {
                let states = self.board.borrow().states.clone();
                self.tasks.spawn(async move {
                    let answers = ask_peer(&targets, &states, within).await;
                    let _ = results.send(Input::ProbeDone { ticket, answers }).await;
                });
            }
            Order::Conflict { ticket, within } => {
                let (ledger, holder) = (self.ledger.clone(), self.is_holder());
                self.tasks.spawn(async move {
                    let claims = ask_conflict(&targets, within).await;
                    let answered = in_use(&claims);
                    // For a node that holds nothing, the answer is only that of whoever does.
                    for (address, claim) in claims.into_iter().filter(|_| holder) {
                        if let Ok(mac) = claim {
                            ledger.set_conflict(address, mac);
                        }
                    }
                    let _ = results.send(Input::ConflictDone { ticket, answered }).await;
                });
            }
            Order::FencePeer(ticket) => {
                self.tasks.spawn(async move {
                    let result = fence_peer(targets.peer_fence).await;
                    let _ = results.send(Input::PeerFenced { ticket, result }).await;
                });
            }
        }
    }
}

/// Tells the neighbours on each link where this node's own address of that link is. A machine that had the address until
/// now (a copy of this one, an exchanged interface) stays in their tables for half a minute, and so long the peer's
/// heartbeats and answers would go to it. Sends one announcement for each link and waits for nothing.
async fn announce_own(targets: &Targets) {
    for link in &targets.links {
        // An address is announced only where it is: what cannot be bound is not there (yet).
        if std::net::UdpSocket::bind((link.own, 0)).is_err() {
            continue;
        }
        let Some(interface) = targets.surroundings.interfaces.get(&link.device) else {
            continue;
        };
        if let Err(error) = announce(&interface, &[link.own], 1, Duration::ZERO).await {
            tracing::debug!(device = link.device, %error, "own address is not announced");
        }
    }
}

/// One confirmation round: every question on every link at once, after this node has said where it is to be answered.
async fn ask_peer(targets: &Targets, states: &[MonitorState], within: Duration) -> ProbeAnswers {
    announce_own(targets).await;
    let around = &targets.surroundings;
    let links = join_all(targets.links.iter().map(|link| async move {
        let via = Outlet {
            device: Some(link.device.clone()),
            source: Some(link.own),
        };
        let (icmp, arp, tcp) = tokio::join!(
            icmp::echo(link.peer, &via, within),
            ask_arp(around, &link.device, link.peer, within),
            tcp::answer((link.peer, targets.port).into(), &via, within),
        );
        [icmp.into(), arp, tcp.into()]
    }));
    // On a device with a link the peer is asked at its real address already, and anybody else's answer would say nothing of it.
    let elsewhere = targets.addresses.iter();
    let elsewhere = elsewhere.filter(|floating| !around.peers.contains_key(&floating.device));
    let floating = join_all(elsewhere.map(|f| ask_arp(around, &f.device, f.address, within)));
    let service = monitor::any_service_once(&targets.monitors, &targets.surroundings, within);
    let network = monitor::network_once(&targets.monitors, states, &targets.surroundings, within);
    let (links, floating, service, network) = tokio::join!(links, floating, service, network);
    let is_answered = |kind: usize| links.iter().any(|replies| replies[kind] == Reply::Answered);
    let mut replies = links.iter().flatten().chain(&floating);
    ProbeAnswers {
        asked: replies.any(|reply| *reply != Reply::NotPut),
        icmp: is_answered(0),
        arp: is_answered(1),
        tcp: is_answered(2),
        floating: floating.contains(&Reply::Answered),
        service,
        network,
    }
}

async fn ask_arp(around: &Surroundings, device: &str, target: IpAddr, within: Duration) -> Reply {
    match around.interfaces.get(device) {
        Some(interface) => arp::resolve(&interface, target, within).await.into(),
        None => Reply::NotPut,
    }
}

/// Which other machine answers for a floating address, or why that cannot be asked.
type Claim = (IpAddr, Result<Option<Mac>, String>);

/// Whether another machine answers for any of them. That none does is known only when every one was asked for.
fn in_use(claims: &[Claim]) -> Result<bool, String> {
    if claims.iter().any(|(_, claim)| matches!(claim, Ok(Some(_)))) {
        return Ok(true);
    }
    match claims.iter().find_map(|(_, claim)| claim.as_ref().err()) {
        Some(error) => Err(error.clone()),
        None => Ok(false),
    }
}

/// Asks for each floating address.
async fn ask_conflict(targets: &Targets, within: Duration) -> Vec<Claim> {
    join_all(targets.addresses.iter().map(|floating| async move {
        let address = floating.address;
        let Some(interface) = targets.surroundings.interfaces.get(&floating.device) else {
            return (
                address,
                Err(format!("no network device {}", floating.device)),
            );
        };
        let answer = who_has(&interface, address, within).await;
        match &answer {
            Ok(Some(mac)) => {
                tracing::warn!(%address, %mac, "another machine answers for a floating address");
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%address, %error, "cannot ask who has it"),
        }
        (address, answer.map_err(|e| e.to_string()))
    }))
    .await
}

async fn fence_peer(fence: Option<PeerFence>) -> Result<(), String> {
    let Some(PeerFence { argv, timeout }) = fence else {
        return Err("no fence device is configured".into());
    };
    match command::run(&CommandCheck { argv }, timeout).await {
        Ok(summary) => {
            tracing::warn!(summary, "the peer was cut off");
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address;
    use crate::driver::tests::{floating, setup};
    use crate::iface::Netlink;
    use crate::testnet::{Host, Pair};

    const SILENCE: Duration = Duration::from_millis(300);
    /// For answers that must come, on a machine that does many things.
    const PATIENT: Duration = Duration::from_secs(5);

    /// The targets of host A, whose link is on `device`.
    async fn targets(device: &str) -> Targets {
        let netlink = Netlink::open().expect("netlink opens");
        let interfaces = InterfaceTable::default();
        interfaces.replace(netlink.interfaces().await.expect("listed"));
        let mut setup = setup();
        setup.links[0].device = device.to_owned();
        Targets::new(&setup, interfaces)
    }

    fn ask(a: &Host, device: &'static str, within: Duration) -> ProbeAnswers {
        a.block_on(move || async move { ask_peer(&targets(device).await, &[], within).await })
    }

    fn hold_at(host: &Host) {
        host.block_on(|| async {
            let netlink = Netlink::open().expect("netlink opens");
            address::hold(&netlink, &[floating()], Duration::from_secs(60))
                .await
                .expect("held");
        });
    }

    #[test]
    fn what_cannot_be_asked_is_no_silence() {
        let pair = Pair::new();
        let living = ask(&pair.a, "eth0", PATIENT);
        assert!(living.asked && living.icmp && living.arp && living.tcp);
        pair.a.set_link("eth0", false);
        assert_eq!(ask(&pair.a, "eth0", SILENCE), ProbeAnswers::default());
        pair.a.set_link("eth0", true);
        pair.b.set_link("eth0", false);
        assert_eq!(ask(&pair.a, "eth0", SILENCE), ProbeAnswers::SILENT);
    }

    /// The only link is a cable that is gone, and the master goes on serving on the public network.
    #[test]
    fn whoever_holds_a_floating_address_where_there_is_no_link_answers() {
        let pair = Pair::new();
        assert_eq!(ask(&pair.a, "eth9", SILENCE), ProbeAnswers::SILENT);
        hold_at(&pair.b);
        let serving = ProbeAnswers {
            floating: true,
            ..ProbeAnswers::SILENT
        };
        assert_eq!(ask(&pair.a, "eth9", PATIENT), serving);
    }

    #[test]
    fn that_nobody_uses_an_address_is_known_only_when_it_was_asked() {
        let pair = Pair::new();
        let asked = |device: &'static str, within| {
            pair.a.block_on(move || async move {
                let mut targets = targets("eth0").await;
                let elsewhere = FloatingAddress {
                    address: "192.0.2.81".parse().expect("literal"),
                    device: device.to_owned(),
                    ..floating()
                };
                targets.addresses.push(elsewhere);
                in_use(&ask_conflict(&targets, within).await)
            })
        };
        assert_eq!(asked("eth0", SILENCE), Ok(false));
        let error = asked("eth9", SILENCE).expect_err("absent");
        assert!(error.contains("eth9"), "{error}");
        hold_at(&pair.b);
        assert_eq!(asked("eth9", PATIENT), Ok(true));
        pair.a.set_link("eth0", false);
        asked("eth0", SILENCE).expect_err("down");
    }
}
