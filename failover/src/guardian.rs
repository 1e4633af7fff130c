//! A node without agent must not keep the floating addresses: called by the hidden subcommand that the service
//! manager runs after the agent has ended, however it ended.

use crate::address::{self, AddressError, FloatingAddress};
use crate::fence::{Fence, FenceError};
use crate::iface::{Netlink, NetlinkError};
use std::io;
use std::net::IpAddr;

/// Why addresses may be left. The kernel removes them at the end of their lifetime.
#[derive(Debug, thiserror::Error)]
pub enum GuardianError {
    /// No runtime.
    #[error("starting: {0}")]
    Start(#[source] io::Error),
    /// No netlink, or the list of addresses could not be read.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Some could not be removed.
    #[error(transparent)]
    Addresses(#[from] AddressError),
    /// The fence of a planned move stays.
    #[error(transparent)]
    Fence(#[from] FenceError),
}

/// Removes the configured floating addresses, and every other that carries the agent's mark, from this node. Answers
/// which were there. Blocks, at most some seconds. Needs CAP_NET_ADMIN.
pub fn release_addresses(configured: &[FloatingAddress]) -> Result<Vec<IpAddr>, GuardianError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(GuardianError::Start)?;
    runtime.block_on(async {
        let netlink = Netlink::open()?;
        let mut gone: Vec<IpAddr> = address::held(&netlink, configured)
            .await?
            .into_iter()
            .map(|floating| floating.address)
            .collect();
        address::release(&netlink, configured).await?;
        gone.extend(address::release_strangers(&netlink, &[]).await?);
        // After the addresses: nothing is answered in between.
        Fence::clear()?;
        Ok(gone)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testnet::Pair;
    use std::time::Duration;

    fn floating(address: &str) -> FloatingAddress {
        FloatingAddress {
            address: address.parse().expect("literal"),
            prefix: 24,
            device: "eth0".into(),
            label: None,
        }
    }

    #[test]
    fn removes_the_configured_and_the_marked_and_nothing_else() {
        let pair = Pair::new();
        pair.a.block_on(|| async {
            let netlink = Netlink::open().expect("netlink opens");
            let all = [floating("192.0.2.80"), floating("192.0.2.81")];
            address::hold(&netlink, &all, Duration::from_secs(60))
                .await
                .expect("held");
        });
        let gone = pair.a.block_on(|| async {
            // A thread of its own, as the guardian makes its own runtime; it inherits the namespace.
            std::thread::spawn(|| release_addresses(&[floating("192.0.2.80")]))
                .join()
                .expect("does not panic")
                .expect("released")
        });
        let expected: [IpAddr; 2] =
            ["192.0.2.80", "192.0.2.81"].map(|a| a.parse().expect("literal"));
        assert_eq!(gone, expected);
        let left = pair.a.block_on(|| async {
            let netlink = Netlink::open().expect("netlink opens");
            address::present(&netlink).await.expect("listed")
        });
        assert!(left.iter().any(|p| p.address.to_string() == "192.0.2.1"));
        assert!(!left.iter().any(|p| expected.contains(&p.address)));
    }
}
