//! What the source says next. Pure: messages and results in, effects out; no clock but the one it is told.
//!
//! ```text
//!   head moved ──> Fetch ──> fetched ──> Batch ──┬─ inline files ────────────> all items ended ──> Commit ──> Durable
//!                                                └─ Need ──> wanted files ──┘     (in order)
//! ```
//! At most [`WINDOW`] batches are open. An item that cannot be sent (it changed while it was read) is given up: no commit
//! claims its number or a later one until its newer version has come by; see `floor`.

use crate::engine::moving::MoveOrder;
use crate::path::RelPath;
use crate::tree::TreeId;
use crate::wire::{
    Batch, Commit, Durable, Idle, Item, MAX_PATHS, Message, Move, Need, Record, Total, WINDOW, Want,
};
use std::collections::{BTreeSet, VecDeque};
use thiserror::Error;

/// Most paths that the replica may have asked for and not yet got. It asks for [`MAX_PATHS`] at a time and waits.
const MAX_ASKED: usize = 4 * MAX_PATHS;
/// Time between two `Idle` (nanoseconds): rule R3 counts in many times this.
pub const IDLE_EVERY: u64 = 1_000_000_000;

/// The replica broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Violation(pub &'static str);

/// What the session has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Read the next records after this number and call [`SourceMachine::fetched`].
    Fetch {
        /// Exclusive.
        after: u64,
    },
    /// Read records of the paths that the replica asked for and call [`SourceMachine::fetched`] with `asked`.
    FetchAsked,
    /// Remember these paths for `FetchAsked`.
    Asked {
        /// Tree.
        tree: TreeId,
        /// Paths.
        paths: Vec<RelPath>,
    },
    /// Send this.
    Send(Message),
    /// Send the content of an item and call [`SourceMachine::sent`].
    SendContent {
        /// Item.
        item: Item,
        /// How the replica wants it.
        want: Want,
    },
    /// Have the worker look at the path again and call [`SourceMachine::examined`].
    Examine {
        /// Tree.
        tree: TreeId,
        /// Path.
        path: RelPath,
    },
    /// The rename was carried out by the replica, or is to be sent as records.
    MoveEnded {
        /// The order.
        order: MoveOrder,
        /// It was.
        done: bool,
    },
    /// The replica holds everything up to here.
    Acked {
        /// Durable, nothing unsettled.
        acked: u64,
        /// Applied as well.
        applied: u64,
        /// The stream up to here is durable, but for what the replica must still settle.
        durable: u64,
    },
}

/// Records read from the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// In the order of the batch.
    pub records: Vec<Record>,
    /// With these records everything up to here has been sent.
    pub upto: u64,
    /// `upto` was the newest number when they were read: the trees at one moment.
    pub at_head: bool,
    /// How much there is.
    pub totals: Vec<Total>,
}

#[derive(Debug)]
struct Flight {
    id: u64,
    records: Vec<Record>,
    upto: u64,
    at_head: bool,
    asked: bool,
    stamp: u64,
    /// Items whose content is to be sent.
    open: BTreeSet<u32>,
    /// The replica has not said yet all that it needs.
    awaits_need: bool,
    /// Lowest number of what was given up.
    given_up: Option<u64>,
    committed: Option<u64>,
}

/// The source's side of a session, after the replica's `Accept`.
#[derive(Debug)]
pub struct SourceMachine {
    flights: VecDeque<Flight>,
    next_id: u64,
    /// Everything up to here has been put into batches.
    cursor: u64,
    /// Newest number of the index, as last heard.
    head: u64,
    fetching: bool,
    /// Paths asked for by the replica, not yet fetched.
    asked: usize,
    /// Something was given up: nothing after this number is claimed. No fetch until all batches are through, then it
    /// goes on from here.
    floor: Option<u64>,
    examining: usize,
    /// The index knows everything that lies in the trees.
    scanned: bool,
    stamp: u64,
    next_idle: u64,
    /// A rename that is to be sent, or was.
    renaming: Option<Renaming>,
    effects: VecDeque<Effect>,
}

/// Where a rename stands.
#[derive(Debug)]
enum Renaming {
    /// Everything before it is sent first.
    Ordered(MoveOrder),
    /// The replica has not answered yet.
    Sent(MoveOrder),
}

impl SourceMachine {
    /// Begins to send what lies after `from`. `stamp` is the one of the `Accept`.
    pub fn new(from: u64, head: u64, stamp: u64, now: u64) -> Self {
        let mut machine = SourceMachine {
            flights: VecDeque::new(),
            next_id: 1,
            cursor: from,
            head,
            fetching: false,
            asked: 0,
            floor: None,
            examining: 0,
            scanned: false,
            stamp,
            next_idle: now,
            renaming: None,
            effects: VecDeque::new(),
        };
        machine.pump();
        machine
    }

    /// The next thing to do.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Everything up to here has been put into batches.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Batches that are not yet durable on the replica.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Everything that is known here is durable on the replica.
    pub fn caught_up(&self) -> bool {
        self.scanned
            && self.renaming.is_none()
            && self.flights.is_empty()
            && self.floor.is_none()
            && self.cursor >= self.head
    }

    /// The record of an item in flight.
    pub fn record(&self, item: Item) -> Option<&Record> {
        let flight = self.flights.iter().find(|f| f.id == item.batch)?;
        flight.records.get(usize::try_from(item.index).ok()?)
    }

    /// Whether a scan is due or under way. While one is, nothing is claimed to be caught up: a first copy whose
    /// source is still being listed is half a copy.
    pub fn scanned(&mut self, scanned: bool) {
        if scanned && !self.scanned {
            // The replica hears of it at once, also when nothing else is to be sent.
            self.next_idle = 0;
        }
        self.scanned = scanned;
    }

    /// The index has a new newest number.
    pub fn head_moved(&mut self, head: u64) {
        self.head = self.head.max(head);
        self.pump();
    }

    /// The answer to `Fetch` or `FetchAsked`. `settled` is how many asked paths it settles.
    pub fn fetched(&mut self, fetched: Fetched, settled: Option<usize>) {
        self.fetching = false;
        let asked = settled.is_some();
        self.asked = self.asked.saturating_sub(settled.unwrap_or(0));
        self.cursor = self.cursor.max(fetched.upto);
        self.head = self.head.max(fetched.upto);
        let inline = |r: &Record| r.inline;
        let offers = fetched.records.iter().any(|r| !r.inline && is_file(r));
        let id = self.next_id;
        self.next_id += 1;
        let open = numbered(&fetched.records)
            .filter(|(_, r)| inline(r))
            .map(|(i, _)| i)
            .collect();
        let flight = Flight {
            id,
            upto: if asked { self.cursor } else { fetched.upto },
            at_head: fetched.at_head,
            asked,
            stamp: self.stamp,
            open,
            awaits_need: offers,
            given_up: None,
            committed: None,
            records: fetched.records,
        };
        self.effects.push_back(Effect::Send(Message::Batch(Batch {
            id,
            records: flight.records.clone(),
            totals: fetched.totals,
        })));
        for &index in &flight.open {
            self.effects.push_back(Effect::SendContent {
                item: Item { batch: id, index },
                want: Want::Whole,
            });
        }
        self.flights.push_back(flight);
        self.pump();
    }

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

    fn moved(&mut self, seq: u64, done: bool) -> Result<(), Violation> {
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
            });
        }
        self.effects.push_back(Effect::MoveEnded { order, done });
        Ok(())
    }

    /// Sends the rename if it is its turn. False: nothing else may be sent now.
    fn pump_rename(&mut self) -> bool {
        let Some(renaming) = self.renaming.take() else {
            return true;
        };
        let Renaming::Ordered(order) = renaming else {
            self.renaming = Some(renaming);
            return false;
        };
        let below = order.seq.saturating_sub(1);
        if self.floor.is_some() || self.examining > 0 || self.cursor > below {
            // Something changed while it was sent, or the session is past it: it is a change like others.
            self.effects
                .push_back(Effect::MoveEnded { order, done: false });
            return true;
        }
        if self.cursor == below && self.flights.is_empty() && !self.fetching && self.asked == 0 {
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

    /// An item's content is sent (`ok`), or could not be and was given up; the session has said so to the replica.
    pub fn sent(&mut self, item: Item, ok: bool) {
        let Some(flight) = self.flights.iter_mut().find(|f| f.id == item.batch) else {
            return;
        };
        if !flight.open.remove(&item.index) {
            return;
        }
        if !ok && let Some(record) = flight.records.get(item.index as usize) {
            // What was asked for again stays unsettled on the replica, which asks again.
            if !flight.asked {
                flight.given_up = Some(
                    flight
                        .given_up
                        .map_or(record.seq, |seq| seq.min(record.seq)),
                );
            }
            self.examining += 1;
            self.effects.push_back(Effect::Examine {
                tree: record.tree,
                path: record.path.clone(),
            });
        }
        self.pump();
    }

    /// One `Examine` is done; what changed has its new number by now.
    pub fn examined(&mut self, head: u64) {
        self.examining = self.examining.saturating_sub(1);
        self.head_moved(head);
    }

    /// A message from the replica.
    ///
    /// # Errors
    /// Whatever a replica never says at this point; the session ends.
    pub fn received(&mut self, message: Message) -> Result<(), Violation> {
        match message {
            Message::Need(need) => self.need(need)?,
            Message::Durable(durable) => self.durable(durable)?,
            Message::Moved { seq, done } => self.moved(seq, done)?,
            Message::Fetch { tree, paths } => {
                self.asked += paths.len();
                if self.asked > MAX_ASKED {
                    return Err(Violation("the replica asks for too many paths at once"));
                }
                self.effects.push_back(Effect::Asked { tree, paths });
            }
            _ => return Err(Violation("a message that a replica does not send here")),
        }
        self.pump();
        Ok(())
    }

    /// Time passes. Returns when to call again.
    pub fn tick(&mut self, now: u64) -> u64 {
        if now >= self.next_idle {
            self.next_idle = now.saturating_add(IDLE_EVERY);
            if self.caught_up() {
                self.effects.push_back(Effect::Send(Message::Idle(Idle {
                    upto: self.cursor,
                    stamp: self.stamp,
                })));
            }
        }
        self.next_idle
    }

    fn need(&mut self, need: Need) -> Result<(), Violation> {
        let Some(flight) = self
            .flights
            .iter_mut()
            .find(|f| f.id == need.batch && f.awaits_need)
        else {
            return Err(Violation("a Need for a batch that offers nothing"));
        };
        for (index, want) in need.items {
            let offered = flight
                .records
                .get(index as usize)
                .is_some_and(|r| !r.inline && is_file(r));
            if !offered || !flight.open.insert(index) {
                return Err(Violation("a Need for what was not offered"));
            }
            self.effects.push_back(Effect::SendContent {
                item: Item {
                    batch: need.batch,
                    index,
                },
                want,
            });
        }
        if need.last {
            flight.awaits_need = false;
        }
        Ok(())
    }

    fn durable(&mut self, durable: Durable) -> Result<(), Violation> {
        if let Some(batch) = durable.batch {
            match self.flights.front() {
                Some(flight) if flight.id == batch && flight.committed == Some(durable.upto) => {
                    self.flights.pop_front();
                }
                _ => return Err(Violation("a Durable for what was not committed")),
            }
        }
        if durable.acked > self.cursor
            || durable.applied > self.cursor
            || durable.upto > self.cursor
        {
            return Err(Violation("a Durable beyond what was sent"));
        }
        self.stamp = self.stamp.max(durable.stamp);
        let (acked, applied) = (durable.acked, durable.applied);
        self.effects.push_back(Effect::Acked {
            acked,
            applied,
            durable: durable.upto,
        });
        Ok(())
    }

    fn pump(&mut self) {
        self.commit_in_order();
        if !self.pump_rename() {
            return;
        }
        if self.flights.is_empty()
            && self.examining == 0
            && !self.fetching
            && let Some(floor) = self.floor.take()
        {
            self.cursor = floor;
        }
        let room = self.flights.len() < WINDOW && !self.fetching && self.floor.is_none();
        if room && self.asked > 0 {
            self.fetching = true;
            self.effects.push_back(Effect::FetchAsked);
        } else if room && self.head > self.cursor {
            self.fetching = true;
            self.effects.push_back(Effect::Fetch { after: self.cursor });
        }
    }

    fn commit_in_order(&mut self) {
        for flight in self.flights.iter_mut().filter(|f| f.committed.is_none()) {
            if !flight.open.is_empty() || flight.awaits_need {
                break;
            }
            if let Some(seq) = flight.given_up {
                // The number before what was given up; numbers start at 1.
                let below = seq.saturating_sub(1).min(flight.upto);
                self.floor = Some(self.floor.map_or(below, |floor| floor.min(below)));
            }
            let upto = self
                .floor
                .map_or(flight.upto, |floor| floor.min(flight.upto));
            flight.committed = Some(upto);
            let caught_up = self.scanned && flight.at_head && self.floor.is_none();
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
}

fn is_file(record: &Record) -> bool {
    record
        .state
        .as_ref()
        .is_some_and(|s| s.kind.hash().is_some())
}

fn numbered(records: &[Record]) -> impl Iterator<Item = (u32, &Record)> {
    // A batch has at most MAX_RECORDS records.
    records.iter().enumerate().map(|(i, r)| (i as u32, r))
}

#[cfg(test)]
mod tests;
