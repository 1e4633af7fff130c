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
use crate::path::{MAX_PATH, RelPath};
use crate::tree::TreeId;
use crate::wire::{
    Batch, ChunkSums, Idle, Item, LIST_BYTES, MAX_PATHS, MAX_SUMS, Message, Need, Record, WINDOW,
    Want,
};
use rename::Renaming;
use std::collections::{BTreeSet, VecDeque};

mod commits;
mod effect;
mod rename;
pub use effect::{Effect, Fetched, Reads, Violation};

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

#[derive(Debug)]
struct Flight {
    id: u64,
    records: Vec<Record>,
    upto: u64,
    /// With it the replica has all that is known here, and all that lies here was known.
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
    /// The last commit claimed that all is sent, or an `Idle` behind it did.
    claims: bool,
    stamp: u64,
    /// Stamps are not taken.
    late: bool,
    /// As the replica said last; see [`Durable::follows`].
    follows: bool,
    next_idle: u64,
    /// A rename that is to be sent, or was.
    renaming: Option<Renaming>,
    effects: VecDeque<Effect>,
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
            claims: false,
            stamp,
            late: false,
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
        if !scanned {
            // What they were read from is doubted.
            for flight in &mut self.flights {
                flight.at_head = false;
            }
        }
        self.scanned = scanned;
    }

    /// Whether a change was noticed some time ago of which the index does not know yet. While one was, what is sent makes the replica
    /// no fresher than it was: its new stamps are not repeated to it.
    pub fn late(&mut self, late: bool) {
        self.late = late;
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
            if fetched.records.is_empty() && fetched.withheld.is_empty() {
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
            // What a scan finds later is not in it, also if the scan is over when it is committed.
            at_head: fetched.at_head && self.scanned,
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
            withheld: fetched.withheld,
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
                self.claims = true;
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
