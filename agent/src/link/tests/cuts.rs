//! Connections that die, politely or not.

use super::harness::{Place, Proxy, SOON, data, keys, soon};
use crate::link::message::Request;
use crate::link::{CallError, Timing};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn quick() -> Timing {
    Timing {
        ping: Duration::from_millis(100),
        dead: Duration::from_millis(1000),
        ..Timing::default()
    }
}

#[tokio::test]
async fn a_killed_socket_is_dialled_again() {
    let place = Place::new();
    let (mut a, mut b) = place.pair(Timing::default());
    for _ in 0..3 {
        let (to_b, _) = a.connected().await;
        b.connected().await;
        a.link.shared.registry.cut_all();
        a.disconnected().await;
        b.disconnected().await;
        assert!(matches!(
            to_b.call(&Request::Hello, SOON).await,
            Err(CallError::Disconnected)
        ));
    }
    let (to_b, _) = a.connected().await;
    to_b.call(&Request::Hello, SOON).await.unwrap();
}

/// Not after the pause that a failed dial is followed by.
#[tokio::test]
async fn a_connection_that_worked_is_made_again_at_once() {
    let place = Place::new();
    let pause = Duration::from_secs(2);
    let (mut a, mut b) = place.pair(Timing {
        backoff_min: pause,
        ..Timing::default()
    });
    a.connected().await;
    b.connected().await;
    // It has worked when it has lasted for that pause.
    tokio::time::sleep(pause + Duration::from_millis(100)).await;
    let begun = Instant::now();
    // A cable that flaps ends the next ones before they have lasted: each waits a little longer.
    for _ in 0..3 {
        a.link.shared.registry.cut_all();
        a.disconnected().await;
        a.connected().await;
    }
    assert!(begun.elapsed() < pause, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_peer_may_start_later_and_come_back() {
    let place = Place::new();
    let (small, large) = keys();
    let timing = Timing::default();
    let mut a = place.node("a", &small, &large, vec![place.path(1, 2)], timing);
    for _ in 0..2 {
        let b = place.node("b", &large, &small, vec![place.path(2, 1)], timing);
        a.connected().await;
        drop(b);
        a.disconnected().await;
    }
}

/// A writer that waits for the other side to read ends when the machine in between dies.
#[tokio::test]
async fn a_blocked_writer_wakes_when_tcp_dies() {
    let place = Place::new();
    let (small, large) = keys();
    let proxy = Proxy::start(place.address(3), place.address(2)).await;
    let mut a = place.node("a", &small, &large, vec![place.path(1, 3)], quick());
    let mut b = place.node("b", &large, &small, vec![place.path(2, 1)], quick());
    a.connected().await;
    b.connected().await;
    let (mut near, far) = data(&a, &mut b).await;
    let blocked = block(&mut near).await;
    let dying = async {
        proxy.kill().await;
    };
    let (result, ()) = tokio::join!(
        soon("the end of the write", near.write_all(&blocked)),
        dying
    );
    assert!(result.is_err());
    drop(far);
}

/// The same when nothing is closed and nothing arrives: the silent control connection tells it.
#[tokio::test]
async fn a_blocked_writer_wakes_when_the_cable_is_cut() {
    let place = Place::new();
    let (small, large) = keys();
    let proxy = Proxy::start(place.address(3), place.address(2)).await;
    let mut a = place.node("a", &small, &large, vec![place.path(1, 3)], quick());
    let mut b = place.node("b", &large, &small, vec![place.path(2, 1)], quick());
    a.connected().await;
    b.connected().await;
    let (mut near, mut far) = data(&a, &mut b).await;
    let blocked = block(&mut near).await;
    proxy.hold();
    let started = Instant::now();
    let result = soon("the end of the write", near.write_all(&blocked)).await;
    assert!(result.is_err());
    assert!(
        started.elapsed() >= Duration::from_millis(500),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(a.disconnected().await, "the peer is silent");
    // The reader at the other end gets what had arrived, then the end or an error.
    let mut rest = Vec::new();
    let _ = soon("the end of the read", far.read_to_end(&mut rest)).await;
}

/// Writes until the stream takes no more, and returns a piece that it does not take.
async fn block(stream: &mut crate::link::DataStream) -> Vec<u8> {
    let piece = vec![1; 256 << 10];
    loop {
        let written = tokio::time::timeout(Duration::from_millis(500), stream.write_all(&piece));
        match written.await {
            Ok(result) => result.unwrap(),
            Err(_) => return piece,
        }
    }
}

/// The preferred link is dead: the next one carries control, and data where it is allowed.
#[tokio::test]
async fn control_moves_to_the_next_link() {
    let place = Place::new();
    let (small, large) = keys();
    let proxy = Proxy::start(place.address(3), place.address(2)).await;
    let paths = vec![place.path(2, 1), place.path(6, 5)];
    let mut b = place.node("b", &large, &small, paths, quick());
    b.listening().await;
    let paths = vec![place.path(1, 3), place.path(5, 6)];
    let mut a = place.node("a", &small, &large, paths, quick());
    a.connected().await;
    b.connected().await;
    assert_eq!(*a.link.control().borrow(), Some(0));
    proxy.hold();
    a.disconnected().await;
    proxy.kill().await;
    let (to_b, _) = a.connected().await;
    assert_eq!(*a.link.control().borrow(), Some(1));
    to_b.call(&Request::Hello, SOON).await.unwrap();
    let (near, _far) = data(&a, &mut b).await;
    assert_eq!(near.link(), "link56");
}

/// Data does not outlive control for longer than its bound.
#[tokio::test]
async fn an_orphaned_data_connection_is_cut() {
    let place = Place::new();
    let (small, large) = keys();
    let timing = Timing {
        orphan: Duration::from_millis(300),
        ..quick()
    };
    let mut a = place.node("a", &small, &large, vec![place.path(1, 2)], timing);
    let mut b = place.node("b", &large, &small, vec![place.path(2, 1)], timing);
    a.connected().await;
    b.connected().await;
    let (mut near, _far) = data(&a, &mut b).await;
    // As if there was no control any more.
    a.link.shared.control.send_replace(None);
    let mut byte = [0];
    let read = soon("the end of the read", near.read_exact(&mut byte)).await;
    assert!(read.is_err());
}

/// A listener whose address appears later works without a restart (addresses of 127/8 always exist, so that a taken
/// port stands for it).
#[tokio::test]
async fn a_listener_that_cannot_bind_tries_again() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind(place.address(2)).unwrap();
    let (mut a, mut b) = place.pair(Timing::default());
    super::harness::until("the error is shown", || {
        let listening = b.link.status().paths[0].listening.clone();
        listening.is_err_and(|why| why.contains("in use"))
    })
    .await;
    drop(taken);
    a.connected().await;
    b.connected().await;
    b.listening().await;
}
