//! Notices to people: logged at once, mailed by a task of its own.
//!
//! [`Notifier::notify`] never waits. At most [`QUEUE`] notices wait for being mailed; when there are more, the
//! oldest is dropped and the next mail says how many are missing. The same notice again is one mail with a count:
//! while the first waits, and for [`REPEAT`] after it was sent. A mail that cannot be sent is tried again
//! [`ATTEMPTS`] times in all, with growing pauses: at a takeover the network may need a moment.

mod mail;
mod queue;

use crate::config::types::Mail;
use queue::Queue;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tandem_failover::effect::{Notice, NoticeKind};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Notices that wait for being mailed.
pub const QUEUE: usize = 64;
/// A repeat of a notice is mailed at most this often.
pub const REPEAT: Duration = Duration::from_secs(60);
/// How often a mail is tried.
pub const ATTEMPTS: u32 = 5;
/// Bound of one attempt.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Takes notices from any thread. Dropping it ends the task; what was not mailed is lost (it is in the log).
#[derive(Debug)]
pub struct Notifier {
    shared: Arc<Shared>,
    _end: DropGuard,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    mail: Mutex<Option<Mail>>,
    /// Why the last attempt failed, until one succeeds.
    trouble: Mutex<Option<String>>,
    wake: Notify,
    pair: String,
    node: String,
}

impl Notifier {
    /// Starts the task on the current tokio runtime. Without `mail` notices are only logged.
    pub fn start(pair: &str, node: &str, mail: Option<Mail>) -> Self {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::default()),
            mail: Mutex::new(mail),
            trouble: Mutex::new(None),
            wake: Notify::new(),
            pair: pair.to_owned(),
            node: node.to_owned(),
        });
        let end = CancellationToken::new();
        let task = deliver(shared.clone());
        let ended = end.clone();
        tokio::spawn(async move { ended.run_until_cancelled(task).await });
        Self {
            shared,
            _end: end.drop_guard(),
        }
    }

    /// Takes another configuration; counts from the next mail on.
    pub fn configure(&self, mail: Option<Mail>) {
        *self
            .shared
            .mail
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = mail;
        self.shared.set_trouble(None);
        self.shared.wake.notify_one();
    }

    /// Logs the notice and queues it for mail. Never waits.
    pub fn notify(&self, notice: Notice) {
        log(&notice);
        if self.shared.mail().is_some() {
            self.shared
                .queue()
                .push(notice, Instant::now(), SystemTime::now());
            self.shared.wake.notify_one();
        }
    }

    /// Why mails do not leave this node, if the last attempt failed.
    pub fn trouble(&self) -> Option<String> {
        let trouble = self.shared.trouble.lock();
        trouble.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notices that wait for being mailed, and how many were dropped since the last mail.
    pub fn waiting(&self) -> (usize, u64) {
        let queue = self.shared.queue();
        (queue.len(), queue.dropped())
    }
}

/// At WARN what needs a person. What was asked for, or is over again, is news.
fn log(notice: &Notice) {
    macro_rules! at {
        ($level:ident) => {
            tracing::$level!(
                kind = ?notice.kind, role = %notice.role, term = notice.term, text = notice.text, "notice"
            )
        };
    }
    match notice.kind {
        NoticeKind::Moved | NoticeKind::Eligible => at!(info),
        _ => at!(warn),
    }
}

impl Shared {
    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mail(&self) -> Option<Mail> {
        self.mail
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Sends what is due, one mail at a time, for ever.
async fn deliver(shared: Arc<Shared>) {
    loop {
        let due = shared.queue().next_due();
        let sleep = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => {}
            () = shared.wake.notified() => continue,
        }
        let Some((item, dropped)) = shared.queue().take_due(Instant::now()) else {
            continue;
        };
        let Some(mail) = shared.mail() else {
            continue;
        };
        let sent = match mail::compose(&mail, &shared.pair, &shared.node, &item, dropped) {
            Ok(message) => mail::send(&mail, message).await,
            Err(error) => Err(error),
        };
        let now = Instant::now();
        match sent {
            Ok(()) => {
                shared.set_trouble(None);
                shared.queue().sent(&item, now);
            }
            Err(error) => {
                shared.set_trouble(Some(error.to_string()));
                let again = shared.queue().failed(item, dropped, now);
                tracing::warn!(error = %error, will_retry = again, "mail not sent");
            }
        }
    }
}

#[cfg(test)]
mod tests;
