//! Ethernet frames of ARP (RFC 826, RFC 5227) and neighbour discovery (RFC 4861): built and read. No I/O.

use crate::iface::Mac;
use pnet_base::MacAddr;
use pnet_packet::Packet;
use pnet_packet::arp::{
    ArpHardwareTypes, ArpOperation, ArpOperations, ArpPacket, MutableArpPacket,
};
use pnet_packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use pnet_packet::icmpv6::ndp::{
    MutableNeighborAdvertPacket, MutableNeighborSolicitPacket, NeighborAdvertFlags,
    NeighborAdvertPacket,
};
use pnet_packet::icmpv6::{self, Icmpv6Packet, Icmpv6Types};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv6::{Ipv6Packet, MutableIpv6Packet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ETHERNET: usize = EthernetPacket::minimum_packet_size();
const ARP: usize = ArpPacket::minimum_packet_size();
const IPV6: usize = Ipv6Packet::minimum_packet_size();
/// Neighbour solicitation and advertisement without options: both 24 bytes (RFC 4861 4.3, 4.4).
const ND: usize = 24;
/// A link-layer address option on Ethernet (RFC 4861 4.6.1): type, length in units of 8 bytes, address.
const LINK_OPTION: usize = 8;
const TARGET_LINK_ADDRESS: u8 = 2;

/// The Ethernet type of the packets that tell who has `address`.
pub(crate) fn ether_type(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => EtherTypes::Arp.0,
        IpAddr::V6(_) => EtherTypes::Ipv6.0,
    }
}

/// ARP announcement (RFC 5227 2.3): a request in which sender and target are the announced address.
pub(crate) fn gratuitous_request(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    arp(mac, ArpOperations::Request, address, Mac([0; 6]), address)
}

/// The same as a reply, which some devices want.
pub(crate) fn gratuitous_reply(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    arp(mac, ArpOperations::Reply, address, mac, address)
}

/// ARP probe (RFC 5227 2.1.1): asks for the address without claiming it.
pub(crate) fn arp_probe(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    arp(
        mac,
        ArpOperations::Request,
        Ipv4Addr::UNSPECIFIED,
        Mac([0; 6]),
        address,
    )
}

fn arp(
    mac: Mac,
    operation: ArpOperation,
    sender: Ipv4Addr,
    target_mac: Mac,
    target: Ipv4Addr,
) -> Vec<u8> {
    let mut frame = ethernet(
        mac,
        MacAddr::broadcast(),
        ether_type(IpAddr::V4(target)),
        ARP,
    );
    let mut packet = MutableArpPacket::new(&mut frame[ETHERNET..])
        .expect("the frame has room for an ARP packet");
    packet.set_hardware_type(ArpHardwareTypes::Ethernet);
    packet.set_protocol_type(EtherTypes::Ipv4);
    packet.set_hw_addr_len(6);
    packet.set_proto_addr_len(4);
    packet.set_operation(operation);
    packet.set_sender_hw_addr(pnet(mac));
    packet.set_sender_proto_addr(sender);
    packet.set_target_hw_addr(pnet(target_mac));
    packet.set_target_proto_addr(target);
    frame
}

/// Unsolicited neighbour advertisement to all nodes with the override flag (RFC 4861 7.2.6).
pub(crate) fn unsolicited_advert(mac: Mac, address: Ipv6Addr, router: bool) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut frame = ipv6(mac, address, all_nodes, ND + LINK_OPTION);
    let body = &mut frame[ETHERNET + IPV6..];
    let mut advert =
        MutableNeighborAdvertPacket::new(body).expect("the frame has room for an advertisement");
    advert.set_icmpv6_type(Icmpv6Types::NeighborAdvert);
    let router = if router {
        NeighborAdvertFlags::Router
    } else {
        0
    };
    advert.set_flags(NeighborAdvertFlags::Override | router);
    advert.set_target_addr(address);
    body[ND..].copy_from_slice(&[TARGET_LINK_ADDRESS, 1, 0, 0, 0, 0, 0, 0]);
    body[ND + 2..].copy_from_slice(&mac.0);
    set_checksum(body, address, all_nodes);
    frame
}

/// Neighbour solicitation from the unspecified address (RFC 4862 5.4.2): asks without claiming.
pub(crate) fn neighbour_probe(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let [.., x, y, z] = address.octets();
    // The solicited-node multicast address (RFC 4291 2.7.1).
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, x, y, z]);
    let mut frame = ipv6(mac, Ipv6Addr::UNSPECIFIED, group, ND);
    let body = &mut frame[ETHERNET + IPV6..];
    let mut solicit =
        MutableNeighborSolicitPacket::new(body).expect("the frame has room for a solicitation");
    solicit.set_icmpv6_type(Icmpv6Types::NeighborSolicit);
    solicit.set_target_addr(address);
    set_checksum(body, Ipv6Addr::UNSPECIFIED, group);
    frame
}

fn set_checksum(body: &mut [u8], source: Ipv6Addr, destination: Ipv6Addr) {
    let sum = {
        let packet = Icmpv6Packet::new(body).expect("longer than an ICMPv6 header");
        icmpv6::checksum(&packet, &source, &destination)
    };
    body[2..4].copy_from_slice(&sum.to_be_bytes());
}

/// An IPv6 packet of ICMPv6 to a multicast group, hop limit 255 as neighbour discovery demands.
fn ipv6(mac: Mac, source: Ipv6Addr, group: Ipv6Addr, body: usize) -> Vec<u8> {
    let [.., a, b, c, d] = group.octets();
    // IPv6 multicast over Ethernet (RFC 2464 7).
    let to = MacAddr::new(0x33, 0x33, a, b, c, d);
    let mut frame = ethernet(mac, to, EtherTypes::Ipv6.0, IPV6 + body);
    let mut packet =
        MutableIpv6Packet::new(&mut frame[ETHERNET..]).expect("the frame has room for IPv6");
    packet.set_version(6);
    // `body` is at most 32 bytes.
    packet.set_payload_length(body as u16);
    packet.set_next_header(IpNextHeaderProtocols::Icmpv6);
    packet.set_hop_limit(255);
    packet.set_source(source);
    packet.set_destination(group);
    frame
}

fn ethernet(mac: Mac, to: MacAddr, ether_type: u16, body: usize) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET + body];
    let mut packet =
        MutableEthernetPacket::new(&mut frame).expect("longer than an Ethernet header");
    packet.set_source(pnet(mac));
    packet.set_destination(to);
    packet.set_ethertype(pnet_packet::ethernet::EtherType(ether_type));
    frame
}

fn pnet(mac: Mac) -> MacAddr {
    let [a, b, c, d, e, f] = mac.0;
    MacAddr::new(a, b, c, d, e, f)
}

/// Which machine claims `address` in this frame: the sender of an ARP packet from it, or the one that a neighbour
/// advertisement names. `None`: the frame says nothing about it, or is malformed.
pub(crate) fn claimant(frame: &[u8], address: IpAddr) -> Option<Mac> {
    let ethernet = EthernetPacket::new(frame)?;
    if ethernet.get_ethertype().0 != ether_type(address) {
        return None;
    }
    let source = Mac(ethernet.get_source().octets());
    match address {
        IpAddr::V4(a) => arp_claimant(ethernet.payload(), a),
        IpAddr::V6(a) => advert_claimant(ethernet.payload(), a, source),
    }
}

fn arp_claimant(payload: &[u8], address: Ipv4Addr) -> Option<Mac> {
    let arp = ArpPacket::new(payload)?;
    let shaped = arp.get_hardware_type() == ArpHardwareTypes::Ethernet
        && arp.get_protocol_type() == EtherTypes::Ipv4
        && arp.get_hw_addr_len() == 6
        && arp.get_proto_addr_len() == 4;
    (shaped && arp.get_sender_proto_addr() == address)
        .then(|| Mac(arp.get_sender_hw_addr().octets()))
}

fn advert_claimant(payload: &[u8], address: Ipv6Addr, source: Mac) -> Option<Mac> {
    let ip = Ipv6Packet::new(payload)?;
    // RFC 4861 7.1.2: hop limit 255 shows that no router forwarded it; the checksum must be right.
    if ip.get_next_header() != IpNextHeaderProtocols::Icmpv6 || ip.get_hop_limit() != 255 {
        return None;
    }
    let body = payload
        .get(IPV6..)?
        .get(..usize::from(ip.get_payload_length()))?;
    let checked = Icmpv6Packet::new(body)?;
    if icmpv6::checksum(&checked, &ip.get_source(), &ip.get_destination()) != checked.get_checksum()
    {
        return None;
    }
    let advert = NeighborAdvertPacket::new(body)?;
    if advert.get_icmpv6_type() != Icmpv6Types::NeighborAdvert
        || advert.get_target_addr() != address
    {
        return None;
    }
    Some(target_link_address(body.get(ND..)?).unwrap_or(source))
}

/// The target link-layer address option, read here because pnet's option reader overflows on long options.
fn target_link_address(mut options: &[u8]) -> Option<Mac> {
    while let [kind, units, ..] = *options {
        let length = usize::from(units) * 8;
        let option = options.get(..length).filter(|o| !o.is_empty())?;
        if kind == TARGET_LINK_ADDRESS && length == LINK_OPTION {
            return option.get(2..8)?.try_into().ok().map(Mac);
        }
        options = options.get(length..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);
    const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
    const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x80);

    #[test]
    fn an_arp_announcement_has_the_bytes_of_rfc_5227() {
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 7, 8, 6, // Ethernet
            0, 1, 8, 0, 6, 4, 0, 1, // Ethernet, IPv4, lengths, request
            2, 0, 0, 0, 0, 7, 192, 0, 2, 80, // sender
            0, 0, 0, 0, 0, 0, 192, 0, 2, 80, // target
        ];
        assert_eq!(gratuitous_request(MAC, V4), expected);
        let reply = gratuitous_reply(MAC, V4);
        assert_eq!(reply[20..22], [0, 2]);
        assert_eq!(reply[32..38], MAC.0);
    }

    #[test]
    fn an_arp_probe_claims_nothing() {
        let probe = arp_probe(MAC, V4);
        assert_eq!(probe[28..32], [0; 4]);
        assert_eq!(probe[38..42], V4.octets());
        assert_eq!(claimant(&probe, V4.into()), None);
    }

    #[test]
    fn announcements_name_their_claimant() {
        assert_eq!(claimant(&gratuitous_request(MAC, V4), V4.into()), Some(MAC));
        assert_eq!(claimant(&gratuitous_reply(MAC, V4), V4.into()), Some(MAC));
        let advert = unsolicited_advert(MAC, V6, false);
        assert_eq!(claimant(&advert, V6.into()), Some(MAC));
        assert_eq!(claimant(&advert, Ipv6Addr::LOCALHOST.into()), None);
        assert_eq!(
            advert[ETHERNET + IPV6 + 4],
            0b0010_0000,
            "override, not solicited, no router"
        );
        assert_eq!(
            unsolicited_advert(MAC, V6, true)[ETHERNET + IPV6 + 4],
            0b1010_0000
        );
    }

    #[test]
    fn a_damaged_or_routed_advertisement_is_nothing() {
        let good = unsolicited_advert(MAC, V6, false);
        for (at, what) in [
            (ETHERNET + 7, "hop limit"),
            (ETHERNET + IPV6 + 2, "checksum"),
        ] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(claimant(&bad, V6.into()), None, "{what}");
        }
    }

    #[test]
    fn cut_and_long_options_end_the_reading() {
        assert_eq!(target_link_address(&[2, 0, 1, 2, 3]), None, "length 0");
        assert_eq!(target_link_address(&[2, 1, 1, 2, 3]), None, "cut");
        assert_eq!(target_link_address(&[0xff; 255 * 8]), None);
        let mut second = vec![14, 255];
        second.resize(255 * 8, 0);
        second.extend([2, 1, 1, 2, 3, 4, 5, 6]);
        assert_eq!(target_link_address(&second), Some(Mac([1, 2, 3, 4, 5, 6])));
    }

    proptest::proptest! {
        #[test]
        fn no_frame_makes_it_panic(
            mut frame in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            shape in 0_u8..3,
        ) {
            let target = [0x08_u8, 0x86][usize::from(shape == 1)];
            if frame.len() > 60 && shape < 2 {
                frame[12] = target;
                frame[13] = if shape == 1 { 0xdd } else { 6 };
            }
            let _ = claimant(&frame, V4.into());
            let _ = claimant(&frame, V6.into());
        }
    }
}
