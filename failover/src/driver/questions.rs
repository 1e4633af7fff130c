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
use crate::probe::{Outlet, arp, icmp, tcp};
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
                    let answered = claims.iter().any(|(_, mac)| mac.is_some());
                    // For a node that holds nothing, the answer is only that of whoever does.
                    for (address, mac) in claims.into_iter().filter(|_| holder) {
                        ledger.set_conflict(address, mac);
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
    let links = join_all(targets.links.iter().map(|link| async move {
        let via = Outlet {
            device: Some(link.device.clone()),
            source: Some(link.own),
        };
        let arp = async {
            match targets.surroundings.interfaces.get(&link.device) {
                Some(interface) => arp::resolve(&interface, link.peer, within).await.is_ok(),
                None => false,
            }
        };
        tokio::join!(
            async { icmp::echo(link.peer, &via, within).await.is_ok() },
            arp,
            async {
                tcp::answer((link.peer, targets.port).into(), &via, within)
                    .await
                    .is_ok()
            },
        )
    }));
    let service = monitor::any_service_once(&targets.monitors, &targets.surroundings, within);
    let network = monitor::network_once(&targets.monitors, states, &targets.surroundings, within);
    let (links, service, network) = tokio::join!(links, service, network);
    ProbeAnswers {
        icmp: links.iter().any(|l| l.0),
        arp: links.iter().any(|l| l.1),
        tcp: links.iter().any(|l| l.2),
        service,
        network,
    }
}

/// Which other machine answers for each floating address. A device that cannot ask hears no answer.
async fn ask_conflict(targets: &Targets, within: Duration) -> Vec<(IpAddr, Option<Mac>)> {
    join_all(targets.addresses.iter().map(|floating| async move {
        let address = floating.address;
        let Some(interface) = targets.surroundings.interfaces.get(&floating.device) else {
            return (address, None);
        };
        let answer = who_has(&interface, address, within).await;
        match &answer {
            Ok(Some(mac)) => {
                tracing::warn!(%address, %mac, "another machine answers for a floating address");
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%address, %error, "cannot ask who has it"),
        }
        (address, answer.ok().flatten())
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
