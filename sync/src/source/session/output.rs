//! What goes to the peer next: messages first, then contents, a step of one lane after the other.

use super::{Session, held};
use crate::engine::SessionError;
use crate::engine::clock;
use crate::engine::shared::Shared;
use crate::engine::stream::Pack;
use crate::entry::{ContentHash, Kind, State};
use crate::source::content::{Content, Step};
use crate::wire::{Item, Message, Record, Want};
use std::sync::atomic::Ordering;

impl Session<'_> {
    pub(super) fn has_output(&self) -> bool {
        let ready = |at| at <= clock::now();
        !self.out.is_empty() || self.lanes.ready_at().is_some_and(ready)
    }

    /// What there is to say, as much of it as goes in one piece. It is small as soon as nothing else is to be said: no
    /// message waits for one that does not exist yet.
    pub(super) fn pack(&mut self) -> Result<Pack, SessionError> {
        let mut pack = Pack::new();
        while !pack.is_due() {
            if let Some(message) = self.output() {
                pack.push(&message)?;
            } else if !self.has_output() {
                // The end of an item may be the end of its batch, and lead to the next one.
                self.effects()?;
                if !self.has_output() {
                    break;
                }
            }
        }
        Ok(pack)
    }

    /// The next message to the peer.
    fn output(&mut self) -> Option<Message> {
        if let Some(message) = self.out.pop_front() {
            return Some(message);
        }
        let now = clock::now();
        let lane = self.lanes.turn(now)?;
        if lane.content.is_none() {
            let (item, want) = lane.next()?;
            lane.content = open(self.shared, self.machine.record(item), item, want);
            if lane.content.is_none() {
                self.machine.sent(item, false);
                return Some(Message::GivenUp(item));
            }
        }
        let content = lane.content.as_mut()?;
        let item = content.item();
        let (message, ended) = match content.step() {
            Step::Send(message) => (message, None),
            Step::Wait | Step::Again => return None,
            Step::Complete(message) => (message, Some(true)),
            Step::GivenUp(message) => (message, Some(false)),
        };
        let done = match &message {
            Message::Data { bytes, .. } => {
                lane.sent(now, bytes.len());
                self.status.bytes += bytes.len() as u64;
                bytes.len() as u64
            }
            Message::Copy { len, .. } | Message::Hole { len, .. } => *len,
            _ => 0,
        };
        if let Some(record) = self.machine.record(item) {
            let mut transfers = held(&self.transfers);
            transfers.content(now, item.batch, record.tree, done);
        }
        if let Some(whole) = ended {
            lane.content = None;
            self.machine.sent(item, whole);
        }
        Some(message)
    }
}

fn open(shared: &Shared, record: Option<&Record>, item: Item, want: Want) -> Option<Content> {
    let record = record?;
    let open = shared.roots.get(record.tree)?;
    // Of a tree that is sent in sets the content as it was then, and of a file that never rests the copy; what did not
    // change since is read where it lies. What is there is proven by the hash of what is read.
    let hash = record.state.as_ref().and_then(|s| s.kind.hash());
    let keeps = open.in_sets || shared.kept.load(Ordering::Acquire) > 0;
    let kept = hash.filter(|_| keeps);
    let kept = kept.and_then(|hash| crate::set::open(&open.private, *hash));
    let file = match kept {
        Some(file) => file,
        None => open.root.open_regular(&record.path)?,
    };
    let known = match (&want, &record.state) {
        (Want::Behind { size, hash }, Some(state)) => hash_of(state).is_some_and(|new| {
            let (tree, path, old) = (record.tree, &record.path, (*size, *hash));
            shared.tails.begins(tree, path, old, new)
        }),
        _ => false,
    };
    let chunks = hash.and_then(|hash| shared.chunks.of(hash));
    Content::new(item, record, file, want, known, chunks)
}

fn hash_of(state: &State) -> Option<(u64, ContentHash)> {
    match state.kind {
        Kind::File { size, hash } => Some((size, hash)),
        _ => None,
    }
}
