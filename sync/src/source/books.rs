//! What a session of the source writes down of its receiver.
//!
//! The standby's word counts: for `flush`, the lag and a takeover. A replica's counts for itself alone.

use crate::engine::clock;
use crate::engine::command::{Command, Peer, VerifyAsk};
use crate::engine::receivers::Ticket;
use crate::engine::shared::Shared;
use crate::engine::{Receiver, SessionError, SessionStatus};
use crate::lineage::NodeHeads;
use crate::progress::Transfers;
use crate::tree::TreeId;
use crate::wire::Accept;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Whom a session sends to, while it runs.
#[derive(Debug)]
pub(super) enum Books {
    Standby {
        /// The standby takes every tree. One that it does not take keeps everything from being called acknowledged.
        whole: bool,
    },
    Replica {
        ticket: Ticket,
        trees: BTreeSet<TreeId>,
        /// Which of them it does not take now, because they are stopped there for example. Of what is sent to it nothing is
        /// acknowledged meanwhile.
        lacks: BTreeSet<TreeId>,
    },
}

impl Books {
    /// A session begins, and the one before it to the same receiver ends.
    pub fn open(
        shared: &Shared,
        to: &Receiver,
        token: CancellationToken,
    ) -> Result<Books, SessionError> {
        match to {
            Receiver::Standby => {
                // Of two sessions the newer one counts: the peer knows why it dialled again.
                shared.only_session(token);
                Ok(Books::Standby { whole: false })
            }
            Receiver::Replica(name) => {
                let begun = shared.receivers.begin(name, token);
                let (ticket, trees) = begun.ok_or(SessionError::Role("send to this replica"))?;
                Ok(Books::Replica {
                    ticket,
                    trees,
                    lacks: BTreeSet::new(),
                })
            }
        }
    }

    /// The standby is told of renames; a replica is not.
    pub fn is_standby(&self) -> bool {
        matches!(self, Books::Standby { .. })
    }

    /// Questions of `verify` come this way from here on.
    pub fn take_questions(&self, shared: &Shared, verifier: mpsc::Sender<VerifyAsk>) {
        match self {
            Books::Standby { .. } => shared.set_verifier(Some(verifier)),
            Books::Replica { ticket, .. } => shared.receivers.set_verifier(ticket, verifier),
        }
    }

    /// Packs of 256 KiB that may wait for the receiver to take them.
    pub fn queue(&self) -> usize {
        match self {
            Books::Standby { .. } => crate::engine::stream::QUEUE,
            // There may be many, and they may all be slow.
            Books::Replica { .. } => crate::engine::stream::SHORT_QUEUE,
        }
    }

    /// Whether the receiver gets a tree.
    pub fn gets(&self, tree: TreeId) -> bool {
        match self {
            Books::Standby { .. } => true,
            Books::Replica { trees, .. } => trees.contains(&tree),
        }
    }

    /// Trees that the receiver gets and does not take now, with what it surely has of them. Of a replica that is not kept.
    pub fn absent(
        &self,
        shared: &Shared,
        accept: &Accept,
    ) -> Result<BTreeMap<TreeId, u64>, SessionError> {
        let has = match self {
            Books::Standby { .. } => {
                let index = shared.index.snapshot();
                let index = index.map_err(|e| SessionError::Local(e.to_string()))?;
                index.acked().upto
            }
            Books::Replica { .. } => 0,
        };
        let takes = |id: &TreeId| accept.from.iter().any(|(tree, _)| tree == id);
        let trees = shared.trees();
        let absent = trees.iter().map(|t| t.id());
        let absent = absent.filter(|id| self.gets(*id) && !takes(id));
        Ok(absent.map(|id| (id, has)).collect())
    }

    /// What the receiver is told of this node's trees.
    pub fn shown(&self, heads: NodeHeads) -> NodeHeads {
        heads.only(|tree| self.gets(tree))
    }

    /// The receiver has accepted, and has everything up to `begin`.
    pub async fn accepted(
        &mut self,
        shared: &Shared,
        accept: &Accept,
        begin: u64,
    ) -> Result<(), SessionError> {
        let local = |e: &dyn std::fmt::Display| SessionError::Local(e.to_string());
        if !accept.from.iter().all(|(tree, _)| self.gets(*tree)) {
            let text = "an Accept of a tree that this receiver does not get";
            return Err(SessionError::Protocol(text.into()));
        }
        match self {
            Books::Standby { whole } => {
                let takes = |id: TreeId| accept.from.iter().any(|(tree, _)| *tree == id);
                *whole = shared.trees().iter().all(|t| takes(t.id()));
                let kept = shared.index.snapshot().map_err(|e| local(&e))?;
                let kept = kept.acked().upto;
                if *whole && begin < kept {
                    // The peer had more once: a new disk, or a state that was lost.
                    let lost = Command::PeerLost { kept: begin };
                    shared.commands.send(lost).await.map_err(|e| local(&e))?;
                }
                let whole = *whole;
                shared.peer.send_modify(|peer| {
                    peer.session = true;
                    if whole {
                        peer.acked = peer.acked.max(kept).min(begin);
                    }
                });
            }
            Books::Replica {
                ticket,
                trees,
                lacks,
            } => {
                let configured = shared.trees();
                let gets = configured.iter().map(|t| t.id());
                let gets = gets.filter(|id| trees.contains(id));
                let takes = |id: &TreeId| accept.from.iter().any(|(tree, _)| tree == id);
                *lacks = gets.filter(|id| !takes(id)).collect();
                let (head, now) = (*shared.head.borrow(), clock::now());
                match lacks.is_empty() {
                    true => shared.receivers.accepted(ticket, begin, head, now),
                    false => shared.receivers.lacks(ticket, head, now),
                }
            }
        }
        Ok(())
    }

    /// The receiver holds everything up to `acked`, and has applied what is up to `applied`; `follows` as in
    /// [`crate::wire::Durable`].
    pub fn acked(&self, shared: &Shared, acked: u64, applied: u64, follows: bool) {
        match self {
            Books::Standby { whole } => shared.peer.send_modify(|peer| {
                if *whole {
                    peer.acked = peer.acked.max(acked);
                }
                peer.applied = applied;
                (peer.follows, peer.keeps) = (follows, !follows);
            }),
            Books::Replica { ticket, lacks, .. } => {
                shared.receivers.keeps(ticket, !follows);
                if lacks.is_empty() {
                    shared.receivers.acked(ticket, acked, applied);
                }
            }
        }
    }

    /// Where it is noted how far the session is. Status shows that of the standby.
    pub fn transfers(&self, shared: &Shared) -> Arc<Mutex<Transfers>> {
        match self {
            Books::Standby { .. } => Arc::clone(&shared.transfers),
            Books::Replica { .. } => Arc::default(),
        }
    }

    /// What the session shows of itself.
    pub fn show(&self, shared: &Shared, status: &SessionStatus) {
        match self {
            Books::Standby { .. } => {
                shared.set_session(Some(status.clone()));
                let caught_up = status.caught_up;
                shared.peer.send_if_modified(|peer| {
                    std::mem::replace(&mut peer.caught_up, caught_up) != caught_up
                });
            }
            Books::Replica { ticket, lacks, .. } => {
                // Status is made where this is waited for.
                let status = SessionStatus {
                    caught_up: status.caught_up && lacks.is_empty(),
                    ..status.clone()
                };
                let told = shared.receivers.show(ticket, Some((status, lacks.clone())));
                shared.peer.send_if_modified(|_| told);
            }
        }
    }

    /// The session has ended.
    pub fn close(&self, shared: &Shared) {
        match self {
            Books::Standby { .. } => {
                shared.peer.send_modify(|peer| {
                    *peer = Peer {
                        session: false,
                        caught_up: false,
                        follows: false,
                        keeps: false,
                        ..*peer
                    }
                });
                *shared.transfers() = Transfers::default();
                shared.set_session(None);
                shared.set_verifier(None);
                shared.set_mover(None);
            }
            Books::Replica { ticket, .. } => {
                let told = shared.receivers.show(ticket, None);
                shared.peer.send_if_modified(|_| told);
            }
        }
    }
}
