//! Sending the content of one file, piece by piece: as it is, or by its differences to the replica's basis.
//!
//! What is sent is what the record announces: the bytes are hashed while they are read, and when the hash of the
//! announced number of bytes is not the announced one the item is given up instead of completed. A file that only grew
//! meanwhile is sent as the prefix that was announced. Of a content whose chunks are known only those are read that the
//! replica has not, and each is compared with its hash.

use crate::chunks::Chunks;
use crate::delta::{self, Judge, Piece};
use crate::digest::ContentHasher;
use crate::entry::{ContentHash, Kind};
use crate::holes::{self, Map, Run};
use crate::wire::{ChunkSums, Item, MAX_DATA, MAX_HOLE, Message, Record, Want};
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

mod known;

/// Above this chunk size (files of more than 2 TiB) the file is sent whole: one chunk is held in memory.
const LARGEST_CHUNK: u32 = 64 << 20;
/// Bytes that are read without anything to send before the session looks at what else there is.
const QUIET: u64 = 64 << 20;

/// From this size on the replica is told how much room is needed: a smaller file that has none is no loss.
const ROOM_FROM: u64 = 1 << 20;

/// What to do next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Send this; more follows.
    Send(Message),
    /// Send this, it is the last: complete.
    Complete(Message),
    /// Send this, it is the last: given up.
    GivenUp(Message),
    /// Wait for the replica's `Sums`.
    Wait,
    /// Nothing to send yet; call again.
    Again,
}

enum How {
    Whole,
    Against(Box<Against>),
    /// Behind so many bytes, which the replica says have this hash. They are read up to here to see whether they have.
    Behind(u64, ContentHash),
}

struct Against {
    sums: ChunkSums,
    /// The chunks of what is sent, cut as those of the basis.
    chunks: Option<Arc<Chunks>>,
    judge: Judge,
    /// A window that waits for the signature of its part of the basis.
    window: Option<Window>,
    /// A copy that the next chunk may continue.
    copy: Option<(u64, u64)>,
}

struct Window {
    at: u64,
    new: Vec<u8>,
    from: u64,
    len: u64,
    asked: bool,
}

/// A file on its way.
pub(crate) struct Content {
    item: Item,
    file: File,
    map: Map,
    size: u64,
    hash: ContentHash,
    hasher: ContentHasher,
    at: u64,
    how: How,
    queue: VecDeque<Message>,
    failed: bool,
    ended: bool,
    /// All of it passes the hasher.
    hashed: bool,
}

impl Content {
    /// For a file record; `None` for anything else. `known`: it begins with the content behind which it is wanted. `chunks`: what
    /// the announced content is made of.
    pub fn new(
        item: Item,
        record: &Record,
        file: File,
        want: Want,
        known: bool,
        chunks: Option<Arc<Chunks>>,
    ) -> Option<Self> {
        let Kind::File { size, hash } = record.state.as_ref()?.kind else {
            return None;
        };
        let behind = match &want {
            Want::Behind { size: old, hash } if *old < size => Some((*old, *hash)),
            _ => None,
        };
        let mut all_hashed = true;
        let how = match want {
            Want::Whole => How::Whole,
            Want::Against(sums) if sums.chunk <= LARGEST_CHUNK => How::Against(Box::new(Against {
                chunks: chunks
                    .filter(|chunks| (chunks.size, chunks.chunk) == (size, sums.chunk))
                    .inspect(|_| all_hashed = false),
                sums,
                judge: Judge::default(),
                window: None,
                copy: None,
            })),
            Want::Against(_) => How::Whole,
            Want::Behind { .. } => match behind.filter(|_| !known) {
                Some((old, hash)) => How::Behind(old, hash),
                None => How::Whole,
            },
        };
        let hasher = ContentHasher::new();
        let mut queue = VecDeque::new();
        if size >= ROOM_FROM {
            let bytes = holes::room(&file, size);
            queue.push_back(Message::Room { item, bytes });
        }
        // The beginning is not read. What is sent is checked by the replica, which can hash all of it.
        let at = behind.filter(|_| known).map_or(0, |(old, _)| old);
        if at > 0 {
            queue.push_back(beginning(item, at));
        }
        Some(Content {
            item,
            map: Map::of(&file),
            file,
            size,
            hash,
            hasher,
            at,
            how,
            queue,
            failed: false,
            ended: false,
            hashed: all_hashed && at == 0,
        })
    }

    /// The item.
    pub fn item(&self) -> Item {
        self.item
    }

    /// It waits for the replica's `Sums`.
    pub fn waits(&self) -> bool {
        let asked =
            matches!(&self.how, How::Against(a) if a.window.as_ref().is_some_and(|w| w.asked));
        asked && self.queue.is_empty() && !self.failed
    }

    /// The next step. Reads the file.
    pub fn step(&mut self) -> Step {
        let quiet_until = self.at.saturating_add(QUIET);
        loop {
            if self.at >= quiet_until && self.queue.is_empty() && !self.failed && !self.ended {
                return Step::Again;
            }
            if self.failed {
                return Step::GivenUp(Message::GivenUp(self.item));
            }
            if let Some(message) = self.queue.pop_front() {
                return Step::Send(message);
            }
            if self.ended {
                return Step::Complete(self.data(Vec::new(), true));
            }
            match &mut self.how {
                How::Whole => {
                    if let Some(step) = self.whole() {
                        return step;
                    }
                }
                How::Against(against) => match &mut against.window {
                    Some(window) if window.asked => return Step::Wait,
                    Some(window) => {
                        window.asked = true;
                        return Step::Send(Message::SumsOf {
                            item: self.item,
                            from: window.from,
                            len: window.len,
                        });
                    }
                    None => self.chunk(),
                },
                How::Behind(old, hash) => {
                    let (old, hash) = (*old, *hash);
                    self.find_beginning(old, hash);
                }
            }
        }
    }

    /// Reads the content behind which this one is wanted, to see whether it begins with that.
    fn find_beginning(&mut self, old: u64, hash: ContentHash) {
        if self.at < old {
            // What is read is only hashed.
            let _ = self.read((old - self.at).min(MAX_DATA as u64));
            return;
        }
        match self.hasher.finish() == hash {
            true => self.queue.push_back(beginning(self.item, old)),
            false => {
                self.at = 0;
                self.hasher = ContentHasher::new();
            }
        }
        self.how = How::Whole;
    }

    fn data(&self, bytes: Vec<u8>, last: bool) -> Message {
        Message::Data {
            item: self.item,
            bytes: bytes.into(),
            last,
        }
    }

    /// Reads exactly `length` bytes at the current place and hashes them; `None` when the file is shorter now.
    fn read(&mut self, length: u64) -> Option<Vec<u8>> {
        // At most a chunk: LARGEST_CHUNK or MAX_DATA.
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        if self.file.read_exact_at(&mut bytes, self.at).is_err() {
            self.failed = true;
            return None;
        }
        if self.hashed {
            self.hasher.update(&bytes);
        }
        self.at += length;
        Some(bytes)
    }

    fn whole(&mut self) -> Option<Step> {
        let message = match self.map.run(&self.file, self.at, self.size) {
            Run::Hole(length) => self.hole(length.min(MAX_HOLE)),
            Run::Data(length) => {
                let bytes = self.read(length.min(MAX_DATA as u64))?;
                self.data(bytes, self.at == self.size)
            }
        };
        if self.at < self.size {
            return Some(Step::Send(message));
        }
        self.is_as_announced().then_some(Step::Complete(message))
    }

    /// The next bytes are zeros that lie on no disk.
    fn hole(&mut self, len: u64) -> Message {
        if self.hashed {
            self.hasher.zeros(len);
        }
        self.at += len;
        Message::Hole {
            item: self.item,
            len,
            last: self.at == self.size,
        }
    }

    fn is_as_announced(&mut self) -> bool {
        let good = !self.hashed || self.hasher.finish() == self.hash;
        self.failed = !good;
        good
    }

    /// These bytes are those of the basis at the same place.
    fn same(&mut self, at: u64, len: u64) {
        let How::Against(against) = &mut self.how else {
            return;
        };
        against.copy = Some(match against.copy {
            Some((from, before)) if from + before == at => (from, before + len),
            Some((from, before)) => {
                self.queue.push_back(Message::Copy {
                    item: self.item,
                    from,
                    len: before,
                    last: false,
                });
                (at, len)
            }
            None => (at, len),
        });
    }

    /// The next aligned chunk of the new content.
    fn chunk(&mut self) {
        let How::Against(against) = &mut self.how else {
            return;
        };
        if self.at >= self.size {
            self.end_copy();
            self.ended = self.is_as_announced();
            return;
        }
        let (chunk, at) = (u64::from(against.sums.chunk), self.at);
        if let Some(len) = whole_hole(&mut self.map, &self.file, (at, self.size), chunk) {
            self.chunks_of_hole(at, len);
            return;
        }
        if let Some(len) = self.known_same() {
            self.at += len;
            self.same(at, len);
            return;
        }
        // A window that was cut may have left the place between two chunks.
        let to_border = chunk - at % chunk;
        let Some(new) = self.read_chunk(to_border.min(self.size - at)) else {
            return;
        };
        let How::Against(against) = &mut self.how else {
            return;
        };
        if against.chunks.is_none() && against.sums.same_at(at, &new) {
            self.same(at, new.len() as u64);
            return;
        }
        let (from, len) = delta::window_of_basis(at, new.len() as u64, against.sums.size);
        let pays = against.judge.pays();
        self.end_copy();
        if !pays || len == 0 || len > delta::MAX_BASIS {
            self.literal(at, &new);
            return;
        }
        let new = self.widen(new);
        let How::Against(against) = &mut self.how else {
            return;
        };
        let (from, len) = match delta::window_of_basis(at, new.len() as u64, against.sums.size) {
            (_, 0) => (from, len),
            window => window,
        };
        against.window = Some(Window {
            at,
            new,
            from,
            len,
            asked: false,
        });
    }

    fn chunks_of_hole(&mut self, at: u64, len: u64) {
        if !self.may_be_hole(at, len) {
            self.failed = true;
            return;
        }
        self.end_copy();
        let mut hole = self.hole(len);
        if let Message::Hole { last, .. } = &mut hole {
            // An empty `Data` ends what comes by differences.
            *last = false;
        }
        self.queue.push_back(hole);
    }

    /// Takes further chunks into a window, so that fewer questions are asked. Content that moved differs in all
    /// following chunks.
    fn widen(&mut self, mut new: Vec<u8>) -> Vec<u8> {
        let How::Against(against) = &self.how else {
            return new;
        };
        let chunk = u64::from(against.sums.chunk);
        while new.len() as u64 + chunk <= delta::WINDOW as u64
            && self.at < self.size
            && !self.failed
        {
            let at = self.at;
            let hole = whole_hole(&mut self.map, &self.file, (at, self.size), chunk);
            if hole.is_some() || self.known_same().is_some() {
                break;
            }
            let Some(next) = self.read_chunk(chunk.min(self.size - at)) else {
                break;
            };
            let How::Against(against) = &self.how else {
                break;
            };
            let same = against.chunks.is_none() && against.sums.same_at(at, &next);
            new.extend_from_slice(&next);
            if same {
                break;
            }
        }
        new
    }

    /// A copy that nothing continues is sent.
    fn end_copy(&mut self) {
        let How::Against(against) = &mut self.how else {
            return;
        };
        if let Some((from, len)) = against.copy.take() {
            self.queue.push_back(Message::Copy {
                item: self.item,
                from,
                len,
                last: false,
            });
        }
    }

    /// The bytes that were read at `at`. Holes stay holes.
    fn literal(&mut self, mut at: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let end = at + bytes.len() as u64;
            let run = self.map.run(&self.file, at, end);
            // No longer than the bytes.
            let (Run::Hole(len) | Run::Data(len)) = run;
            let (now, rest) = bytes.split_at(len as usize);
            let hole = matches!(run, Run::Hole(len) if len <= MAX_HOLE);
            // What is no hole any more was one after it was read.
            match hole && now.iter().all(|byte| *byte == 0) {
                true => self.queue.push_back(Message::Hole {
                    item: self.item,
                    len,
                    last: false,
                }),
                false => {
                    for part in now.chunks(MAX_DATA) {
                        let message = self.data(part.to_vec(), false);
                        self.queue.push_back(message);
                    }
                }
            }
            (at, bytes) = (at + len, rest);
        }
    }

    /// The replica's answer to `SumsOf`. False when nothing like that was asked. `now` (nanoseconds) measures what the
    /// comparison costs.
    pub fn sums(&mut self, from: u64, signature: &[u8], now: impl Fn() -> u64) -> bool {
        let How::Against(against) = &mut self.how else {
            return false;
        };
        let Some(window) = against.window.take_if(|w| w.asked && w.from == from) else {
            return false;
        };
        let begun = now();
        let pieces = delta::diff(signature, window.from, window.len, &window.new);
        let pieces = pieces.unwrap_or_else(|_| vec![Piece::Literal(0..window.new.len())]);
        let matched = pieces
            .iter()
            .map(|p| {
                if let Piece::Copy { len, .. } = p {
                    *len
                } else {
                    0
                }
            })
            .sum();
        against.judge.note(
            window.new.len() as u64,
            matched,
            now().saturating_sub(begun),
        );
        for piece in pieces {
            match piece {
                // Only a strange signature makes one of no bytes.
                Piece::Copy { len: 0, .. } => {}
                Piece::Copy { from, len } => {
                    self.queue.push_back(Message::Copy {
                        item: self.item,
                        from,
                        len,
                        last: false,
                    });
                }
                Piece::Literal(range) => {
                    self.literal(window.at + range.start as u64, &window.new[range]);
                }
            }
        }
        true
    }
}

/// So much of the new content is what lies at the replica.
fn beginning(item: Item, len: u64) -> Message {
    Message::Copy {
        item,
        from: 0,
        len,
        last: false,
    }
}

/// The length of a hole at `at` that ends at the border of a chunk or with the file: what is compared are whole chunks.
fn whole_hole(map: &mut Map, file: &File, (at, size): (u64, u64), chunk: u64) -> Option<u64> {
    let Run::Hole(length) = map.run(file, at, size) else {
        return None;
    };
    let end = at + length.min(MAX_HOLE);
    let end = match end == size {
        true => end,
        false => end - end % chunk,
    };
    (end > at).then(|| end - at)
}

#[cfg(test)]
mod tests;
