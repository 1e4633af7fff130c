//! The thread for everything that the kernel's network half does: addresses, announcements, fence, events.
//!
//! Orders are carried out one after the other, in the order in which they were given; only announcements run beside them.

mod fencing;
mod watch_kernel;

use super::Setup;
use crate::address::{self, FloatingAddress, Ledger};
use crate::announce::{self, Listener};
use crate::effect::Ticket;
use crate::fence::Fence;
use crate::iface::{Interface, InterfaceTable, Netlink};
use crate::input::Input;
use crate::probe::monitor::Vantage;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Room for orders. The machine has a few under way at a time.
const ORDERS: usize = 64;

/// Distance of two reports about the same foreign claim of a floating address, and of two tries to listen for one.
const CLAIM_PAUSE: Duration = Duration::from_secs(1);

/// What the loop wants of this thread.
#[derive(Debug)]
pub(super) enum Order {
    Add(Ticket),
    Remove(Ticket),
    Refresh,
    Announce {
        times: u8,
        every: Duration,
    },
    Fence(Ticket),
    Unfence(Ticket),
    Setup {
        addresses: Vec<FloatingAddress>,
        lifetime: Duration,
    },
}

/// The thread, seen from the loop.
pub(super) struct Net {
    /// Orders; never waited for.
    pub(super) orders: mpsc::Sender<Order>,
    /// Whether each device of this node is up and has carrier.
    pub(super) carriers: watch::Receiver<BTreeMap<String, bool>>,
    pub(super) thread: std::thread::JoinHandle<()>,
}

/// Starts the thread.
pub(super) fn spawn(
    setup: &Setup,
    ledger: Ledger,
    interfaces: InterfaceTable,
    vantage: watch::Sender<Vantage>,
    results: mpsc::Sender<Input>,
) -> io::Result<Net> {
    spawn_with(Fence::raise, setup, ledger, interfaces, vantage, results)
}

fn spawn_with(
    raise: fencing::Raise,
    setup: &Setup,
    ledger: Ledger,
    interfaces: InterfaceTable,
    vantage: watch::Sender<Vantage>,
    results: mpsc::Sender<Input>,
) -> io::Result<Net> {
    let (orders, orders_in) = mpsc::channel(ORDERS);
    let (carriers_out, carriers) = watch::channel(BTreeMap::new());
    let (addresses, lifetime) = (setup.addresses.clone(), setup.policy.address_lifetime);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let thread = std::thread::Builder::new()
        .name("tandem-net".into())
        .spawn(move || {
            runtime.block_on(async move {
                let netlink = match Netlink::open() {
                    Ok(netlink) => netlink,
                    Err(error) => {
                        // Without netlink nothing can be held; the closed queue makes every order fail, and says so.
                        tracing::error!(%error, "no netlink socket");
                        return;
                    }
                };
                let worker = Worker {
                    netlink,
                    addresses,
                    lifetime,
                    ledger,
                    missing: None,
                    holding: false,
                    fence: fencing::State::Down,
                    raise,
                    burst: None,
                    listeners: JoinSet::new(),
                    interfaces,
                    vantage,
                    carriers: carriers_out,
                    results,
                };
                worker.run(orders_in).await;
            });
        })?;
    Ok(Net {
        orders,
        carriers,
        thread,
    })
}

struct Worker {
    netlink: Netlink,
    addresses: Vec<FloatingAddress>,
    lifetime: Duration,
    ledger: Ledger,
    /// What was last told of addresses that cannot be held.
    missing: Option<String>,
    /// The loop wants the addresses here.
    holding: bool,
    fence: fencing::State,
    raise: fencing::Raise,
    /// The announcement burst that is under way; a new one supersedes it.
    burst: Option<AbortOnDropHandle<()>>,
    /// One per floating address while they are held.
    listeners: JoinSet<()>,
    interfaces: InterfaceTable,
    vantage: watch::Sender<Vantage>,
    carriers: watch::Sender<BTreeMap<String, bool>>,
    results: mpsc::Sender<Input>,
}

impl Worker {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut events = watch_kernel::Source::new();
        self.list_devices().await;
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.carry_out(order).await,
                    None => return,
                },
                event = events.next() => self.take(event).await,
            }
        }
    }

    async fn carry_out(&mut self, order: Order) {
        match order {
            Order::Add(ticket) => {
                let result = self.hold().await;
                self.report(Input::AddressesDone { ticket, result }).await;
            }
            Order::Remove(ticket) => {
                let result = self.release().await;
                self.report(Input::AddressesDone { ticket, result }).await;
            }
            // What was removed, for good or as a fence, must not come back by a refresh.
            Order::Refresh if !self.holding || self.fence.is_removal() => {}
            Order::Refresh => {
                // What fails is told as trouble, when it changes.
                let _ = self.hold().await;
            }
            Order::Announce { times, every } => self.announce(times, every),
            Order::Fence(ticket) => {
                let result = self.raise_fence().await;
                self.report(Input::FenceDone { ticket, result }).await;
            }
            Order::Unfence(ticket) => {
                let result = self.lower_fence().await;
                self.report(Input::FenceDone { ticket, result }).await;
            }
            Order::Setup {
                addresses,
                lifetime,
            } => self.change(addresses, lifetime).await,
        }
    }

    /// Adds and renews. An error only if none could be: with some of them this node serves.
    async fn hold(&mut self) -> Result<(), String> {
        self.holding = true;
        if self.fence.is_removal() {
            self.fence = fencing::State::Down;
        }
        let result = address::hold(&self.netlink, &self.addresses, self.lifetime).await;
        let failures = result.err().map(|e| e.failures).unwrap_or_default();
        self.ledger.update(|state| {
            let failure = failures.iter().find(|(a, _)| *a == state.floating);
            state.held = failure.is_none();
            state.error = failure.map(|(_, why)| why.to_string());
        });
        self.vantage
            .send_if_modified(|v| std::mem::replace(v, Vantage::Holder) != Vantage::Holder);
        self.listen();
        let missing = self.ledger.errors();
        if missing != self.missing {
            self.missing.clone_from(&missing);
            self.report(Input::AddressTrouble(missing.clone())).await;
        }
        match missing {
            Some(why) if failures.len() == self.addresses.len() => Err(why),
            _ => Ok(()),
        }
    }

    async fn release(&mut self) -> Result<(), String> {
        self.holding = false;
        self.missing = None;
        self.burst = None;
        self.listeners.abort_all();
        self.listeners = JoinSet::new();
        let result = address::release(&self.netlink, &self.addresses).await;
        let failures = result.as_ref().err().map_or(&[][..], |e| &e.failures);
        self.ledger.update(|state| {
            state.held = failures.iter().any(|(a, _)| *a == state.floating);
            (state.error, state.conflict) = (None, None);
        });
        self.vantage
            .send_if_modified(|v| std::mem::replace(v, Vantage::Watcher) != Vantage::Watcher);
        result.map_err(|e| e.to_string())
    }

    /// A changed list: what is no longer in it goes, whoever is master; what is new comes with the next refresh of a holder.
    async fn change(&mut self, addresses: Vec<FloatingAddress>, lifetime: Duration) {
        let old = std::mem::replace(&mut self.addresses, addresses);
        self.lifetime = lifetime;
        let gone: Vec<_> = old
            .into_iter()
            .filter(|a| !self.addresses.contains(a))
            .collect();
        self.ledger.configure(&self.addresses);
        if let Err(error) = address::release(&self.netlink, &gone).await {
            tracing::warn!(%error, "an address that is no longer configured stays until its lifetime ends");
        }
        if self.holding && !self.fence.is_removal() {
            self.listeners = JoinSet::new();
            let _ = self.hold().await;
        }
    }

    fn announce(&mut self, times: u8, every: Duration) {
        let mut devices: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
        let held = self.ledger.held();
        for floating in &held {
            devices
                .entry(&floating.device)
                .or_default()
                .push(floating.address);
        }
        let bursts: Vec<(Interface, Vec<IpAddr>)> = devices
            .into_iter()
            .filter_map(|(device, addresses)| Some((self.interfaces.get(device)?, addresses)))
            .collect();
        self.burst = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let all = bursts.iter().map(|(interface, addresses)| async move {
                if let Err(error) = announce::announce(interface, addresses, times, every).await {
                    tracing::warn!(device = interface.name, %error, "announcement failed");
                }
            });
            futures_util::future::join_all(all).await;
        })));
    }

    /// Listens for other machines that claim a floating address, as long as it is held.
    fn listen(&mut self) {
        if !self.listeners.is_empty() {
            return;
        }
        for floating in &self.addresses {
            self.listeners.spawn(report_claims(
                floating.clone(),
                self.ledger.clone(),
                self.interfaces.clone(),
                self.results.clone(),
            ));
        }
    }

    async fn list_devices(&self) {
        match self.netlink.interfaces().await {
            Ok(all) => {
                self.interfaces.replace(all);
                self.show_carriers();
            }
            Err(error) => tracing::warn!(%error, "devices not listed"),
        }
    }

    fn show_carriers(&self) {
        let all = self.interfaces.carriers();
        self.carriers.send_if_modified(|shown| {
            let changed = *shown != all;
            if changed {
                *shown = all;
            }
            changed
        });
    }

    /// What the kernel has now, after it told that something changed or that events were lost. An address that went from a
    /// holder, or came to somebody else, is told to the loop.
    async fn look(&self) {
        let held = match address::held(&self.netlink, &self.addresses).await {
            Ok(held) => held,
            Err(error) => {
                tracing::warn!(%error, "addresses not listed");
                return;
            }
        };
        let (mut came, mut went) = (false, false);
        self.ledger.update(|state| {
            let is = held.contains(&state.floating);
            came |= is && !state.held;
            went |= !is && state.held;
            state.held = is;
        });
        if went && self.holding && !self.fence.is_removal() {
            self.report(Input::AddressRemoved).await;
        }
        if came && !self.holding {
            self.report(Input::AddressAppeared).await;
        }
    }

    async fn report(&self, input: Input) {
        // When the loop has ended, nobody wants the result.
        let _ = self.results.send(input).await;
    }
}

/// Reports foreign claims of one address, at most one each [`CLAIM_PAUSE`].
async fn report_claims(
    floating: FloatingAddress,
    ledger: Ledger,
    interfaces: InterfaceTable,
    results: mpsc::Sender<Input>,
) {
    loop {
        if let Some(interface) = interfaces.get(&floating.device)
            && let Ok(listener) = Listener::open(&interface, floating.address)
            && let Ok(mac) = listener.next().await
        {
            tracing::warn!(address = %floating.address, %mac, "another machine claims a floating address");
            ledger.set_conflict(floating.address, Some(mac));
            if results.send(Input::AddressConflict).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(CLAIM_PAUSE).await;
    }
}
