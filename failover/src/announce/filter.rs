//! Classic BPF programs (`bpf(4)`, Linux socket filters) for packet sockets.

use super::frame::ether_type;
use socket2::SockFilter;
use std::net::IpAddr;

/// Load a word, half word or byte at an absolute offset of the frame.
const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Lets through ARP packets whose sender address is `address` (RFC 826), or neighbour advertisements (ICMPv6 type
/// 136) whose target is `address` (RFC 4861 4.4). Frames begin with an untagged Ethernet header.
pub(super) fn claims_of(address: IpAddr) -> Vec<SockFilter> {
    let mut equal: Vec<(u16, u32, u32)> = vec![(LOAD_HALF, 12, u32::from(ether_type(address)))];
    match address {
        // 14 bytes of Ethernet, 14 of ARP, then the sender's protocol address.
        IpAddr::V4(a) => equal.push((LOAD_WORD, 28, u32::from(a))),
        IpAddr::V6(a) => {
            // Next header, then after 40 bytes of IPv6 the ICMPv6 type, and the target 8 bytes further.
            equal.push((LOAD_BYTE, 20, 58));
            equal.push((LOAD_BYTE, 54, 136));
            let mut words = u128::from(a);
            for offset in [74, 70, 66, 62] {
                equal.push((LOAD_WORD, offset, words as u32));
                words >>= 32;
            }
        }
    }
    let mut program = Vec::new();
    let checks = equal.len();
    for (i, (load, offset, value)) in equal.into_iter().enumerate() {
        program.push(SockFilter::new(load, 0, 0, offset));
        // On a difference over the remaining pairs and the accepting return. At most 7 pairs, so it fits.
        let past = u8::try_from((checks - 1 - i) * 2 + 1).unwrap_or(u8::MAX);
        program.push(SockFilter::new(JUMP_EQUAL, 0, past, value));
    }
    program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program
}
