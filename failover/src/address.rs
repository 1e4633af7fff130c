//! Floating addresses on this node's devices: added with a limited lifetime, refreshed, removed, listed.
//!
//! Every address carries a valid lifetime (`rtnetlink(7)`, `IFA_CACHEINFO`, whole seconds) that the agent
//! renews every third of it, so that the kernel removes it by itself soon after the agent is gone.
//!
//! IPv6: `nodad`, because the takeover must not wait a second for duplicate address detection (RFC 4862 5.4);
//! [`crate::announce`] asks for conflicts itself. The preferred lifetime is 0, so that the node's own outgoing
//! connections never choose the floating address as their source (RFC 6724 5, rule 3). IPv4 has no such rule
//! (the first address of the subnet is chosen): there it equals the valid lifetime.

pub mod events;
mod ledger;

pub use ledger::AddressState;
pub(crate) use ledger::Ledger;

use crate::iface::{Netlink, NetlinkError, bounded, index_of};
use futures_util::TryStreamExt;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// The mark (`IFA_PROTO`, kernel 5.18 and later, ignored by older ones) on addresses that this agent added:
/// `ip address` shows it as `proto 0x54`.
pub(crate) const OURS: AddressProtocol = AddressProtocol::Other(0x54);

/// An address that moves with the master role.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FloatingAddress {
    /// The address.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// Device.
    pub device: String,
    /// Label such as `eth0:1`, IPv4 only.
    pub label: Option<String>,
}

impl fmt::Display for FloatingAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} on {}", self.address, self.prefix, self.device)
    }
}

/// Why some of the addresses could not be changed. The others were.
#[derive(Debug, thiserror::Error)]
#[error("{}", failures.iter().map(|(a, e)| format!("{a}: {e}")).collect::<Vec<_>>().join("; "))]
pub struct AddressError {
    /// Each address that failed, and why.
    pub failures: Vec<(FloatingAddress, NetlinkError)>,
}

impl AddressError {
    fn of(failures: Vec<(FloatingAddress, NetlinkError)>) -> Result<(), Self> {
        if failures.is_empty() {
            Ok(())
        } else {
            Err(Self { failures })
        }
    }
}

/// An address as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// Device index.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// Label, IPv4 only.
    pub label: Option<String>,
    /// What is left of the valid lifetime; `None` is for ever.
    pub valid: Option<Duration>,
    /// Carries this agent's mark.
    pub ours: bool,
}

impl Present {
    pub(crate) fn from_message(message: &AddressMessage) -> Option<Self> {
        let mut local = None;
        let mut address = None;
        let mut present = Self {
            index: message.header.index,
            address: IpAddr::from([0, 0, 0, 0]),
            prefix: message.header.prefix_len,
            label: None,
            valid: None,
            ours: false,
        };
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(a) => local = Some(*a),
                AddressAttribute::Address(a) => address = Some(*a),
                AddressAttribute::Label(l) => present.label = Some(l.clone()),
                AddressAttribute::Protocol(p) => present.ours = *p == OURS,
                AddressAttribute::CacheInfo(c) if c.ifa_valid != u32::MAX => {
                    present.valid = Some(Duration::from_secs(u64::from(c.ifa_valid)));
                }
                _ => {}
            }
        }
        // On point-to-point devices IFA_ADDRESS is the far end and IFA_LOCAL ours; IPv6 may have only the former.
        present.address = local.or(address)?;
        Some(present)
    }
}

/// Adds the addresses, or renews the lifetime of those that are there. Every address is tried.
///
/// The lifetime counts in whole seconds and is at least 1 s. Cancel safe: an address is either added or not.
pub async fn hold(
    netlink: &Netlink,
    addresses: &[FloatingAddress],
    lifetime: Duration,
) -> Result<(), AddressError> {
    let mut failures = Vec::new();
    for floating in addresses {
        if let Err(e) = hold_one(netlink, floating, lifetime).await {
            failures.push((floating.clone(), e));
        }
    }
    AddressError::of(failures)
}

async fn hold_one(
    netlink: &Netlink,
    floating: &FloatingAddress,
    lifetime: Duration,
) -> Result<(), NetlinkError> {
    let index = index_of(&floating.device)?;
    let seconds = u32::try_from(lifetime.as_secs())
        .unwrap_or(u32::MAX - 1)
        .max(1);
    let mut request = netlink
        .handle()
        .address()
        .add(index, floating.address, floating.prefix)
        .replace();
    let mut cache = CacheInfo::default();
    cache.ifa_valid = seconds;
    cache.ifa_preferred = if floating.address.is_ipv6() {
        0
    } else {
        seconds
    };
    let attributes = &mut request.message_mut().attributes;
    attributes.push(AddressAttribute::CacheInfo(cache));
    attributes.push(AddressAttribute::Protocol(OURS));
    if floating.address.is_ipv6() {
        attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    } else if let Some(label) = &floating.label {
        attributes.push(AddressAttribute::Label(label.clone()));
    }
    bounded(async { Ok(request.execute().await?) }).await
}

/// Removes the addresses from their devices, whatever prefix length they have there. Absent ones are fine, and so
/// is an absent device. Every address is tried. Cancel safe.
pub async fn release(netlink: &Netlink, addresses: &[FloatingAddress]) -> Result<(), AddressError> {
    let mut failures = Vec::new();
    let messages = match dump(netlink).await {
        Ok(messages) => messages,
        Err(e) => {
            // Without the list nothing can be removed: the first address carries the reason.
            failures.extend(addresses.first().map(|a| (a.clone(), e)));
            return AddressError::of(failures);
        }
    };
    for floating in addresses {
        let Ok(index) = index_of(&floating.device) else {
            continue;
        };
        for message in &messages {
            let same = Present::from_message(message)
                .is_some_and(|p| p.index == index && p.address == floating.address);
            if !same {
                continue;
            }
            if let Err(e) = delete(netlink, message.clone()).await {
                failures.push((floating.clone(), e));
            }
        }
    }
    AddressError::of(failures)
}

async fn delete(netlink: &Netlink, message: AddressMessage) -> Result<(), NetlinkError> {
    let request = netlink.handle().address().del(message);
    match bounded(async { Ok(request.execute().await?) }).await {
        // Somebody else, or the end of its lifetime, was faster.
        Err(e) if matches!(e.errno(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(()),
        other => other,
    }
}

/// Every address of this node.
pub async fn present(netlink: &Netlink) -> Result<Vec<Present>, NetlinkError> {
    Ok(dump(netlink)
        .await?
        .iter()
        .filter_map(Present::from_message)
        .collect())
}

/// Those of `addresses` that this node has on the device they are meant for.
pub async fn held(
    netlink: &Netlink,
    addresses: &[FloatingAddress],
) -> Result<Vec<FloatingAddress>, NetlinkError> {
    let present = present(netlink).await?;
    Ok(addresses
        .iter()
        .filter(|a| {
            index_of(&a.device).is_ok_and(|i| {
                present
                    .iter()
                    .any(|p| p.index == i && p.address == a.address)
            })
        })
        .cloned()
        .collect())
}

/// Every address that carries this agent's mark and is none of `configured`: left behind by an earlier
/// configuration. Removes them and says which.
pub async fn release_strangers(
    netlink: &Netlink,
    configured: &[FloatingAddress],
) -> Result<Vec<IpAddr>, NetlinkError> {
    let mut gone = Vec::new();
    for message in dump(netlink).await? {
        let Some(present) = Present::from_message(&message) else {
            continue;
        };
        if present.ours && !configured.iter().any(|c| c.address == present.address) {
            delete(netlink, message).await?;
            gone.push(present.address);
        }
    }
    Ok(gone)
}

async fn dump(netlink: &Netlink) -> Result<Vec<AddressMessage>, NetlinkError> {
    bounded(async {
        Ok(netlink
            .handle()
            .address()
            .get()
            .execute()
            .try_collect()
            .await?)
    })
    .await
}

#[cfg(test)]
mod tests;
