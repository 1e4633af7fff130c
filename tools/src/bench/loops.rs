//! What keeps two trees alike today: an rsync that is started again and again, and lsyncd.

use super::agents::SOON;
use super::error::BenchError;
use super::peers::Rsync;
use super::place::{PRIVATE, Place};
use crate::signals;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tandem_lab::Process;
use tandem_lab::pair::{WWW, private_address};

/// lsyncd begins with a pass of rsync over everything and a watch for each directory.
const BEGIN: Duration = Duration::from_secs(300);
const CONFIG_FILE: &str = "/srv/lsyncd.lua";

/// Runs rsync over the tree again and again while `job` runs, as a cron job or a shell loop does.
pub(super) fn beside_rsync_loop<R>(
    rsync: &Rsync<'_>,
    to: &str,
    job: impl FnOnce() -> Result<R, BenchError>,
) -> Result<R, BenchError> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let passes = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                rsync.tree(to)?;
            }
            Ok::<_, BenchError>(())
        });
        let done = job();
        stop.store(true, Ordering::Relaxed);
        let ended = passes.join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        done
    })
}

/// lsyncd on the first host, with the shortest delay that it has.
pub(super) struct Lsyncd(Process);

impl Lsyncd {
    /// Starts it for the tree, into a directory of the other host that is a copy already, and waits until a new file
    /// arrives. Nothing when it is not installed.
    pub(super) fn start(place: &Place, to: &str) -> Result<Option<Self>, BenchError> {
        let name = to.strip_prefix("/srv/").unwrap_or(to);
        let config = format!(
            "settings {{ nodaemon = true }}\nsync {{\n  default.rsync, source = \"{WWW}\", \
             target = \"rsync://{}/srv/{name}/\", delay = 1,\n  exclude = {{ \"/{PRIVATE}\" }}, \
             rsync = {{ archive = true }}\n}}\n",
            private_address(1)
        );
        let host = &place.node(0).host;
        fs::write(host.outside_path(CONFIG_FILE), config)
            .map_err(BenchError::io("write lsyncd's configuration"))?;
        let log = fs::File::create(place.pair.lab.dir().join("lsyncd.log"))
            .map_err(BenchError::io("make lsyncd's log"))?;
        let again = log
            .try_clone()
            .map_err(BenchError::io("make lsyncd's log"))?;
        let mut command = Command::new("lsyncd");
        command
            .args(["-nodaemon", CONFIG_FILE])
            .stdin(std::process::Stdio::null())
            .stdout(log)
            .stderr(again);
        let Ok(process) = host.spawn(command) else {
            return Ok(None);
        };
        let lsyncd = Self(process);
        lsyncd.wait_begun(place, to)?;
        Ok(Some(lsyncd))
    }

    fn wait_begun(&self, place: &Place, to: &str) -> Result<(), BenchError> {
        let name = "lsyncd-has-begun";
        let seen = place.node(1).host.outside_path(to).join(name);
        fs::write(place.tree(0).join(name), "").map_err(BenchError::io("write a file"))?;
        let begin = Instant::now();
        while !seen.exists() {
            signals::check()?;
            if begin.elapsed() > BEGIN || !self.0.is_running() {
                let log = fs::read_to_string(place.pair.lab.dir().join("lsyncd.log"));
                return Err(BenchError::Broken(format!(
                    "lsyncd does not copy within {BEGIN:?} ({}): {}",
                    self.0.describe_end(),
                    log.unwrap_or_default()
                )));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Lsyncd {
    fn drop(&mut self) {
        // Ends its rsync as well; what does not end is killed.
        self.0.signal(nix::sys::signal::Signal::SIGTERM);
        if self.0.wait(SOON).is_none() {
            self.0.kill();
        }
    }
}
