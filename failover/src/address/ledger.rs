//! What is known of each floating address on this node: written by the threads that add it and ask for it, read by status.

use super::FloatingAddress;
use crate::iface::Mac;
use std::net::IpAddr;
use tokio::sync::watch;

/// One floating address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressState {
    /// Which.
    pub floating: FloatingAddress,
    /// The kernel has it on this node, on the device it is meant for.
    pub held: bool,
    /// Why it could not be added, if this node should hold it.
    pub error: Option<String>,
    /// The machine that answers for it though this node holds it.
    pub conflict: Option<Mac>,
}

/// The states of all floating addresses, in configured order. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Ledger(watch::Sender<Vec<AddressState>>);

impl Ledger {
    pub(crate) fn new(addresses: &[FloatingAddress]) -> Self {
        let ledger = Self(watch::channel(Vec::new()).0);
        ledger.configure(addresses);
        ledger
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Vec<AddressState>> {
        self.0.subscribe()
    }

    /// A changed list; what stays keeps its state.
    pub(crate) fn configure(&self, addresses: &[FloatingAddress]) {
        self.0.send_modify(|states| {
            let old = std::mem::take(states);
            *states = addresses
                .iter()
                .map(|a| {
                    let known = old.iter().find(|s| s.floating == *a).cloned();
                    known.unwrap_or(AddressState {
                        floating: a.clone(),
                        held: false,
                        error: None,
                        conflict: None,
                    })
                })
                .collect();
        });
    }

    /// Changes every state.
    pub(crate) fn update(&self, mut change: impl FnMut(&mut AddressState)) {
        self.0.send_if_modified(|states| {
            let before = states.clone();
            states.iter_mut().for_each(&mut change);
            *states != before
        });
    }

    /// Who answers for the address besides this node.
    pub(crate) fn set_conflict(&self, address: IpAddr, by: Option<Mac>) {
        self.update(|state| {
            if state.floating.address == address {
                state.conflict = by;
            }
        });
    }

    /// Those that the kernel has on this node.
    pub(crate) fn held(&self) -> Vec<FloatingAddress> {
        let states = self.0.borrow();
        let held = states.iter().filter(|s| s.held);
        held.map(|s| s.floating.clone()).collect()
    }

    /// What cannot be held and why, in one text; `None` if that is nothing.
    pub(crate) fn errors(&self) -> Option<String> {
        let states = self.0.borrow();
        let errors: Vec<String> = states
            .iter()
            .filter_map(|s| Some(format!("{}: {}", s.floating, s.error.as_ref()?)))
            .collect();
        (!errors.is_empty()).then(|| errors.join("; "))
    }
}
