//! Everybody else gets nowhere.

use super::harness::{Node, Place, SOON, dial_as, keys, soon, until};
use crate::keys::NodeKey;
use crate::link::message::Request;
use crate::link::transport::CloneEvidence;
use crate::link::{HALF_OPEN, LinkError, LinkEvent, Timing};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

fn short_handshake() -> Timing {
    Timing {
        handshake: Duration::from_millis(1500),
        ..Timing::default()
    }
}

async fn refused(node: &mut Node) -> LinkError {
    loop {
        if let LinkEvent::Refused { error, .. } = node.event().await {
            return error;
        }
    }
}

async fn cloned(node: &mut Node) -> CloneEvidence {
    loop {
        if let LinkEvent::Cloned { evidence, .. } = node.event().await {
            return evidence;
        }
    }
}

#[tokio::test]
async fn a_strangers_key_is_refused() {
    let place = Place::new();
    let (small, large) = keys();
    let stranger = NodeKey::generate().unwrap();
    let timing = Timing::default();
    let mut b = place.node("b", &large, &small, vec![place.path(2, 1)], timing);
    b.listening().await;
    // It knows b's real key, as everybody may.
    let result = dial_as(&stranger, &large, b.address).await;
    assert!(matches!(result, Err(LinkError::Protocol(_))));
    let error = refused(&mut b).await;
    assert!(matches!(error, LinkError::Stranger), "{error}");
    assert_eq!((b.link.status().refused, b.sessions()), (1, 0));
    // The right key for comparison.
    dial_as(&small, &large, b.address).await.unwrap();
}

#[tokio::test]
async fn a_wrong_host_key_is_refused() {
    let place = Place::new();
    let (small, large) = keys();
    // One that does not dial by itself.
    let impostor = loop {
        let key = NodeKey::generate().unwrap();
        if key.public().0 > small.public().0 {
            break key;
        }
    };
    let timing = Timing::default();
    let mut a = place.node("a", &small, &large, vec![place.path(1, 2)], timing);
    // It listens at b's address and would let a in.
    let b = place.node("b", &impostor, &small, vec![place.path(2, 1)], timing);
    let error = refused(&mut a).await;
    assert!(matches!(error, LinkError::WrongHostKey), "{error}");
    assert_eq!(a.sessions() + b.sessions(), 0);
}

#[tokio::test]
async fn own_key_that_dials_is_a_clone() {
    let place = Place::new();
    let (small, large) = keys();
    let timing = Timing::default();
    let mut b = place.node("b", &large, &small, vec![place.path(2, 1)], timing);
    b.listening().await;
    assert!(dial_as(&large, &large, b.address).await.is_err());
    assert_eq!(cloned(&mut b).await, CloneEvidence::Dialled);
    assert_eq!(b.sessions(), 0);
}

#[tokio::test]
async fn own_key_that_answers_is_a_clone() {
    let place = Place::new();
    let (small, large) = keys();
    let timing = Timing::default();
    let mut a = place.node("a", &small, &large, vec![place.path(1, 2)], timing);
    let _copy = place.node("a", &small, &large, vec![place.path(2, 1)], timing);
    assert_eq!(cloned(&mut a).await, CloneEvidence::Answered);
    assert_eq!(a.sessions(), 0);
}

/// Somebody at the peer's address passes everything on to this node's own port. This node then meets its own key, which
/// must not look like a copy of this node: a copy ends all automatic moves.
#[tokio::test]
async fn own_connections_that_come_back_are_no_clone() {
    let place = Place::new();
    let (small, large) = keys();
    let timing = Timing::default();
    let mirror = tokio::net::TcpListener::bind(place.address(2))
        .await
        .unwrap();
    let own = place.address(1);
    tokio::spawn(async move {
        while let Ok((mut there, _)) = mirror.accept().await {
            let mut back = TcpStream::connect(own).await.unwrap();
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut there, &mut back).await;
            });
        }
    });
    let mut a = place.node("a", &small, &large, vec![place.path(1, 2)], timing);
    a.listening().await;
    until("it is seen for what it is", || {
        let status = a.link.status();
        let error = status.paths[0].last_error.as_ref();
        error.is_some_and(|(text, _)| text.contains("sends this node's connections back"))
    })
    .await;
    while let Ok(event) = a.events.try_recv() {
        assert!(!matches!(event, LinkEvent::Cloned { .. }), "{event:?}");
    }
    assert_eq!(a.sessions(), 0);
}

/// Silent and garbage connections are cut at the deadline, are bounded in number, do not keep the peer out and do
/// not delay it.
#[tokio::test]
async fn half_open_and_garbage_connections_get_nowhere() {
    let place = Place::new();
    let (small, large) = keys();
    let timing = short_handshake();
    let b = place.node("b", &large, &small, vec![place.path(2, 1)], timing);
    b.listening().await;
    let started = Instant::now();
    let mut silent = Vec::new();
    for last in 0..20 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((place.ip(100 + last), 0).into()).unwrap();
        silent.push(socket.connect(b.address).await.unwrap());
    }
    // More than the bound: some are closed at once.
    until("the bound", || {
        b.link.status().refused >= 20 - HALF_OPEN as u64
    })
    .await;
    // The peer comes in meanwhile, and is served.
    let mut a = place.node("a", &small, &large, vec![place.path(1, 2)], timing);
    let (to_b, _) = a.connected().await;
    assert!(started.elapsed() < timing.handshake, "too slow to prove it");
    to_b.call(&Request::Hello, SOON).await.unwrap();
    for stream in &mut silent {
        let mut rest = Vec::new();
        // Closed or reset, after at most the server's greeting.
        let _ = soon("the cut", stream.read_to_end(&mut rest)).await;
        assert!(rest.len() < 100, "{} bytes for nothing", rest.len());
    }
    assert!(started.elapsed() >= timing.handshake);
    for garbage in [
        &b"GET / HTTP/1.0\r\n\r\n"[..],
        b"SSH-2.0-x\r\n\xff\xff\xff\xff\xff",
        &[0; 70_000],
    ] {
        let mut stream = TcpStream::connect(b.address).await.unwrap();
        // The other side may hang up while this is being written.
        let _ = stream.write_all(garbage).await;
        let _ = soon("the cut", stream.read_to_end(&mut Vec::new())).await;
    }
    to_b.call(&Request::Hello, SOON).await.unwrap();
    assert!(
        !to_b.closed().is_cancelled(),
        "the good session was disturbed"
    );
    assert_eq!(b.sessions(), 1);
}

/// Somebody who only looks whether the port answers is neither counted nor reported.
#[tokio::test]
async fn a_probe_of_the_port_is_no_news() {
    let place = Place::new();
    let (mut a, mut b) = place.pair(Timing::default());
    a.connected().await;
    b.connected().await;
    for _ in 0..5 {
        let mut probe = TcpStream::connect(b.address).await.unwrap();
        probe.shutdown().await.unwrap();
        let _ = soon("the cut", probe.read_to_end(&mut Vec::new())).await;
    }
    assert_eq!(b.link.status().refused, 0);
    assert!(b.events.try_recv().is_err());
}

/// An authenticated peer that breaks the protocol: each way ends that connection and nothing else.
#[tokio::test]
async fn malformed_frames_of_the_peer_end_the_connection() {
    let place = Place::new();
    let (small, large) = keys();
    let mut b = place.node(
        "b",
        &large,
        &small,
        vec![place.path(2, 1)],
        short_handshake(),
    );
    b.listening().await;
    let cases: [&[u8]; 6] = [
        b"tandem9c",
        b"tandem1x",
        // A frame of 4 GiB.
        b"tandem1c\xff\xff\xff\xff",
        // A version frame without the magic.
        b"tandem1c\x07\x00\x00\x00XXX\x01\x00\x01\x00",
        // Versions that this agent does not speak.
        b"tandem1c\x07\x00\x00\x00TDM\x63\x00\x63\x00",
        // A hello that is none.
        b"tandem1c\x07\x00\x00\x00TDM\x01\x00\x01\x00\x02\x00\x00\x00\xff\xff",
    ];
    for case in cases {
        let (mut stream, wire) = dial_as(&small, &large, b.address).await.unwrap();
        stream.write_all(case).await.unwrap();
        let _ = soon("the end", stream.read_to_end(&mut Vec::new())).await;
        drop(stream);
        soon("the cut", wire.closed.cancelled()).await;
        until("nothing is left", || b.sessions() == 0).await;
    }
    let mut a = place.node(
        "a",
        &small,
        &large,
        vec![place.path(1, 2)],
        Timing::default(),
    );
    let (to_b, _) = a.connected().await;
    to_b.call(&Request::Hello, SOON).await.unwrap();
    b.connected().await;
}
