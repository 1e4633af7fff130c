//! The fence around the floating addresses, and what stands in for it where the kernel has none.
//!
//! Without nf_tables the addresses are removed at that step: then nobody is answered either. What is lost is the way back without a
//! gap: connections to them end, and taking the fence down means adding and announcing them anew.

use super::Worker;
use crate::address::{self, FloatingAddress};
use crate::fence::{Fence, FenceError};
use std::time::Duration;

/// How a fence is raised; tests put a kernel without nf_tables in its place.
pub(super) type Raise = fn(&[FloatingAddress]) -> Result<Fence, FenceError>;

/// Announcements after the addresses came back.
const BACK_TIMES: u8 = 3;
const BACK_EVERY: Duration = Duration::from_millis(100);

/// Whether and how the addresses are fenced.
#[derive(Debug)]
pub(super) enum State {
    Down,
    Up(Fence),
    /// By removal of the addresses.
    Removed,
}

impl State {
    pub(super) fn is_removal(&self) -> bool {
        matches!(self, Self::Removed)
    }
}

impl Worker {
    pub(super) async fn raise_fence(&mut self) -> Result<(), String> {
        if !matches!(self.fence, State::Down) {
            return Ok(());
        }
        let (raise, addresses) = (self.raise, self.addresses.clone());
        // On a thread of the runtime's pool: the kernel may have to load a module first.
        let raised = tokio::task::spawn_blocking(move || raise(&addresses)).await;
        match raised.map_err(|e| e.to_string())? {
            Ok(fence) => {
                self.fence = State::Up(fence);
                Ok(())
            }
            Err(error @ FenceError::Unavailable(_)) => {
                tracing::warn!(%error, "the floating addresses are removed instead of fenced");
                // First the state: the kernel's report of the removal must not look like somebody else's doing.
                self.fence = State::Removed;
                let removed = address::release(&self.netlink, &self.addresses).await;
                if removed.is_ok() {
                    self.ledger.update(|state| state.held = false);
                }
                removed.map_err(|e| e.to_string())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    pub(super) async fn lower_fence(&mut self) -> Result<(), String> {
        match std::mem::replace(&mut self.fence, State::Down) {
            // None of this life; a former one may have left its own.
            State::Down => {
                let cleared = tokio::task::spawn_blocking(Fence::clear).await;
                cleared
                    .map_err(|e| e.to_string())?
                    .map_err(|e| e.to_string())
            }
            State::Up(fence) => {
                let lowered = tokio::task::spawn_blocking(move || fence.lower()).await;
                lowered
                    .map_err(|e| e.to_string())?
                    .map_err(|e| e.to_string())
            }
            State::Removed if self.holding => {
                self.hold().await?;
                self.announce(BACK_TIMES, BACK_EVERY);
                Ok(())
            }
            State::Removed => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::address::{FloatingAddress, Ledger, held};
    use crate::driver::net::{Net, Order, spawn_with};
    use crate::driver::tests::{floating, setup};
    use crate::effect::Ticket;
    use crate::fence::{Fence, FenceError};
    use crate::iface::{InterfaceTable, Netlink};
    use crate::input::Input;
    use crate::probe::monitor::Vantage;
    use crate::testnet::Pair;
    use std::io;
    use tokio::sync::{mpsc, watch};

    fn unavailable(_: &[FloatingAddress]) -> Result<Fence, FenceError> {
        Err(FenceError::Unavailable(io::ErrorKind::Unsupported.into()))
    }

    async fn is_held() -> bool {
        let netlink = Netlink::open().expect("netlink opens");
        !held(&netlink, &[floating()])
            .await
            .expect("listed")
            .is_empty()
    }

    #[test]
    fn without_nf_tables_the_addresses_go_and_come_back() {
        Pair::new().a.block_on(|| async {
            let (results, mut told) = mpsc::channel(64);
            let (vantage, _) = watch::channel(Vantage::Watcher);
            let table = InterfaceTable::default();
            let ledger = Ledger::new(&setup().addresses);
            let Net {
                orders,
                carriers: _carriers,
                thread,
            } = spawn_with(unavailable, &setup(), ledger, table, vantage, results).expect("starts");
            let give = async |order| orders.send(order).await.expect("it runs");
            let mut done = async |wanted: u64| loop {
                match told.recv().await.expect("it runs") {
                    Input::AddressesDone { ticket, result }
                    | Input::FenceDone { ticket, result } => {
                        assert_eq!((ticket, result), (Ticket(wanted), Ok(())));
                        return;
                    }
                    Input::AddressRemoved => panic!("its own removal is not somebody else's"),
                    _ => {}
                }
            };
            give(Order::Add(Ticket(1))).await;
            done(1).await;
            give(Order::Fence(Ticket(2))).await;
            done(2).await;
            assert!(!is_held().await, "removed instead of fenced");
            // A refresh meanwhile brings nothing back; another fence is none more.
            give(Order::Refresh).await;
            give(Order::Fence(Ticket(3))).await;
            done(3).await;
            assert!(!is_held().await);
            give(Order::Unfence(Ticket(4))).await;
            done(4).await;
            assert!(is_held().await, "given up: back again");
            give(Order::Fence(Ticket(5))).await;
            done(5).await;
            give(Order::Remove(Ticket(6))).await;
            done(6).await;
            give(Order::Unfence(Ticket(7))).await;
            done(7).await;
            assert!(!is_held().await, "ceded: stays away");
            drop(orders);
            thread.join().expect("ends");
        });
    }
}
