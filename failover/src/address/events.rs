//! What the kernel tells about addresses and devices without being asked.

use crate::address::Present;
use crate::iface::{Interface, NetlinkError};
use crate::sock::AsyncSocket;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rustix::net::netlink::SocketAddrNetlink;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::VecDeque;
use std::io;

/// Room for events in the kernel, in bytes: some thousand of them. When more come at once, the kernel drops them and
/// says so ([`Event::Overrun`]).
const QUEUE_BYTES: usize = 1 << 20;

/// The largest datagram read at once, in bytes. The kernel never makes one that is larger than a page (`NLMSG_GOODSIZE`,
/// at most 8 KiB), but for link messages of devices with very many virtual functions.
const DATAGRAM_BYTES: usize = 32 * 1024;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An address came, or its lifetime or flags changed.
    AddressPresent(Present),
    /// An address went.
    AddressGone(Present),
    /// A device came or changed.
    Link(Interface),
    /// A device went.
    LinkGone(Interface),
    /// Events were lost: whoever follows them has to list everything again.
    Overrun,
}

/// The multicast groups to which the stream subscribes (`rtnetlink(7)`).
const GROUPS: i32 = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;

/// A stream of events of the network namespace in which it was opened.
pub struct Events {
    socket: AsyncSocket,
    buffer: Box<[u8]>,
    ready: VecDeque<Event>,
}

impl Events {
    /// Subscribes. Must be called within a tokio runtime.
    pub fn open() -> Result<Self, NetlinkError> {
        Self::with_queue(QUEUE_BYTES)
    }

    pub(super) fn with_queue(bytes: usize) -> Result<Self, NetlinkError> {
        let open = || -> io::Result<AsyncSocket> {
            let protocol = Protocol::from(libc::NETLINK_ROUTE);
            let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))?;
            socket.set_recv_buffer_size(bytes)?;
            rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUPS as u32))?;
            AsyncSocket::new(socket)
        };
        Ok(Self {
            socket: open().map_err(NetlinkError::Open)?,
            buffer: vec![0; DATAGRAM_BYTES].into_boxed_slice(),
            ready: VecDeque::new(),
        })
    }

    /// The next event. Cancel safe: an event that was read stays in the queue until it is returned.
    pub async fn next(&mut self) -> Result<Event, NetlinkError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            match self.socket.recv(&mut self.buffer, libc::MSG_TRUNC).await {
                Ok(length) => match self.buffer.get(..length) {
                    Some(datagram) => parse(datagram, &mut self.ready),
                    None => self.ready.push_back(Event::Overrun),
                },
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.ready.push_back(Event::Overrun);
                }
                Err(e) => return Err(NetlinkError::Open(e)),
            }
        }
    }
}

/// A datagram of the kernel's.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut events = VecDeque::new();
    parse(bytes, &mut events);
    // One event for each message, which has a header of 16 bytes, and one for what cannot be parsed.
    assert!(events.len() <= bytes.len() / 16 + 1);
}

/// Splits a datagram into its messages. What cannot be parsed counts as lost.
fn parse(mut rest: &[u8], out: &mut VecDeque<Event>) {
    while !rest.is_empty() {
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) else {
            out.push_back(Event::Overrun);
            return;
        };
        // Messages are aligned to 4 bytes (NLMSG_ALIGN, netlink(3)); a length of 0 would loop for ever.
        let length = (message.header.length as usize).next_multiple_of(4);
        if length == 0 {
            out.push_back(Event::Overrun);
            return;
        }
        rest = rest.get(length..).unwrap_or_default();
        let NetlinkPayload::InnerMessage(inner) = message.payload else {
            continue;
        };
        out.extend(match &inner {
            RouteNetlinkMessage::NewAddress(m) => {
                Present::from_message(m).map(Event::AddressPresent)
            }
            RouteNetlinkMessage::DelAddress(m) => Present::from_message(m).map(Event::AddressGone),
            RouteNetlinkMessage::NewLink(m) => Interface::from_message(m).map(Event::Link),
            RouteNetlinkMessage::DelLink(m) => Interface::from_message(m).map(Event::LinkGone),
            _ => None,
        });
    }
}
