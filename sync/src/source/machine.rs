//! What the source says next. Pure: messages and results in, effects out; no clock but the one it is told.
//!
//! ```text
//!   head moved ──> Fetch ──> fetched ──> Batch ──┬─ inline files ────────────> all items ended ──> Commit ──> Durable
//!                                                └─ Need ──> wanted files ──┘     (in order)
//! ```
//! A batch holds records of trees with a limit or of trees without, never of both. While one with a limit waits for its
//! turn, what lies behind it of the other trees is sent *ahead*: it is committed out of order and claims no number. The
//! batch that waits, and those that follow it, claim those numbers when they are committed.
//!
//! At most [`WINDOW`] batches are open. An item that cannot be sent (it changed while it was read) is given up: no commit
//! claims its number or a later one until its newer version has come by; see `floor`.

use crate::delta;
use crate::engine::moving::MoveOrder;
use crate::path::{MAX_PATH, RelPath};
use crate::tree::TreeId;
use crate::wire::{
    Batch, ChunkSums, Commit, Durable, Idle, Item, LIST_BYTES, MAX_PATHS, MAX_SUMS, Message, Move,
    Need, Record, Total, WINDOW, Want,
};
use std::collections::{BTreeSet, VecDeque};
use thiserror::Error;

/// What the paths that the replica has asked for and not yet got may weigh together. It asks for a list at a time, of at most
/// [`MAX_PATHS`] that is closed at [`LIST_BYTES`], and waits.
const MAX_ASKED: usize = 4 * (2 * LIST_BYTES + MAX_PATH);
/// Most chunk sums of the old versions of a batch's files, 2 MiB: they wait here until their file's turn. What fits in a batch
/// needs a few thousand, and [`MAX_SUMS`] for one that is huge.
const MAX_BATCH_SUMS: usize = 4 * MAX_SUMS;
/// Time between two `Idle` (nanoseconds): rule R3 counts in many times this.
pub const IDLE_EVERY: u64 = 1_000_000_000;

/// Of which at most so many may be in order while one waits for its limit: the others are for what overtakes them.
const SLOW_WINDOW: usize = 2;

/// What a path weighs that waits for its answer: its bytes, and so much for itself that many short ones weigh as much as few
/// long ones.
pub fn weight(path: &RelPath) -> usize {
    path.as_bytes().len() + LIST_BYTES / MAX_PATHS
}

/// The replica broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Violation(pub &'static str);

/// What the session has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Read these records and call [`SourceMachine::fetched`].
    Fetch(Reads),
    /// Remember these paths for [`Reads::Asked`].
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
        /// Number of what could not be sent.
        seq: u64,
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
        /// See [`Durable::follows`].
        follows: bool,
    },
}

/// What to read from the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// The next records.
    Next {
        /// Exclusive.
        after: u64,
        /// Those of trees without a limit are sent up to here.
        ahead: u64,
        /// Not past `ahead`: what follows there is to overtake what is read now.
        only_behind: bool,
    },
    /// The next records of trees without a limit.
    Ahead {
        /// Exclusive.
        after: u64,
    },
    /// Paths that the replica asked for.
    Asked,
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
    /// Overtakes batches of trees with a limit, and claims nothing.
    ahead: bool,
    /// Of a tree with a limit.
    slow: bool,
    stamp: u64,
    /// Items whose content is to be sent.
    open: BTreeSet<u32>,
    /// The replica has not said yet all that it needs.
    awaits_need: bool,
    /// Chunk sums that the replica has sent.
    sums: usize,
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
    /// Trees with a limit.
    limited: BTreeSet<TreeId>,
    /// Of the other trees everything up to here has been put into batches, if it is more than `cursor`.
    ahead: u64,
    /// What was given up ahead while records were being read: these were read as if it were sent, so neither `cursor` nor
    /// `ahead` nor a claim of theirs goes past this number.
    below: Option<u64>,
    /// What the last commit claimed.
    claimed: u64,
    /// Batches that are committed and not durable, in the order of their commits.
    committed: VecDeque<u64>,
    fetching: Option<Reads>,
    /// The last fetch was one ahead: it is the others' turn.
    was_ahead: bool,
    /// Weight of the paths asked for by the replica, not yet fetched.
    asked: usize,
    /// Something was given up: nothing after this number is claimed. No fetch until all batches are through, then it
    /// goes on from here.
    floor: Option<u64>,
    examining: usize,
    /// The index knows everything that lies in the trees.
    scanned: bool,
    stamp: u64,
    /// As the replica said last; see [`Durable::follows`].
    follows: bool,
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
            limited: BTreeSet::new(),
            ahead: from,
            below: None,
            claimed: from,
            committed: VecDeque::new(),
            fetching: None,
            was_ahead: false,
            asked: 0,
            floor: None,
            examining: 0,
            scanned: false,
            stamp,
            follows: false,
            next_idle: now,
            renaming: None,
            effects: VecDeque::new(),
        };
        machine.pump();
        machine
    }

    /// These trees have a limit. To be said before anything is fetched.
    pub fn with_limits(mut self, limited: BTreeSet<TreeId>) -> Self {
        self.limited = limited;
        self
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

    /// The records of a batch in flight.
    pub fn records(&self, batch: u64) -> Option<&[Record]> {
        let flight = self.flights.iter().find(|f| f.id == batch)?;
        Some(&flight.records)
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

    /// The answer to `Fetch`. `settled` is the weight of the asked paths that it settles.
    pub fn fetched(&mut self, mut fetched: Fetched, settled: Option<usize>) {
        let reads = self.fetching.take();
        self.asked = self.asked.saturating_sub(settled.unwrap_or(0));
        self.head = self.head.max(fetched.upto);
        if let Some(below) = self.below.take() {
            fetched.upto = fetched.upto.min(below);
            fetched.at_head = false;
        }
        self.was_ahead = matches!(reads, Some(Reads::Ahead { .. }));
        if self.was_ahead {
            self.ahead = self.ahead.max(fetched.upto);
            if fetched.records.is_empty() {
                return self.pump();
            }
        } else {
            self.cursor = self.cursor.max(fetched.upto);
        }
        let inline = |r: &Record| r.inline;
        let offers = fetched.records.iter().any(|r| !r.inline && is_file(r));
        let slow = fetched
            .records
            .iter()
            .any(|r| self.limited.contains(&r.tree));
        let asked = settled.is_some();
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
            ahead: self.was_ahead || (asked && !slow && self.slow_waits()),
            slow,
            stamp: self.stamp,
            open,
            awaits_need: offers,
            sums: 0,
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
                follows: self.follows,
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
                seq: record.seq,
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
                self.asked += paths.iter().map(weight).sum::<usize>();
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
            } else if self.slow_waits() {
                // For longer than a replica bears silence, perhaps.
                self.effects.push_back(Effect::Send(Message::Wait));
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
            if let Want::Against(sums) = &want {
                // Offered, so the record is there.
                let size = flight.records[index as usize].size();
                flight.sums += sums.sums.len();
                if size < delta::SMALLEST || !fit(sums, size) || flight.sums > MAX_BATCH_SUMS {
                    return Err(Violation("more sums than a batch can need"));
                }
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
        self.stamp = self.stamp.max(durable.stamp);
        self.follows = durable.follows;
        let (acked, applied) = (durable.acked, durable.applied);
        self.effects.push_back(Effect::Acked {
            acked,
            applied,
            durable: durable.upto,
            follows: self.follows,
        });
        Ok(())
    }

    fn pump(&mut self) {
        self.commit_in_order();
        if !self.pump_rename() {
            return;
        }
        if self.flights.iter().all(|f| f.ahead)
            && self.examining == 0
            && self.fetching.is_none()
            && let Some(floor) = self.floor.take()
        {
            self.cursor = floor;
            // What was given up may be of a tree without a limit: what is read next must not pass it over as sent ahead.
            self.ahead = self.ahead.min(floor);
        }
        if self.flights.len() < WINDOW
            && self.fetching.is_none()
            && let Some(reads) = self.next_reads()
        {
            self.fetching = Some(reads);
            self.effects.push_back(Effect::Fetch(reads));
        }
    }

    /// A batch of a tree with a limit is not committed.
    fn slow_waits(&self) -> bool {
        let waits = |f: &Flight| f.slow && f.committed.is_none();
        self.flights.iter().any(waits)
    }

    fn next_reads(&self) -> Option<Reads> {
        let waits = self.slow_waits();
        if self.asked > 0 && (self.floor.is_none() || waits) {
            return Some(Reads::Asked);
        }
        let after = self.cursor.max(self.ahead);
        let ahead = (waits && self.head > after).then_some(Reads::Ahead { after });
        let behind = self.flights.iter().filter(|f| !f.ahead).count();
        let next = match waits {
            true => self.cursor < self.ahead && behind < SLOW_WINDOW,
            false => self.cursor < self.head,
        };
        let next = (next && self.floor.is_none()).then_some(Reads::Next {
            after: self.cursor,
            ahead: after,
            only_behind: waits,
        });
        match self.was_ahead {
            true => next.or(ahead),
            false => ahead.or(next),
        }
    }

    fn commit_in_order(&mut self) {
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
        let caught_up = self.scanned && flight.at_head && self.floor.is_none();
        self.claimed = self.claimed.max(upto);
        self.send_commit(at, upto, caught_up);
    }

    fn send_commit(&mut self, at: usize, upto: u64, caught_up: bool) {
        let flight = &mut self.flights[at];
        flight.committed = Some(upto);
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

/// Whether a replica can have a basis with these sums for a file of this size. The chunk is its choice, and is read into memory
/// here.
fn fit(sums: &ChunkSums, size: u64) -> bool {
    // What lies farther behind is of no use, see `replica::basis`.
    let most = size.saturating_add(delta::SLACK);
    sums.size <= most && delta::chunk_size(most).is_none_or(|chunk| sums.chunk <= chunk)
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
