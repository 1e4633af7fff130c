use super::*;
use crate::address;
use crate::announce::who_has;
use crate::iface::Netlink;
use crate::testnet::{A4, Host, Pair};
use std::sync::mpsc::Receiver;
use tokio::net::{TcpListener, TcpSocket, UdpSocket};

const FLOATING4: &str = "192.0.2.80";
const FLOATING6: &str = "2001:db8::80";

fn floating() -> Vec<FloatingAddress> {
    [(FLOATING4, 24), (FLOATING6, 64)]
        .map(|(address, prefix)| FloatingAddress {
            address: address.parse().expect("literal"),
            prefix,
            device: "eth0".into(),
            label: None,
        })
        .to_vec()
}

/// A holds the addresses and accepts TCP on port 80 of all of them.
fn served() -> (Pair, Receiver<()>) {
    let pair = Pair::new();
    let (ready, listening) = std::sync::mpsc::channel();
    let serving = pair.a.spawn(move || async move {
        let netlink = Netlink::open().expect("netlink opens");
        address::hold(&netlink, &floating(), Duration::from_secs(60))
            .await
            .expect("held");
        let socket = TcpListener::bind("[::]:80").await.expect("port 80 is free");
        ready.send(()).expect("the test waits");
        while socket.accept().await.is_ok() {}
    });
    listening.recv().expect("the server starts");
    (pair, serving)
}

/// For answers that must come, on a machine that does many things; and for silence.
const PATIENT: Duration = Duration::from_secs(5);
const BRIEF: Duration = Duration::from_millis(200);

/// Whether a host can connect and whether it gets an answer to ARP or NS, each within a bound.
fn seen_from(host: &Host, target: &'static str, within: Duration) -> (bool, bool) {
    host.block_on(move || async move {
        let address: IpAddr = target.parse().expect("literal");
        let netlink = Netlink::open().expect("netlink opens");
        let eth0 = netlink.interface("eth0").await.expect("eth0 exists");
        let resolved = who_has(&eth0, address, within)
            .await
            .expect("asked")
            .is_some();
        let socket = match address {
            IpAddr::V4(_) => TcpSocket::new_v4(),
            IpAddr::V6(_) => TcpSocket::new_v6(),
        }
        .expect("a socket");
        let connect = socket.connect((address, 80).into());
        let connected = tokio::time::timeout(within, connect)
            .await
            .is_ok_and(|r| r.is_ok());
        (connected, resolved)
    })
}

#[test]
fn a_fenced_address_is_silent_and_the_real_one_is_not() {
    let (pair, _serving) = served();
    for target in [FLOATING4, FLOATING6, A4] {
        assert_eq!(
            seen_from(&pair.b, target, PATIENT),
            (true, true),
            "before: {target}"
        );
    }
    let fence = pair
        .a
        .block_on(|| async { Fence::raise(&floating()).expect("fenced") });
    assert!(fence.stops_outgoing(), "this kernel has the egress hook");
    for target in [FLOATING4, FLOATING6] {
        assert_eq!(
            seen_from(&pair.b, target, BRIEF),
            (false, false),
            "fenced: {target}"
        );
    }
    assert_eq!(
        seen_from(&pair.b, A4, PATIENT),
        (true, true),
        "the real address is not fenced"
    );
    fence.lower().expect("taken down");
    for target in [FLOATING4, FLOATING6] {
        assert_eq!(
            seen_from(&pair.b, target, PATIENT),
            (true, true),
            "after: {target}"
        );
    }
}

#[test]
fn a_fence_outlives_its_maker_until_it_is_cleared() {
    let (pair, _serving) = served();
    pair.a.block_on(|| async {
        Fence::clear().expect("none is fine");
        drop(Fence::raise(&floating()).expect("fenced"));
    });
    assert_eq!(seen_from(&pair.b, FLOATING4, BRIEF), (false, false));
    pair.a
        .block_on(|| async { Fence::clear().expect("taken down") });
    assert_eq!(seen_from(&pair.b, FLOATING4, PATIENT), (true, true));
    // And can be raised and lowered again and again, also over one that stands.
    pair.a.block_on(|| async {
        for _ in 0..3 {
            let left = Fence::raise(&floating()).expect("fenced");
            Fence::raise(&floating())
                .expect("fenced again")
                .lower()
                .expect("taken down");
            drop(left);
        }
    });
    assert_eq!(seen_from(&pair.b, FLOATING4, PATIENT), (true, true));
}

#[test]
fn nothing_leaves_from_a_fenced_address() {
    let (pair, _serving) = served();
    let (heard, received) = std::sync::mpsc::channel();
    let (port_out, port_in) = std::sync::mpsc::channel();
    let _receiver = pair.b.spawn(move || async move {
        let socket = UdpSocket::bind("0.0.0.0:0").await.expect("a port");
        port_out
            .send(socket.local_addr().expect("bound").port())
            .expect("the test waits");
        let mut byte = [0];
        while socket.recv_from(&mut byte).await.is_ok() && heard.send(byte[0]).is_ok() {}
    });
    let port = port_in.recv().expect("the receiver starts");
    let send = |byte: u8| {
        pair.a.block_on(move || async move {
            let socket = UdpSocket::bind((FLOATING4, 0))
                .await
                .expect("the address is held");
            // The fence may tell the sender (ENOBUFS, EPERM) or not: what counts is what arrives.
            let _ = socket.send_to(&[byte], ("192.0.2.2", port)).await;
        });
    };
    let wait = Duration::from_secs(10);
    send(1);
    // Also makes sure that B's MAC is known: a packet that still waits for it would leave when the fence is gone.
    assert_eq!(received.recv_timeout(wait), Ok(1));
    let fence = pair
        .a
        .block_on(|| async { Fence::raise(&floating()).expect("fenced") });
    send(2);
    fence.lower().expect("taken down");
    send(9);
    assert_eq!(received.recv_timeout(wait), Ok(9), "2 did not leave");
}

/// A master whose device is gone can still give its role away.
#[test]
fn an_absent_device_is_left_out() {
    let (pair, _serving) = served();
    pair.a.block_on(|| async {
        let mut absent = floating();
        absent[1].device = "nosuch0".into();
        drop(Fence::raise(&absent).expect("fenced"));
    });
    assert_eq!(seen_from(&pair.b, FLOATING4, BRIEF), (false, false));
    pair.a.block_on(|| async {
        let mut absent = floating();
        for floating in &mut absent {
            floating.device = "nosuch0".into();
        }
        let begun = std::time::Instant::now();
        let fence = Fence::raise(&absent).expect("there is nothing to fence");
        fence.lower().expect("taken down");
        assert!(begun.elapsed() < ANSWER_LIMIT, "the kernel answers each");
    });
    assert_eq!(seen_from(&pair.b, FLOATING4, PATIENT), (true, true));
}
