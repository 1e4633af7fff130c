//! What two nodes that know each other do.

use super::harness::{Place, SOON, data, soon, until};
use crate::link::message::{ErrorCode, OneWay, Request, Response};
use crate::link::status::Purpose;
use crate::link::{CallError, DATA_SESSIONS, LinkError, LinkEvent, Timing};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn both_sides_call_each_other() {
    let place = Place::new();
    let (mut a, mut b) = place.pair(Timing::default());
    let (to_b, hello_b) = a.connected().await;
    let (to_a, hello_a) = b.connected().await;
    assert_eq!((hello_a.node.as_str(), hello_b.node.as_str()), ("a", "b"));
    assert_eq!(hello_a.lineages, [1, 2, 3]);
    for rpc in [&to_a, &to_b] {
        let request = Request::Forward(b"abc".to_vec());
        let response = rpc.call(&request, SOON).await.unwrap();
        assert_eq!(response, Response::Forwarded(b"cba".to_vec()));
    }
    for number in 0..100 {
        to_b.send(&OneWay::Lineages(vec![number])).await.unwrap();
    }
    for number in 0..100 {
        let message = soon("a message", b.one_way.recv()).await;
        assert_eq!(message, Some(OneWay::Lineages(vec![number])));
    }
}

/// Whoever hears of the connection may dial data at once: there is no moment in which that is refused.
#[tokio::test]
async fn the_connection_is_there_before_it_is_told() {
    let place = Place::new();
    let (mut a, mut b) = place.pair(Timing::default());
    let reason = || "fills the queue".to_owned();
    while a
        .tell
        .try_send(LinkEvent::Disconnected { reason: reason() })
        .is_ok()
    {}
    b.connected().await;
    until("the connection", || a.link.control().borrow().is_some()).await;
    a.connected().await;
    data(&a, &mut b).await;
}

#[tokio::test]
async fn errors_of_calls_are_told_apart() {
    let place = Place::new();
    let (mut a, mut b) = place.pair(Timing::default());
    let (to_b, _) = a.connected().await;
    b.connected().await;
    let refused = to_b
        .call(&Request::RestoreAbort { transfer: 1 }, SOON)
        .await;
    assert!(matches!(
        refused,
        Err(CallError::Refused {
            code: ErrorCode::Refused,
            ..
        })
    ));
    let huge = to_b.call(&Request::Forward(b"huge".to_vec()), SOON).await;
    assert!(matches!(
        huge,
        Err(CallError::Refused {
            code: ErrorCode::TooLong,
            ..
        })
    ));
    let never = Request::Forward(b"never".to_vec());
    let late = to_b.call(&never, Duration::from_millis(100)).await;
    assert!(matches!(late, Err(CallError::TimedOut(_))));
    // A call that waits ends when the connection does.
    let (late, ()) = tokio::join!(to_b.call(&never, SOON * 10), async {
        drop(b);
    });
    assert!(matches!(late, Err(CallError::Disconnected)));
    assert!(to_b.closed().is_cancelled());
}

#[tokio::test]
async fn data_goes_both_ways_and_ends() {
    let place = Place::new();
    let (mut a, mut b) = place.pair(Timing::default());
    a.connected().await;
    b.connected().await;
    // Either node may be the source.
    let (mut from_b, mut at_a) = data(&b, &mut a).await;
    let (mut from_a, mut at_b) = data(&a, &mut b).await;
    for (near, far) in [(&mut from_a, &mut at_b), (&mut from_b, &mut at_a)] {
        near.write_all(b"forward").await.unwrap();
        let mut bytes = [0; 7];
        soon("data", far.read_exact(&mut bytes)).await.unwrap();
        assert_eq!(&bytes, b"forward");
        far.write_all(b"back").await.unwrap();
        let mut bytes = [0; 4];
        soon("data", near.read_exact(&mut bytes)).await.unwrap();
        assert_eq!(&bytes, b"back");
        near.write_all(b"last").await.unwrap();
        near.shutdown().await.unwrap();
        let mut bytes = Vec::new();
        soon("the end", far.read_to_end(&mut bytes)).await.unwrap();
        assert_eq!(bytes, b"last");
    }
    drop((from_a, at_a, from_b, at_b));
    until("only control is left", || {
        a.sessions() == 1 && b.sessions() == 1
    })
    .await;
}

/// What was written before a drop arrives, and then the end.
#[tokio::test]
async fn a_dropped_stream_delivers_what_was_written() {
    let place = Place::new();
    let (mut a, mut b) = place.pair(Timing::default());
    a.connected().await;
    b.connected().await;
    let (mut near, mut far) = data(&a, &mut b).await;
    let bytes = vec![7; 1 << 20];
    near.write_all(&bytes).await.unwrap();
    drop(near);
    let mut arrived = Vec::new();
    soon("the end", far.read_to_end(&mut arrived))
        .await
        .unwrap();
    assert_eq!(arrived.len(), bytes.len());
    soon("closed", far.closed().cancelled()).await;
}

#[tokio::test]
async fn data_connections_are_bounded_and_need_control() {
    let place = Place::new();
    let (mut a, mut b) = place.pair(Timing::default());
    let cancel = CancellationToken::new();
    assert!(matches!(
        a.link.dial_data(&cancel).await,
        Err(LinkError::NoControl)
    ));
    a.connected().await;
    b.connected().await;
    let mut streams = Vec::new();
    for _ in 0..DATA_SESSIONS {
        streams.push(data(&a, &mut b).await);
    }
    let more = soon("an answer", a.link.dial_data(&cancel)).await;
    assert!(
        matches!(more, Err(LinkError::TurnedAway | LinkError::Unwanted(_))),
        "{more:?}"
    );
    streams.pop();
    until("room", || {
        a.sessions() == DATA_SESSIONS && b.sessions() == DATA_SESSIONS
    })
    .await;
    data(&a, &mut b).await;
    cancel.cancel();
    let cancelled = a.link.dial_data(&cancel).await;
    assert!(matches!(cancelled, Err(LinkError::Cancelled)));
}

#[tokio::test]
async fn data_uses_only_links_that_allow_it() {
    let place = Place::new();
    let (small, large) = super::harness::keys();
    let no_data = |mut path: crate::link::LinkPath| {
        path.data = false;
        path
    };
    let timing = Timing::default();
    let paths = vec![no_data(place.path(2, 1)), place.path(4, 3)];
    let mut b = place.node("b", &large, &small, paths, timing);
    b.listening().await;
    let paths = vec![no_data(place.path(1, 2)), place.path(3, 4)];
    let mut a = place.node("a", &small, &large, paths, timing);
    a.connected().await;
    b.connected().await;
    let (near, far) = data(&a, &mut b).await;
    assert_eq!((near.link(), far.link()), ("link34", "link43"));
    let status = a.link.status();
    let kinds: Vec<_> = status
        .paths
        .iter()
        .map(|path| path.sessions.iter().map(|s| s.purpose).collect::<Vec<_>>())
        .collect();
    assert_eq!(kinds, [vec![Purpose::Control], vec![Purpose::Data]]);
}

#[tokio::test]
async fn status_tells_counters_and_round_trip() {
    let place = Place::new();
    let timing = Timing {
        ping: Duration::from_millis(20),
        ..Timing::default()
    };
    let (mut a, mut b) = place.pair(timing);
    a.connected().await;
    b.connected().await;
    let measured = |node: &super::harness::Node| {
        let status = node.link.status();
        let control = &status.paths[0].sessions[0];
        control.rtt.is_some() && control.bytes_in > 0 && control.bytes_out > 0
    };
    until("measured", || measured(&a) && measured(&b)).await;
    let status = a.link.status();
    assert!(status.paths[0].sessions[0].dialled);
    assert_eq!(status.paths[0].sessions[0].remote, b.address);
    assert_eq!(status.refused, 0);
}

/// The newest control connection wins, and events keep their order.
#[tokio::test]
async fn a_restarted_peer_replaces_its_old_connection() {
    let place = Place::new();
    let (small, large) = super::harness::keys();
    let timing = Timing::default();
    let mut b = place.node("b", &large, &small, vec![place.path(2, 1)], timing);
    let mut first = place.node("a", &small, &large, vec![place.path(1, 2)], timing);
    first.connected().await;
    b.connected().await;
    // The first is still there and alive: the second comes from another address with the same key.
    let second = place.node("a", &small, &large, vec![place.path(5, 2)], timing);
    assert!(matches!(b.event().await, LinkEvent::Disconnected { .. }));
    assert!(matches!(b.event().await, LinkEvent::Connected { .. }));
    drop(second);
}

#[tokio::test]
async fn after_shutdown_the_port_is_free() {
    let place = Place::new();
    let (mut a, mut b) = place.pair(Timing::default());
    a.connected().await;
    b.connected().await;
    soon("shutdown", b.link.shutdown()).await;
    tokio::net::TcpListener::bind(b.address).await.unwrap();
    a.disconnected().await;
}
