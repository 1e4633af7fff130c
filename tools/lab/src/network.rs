//! Switches and the cables that run into them.

use crate::host::HostInner;
use crate::{LabError, LabInner};
use std::net::IpAddr;
use std::sync::Arc;

/// An Ethernet switch (a bridge on the lab's floor). A cross-cable is a network with two hosts.
#[derive(Clone)]
pub struct Network {
    lab: Arc<LabInner>,
    bridge: String,
    name: String,
}

impl Network {
    pub(crate) fn make(lab: &Arc<LabInner>, name: &str, number: u8) -> Result<Self, LabError> {
        let bridge = format!("sw{number}");
        let device = bridge.clone();
        lab.floor.run(move |floor| {
            floor
                .netlink
                .add_bridge(&device, [2, 0, 0, 0xff, 0, number])
        })?;
        Ok(Self {
            lab: Arc::clone(lab),
            bridge,
            name: name.to_string(),
        })
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives the switch itself an address, so that something answers pings there: a gateway.
    ///
    /// # Errors
    /// When the kernel refuses the address.
    pub fn add_gateway(&self, address: IpAddr, prefix: u8) -> Result<(), LabError> {
        let bridge = self.bridge.clone();
        self.lab
            .floor
            .run(move |floor| floor.netlink.add_address(&bridge, address, prefix))
    }

    pub(crate) fn bridge(&self) -> &str {
        &self.bridge
    }
}

/// What has been done to a cable. It stays so over a power cut and boot of the host.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CableState {
    pub(crate) cut: bool,
    pub(crate) deaf: bool,
    pub(crate) mute: bool,
}

/// The cable from a host's device to its switch.
#[derive(Clone)]
pub struct Cable {
    pub(crate) host: Arc<HostInner>,
    pub(crate) nic: usize,
}

impl Cable {
    /// Pulls the cable: the host's device loses its carrier but stays up and keeps its addresses.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cut(&self) -> Result<(), LabError> {
        self.host.change_cable(self.nic, |state| state.cut = true)
    }

    /// Plugs the cable in again and ends every one-way loss on it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn heal(&self) -> Result<(), LabError> {
        self.host
            .change_cable(self.nic, |state| *state = CableState::default())
    }

    /// One-way loss: the host sends, but hears nothing. The carrier stays.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn deafen(&self) -> Result<(), LabError> {
        self.host.change_cable(self.nic, |state| state.deaf = true)
    }

    /// One-way loss: the host hears, but nothing that it sends arrives. The carrier stays.
    ///
    /// # Errors
    /// When the kernel refuses (Linux before 5.16 has no locked bridge ports).
    pub fn mute(&self) -> Result<(), LabError> {
        self.host.change_cable(self.nic, |state| state.mute = true)
    }
}
