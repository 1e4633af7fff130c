//! The few network changes that the lab makes, by rtnetlink(7).

use crate::LabError;
use futures_util::stream::TryStreamExt;
use netlink_packet_route::address::{AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    BridgePortState, InfoBridgePort, InfoPortData, LinkAttribute, LinkInfo, LinkMessage, State,
};
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkUnspec, LinkVeth};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use tokio::runtime::Runtime;

/// A netlink socket in one network namespace.
pub(crate) struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

impl Netlink {
    /// Opens the socket in the calling thread's network namespace; it stays in that one.
    pub(crate) fn here() -> Result<Self, LabError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(LabError::io("make a runtime"))?;
        let (connection, handle, _) = runtime
            .block_on(async { rtnetlink::new_connection() })
            .map_err(LabError::io("open netlink"))?;
        runtime.spawn(connection);
        Ok(Self { runtime, handle })
    }

    fn run<T>(
        &self,
        what: impl FnOnce() -> String,
        job: impl Future<Output = Result<T, rtnetlink::Error>>,
    ) -> Result<T, LabError> {
        self.runtime
            .block_on(job)
            .map_err(|source| LabError::Netlink {
                what: what(),
                source,
            })
    }

    /// The device's index.
    fn index(&self, name: &str) -> Result<u32, LabError> {
        Ok(self.link(name)?.header.index)
    }

    fn link(&self, name: &str) -> Result<LinkMessage, LabError> {
        let found = self.run(
            || format!("find device {name}"),
            self.handle
                .link()
                .get()
                .match_name(name.to_string())
                .execute()
                .try_next(),
        )?;
        found.ok_or_else(|| LabError::Io {
            what: format!("find device {name}"),
            source: std::io::Error::from(std::io::ErrorKind::NotFound),
        })
    }

    /// Makes a switch that forwards from the first moment and floods multicast. Its own hardware address is set:
    /// the kernel would take the lowest of its cables', so that a host's boot or power cut would change it, and
    /// nobody would find the gateway until the neighbour caches expire.
    pub(crate) fn add_bridge(&self, name: &str, mac: [u8; 6]) -> Result<(), LabError> {
        let message = LinkBridge::new(name)
            .address(mac.to_vec())
            .append_info_data(netlink_packet_route::link::InfoBridge::MulticastSnooping(
                false,
            ))
            .build();
        self.run(
            || format!("make switch {name}"),
            self.handle.link().add(message).execute(),
        )
    }

    /// Makes a cable: `near` here, `far` to be moved into a host.
    pub(crate) fn add_veth(&self, near: &str, far: &str) -> Result<(), LabError> {
        self.run(
            || format!("make cable {near}"),
            self.handle
                .link()
                .add(LinkVeth::new(near, far).build())
                .execute(),
        )
    }

    /// Gives the device a hardware address and a name, and moves it into another network namespace.
    pub(crate) fn move_device(
        &self,
        name: &str,
        new_name: &str,
        mac: [u8; 6],
        netns: BorrowedFd<'_>,
    ) -> Result<(), LabError> {
        let index = self.index(name)?;
        let message = LinkUnspec::new_with_index(index)
            .name(new_name)
            .address(mac.to_vec())
            .setns_by_fd(netns.as_raw_fd())
            .build();
        self.run(
            || format!("move {name} into the host"),
            self.handle.link().set(message).execute(),
        )
    }

    /// Plugs a device into a switch.
    pub(crate) fn plug(&self, device: &str, bridge: &str) -> Result<(), LabError> {
        let (index, controller) = (self.index(device)?, self.index(bridge)?);
        let message = LinkUnspec::new_with_index(index)
            .controller(controller)
            .build();
        self.run(
            || format!("plug {device} into {bridge}"),
            self.handle.link().set(message).execute(),
        )
    }

    /// Sets a device administratively up or down.
    pub(crate) fn set_up(&self, device: &str, up: bool) -> Result<(), LabError> {
        let builder = LinkUnspec::new_with_index(self.index(device)?);
        let message = if up { builder.up() } else { builder.down() }.build();
        self.run(
            || format!("set {device} {}", if up { "up" } else { "down" }),
            self.handle.link().set(message).execute(),
        )
    }

    /// Whether frames pass. The kernel follows a carrier up to a second later: it sets RFC 2863's operational
    /// state, then a queue instead of `noop`, then lets the switch's port forward. Until then frames are dropped.
    pub(crate) fn passes(&self, device: &str) -> Result<bool, LabError> {
        let link = self.link(device)?;
        let mut passes = link
            .attributes
            .contains(&LinkAttribute::OperState(State::Up));
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::Qdisc(queue) => passes &= queue != "noop",
                LinkAttribute::LinkInfo(infos) => passes &= infos.iter().all(port_forwards),
                _ => {}
            }
        }
        Ok(passes)
    }

    /// Whether the device's addresses answer: the kernel makes a new IPv6 address usable a moment later.
    pub(crate) fn addresses_answer(&self, device: &str) -> Result<bool, LabError> {
        let index = self.index(device)?;
        let addresses: Vec<AddressMessage> = self.run(
            || format!("list the addresses of {device}"),
            self.handle
                .address()
                .get()
                .set_link_index_filter(index)
                .execute()
                .try_collect(),
        )?;
        let tentative = |a: &AddressMessage| a.header.flags.contains(AddressHeaderFlags::Tentative);
        Ok(!addresses.iter().any(tentative))
    }

    /// Removes a device; a missing one is fine.
    pub(crate) fn remove(&self, device: &str) -> Result<(), LabError> {
        let Ok(index) = self.index(device) else {
            return Ok(());
        };
        let removed = self.run(
            || format!("remove {device}"),
            self.handle.link().del(index).execute(),
        );
        // The kernel takes the devices of a dead host away by itself: it may have been faster.
        if self.index(device).is_err() {
            return Ok(());
        }
        removed
    }

    /// Adds an address.
    pub(crate) fn add_address(&self, device: &str, ip: IpAddr, prefix: u8) -> Result<(), LabError> {
        let index = self.index(device)?;
        self.run(
            || format!("add {ip}/{prefix} to {device}"),
            self.handle.address().add(index, ip, prefix).execute(),
        )
    }

    /// One-way loss at a switch port. `deaf`: nothing is delivered to the port. `mute`: nothing that comes
    /// from the port is accepted. Both are properties of a bridge port (linux/if_link.h, IFLA_BRPORT_*): without
    /// learning and flooding no frame finds the port; a locked port takes frames of known senders only, and none
    /// is known.
    pub(crate) fn set_port(&self, device: &str, deaf: bool, mute: bool) -> Result<(), LabError> {
        let index = self.index(device)?;
        let open = !deaf;
        let message = LinkBridgePort::new(index)
            .learning(!deaf && !mute)
            .flood(open)
            .bcast_flood(open)
            .mcast_flood(open)
            .locked(mute)
            .append_info_data(InfoBridgePort::Flush)
            .build();
        self.run(
            || format!("set the port of {device}"),
            self.handle.link().set_port(message).execute(),
        )
    }
}

/// False for a switch's port that does not forward yet.
fn port_forwards(info: &LinkInfo) -> bool {
    let LinkInfo::PortData(InfoPortData::BridgePort(port)) = info else {
        return true;
    };
    port.iter().all(|p| match p {
        InfoBridgePort::State(state) => *state == BridgePortState::Forwarding,
        _ => true,
    })
}
