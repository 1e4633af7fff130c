//! A rename that is sent as one: everything before it is durable on the replica first, and nothing else goes until the
//! replica has answered.

use super::{Effect, SourceMachine, Violation};
use crate::engine::moving::MoveOrder;
use crate::wire::{Message, Move};

/// Where a rename stands.
#[derive(Debug)]
pub(super) enum Renaming {
    /// Everything before it is sent first.
    Ordered(MoveOrder),
    /// The replica has not answered yet.
    Sent(MoveOrder),
}

impl SourceMachine {
    /// A rename is to be sent, when everything before it is durable on the replica. One at a time.
    pub fn rename(&mut self, order: MoveOrder) {
        if self.renaming.is_some() {
            self.effects
                .push_back(Effect::MoveEnded { order, done: false });
            return;
        }
        self.renaming = Some(Renaming::Ordered(order));
        self.pump();
    }

    /// The rename that the session ends with, whose fate is not known.
    pub fn give_up_rename(&mut self) -> Option<MoveOrder> {
        match self.renaming.take()? {
            Renaming::Ordered(order) | Renaming::Sent(order) => Some(order),
        }
    }

    pub(super) fn moved(&mut self, seq: u64, done: bool) -> Result<(), Violation> {
        let order = match self.renaming.take() {
            Some(Renaming::Sent(order)) if order.seq == seq => order,
            _ => return Err(Violation("a Moved for what was not sent")),
        };
        if done {
            self.cursor = self.cursor.max(seq);
            self.effects.push_back(Effect::Acked {
                acked: seq,
                applied: seq,
                durable: seq,
                follows: self.follows,
            });
        }
        self.effects.push_back(Effect::MoveEnded { order, done });
        Ok(())
    }

    /// Sends the rename if it is its turn. False: nothing else may be sent now.
    pub(super) fn pump_rename(&mut self) -> bool {
        let Some(renaming) = self.renaming.take() else {
            return true;
        };
        let Renaming::Ordered(order) = renaming else {
            self.renaming = Some(renaming);
            return false;
        };
        let below = order.seq.saturating_sub(1);
        let past = self.cursor.max(self.ahead) > below;
        if self.floor.is_some() || self.examining > 0 || past || self.slow_waits() {
            // Something changed while it was sent, the session is past it, or it would wait for a tree with a limit: it is
            // a change like others.
            self.effects
                .push_back(Effect::MoveEnded { order, done: false });
            return true;
        }
        if self.cursor == below
            && self.flights.is_empty()
            && self.fetching.is_none()
            && self.asked == 0
        {
            let one = Move {
                tree: order.tree,
                from: order.from.clone(),
                to: order.to.clone(),
                seq: order.seq,
                stamp: self.stamp,
            };
            self.effects.push_back(Effect::Send(Message::Move(one)));
            self.renaming = Some(Renaming::Sent(order));
            return false;
        }
        self.renaming = Some(Renaming::Ordered(order));
        true
    }
}
