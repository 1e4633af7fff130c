//! The link without anything above it: how fast bytes go through the same authenticated, encrypted connection that
//! replication uses.

use super::agents::COPY;
use super::error::BenchError;
use super::place::Place;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tandem::config::types::PublicKey;
use tandem::keys::NodeKey;
use tandem::link::message::{ErrorCode, Hello, OneWay, Request, Response};
use tandem::link::{
    BoxFuture, DataStream, Link, LinkConfig, LinkEvent, LinkPath, PeerHandler, Timing,
};
use tandem_lab::PROGRAM_DIR;
use tandem_lab::pair::private_address;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Name of the part of this program that is one end of the link.
pub(super) const PART: &str = "bench-link";
/// Not the agents' port, so that these may run.
const PORT: u16 = 7462;
/// Bytes of one write, as the replication's own are large (`DataStream`: 64 KiB or more).
const PIECE: usize = 1 << 20;
/// Events that may wait (`Link::start`: at least 16).
const EVENTS: usize = 16;

/// Says who it is, and answers nothing.
struct Nobody;

impl PeerHandler for Nobody {
    fn hello(&self) -> Hello {
        Hello {
            pair: "bench".into(),
            node: "bench".into(),
            agent_version: env!("CARGO_PKG_VERSION").into(),
            machine_id: [0; 16],
            boot_id: [0; 16],
            incarnation: 1,
            config_digest: [0; 32],
            config_matters: [0; 32],
            lineages: Vec::new(),
        }
    }

    fn request(&self, _: Request) -> BoxFuture<'_, Response> {
        Box::pin(async { Response::error(ErrorCode::Refused, "a benchmark") })
    }

    fn one_way(&self, _: OneWay) {}
}

/// Sends so many bytes from the first host to the other and waits for the word that all arrived. Each end is a
/// process in its host, as an agent is.
pub(super) fn transport(place: &Place, bytes: u64) -> Result<Duration, BenchError> {
    let part = |n: usize| {
        let mut command = Command::new(format!("{PROGRAM_DIR}/tandem"));
        command.arg0(PART).args([n.to_string(), bytes.to_string()]);
        command
    };
    let mut receiver = part(1);
    receiver
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    let receiver = place.node(1).host.spawn(receiver)?;
    let sent = place.node(0).output(part(0), COPY);
    receiver.kill();
    let sent = sent?;
    match sent.stdout.trim().parse() {
        Ok(seconds) if sent.success() => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(BenchError::Broken(format!(
            "the bare link: {}",
            sent.stderr
        ))),
    }
}

/// One end of the link: `0 BYTES` sends and prints the seconds, `1 BYTES` receives.
pub(super) fn main(mut args: impl Iterator<Item = String>) -> ExitCode {
    let mut number = || args.next()?.parse::<u64>().ok();
    let (Some(n @ 0..=1), Some(bytes)) = (number(), number()) else {
        return ExitCode::FAILURE;
    };
    // Keys of this measurement alone, in networks that nobody else sees.
    let keys = [NodeKey::from_seed(&[1; 32]), NodeKey::from_seed(&[2; 32])];
    let (own, peer) = if n == 0 { (0, 1) } else { (1, 0) };
    let config = config(keys[own].clone(), keys[peer].public(), own);
    let ended = if n == 0 {
        run(config, |link, events| send(link, events, bytes))
    } else {
        run(config, |link, events| receive(link, events, bytes))
    };
    match ended {
        Ok(took) => {
            println!("{}", took.as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn config(key: NodeKey, peer_key: PublicKey, n: usize) -> LinkConfig {
    LinkConfig {
        key,
        peer_key,
        paths: vec![LinkPath {
            name: "private".into(),
            local: private_address(n),
            peer: private_address(1 - n),
            data: true,
        }],
        port: PORT,
        timing: Timing::default(),
    }
}

/// Runs one end, at most [`COPY`].
fn run<F: Future<Output = Result<Duration, BenchError>>>(
    config: LinkConfig,
    end: impl FnOnce(Link, mpsc::Receiver<LinkEvent>) -> F,
) -> Result<Duration, BenchError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(BenchError::io("start a runtime"))?;
    runtime.block_on(async {
        let (sender, events) = mpsc::channel(EVENTS);
        let link = Link::start(config, Arc::new(Nobody), sender);
        match tokio::time::timeout(COPY, end(link, events)).await {
            Ok(result) => result,
            Err(_) => Err(BenchError::Broken(format!(
                "the bare link took more than {COPY:?}"
            ))),
        }
    })
}

async fn send(
    link: Link,
    mut events: mpsc::Receiver<LinkEvent>,
    bytes: u64,
) -> Result<Duration, BenchError> {
    while !matches!(next(&mut events).await?, LinkEvent::Connected { .. }) {}
    let dialled = link.dial_data(&CancellationToken::new()).await;
    let mut stream = dialled.map_err(|e| BenchError::Broken(format!("the bare link: {e}")))?;
    let failed = || BenchError::io("send over the bare link");
    let piece = vec![0x5a; PIECE];
    let begin = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let count = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        stream.write_all(&piece[..count]).await.map_err(failed())?;
        left -= count as u64;
    }
    stream.flush().await.map_err(failed())?;
    stream.read_u8().await.map_err(failed())?;
    Ok(begin.elapsed())
}

async fn receive(
    _link: Link,
    mut events: mpsc::Receiver<LinkEvent>,
    bytes: u64,
) -> Result<Duration, BenchError> {
    let mut stream: DataStream = loop {
        if let LinkEvent::Incoming(stream) = next(&mut events).await? {
            break stream;
        }
    };
    let failed = || BenchError::io("receive over the bare link");
    let begin = Instant::now();
    let mut buffer = vec![0; PIECE];
    let mut received = 0;
    while received < bytes {
        match stream.read(&mut buffer).await.map_err(failed())? {
            0 => return Err(BenchError::Broken("the bare link ended early".into())),
            count => received += count as u64,
        }
    }
    stream.write_u8(1).await.map_err(failed())?;
    stream.flush().await.map_err(failed())?;
    // The sender ends the connection when it has read that; what comes then is no error of the measurement.
    let _ = stream.read(&mut buffer).await;
    Ok(begin.elapsed())
}

async fn next(events: &mut mpsc::Receiver<LinkEvent>) -> Result<LinkEvent, BenchError> {
    let event = events.recv().await;
    event.ok_or_else(|| BenchError::Broken("the bare link ended".into()))
}
