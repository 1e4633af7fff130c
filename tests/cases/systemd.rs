//! What systemd is told (sd_notify(3)), by an agent whose service manager is this test.

use crate::harness::*;
use nix::sys::signal::Signal;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};
use tandem::api::types::Role;
use tandem_lab::Process;

/// Watchdog time of the test's unit.
const WATCHDOG: Duration = Duration::from_secs(6);
/// The agent stops pinging when a loop was silent for half of it; a ping that was on its way may come a quarter later.
const STARVED: Duration = Duration::from_secs(5);

/// The manager's end, and the agent.
struct Service {
    socket: UnixDatagram,
    agent: Process,
}

impl Service {
    /// Starts the agent of a node as a unit with `Type=notify` and `WatchdogSec=` does.
    fn start(scene: &Scene, n: usize) -> Self {
        let host = &scene.node(n).host;
        let bound = host.enter(|| UnixDatagram::bind("/run/notify"));
        let socket = bound.expect("the host is on").expect("bound");
        // WATCHDOG_PID names the process that shall ping; its number is known in the host only.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "WATCHDOG_PID=$$ exec /opt/lab/tandem agent"]);
        command.env("NOTIFY_SOCKET", "/run/notify");
        command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        let agent = host.spawn(command).expect("started");
        Self { socket, agent }
    }

    /// The next message, within `bound`.
    fn next(&self, bound: Duration) -> Option<String> {
        let mut buffer = [0; 4096];
        self.socket
            .set_read_timeout(Some(bound.max(Duration::from_millis(1))))
            .expect("a bound");
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// Waits for a message that has a line which begins with `start`.
    #[track_caller]
    fn expect(&self, start: &str) -> String {
        let end = Instant::now() + SOON;
        let mut seen = Vec::new();
        while let Some(message) = self.next(end.saturating_duration_since(Instant::now())) {
            if message.lines().any(|line| line.starts_with(start)) {
                return message;
            }
            seen.push(message);
        }
        panic!("no {start}; there was {seen:?}");
    }

    /// Reads until no ping has come for `STARVED`.
    #[track_caller]
    fn expect_no_pings(&self) {
        let end = Instant::now() + SOON;
        let mut last = Instant::now();
        while last.elapsed() < STARVED {
            assert!(Instant::now() < end, "the watchdog is still fed");
            let message = self.next(STARVED.saturating_sub(last.elapsed()));
            if message.is_some_and(|m| m.contains("WATCHDOG=1")) {
                last = Instant::now();
            }
        }
    }
}

#[test]
fn systemd_is_told_of_start_reload_restart_and_stop() {
    let scene = SceneOptions::new().make();
    scene.fill();
    let service = Service::start(&scene, ONE);
    service.expect("READY=1");
    service.expect("WATCHDOG=1");
    scene.start_agent(TWO);
    scene.init(ONE);
    scene.wait_ready(ONE, TWO);
    service.expect("STATUS=master, term");
    assert!(scene.tandem(ONE, &["reload"]).success());
    let reloading = service.expect("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading:?}");
    service.expect("READY=1");
    // The program executes itself again: systemd sees one process that goes on and feeds its watchdog.
    assert!(scene.tandem(ONE, &["restart"]).success());
    service.expect("READY=1");
    service.expect("WATCHDOG=1");
    scene.wait_ready(ONE, TWO);
    service.agent.signal(Signal::SIGTERM);
    service.expect("STOPPING=1");
    let extended = service.expect("EXTEND_TIMEOUT_USEC=");
    let micros = extended
        .lines()
        .find_map(|l| l.strip_prefix("EXTEND_TIMEOUT_USEC="));
    let micros: u64 = micros.and_then(|m| m.parse().ok()).expect("a number");
    assert!(
        Duration::from_micros(micros) > Duration::from_secs(10),
        "longer than a planned move may take: {micros}"
    );
    scene.wait_role(TWO, Role::Master);
    let ended = service.agent.wait(SOON);
    assert_eq!(ended.and_then(|s| s.code()), Some(0));
}

#[test]
fn the_watchdog_starves_when_the_failover_loop_hangs() {
    let scene = SceneOptions::new().make();
    let service = Service::start(&scene, ONE);
    service.expect("READY=1");
    service.expect("WATCHDOG=1");
    let frozen = Frozen::thread(service.agent.pid(), "tandem-failover");
    service.expect_no_pings();
    // The rest of the agent lives: it answers.
    assert!(scene.status(ONE).is_ok());
    drop(frozen);
    service.expect("WATCHDOG=1");
}
