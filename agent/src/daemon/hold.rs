//! `tandem hold`: applying is paused for as long as a connection of the local API is open.

use super::Daemon;
use super::roles::unix_ms;
use super::status::role;
use crate::api::server::{Lines, STREAM_QUEUE};
use crate::api::types::{ApiError, ErrorCode, HoldEnd, HoldEvent, HoldRequest, Line};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tandem_failover::input::Input;
use tandem_failover::role::Role;
use tokio::sync::{mpsc, oneshot};

/// A hold that is in force.
pub struct Held {
    /// Since when, on the calendar.
    pub since_unix_ms: u64,
    /// Until when at most.
    pub until_unix_ms: Option<u64>,
    /// Ends it with a reason.
    end: Option<oneshot::Sender<HoldEnd>>,
}

impl Daemon {
    /// Begins a hold. It ends when the lines are dropped, after its time, or with a takeover.
    pub async fn hold_lines(
        self: &Arc<Self>,
        request: HoldRequest,
    ) -> Result<Lines<HoldEvent>, ApiError> {
        let now = role(self.view().role);
        if let Some(wanted) = request.role
            && wanted != now
        {
            return Err(ApiError::new(
                ErrorCode::WrongRole,
                format!("this node is {}, not {}", now.as_str(), wanted.as_str()),
            ));
        }
        if self.view().role == Role::Master {
            return Err(ApiError::new(
                ErrorCode::WrongRole,
                "this node is master: nothing is applied here that could be paused",
            )
            .hint("run it on the standby; `--role standby` makes a script on both nodes do so"));
        }
        let (end, ended) = oneshot::channel();
        let until = request.for_ms.map(|d| unix_ms().saturating_add(d));
        {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            if held.is_some() {
                return Err(ApiError::new(ErrorCode::Busy, "another hold is in force"));
            }
            *held = Some(Held {
                since_unix_ms: unix_ms(),
                until_unix_ms: until,
                end: Some(end),
            });
        }
        if let Err(error) = self.engine.hold().await {
            self.forget_hold();
            return Err(ApiError::new(ErrorCode::Refused, error.to_string()));
        }
        self.tell(Input::Hold { active: true }).await?;
        let (sender, lines) = mpsc::channel(STREAM_QUEUE);
        let _ = sender.try_send(Line::Event(HoldEvent::Held {
            role: now,
            until_unix_ms: until,
        }));
        let limit = request.for_ms.map(Duration::from_millis);
        tokio::spawn(self.clone().keep_hold(sender, ended, limit));
        Ok(lines)
    }

    /// Ends the hold, if there is one: its command is told at once.
    pub fn end_hold(&self, why: HoldEnd) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(end) = held.as_mut().and_then(|held| held.end.take()) {
            let _ = end.send(why);
        }
    }

    /// Since and until when applying is paused.
    pub fn hold_times(&self) -> Option<(u64, Option<u64>)> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().map(|h| (h.since_unix_ms, h.until_unix_ms))
    }

    async fn keep_hold(
        self: Arc<Self>,
        sender: mpsc::Sender<Line<HoldEvent>>,
        ended: oneshot::Receiver<HoldEnd>,
        limit: Option<Duration>,
    ) {
        let over = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        let why = tokio::select! {
            () = sender.closed() => None,
            why = ended => why.ok(),
            () = over => Some(HoldEnd::Expired),
        };
        // A takeover puts the spool into the trees itself, before its term is used.
        if why != Some(HoldEnd::Takeover)
            && let Err(error) = self.engine.release_hold(RELEASE_BOUND).await
        {
            tracing::warn!(error = %error, "the spool of the hold is not applied yet");
        }
        self.forget_hold();
        let _ = self.tell(Input::Hold { active: false }).await;
        if let Some(why) = why {
            let text = match why {
                HoldEnd::Takeover => "this node takes over",
                HoldEnd::Expired => "its time is over",
                HoldEnd::RoleChanged => "the role of this node changed",
                HoldEnd::SpoolFull => "there is no room for what arrives",
                HoldEnd::AgentStopping => "the agent stops",
                HoldEnd::Unknown => "unknown",
            };
            tracing::info!(why = text, "hold ended");
            let event = HoldEvent::Ended {
                why,
                text: text.to_owned(),
            };
            let _ = sender.send(Line::Event(event)).await;
        }
    }

    fn forget_hold(&self) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Applying a spool of hours takes a while; the bound only keeps a broken disk from holding this task for ever.
const RELEASE_BOUND: Duration = Duration::from_secs(600);
