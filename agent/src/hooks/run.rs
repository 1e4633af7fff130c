//! Runs one command, bounded in time and output.

use super::trust::{self, TrustError};
use super::{Context, OUTPUT_GRACE, OUTPUT_KEPT, SEARCH_PATH, TERM_GRACE};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, Interest};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// A command that ended with exit code 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How long it ran.
    pub took: Duration,
    /// The last bytes of its output, invalid UTF-8 replaced.
    pub output: String,
}

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It is not run at all.
    #[error(transparent)]
    Untrusted(#[from] TrustError),
    /// The system could not start or watch it.
    #[error("cannot run {program}: {source}")]
    System {
        /// The program.
        program: String,
        /// The system's error.
        source: io::Error,
    },
    /// It did not end in time and was killed.
    #[error("{program} did not end within {limit:?} and was ended{}", tail(.output))]
    TimedOut {
        /// The program.
        program: String,
        /// The bound.
        limit: Duration,
        /// The last bytes of its output.
        output: String,
    },
    /// It became obsolete and was killed.
    #[error("{program} was ended: no longer wanted")]
    Cancelled {
        /// The program.
        program: String,
    },
    /// It ended by itself, but not with exit code 0.
    #[error("{program}: {status}{}", tail(.output))]
    Failed {
        /// The program.
        program: String,
        /// Exit code or signal.
        status: ExitStatus,
        /// The last bytes of its output.
        output: String,
    },
}

/// The last line of the output, for one-line messages; control characters escaped.
fn tail(output: &str) -> String {
    match output.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => format!(": {}", line.trim().escape_debug()),
        None => String::new(),
    }
}

/// Runs `argv` and waits for its end: at most `timeout` + [`TERM_GRACE`] + [`OUTPUT_GRACE`].
///
/// When `cancel` fires, the command is ended as at its timeout. Dropping the future sends SIGKILL to the
/// process group at once.
pub async fn run(
    argv: &[String],
    context: &Context,
    timeout: Duration,
    cancel: &CancellationToken,
) -> Result<Report, RunError> {
    let program = argv.first().ok_or(TrustError::Empty)?.clone();
    let path = trust::resolve(&program)?;
    let system = |source| RunError::System {
        program: program.clone(),
        source,
    };
    let started = Instant::now();
    let mut command = Command::new(path);
    command.args(&argv[1..]);
    let mut child = prepare(&mut command, context).spawn().map_err(system)?;
    let mut group = Group::of(&child).map_err(system)?;
    let output = Output::collect(&mut child);

    let ended = tokio::select! {
        ended = group.ended() => { ended.map_err(system)?; None }
        () = tokio::time::sleep(timeout) => Some(true),
        () = cancel.cancelled() => Some(false),
    };
    if ended.is_some() {
        group.end().await.map_err(system)?;
    }
    // The group is left alone from here: what a successful command started in the background may stay.
    let status = child.wait().await.map_err(system)?;
    group.done = true;
    let output = output.finish().await;
    match ended {
        Some(true) => Err(RunError::TimedOut {
            program,
            limit: timeout,
            output,
        }),
        Some(false) => Err(RunError::Cancelled { program }),
        None if status.success() => Ok(Report {
            took: started.elapsed(),
            output,
        }),
        None => Err(RunError::Failed {
            program,
            status,
            output,
        }),
    }
}

fn prepare<'a>(command: &'a mut Command, context: &Context) -> &'a mut Command {
    command
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .env("LANG", "C.UTF-8")
        .env("HOME", "/")
        .envs(context.variables())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let protected = protected_from_shortage();
    let in_child = move || {
        if protected {
            as_mortal_as_others();
        }
        close_descriptors_at_exec()
    };
    // SAFETY: the closure runs in the child between fork and exec and makes async-signal-safe system calls only;
    // it allocates nothing and touches no memory of the parent.
    unsafe { command.pre_exec(in_child) }
}

/// The agent's unit keeps it from being killed when memory is short. What it starts is not to inherit that: a
/// service that takes all memory must not outlive everything else.
fn protected_from_shortage() -> bool {
    let score = std::fs::read_to_string("/proc/self/oom_score_adj");
    score.is_ok_and(|text| text.trim_start().starts_with('-'))
}

/// Sets this process's `oom_score_adj` to 0. To raise it needs no privilege; a system that refuses it changes nothing.
fn as_mortal_as_others() {
    // SAFETY: the path ends with a zero byte and lives for ever; the descriptor is this function's own; write reads
    // one byte of a literal.
    unsafe {
        let fd = libc::open(
            c"/proc/self/oom_score_adj".as_ptr(),
            libc::O_WRONLY | libc::O_CLOEXEC,
        );
        if fd >= 0 {
            libc::write(fd, c"0".as_ptr().cast(), 1);
            libc::close(fd);
        }
    }
}

/// Marks every descriptor but the standard three close-on-exec (close_range(2), Linux 5.11), whatever a library
/// in this process may have opened without the flag.
fn close_descriptors_at_exec() -> io::Result<()> {
    let first: libc::c_uint = 3;
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC only sets flags in this process's own descriptor table.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The process group of a running command. Killed if dropped before `done`.
struct Group {
    leader: Pid,
    /// Readable when the leader has ended. The leader is not reaped by that, so its id, which is also the
    /// group's, cannot be reused while this type may still signal it.
    pidfd: AsyncFd<OwnedFd>,
    done: bool,
}

impl Group {
    fn of(child: &Child) -> io::Result<Self> {
        let leader = child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
            .ok_or_else(|| io::Error::other("the command has no process id"))?;
        let pidfd = pidfd_open(leader, PidfdFlags::NONBLOCK)?;
        // SAFETY: an OwnedFd names one open descriptor for as long as it lives, and it is moved into the AsyncFd.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
        Ok(Self {
            leader,
            pidfd,
            done: false,
        })
    }

    async fn ended(&self) -> io::Result<()> {
        self.pidfd.readable().await.map(drop)
    }

    /// SIGTERM, then SIGKILL when the leader has ended or [`TERM_GRACE`] is over.
    async fn end(&self) -> io::Result<()> {
        self.signal(Signal::TERM);
        if let Ok(ended) = tokio::time::timeout(TERM_GRACE, self.ended()).await {
            ended?;
        }
        self.signal(Signal::KILL);
        self.ended().await
    }

    fn signal(&self, signal: Signal) {
        // ESRCH (the group is gone) is what is wanted.
        let _ = kill_process_group(self.leader, signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.done {
            self.signal(Signal::KILL);
        }
    }
}

/// Collects the end of both output streams.
struct Output {
    kept: Arc<Mutex<VecDeque<u8>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Output {
    fn collect(child: &mut Child) -> Self {
        let kept = Arc::new(Mutex::new(VecDeque::new()));
        let mut tasks = Vec::new();
        if let Some(stream) = child.stdout.take() {
            tasks.push(tokio::spawn(keep_tail(stream, kept.clone())));
        }
        if let Some(stream) = child.stderr.take() {
            tasks.push(tokio::spawn(keep_tail(stream, kept.clone())));
        }
        Self { kept, tasks }
    }

    /// Waits for the end of both streams, at most [`OUTPUT_GRACE`].
    async fn finish(mut self) -> String {
        let all = async {
            for task in &mut self.tasks {
                // A reader that panicked has no more to give.
                let _ = task.await;
            }
        };
        let _ = tokio::time::timeout(OUTPUT_GRACE, all).await;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(kept.make_contiguous()).into_owned()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn keep_tail(mut stream: impl AsyncRead + Unpin, kept: Arc<Mutex<VecDeque<u8>>>) {
    let mut buffer = [0; 4096];
    loop {
        let count = match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(&buffer[..count]);
        let excess = kept.len().saturating_sub(OUTPUT_KEPT);
        kept.drain(..excess);
    }
}
