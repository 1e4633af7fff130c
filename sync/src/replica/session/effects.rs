//! What the machine wants, carried out.

use super::Session;
use super::worker::Answer;
use crate::engine::SessionError;
use crate::engine::apply::Batch;
use crate::engine::command::Command;
use crate::progress::Transfers;
use crate::replica::machine::{Effect, Ready};
use crate::replica::staging::large_files;
use crate::tree::TreeId;
use crate::wire::{Idle, Message, Move, Signature};
use std::collections::HashSet;

impl Session<'_> {
    pub(super) async fn effects(&mut self) -> Result<(), SessionError> {
        for list in std::mem::take(&mut self.fuzzy) {
            let session = self.number;
            let command = Command::Fuzzy { session, list };
            let sent = self.shared.commands.send(command).await;
            sent.map_err(|e| SessionError::Local(e.to_string()))?;
        }
        while let Some(effect) = self.machine.next_effect() {
            match effect {
                Effect::Lookup { batch } => self.expect(batch)?,
                Effect::Send(message) => self.out.push_back(message),
                Effect::Write { item, bytes, last } => {
                    if !self.contents.write(item, &bytes, last) && last {
                        self.machine.failed(item);
                    }
                }
                Effect::Copy {
                    item,
                    from,
                    len,
                    last,
                } => {
                    if !self.contents.copy(item, from, len, last) && last {
                        self.machine.failed(item);
                    }
                }
                Effect::Room { item, bytes } => self.contents.reserve(item, bytes),
                Effect::Hole { item, len, last } => {
                    if !self.contents.hole(item, len, last) && last {
                        self.machine.failed(item);
                    }
                }
                Effect::Signature { item, from, len } => {
                    let signature = Signature(self.contents.signature(item, from, len));
                    self.out.push_back(Message::Sums {
                        item,
                        from,
                        signature,
                    });
                }
                Effect::Discard { item } => self.contents.discard(item),
                Effect::Apply(ready) => self.batch(ready).await,
                Effect::Fresh(idle) => self.fresh(idle).await,
                Effect::Move(one) => self.rename(one).await,
                Effect::Verify(part) => self.verify(part),
            }
        }
        Ok(())
    }

    async fn batch(&mut self, ready: Ready) {
        self.through(&ready.commit, &ready.records);
        let contents = self.contents.take(ready.commit.batch);
        self.shared.alarm(None, "staging", self.contents.trouble());
        self.status.caught_up = ready.commit.caught_up;
        let batch = Box::new(Batch {
            ready,
            contents,
            unput: self.contents.take_unput(),
            source: self.source.clone(),
        });
        self.apply(batch).await;
    }

    async fn fresh(&mut self, idle: Idle) {
        let upto = idle.upto;
        self.status.caught_up = true;
        *self.shared.transfers() = Transfers::default();
        let (session, source) = (self.number, self.source.clone());
        self.to_worker(
            |reply| Command::Fresh {
                session,
                idle,
                source,
                reply,
            },
            move |applied| Answer::Fresh { upto, applied },
        )
        .await;
    }

    async fn rename(&self, one: Move) {
        let (session, source, seq) = (self.number, self.source.clone(), one.seq);
        self.to_worker(
            |reply| Command::Move {
                session,
                one,
                source,
                reply,
            },
            move |done| Answer::Moved { seq, done },
        )
        .await;
    }

    /// The batch is there: its small files come with it, the others are looked for.
    fn expect(&mut self, batch: u64) -> Result<(), SessionError> {
        let records = self.machine.records(batch).unwrap_or_default();
        let (held, index) = (self.is_held(), &self.shared.index);
        let expected = self.contents.expect_inline(held, batch, records, index);
        expected.map_err(|e| SessionError::Local(e.to_string()))?;
        self.lookups.push_back(batch);
        Ok(())
    }

    /// Looks for what the batches offer. A further version of a large file waits until the one before it is applied: then
    /// it is a matter of differences, where both at once would be sent whole. So do later batches of its tree.
    pub(super) fn look_up(&mut self) -> Result<(), SessionError> {
        let machine = &self.machine;
        self.large.retain(|(batch, _)| machine.is_under_way(*batch));
        let held = self.is_held();
        let mut wait: HashSet<TreeId> = HashSet::new();
        for batch in std::mem::take(&mut self.lookups) {
            let records = self.machine.records(batch).unwrap_or_default();
            let large = large_files(records);
            let mut before = self.large.iter().map(|(_, before)| before);
            let waits = before.any(|before| !before.is_disjoint(&large));
            if waits || records.iter().any(|r| wait.contains(&r.tree)) {
                wait.extend(records.iter().map(|r| r.tree));
                self.lookups.push_back(batch);
                continue;
            }
            let wanted = self
                .contents
                .look_up(held, batch, records, &self.shared.index);
            let wanted = wanted.map_err(|e| SessionError::Local(e.to_string()))?;
            self.machine.looked_up(batch, wanted);
            if !large.is_empty() {
                self.superseded = true;
                self.large.push((batch, large));
            }
        }
        Ok(())
    }
}
