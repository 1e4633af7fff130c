//! HTTP/1.1 GET (RFC 9112) over a socket of our own: the address asked, the device and the `Host` field are ours to
//! choose, and each phase is bounded.

use super::{Outlet, ProbeError, tcp};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, client::conn::http1};
use hyper_util::rt::TokioIo;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// Most bytes of a body that are read: an answer that is longer has shown enough.
const BODY_LIMIT: usize = 64 * 1024;

/// Room for the head of an answer, in bytes, and most fields in it.
const HEAD_LIMIT: usize = 64 * 1024;
const FIELD_LIMIT: usize = 128;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCheck {
    /// Address asked.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Path with query.
    pub path: String,
    /// `Host` field.
    pub host: String,
    /// Accepted status codes.
    pub status: RangeInclusive<u16>,
}

/// Asks; each of the phases connect, head and body takes at most `phase`. Answers the status code. Cancel safe.
pub async fn get(check: &HttpCheck, via: &Outlet, phase: Duration) -> Result<u16, ProbeError> {
    let request = Request::get(check.path.as_str())
        .header(hyper::header::HOST, check.host.as_str())
        .header(hyper::header::USER_AGENT, "tandem")
        .header(hyper::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| ProbeError::Wrong(format!("impossible request: {e}")))?;
    let stream = tcp::connect(SocketAddr::new(check.address, check.port), via, phase).await?;
    let status = exchange(stream, request, phase).await?;
    if check.status.contains(&status) {
        Ok(status)
    } else {
        Err(ProbeError::Wrong(format!("HTTP status {status}")))
    }
}

/// Sends the request and reads the answer; its status code.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
    phase: Duration,
) -> Result<u16, ProbeError> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_LIMIT)
        .max_headers(FIELD_LIMIT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(wrong)?;
    // Ends with this function, whatever the server does.
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let response = timeout(phase, sender.send_request(request))
        .await
        .map_err(|_| ProbeError::Silent("HTTP head"))?
        .map_err(wrong)?;
    let status = response.status().as_u16();
    timeout(phase, read_body(response))
        .await
        .map_err(|_| ProbeError::Silent("HTTP body"))??;
    Ok(status)
}

/// The answer of a server, whatever it is, to a request.
#[cfg(feature = "fuzz")]
pub(crate) async fn answered(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    phase: Duration,
) -> Result<u16, ProbeError> {
    let request = Request::get("/")
        .body(Empty::new())
        .map_err(|e| ProbeError::Wrong(e.to_string()))?;
    exchange(stream, request, phase).await
}

async fn read_body(response: Response<Incoming>) -> Result<(), ProbeError> {
    let mut body = response.into_body();
    let mut read = 0;
    while read < BODY_LIMIT {
        match body.frame().await {
            None => return Ok(()),
            Some(Err(e)) => return Err(wrong(e)),
            Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
        }
    }
    Ok(())
}

fn wrong(e: hyper::Error) -> ProbeError {
    ProbeError::Wrong(format!("HTTP: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const PHASE: Duration = Duration::from_millis(400);

    /// Serves one connection on the loopback with fixed bytes, then holds it open until the test ends.
    async fn served(answer: &'static [u8]) -> (Result<u16, ProbeError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (asked, question) = mpsc::channel();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\n") {
                seen.push(stream.read_u8().await.expect("a request"));
            }
            asked
                .send(String::from_utf8(seen).expect("ASCII"))
                .expect("the test waits");
            stream.write_all(answer).await.expect("the client listens");
            std::future::pending::<()>().await;
        });
        let check = HttpCheck {
            address: address.ip(),
            port: address.port(),
            path: "/health?x=1".into(),
            host: "www.example.com".into(),
            status: 200..=399,
        };
        let result = get(&check, &Outlet::default(), PHASE).await;
        server.abort();
        (result, question.try_recv().unwrap_or_default())
    }

    #[tokio::test]
    async fn a_good_answer_counts_and_the_request_is_as_configured() {
        let (result, question) = served(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        assert_eq!(result.expect("good"), 200);
        assert!(
            question.starts_with("GET /health?x=1 HTTP/1.1\r\n"),
            "{question}"
        );
        assert!(
            question
                .to_lowercase()
                .contains("host: www.example.com\r\n"),
            "{question}"
        );
    }

    #[tokio::test]
    async fn bad_status_silence_in_each_phase_and_rubbish_are_failures() {
        let (result, _) = served(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await;
        assert!(
            matches!(&result, Err(ProbeError::Wrong(w)) if w.contains("503")),
            "{result:?}"
        );
        let (result, _) = served(b"").await;
        assert!(
            matches!(result, Err(ProbeError::Silent("HTTP head"))),
            "{result:?}"
        );
        let (result, _) = served(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok").await;
        assert!(
            matches!(result, Err(ProbeError::Silent("HTTP body"))),
            "{result:?}"
        );
        let (result, _) = served(b"SSH-2.0-OpenSSH_9.9\r\n").await;
        assert!(matches!(result, Err(ProbeError::Wrong(_))), "{result:?}");
    }

    #[tokio::test]
    async fn an_endless_body_is_enough_and_an_endless_head_is_refused() {
        static BODY: [u8; 200_000] = {
            let head = b"HTTP/1.1 200 OK\r\n\r\n";
            let mut all = [b'x'; 200_000];
            let mut i = 0;
            while i < head.len() {
                all[i] = head[i];
                i += 1;
            }
            all
        };
        let (result, _) = served(&BODY).await;
        assert_eq!(result.expect("good"), 200);
        static HEAD: [u8; 200_000] = {
            let head = b"HTTP/1.1 200 OK\r\nX: ";
            let mut all = [b'x'; 200_000];
            let mut i = 0;
            while i < head.len() {
                all[i] = head[i];
                i += 1;
            }
            all
        };
        let (result, _) = served(&HEAD).await;
        assert!(matches!(result, Err(ProbeError::Wrong(_))), "{result:?}");
    }

    #[tokio::test]
    async fn a_refused_connection_is_named() {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let check = HttpCheck {
            address: IpAddr::from([127, 0, 0, 1]),
            port,
            path: "/".into(),
            host: "localhost".into(),
            status: 200..=299,
        };
        let error = get(&check, &Outlet::default(), PHASE)
            .await
            .expect_err("refused");
        assert!(
            matches!(
                error,
                ProbeError::Io {
                    what: "TCP connect",
                    ..
                }
            ),
            "{error}"
        );
    }
}
