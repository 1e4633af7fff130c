use super::*;
use crate::api::types::{HoldEnd, HoldEvent, Role, RoleReport};
use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;

/// Answers one connection with `answer`, as it is.
fn serve_once(answer: &str) -> (tempfile::TempDir, Client) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let answer = answer.to_owned();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while !seen.windows(4).any(|w| w == b"\r\n\r\n") {
            let n = stream.read(&mut buffer).await.unwrap();
            seen.extend_from_slice(&buffer[..n]);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    (dir, Client::new(socket))
}

fn json(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn an_answer_is_read() {
    let (_dir, client) = serve_once(&json(
        "200 OK",
        r#"{"role":"master","term":4,"node":"mirror1","new":[]}"#,
    ));
    let report = client.role().await.unwrap();
    let expected = RoleReport {
        role: Role::Master,
        term: 4,
        node: "mirror1".into(),
    };
    assert_eq!(report, expected);
}

#[tokio::test]
async fn no_socket_means_no_agent() {
    let dir = tempfile::tempdir().unwrap();
    let error = Client::new(dir.path().join("none"))
        .status()
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::NoAgent { .. }), "{error}");
}

#[tokio::test]
async fn a_dead_agents_socket_means_no_agent() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    drop(UnixListener::bind(&socket).unwrap());
    let error = Client::new(socket).status().await.unwrap_err();
    assert!(matches!(error, ClientError::NoAgent { .. }), "{error}");
}

#[tokio::test]
async fn the_agents_no_keeps_its_code_and_hint() {
    let body = r#"{"code":"wrong-role","message":"this is the standby","hint":"ask mirror1"}"#;
    let (_dir, client) = serve_once(&json("409 Conflict", body));
    match client.flush(Duration::from_secs(1)).await.unwrap_err() {
        ClientError::Api(error) => {
            assert_eq!(error.code, ErrorCode::WrongRole);
            assert_eq!(error.hint.as_deref(), Some("ask mirror1"));
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_older_agent_is_named() {
    let (_dir, client) = serve_once(&json("404 Not Found", "nope"));
    let error = client.rescue_list().await.unwrap_err();
    assert!(error.to_string().contains("/v1/rescue"), "{error}");
}

#[tokio::test]
async fn events_arrive_whole_though_frames_cut_them() {
    let (a, b) = (
        "{\"event\":{\"held\":{\"role\":\"standby\",\"until_uni",
        "x_ms\":null}}}\n\n{\"event\":{\"ended\":{\"why\":\"takeover\",\"text\":\"x\"}}}",
    );
    let chunk = |s: &str| format!("{:x}\r\n{s}\r\n", s.len());
    let (_dir, client) = serve_once(&format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}{}0\r\n\r\n",
        chunk(a),
        chunk(b)
    ));
    let mut events: EventStream<HoldEvent> =
        client.stream(path::HOLD, &types::Empty {}).await.unwrap();
    assert!(matches!(
        events.next().await.unwrap(),
        Some(HoldEvent::Held {
            role: Role::Standby,
            ..
        })
    ));
    assert!(matches!(
        events.next().await.unwrap(),
        Some(HoldEvent::Ended {
            why: HoldEnd::Takeover,
            ..
        })
    ));
    assert!(events.next().await.unwrap().is_none());
}

#[tokio::test]
async fn an_error_line_ends_a_stream_as_an_error() {
    let body = "{\"error\":{\"code\":\"busy\",\"message\":\"another hold\"}}\n";
    let (_dir, client) = serve_once(&json("200 OK", body));
    let mut events: EventStream<HoldEvent> =
        client.stream(path::HOLD, &types::Empty {}).await.unwrap();
    assert!(matches!(events.next().await, Err(ClientError::Api(e)) if e.code == ErrorCode::Busy));
}

#[tokio::test]
async fn a_cut_answer_is_not_an_end() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"event\":{\"held\":{\"role\":\"standby\",\"until_unix_ms\":1}}}\n";
    let (_dir, client) = serve_once(answer);
    let mut events: EventStream<HoldEvent> =
        client.stream(path::HOLD, &types::Empty {}).await.unwrap();
    assert!(events.next().await.unwrap().is_some());
    assert!(matches!(events.next().await, Err(ClientError::Broken(_))));
}
