//! Telling the network where a floating address lives, and asking it.
//!
//! Announcements are gratuitous ARP, as request and as reply (RFC 5227 2.3 and RFC 826: some devices renew their
//! tables on only one of the two), and unsolicited neighbour advertisements with the override flag (RFC 4861 7.2.6).
//! Questions are ARP probes (RFC 5227 2.1.1) and neighbour solicitations from the unspecified address (RFC 4862
//! 5.4.2): neither changes anybody's table.

mod filter;
pub(crate) mod frame;

use crate::iface::{Interface, Mac};
use crate::sock::{AsyncSocket, link_layer_address};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Room for answers in the kernel, in bytes. The filter lets only those for one address through.
const QUEUE_BYTES: usize = 64 * 1024;

/// The largest frame looked at, in bytes: more than any ARP packet or neighbour advertisement that we read.
const FRAME_BYTES: usize = 256;

/// How many times a question is put within its bound: one or two lost frames must not look like silence.
const ASKED: u32 = 3;

/// Why nothing could be announced or asked.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// The device has no Ethernet address.
    #[error("{0} has no Ethernet address")]
    NoMac(String),
    /// The packet socket failed.
    #[error("packet socket on {device}: {source}")]
    Socket {
        /// Device.
        device: String,
        /// Reason.
        #[source]
        source: io::Error,
    },
}

/// A packet socket on one device that hears only who claims one address: ARP packets sent from it, and neighbour
/// advertisements for it.
pub struct Listener {
    socket: AsyncSocket,
    device: String,
    own: Mac,
    address: IpAddr,
}

impl Listener {
    /// Opens the socket (`packet(7)`, needs CAP_NET_RAW). Must be called within a tokio runtime.
    pub fn open(interface: &Interface, address: IpAddr) -> Result<Self, AnnounceError> {
        let own = interface
            .mac
            .ok_or_else(|| AnnounceError::NoMac(interface.name.clone()))?;
        let open = || -> io::Result<AsyncSocket> {
            // Protocol 0: hears nothing before the filter is in place and the socket is bound.
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
            socket.attach_filter(&filter::claims_of(address))?;
            socket.set_recv_buffer_size(QUEUE_BYTES)?;
            socket.bind(&link_layer_address(
                frame::ether_type(address),
                interface.index,
            )?)?;
            AsyncSocket::new(socket)
        };
        Ok(Self {
            socket: open().map_err(|source| AnnounceError::Socket {
                device: interface.name.clone(),
                source,
            })?,
            device: interface.name.clone(),
            own,
            address,
        })
    }

    /// The next machine other than this one that claims the address. Cancel safe.
    pub async fn next(&self) -> Result<Mac, AnnounceError> {
        let mut buffer = [0; FRAME_BYTES];
        loop {
            let length = self
                .socket
                .recv(&mut buffer, 0)
                .await
                .map_err(|e| self.error(e))?;
            let frame = buffer.get(..length).unwrap_or(&buffer);
            match frame::claimant(frame, self.address) {
                Some(mac) if mac != self.own => return Ok(mac),
                _ => {}
            }
        }
    }

    fn send(&self, frame: &[u8]) -> Result<(), AnnounceError> {
        // A packet socket takes a frame at once or refuses it (ENOBUFS); it never has to be waited for.
        match self.socket.get_ref().send(frame) {
            Ok(_) => Ok(()),
            Err(e) => Err(self.error(e)),
        }
    }

    fn error(&self, source: io::Error) -> AnnounceError {
        AnnounceError::Socket {
            device: self.device.clone(),
            source,
        }
    }
}

/// Announces the addresses on the device, `times` times, `every` apart. Every address is tried each time; the last
/// error is returned. Dropping the future ends the burst.
pub async fn announce(
    interface: &Interface,
    addresses: &[IpAddr],
    times: u8,
    every: Duration,
) -> Result<(), AnnounceError> {
    let mut result = Ok(());
    let mut ready = Vec::new();
    for &address in addresses {
        match Listener::open(interface, address) {
            Ok(socket) => ready.push((socket, announcements(interface, address)?)),
            Err(e) => result = Err(e),
        }
    }
    for round in 0..times {
        if round > 0 {
            sleep(every).await;
        }
        for (socket, frames) in &ready {
            for frame in frames {
                if let Err(e) = socket.send(frame) {
                    result = Err(e);
                }
            }
        }
    }
    result
}

fn announcements(interface: &Interface, address: IpAddr) -> Result<Vec<Vec<u8>>, AnnounceError> {
    let mac = interface
        .mac
        .ok_or_else(|| AnnounceError::NoMac(interface.name.clone()))?;
    Ok(match address {
        IpAddr::V4(a) => vec![
            frame::gratuitous_request(mac, a),
            frame::gratuitous_reply(mac, a),
        ],
        IpAddr::V6(a) => vec![frame::unsolicited_advert(
            mac,
            a,
            is_router(&interface.name),
        )],
    })
}

/// Whether the node routes IPv6 on the device. A router that says it is none would be dropped from its
/// neighbours' default router lists (RFC 4861 7.2.5).
fn is_router(device: &str) -> bool {
    std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{device}/forwarding"))
        .is_ok_and(|value| value.trim() != "0")
}

/// Asks which other machine answers for `target` on the device: the first that does, or `None` after `within`.
///
/// Asks as nobody (ARP from 0.0.0.0, neighbour solicitation from the unspecified address), so that no table on the
/// network changes. Cancel safe.
pub async fn who_has(
    interface: &Interface,
    target: IpAddr,
    within: Duration,
) -> Result<Option<Mac>, AnnounceError> {
    let deadline = Instant::now() + within;
    let socket = Listener::open(interface, target)?;
    let question = match target {
        IpAddr::V4(a) => frame::arp_probe(socket.own, a),
        IpAddr::V6(a) => frame::neighbour_probe(socket.own, a),
    };
    for round in 1..=ASKED {
        socket.send(&question)?;
        let pause = within / ASKED * round;
        let until = if round == ASKED {
            deadline
        } else {
            (deadline - within) + pause
        };
        match timeout_at(until, socket.next()).await {
            Ok(answer) => return answer.map(Some),
            Err(_silence) => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
