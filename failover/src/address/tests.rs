use super::events::{Event, Events};
use super::*;
use crate::testnet::Pair;

fn floating(address: &str, prefix: u8, label: Option<&str>) -> FloatingAddress {
    FloatingAddress {
        address: address.parse().expect("literal"),
        prefix,
        device: "eth0".into(),
        label: label.map(Into::into),
    }
}

fn several() -> Vec<FloatingAddress> {
    vec![
        floating("192.0.2.80", 24, Some("eth0:1")),
        floating("192.0.2.81", 32, None),
        floating("2001:db8::80", 64, None),
    ]
}

const LIFETIME: Duration = Duration::from_secs(20);

#[test]
fn holds_several_twice_and_releases_them_twice() {
    Pair::new().a.block_on(|| async {
        let netlink = Netlink::open().expect("netlink opens");
        for _ in 0..2 {
            hold(&netlink, &several(), LIFETIME)
                .await
                .expect("added or renewed");
            assert_eq!(held(&netlink, &several()).await.expect("listed"), several());
        }
        let present = present(&netlink).await.expect("listed");
        for wanted in several() {
            let mut same = present.iter().filter(|p| p.address == wanted.address);
            let seen = same.next().expect("is there");
            assert!(same.next().is_none(), "only once");
            assert_eq!(seen.prefix, wanted.prefix);
            assert!(seen.ours);
            let valid = seen.valid.expect("does not stay for ever");
            assert!(valid <= LIFETIME && valid > LIFETIME / 2, "{valid:?}");
            if wanted.label.is_some() {
                assert_eq!(seen.label, wanted.label);
            }
        }
        for _ in 0..2 {
            release(&netlink, &several())
                .await
                .expect("removed or absent");
            assert!(held(&netlink, &several()).await.expect("listed").is_empty());
        }
    });
}

#[test]
fn a_renewal_lengthens_the_lifetime_and_the_kernel_ends_it() {
    let pair = Pair::new();
    pair.a.block_on(|| async {
        let netlink = Netlink::open().expect("netlink opens");
        let one = [
            floating("192.0.2.80", 24, None),
            floating("2001:db8::80", 64, None),
        ];
        hold(&netlink, &one, Duration::from_secs(100))
            .await
            .expect("added");
        hold(&netlink, &one, Duration::from_secs(1))
            .await
            .expect("shortened");
    });
    pair.a
        .wait_until("the kernel removes them by itself", || async {
            let netlink = Netlink::open().expect("netlink opens");
            let one = [
                floating("192.0.2.80", 24, None),
                floating("2001:db8::80", 64, None),
            ];
            held(&netlink, &one).await.expect("listed").is_empty()
        });
}

#[test]
fn one_bad_address_does_not_keep_the_others_out() {
    Pair::new().a.block_on(|| async {
        let netlink = Netlink::open().expect("netlink opens");
        let mut list = several();
        list.insert(
            0,
            FloatingAddress {
                device: "nosuch0".into(),
                ..list[0].clone()
            },
        );
        let error = hold(&netlink, &list, LIFETIME)
            .await
            .expect_err("one has no device");
        assert_eq!(error.failures.len(), 1);
        assert!(matches!(error.failures[0].1, NetlinkError::NoDevice(_)));
        assert_eq!(held(&netlink, &list).await.expect("listed"), several());
        release(&netlink, &list)
            .await
            .expect("an absent device holds nothing");
    });
}

#[test]
fn the_kernel_refuses_a_label_of_another_device_and_says_so() {
    Pair::new().a.block_on(|| async {
        let netlink = Netlink::open().expect("netlink opens");
        let long = "x".repeat(32);
        let bad = [floating("192.0.2.80", 24, Some(&long))];
        let error = hold(&netlink, &bad, LIFETIME)
            .await
            .expect_err("label too long");
        assert!(
            matches!(error.failures[0].1, NetlinkError::Refused(_)),
            "{error}"
        );
    });
}

#[test]
fn only_marked_strangers_are_removed() {
    let pair = Pair::new();
    pair.a
        .add_address("eth0", "192.0.2.99".parse().expect("literal"), 24);
    pair.a.block_on(|| async {
        let netlink = Netlink::open().expect("netlink opens");
        hold(&netlink, &several(), LIFETIME).await.expect("added");
        let configured = &several()[..1];
        let mut gone = release_strangers(&netlink, configured)
            .await
            .expect("removed");
        gone.sort();
        assert_eq!(gone, [several()[1].address, several()[2].address]);
        let left = present(&netlink).await.expect("listed");
        assert!(left.iter().any(|p| p.address == several()[0].address));
        assert!(left.iter().any(|p| p.address.to_string() == "192.0.2.99"));
    });
}

#[test]
fn a_removal_by_somebody_else_and_a_lost_carrier_are_told() {
    let pair = Pair::new();
    let (ready, listening) = std::sync::mpsc::channel();
    let told = pair.a.spawn(move || async move {
        let netlink = Netlink::open().expect("netlink opens");
        hold(&netlink, &several(), LIFETIME).await.expect("added");
        let mut events = Events::open().expect("events open");
        ready.send(()).expect("the test waits");
        let mut gone = None;
        let mut down = false;
        while gone.is_none() || !down {
            match events.next().await.expect("an event") {
                Event::AddressGone(p) if p.ours => gone = Some(p.address),
                Event::Link(i) if i.name == "eth0" && !i.running => down = true,
                _ => {}
            }
        }
        gone
    });
    listening.recv().expect("the listener starts");
    pair.a
        .delete_address("192.0.2.80".parse().expect("literal"));
    pair.b.set_link("eth0", false);
    let gone = told
        .recv_timeout(Duration::from_secs(10))
        .expect("both events come");
    assert_eq!(gone, Some("192.0.2.80".parse().expect("literal")));
}

#[test]
fn too_many_events_are_told_as_an_overrun() {
    Pair::new().a.block_on(|| async {
        let netlink = Netlink::open().expect("netlink opens");
        let mut events = Events::with_queue(16 << 10).expect("events open");
        // Nobody reads meanwhile: each pair of changes leaves two messages in a queue that holds some dozen.
        let one = [floating("192.0.2.80", 24, None)];
        for _ in 0..200 {
            hold(&netlink, &one, LIFETIME).await.expect("added");
            release(&netlink, &one).await.expect("removed");
        }
        loop {
            if events.next().await.expect("an event") == Event::Overrun {
                break;
            }
        }
    });
}
