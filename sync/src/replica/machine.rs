//! What the replica does with what it hears. Pure: messages and results in, effects out.
//!
//! ```text
//!   Batch ──> Lookup ──> looked_up ──> Need ──> Data, Copy ... every item ended ──> Commit ──> Apply ──> applied ──> Durable
//! ```
//! Batches are applied in the order of their commits: the source has some overtake others. Every number is checked before it is used: what a source may
//! not say at a point ends the session.

use crate::source::machine::Violation;
use crate::wire::{
    Batch, Commit, Durable, Idle, Item, LIST_BYTES, MAX_QUESTIONS, Message, Move, Need, Record,
    Total, VerifyAnswer, VerifyPart, WINDOW, Want, Withheld,
};
use bytes::Bytes;
use std::collections::VecDeque;

/// What the session has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Find out which offered files of the batch are here, and call [`ReplicaMachine::looked_up`].
    Lookup {
        /// Batch.
        batch: u64,
    },
    /// Send this.
    Send(Message),
    /// Append these bytes to the item's staged file; with `last` check and close it. A failure is told by
    /// [`ReplicaMachine::failed`].
    Write {
        /// Item.
        item: Item,
        /// Bytes.
        bytes: Bytes,
        /// Nothing follows.
        last: bool,
    },
    /// Append these bytes of the basis.
    Copy {
        /// Item.
        item: Item,
        /// Offset in the basis.
        from: u64,
        /// Bytes.
        len: u64,
        /// Nothing follows.
        last: bool,
    },
    /// See that there is room for the item before the first of it comes.
    Room {
        /// Item.
        item: Item,
        /// Bytes on the disk.
        bytes: u64,
    },
    /// Append zeros that lie on no disk.
    Hole {
        /// Item.
        item: Item,
        /// Zeros.
        len: u64,
        /// Nothing follows.
        last: bool,
    },
    /// Answer with the signature of this part of the item's basis.
    Signature {
        /// Item.
        item: Item,
        /// Offset in the basis.
        from: u64,
        /// Bytes.
        len: u64,
    },
    /// The source gave the item up: forget what is staged of it.
    Discard {
        /// Item.
        item: Item,
    },
    /// Hand the batch to the worker and call [`ReplicaMachine::applied`] when it is durable.
    Apply(Ready),
    /// "Durable up to here": note how fresh the data are.
    Fresh(Idle),
    /// Have the worker carry out a rename, and call [`ReplicaMachine::moved`].
    Move(Move),
    /// Compare this part with what lies here.
    Verify(VerifyPart),
}

/// A batch whose items have all ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// What the source said.
    pub commit: Commit,
    /// The records in the order of the batch.
    pub records: Vec<Record>,
    /// How much the source has.
    pub totals: Vec<Total>,
    /// What it does not send before what comes behind it.
    pub withheld: Vec<Withheld>,
    /// Items that the source gave up: not to be applied, a newer version follows.
    pub given_up: Vec<u32>,
    /// Items whose content did not arrive as announced: not to be applied, to be asked for again.
    pub failed: Vec<u32>,
}

/// An item's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// No file, or the content is here already.
    None,
    /// Offered, not looked up yet.
    Offered,
    /// Comes; this many bytes have come.
    Coming {
        received: u64,
        size: u64,
        since: Since,
    },
    /// Complete.
    Complete,
    /// Given up by the source.
    GivenUp,
    /// Not usable.
    Failed,
}

/// What the source said of a content since its last bytes. Each of these costs work here: without bytes between them they
/// would go on without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    /// Nothing.
    Bytes,
    /// How much room it takes.
    Room,
    /// A question for a part of the basis.
    Question,
}

impl Content {
    /// Of a content of which nothing has come.
    fn coming(size: u64) -> Content {
        Content::Coming {
            received: 0,
            size,
            since: Since::Bytes,
        }
    }
}

#[derive(Debug)]
struct Open {
    id: u64,
    records: Vec<Record>,
    totals: Vec<Total>,
    withheld: Vec<Withheld>,
    contents: Vec<Content>,
    looked_up: bool,
}

/// The replica's side of a session, after its `Accept`.
#[derive(Debug)]
pub struct ReplicaMachine {
    /// Highest number that the source may say.
    highest: u64,
    open: VecDeque<Open>,
    /// Batches handed to the worker: their commits, oldest first.
    applying: VecDeque<Commit>,
    last_id: u64,
    /// A rename is being carried out.
    moving: bool,
    /// Parts that are being compared.
    questions: usize,
    effects: VecDeque<Effect>,
}

impl ReplicaMachine {
    /// A machine that has heard nothing, and believes numbers up to `highest`. That stays where it is: were it to follow
    /// what is applied, one session could lead the replica on to the end of all numbers.
    pub fn new(highest: u64) -> Self {
        ReplicaMachine {
            highest,
            open: VecDeque::new(),
            applying: VecDeque::new(),
            last_id: 0,
            moving: false,
            questions: 0,
            effects: VecDeque::new(),
        }
    }

    /// The next thing to do.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Batches that are not durable yet.
    pub fn in_flight(&self) -> usize {
        self.open.len() + self.applying.len()
    }

    /// The batch is not durable yet.
    pub fn is_under_way(&self, batch: u64) -> bool {
        self.open.iter().any(|o| o.id == batch) || self.applying.iter().any(|c| c.batch == batch)
    }

    /// The records of an open batch.
    pub fn records(&self, batch: u64) -> Option<&[Record]> {
        self.open
            .iter()
            .find(|o| o.id == batch)
            .map(|o| &o.records[..])
    }

    /// A message from the source.
    ///
    /// # Errors
    /// Whatever a source never says at this point; the session ends.
    pub fn received(&mut self, message: Message) -> Result<(), Violation> {
        if highest_in(&message).is_some_and(|seq| seq > self.highest) {
            return Err(Violation("a sequence number far beyond what is here"));
        }
        match message {
            Message::Batch(batch) => self.batch(batch),
            Message::Data { item, bytes, last } => {
                self.content(item, bytes.len() as u64, last)?;
                self.effects.push_back(Effect::Write { item, bytes, last });
                Ok(())
            }
            Message::Copy {
                item,
                from,
                len,
                last,
            } => {
                self.content(item, len, last)?;
                self.effects.push_back(Effect::Copy {
                    item,
                    from,
                    len,
                    last,
                });
                Ok(())
            }
            Message::Room { item, bytes } => {
                match self.coming(item)? {
                    Content::Coming {
                        received: 0,
                        size,
                        since: since @ Since::Bytes,
                    } if bytes <= *size => *since = Since::Room,
                    _ => return Err(Violation("room for more than the content, or too late")),
                }
                self.effects.push_back(Effect::Room { item, bytes });
                Ok(())
            }
            Message::Hole { item, len, last } => {
                self.content(item, len, last)?;
                self.effects.push_back(Effect::Hole { item, len, last });
                Ok(())
            }
            Message::SumsOf { item, from, len } => {
                match self.coming(item)? {
                    Content::Coming {
                        since: since @ (Since::Bytes | Since::Room),
                        ..
                    } => *since = Since::Question,
                    _ => return Err(Violation("a further question before the bytes of the last")),
                }
                self.effects
                    .push_back(Effect::Signature { item, from, len });
                Ok(())
            }
            Message::GivenUp(item) => {
                *self.coming(item)? = Content::GivenUp;
                self.effects.push_back(Effect::Discard { item });
                Ok(())
            }
            Message::Commit(commit) => self.commit(commit),
            // It waits for a limit of its own.
            Message::Wait => Ok(()),
            Message::Idle(idle) => {
                if self.in_flight() > 0 || self.moving {
                    return Err(Violation("an Idle while batches are open"));
                }
                self.effects.push_back(Effect::Fresh(idle));
                Ok(())
            }
            Message::Move(one) => {
                if self.in_flight() > 0 || self.moving {
                    return Err(Violation("a Move while something is under way"));
                }
                self.moving = true;
                self.effects.push_back(Effect::Move(one));
                Ok(())
            }
            Message::Verify(part) => {
                if self.questions >= MAX_QUESTIONS {
                    return Err(Violation("more questions than may wait for answers"));
                }
                self.questions += 1;
                self.effects.push_back(Effect::Verify(part));
                Ok(())
            }
            _ => Err(Violation("a message that a source does not send here")),
        }
    }

    /// The answer to `Lookup`: per offered file that is not here, how it is wanted.
    pub fn looked_up(&mut self, batch: u64, wanted: Vec<(u32, Want)>) {
        let Some(open) = self.open.iter_mut().find(|o| o.id == batch && !o.looked_up) else {
            return;
        };
        open.looked_up = true;
        let offers = open.contents.contains(&Content::Offered);
        for (index, _) in &wanted {
            let at = *index as usize;
            let size = size_of(&open.records[at]);
            open.contents[at] = Content::coming(size);
        }
        for content in &mut open.contents {
            if *content == Content::Offered {
                *content = Content::None;
            }
        }
        if offers {
            self.need(batch, wanted);
        }
    }

    /// In as many messages as it takes: a few large files have more sums than fit in one.
    fn need(&mut self, batch: u64, wanted: Vec<(u32, Want)>) {
        let say = |items, last| Effect::Send(Message::Need(Need { batch, items, last }));
        let mut items = Vec::new();
        let mut bytes = 0;
        for (index, want) in wanted {
            if bytes >= LIST_BYTES {
                self.effects
                    .push_back(say(std::mem::take(&mut items), false));
                bytes = 0;
            }
            bytes += want.bytes();
            items.push((index, want));
        }
        self.effects.push_back(say(items, true));
    }

    /// An item's content cannot be used: it is not what was announced, or could not be written.
    pub fn failed(&mut self, item: Item) {
        if let Some(content) = self.slot(item)
            && *content != Content::GivenUp
        {
            // Further bytes of it are counted and thrown away.
            if *content == Content::Complete {
                *content = Content::Failed;
            }
        }
    }

    /// The oldest batch at the worker is durable. The others as in [`Durable`].
    pub fn applied(&mut self, acked: u64, applied: u64, stamp: u64, follows: bool) {
        let Some(commit) = self.applying.pop_front() else {
            return;
        };
        let durable = Durable {
            upto: commit.upto,
            batch: Some(commit.batch),
            acked,
            applied,
            stamp,
            follows,
        };
        self.effects
            .push_back(Effect::Send(Message::Durable(durable)));
    }

    /// A rename was carried out, or was not.
    pub fn moved(&mut self, seq: u64, done: bool) {
        self.moving = false;
        self.effects
            .push_back(Effect::Send(Message::Moved { seq, done }));
    }

    /// A part was compared.
    pub fn verified(&mut self, answer: VerifyAnswer) {
        self.questions = self.questions.saturating_sub(1);
        self.effects
            .push_back(Effect::Send(Message::Verified(answer)));
    }

    fn batch(&mut self, batch: Batch) -> Result<(), Violation> {
        if batch.id <= self.last_id {
            return Err(Violation("a batch number that does not grow"));
        }
        if self.moving {
            return Err(Violation("a batch while a rename is under way"));
        }
        if self.in_flight() >= WINDOW {
            return Err(Violation("more open batches than the window allows"));
        }
        self.last_id = batch.id;
        let content = |record: &Record| match &record.state {
            Some(state) if state.kind.hash().is_some() && record.inline => {
                Content::coming(state.kind.size())
            }
            Some(state) if state.kind.hash().is_some() => Content::Offered,
            _ => Content::None,
        };
        let contents = batch.records.iter().map(content).collect();
        self.open.push_back(Open {
            id: batch.id,
            records: batch.records,
            totals: batch.totals,
            withheld: batch.withheld,
            contents,
            looked_up: false,
        });
        self.effects.push_back(Effect::Lookup { batch: batch.id });
        Ok(())
    }

    fn slot(&mut self, item: Item) -> Option<&mut Content> {
        let open = self.open.iter_mut().find(|o| o.id == item.batch)?;
        open.contents.get_mut(item.index as usize)
    }

    fn coming(&mut self, item: Item) -> Result<&mut Content, Violation> {
        match self.slot(item) {
            Some(content @ Content::Coming { .. }) => Ok(content),
            _ => Err(Violation("content that was not asked for")),
        }
    }

    fn content(&mut self, item: Item, len: u64, last: bool) -> Result<(), Violation> {
        if len == 0 && !last {
            return Err(Violation("content of no bytes that ends nothing"));
        }
        let content = self.coming(item)?;
        if let Content::Coming {
            received,
            size,
            since,
        } = content
        {
            *since = Since::Bytes;
            let after = received.checked_add(len).filter(|n| *n <= *size);
            *received = after.ok_or(Violation("more content than was announced"))?;
            if last && *received != *size {
                return Err(Violation("less content than was announced"));
            }
        }
        if last {
            *content = Content::Complete;
        }
        Ok(())
    }

    fn commit(&mut self, commit: Commit) -> Result<(), Violation> {
        let is_it = |o: &Open| o.id == commit.batch && o.looked_up;
        let Some(at) = self.open.iter().position(is_it) else {
            return Err(Violation("a Commit for what is not open"));
        };
        let open = &self.open[at];
        if open
            .contents
            .iter()
            .any(|c| matches!(c, Content::Coming { .. }))
        {
            return Err(Violation("a Commit before all content has come"));
        }
        let Some(open) = self.open.remove(at) else {
            return Ok(());
        };
        let which = |wanted: Content| {
            let numbered = open
                .contents
                .iter()
                .enumerate()
                .filter(move |(_, c)| **c == wanted);
            // A batch has at most MAX_RECORDS records.
            numbered.map(|(i, _)| i as u32).collect::<Vec<u32>>()
        };
        let (given_up, failed) = (which(Content::GivenUp), which(Content::Failed));
        self.applying.push_back(commit);
        self.effects.push_back(Effect::Apply(Ready {
            commit,
            records: open.records,
            totals: open.totals,
            withheld: open.withheld,
            given_up,
            failed,
        }));
        Ok(())
    }
}

/// The highest sequence number that a source's message would have counted on from.
fn highest_in(message: &Message) -> Option<u64> {
    match message {
        Message::Batch(batch) => {
            let sets = batch.totals.iter().filter_map(|total| total.set);
            let records = batch.records.iter().map(|record| record.seq);
            records.chain(sets.map(|set| set.upto)).max()
        }
        Message::Commit(commit) => Some(commit.upto),
        Message::Idle(idle) => Some(idle.upto),
        Message::Move(one) => Some(one.seq),
        _ => None,
    }
}

fn size_of(record: &Record) -> u64 {
    record.state.as_ref().map_or(0, |s| s.kind.size())
}

#[cfg(test)]
mod tests;
