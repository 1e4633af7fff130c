use super::*;
use crate::iface::Netlink;
use crate::testnet::{A4, B4, B6, Pair};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};

async fn eth0() -> Interface {
    let netlink = Netlink::open().expect("netlink opens");
    netlink.interface("eth0").await.expect("eth0 exists")
}

/// For answers that must come, on a machine that does many things.
const WITHIN: Duration = Duration::from_secs(5);

#[test]
fn the_holder_of_an_address_answers_by_its_mac() {
    let pair = Pair::new();
    let mac = pair.b.mac();
    pair.a.block_on(move || async move {
        for target in [B4, B6] {
            let target = target.parse().expect("literal");
            let answer = who_has(&eth0().await, target, WITHIN).await.expect("asked");
            assert_eq!(answer, Some(mac), "{target}");
        }
    });
}

#[test]
fn nobody_answers_for_an_absent_or_an_own_address() {
    Pair::new().a.block_on(|| async {
        for target in ["192.0.2.80", "2001:db8::80", A4] {
            let target = target.parse().expect("literal");
            let begun = Instant::now();
            let answer = who_has(&eth0().await, target, Duration::from_millis(150))
                .await
                .expect("asked");
            assert_eq!(answer, None, "{target}");
            assert!(begun.elapsed() >= Duration::from_millis(150));
        }
    });
}

#[test]
fn a_device_without_carrier_is_a_typed_error() {
    let pair = Pair::new();
    pair.a.set_link("eth0", false);
    pair.a.block_on(|| async {
        let target = B4.parse().expect("literal");
        let error = who_has(&eth0().await, target, WITHIN)
            .await
            .expect_err("down");
        assert!(
            matches!(&error, AnnounceError::Socket { device, .. } if device == "eth0"),
            "{error}"
        );
        let lo = Netlink::open()
            .expect("netlink opens")
            .interface("lo")
            .await
            .expect("lo exists");
        let mac = Interface { mac: None, ..lo };
        let error = announce(&mac, &[target], 1, Duration::ZERO)
            .await
            .expect_err("no MAC");
        assert!(matches!(error, AnnounceError::NoMac(_)), "{error}");
    });
}

#[test]
fn an_announcement_is_heard_by_a_listener_and_by_the_neighbours_kernel() {
    let pair = Pair::new();
    let mac = pair.a.mac();
    let addresses: Vec<IpAddr> = vec![
        "192.0.2.80".parse().expect("literal"),
        "2001:db8::80".parse().expect("literal"),
    ];
    // The neighbour knows both at another, old MAC: the announcement must move them.
    let stale = addresses.clone();
    let (ready, listening) = std::sync::mpsc::channel();
    let heard = pair.b.spawn(move || async move {
        let netlink = Netlink::open().expect("netlink opens");
        let interface = eth0().await;
        for &address in &stale {
            netlink
                .handle()
                .neighbours()
                .add(interface.index, address)
                .link_layer_address(&[2, 0, 0, 0, 0, 0x99])
                .state(NeighbourState::Stale)
                .execute()
                .await
                .expect("the old entry is made");
        }
        let listeners: Vec<_> = stale
            .iter()
            .map(|&a| Listener::open(&interface, a).expect("a listener opens"))
            .collect();
        ready.send(()).expect("the test waits");
        let mut macs = Vec::new();
        for listener in &listeners {
            macs.push(listener.next().await.expect("heard"));
        }
        macs
    });
    listening.recv().expect("the listeners start");
    pair.a.block_on(move || async move {
        announce(&eth0().await, &addresses, 3, Duration::from_millis(20))
            .await
            .expect("announced");
    });
    let macs = heard
        .recv_timeout(Duration::from_secs(10))
        .expect("both are heard");
    assert_eq!(macs, [mac, mac]);
    pair.b.wait_until(
        "the kernel's table shows the new MAC twice",
        move || async move { floating_at(mac).await == 2 },
    );
}

/// How many of the two floating addresses the kernel has at this MAC.
async fn floating_at(mac: Mac) -> usize {
    use futures_util::TryStreamExt;
    let netlink = Netlink::open().expect("netlink opens");
    let request = netlink.handle().neighbours().get().execute();
    let all: Vec<_> = request.try_collect().await.expect("listed");
    let floating = |attribute: &NeighbourAttribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => a.octets()[3] == 80,
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => a.segments()[7] == 0x80,
        _ => false,
    };
    let link = NeighbourAttribute::LinkLayerAddress(mac.0.to_vec());
    all.iter()
        .filter(|n| n.attributes.iter().any(floating) && n.attributes.contains(&link))
        .count()
}
