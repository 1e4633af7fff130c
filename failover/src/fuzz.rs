//! Doors for the fuzz targets of `tests/fuzz`: each takes any bytes, and panics when the decoder that it stands for
//! breaks a promise.

use crate::health::Health;
use crate::heartbeat::{
    self, Body, Echo, Heartbeat, Incarnation, KeyId, MachineId, PairId, SIGNATURE_LEN,
};
use crate::input::{DataFacts, Input, ProbeAnswers, Relation};
use crate::machine::{Boot, Machine};
use crate::policy::Policy;
use crate::role::{Phase, Role};
use crate::slots::{self, Durable, SLOT_LEN};
use crate::time::Instant;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Name, function, and inputs from which a search may begin.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All targets of this crate.
pub const TARGETS: &[Target] = &[
    ("failover_heartbeat", datagram, datagrams),
    ("failover_peer", hostile_peer, histories),
    ("failover_slots", slot, || {
        vec![slots::encode(3, &durable()).to_vec()]
    }),
    ("failover_frames", frame, announcements),
    ("failover_icmp", echo, echoes),
    ("failover_netlink", netlink, || vec![netlink_answer()]),
    (
        "failover_events",
        crate::address::events::fuzz,
        kernel_events,
    ),
    ("failover_http", http, answers),
];

const PAIR: PairId = PairId([1; 16]);
const OWN: KeyId = KeyId([1; 8]);
const PEER: KeyId = KeyId([2; 8]);
const OWN_LIFE: Incarnation = Incarnation {
    counter: 1,
    nonce: [1; 16],
};
const PEER_LIFE: Incarnation = Incarnation {
    counter: 1,
    nonce: [2; 16],
};

fn sign(_: &[u8]) -> [u8; SIGNATURE_LEN] {
    [9; SIGNATURE_LEN]
}

/// A datagram whose signature is right.
fn datagram(bytes: &[u8]) {
    let _ = heartbeat::decode(PAIR, bytes, |_, _, _| Some(false));
    if let Ok((sender, heartbeat)) = heartbeat::decode(PAIR, bytes, |_, _, _| Some(true)) {
        let again = heartbeat::encode(PAIR, sender, &heartbeat, sign);
        let again = again.expect("what fitted into a datagram fits again");
        let read = heartbeat::decode(PAIR, &again, |_, _, _| Some(true));
        assert_eq!(read, Ok((sender, heartbeat)));
    }
}

/// A machine whose peer has the right key and says whatever it wants. Each step: milliseconds that pass (u16), length
/// (u16), and the content of a heartbeat.
fn hostile_peer(mut bytes: &[u8]) {
    let policy = Policy::new(PAIR, OWN, PEER);
    let boot = Boot {
        incarnation: OWN_LIFE,
        machine: MachineId::default(),
    };
    let mut now = Instant::from_nanos(1_000_000_000);
    let mut machine = Machine::new(policy.clone(), durable(), boot, now);
    let facts = DataFacts {
        born: true,
        consistent: true,
        relation: Relation::Equal,
        fresh_until: Some(now + Duration::from_secs(60)),
        ..DataFacts::default()
    };
    machine.handle(now, Input::Data(Box::new(facts)));
    while let Some(([t0, t1, l0, l1], rest)) = bytes.split_first_chunk::<4>() {
        now = now + Duration::from_millis(u64::from(u16::from_le_bytes([*t0, *t1])));
        let length = usize::from(u16::from_le_bytes([*l0, *l1])).min(rest.len());
        let (content, rest) = rest.split_at(length);
        bytes = rest;
        let datagram = signed(content);
        let input = match heartbeat::decode(PAIR, &datagram, |_, _, _| Some(true)) {
            Ok((_, heartbeat)) => Input::Heartbeat {
                link: 0,
                heartbeat: Box::new(heartbeat),
            },
            Err(_) => Input::Tick,
        };
        let mut effects = machine.handle(now, input);
        for _ in 0..64 {
            let Some(effect) = effects.pop() else { break };
            if let Some(input) = result(&effect) {
                effects.extend(machine.handle(now, input));
            }
        }
        assert!(machine.term() < u64::MAX / 2, "a term that leaves no room");
        let _ = machine.view(now);
    }
}

fn result(effect: &crate::effect::Effect) -> Option<Input> {
    use crate::effect::Effect;
    Some(match effect {
        Effect::Persist { generation, .. } => Input::Persisted {
            generation: *generation,
            result: Ok(()),
        },
        Effect::ProbePeer { ticket, .. } => Input::ProbeDone {
            ticket: *ticket,
            answers: ProbeAnswers::SILENT,
        },
        Effect::ProbeConflict { ticket, .. } => Input::ConflictDone {
            ticket: *ticket,
            answered: Ok(false),
        },
        Effect::AddAddresses { ticket, .. } | Effect::RemoveAddresses { ticket, .. } => {
            Input::AddressesDone {
                ticket: *ticket,
                result: Ok(()),
            }
        }
        Effect::Fence { ticket, .. } | Effect::Unfence { ticket, .. } => Input::FenceDone {
            ticket: *ticket,
            result: Ok(()),
        },
        _ => return None,
    })
}

/// A datagram around the content of a heartbeat.
fn signed(content: &[u8]) -> Vec<u8> {
    let mut datagram = b"TDHB".to_vec();
    datagram.extend([heartbeat::VERSION, heartbeat::OLDEST]);
    datagram.extend(PAIR.0);
    datagram.extend(PEER.0);
    datagram.extend_from_slice(content);
    datagram.extend([9; SIGNATURE_LEN]);
    datagram
}

fn slot(bytes: &[u8]) {
    let mut slot = [0; SLOT_LEN];
    let length = bytes.len().min(SLOT_LEN);
    slot[..length].copy_from_slice(&bytes[..length]);
    // With the checksum that it asks for, so that the search gets behind it.
    let mut checked = slot;
    let end = 16 + usize::from(u16::from_le_bytes([slot[6], slot[7]]));
    if end + 32 <= SLOT_LEN {
        let hash = blake3::hash(&slot[..end]);
        checked[end..end + 32].copy_from_slice(hash.as_bytes());
    }
    let _ = slots::choose(PAIR, [slots::decode(&slot), slots::decode(&checked)]);
}

fn frame(bytes: &[u8]) {
    use crate::announce::frame::claimant;
    let _ = claimant(bytes, IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    let _ = claimant(bytes, IpAddr::V6(Ipv6Addr::LOCALHOST));
}

/// The random mark of a request for an echo.
const MARK: [u8; 16] = [7; 16];

/// What is taken for an answer ends with the mark, and answers a request that was sent.
fn echo(bytes: &[u8]) {
    use crate::probe::icmp::is_answer;
    let v4 = is_answer(bytes, IpAddr::V4(Ipv4Addr::LOCALHOST), 3, &MARK);
    let v6 = is_answer(bytes, IpAddr::V6(Ipv6Addr::LOCALHOST), 3, &MARK);
    if v4 || v6 {
        let before = bytes.strip_suffix(&MARK).expect("the mark is the end");
        assert!(matches!(before, [.., 0, 1..=3]), "{before:?}");
    }
}

fn netlink(bytes: &[u8]) {
    assert!(crate::fence::answers(bytes).len() <= bytes.len() / 16);
}

/// What a web server answers.
fn http(bytes: &[u8]) {
    use tokio::io::AsyncWriteExt;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.expect("a runtime").block_on(async {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        // The probe may hang up before all of it is written.
        let _ = theirs.write_all(bytes).await;
        let _ = theirs.shutdown().await;
        let answered = crate::probe::http::answered(ours, Duration::from_secs(5)).await;
        assert!(answered.is_err() || bytes.starts_with(b"HTTP/1."));
    });
}

fn durable() -> Durable {
    Durable::new(PAIR).started()
}

fn body(role: Role, phase: Phase) -> Body {
    Body {
        role,
        phase,
        term: 1,
        term_seen: 1,
        holding: role == Role::Master,
        was_master: role == Role::Master,
        preferred: false,
        solo: false,
        grant: None,
        ceded: None,
        against: None,
        network: Health::Good,
        services: Health::Good,
        peer_services: Health::Unknown,
        maintenance: false,
        maintenance_left: None,
        hold: false,
        lag: Some(1),
        born: true,
        epochs_digest: 0,
        seq: 0,
        config_digest: 0,
        config_matters: 0,
        machine: MachineId::default(),
        heads: vec![],
    }
}

fn beat(counter: u64, body: Body) -> Heartbeat {
    Heartbeat {
        incarnation: PEER_LIFE,
        counter,
        link: 0,
        echo: Some(Echo {
            incarnation: OWN_LIFE,
            on_link: Some((1, 10)),
            overall: Some(1),
        }),
        body,
    }
}

fn datagrams() -> Vec<Vec<u8>> {
    let heartbeat = beat(1, body(Role::Standby, Phase::Standby));
    vec![heartbeat::encode(PAIR, PEER, &heartbeat, sign).expect("fits")]
}

fn histories() -> Vec<Vec<u8>> {
    let master = [Role::Master; 3].map(|role| body(role, Phase::Master));
    let standby = [Role::Standby; 3].map(|role| body(role, Phase::Standby));
    let joining = [Role::Joining; 3].map(|role| body(role, Phase::Joining));
    let history = |bodies: [Body; 3]| {
        let mut out = Vec::new();
        for (counter, body) in (1..).zip(bodies) {
            let content = postcard::to_stdvec(&beat(counter, body)).expect("encoded");
            out.extend(300u16.to_le_bytes());
            out.extend((content.len() as u16).to_le_bytes());
            out.extend(content);
        }
        // Silence.
        out.extend([0xff, 0x0f, 0, 0].repeat(8));
        out
    };
    [master, standby, joining].map(history).to_vec()
}

fn announcements() -> Vec<Vec<u8>> {
    use crate::announce::frame;
    let mac = crate::iface::Mac([2, 0, 0, 0, 0, 1]);
    vec![
        frame::gratuitous_request(mac, Ipv4Addr::new(192, 0, 2, 1)),
        frame::gratuitous_reply(mac, Ipv4Addr::new(192, 0, 2, 1)),
        frame::unsolicited_advert(mac, Ipv6Addr::LOCALHOST, false),
    ]
}

/// The answers to the second request: one with the IPv4 header in front of it, and one with one that has options; an ICMPv6
/// one, and a router's word that the host cannot be reached.
fn echoes() -> Vec<Vec<u8>> {
    let answer = |kind: u8| [&[kind, 0, 0x12, 0x34, 7, 7, 0, 2][..], &MARK].concat();
    let header = |words: u8| {
        let mut header = vec![0; usize::from(words) * 4];
        header[0] = 0x40 | words;
        header[9] = 1;
        header
    };
    let unreachable = [&header(5)[..], &[3, 1, 0, 0, 0, 0, 0, 0], &header(5)].concat();
    vec![
        [header(5), answer(0)].concat(),
        [header(7), answer(0)].concat(),
        answer(129),
        unreachable,
    ]
}

fn netlink_answer() -> Vec<u8> {
    let mut answer = 36u32.to_ne_bytes().to_vec();
    answer.extend(2u16.to_ne_bytes());
    answer.extend([0; 2]);
    answer.extend(7u32.to_ne_bytes());
    answer.extend([0; 24]);
    answer
}

/// A new address (`struct ifaddrmsg` and `IFA_LOCAL`), and a device that went (`struct ifinfomsg` and `IFLA_IFNAME`).
fn kernel_events() -> Vec<Vec<u8>> {
    let message = |kind: u16, body: &[u8]| {
        let mut message = (16 + body.len() as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message
    };
    let address = [2, 24, 0, 0, 3, 0, 0, 0, 8, 0, 2, 0, 192, 0, 2, 1];
    let device = [
        &[0; 4][..],
        &[3, 0, 0, 0],
        &[0; 8],
        &[9, 0, 3, 0],
        b"eth0\0\0\0\0",
    ]
    .concat();
    vec![[message(20, &address), message(17, &device)].concat()]
}

fn answers() -> Vec<Vec<u8>> {
    vec![
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_vec(),
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 503 Busy\r\n\r\n".to_vec(),
    ]
}
