use super::*;
use crate::config::types::MailVia;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tandem_failover::effect::NoticeKind;
use tandem_failover::role::Role;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

fn notice(text: &str) -> Notice {
    Notice {
        kind: NoticeKind::Takeover,
        text: text.into(),
        role: Role::Master,
        term: 12,
    }
}

fn mail(via: MailVia) -> Mail {
    Mail {
        to: vec!["ops@example.com".into(), "night@example.com".into()],
        from: "tandem@example.com".into(),
        via,
    }
}

async fn wait_for(path: &Path) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !path.exists() {
        assert!(Instant::now() < deadline, "no mail came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    std::fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn a_notice_reaches_sendmail_as_a_mail() {
    let directory = tempfile::tempdir().unwrap();
    let sendmail = directory.path().join("sendmail");
    let out = directory.path().join("out");
    let body = format!(
        "#!/bin/sh\n(echo \"$@\"; cat) > {0}.new\nmv {0}.new {0}\n",
        out.display()
    );
    std::fs::write(&sendmail, body).unwrap();
    std::fs::set_permissions(&sendmail, std::fs::Permissions::from_mode(0o755)).unwrap();
    let notifier = Notifier::start("web", "a", Some(mail(MailVia::Sendmail(sendmail))));
    notifier.notify(notice("node b is dead\r\nBcc: evil@example.com"));
    let sent = wait_for(&out).await;
    assert!(sent.starts_with("-i -f tandem@example.com -- ops@example.com night@example.com\n"));
    assert!(
        sent.contains("Subject: [tandem web] a: takeover: node b is dead"),
        "{sent}"
    );
    assert!(!sent.contains("\nBcc:"), "{sent}");
    assert!(sent.contains("term:  12"), "{sent}");
}

/// A tiny SMTP server (RFC 5321): refuses the first connection, takes the message of the second.
async fn smtp_server(listener: TcpListener) -> String {
    let (mut first, _) = listener.accept().await.unwrap();
    first.write_all(b"421 later\r\n").await.unwrap();
    drop(first);
    let (stream, _) = listener.accept().await.unwrap();
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"220 test\r\n").await.unwrap();
    let mut message = String::new();
    let mut in_data = false;
    while let Some(line) = lines.next_line().await.unwrap() {
        let answer: &[u8] = match line.as_str() {
            "." => {
                in_data = false;
                b"250 taken\r\n"
            }
            _ if in_data => {
                message += &line;
                message.push('\n');
                continue;
            }
            "DATA" => {
                in_data = true;
                b"354 go\r\n"
            }
            "QUIT" => {
                // The client may be gone already.
                let _ = write.write_all(b"221 bye\r\n").await;
                break;
            }
            _ => b"250 ok\r\n",
        };
        write.write_all(answer).await.unwrap();
        if !message.is_empty() && !in_data {
            break;
        }
    }
    message
}

#[tokio::test]
async fn smtp_is_tried_again_after_a_refusal_and_nothing_waits_for_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(smtp_server(listener));
    let via = MailVia::Smtp("127.0.0.1".into(), port);
    let notifier = Notifier::start("web", "a", Some(mail(via)));
    let started = Instant::now();
    for _ in 0..1000 {
        notifier.notify(notice("the same thing"));
    }
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(notifier.waiting().0 <= 1);
    let message = tokio::time::timeout(Duration::from_secs(60), server)
        .await
        .expect("no second attempt came")
        .unwrap();
    assert!(message.contains("the same thing"), "{message}");
}

#[tokio::test]
async fn without_mail_nothing_is_queued() {
    let notifier = Notifier::start("web", "a", None);
    notifier.notify(notice("x"));
    assert_eq!(notifier.waiting(), (0, 0));
}
