//! The fence: every packet to a floating address of this node is dropped on arrival, questions for it (ARP, neighbour
//! solicitation) included, and every packet from it on its way out. The address itself stays.
//!
//! It is a table of the kernel's nf_tables, family `netdev` (`nft(8)`: ingress hook, and the egress hook of kernel 5.16 and
//! later), made by our own netlink messages: no `nft` program is needed.
//!
//! The table stays when the agent dies. In a planned move the role may be given away by then, and a kernel that still has
//! the address would answer clients whose writes nobody follows any more. The fence goes after the addresses, by the agent
//! that is started next or by the guardian.

mod message;

use crate::address::FloatingAddress;
#[cfg(feature = "fuzz")]
pub(crate) use message::answers;
use message::{Batch, Expression};
use rustix::net::netlink::SocketAddrNetlink;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::IpAddr;
use std::time::Duration;

/// Name of the table.
pub const TABLE: &str = "tandem-fence";

/// Bound of the wait for the kernel's answer. It answers at once, unless it has to load a module or another program is
/// changing its tables.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Room for one datagram of answers, in bytes: an answer has 36 bytes and repeats a request of a few hundred.
const ANSWER_BYTES: usize = 16 * 1024;

/// Why there is no fence.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// The kernel has no nf_tables, or no netdev family.
    #[error("the kernel cannot fence an address (nf_tables, family netdev): {0}")]
    Unavailable(#[source] io::Error),
    /// This process may not make a fence.
    #[error("not permitted: CAP_NET_ADMIN is missing")]
    NotPermitted,
    /// The kernel did not answer in time.
    #[error("the kernel did not answer within {ANSWER_LIMIT:?}")]
    Late,
    /// Anything else.
    #[error("nf_tables: {0}")]
    Refused(#[source] io::Error),
}

impl FenceError {
    fn from_kernel(e: io::Error) -> Self {
        match e.raw_os_error() {
            Some(
                libc::EOPNOTSUPP
                | libc::EPROTONOSUPPORT
                | libc::EAFNOSUPPORT
                | libc::ENOENT
                | libc::EINVAL,
            ) => Self::Unavailable(e),
            Some(libc::EPERM) => Self::NotPermitted,
            Some(libc::EAGAIN) => Self::Late,
            _ => Self::Refused(e),
        }
    }
}

/// A fence that stands, until it is lowered.
#[derive(Debug)]
pub struct Fence {
    socket: Socket,
    egress: bool,
}

impl Fence {
    /// Builds the fence around the addresses on their devices, in place of one that stands. An absent device is left out: nobody is
    /// answered on it, and it would come back without addresses. Blocks, at most about two seconds.
    pub fn raise(addresses: &[FloatingAddress]) -> Result<Self, FenceError> {
        let mut devices: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
        for floating in addresses {
            if nix::net::if_::if_nametoindex(floating.device.as_str()).is_err() {
                continue;
            }
            devices
                .entry(&floating.device)
                .or_default()
                .push(floating.address);
        }
        let mut fence = Self {
            socket: open()?,
            egress: false,
        };
        fence.commit(ingress(&devices))?;
        if devices.is_empty() {
            return Ok(fence);
        }
        // An older kernel has no egress hook: then what this node still sends from the address gets out, and the
        // answers to it do not come in.
        match fence.commit(egress(&devices)) {
            Ok(()) => fence.egress = true,
            Err(error) => tracing::info!(%error, "the fence stops incoming packets only"),
        }
        Ok(fence)
    }

    /// Whether packets from the addresses are stopped too, and not only those to them.
    pub fn stops_outgoing(&self) -> bool {
        self.egress
    }

    /// Takes the fence down and waits until it is gone. Blocks, at most about a second.
    pub fn lower(mut self) -> Result<(), FenceError> {
        self.commit(no_table())
    }

    /// Takes down a fence that a former life of the agent left behind; none is fine. Blocks, at most about a second.
    pub fn clear() -> Result<(), FenceError> {
        let cleared = open().and_then(|socket| {
            let mut fence = Self {
                socket,
                egress: false,
            };
            fence.commit(no_table())
        });
        match cleared {
            // Where none can be made, none is.
            Err(FenceError::Unavailable(_)) => Ok(()),
            other => other,
        }
    }

    /// Sends one transaction and reads the kernel's verdict on it: all of it happens, or nothing.
    fn commit(&mut self, batch: Batch) -> Result<(), FenceError> {
        let (bytes, last) = batch.finish();
        self.socket.send(&bytes).map_err(FenceError::from_kernel)?;
        let mut buffer = vec![0; ANSWER_BYTES];
        loop {
            let length = self
                .socket
                .read(&mut buffer)
                .map_err(FenceError::from_kernel)?;
            for (sequence, code) in message::answers(&buffer[..length]) {
                if code != 0 {
                    self.drain(&mut buffer);
                    return Err(FenceError::from_kernel(io::Error::from_raw_os_error(-code)));
                }
                if sequence == last {
                    return Ok(());
                }
            }
        }
    }

    /// Forgets further answers to a refused transaction; all of them are there already when the first is.
    fn drain(&mut self, buffer: &mut [u8]) {
        while rustix::net::recv(&self.socket, &mut *buffer, rustix::net::RecvFlags::DONTWAIT)
            .is_ok_and(|(_, length)| length > 0)
        {}
    }
}

fn open() -> Result<Socket, FenceError> {
    let open = || -> io::Result<Socket> {
        let protocol = Protocol::from(libc::NETLINK_NETFILTER);
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))?;
        socket.set_read_timeout(Some(ANSWER_LIMIT))?;
        socket.set_write_timeout(Some(ANSWER_LIMIT))?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(socket)
    };
    open().map_err(FenceError::from_kernel)
}

/// Ends with no table, whether there was one or not.
fn no_table() -> Batch {
    let mut batch = Batch::new();
    batch.table(TABLE);
    batch.delete_table(TABLE);
    batch
}

fn ingress(devices: &BTreeMap<&str, Vec<IpAddr>>) -> Batch {
    let mut batch = no_table();
    batch.table(TABLE);
    for (device, addresses) in devices {
        let chain = format!("to-{device}");
        batch.base_chain(TABLE, &chain, message::HOOK_INGRESS, device);
        for address in addresses {
            for rule in rules_to(*address) {
                batch.rule(TABLE, &chain, &rule);
            }
        }
    }
    batch
}

fn egress(devices: &BTreeMap<&str, Vec<IpAddr>>) -> Batch {
    let mut batch = Batch::new();
    for (device, addresses) in devices {
        let chain = format!("from-{device}");
        batch.base_chain(TABLE, &chain, message::HOOK_EGRESS, device);
        for address in addresses {
            for rule in rules_from(*address) {
                batch.rule(TABLE, &chain, &rule);
            }
        }
    }
    batch
}

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// What arrives for the address: packets to it (RFC 791: destination at 16; RFC 8200: at 24) and questions for it
/// (RFC 826: target protocol address at 24; RFC 4861 4.3: target at 8).
fn rules_to(address: IpAddr) -> Vec<Vec<Expression>> {
    match address {
        IpAddr::V4(a) => vec![
            network(IPV4, 16, &a.octets()),
            network(ARP, 24, &a.octets()),
        ],
        IpAddr::V6(a) => vec![
            network(IPV6, 24, &a.octets()),
            neighbour(NEIGHBOUR_SOLICITATION, &a.octets()),
        ],
    }
}

/// What leaves from the address: packets (source at 12, at 8), ARP in its name (sender at 14), advertisements of it.
fn rules_from(address: IpAddr) -> Vec<Vec<Expression>> {
    match address {
        IpAddr::V4(a) => vec![
            network(IPV4, 12, &a.octets()),
            network(ARP, 14, &a.octets()),
        ],
        IpAddr::V6(a) => vec![
            network(IPV6, 8, &a.octets()),
            neighbour(NEIGHBOUR_ADVERTISEMENT, &a.octets()),
        ],
    }
}

fn network(protocol: u16, offset: u32, value: &[u8]) -> Vec<Expression> {
    vec![
        Expression::LoadProtocol,
        Expression::Equal(protocol.to_be_bytes().to_vec()),
        Expression::LoadNetwork {
            offset,
            length: value.len() as u32,
        },
        Expression::Equal(value.to_vec()),
        Expression::Drop,
    ]
}

fn neighbour(kind: u8, target: &[u8]) -> Vec<Expression> {
    vec![
        Expression::LoadProtocol,
        Expression::Equal(IPV6.to_be_bytes().to_vec()),
        Expression::LoadTransportProtocol,
        Expression::Equal(vec![ICMPV6]),
        Expression::LoadTransport {
            offset: 0,
            length: 1,
        },
        Expression::Equal(vec![kind]),
        Expression::LoadTransport {
            offset: 8,
            length: target.len() as u32,
        },
        Expression::Equal(target.to_vec()),
        Expression::Drop,
    ]
}

#[cfg(test)]
mod tests;
