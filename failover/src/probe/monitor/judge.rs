//! One result of a monitor: the question, and whose answer it was.

use super::{Check, CountsFor, MonitorConfig, Surroundings, Vantage, Verdict};
use crate::iface::{Interface, Mac};
use crate::probe::{Outlet, ProbeError, arp, command, http, icmp, tcp};
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// Bound of a question for a MAC address.
const RESOLVE: Duration = Duration::from_millis(150);

/// How long the peer's MAC address counts as known before it is asked again.
const PEER_MAC_FRESH: Duration = Duration::from_secs(10);

/// Asks for one monitor, and remembers the peer's MAC address.
pub(super) struct Judge {
    surroundings: Surroundings,
    peer_mac: Option<(Mac, Instant)>,
}

impl Judge {
    pub(super) fn new(surroundings: Surroundings) -> Self {
        Self {
            surroundings,
            peer_mac: None,
        }
    }

    /// Puts the question once.
    pub(super) async fn ask(&mut self, monitor: &MonitorConfig, vantage: Vantage) -> Verdict {
        let local = vantage == Vantage::Holder || monitor.counts_for == CountsFor::Network;
        if local {
            return match put(&monitor.check, &Outlet::default(), monitor.timeout).await {
                Ok(text) => Verdict::Good(text),
                Err(e) => Verdict::Bad(e.to_string()),
            };
        }
        let address = monitor.check.address();
        let Some(floating) = address.and_then(|a| self.surroundings.floating(a)) else {
            return Verdict::Uncounted(
                "asked only by the node that holds the floating addresses".into(),
            );
        };
        let (address, device) = (floating.address, floating.device.clone());
        let (Some(interface), Some(&peer)) = (
            self.surroundings.interfaces.get(&device),
            self.surroundings.peers.get(&device),
        ) else {
            return Verdict::Uncounted(format!("no link on {device}: the peer's MAC is not known"));
        };
        let outlet = Outlet::device(&device);
        let (result, owner) = tokio::join!(
            put(&monitor.check, &outlet, monitor.timeout),
            resolve(&interface, address),
        );
        self.weigh(result, owner, &interface, peer).await
    }

    /// Whose result it is, and so whether it counts.
    async fn weigh(
        &mut self,
        result: Result<String, ProbeError>,
        owner: Option<Mac>,
        interface: &Interface,
        peer: IpAddr,
    ) -> Verdict {
        match (result, owner) {
            (Ok(text), Some(mac)) => match self.peer_mac(interface, peer).await {
                Some(known) if known == mac => Verdict::Good(text),
                Some(_) => Verdict::Uncounted(format!("answered by {mac}, not by the peer")),
                None => Verdict::Uncounted("the peer's MAC is not known".into()),
            },
            (Err(e), Some(mac)) => match self.peer_mac(interface, peer).await {
                Some(known) if known == mac => Verdict::Bad(e.to_string()),
                Some(_) => Verdict::Uncounted(format!("{e}; but {mac} is not the peer")),
                None => Verdict::Uncounted(format!("{e}; but the peer's MAC is not known")),
            },
            (Ok(_), None) => Verdict::Uncounted("answered, but nobody owns the address".into()),
            // Nobody has the address. That counts only if this node's own network would have shown somebody.
            (Err(e), None) => match resolve(interface, peer).await {
                Some(_) => Verdict::Bad(format!(
                    "{e}; nobody has the address, and the peer is there"
                )),
                None => {
                    Verdict::Uncounted(format!("{e}; and the peer is not seen on this network"))
                }
            },
        }
    }

    /// The peer's MAC address; an older answer stands when there is no new one.
    async fn peer_mac(&mut self, interface: &Interface, peer: IpAddr) -> Option<Mac> {
        if let Some((mac, at)) = self.peer_mac
            && at.elapsed() < PEER_MAC_FRESH
        {
            return Some(mac);
        }
        if let Some(mac) = resolve(interface, peer).await {
            self.peer_mac = Some((mac, Instant::now()));
        }
        self.peer_mac.map(|(mac, _)| mac)
    }
}

async fn resolve(interface: &Interface, address: IpAddr) -> Option<Mac> {
    // A device that cannot ask gives no answer, which is what the caller has to weigh.
    arp::resolve(interface, address, RESOLVE).await.ok()
}

async fn put(check: &Check, via: &Outlet, within: Duration) -> Result<String, ProbeError> {
    match check {
        Check::Ping(address) => {
            let time = icmp::echo(*address, via, within).await?;
            Ok(format!("echo in {} ms", time.as_millis()))
        }
        Check::Http(check) => tokio::time::timeout(within, http::get(check, via, within))
            .await
            .map_err(|_| ProbeError::Silent("HTTP"))?
            .map(|status| format!("HTTP status {status}")),
        Check::Tcp(target) => match tcp::answer(*target, via, within).await? {
            tcp::Answer::Accepted => Ok("accepted".into()),
            tcp::Answer::Refused => Err(ProbeError::Wrong("TCP connection refused".into())),
        },
        Check::Command(check) => command::run(check, within).await,
    }
}
