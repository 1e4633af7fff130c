//! What the session has the worker do, and what the worker answers.

use super::Session;
use crate::engine::SessionError;
use crate::engine::apply::{Applied, Batch};
use crate::engine::clock::{self, ms};
use crate::engine::command::Command;
use crate::path::RelPath;
use crate::tree::TreeId;
use crate::wire::{Durable, Message, VerifyAnswer};
use std::sync::atomic::Ordering;

/// Time between two questions for paths that stay unsettled.
const ASK_AGAIN: u64 = ms(1000);

/// What the worker answered.
pub(super) enum Answer {
    /// A batch with this end is durable, and will be applied.
    Ahead(u64, Applied),
    Applied(Result<Applied, String>),
    Fresh {
        upto: u64,
        applied: Result<Applied, String>,
    },
    Moved {
        seq: u64,
        done: Result<bool, String>,
    },
    Unsettled(Option<(TreeId, Vec<RelPath>)>),
    Verified(VerifyAnswer),
}

impl Session<'_> {
    /// Sends a command to the worker, in order, and has its answer come as a result.
    pub(super) async fn to_worker<T: Send + 'static>(
        &self,
        make: impl FnOnce(tokio::sync::oneshot::Sender<T>) -> Command,
        answer: impl FnOnce(T) -> Answer + Send + 'static,
    ) {
        let (reply, result) = tokio::sync::oneshot::channel();
        let command = make(reply);
        let (commands, applied) = (self.shared.commands.clone(), self.applied.clone());
        // The order of batches is the order of this queue. A full queue (64 commands) means that the worker is busy with
        // something long; the session's thread may wait for it.
        if commands.send(command).await.is_ok() {
            tokio::spawn(async move {
                if let Ok(result) = result.await {
                    // The session may have ended.
                    let _ = applied.send(answer(result)).await;
                }
            });
        }
    }

    /// The same for a batch, of which two answers may come.
    pub(super) async fn apply(&self, batch: Box<Batch>) {
        let (ahead, durable) = tokio::sync::oneshot::channel();
        let (reply, result) = tokio::sync::oneshot::channel();
        let (session, upto) = (self.number, batch.ready.commit.upto);
        let command = Command::Apply {
            session,
            batch,
            ahead,
            reply,
        };
        let applied = self.applied.clone();
        if self.shared.commands.send(command).await.is_ok() {
            tokio::spawn(async move {
                // The session may have ended.
                if let Ok(durable) = durable.await {
                    let _ = applied.send(Answer::Ahead(upto, durable)).await;
                }
                if let Ok(result) = result.await {
                    let _ = applied.send(Answer::Applied(result)).await;
                }
            });
        }
    }

    pub(super) fn answer(&mut self, answer: Answer) -> Result<(), SessionError> {
        match answer {
            Answer::Ahead(upto, applied) => self.durable(upto, applied),
            Answer::Applied(Err(why)) => return Err(SessionError::Local(why)),
            Answer::Applied(Ok(applied)) => {
                if applied.unsettled != self.unsettled {
                    self.ask_at = clock::now();
                }
                self.unsettled = applied.unsettled;
                self.asking = false;
                let follows = self.shared.follows.load(Ordering::Acquire);
                self.machine
                    .applied(applied.acked, applied.applied, clock::now(), follows);
            }
            Answer::Fresh {
                applied: Err(why), ..
            } => return Err(SessionError::Local(why)),
            Answer::Fresh {
                upto,
                applied: Ok(applied),
            } => {
                self.unsettled = applied.unsettled;
                self.asking = false;
                if self.unsettled == 0 && self.machine.in_flight() == 0 && self.superseded {
                    self.superseded = false;
                    self.contents.clear_partials();
                }
                self.durable(upto, applied);
            }
            Answer::Moved { done: Err(why), .. } => return Err(SessionError::Local(why)),
            Answer::Moved {
                seq,
                done: Ok(done),
            } => self.machine.moved(seq, done),
            Answer::Verified(answer) => self.machine.verified(answer),
            Answer::Unsettled(None) => (self.unsettled, self.asking) = (0, false),
            Answer::Unsettled(Some((tree, paths))) => {
                self.asked_after = paths.last().map(|path| (tree, path.clone()));
                self.out.push_back(Message::Fetch { tree, paths });
            }
        }
        Ok(())
    }

    /// Answers something else than the oldest batch.
    fn durable(&mut self, upto: u64, applied: Applied) {
        self.out.push_back(Message::Durable(Durable {
            upto,
            batch: None,
            acked: applied.acked,
            applied: applied.applied,
            stamp: clock::now(),
            follows: self.shared.follows.load(Ordering::Acquire),
        }));
    }

    /// Asks the source for paths that are not settled, once everything else is there.
    pub(super) async fn ask(&mut self) {
        let now = clock::now();
        if self.unsettled == 0 || self.asking || !self.status.caught_up || now < self.ask_at {
            return;
        }
        self.asking = true;
        self.ask_at = now + ASK_AGAIN;
        let after = self.asked_after.clone();
        self.to_worker(
            |reply| Command::Unsettled { after, reply },
            Answer::Unsettled,
        )
        .await;
    }
}
