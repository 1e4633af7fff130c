//! Network devices and requests to the kernel's routing netlink socket (`rtnetlink(7)`).

use futures_util::TryStreamExt;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Bound of one request. The kernel answers while it takes the request, so this is only ever reached when
/// another process holds the kernel's network lock.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(1);

/// An Ethernet (EUI-48) address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Why a request about devices or addresses failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be opened.
    #[error("netlink socket: {0}")]
    Open(#[source] io::Error),
    /// No device of that name.
    #[error("no network device {0}")]
    NoDevice(String),
    /// The kernel refused the request.
    #[error("the kernel refused: {0}")]
    Refused(#[source] io::Error),
    /// The kernel did not answer within the bound.
    #[error("the kernel did not answer within {REQUEST_LIMIT:?}")]
    Late,
    /// Anything else in the exchange.
    #[error("netlink exchange: {0}")]
    Exchange(String),
}

impl NetlinkError {
    /// The kernel's error number, if it refused.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused(e) => e.raw_os_error(),
            _ => None,
        }
    }
}

impl From<rtnetlink::Error> for NetlinkError {
    fn from(e: rtnetlink::Error) -> Self {
        match e {
            rtnetlink::Error::NetlinkError(message) => Self::Refused(message.to_io()),
            other => Self::Exchange(other.to_string()),
        }
    }
}

/// One network device as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Index (`netdevice(7)`).
    pub index: u32,
    /// Name.
    pub name: String,
    /// Ethernet address; `None` on devices without one.
    pub mac: Option<Mac>,
    /// Administratively up and with carrier (`IFF_UP` and `IFF_LOWER_UP`).
    pub running: bool,
}

impl Interface {
    pub(crate) fn from_message(message: &LinkMessage) -> Option<Self> {
        let mut name = None;
        let mut mac = None;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(n) => name = Some(n.clone()),
                LinkAttribute::Address(a) => mac = <[u8; 6]>::try_from(a.as_slice()).ok().map(Mac),
                _ => {}
            }
        }
        let flags = message.header.flags;
        Some(Self {
            index: message.header.index,
            name: name?,
            mac,
            running: flags.contains(LinkFlags::Up) && flags.contains(LinkFlags::LowerUp),
        })
    }
}

/// The devices as last told by the kernel, shared between threads: reading it asks nobody.
#[derive(Debug, Clone, Default)]
pub struct InterfaceTable(Arc<RwLock<BTreeMap<String, Interface>>>);

impl InterfaceTable {
    /// The device of that name.
    pub fn get(&self, name: &str) -> Option<Interface> {
        // Nothing panics while it holds the lock; should it ever, the table is still whole.
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    /// Which devices are up and have carrier.
    pub fn carriers(&self) -> BTreeMap<String, bool> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        table
            .values()
            .map(|i| (i.name.clone(), i.running))
            .collect()
    }

    /// Replaces all devices.
    pub fn replace(&self, all: Vec<Interface>) {
        let table = all.into_iter().map(|i| (i.name.clone(), i)).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = table;
    }

    /// Adds or changes one device; a device that was renamed leaves its old name.
    pub fn put(&self, interface: Interface) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        table.retain(|_, known| known.index != interface.index);
        table.insert(interface.name.clone(), interface);
    }

    /// Removes one device.
    pub fn remove(&self, index: u32) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        table.retain(|_, known| known.index != index);
    }
}

/// A socket for requests. Belongs to the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
    connection: JoinHandle<()>,
}

impl Netlink {
    /// Opens the socket. Must be called within a tokio runtime, which then carries the exchange.
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Open)?;
        Ok(Self {
            handle,
            connection: tokio::spawn(connection),
        })
    }

    pub(crate) fn handle(&self) -> &rtnetlink::Handle {
        &self.handle
    }

    /// One device by name. Cancel safe.
    pub async fn interface(&self, name: &str) -> Result<Interface, NetlinkError> {
        let request = self
            .handle
            .link()
            .get()
            .match_name(name.to_owned())
            .execute();
        let answer = bounded(async {
            let mut request = std::pin::pin!(request);
            Ok(request.try_next().await?)
        })
        .await;
        match answer {
            Ok(message) => message
                .as_ref()
                .and_then(Interface::from_message)
                .ok_or_else(|| NetlinkError::NoDevice(name.to_owned())),
            Err(e) if matches!(e.errno(), Some(libc::ENODEV | libc::ERANGE | libc::EINVAL)) => {
                Err(NetlinkError::NoDevice(name.to_owned()))
            }
            Err(e) => Err(e),
        }
    }

    /// Every device. Cancel safe.
    pub async fn interfaces(&self) -> Result<Vec<Interface>, NetlinkError> {
        let messages: Vec<LinkMessage> =
            bounded(async { Ok(self.handle.link().get().execute().try_collect().await?) }).await?;
        Ok(messages
            .iter()
            .filter_map(Interface::from_message)
            .collect())
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Runs one exchange within [`REQUEST_LIMIT`].
pub(crate) async fn bounded<T>(
    exchange: impl Future<Output = Result<T, NetlinkError>>,
) -> Result<T, NetlinkError> {
    tokio::time::timeout(REQUEST_LIMIT, exchange)
        .await
        .unwrap_or(Err(NetlinkError::Late))
}

/// The index of a device of the calling thread's network namespace.
pub(crate) fn index_of(device: &str) -> Result<u32, NetlinkError> {
    nix::net::if_::if_nametoindex(device).map_err(|_| NetlinkError::NoDevice(device.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testnet::Pair;

    #[test]
    fn shows_a_veth_and_its_carrier() {
        let pair = Pair::new();
        let seen = pair.a.block_on(|| async {
            let netlink = Netlink::open().expect("netlink opens");
            netlink.interface("eth0").await.expect("eth0 exists")
        });
        assert_eq!(seen.name, "eth0");
        assert_eq!(seen.mac, Some(pair.a.mac()));
        assert!(seen.running);
        pair.b.set_link("eth0", false);
        pair.a.wait_until("carrier lost", || async {
            let netlink = Netlink::open().expect("netlink opens");
            !netlink
                .interface("eth0")
                .await
                .expect("eth0 exists")
                .running
        });
    }

    #[test]
    fn an_absent_device_is_named() {
        let pair = Pair::new();
        let error = pair.a.block_on(|| async {
            let netlink = Netlink::open().expect("netlink opens");
            netlink
                .interface("nosuch9")
                .await
                .expect_err("does not exist")
        });
        assert!(
            matches!(&error, NetlinkError::NoDevice(name) if name == "nosuch9"),
            "{error}"
        );
    }
}
