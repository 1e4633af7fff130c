//! Monitors: the same question again and again, turned into [`Health`].
//!
//! What a service monitor asks depends on where the floating addresses are. The node that holds them asks locally. The other
//! one asks at the floating address through its public device, and the result counts only if the address is the peer's:
//! a failure that comes from this node's own cable, or from a third machine with that address, says nothing about the peer.

mod judge;
mod once;
mod tally;

pub use once::{any_service_once, network_once};

use super::command::CommandCheck;
use super::http::HttpCheck;
use crate::address::FloatingAddress;
use crate::clock;
use crate::health::{Health, all_of, any_of};
use crate::iface::InterfaceTable;
use crate::time::Instant;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tally::Tally;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// How a monitor asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// ICMP echo.
    Ping(IpAddr),
    /// HTTP GET.
    Http(HttpCheck),
    /// TCP connect; a refusal is a failure.
    Tcp(SocketAddr),
    /// A program.
    Command(CommandCheck),
}

impl Check {
    /// The address that is asked; `None` for programs.
    fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Ping(address) => Some(*address),
            Self::Http(check) => Some(check.address),
            Self::Tcp(target) => Some(target.ip()),
            Self::Command(_) => None,
        }
    }
}

/// What a monitor's failure says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CountsFor {
    /// The service of the pair.
    Service,
    /// This node's own public network.
    Network,
}

/// One monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitorConfig {
    /// Name.
    pub name: String,
    /// How it asks.
    pub check: Check,
    /// What its failure says.
    pub counts_for: CountsFor,
    /// Distance of the questions.
    pub interval: Duration,
    /// Bound of each.
    pub timeout: Duration,
    /// Failures in a row until bad.
    pub fall: u32,
    /// Successes in a row until good.
    pub rise: u32,
}

/// Where this node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vantage {
    /// The floating addresses are here.
    Holder,
    /// They are not.
    Watcher,
}

/// What is around this node: needed to say whose answer it was.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The floating addresses.
    pub floating: Vec<FloatingAddress>,
    /// The peer's real address on each device that has a link.
    pub peers: BTreeMap<String, IpAddr>,
    /// This node's devices.
    pub interfaces: InterfaceTable,
}

impl Surroundings {
    fn floating(&self, address: IpAddr) -> Option<&FloatingAddress> {
        self.floating.iter().find(|f| f.address == address)
    }
}

/// State of one monitor, for status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitorState {
    /// Name.
    pub name: String,
    /// What its failure says.
    pub counts_for: CountsFor,
    /// Health. [`Health::Unknown`] also while the results do not count.
    pub health: Health,
    /// Failures in a row.
    pub failures: u32,
    /// Since when it says so; `None` before the first result.
    pub since: Option<Instant>,
    /// How long the last good answer took; `None` before the first.
    pub took: Option<Duration>,
    /// The last result in words.
    pub last: String,
}

impl MonitorState {
    fn says_the_same(&self, new: &Self) -> bool {
        let said = |s: &Self| (s.health, s.failures, s.last.clone());
        said(self) == said(new)
    }
}

/// One result.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Good(String),
    Bad(String),
    /// Says nothing about what is watched.
    Uncounted(String),
}

/// Health of each group. Services are bad if one is bad; the network is bad if every monitor of it that says anything is: one target
/// that is switched off is not a node that is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// This node's own public network, as far as monitors say.
    pub network: Health,
    /// Own services, asked locally; unknown on a watcher.
    pub own_services: Health,
    /// The peer's services; unknown on a holder.
    pub peer_services: Health,
}

/// Condenses the states. `vantage` is the one under which they were found.
pub fn summary(states: &[MonitorState], vantage: Vantage) -> Summary {
    let of = |group| {
        let states = states.iter().filter(move |s| s.counts_for == group);
        states.map(|s| s.health)
    };
    let services = all_of(of(CountsFor::Service));
    let (own_services, peer_services) = match vantage {
        Vantage::Holder => (services, Health::Unknown),
        Vantage::Watcher => (Health::Unknown, services),
    };
    Summary {
        network: any_of(of(CountsFor::Network)),
        own_services,
        peer_services,
    }
}

/// What all monitors say now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Board {
    /// Where this node stood when they said it.
    pub vantage: Vantage,
    /// In the order of the configuration.
    pub states: Vec<MonitorState>,
}

/// Runs the monitors until the future is dropped. `board` shows their state; service monitors begin anew whenever
/// `vantage` changes. What the board shows so far is of the monitors `before`: one that is still the same goes on with it.
pub async fn run(
    monitors: Vec<MonitorConfig>,
    before: Vec<MonitorConfig>,
    surroundings: Surroundings,
    mut vantage: watch::Receiver<Vantage>,
    board: watch::Sender<Board>,
) {
    let stand = *vantage.borrow_and_update();
    let mut states = Vec::new();
    board.send_modify(|b| {
        let known = |monitor: &MonitorConfig| {
            let at = before.iter().position(|old| old == monitor)?;
            let counts = monitor.counts_for == CountsFor::Network || b.vantage == stand;
            b.states.get(at).filter(|_| counts).cloned()
        };
        let of = |m| known(m).unwrap_or_else(|| state(m, Health::Unknown, NOT_ASKED));
        states = monitors.iter().map(of).collect();
        b.vantage = stand;
        b.states.clone_from(&states);
    });
    // One task per monitor, one question per monitor at a time: bounded by the configuration.
    let mut tasks = JoinSet::new();
    for (index, (monitor, state)) in monitors.into_iter().zip(states).enumerate() {
        tasks.spawn(one(
            index,
            Tally::new(&monitor, &state),
            monitor,
            surroundings.clone(),
            vantage.clone(),
            board.clone(),
        ));
    }
    // All service monitors change over in one step: nobody sees what one found at the peer as this node's own.
    while vantage.changed().await.is_ok() {
        let stand = *vantage.borrow_and_update();
        board.send_modify(|b| {
            b.vantage = stand;
            for place in b
                .states
                .iter_mut()
                .filter(|s| s.counts_for == CountsFor::Service)
            {
                place.health = Health::Unknown;
                place.failures = 0;
                place.since = None;
                place.took = None;
                place.last = NOT_ASKED.to_owned();
            }
        });
    }
}

const NOT_ASKED: &str = "not asked yet";

fn state(monitor: &MonitorConfig, health: Health, last: impl Into<String>) -> MonitorState {
    MonitorState {
        name: monitor.name.clone(),
        counts_for: monitor.counts_for,
        health,
        failures: 0,
        since: None,
        took: None,
        last: last.into(),
    }
}

async fn one(
    index: usize,
    mut tally: Tally,
    monitor: MonitorConfig,
    surroundings: Surroundings,
    mut vantage: watch::Receiver<Vantage>,
    board: watch::Sender<Board>,
) {
    let mut judge = judge::Judge::new(surroundings);
    let mut ticks = tokio::time::interval(monitor.interval.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = *vantage.borrow_and_update();
        let (verdict, took) = tokio::select! {
            biased;
            changed = vantage.changed() => {
                if changed.is_err() {
                    return;
                }
                if monitor.counts_for == CountsFor::Service {
                    tally = Tally::new(&monitor, &state(&monitor, Health::Unknown, NOT_ASKED));
                }
                continue;
            }
            verdict = async {
                ticks.tick().await;
                let asked = tokio::time::Instant::now();
                (judge.ask(&monitor, now).await, asked.elapsed())
            } => verdict,
        };
        let health = tally.take(&verdict);
        let took = matches!(verdict, Verdict::Good(_)).then_some(took);
        let (Verdict::Good(last) | Verdict::Bad(last) | Verdict::Uncounted(last)) = verdict;
        let new = MonitorState {
            failures: tally.failures,
            ..state(&monitor, health, last)
        };
        board.send_if_modified(|b| match b.states.get_mut(index) {
            // A result that was found from another place than the one that the board shows is worth nothing; nor is one of before a
            // change of the monitors.
            Some(place) if b.vantage != now || place.name != new.name => false,
            Some(place) => {
                // Nobody waits for it: it is looked at when the peer is silent.
                place.took = took.or(place.took);
                if place.says_the_same(&new) {
                    return false;
                }
                let since = if place.health == new.health {
                    place.since
                } else {
                    None
                };
                if place.health != new.health {
                    tracing::info!(monitor = new.name, health = %new.health, last = new.last, "monitor changed");
                }
                *place = MonitorState {
                    since: since.or_else(|| Some(clock::now())),
                    took: place.took,
                    ..new
                };
                true
            }
            None => false,
        });
    }
}

#[cfg(test)]
mod tests;
