//! TCP connects. A refusal (RST) is an answer too: somebody's kernel runs.

use super::{Outlet, ProbeError};
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Somebody accepted.
    Accepted,
    /// The kernel refused: nobody listens there.
    Refused,
}

/// Connects to `target`, at most `within`. Cancel safe.
pub async fn answer(
    target: SocketAddr,
    via: &Outlet,
    within: Duration,
) -> Result<Answer, ProbeError> {
    match connect(target, via, within).await {
        Ok(stream) => {
            // Closed with a reset: a probe leaves no connection in TIME_WAIT. Failing to set it costs only that.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            Ok(Answer::Accepted)
        }
        Err(ProbeError::Io { source, .. }) if source.kind() == io::ErrorKind::ConnectionRefused => {
            Ok(Answer::Refused)
        }
        Err(e) => Err(e),
    }
}

/// Opens a connection for a probe.
pub(super) async fn connect(
    target: SocketAddr,
    via: &Outlet,
    within: Duration,
) -> Result<TcpStream, ProbeError> {
    let socket = match target {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
    .map_err(ProbeError::io("TCP socket"))?;
    if let Some(device) = &via.device {
        socket
            .bind_device(Some(device.as_bytes()))
            .map_err(ProbeError::io("binding to the device"))?;
    }
    if let Some(source) = via.source {
        socket
            .bind(SocketAddr::new(source, 0))
            .map_err(ProbeError::io("binding to the source address"))?;
    }
    timeout(within, socket.connect(target))
        .await
        .map_err(|_| ProbeError::Silent("TCP connect"))?
        .map_err(ProbeError::io("TCP connect"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testnet::{B4, B6, Pair};
    use std::net::IpAddr;
    use tokio::net::TcpListener;

    /// For answers that must come, on a machine that does many things; and for silence.
    const PATIENT: Duration = Duration::from_secs(5);
    const WITHIN: Duration = Duration::from_millis(300);

    #[test]
    fn accepted_refused_and_silent_are_told_apart() {
        let pair = Pair::new();
        let (ready, listening) = std::sync::mpsc::channel();
        let _server = pair.b.spawn(move || async move {
            let listener = TcpListener::bind("[::]:80")
                .await
                .expect("the port is free");
            ready.send(()).expect("the test waits");
            while listener.accept().await.is_ok() {}
        });
        listening.recv().expect("the server starts");
        let ask = |port: u16, within: Duration| {
            pair.a.block_on(move || async move {
                let mut answers = Vec::new();
                for target in [B4, B6] {
                    let target: IpAddr = target.parse().expect("literal");
                    let via = Outlet::device("eth0");
                    answers.push(answer((target, port).into(), &via, within).await.ok());
                }
                answers
            })
        };
        assert_eq!(ask(80, PATIENT), [Some(Answer::Accepted); 2]);
        assert_eq!(ask(81, PATIENT), [Some(Answer::Refused); 2]);
        pair.b.set_link("eth0", false);
        assert_eq!(ask(80, WITHIN), [None; 2]);
    }
}
