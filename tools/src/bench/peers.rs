//! What Tandem is compared with, as Debian has it: rsync with a plain daemon on the other host, and lsyncd.

use super::agents::{COPY, SOON};
use super::error::BenchError;
use super::place::{PRIVATE, Place};
use crate::signals;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use tandem_lab::Process;
use tandem_lab::pair::{WWW, private_address};

/// Port of rsync's daemon (rsync(1)).
const PORT: u16 = 873;
/// The whole of `/srv` of the other host, with owners as they are.
const CONFIG: &str =
    "uid = root\ngid = root\nmunge symlinks = no\n[srv]\npath = /srv\nread only = no\n";
const CONFIG_FILE: &str = "/srv/rsyncd.conf";

/// rsync's daemon on the other host.
pub(super) struct Rsync<'a> {
    place: &'a Place,
    daemon: Process,
}

impl<'a> Rsync<'a> {
    /// Starts the daemon and waits until it listens.
    pub(super) fn start(place: &'a Place) -> Result<Self, BenchError> {
        let other = &place.node(1).host;
        fs::write(other.outside_path(CONFIG_FILE), CONFIG)
            .map_err(BenchError::io("write rsync's configuration"))?;
        let mut command = Command::new("rsync");
        command.args(["--daemon", "--no-detach", "--config", CONFIG_FILE]);
        let daemon = other.spawn(quiet(command))?;
        let end = Instant::now() + SOON;
        let address = SocketAddr::new(private_address(1), PORT);
        loop {
            signals::check()?;
            let connect = move || TcpStream::connect_timeout(&address, Duration::from_secs(1));
            match place.node(0).host.enter(connect)? {
                Ok(_) => return Ok(Self { place, daemon }),
                Err(source) if Instant::now() >= end => {
                    return Err(BenchError::io("start rsync's daemon")(source));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Copies what is in a directory of the first host to one of the other; returns how long it took.
    pub(super) fn copy(
        &self,
        options: &[&str],
        from: &str,
        to: &str,
    ) -> Result<Duration, BenchError> {
        let to = to.strip_prefix("/srv/").unwrap_or(to);
        let mut command = Command::new("rsync");
        command
            .args(options)
            .arg(format!("--exclude=/{PRIVATE}"))
            .arg(format!("{from}/"))
            .arg(format!("rsync://{}/srv/{to}/", private_address(1)));
        let begin = Instant::now();
        let output = self.place.node(0).output(command, COPY)?;
        let took = begin.elapsed();
        signals::check()?;
        if output.success() {
            Ok(took)
        } else {
            Err(BenchError::Broken(format!(
                "rsync failed: {}",
                output.stderr
            )))
        }
    }

    /// `rsync -a` of the tree to a directory.
    pub(super) fn tree(&self, to: &str) -> Result<Duration, BenchError> {
        self.copy(&["-a"], WWW, to)
    }
}

impl Drop for Rsync<'_> {
    fn drop(&mut self) {
        self.daemon.kill();
    }
}

/// Neither reads nor says anything.
fn quiet(mut command: Command) -> Command {
    use std::process::Stdio;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}
