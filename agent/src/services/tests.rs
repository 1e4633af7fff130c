use super::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tandem_failover::role::Role;

fn context() -> Context {
    Context {
        pair: "p".into(),
        node: "a".into(),
        role: Role::Master,
        term: 1,
        event: "master",
        cause: "the peer is dead".into(),
        lag: None,
    }
}

fn script(directory: &Path, name: &str, body: &str) -> Vec<String> {
    let path = directory.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    vec![path.to_str().unwrap().to_owned()]
}

/// A service that writes its name and what is done to `log`; start fails if asked.
fn service(directory: &Path, name: &str, start_code: u8) -> Service {
    let log = directory.join("log");
    let log = log.display();
    Service {
        name: name.into(),
        control: ServiceControl::Argv {
            start: script(
                directory,
                &format!("{name}-start"),
                &format!("echo start {name} >> {log}; exit {start_code}"),
            ),
            stop: script(
                directory,
                &format!("{name}-stop"),
                &format!("echo stop {name} >> {log}"),
            ),
        },
        timeout: Duration::from_secs(30),
    }
}

fn hook(directory: &Path, on: HookEvent, name: &str) -> Hook {
    let log = directory.join("log");
    Hook {
        on,
        argv: script(
            directory,
            name,
            &format!("echo hook {name} >> {}", log.display()),
        ),
        timeout: Duration::from_secs(30),
    }
}

#[tokio::test]
async fn started_in_order_stopped_in_reverse_hooks_last() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let services = Services::new(
        vec![service(directory, "db", 0), service(directory, "web", 0)],
        vec![
            hook(directory, HookEvent::Master, "up"),
            hook(directory, HookEvent::Standby, "down"),
        ],
    );
    let start = services.carry_out(ServiceCommand::Start, &context()).await;
    let stop = services.carry_out(ServiceCommand::Stop, &context()).await;
    assert_eq!((start.result(), stop.result()), (Ok(()), Ok(())));
    assert_eq!(
        std::fs::read_to_string(directory.join("log")).unwrap(),
        "start db\nstart web\nhook up\nstop web\nstop db\nhook down\n"
    );
}

#[tokio::test]
async fn a_service_that_fails_is_named_and_the_rest_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let services = Services::new(
        vec![service(directory, "db", 4), service(directory, "web", 0)],
        vec![hook(directory, HookEvent::Master, "up")],
    );
    let report = services.carry_out(ServiceCommand::Start, &context()).await;
    let error = report.result().unwrap_err();
    assert!(
        error.starts_with("service db: ") && error.ends_with("exit status: 4"),
        "{error}"
    );
    assert_eq!(
        std::fs::read_to_string(directory.join("log")).unwrap(),
        "start db\nstart web\nhook up\n"
    );
}

#[tokio::test]
async fn the_next_role_change_ends_the_one_before() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let began = directory.join("began");
    let mut slow = service(directory, "slow", 0);
    slow.control = ServiceControl::Argv {
        start: script(
            directory,
            "slow-start",
            &format!("touch {}; sleep 1000", began.display()),
        ),
        stop: script(directory, "slow-stop", "true"),
    };
    slow.timeout = Duration::from_secs(600);
    let services = Arc::new(Services::new(
        vec![slow, service(directory, "after", 0)],
        vec![hook(directory, HookEvent::Master, "up")],
    ));
    let starting = tokio::spawn({
        let services = services.clone();
        async move { services.carry_out(ServiceCommand::Start, &context()).await }
    });
    let deadline = Instant::now() + Duration::from_secs(20);
    while !began.exists() {
        assert!(Instant::now() < deadline, "the start never began");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let stop = services.carry_out(ServiceCommand::Stop, &context()).await;
    assert_eq!(stop.result(), Ok(()));
    let start = starting.await.unwrap();
    assert!(start.obsolete);
    assert!(matches!(
        start.services[0].outcome,
        Err(RunError::Cancelled { .. })
    ));
    assert_eq!(start.services.len(), 1);
    assert_eq!(
        std::fs::read_to_string(directory.join("log")).unwrap(),
        "stop after\n"
    );
}

#[test]
fn a_waiting_job_is_recognised() {
    assert!(names_a_job("1234\n"));
    for none in ["", "\n", "0\n", "Failed to connect to bus\n"] {
        assert!(!names_a_job(none), "{none:?}");
    }
}

#[test]
fn a_unit_is_driven_by_systemctl() {
    let unit = ServiceControl::Unit("nginx.service".into());
    assert_eq!(
        argv_of(&unit, Action::Stop),
        ["systemctl", "stop", "--", "nginx.service"]
    );
}

#[tokio::test]
async fn a_new_configuration_drives_only_what_it_adds_or_changes() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let log = || std::fs::read_to_string(directory.join("log")).unwrap_or_default();
    let named = |name: &str, of: &Service| Service {
        name: name.into(),
        ..of.clone()
    };
    let (db, web, mail) = (
        service(directory, "db", 0),
        service(directory, "web", 0),
        service(directory, "mail", 0),
    );
    let services = Services::new(vec![db.clone(), web.clone()], Vec::new());
    // `db` stays, with another bound; `web` gets the commands of `mail`; `cache` is new.
    let new = vec![
        Service {
            timeout: Duration::from_secs(9),
            ..db.clone()
        },
        named("web", &mail),
        named("cache", &web),
    ];
    let report = services
        .reconfigure(new.clone(), Vec::new(), Some(Action::Start), &context())
        .await;
    assert_eq!(report.result(), Ok(()));
    assert_eq!(log(), "stop web\nstart mail\nstart web\n");
    // What is no longer named is left as it is.
    let report = services
        .reconfigure(
            vec![db.clone()],
            Vec::new(),
            Some(Action::Start),
            &context(),
        )
        .await;
    assert!(report.services.is_empty());
    let report = services
        .reconfigure(vec![db, web], Vec::new(), Some(Action::Stop), &context())
        .await;
    assert_eq!(report.result(), Ok(()));
    assert_eq!(log(), "stop web\nstart mail\nstart web\nstop web\n");
}
