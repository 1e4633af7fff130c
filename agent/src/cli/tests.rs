//! The command line as a whole, and commands against an agent that plays a part.

use super::*;
use crate::config::schema::{Need, section};
use crate::keys::NodeKey;
use std::collections::BTreeSet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    // A ~ stands for a blank within a word.
    Cli::try_parse_from(line.split_whitespace().map(|word| word.replace('~', " ")))
}

#[test]
fn the_definitions_are_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_of_the_manual_is_understood() {
    for line in [
        "tandem status",
        "tandem status --json --watch --interval 500ms",
        "tandem init --source",
        "tandem failback --json",
        "tandem switchover",
        "tandem takeover",
        "tandem takeover --force --yes",
        "tandem is master",
        "tandem is standby",
        "tandem flush --timeout 5s",
        "tandem flush --verified --timeout 5m",
        "tandem hold -- /backup/backup --all",
        "tandem hold --role standby --for 1h -- tar -c /home",
        "tandem verify --tree home --repair",
        "tandem verify --replica web1 --tree home --rate 50MB/s --json",
        "tandem tree accept home",
        "tandem adopt --yes",
        "tandem rescue list --json",
        "tandem rescue show set-1",
        "tandem rescue show set-1 3",
        "tandem rescue restore set-1 1 2 3 --yes",
        "tandem rescue drop set-1",
        "tandem trash list",
        "tandem trash list home a/b --json",
        "tandem trash restore home a/b --at 2026-11-28T03.1 --to a/c --replace --yes",
        "tandem trash empty home --older 3d --yes",
        "tandem maintenance on --for 2h",
        "tandem maintenance off",
        "tandem keygen --out /tmp/key",
        "tandem check --config /tmp/draft.toml",
        "tandem --config /tmp/c --socket /tmp/s agent",
        "tandem agent --socket /tmp/s",
        "tandem restart",
        "tandem reload",
        "tandem release",
        "tandem generate man --out /tmp/man",
    ] {
        parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
    for line in [
        "tandem init",
        "tandem hold",
        "tandem is fault",
        "tandem takeover --yes",
        "tandem flush --timeout 5",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn exit_codes_are_distinct_and_in_the_help() {
    let all = [
        Exit::Success,
        Exit::No,
        Exit::Usage,
        Exit::NoAgent,
        Exit::Refused,
        Exit::Timeout,
        Exit::InvalidConfig,
        Exit::Failed,
    ];
    let codes: BTreeSet<u8> = all.iter().map(|e| e.code()).collect();
    assert_eq!(codes.len(), all.len());
    let manual =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/commands.md"))
            .unwrap();
    for code in codes {
        assert!(exit::HELP.contains(&format!("\n  {code}  ")), "{code}");
        assert!(
            manual.contains(&format!("| {code} |")),
            "{code} is not in docs/commands.md"
        );
    }
    // Those of `hold`, which are other programs' words.
    for code in ["124", "125", "126", "127", "128+N"] {
        assert!(exit::HELP.contains(&format!("\n  {code}  ")), "{code}");
        assert!(manual.contains(&format!("{code} ")), "{code}");
    }
}

#[test]
fn the_manual_names_every_command() {
    let manual =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/commands.md"))
            .unwrap();
    for command in Cli::command()
        .get_subcommands()
        .filter(|c| !c.is_hide_set())
    {
        assert!(
            manual.contains(&format!("tandem {}", command.get_name())),
            "{}",
            command.get_name()
        );
    }
}

#[test]
fn manual_pages_and_completions_are_made() {
    let dir = tempfile::tempdir().unwrap();
    generate::man(Cli::command(), dir.path()).unwrap();
    let page = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let whole = page("tandem.1");
    for part in [
        ".SH EXIT STATUS",
        ".TP\n124\n",
        ".SH FILES",
        "tandem\\-rescue(1)",
    ] {
        assert!(whole.contains(part), "{part}: {whole}");
    }
    assert!(page("tandem-is.1").contains(".SH EXIT STATUS"));
    for command in Cli::command().get_subcommands() {
        let file = dir.path().join(format!("tandem-{}.1", command.get_name()));
        assert_eq!(file.exists(), !command.is_hide_set(), "{}", file.display());
    }
    assert!(page("tandem-rescue-restore.1").contains("Put files back"));
    generate::completions(Cli::command(), dir.path()).unwrap();
    for file in ["tandem.bash", "_tandem", "tandem.fish"] {
        assert!(page(file).contains("failback"), "{file}");
    }
}

#[test]
fn the_defaults_without_a_configuration_are_those_of_the_schema() {
    for (key, expected) in [
        ("socket", config::DEFAULT_SOCKET),
        ("key", config::DEFAULT_KEY),
    ] {
        let need = &section("agent").key(key).unwrap().need;
        assert!(
            matches!(need, Need::DefaultsTo(text) if *text == format!("\"{expected}\"")),
            "{key}"
        );
    }
}

fn context(dir: &std::path::Path, config: &str) -> Context {
    let file = dir.join("tandem.toml");
    std::fs::write(&file, config).unwrap();
    Context {
        config: file,
        socket: None,
    }
}

fn example() -> String {
    std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../etc/mirror-pair.toml"
    ))
    .unwrap()
}

#[test]
fn the_agent_starts_only_with_a_key_of_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let key_file = dir.path().join("key");
    let at = format!("[agent]\nkey = \"{}\"\n", key_file.display());
    let without_key = context(dir.path(), &format!("{at}{}", example()));
    assert_eq!(
        agent::prepare(&without_key).unwrap_err().exit(),
        Exit::InvalidConfig
    );
    let key = NodeKey::generate().unwrap();
    key.write_new(&key_file, "").unwrap();
    let error = agent::prepare(&without_key).unwrap_err();
    assert!(
        matches!(&error, Failure::Other(Exit::InvalidConfig, why) if why.contains("neither mirror1 nor mirror2")),
        "{error:?}"
    );
    let old = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAt+IZzbdQ0W/kbdgX0nAzmSmdft2Od0Jf8rrQd+seQR";
    let text = example().replace(old, &crate::keys::public_line(&key.public(), ""));
    let mut mine = context(dir.path(), &format!("{at}{text}"));
    mine.socket = Some("/tmp/other".into());
    let start = agent::prepare(&mine).unwrap();
    let who = start.loaded.config.who(&start.key.public());
    assert_eq!(who, Some(config::Who::Node(1)));
    assert_eq!(start.socket, PathBuf::from("/tmp/other"));
}

#[test]
fn the_socket_is_found_even_with_a_broken_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let with = context(
        dir.path(),
        &format!("[agent]\nsocket = \"/tmp/x.sock\"\n{}", example()),
    );
    assert_eq!(with.socket(), PathBuf::from("/tmp/x.sock"));
    let broken = context(dir.path(), "[pair");
    assert_eq!(broken.socket(), PathBuf::from(config::DEFAULT_SOCKET));
}

/// Answers one request with these chunks, and keeps the connection open if `open`. Ends when the client hangs up.
fn agent_that_says(
    chunks: &[&str],
    open: bool,
) -> (tempfile::TempDir, Client, tokio::task::JoinHandle<()>) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    for chunk in chunks {
        answer.push_str(&format!("{:x}\r\n{chunk}\n\r\n", chunk.len() + 1));
    }
    if !open {
        answer.push_str("0\r\n\r\n");
    }
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = vec![0; 65536];
        assert_ne!(stream.read(&mut buffer).await.unwrap(), 0);
        stream.write_all(answer.as_bytes()).await.unwrap();
        // Until the client hangs up.
        while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    });
    (dir, Client::new(socket), task)
}

const HELD: &str = r#"{"event":{"held":{"role":"standby","until_unix_ms":null}}}"#;
const ENDED: &str = r#"{"event":{"ended":{"why":"takeover","text":"this node takes over"}}}"#;

async fn hold(line: &str, client: &Client) -> Exit {
    let Command::Hold(args) = parse(line).unwrap().command else {
        panic!("{line}");
    };
    hold::run(args, client).await.unwrap()
}

#[tokio::test]
async fn hold_ends_with_its_command_and_its_code() {
    let (_dir, client, agent) = agent_that_says(&[HELD], true);
    assert_eq!(
        hold("tandem hold -- sh -c exit~3", &client).await,
        Exit::Code(3)
    );
    agent.await.unwrap(); // The connection was closed: the hold is over.
}

#[tokio::test]
async fn hold_runs_nothing_when_it_is_refused() {
    let refused = r#"{"error":{"code":"wrong-role","message":"this node is master"}}"#;
    let (dir, client, _agent) = agent_that_says(&[refused], false);
    let marker = dir.path().join("ran");
    let line = format!("tandem hold --role standby -- touch {}", marker.display());
    assert_eq!(hold(&line, &client).await, Exit::Code(125));
    assert!(!marker.exists());
}

#[tokio::test]
async fn a_takeover_ends_the_command() {
    let (_dir, client, agent) = agent_that_says(&[HELD, ENDED], true);
    assert_eq!(
        hold("tandem hold -- sleep 1000", &client).await,
        Exit::Code(124)
    );
    agent.await.unwrap();
}

#[tokio::test]
async fn an_agent_that_dies_ends_the_command() {
    let (_dir, client, _agent) = agent_that_says(&[HELD], false);
    assert_eq!(
        hold("tandem hold -- sleep 1000", &client).await,
        Exit::Code(124)
    );
}

#[tokio::test]
async fn hold_tells_a_missing_command_from_one_that_cannot_run() {
    let (_dir, client, _agent) = agent_that_says(&[HELD], true);
    assert_eq!(
        hold("tandem hold -- /nowhere/backup", &client).await,
        Exit::Code(127)
    );
    let (_dir, client, _agent) = agent_that_says(&[HELD], true);
    assert_eq!(
        hold("tandem hold -- /etc/passwd", &client).await,
        Exit::Code(126)
    );
}

#[tokio::test]
async fn a_move_that_is_given_up_is_refused_and_one_that_is_cut_has_failed() {
    let step = r#"{"event":{"step":{"step":"drain","text":"sending the rest","at_ms":3}}}"#;
    let done = r#"{"event":{"done":{"master":"b","term":9,"took_ms":812}}}"#;
    let given_up = r#"{"event":{"given-up":{"reason":"mirror2 is not ready"}}}"#;
    for (lines, expected) in [
        (&[step, done][..], Exit::Success),
        (&[step, given_up], Exit::Refused),
        (&[step], Exit::Failed),
    ] {
        let (_dir, client, _agent) = agent_that_says(lines, false);
        let events = client
            .stream(crate::api::types::path::FAILBACK, &())
            .await
            .unwrap();
        assert_eq!(
            moves::follow(events, false).await.unwrap(),
            expected,
            "{lines:?}"
        );
    }
}

#[test]
fn the_price_of_a_takeover_names_everything() {
    use crate::api::types::{Role, TakeoverPrice, TreePrice, TreeState};
    let mut price = TakeoverPrice {
        node: "mirror2".into(),
        role: Role::Standby,
        free: false,
        reasons: vec!["tree home is copying".into()],
        peer_heard: false,
        peer_role: Some(Role::Master),
        peer_silent_ms: Some(90_000),
        trees: vec![TreePrice {
            tree: "home".into(),
            state: TreeState::Copying,
            stale_ms: None,
            note: "1200 of 78600 files are here".into(),
        }],
    };
    let text = takeover::describe(&price);
    for part in [
        "tree home is copying",
        "last heard 1 min 30 s ago",
        "how much is missing is not known",
        "1200 of 78600",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    price.peer_heard = true;
    let text = takeover::describe(&price);
    assert!(
        text.contains("alive and master") && text.contains("tandem switchover"),
        "{text}"
    );
}
