//! One notice as a mail (RFC 5322 by lettre), through a sendmail program or an SMTP server (RFC 5321).

use super::SEND_TIMEOUT;
use super::queue::Item;
use crate::config::types::{Mail, MailVia};
use crate::hooks::trust;
use crate::journal::rfc3339;
use lettre::message::header::ContentType;
use lettre::{AsyncSendmailTransport, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use std::fmt::Write;

/// Why a mail was not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum MailError {
    #[error("the notice cannot be made into a mail: {0}")]
    Compose(String),
    #[error("{0}")]
    Untrusted(#[from] trust::TrustError),
    #[error("sendmail: {0}")]
    Sendmail(#[from] lettre::transport::sendmail::Error),
    #[error("smtp: {0}")]
    Smtp(#[from] lettre::transport::smtp::Error),
    #[error("no answer within {SEND_TIMEOUT:?}")]
    TimedOut,
}

pub(super) fn compose(
    mail: &Mail,
    pair: &str,
    node: &str,
    item: &Item,
    dropped: u64,
) -> Result<Message, MailError> {
    let wrong = |error: &dyn std::fmt::Display| MailError::Compose(error.to_string());
    let notice = &item.notice;
    let kind = serde_json::to_value(notice.kind).map_err(|e| wrong(&e))?;
    let kind = kind.as_str().unwrap_or("notice");
    let mut body = format!(
        "{}\n\npair:  {pair}\nnode:  {node}\nrole:  {}\nterm:  {}\ntime:  {}\n",
        plain(&notice.text),
        notice.role,
        notice.term,
        rfc3339(item.first),
    );
    // Writing to a String cannot fail.
    if item.count > 1 {
        let last = rfc3339(item.last);
        let _ = writeln!(body, "times: {} (last {last})", item.count);
    }
    if dropped > 0 {
        let _ = writeln!(
            body,
            "\n{dropped} notices were lost before this one; they are in the log."
        );
    }
    let mut builder = Message::builder()
        .from(mail.from.parse().map_err(|e| wrong(&e))?)
        .subject(format!(
            "[tandem {pair}] {node}: {kind}: {}",
            subject(&notice.text)
        ))
        .header(ContentType::TEXT_PLAIN);
    for to in &mail.to {
        builder = builder.to(to.parse().map_err(|e| wrong(&e))?);
    }
    builder.body(body).map_err(|e| wrong(&e))
}

/// Text from elsewhere as one line of printable characters.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn subject(text: &str) -> String {
    plain(text).chars().take(100).collect()
}

/// Sends; bounded by [`SEND_TIMEOUT`]. Dropping the future kills a sendmail that runs.
pub(super) async fn send(mail: &Mail, message: Message) -> Result<(), MailError> {
    let sending = async {
        match &mail.via {
            MailVia::Sendmail(path) => {
                let program = trust::resolve(&path.to_string_lossy())?;
                let transport = AsyncSendmailTransport::<Tokio1Executor>::new_with_command(program);
                transport.send(message).await?;
            }
            MailVia::Smtp(host, port) => {
                let transport =
                    AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host.as_str())
                        .port(*port)
                        .timeout(Some(SEND_TIMEOUT))
                        .build();
                transport.send(message).await?;
            }
        }
        Ok(())
    };
    tokio::time::timeout(SEND_TIMEOUT, sending)
        .await
        .unwrap_or(Err(MailError::TimedOut))
}
