//! The command of a hold, and the signals that reach it.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::ExitStatus;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The running command.
pub(super) struct Child {
    process: tokio::process::Child,
    /// Signals go to this: its process group (negative) or itself.
    target: libc::pid_t,
    ended: bool,
}

impl Child {
    /// Starts the command. From a terminal it stays in this process's group, so that it may read the terminal and
    /// hears its interrupt key; else it gets a group of its own, so that its children are signalled with it. It is
    /// told by SIGTERM when this process dies in any way. Call from the main thread: the kernel means the thread that
    /// started it.
    pub fn spawn(command: &[OsString]) -> io::Result<Self> {
        let mut std = std::process::Command::new(&command[0]);
        std.args(&command[1..]);
        let group = !io::stdin().is_terminal();
        if group {
            std.process_group(0);
        }
        let parent = rustix::process::getpid();
        let die_with_parent = move || {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
            // The parent may have died before the line above; then nobody holds anything.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::Error::other("the parent is gone"));
            }
            Ok(())
        };
        // SAFETY: runs between fork and exec. It makes two system calls and, only when the parent is gone and the
        // child ends at once, allocates for an error; it takes no lock of this program.
        unsafe {
            std.pre_exec(die_with_parent);
        }
        let process = tokio::process::Command::from(std).spawn()?;
        // Just started and not waited for, so it has an id, which the kernel's pid_t holds.
        let pid = process
            .id()
            .and_then(|id| libc::pid_t::try_from(id).ok())
            .unwrap_or(0);
        Ok(Self {
            process,
            target: if group { -pid } else { pid },
            ended: false,
        })
    }

    /// Waits for its end; gives its exit code, or 128 + N when signal N ended it. Cancel safe.
    pub async fn wait(&mut self) -> io::Result<u8> {
        let status = self.process.wait().await?;
        self.ended = true;
        Ok(code(status))
    }

    /// Sends it a signal. After its end nothing is sent: the number may be another's.
    pub fn pass(&self, signal: libc::c_int) {
        if self.ended || self.target == 0 {
            return;
        }
        // SAFETY: kill takes two numbers and touches no memory of this process. The child was not waited for, so the
        // kernel has not given its number to another process.
        unsafe {
            libc::kill(self.target, signal);
        }
    }
}

fn code(status: ExitStatus) -> u8 {
    let number = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    };
    u8::try_from(number).unwrap_or(255)
}

/// What is passed on to the command.
pub(super) struct Signals {
    all: Vec<(libc::c_int, Signal)>,
    /// Terminal keys reach the command by themselves when it is in this process's group.
    keys_only_end_me: bool,
}

impl Signals {
    /// Begins to catch them.
    pub fn new() -> io::Result<Self> {
        let numbers = [
            libc::SIGTERM,
            libc::SIGHUP,
            libc::SIGINT,
            libc::SIGQUIT,
            libc::SIGUSR1,
            libc::SIGUSR2,
        ];
        let catch = |number| Ok((number, signal(SignalKind::from_raw(number))?));
        Ok(Self {
            all: numbers.into_iter().map(catch).collect::<io::Result<_>>()?,
            keys_only_end_me: io::stdin().is_terminal(),
        })
    }

    /// The next signal to pass on. Cancel safe.
    pub async fn next(&mut self) -> libc::c_int {
        std::future::poll_fn(|context| {
            for (number, signal) in &mut self.all {
                while signal.poll_recv(context).is_ready() {
                    let key = *number == libc::SIGINT || *number == libc::SIGQUIT;
                    if !(key && self.keys_only_end_me) {
                        return std::task::Poll::Ready(*number);
                    }
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[tokio::test]
    async fn the_code_of_the_command_is_the_code() {
        let mut child = Child::spawn(&words(&["sh", "-c", "exit 7"])).unwrap();
        assert_eq!(child.wait().await.unwrap(), 7);
        let mut child = Child::spawn(&words(&["sh", "-c", "kill -KILL $$"])).unwrap();
        assert_eq!(child.wait().await.unwrap(), 137);
        assert_eq!(
            Child::spawn(&words(&["/nowhere"])).err().unwrap().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[tokio::test]
    async fn a_signal_reaches_the_children_of_the_command() {
        if io::stdin().is_terminal() {
            return; // The group is this process's own then.
        }
        let mut child = Child::spawn(&words(&["sh", "-c", "sleep 1000 & wait"])).unwrap();
        let pid = child.process.id().unwrap();
        let grandchild = || {
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default()
        };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while grandchild().trim().is_empty() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "the shell did not start its child"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let sleeper = grandchild();
        child.pass(libc::SIGTERM);
        assert_eq!(child.wait().await.unwrap(), 128 + 15);
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", sleeper.trim()));
            stat.map_or(true, |s| s.contains(") Z"))
        };
        while !gone() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "the child of the command lives"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
