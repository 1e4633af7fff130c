//! Which batch may be committed when, what its commit claims, and the replica's word that it is durable.

use super::{Effect, Flight, SourceMachine, Violation};
use crate::wire::{Commit, Durable, Message};

impl SourceMachine {
    pub(super) fn durable(&mut self, durable: Durable) -> Result<(), Violation> {
        if let Some(batch) = durable.batch {
            let is_it = |f: &Flight| f.id == batch && f.committed == Some(durable.upto);
            let at = self.flights.iter().position(is_it);
            match at.filter(|_| self.committed.front() == Some(&batch)) {
                Some(at) => drop((self.flights.remove(at), self.committed.pop_front())),
                None => return Err(Violation("a Durable for what was not committed")),
            }
        }
        if durable.acked > self.cursor
            || durable.applied > self.cursor
            || durable.upto > self.cursor
        {
            return Err(Violation("a Durable beyond what was sent"));
        }
        if !self.late {
            self.stamp = self.stamp.max(durable.stamp);
        }
        self.follows = durable.follows;
        if self.caught_up() && !self.claims {
            // No commit said so: the replica hears of it at once.
            self.next_idle = 0;
        }
        let (acked, applied) = (durable.acked, durable.applied);
        self.effects.push_back(Effect::Acked {
            acked,
            applied,
            durable: durable.upto,
            follows: self.follows,
        });
        Ok(())
    }

    pub(super) fn commit_in_order(&mut self) {
        // Every batch before is committed; every one that does not wait for a limit.
        let (mut all, mut fast) = (true, true);
        for at in 0..self.flights.len() {
            let flight = &self.flights[at];
            if flight.committed.is_some() {
                continue;
            }
            let turn = if flight.ahead { fast } else { all };
            if !turn || !flight.open.is_empty() || flight.awaits_need {
                all = false;
                // One without records only claims what went ahead.
                fast &= flight.slow || flight.records.is_empty();
            } else if flight.ahead {
                self.commit_ahead(at);
            } else {
                self.commit(at);
            }
        }
    }

    /// What overtakes others claims nothing, and what it overtakes is of no single moment any more.
    fn commit_ahead(&mut self, at: usize) {
        for before in self.flights.range_mut(..at) {
            before.at_head = false;
        }
        if let Some(seq) = self.flights[at].given_up {
            // It is read again with its newer version; until then nobody claims it.
            let below = seq.saturating_sub(1);
            if self.fetching.is_some() {
                self.below = Some(self.below.map_or(below, |other| other.min(below)));
            }
            self.ahead = self.ahead.min(below);
            self.cursor = self.cursor.min(below.max(self.claimed));
            for after in self.flights.range_mut(at..).filter(|f| !f.ahead) {
                after.at_head = false;
                after.upto = after.upto.min(below);
            }
        }
        self.send_commit(at, self.claimed, false);
    }

    fn commit(&mut self, at: usize) {
        let flight = &self.flights[at];
        if let Some(seq) = flight.given_up {
            // The number before what was given up; numbers start at 1.
            let below = seq.saturating_sub(1).min(flight.upto);
            self.floor = Some(self.floor.map_or(below, |floor| floor.min(below)));
        }
        let upto = self
            .floor
            .map_or(flight.upto, |floor| floor.min(flight.upto));
        let caught_up = flight.at_head && self.floor.is_none();
        self.claimed = self.claimed.max(upto);
        self.send_commit(at, upto, caught_up);
    }

    fn send_commit(&mut self, at: usize, upto: u64, caught_up: bool) {
        let flight = &mut self.flights[at];
        flight.committed = Some(upto);
        self.claims = caught_up;
        self.committed.push_back(flight.id);
        let commit = Commit {
            batch: flight.id,
            upto,
            caught_up,
            stamp: flight.stamp,
        };
        self.effects
            .push_back(Effect::Send(Message::Commit(commit)));
    }
}
