use super::*;
use crate::heartbeat::Body;
use crate::testnet::{A4, B4, Host, Pair};
use ring::signature::KeyPair;
use std::sync::mpsc as channel;

const PORT: u16 = 7461;

fn key(seed: u8) -> (Ed25519KeyPair, [u8; 32]) {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("32 bytes are a seed");
    let public = pair.public_key().as_ref().try_into().expect("32 bytes");
    (pair, public)
}

/// Keys of node `own` in the pair of seeds 1 and 2.
fn keys(own: u8) -> Rc<Keys> {
    let (one, two) = (key(1).1, key(2).1);
    let (own_key, own_public) = key(own);
    Rc::new(Keys {
        pair: PairId::of("test", &one, &two),
        own: own_key,
        own_public,
        peer_public: if own == 1 { two } else { one },
    })
}

fn link(own: &str, peer: &str) -> LinkConfig {
    LinkConfig {
        device: "eth0".into(),
        own: own.parse().expect("literal"),
        peer: peer.parse().expect("literal"),
    }
}

fn incarnation(counter: u64) -> Incarnation {
    Incarnation {
        counter,
        nonce: [counter as u8; 16],
    }
}

fn beat(counter: u64) -> Heartbeat {
    Heartbeat {
        incarnation: incarnation(9),
        counter,
        link: 0,
        echo: None,
        body: Body {
            seq: 2,
            config_digest: 3,
            config_matters: 4,
            ..Body::of_standby(3)
        },
    }
}

/// Listens on B as node 2 and hands out what the loop would get.
fn listen(host: &Host) -> channel::Receiver<Input> {
    let (out, inputs) = channel::channel();
    let (ready, listening) = channel::channel();
    let _running = host.spawn(move || async move {
        let (sender, mut receiver) = mpsc::channel(64);
        let beats = Beats::open(keys(2), &[link(B4, A4)], PORT, incarnation(5), &sender);
        while beats.links[0].socket.borrow().is_none() {
            tokio::task::yield_now().await;
        }
        ready.send(()).expect("the test waits");
        while let Some((_, input)) = receiver.recv().await {
            if out.send(input).is_err() {
                return;
            }
        }
    });
    listening.recv().expect("the link opens");
    inputs
}

/// Sends raw datagrams from A, from the right port or from another.
fn send_raw(host: &Host, from: (&'static str, u16), datagrams: Vec<Vec<u8>>) {
    host.block_on(move || async move {
        let socket = UdpSocket::bind(from).await.expect("the address is there");
        for datagram in datagrams {
            socket.send_to(&datagram, (B4, PORT)).await.expect("sent");
        }
    });
}

const WAIT: Duration = Duration::from_secs(5);

#[test]
fn a_heartbeat_arrives_whole_and_signed_on_its_link() {
    let pair = Pair::new();
    let inputs = listen(&pair.b);
    pair.a.block_on(|| async {
        let (sender, _receiver) = mpsc::channel(64);
        let beats = Beats::open(keys(1), &[link(A4, B4)], PORT, incarnation(9), &sender);
        while beats.links[0].socket.borrow().is_none() {
            tokio::task::yield_now().await;
        }
        beats.send(&beat(1));
        assert_eq!(beats.counters()[0].sent, 1);
    });
    let input = inputs.recv_timeout(WAIT).expect("received");
    assert_eq!(
        input,
        Input::Heartbeat {
            link: 0,
            heartbeat: Box::new(beat(1))
        }
    );
}

#[test]
fn forged_foreign_misplaced_and_reflected_datagrams_do_not_count() {
    let pair = Pair::new();
    pair.a
        .add_address("eth0", "192.0.2.66".parse().expect("literal"), 24);
    let inputs = listen(&pair.b);
    let good = keys(1).sign(&beat(1)).expect("fits");
    let mut broken = good.clone();
    broken[40] ^= 1;
    let stranger = Keys {
        own: key(3).0,
        own_public: key(3).1,
        ..Rc::into_inner(keys(1)).expect("one owner")
    };
    let wrong_link = Heartbeat { link: 1, ..beat(1) };
    send_raw(
        &pair.a,
        (A4, PORT),
        vec![
            vec![],
            vec![0; 2000],
            b"hello".to_vec(),
            broken,
            stranger.sign(&beat(1)).expect("fits"),
            keys(1).sign(&wrong_link).expect("fits"),
            // B's own, thrown back at it.
            keys(2)
                .sign(&Heartbeat {
                    incarnation: incarnation(5),
                    ..beat(1)
                })
                .expect("fits"),
        ],
    );
    send_raw(&pair.a, ("192.0.2.66", PORT), vec![good.clone()]);
    // The last one counts: nothing came before it.
    send_raw(
        &pair.a,
        (A4, PORT),
        vec![keys(1).sign(&beat(2)).expect("fits")],
    );
    let first = inputs.recv_timeout(WAIT).expect("the last one arrives");
    assert_eq!(
        first,
        Input::Heartbeat {
            link: 0,
            heartbeat: Box::new(beat(2))
        }
    );
}

#[test]
fn the_own_key_in_another_life_is_told() {
    let pair = Pair::new();
    let inputs = listen(&pair.b);
    let clone = Heartbeat {
        incarnation: incarnation(77),
        ..beat(1)
    };
    send_raw(
        &pair.a,
        (A4, PORT),
        vec![keys(2).sign(&clone).expect("fits")],
    );
    let told = inputs.recv_timeout(WAIT).expect("told");
    assert_eq!(
        told,
        Input::OwnKeyElsewhere {
            incarnation: incarnation(77)
        }
    );
}

#[test]
fn a_flood_is_cut_and_the_link_lives_on() {
    let pair = Pair::new();
    let inputs = listen(&pair.b);
    let flood = (0..2000)
        .map(|n| keys(1).sign(&beat(n)).expect("fits"))
        .collect();
    send_raw(&pair.a, (A4, PORT), flood);
    let mut seen = 0;
    while inputs.recv_timeout(Duration::from_millis(300)).is_ok() {
        seen += 1;
    }
    // A flood that straddles two seconds has two allowances.
    assert!((1..=2 * CHECKS_PER_SECOND).contains(&seen), "{seen}");
    let deadline = std::time::Instant::now() + WAIT;
    let after = loop {
        send_raw(
            &pair.a,
            (A4, PORT),
            vec![keys(1).sign(&beat(9000)).expect("fits")],
        );
        match inputs.recv_timeout(Duration::from_millis(50)) {
            Ok(input) => break input,
            Err(_) => assert!(
                std::time::Instant::now() < deadline,
                "the next second has room again"
            ),
        }
    };
    assert_eq!(
        after,
        Input::Heartbeat {
            link: 0,
            heartbeat: Box::new(beat(9000))
        }
    );
}

#[test]
fn a_link_whose_address_comes_late_opens_by_itself() {
    let pair = Pair::new();
    let (out, inputs) = channel::channel();
    let _running = pair.b.spawn(move || async move {
        let (sender, mut receiver) = mpsc::channel(64);
        let _beats = Beats::open(
            keys(2),
            &[link("192.0.2.44", A4)],
            PORT,
            incarnation(5),
            &sender,
        );
        while let Some((_, input)) = receiver.recv().await {
            if out.send(input).is_err() {
                return;
            }
        }
    });
    pair.b
        .add_address("eth0", "192.0.2.44".parse().expect("literal"), 24);
    let deadline = std::time::Instant::now() + WAIT;
    loop {
        let datagram = keys(1).sign(&beat(1)).expect("fits");
        pair.a.block_on(move || async move {
            let socket = UdpSocket::bind((A4, PORT))
                .await
                .expect("the address is there");
            // Refused by the kernel as long as nobody listens.
            let _ = socket.send_to(&datagram, ("192.0.2.44", PORT)).await;
        });
        if inputs.recv_timeout(Duration::from_millis(50)).is_ok() {
            break;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "the link opens within its retry time"
        );
    }
}
