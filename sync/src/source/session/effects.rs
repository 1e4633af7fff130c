//! What the machine wants, carried out.

use super::Session;
use crate::engine::SessionError;
use crate::engine::clock;
use crate::engine::command::Command;
use crate::engine::moving::MoveOrder;
use crate::engine::shared::Shared;
use crate::index::IndexError;
use crate::path::RelPath;
use crate::source::fetch::Stretch;
use crate::source::machine::{Effect, Reads};
use crate::tree::TreeId;
use crate::wire::Message;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Time between two tries to send what could not be read, while nothing newer is known.
const AGAIN: Duration = Duration::from_secs(1);

impl Session<'_> {
    /// Carries out what the machine wants.
    pub(super) fn effects(&mut self) -> Result<(), SessionError> {
        while let Some(effect) = self.machine.next_effect() {
            match effect {
                Effect::Fetch(reads) => {
                    let fetched = self.fetch(reads);
                    fetched.map_err(|e| SessionError::Local(format!("index: {e}")))?;
                }
                Effect::Asked { tree, paths } => self.fetcher.ask(tree, paths),
                Effect::Send(message) => {
                    if let Message::Commit(commit) = &message {
                        self.through(commit.batch);
                    }
                    self.out.push_back(message);
                }
                Effect::SendContent { item, want } => {
                    if let Some(record) = self.machine.record(item) {
                        self.lanes.push(record.tree, item, want);
                    }
                }
                Effect::MoveEnded { order, done } => self.move_ended(order, done),
                Effect::Examine { tree, path, seq } => self.examine(tree, path, seq),
                Effect::Acked {
                    acked,
                    applied,
                    durable: _,
                    follows,
                } => self.books.acked(self.shared, acked, applied, follows),
            }
        }
        Ok(())
    }

    fn fetch(&mut self, reads: Reads) -> Result<(), IndexError> {
        let index = &self.shared.index;
        let (fetched, settled) = match Stretch::of(reads) {
            Some(stretch) => {
                let stop = self.shared.move_at.load(Ordering::Acquire);
                let fetched = self.fetcher.stream(index, stretch, stop)?;
                self.outlooks.put(&fetched.records);
                (fetched, None)
            }
            None => {
                let (fetched, settled) =
                    self.fetcher
                        .answer(index, self.machine.cursor(), clock::now())?;
                (fetched, Some(settled))
            }
        };
        self.machine.fetched(fetched, settled);
        Ok(())
    }

    /// Has the worker look again at what could not be sent, aside of the session.
    fn examine(&self, tree: TreeId, path: RelPath, seq: u64) {
        let (shared, examined) = (Arc::clone(self.shared), self.examined.clone());
        let in_sets = shared.roots.get(tree).is_some_and(|open| open.in_sets);
        tokio::spawn(async move {
            if in_sets {
                // Nothing is new before the next set.
                tokio::time::sleep(AGAIN).await;
            }
            let here = path.clone();
            let head = shared
                .ask(|reply| Command::Examine { tree, path, reply })
                .await
                .unwrap_or(0);
            if !is_newer(&shared, tree, &here, seq) {
                // The same would only fail again at once.
                tokio::time::sleep(AGAIN).await;
            }
            // The session may have ended.
            let _ = examined.send(head).await;
        });
    }

    /// The worker goes on with what became of a rename. It waits for it only so long, should it not hear.
    pub(super) fn move_ended(&self, order: MoveOrder, done: bool) {
        let command = Command::Moved {
            tree: order.tree,
            seq: order.seq,
            done,
        };
        let commands = self.shared.commands.clone();
        tokio::spawn(async move {
            // An engine that ended needs no answer.
            let _ = commands.send(command).await;
        });
    }
}

/// The index has something newer at the path than this.
fn is_newer(shared: &Shared, tree: TreeId, path: &RelPath, seq: u64) -> bool {
    let entry = shared.index.snapshot().and_then(|s| s.get(tree, path));
    // An index that fails is met by the next reading.
    entry.is_ok_and(|entry| entry.is_none_or(|entry| entry.seq > seq))
}
