//! `tandem verify`: contents of the master and of a receiver, compared where the master is.

use super::Daemon;
use super::backend::engine_error;
use super::forward::Forwarded;
use crate::api::server::{Lines, STREAM_QUEUE};
use crate::api::types::{self, ApiError, DifferenceKind, Line, VerifyEvent, VerifyRequest};
use std::sync::Arc;
use std::time::Duration;
use tandem_failover::role::Role;
use tandem_sync::engine::{Differs, Receiver, TreeState, TreeStatus};
use tokio::sync::mpsc;

/// A verify of terabytes takes hours; the bound only ends one whose peer has gone silent.
const VERIFY_BOUND: Duration = Duration::from_secs(24 * 3600);

/// A walk of the stopped tree: some seconds for millions of entries.
const ACCEPTING: Duration = Duration::from_secs(30);

impl Daemon {
    /// `verify` on the master.
    pub async fn verify_here(&self, request: VerifyRequest) -> Result<Vec<VerifyEvent>, ApiError> {
        self.must_be_master()?;
        let of = match &request.replica {
            Some(name) => Receiver::Replica(name.clone()),
            None => Receiver::Standby,
        };
        let report = self
            .engine
            .verify(&of, request.tree.as_deref(), request.repair, request.rate)
            .await
            .map_err(|e| engine_error(&e))?;
        let nodes = &self.config().config.nodes;
        let receiver = receiver_name(&of, &nodes[1 - self.own].name);
        let mut events: Vec<VerifyEvent> = report
            .differences
            .iter()
            .map(|d| VerifyEvent::Difference {
                tree: d.tree.clone(),
                receiver: receiver.to_owned(),
                path: d.path.clone(),
                what: kind(d.what),
                repaired: report.repaired,
            })
            .collect();
        events.extend(report.not_covered.iter().map(|n| VerifyEvent::NotCovered {
            tree: n.tree.clone(),
            receiver: receiver.to_owned(),
            why: n.why.clone(),
        }));
        events.push(VerifyEvent::Done {
            entries: report.compared,
            bytes: report.bytes,
            differences: report.found,
            repaired: if report.repaired { report.found } else { 0 },
        });
        Ok(events)
    }

    /// `verify` from either node.
    pub fn verify_lines(self: &Arc<Self>, request: VerifyRequest) -> Lines<VerifyEvent> {
        let (sender, lines) = mpsc::channel(STREAM_QUEUE);
        let daemon = self.clone();
        tokio::spawn(async move {
            let result = if daemon.view().role == Role::Master {
                daemon.verify_here(request).await
            } else {
                daemon
                    .forwarded::<Vec<VerifyEvent>>(Forwarded::Verify(request), VERIFY_BOUND)
                    .await
            };
            let lines: Vec<Line<VerifyEvent>> = match result {
                Ok(events) => events.into_iter().map(Line::Event).collect(),
                Err(error) => vec![Line::Error(error)],
            };
            for line in lines {
                if sender.send(line).await.is_err() {
                    return;
                }
            }
        });
        lines
    }

    /// `tree accept`: here, or on the other node when it is that one which waits.
    pub async fn accept_anywhere(
        &self,
        request: types::AcceptRequest,
    ) -> Result<types::Done, ApiError> {
        if self.waits_here(&request.tree) {
            return self.accept_here(&request).await;
        }
        self.forwarded(Forwarded::Accept(request), ACCEPTING).await
    }

    /// What that would let go.
    pub async fn accept_price_anywhere(
        &self,
        request: types::AcceptPriceRequest,
    ) -> Result<types::AcceptPrice, ApiError> {
        if self.waits_here(&request.tree) {
            return self.accept_price_here(&request).await;
        }
        self.forwarded(Forwarded::AcceptPrice(request), ACCEPTING)
            .await
    }

    /// The tree is stopped on this node, or nobody else can be asked.
    fn waits_here(&self, name: &str) -> bool {
        let status = self.engine.status();
        let stopped = |tree: &TreeStatus| matches!(tree.state, TreeState::Stopped { .. });
        let mut trees = status.trees.iter();
        trees.any(|tree| tree.name == name && stopped(tree)) || self.rpc.borrow().is_none()
    }
}

/// The name of a receiver: that of the standby is in the configuration.
pub fn receiver_name<'n>(of: &'n Receiver, standby: &'n str) -> &'n str {
    match of {
        Receiver::Standby => standby,
        Receiver::Replica(name) => name,
    }
}

fn kind(what: Differs) -> DifferenceKind {
    match what {
        Differs::Content => DifferenceKind::Contents,
        Differs::Metadata => DifferenceKind::Metadata,
        Differs::Kind => DifferenceKind::Kind,
        Differs::Missing => DifferenceKind::Missing,
        Differs::Extra => DifferenceKind::Extra,
        Differs::Unreadable => DifferenceKind::Unreadable,
    }
}
