//! A program as a monitor: exit code 0 is good, any other is bad, the first line of its output is the summary.
//! That is the convention of mon and of its monitors.

use super::ProbeError;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Most bytes of output that are kept; the rest is read and forgotten.
const OUTPUT_LIMIT: usize = 1024;

/// A program and its arguments. No shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandCheck {
    /// At least the program.
    pub argv: Vec<String>,
}

/// Runs the program, at most `within`; then it and its process group are killed. Answers the summary.
///
/// The start happens on a helper thread, because the kernel reads the program from a disk that may hang. Not cancel
/// safe in one point: a program that is just being started when the future is dropped is killed once it has started.
pub async fn run(check: &CommandCheck, within: Duration) -> Result<String, ProbeError> {
    let argv = check.argv.clone();
    let start = tokio::task::spawn_blocking(move || start(&argv).map(Group));
    let whole = async {
        let mut group = start
            .await
            .map_err(|e| ProbeError::Wrong(format!("the starting thread failed: {e}")))?
            .map_err(ProbeError::io("starting the program"))?;
        finish(&mut group).await
    };
    let (status, summary) = timeout(within, whole)
        .await
        .map_err(|_| ProbeError::Silent("program"))??;
    if status.success() {
        Ok(summary)
    } else {
        Err(ProbeError::Wrong(format!("{status}: {summary}")))
    }
}

fn start(argv: &[String]) -> std::io::Result<Child> {
    let (program, arguments) = argv.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// A program with everything that it started; dropping it kills them all.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // `id` is None after the program was waited for: then its number may belong to somebody else.
        if let Some(id) = self.0.id().and_then(|id| i32::try_from(id).ok()) {
            // It may have ended just now.
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

async fn finish(group: &mut Group) -> Result<(ExitStatus, String), ProbeError> {
    let mut kept = Vec::new();
    let stdout = group.0.stdout.take();
    let read = async {
        let Some(mut stdout) = stdout else { return };
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stdout.read(&mut buffer).await {
            let room = OUTPUT_LIMIT.saturating_sub(kept.len()).min(length);
            kept.extend_from_slice(&buffer[..room]);
        }
    };
    // The exit code decides. A descendant that keeps the pipe open must not hold the result back, so the output is
    // read only as long as the program lives, and then what is in the pipe already.
    let status = {
        tokio::pin!(read);
        tokio::select! {
            status = group.0.wait() => {
                let _ = timeout(Duration::from_millis(20), &mut read).await;
                status
            }
            () = &mut read => group.0.wait().await,
        }
    }
    .map_err(ProbeError::io("waiting for the program"))?;
    let text = String::from_utf8_lossy(&kept);
    Ok((
        status,
        text.lines().next().unwrap_or_default().trim().to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const WITHIN: Duration = Duration::from_secs(5);

    fn shell(script: &str) -> CommandCheck {
        CommandCheck {
            argv: ["/bin/sh", "-c", script].map(Into::into).to_vec(),
        }
    }

    #[tokio::test]
    async fn the_exit_code_decides_and_the_first_line_is_the_summary() {
        let good = run(&shell("echo all well; echo more"), WITHIN).await;
        assert_eq!(good.expect("exit code 0"), "all well");
        let bad = run(&shell("echo web1 down; exit 1"), WITHIN)
            .await
            .expect_err("exit code 1");
        assert!(bad.to_string().contains("web1 down"), "{bad}");
        let killed = run(&shell("kill -9 $$"), WITHIN).await.expect_err("killed");
        assert!(matches!(killed, ProbeError::Wrong(_)), "{killed}");
    }

    #[tokio::test]
    async fn a_missing_program_and_an_empty_argv_are_typed() {
        for argv in [vec![], vec!["/no/such/program".to_owned()]] {
            let error = run(&CommandCheck { argv }, WITHIN)
                .await
                .expect_err("cannot start");
            assert!(
                matches!(
                    error,
                    ProbeError::Io {
                        what: "starting the program",
                        ..
                    }
                ),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn a_hanging_program_is_killed_with_its_children() {
        let directory = tempfile::tempdir().expect("a directory");
        let pids = directory.path().join("pids");
        let script = format!("sleep 1000 & echo $! $$ > {}; wait", pids.display());
        let begun = Instant::now();
        let error = run(&shell(&script), Duration::from_millis(500))
            .await
            .expect_err("hangs");
        assert!(matches!(error, ProbeError::Silent(_)), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(4));
        let text = std::fs::read_to_string(&pids).expect("the script ran");
        for pid in text.split_whitespace() {
            let stat = format!("/proc/{pid}/stat");
            let deadline = Instant::now() + Duration::from_secs(5);
            // Gone, or a zombie that waits for its parent.
            while std::fs::read_to_string(&stat).is_ok_and(|s| !s.contains(") Z")) {
                assert!(Instant::now() < deadline, "process {pid} still lives");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    #[tokio::test]
    async fn endless_output_and_a_descendant_with_the_pipe_do_not_hold_the_result_back() {
        let flood = run(&shell("head -c 3000000 /dev/zero; echo; exit 3"), WITHIN).await;
        assert!(flood.expect_err("exit code 3").to_string().contains("3"));
        let begun = Instant::now();
        let left = run(&shell("sleep 3 & echo fine"), WITHIN).await;
        assert_eq!(left.expect("exit code 0"), "fine");
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}
