//! Bulk beside control.

use super::harness::{Place, SOON, data, soon};
use crate::link::Timing;
use crate::link::message::Request;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const BULK: u64 = 192 << 20;

/// Sends bulk and reads the small acknowledgements meanwhile, as a replication session does.
async fn send(stream: crate::link::DataStream, total: u64) {
    let (mut acks, mut out) = tokio::io::split(stream);
    let reading = tokio::spawn(async move {
        let mut acked = 0;
        let mut ack = [0; 8];
        while acked < total {
            acks.read_exact(&mut ack).await.unwrap();
            acked = u64::from_le_bytes(ack);
        }
    });
    let piece = vec![5; 1 << 20];
    for _ in 0..total >> 20 {
        out.write_all(&piece).await.unwrap();
    }
    reading.await.unwrap();
}

async fn receive(stream: crate::link::DataStream, total: u64) {
    let (mut input, mut acks) = tokio::io::split(stream);
    let mut buffer = vec![0; 1 << 20];
    let (mut received, mut acked) = (0, 0);
    while received < total {
        let count = input.read(&mut buffer).await.unwrap();
        assert!(count > 0, "ended after {received} bytes");
        received += count as u64;
        if received - acked >= 1 << 20 || received == total {
            acked = received;
            acks.write_all(&acked.to_le_bytes()).await.unwrap();
        }
    }
}

/// While bulk runs, calls on the control connection are answered quickly.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bulk_does_not_delay_control() {
    let place = Place::new();
    let (mut a, mut b) = place.pair(Timing::default());
    let (to_b, _) = a.connected().await;
    b.connected().await;
    let (near, far) = data(&a, &mut b).await;
    let sending = tokio::spawn(send(near, BULK));
    let receiving = tokio::spawn(receive(far, BULK));
    let mut times = Vec::new();
    while !receiving.is_finished() {
        let started = Instant::now();
        to_b.call(&Request::Hello, SOON).await.unwrap();
        times.push(started.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    soon("bulk", receiving).await.unwrap();
    soon("bulk", sending).await.unwrap();
    times.sort();
    let median = times[times.len() / 2];
    // 192 MiB ahead of it in the same queue would be hundreds of milliseconds each time.
    assert!(
        median < Duration::from_millis(50),
        "median of {} calls: {median:?}",
        times.len()
    );
}
