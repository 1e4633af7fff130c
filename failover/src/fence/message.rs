//! Messages of nf_tables (`linux/netfilter/nfnetlink.h`, `linux/netfilter/nf_tables.h`): encoded, and the kernel's
//! answers decoded. No I/O.

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = (SUBSYSTEM << 8) | 2;
const NEW_CHAIN: u16 = (SUBSYSTEM << 8) | 3;
const NEW_RULE: u16 = (SUBSYSTEM << 8) | 6;

const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;
const CREATE: u16 = libc::NLM_F_CREATE as u16;
const APPEND: u16 = libc::NLM_F_APPEND as u16;

const FAMILY_NETDEV: u8 = 5;
/// `NF_NETDEV_INGRESS`.
pub(super) const HOOK_INGRESS: u32 = 0;
/// `NF_NETDEV_EGRESS`.
pub(super) const HOOK_EGRESS: u32 = 1;
/// Before what an administrator may have in the same hook; accepting there would not help against a later drop anyway.
const PRIORITY: i32 = -500;
const ACCEPT: u32 = 1;
const DROP: u32 = 0;

const NESTED: u16 = 1 << 15;
const REGISTER: u32 = 1;
const CMP_EQUAL: u32 = 0;
const VERDICT_REGISTER: u32 = 0;
const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
const META_PROTOCOL: u32 = 1;
const META_L4PROTO: u32 = 16;

/// Attribute numbers of `linux/netfilter/nf_tables.h` (there with the prefix `NFTA_`); libc does not have them.
mod attribute {
    pub(super) const TABLE_NAME: u16 = 1;
    pub(super) const CHAIN_TABLE: u16 = 1;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_POLICY: u16 = 5;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const HOOK_HOOKNUM: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;
    pub(super) const HOOK_DEV: u16 = 3;
    pub(super) const RULE_TABLE: u16 = 1;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const LIST_ELEM: u16 = 1;
    pub(super) const EXPR_NAME: u16 = 1;
    pub(super) const EXPR_DATA: u16 = 2;
    pub(super) const META_DREG: u16 = 1;
    pub(super) const META_KEY: u16 = 2;
    pub(super) const PAYLOAD_DREG: u16 = 1;
    pub(super) const PAYLOAD_BASE: u16 = 2;
    pub(super) const PAYLOAD_OFFSET: u16 = 3;
    pub(super) const PAYLOAD_LEN: u16 = 4;
    pub(super) const CMP_SREG: u16 = 1;
    pub(super) const CMP_OP: u16 = 2;
    pub(super) const CMP_DATA: u16 = 3;
    pub(super) const DATA_VALUE: u16 = 1;
    pub(super) const DATA_VERDICT: u16 = 2;
    pub(super) const IMMEDIATE_DREG: u16 = 1;
    pub(super) const IMMEDIATE_DATA: u16 = 2;
    pub(super) const VERDICT_CODE: u16 = 1;
}

/// One step of a rule. Values are loaded into one register and compared there; a difference ends the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expression {
    /// The Ethernet type.
    LoadProtocol,
    /// The transport protocol, behind all IPv6 extension headers.
    LoadTransportProtocol,
    /// Bytes of the network header.
    LoadNetwork { offset: u32, length: u32 },
    /// Bytes of the transport header.
    LoadTransport { offset: u32, length: u32 },
    /// Goes on only if the register holds this.
    Equal(Vec<u8>),
    /// Drops the packet.
    Drop,
}

/// One transaction.
pub(super) struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    last_at: usize,
}

impl Batch {
    pub(super) fn new() -> Self {
        let mut batch = Self {
            bytes: Vec::new(),
            sequence: 0,
            last_at: 0,
        };
        batch.message(BATCH_BEGIN, 0, 0, SUBSYSTEM, |_| {});
        batch
    }

    /// Makes the table, or finds it there.
    pub(super) fn table(&mut self, name: &str) {
        self.message(NEW_TABLE, CREATE, FAMILY_NETDEV, 0, |a| {
            a.string(attribute::TABLE_NAME, name);
        });
    }

    pub(super) fn delete_table(&mut self, name: &str) {
        self.message(DELETE_TABLE, 0, FAMILY_NETDEV, 0, |a| {
            a.string(attribute::TABLE_NAME, name);
        });
    }

    pub(super) fn base_chain(&mut self, table: &str, chain: &str, hook: u32, device: &str) {
        self.message(NEW_CHAIN, CREATE, FAMILY_NETDEV, 0, |a| {
            a.string(attribute::CHAIN_TABLE, table);
            a.string(attribute::CHAIN_NAME, chain);
            a.nested(attribute::CHAIN_HOOK, |a| {
                a.number(attribute::HOOK_HOOKNUM, hook);
                a.number(attribute::HOOK_PRIORITY, PRIORITY as u32);
                a.string(attribute::HOOK_DEV, device);
            });
            a.number(attribute::CHAIN_POLICY, ACCEPT);
            a.string(attribute::CHAIN_TYPE, "filter");
        });
    }

    pub(super) fn rule(&mut self, table: &str, chain: &str, expressions: &[Expression]) {
        self.message(NEW_RULE, CREATE | APPEND, FAMILY_NETDEV, 0, |a| {
            a.string(attribute::RULE_TABLE, table);
            a.string(attribute::RULE_CHAIN, chain);
            a.nested(attribute::RULE_EXPRESSIONS, |a| {
                for expression in expressions {
                    a.nested(attribute::LIST_ELEM, |a| expression.encode(a));
                }
            });
        });
    }

    /// The bytes to send, and the sequence number whose acknowledgement says that everything was done.
    pub(super) fn finish(mut self) -> (Vec<u8>, u32) {
        let last = self.sequence;
        // Only the last change is acknowledged; the flags stand at 6 of the header (netlink(7)).
        let flags = &mut self.bytes[self.last_at + 6..self.last_at + 8];
        flags.copy_from_slice(&(u16::from_ne_bytes([flags[0], flags[1]]) | ACK).to_ne_bytes());
        self.message(BATCH_END, 0, 0, SUBSYSTEM, |_| {});
        (self.bytes, last)
    }

    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        fill: impl FnOnce(&mut Attributes),
    ) {
        self.sequence += 1;
        self.last_at = self.bytes.len();
        let mut attributes = Attributes(Vec::new());
        fill(&mut attributes);
        // struct nlmsghdr: length, type, flags, sequence, port; then struct nfgenmsg.
        let length = 20 + attributes.0.len() as u32;
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.append(&mut attributes.0);
    }
}

impl Expression {
    fn encode(&self, a: &mut Attributes) {
        match self {
            Self::LoadProtocol => a.load_meta(META_PROTOCOL),
            Self::LoadTransportProtocol => a.load_meta(META_L4PROTO),
            Self::LoadNetwork { offset, length } => a.load_payload(BASE_NETWORK, *offset, *length),
            Self::LoadTransport { offset, length } => {
                a.load_payload(BASE_TRANSPORT, *offset, *length);
            }
            Self::Equal(value) => a.expression("cmp", |a| {
                a.number(attribute::CMP_SREG, REGISTER);
                a.number(attribute::CMP_OP, CMP_EQUAL);
                a.nested(attribute::CMP_DATA, |a| {
                    a.bytes(attribute::DATA_VALUE, value)
                });
            }),
            Self::Drop => a.expression("immediate", |a| {
                a.number(attribute::IMMEDIATE_DREG, VERDICT_REGISTER);
                a.nested(attribute::IMMEDIATE_DATA, |a| {
                    a.nested(attribute::DATA_VERDICT, |a| {
                        a.number(attribute::VERDICT_CODE, DROP)
                    });
                });
            }),
        }
    }
}

/// Attributes (netlink(7)): length, type, value, padded to 4 bytes. Numbers are big-endian in nf_tables.
struct Attributes(Vec<u8>);

impl Attributes {
    fn bytes(&mut self, kind: u16, value: &[u8]) {
        // Every value here is a name, an address or a nest of some expressions: far below 64 KiB.
        self.0.extend((4 + value.len() as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    fn string(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self(Vec::new());
        fill(&mut inner);
        self.bytes(kind | NESTED, &inner.0);
    }

    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Self)) {
        self.string(attribute::EXPR_NAME, name);
        self.nested(attribute::EXPR_DATA, fill);
    }

    fn load_meta(&mut self, key: u32) {
        self.expression("meta", |a| {
            a.number(attribute::META_DREG, REGISTER);
            a.number(attribute::META_KEY, key);
        });
    }

    fn load_payload(&mut self, base: u32, offset: u32, length: u32) {
        self.expression("payload", |a| {
            a.number(attribute::PAYLOAD_DREG, REGISTER);
            a.number(attribute::PAYLOAD_BASE, base);
            a.number(attribute::PAYLOAD_OFFSET, offset);
            a.number(attribute::PAYLOAD_LEN, length);
        });
    }
}

/// Sequence number and error code (0, or a negative errno) of each answer in a datagram. Anything else is passed over.
pub(crate) fn answers(mut rest: &[u8]) -> Vec<(u32, i32)> {
    let word = |bytes: &[u8], at: usize| -> Option<u32> {
        Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
    };
    let mut out = Vec::new();
    while let (Some(length), Some(kind), Some(sequence)) =
        (word(rest, 0), rest.get(4..6), word(rest, 8))
    {
        let length = length as usize;
        let Some(message) = rest.get(..length).filter(|m| m.len() >= 16) else {
            break;
        };
        if kind == (libc::NLMSG_ERROR as u16).to_ne_bytes()
            && let Some(code) = word(message, 16)
        {
            out.push((sequence, code as i32));
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_has_the_layout_of_the_kernels_headers() {
        // Laid out by hand: table t, chain c, one verdict.
        let mut batch = Batch::new();
        batch.rule("t", "c", &[Expression::Drop]);
        let (bytes, last) = batch.finish();
        assert_eq!(last, 2);
        assert_eq!(
            bytes[..20],
            [
                20, 0, 0, 0, 16, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10
            ]
        );
        let rule = &bytes[20..bytes.len() - 20];
        #[rustfmt::skip]
        let expected = [
            88, 0, 0, 0, 6, 10, 5, 12, 2, 0, 0, 0, 0, 0, 0, 0, // header: new rule, append, create, ack, request
            5, 0, 0, 0, // netdev
            6, 0, 1, 0, b't', 0, 0, 0, 6, 0, 2, 0, b'c', 0, 0, 0,
            52, 0, 4, 128, 48, 0, 1, 128, // expressions, element
            14, 0, 1, 0, b'i', b'm', b'm', b'e', b'd', b'i', b'a', b't', b'e', 0, 0, 0,
            28, 0, 2, 128, // data
        ];
        assert_eq!(rule[..expected.len()], expected);
        #[rustfmt::skip]
        let tail = [
            8, 0, 1, 0, 0, 0, 0, 0, // destination: verdict register
            16, 0, 2, 128, 12, 0, 2, 128, 8, 0, 1, 0, 0, 0, 0, 0, // data, verdict, code drop
        ];
        assert_eq!(rule[expected.len()..expected.len() + tail.len()], tail);
    }

    #[test]
    fn answers_are_read_and_rubbish_is_not() {
        let mut datagram = Vec::new();
        for (sequence, code) in [(3_u32, -2_i32), (4, 0)] {
            datagram.extend(36_u32.to_ne_bytes());
            datagram.extend(2_u16.to_ne_bytes());
            datagram.extend([0; 2]);
            datagram.extend(sequence.to_ne_bytes());
            datagram.extend([0; 4]);
            datagram.extend(code.to_ne_bytes());
            datagram.extend([0; 16]);
        }
        assert_eq!(answers(&datagram), [(3, -2), (4, 0)]);
        for cut in 0..datagram.len() {
            assert!(answers(&datagram[..cut]).len() <= 1);
        }
        assert_eq!(answers(&[0; 64]), [], "a length of 0 ends the reading");
    }
}
