//! A client of the service: single requests, and a probe that asks all the time and knows its gaps.

use crate::{Host, LabError};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// An answer is at most this long.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// An HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The host that answered, from its `X-Node` header.
    pub node: String,
    /// Body.
    pub body: Vec<u8>,
}

/// Asks from inside a host, one connection for each request.
#[derive(Clone)]
pub struct HttpClient {
    host: Host,
    server: SocketAddr,
    timeout: Duration,
}

impl HttpClient {
    /// A client on `host` for one server; `timeout` is for the connection and again for each read.
    pub fn new(host: &Host, server: SocketAddr, timeout: Duration) -> Self {
        Self {
            host: host.clone(),
            server,
            timeout,
        }
    }

    /// GET.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub fn get(&self, path: &str) -> io::Result<Answer> {
        self.send("GET", path, Vec::new())
    }

    /// PUT.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub fn put(&self, path: &str, body: impl Into<Vec<u8>>) -> io::Result<Answer> {
        self.send("PUT", path, body.into())
    }

    fn send(&self, method: &'static str, path: &str, body: Vec<u8>) -> io::Result<Answer> {
        let (server, timeout, path) = (self.server, self.timeout, path.to_string());
        self.host
            .enter(move || request(server, method, &path, &body, timeout))
            .map_err(io::Error::other)?
    }
}

fn request(
    server: SocketAddr,
    method: &str,
    path: &str,
    body: &[u8],
    timeout: Duration,
) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&server, timeout)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {server}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.lines();
    let status = lines
        .next()?
        .split_ascii_whitespace()
        .nth(1)?
        .parse()
        .ok()?;
    let (mut node, mut length) = (String::new(), None);
    for line in lines {
        let (name, value) = line.split_once(':')?;
        match name.to_ascii_lowercase().as_str() {
            "x-node" => node = value.trim().to_string(),
            "content-length" => length = value.trim().parse().ok(),
            _ => {}
        }
    }
    let body = answer[end + 4..].to_vec();
    (length == Some(body.len())).then_some(Answer { status, node, body })
}

/// What the probe saw.
#[derive(Debug, Clone, Default)]
pub struct ProbeLog {
    /// When each good answer (status 200, complete) was complete, and the node that gave it; in order of time.
    pub good: Vec<(Instant, String)>,
    /// Questions without a good answer.
    pub failed: u64,
}

impl ProbeLog {
    /// The longest time between two good answers of which the later came after `since`; none when no good
    /// answer came after `since`.
    pub fn longest_gap(&self, since: Instant) -> Option<Duration> {
        let later = self.good.iter().position(|(at, _)| *at > since)?;
        self.good[later.saturating_sub(1)..]
            .windows(2)
            .map(|pair| pair[1].0.duration_since(pair[0].0))
            .max()
    }

    /// When `node` first gave a good answer after `since`.
    pub fn first_from(&self, node: &str, since: Instant) -> Option<Instant> {
        self.good
            .iter()
            .find(|(at, from)| *at > since && from == node)
            .map(|(at, _)| *at)
    }

    /// The node that gave the last good answer.
    pub fn last_node(&self) -> Option<&str> {
        self.good.last().map(|(_, node)| node.as_str())
    }
}

/// Asks one page from inside a host all the time, by several askers so that a silent server does not slow
/// down the asking.
pub struct Probe {
    log: Arc<ProbeShared>,
    askers: Vec<JoinHandle<Result<(), LabError>>>,
}

struct ProbeShared {
    good: Mutex<Vec<(Instant, String)>>,
    failed: AtomicU64,
    stop: AtomicBool,
}

/// Askers of one probe: with their timeout they give the resolution of a gap, here 50 ms.
const ASKERS: u32 = 4;
/// Bound of each connect, write and read.
const ASK_TIMEOUT: Duration = Duration::from_millis(200);
/// Pause of one asker between two questions.
const ASK_PAUSE: Duration = Duration::from_millis(20);
/// Good answers kept: at 200 a second this is more than an hour.
const MAX_LOG: usize = 1_000_000;

impl Probe {
    /// Starts asking.
    ///
    /// # Errors
    /// When the host is off.
    pub fn start(host: &Host, server: SocketAddr, path: &str) -> Result<Self, LabError> {
        let log = Arc::new(ProbeShared {
            good: Mutex::new(Vec::new()),
            failed: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let askers = (0..ASKERS)
            .map(|n| {
                let (shared, path) = (Arc::clone(&log), path.to_string());
                host.enter_thread(move || {
                    std::thread::sleep(ASK_PAUSE / ASKERS * n);
                    ask(&shared, server, &path);
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { log, askers })
    }

    /// What was seen until now.
    pub fn log(&self) -> ProbeLog {
        let good = self.log.good.lock();
        ProbeLog {
            good: good.unwrap_or_else(PoisonError::into_inner).clone(),
            failed: self.log.failed.load(Ordering::Relaxed),
        }
    }

    /// Stops asking.
    pub fn stop(self) -> ProbeLog {
        self.log()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.log.stop.store(true, Ordering::Relaxed);
        for asker in self.askers.drain(..) {
            let _ = asker.join();
        }
    }
}

fn ask(shared: &ProbeShared, server: SocketAddr, path: &str) {
    while !shared.stop.load(Ordering::Relaxed) {
        match request(server, "GET", path, &[], ASK_TIMEOUT) {
            Ok(answer) if answer.status == 200 => {
                let mut good = shared.good.lock().unwrap_or_else(PoisonError::into_inner);
                if good.len() < MAX_LOG {
                    // Taken under the lock, so that the log is in order.
                    good.push((Instant::now(), answer.node));
                }
            }
            _ => {
                shared.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        std::thread::sleep(ASK_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::{ProbeLog, parse};
    use std::time::{Duration, Instant};

    #[test]
    fn an_answer_must_be_complete() {
        let whole = b"HTTP/1.1 200 OK\r\nX-Node: m1\r\nContent-Length: 2\r\n\r\nok";
        assert!(parse(whole).is_some_and(|a| a.node == "m1" && a.body == b"ok" && a.status == 200));
        assert_eq!(parse(&whole[..whole.len() - 1]), None);
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n"), None);
    }

    #[test]
    fn the_gap_counts_from_the_last_good_answer() {
        let t = Instant::now();
        let at = |ms| (t + Duration::from_millis(ms), "m".to_string());
        let log = ProbeLog {
            good: vec![at(0), at(500), at(510), at(1310), at(1320)],
            failed: 3,
        };
        let since = |ms| log.longest_gap(t + Duration::from_millis(ms));
        assert_eq!(since(515), Some(Duration::from_millis(800)));
        assert_eq!(since(1315), Some(Duration::from_millis(10)));
        assert_eq!(since(1320), None);
    }
}
