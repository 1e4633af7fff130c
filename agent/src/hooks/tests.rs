use super::*;
use crate::hooks::trust::TrustError;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

fn context() -> Context {
    Context {
        pair: "web".into(),
        node: "a".into(),
        role: Role::Master,
        term: 7,
        event: "master",
        cause: "the peer is dead".into(),
        lag: Some(Duration::from_millis(1500)),
    }
}

fn script(directory: &Path, name: &str, body: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn argv(path: &Path) -> Vec<String> {
    vec![path.to_str().unwrap().to_owned()]
}

async fn run_script(body: &str, timeout: Duration) -> Result<Report, RunError> {
    let directory = tempfile::tempdir().unwrap();
    let path = script(directory.path(), "hook", body);
    run(&argv(&path), &context(), timeout, &CancellationToken::new()).await
}

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn the_environment_is_the_documented_one() {
    let report = run_script("env | sort", LONG).await.unwrap();
    let names: Vec<_> = report
        .output
        .lines()
        .filter(|line| !line.starts_with("PWD=") && !line.starts_with("_="))
        .collect();
    assert_eq!(
        names,
        [
            "HOME=/",
            "LANG=C.UTF-8",
            &format!("PATH={SEARCH_PATH}"),
            "TANDEM_CAUSE=the peer is dead",
            "TANDEM_EVENT=master",
            "TANDEM_LAG_MS=1500",
            "TANDEM_NODE=a",
            "TANDEM_PAIR=web",
            "TANDEM_ROLE=master",
            "TANDEM_TERM=7",
        ]
    );
}

#[tokio::test]
async fn arguments_go_through_no_shell() {
    let argv = ["echo", "$HOME", "; id", "a  b"].map(str::to_owned);
    let report = run(&argv, &context(), LONG, &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(report.output, "$HOME ; id a  b\n");
}

#[tokio::test]
async fn a_failure_tells_code_and_last_line() {
    let error = run_script("echo first; echo broken >&2; exit 3", LONG)
        .await
        .unwrap_err();
    assert!(
        error.to_string().ends_with("exit status: 3: broken"),
        "{error}"
    );
}

#[tokio::test]
async fn only_the_end_of_the_output_is_kept() {
    let report = run_script("seq 1 20000; echo END", LONG).await.unwrap();
    assert_eq!(report.output.len(), OUTPUT_KEPT);
    assert!(report.output.ends_with("20000\nEND\n"));
}

/// The command and its child both ignore SIGTERM; neither survives.
#[tokio::test]
async fn at_its_timeout_the_whole_group_ends() {
    let directory = tempfile::tempdir().unwrap();
    let pid_file = directory.path().join("pid");
    let body = format!(
        "trap '' TERM; (trap '' TERM; sleep 1000) & echo $! > {0}.new; mv {0}.new {0}; wait; sleep 1000",
        pid_file.display()
    );
    let path = script(directory.path(), "hook", &body);
    let started = Instant::now();
    let error = run(
        &argv(&path),
        &context(),
        Duration::from_millis(500),
        &CancellationToken::new(),
    )
    .await
    .unwrap_err();
    assert!(matches!(error, RunError::TimedOut { .. }), "{error}");
    assert!(started.elapsed() >= Duration::from_millis(500) + TERM_GRACE);
    let child = std::fs::read_to_string(pid_file).unwrap();
    assert!(gone(child.trim()).await, "child {child} is alive");
}

/// Waits until a process is gone or a zombie that somebody else has to reap.
async fn gone(pid: &str) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Err(_) => return true,
            Ok(stat) if stat.contains(") Z ") => return true,
            Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    false
}

#[tokio::test]
async fn cancelling_ends_the_command() {
    let cancel = CancellationToken::new();
    let argv = ["sleep", "1000"].map(str::to_owned);
    let context = context();
    let running = run(&argv, &context, LONG, &cancel);
    let canceller = async { cancel.cancel() };
    let (result, ()) = tokio::join!(running, canceller);
    assert!(matches!(result, Err(RunError::Cancelled { .. })));
}

#[tokio::test]
async fn a_daemon_left_behind_does_not_hold_up_the_hook() {
    let directory = tempfile::tempdir().unwrap();
    let pid_file = directory.path().join("pid");
    let body = format!(
        "sleep 1000 & echo $! > {}; echo started",
        pid_file.display()
    );
    let path = script(directory.path(), "hook", &body);
    let report = run(&argv(&path), &context(), LONG, &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(report.output, "started\n");
    assert!(report.took < Duration::from_secs(20));
    let pid: i32 = std::fs::read_to_string(pid_file)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)
        .expect("the daemon that the hook started is still running");
}

#[tokio::test]
async fn no_descriptor_of_the_agent_is_inherited() {
    let file = tempfile::tempfile().unwrap();
    // dup2-like copy without close-on-exec, as a careless library would leave it.
    let leaky = rustix::io::dup(&file).unwrap();
    rustix::io::fcntl_setfd(&leaky, rustix::io::FdFlags::empty()).unwrap();
    let report = run_script("ls /proc/self/fd", LONG).await.unwrap();
    let number = leaky.as_raw_fd().to_string();
    assert!(
        !report.output.lines().any(|line| line == number),
        "descriptor {number} is in {:?}",
        report.output
    );
}

#[tokio::test]
async fn a_program_that_others_can_write_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = script(directory.path(), "hook", "true");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o757)).unwrap();
    assert!(matches!(
        trust::resolve(path.to_str().unwrap()),
        Err(TrustError::WritableByOthers { path: named, .. }) if named == path
    ));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    trust::resolve(path.to_str().unwrap()).unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(
        trust::resolve(path.to_str().unwrap()),
        Err(TrustError::WritableByOthers { path: named, .. }) if named == directory.path()
    ));
}

#[test]
fn a_link_into_a_writable_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let open = directory.path().join("open");
    std::fs::create_dir(&open).unwrap();
    let target = script(&open, "target", "true");
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    trust::resolve(link.to_str().unwrap()).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(
        trust::resolve(link.to_str().unwrap()),
        Err(TrustError::WritableByOthers { .. })
    ));
}

#[test]
fn names_that_are_no_programs() {
    assert_eq!(trust::resolve(""), Err(TrustError::Empty));
    assert_eq!(
        trust::resolve("bin/true"),
        Err(TrustError::Relative("bin/true".into()))
    );
    assert!(matches!(
        trust::resolve("tandem-no-such-program"),
        Err(TrustError::NotFound(_))
    ));
    assert!(matches!(
        trust::resolve("/etc/passwd"),
        Err(TrustError::NotExecutable(_))
    ));
}

#[tokio::test]
async fn hooks_run_in_order_and_a_failure_stops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let hook = |on, name: &str, code| Hook {
        on,
        argv: argv(&script(
            directory.path(),
            name,
            &format!("echo {name} >> {}; exit {code}", log.display()),
        )),
        timeout: LONG,
    };
    let hooks = [
        hook(HookEvent::Master, "one", 1),
        hook(HookEvent::Standby, "other", 0),
        hook(HookEvent::Master, "two", 0),
    ];
    let results = run_hooks(
        &hooks,
        HookEvent::Master,
        &context(),
        &CancellationToken::new(),
    )
    .await;
    assert_eq!(std::fs::read_to_string(log).unwrap(), "one\ntwo\n");
    assert!(results[0].outcome.is_err());
    assert!(results[1].outcome.is_ok());
}
