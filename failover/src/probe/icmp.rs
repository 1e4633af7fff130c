//! ICMP and ICMPv6 echo (RFC 792, RFC 4443 4.1) on raw sockets (`raw(7)`, needs CAP_NET_RAW).

use super::{Outlet, ProbeError};
use crate::sock::AsyncSocket;
use pnet_packet::icmp::{self, IcmpCode, IcmpPacket, IcmpTypes};
use pnet_packet::icmpv6::{Icmpv6Code, Icmpv6Types};
use pnet_packet::ipv4::Ipv4Packet;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How many times the question is put within its bound: one or two lost packets must not look like silence.
const ASKED: u32 = 3;

/// Length of the random mark in each request, in bytes: an answer without it is not ours.
const MARK: usize = 16;

/// The largest answer looked at, in bytes: the longest IPv4 header and our echo.
const ANSWER: usize = 60 + 8 + MARK;

/// Room for answers in the kernel, in bytes.
const QUEUE_BYTES: usize = 64 * 1024;

/// Asks `target` for an echo, at most `within`. Answers the round trip time of the request that was answered. Cancel safe.
pub async fn echo(target: IpAddr, via: &Outlet, within: Duration) -> Result<Duration, ProbeError> {
    let begun = Instant::now();
    let socket = open(target, via).map_err(ProbeError::io("ICMP socket"))?;
    let mut mark = [0; MARK];
    rustix::rand::getrandom(&mut mark, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| ProbeError::io("random numbers")(e.into()))?;
    for round in 1..=ASKED {
        let sent = Instant::now();
        let request = request(target, round as u16, &mark);
        // An error here (host unreachable, for example) may be about an earlier request: the time decides.
        let sending = socket.get_ref().send(&request);
        let until = begun + within / ASKED * round;
        if let Ok(received) = timeout_at(until, answer(&socket, target, round as u16, &mark)).await
        {
            received.map_err(ProbeError::io("ICMP echo"))?;
            return Ok(sent.elapsed());
        }
        if round == ASKED {
            sending.map_err(ProbeError::io("ICMP echo"))?;
        }
    }
    Err(ProbeError::Silent("ICMP echo"))
}

fn open(target: IpAddr, via: &Outlet) -> io::Result<AsyncSocket> {
    let (domain, protocol) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_recv_buffer_size(QUEUE_BYTES)?;
    via.apply(&socket)?;
    // Connected: the kernel delivers only what comes from the target.
    socket.connect(&SocketAddr::new(target, 0).into())?;
    AsyncSocket::new(socket)
}

/// The identifier: the first bytes of the mark.
fn identifier(mark: &[u8; MARK]) -> u16 {
    u16::from_be_bytes([mark[0], mark[1]])
}

fn request(target: IpAddr, sequence: u16, mark: &[u8; MARK]) -> Vec<u8> {
    let mut packet = vec![0; 8];
    packet[0] = match target {
        IpAddr::V4(_) => IcmpTypes::EchoRequest.0,
        IpAddr::V6(_) => Icmpv6Types::EchoRequest.0,
    };
    packet[4..6].copy_from_slice(&identifier(mark).to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    packet.extend(mark);
    if target.is_ipv4() {
        // The kernel computes the checksum of ICMPv6 itself (RFC 3542 3.1).
        let sum = icmp::checksum(&IcmpPacket::new(&packet).expect("longer than an ICMP header"));
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

async fn answer(
    socket: &AsyncSocket,
    target: IpAddr,
    newest: u16,
    mark: &[u8; MARK],
) -> io::Result<()> {
    let mut buffer = [0; ANSWER];
    loop {
        let length = match socket.recv(&mut buffer, 0).await {
            Ok(length) => length,
            // Errors that routers report about single packets (EHOSTUNREACH and the like): the time decides.
            Err(e) if e.raw_os_error().is_some_and(is_reported) => continue,
            Err(e) => return Err(e),
        };
        let received = buffer.get(..length).unwrap_or(&buffer);
        if is_answer(received, target, newest, mark) {
            return Ok(());
        }
    }
}

fn is_reported(errno: i32) -> bool {
    matches!(
        errno,
        libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::ECONNREFUSED
            | libc::EHOSTDOWN
            | libc::EPROTO
    )
}

/// Whether this is the answer to one of our requests. IPv4 raw sockets deliver the IP header too, IPv6 ones do not.
pub(crate) fn is_answer(received: &[u8], target: IpAddr, newest: u16, mark: &[u8; MARK]) -> bool {
    let (echo, reply, code) = match target {
        IpAddr::V4(_) => {
            let Some(ip) = Ipv4Packet::new(received) else {
                return false;
            };
            let header = usize::from(ip.get_header_length()) * 4;
            let Some(echo) = received.get(header..) else {
                return false;
            };
            (echo, IcmpTypes::EchoReply.0, IcmpCode(0).0)
        }
        IpAddr::V6(_) => (received, Icmpv6Types::EchoReply.0, Icmpv6Code(0).0),
    };
    let [kind, c, _, _, i0, i1, s0, s1, payload @ ..] = echo else {
        return false;
    };
    let sequence = u16::from_be_bytes([*s0, *s1]);
    *kind == reply
        && *c == code
        && u16::from_be_bytes([*i0, *i1]) == identifier(mark)
        && (1..=newest).contains(&sequence)
        && payload == mark
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testnet::{A4, B4, B6, Pair};

    const WITHIN: Duration = Duration::from_millis(300);
    /// For answers that must come, on a machine that does many things.
    const PATIENT: Duration = Duration::from_secs(5);

    #[test]
    fn a_living_host_answers_and_the_time_is_measured() {
        Pair::new().a.block_on(|| async {
            for target in [B4, B6, A4] {
                let target = target.parse().expect("literal");
                let time = echo(target, &Outlet::default(), PATIENT)
                    .await
                    .expect("answered");
                assert!(
                    time > Duration::ZERO && time < PATIENT,
                    "{target}: {time:?}"
                );
            }
            let device = Outlet::device("eth0");
            echo(B4.parse().expect("literal"), &device, PATIENT)
                .await
                .expect("answered");
        });
    }

    #[test]
    fn a_dead_host_is_silent_within_the_bound() {
        let pair = Pair::new();
        pair.b.set_link("eth0", false);
        pair.a.block_on(|| async {
            for target in [B4, B6, "192.0.2.77", "198.51.100.1"] {
                let begun = Instant::now();
                let target = target.parse().expect("literal");
                echo(target, &Outlet::default(), WITHIN)
                    .await
                    .expect_err("nobody there");
                assert!(begun.elapsed() < WITHIN * 2, "{target}");
            }
        });
    }

    #[test]
    fn an_answer_to_somebody_elses_request_is_not_ours() {
        let mark = [7; MARK];
        let target = B6.parse().expect("literal");
        let mut answer = request(target, 2, &mark);
        answer[0] = 129;
        assert!(is_answer(&answer, target, 2, &mark));
        assert!(
            !is_answer(&answer, target, 1, &mark),
            "a request that was not sent yet"
        );
        assert!(!is_answer(&answer, target, 2, &[8; MARK]), "another mark");
        answer[0] = 128;
        assert!(!is_answer(&answer, target, 2, &mark), "a request");
    }

    proptest::proptest! {
        #[test]
        fn no_packet_makes_it_panic(packet in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..120)) {
            for target in [B4, B6] {
                proptest::prop_assert!(!is_answer(&packet, target.parse().expect("literal"), 3, &[9; MARK]));
            }
        }
    }
}
