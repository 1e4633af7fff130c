//! Commands of the local API that the other node carries out, because only the master (or only the standby) can.

use super::Daemon;
use crate::api::types::{self, ApiError, ErrorCode};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tandem_failover::input::Command;

/// A forwarded command. The types are the local API's, so that there is one definition of each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forwarded {
    /// `failback`, for the master.
    Failback,
    /// `switchover`, for the master.
    Switchover,
    /// `flush`, for the master.
    Flush(types::FlushRequest),
    /// What `flush` cannot cover, of the standby: paths that it must not change.
    Exceptions,
    /// `verify`, for the master.
    Verify(types::VerifyRequest),
    /// `tree accept`, for the other node when nothing waits on this one.
    Accept(types::AcceptRequest),
    /// What that would let go.
    AcceptPrice(types::AcceptPriceRequest),
}

impl Forwarded {
    /// Whether it may be sent again when it is unknown what became of it. A move must not: the second one would move the
    /// role back, or be refused for what the first one reached.
    pub fn is_repeatable(&self) -> bool {
        match self {
            Self::Flush(_) | Self::Exceptions | Self::AcceptPrice(_) => true,
            Self::Verify(request) => !request.repair,
            Self::Failback | Self::Switchover | Self::Accept(_) => false,
        }
    }

    /// The command's name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Failback => "failback",
            Self::Switchover => "switchover",
            Self::Flush(_) | Self::Exceptions => "flush",
            Self::Verify(_) => "verify",
            Self::Accept(_) | Self::AcceptPrice(_) => "tree accept",
        }
    }
}

impl Daemon {
    /// Carries out what the other node forwarded. The answer is JSON of the API's own type.
    pub async fn carry_out_forwarded(
        self: &Arc<Self>,
        command: Forwarded,
    ) -> Result<Vec<u8>, ApiError> {
        match command {
            Forwarded::Failback => json(&self.ask_move(Command::Failback).await?),
            Forwarded::Switchover => json(&self.ask_move(Command::Switchover).await?),
            Forwarded::Flush(request) => json(&self.flush_here(request).await?),
            Forwarded::Exceptions => json(&self.exceptions_here().await?),
            Forwarded::Verify(request) => json(&self.verify_here(request).await?),
            Forwarded::Accept(request) => json(&self.accept_here(&request).await?),
            Forwarded::AcceptPrice(request) => json(&self.accept_price_here(&request).await?),
        }
    }

    /// Forwards `command` and reads its answer.
    pub async fn forwarded<T: serde::de::DeserializeOwned>(
        &self,
        command: Forwarded,
        within: Duration,
    ) -> Result<T, ApiError> {
        let answer = self.forward(&command, within).await?;
        serde_json::from_slice(&answer).map_err(|e| {
            ApiError::new(
                ErrorCode::Internal,
                format!("answer of the other node: {e}"),
            )
        })
    }
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(value).map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))
}
