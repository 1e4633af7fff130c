//! Does the peer's kernel answer for its real address by ARP or neighbour discovery? It does where ICMP is filtered.

use super::ProbeError;
use crate::announce::{AnnounceError, who_has};
use crate::iface::{Interface, Mac};
use std::net::IpAddr;
use std::time::Duration;

/// Asks on the device who has `target`, at most `within`. Cancel safe.
pub async fn resolve(
    interface: &Interface,
    target: IpAddr,
    within: Duration,
) -> Result<Mac, ProbeError> {
    match who_has(interface, target, within).await {
        Ok(Some(mac)) => Ok(mac),
        Ok(None) => Err(ProbeError::Silent("ARP or neighbour discovery")),
        Err(AnnounceError::Socket { source, .. }) => Err(ProbeError::Io {
            what: "packet socket",
            source,
        }),
        Err(e @ AnnounceError::NoMac(_)) => Err(ProbeError::Wrong(e.to_string())),
    }
}
