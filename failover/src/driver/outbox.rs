//! Effects on their way to the agent. The loop never waits for the agent: what does not fit into the channel waits here,
//! bounded; over the bound the newest of each kind is kept.

use super::AgentEffect;
use std::collections::VecDeque;
use std::mem::discriminant;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// Most effects that wait. An agent that works reads them at once; one that does not for that many has failed.
const LIMIT: usize = 256;

pub(super) struct Outbox {
    channel: mpsc::Sender<AgentEffect>,
    waiting: VecDeque<AgentEffect>,
    dropped: u64,
}

impl Outbox {
    pub(super) fn new(channel: mpsc::Sender<AgentEffect>) -> Self {
        Self {
            channel,
            waiting: VecDeque::new(),
            dropped: 0,
        }
    }

    /// Hands over what fits, keeps the rest. Does not wait.
    pub(super) fn push(&mut self, effect: AgentEffect) {
        self.waiting.push_back(effect);
        self.flush();
        if self.waiting.len() > LIMIT {
            self.make_room();
        }
    }

    fn flush(&mut self) {
        while let Some(effect) = self.waiting.pop_front() {
            match self.channel.try_send(effect) {
                Ok(()) => {}
                Err(TrySendError::Full(effect)) => {
                    self.waiting.push_front(effect);
                    return;
                }
                // The agent is gone; the loop ends as soon as it sees that its inputs are closed.
                Err(TrySendError::Closed(_)) => {}
            }
        }
    }

    /// Drops the oldest effect that has a newer one of its kind behind it.
    fn make_room(&mut self) {
        let superseded = (0..self.waiting.len()).find(|&i| {
            let kind = discriminant(&self.waiting[i]);
            self.waiting
                .iter()
                .skip(i + 1)
                .any(|later| discriminant(later) == kind)
        });
        // More effects than kinds wait, so one is always found.
        if let Some(dropped) = superseded.and_then(|i| self.waiting.remove(i)) {
            self.dropped += 1;
            tracing::error!(
                ?dropped,
                total = self.dropped,
                "the agent does not read its effects"
            );
        }
    }

    /// Completes when something that waits can be handed over; never if nothing waits. Cancel safe.
    pub(super) async fn deliver(&mut self) {
        if self.waiting.is_empty() {
            return std::future::pending().await;
        }
        match self.channel.reserve().await {
            Ok(permit) => {
                if let Some(effect) = self.waiting.pop_front() {
                    permit.send(effect);
                }
            }
            Err(_closed) => self.waiting.clear(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::{ServiceCommand, Ticket};

    fn answer(n: u64) -> AgentEffect {
        AgentEffect::Answer {
            ticket: Ticket(n),
            result: Ok(String::new()),
        }
    }

    fn service(n: u64) -> AgentEffect {
        AgentEffect::Services {
            ticket: Ticket(n),
            command: ServiceCommand::Start,
        }
    }

    #[tokio::test]
    async fn keeps_order_and_the_newest_of_each_kind_when_nobody_reads() {
        let (channel, mut read) = mpsc::channel(1);
        let mut outbox = Outbox::new(channel);
        outbox.push(service(0));
        outbox.push(service(1));
        for n in 0..1000 {
            outbox.push(answer(n));
        }
        outbox.push(AgentEffect::Exit);
        assert!(outbox.waiting.len() <= LIMIT);
        let mut got = Vec::new();
        while !outbox.is_empty() {
            got.push(read.recv().await.expect("open"));
            outbox.deliver().await;
        }
        got.extend(read.recv().await);
        assert_eq!(
            got[..2],
            [service(0), service(1)],
            "the only newest of its kind stays"
        );
        assert_eq!(got.last(), Some(&AgentEffect::Exit));
        assert_eq!(got[got.len() - 2], answer(999));
        let numbers: Vec<_> = got
            .iter()
            .filter_map(|e| match e {
                AgentEffect::Answer { ticket, .. } => Some(ticket.0),
                _ => None,
            })
            .collect();
        assert!(numbers.is_sorted());
    }
}
