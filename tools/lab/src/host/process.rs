//! A process that the lab started in a host.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A process in a host. Cloning gives another handle; dropping a handle does not end the process.
#[derive(Debug, Clone)]
pub struct Process {
    child: Arc<Mutex<Child>>,
    pid: u32,
}

impl Process {
    pub(crate) fn new(child: Child) -> Self {
        Self {
            pid: child.id(),
            child: Arc::new(Mutex::new(child)),
        }
    }

    /// Its number as seen from outside.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal; a process that has ended is fine.
    pub fn signal(&self, signal: Signal) {
        let mut child = self.child();
        // Under the lock and only while it is not reaped, the number cannot belong to another process.
        if let (Ok(None), Ok(pid)) = (child.try_wait(), i32::try_from(self.pid)) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&self) {
        let _ = self.child().kill();
        self.reap();
    }

    /// Its exit status, when it has ended.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&self) -> bool {
        self.exit_status().is_none()
    }

    /// Waits for its end at most `limit`.
    pub fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.exit_status() {
                return Some(status);
            }
            if Instant::now() >= end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How it ended, for a message.
    pub fn describe_end(&self) -> String {
        match self.exit_status() {
            None => "is running".into(),
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("ended with code {code}"),
                (None, Some(signal)) => format!("was killed by signal {signal}"),
                (None, None) => "ended".into(),
            },
        }
    }

    /// Collects a process that has been killed.
    pub(crate) fn reap(&self) {
        let _ = self.child().wait();
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
