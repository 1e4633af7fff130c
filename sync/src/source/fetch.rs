//! Reading records from the index for the next batch.

use super::again::{self, Again};
use super::machine::{Fetched, Reads, weight};
use super::withheld::Withholding;
use crate::engine::set_key;
use crate::engine::shared::Shared;
use crate::entry::{IndexEntry, Kind};
use crate::index::{Index, IndexError, Located, Snapshot};
use crate::path::RelPath;
use crate::tail::GROWS_FROM;
use crate::tree::TreeId;
use crate::wire::{BATCH_BYTES, INLINE_BATCH_BYTES, INLINE_FILE, Record, Total, entry_bytes};
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

/// Entries read from the index at once.
const ROWS: usize = 2048;
/// Records of one batch; with those that must come early it stays below [`crate::wire::MAX_RECORDS`].
const RECORDS: usize = 2048;
/// Content of a batch, sent or only offered: bounds what is staged before it becomes visible, and what a cut can waste.
const CONTENT: u64 = 64 << 20;

/// A record comes with what must come before it if all of it takes no more than this; else that goes in batches of its own.
const TOGETHER: usize = 1 << 20;
/// Early records that are remembered, about 32 MiB of memory; a path has at most 32768 directories above it. Without the
/// memory, the same ones come again for each file below them.
const EARLY: usize = 1 << 20;

/// A part of the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// Where it begins, exclusive.
    pub after: u64,
    /// Where it ends at the latest.
    pub upto: u64,
    /// Trees with a limit are in it.
    pub limited: bool,
    /// The others are only in it behind this number.
    pub ahead: u64,
}

impl Stretch {
    /// `None`: not a part of the sequence.
    pub fn of(reads: Reads) -> Option<Stretch> {
        match reads {
            Reads::Next {
                after,
                ahead,
                only_behind,
            } => Some(Stretch {
                after,
                upto: if only_behind { ahead } else { u64::MAX },
                limited: true,
                ahead,
            }),
            Reads::Ahead { after } => Some(Stretch {
                after,
                upto: u64::MAX,
                limited: false,
                ahead: after,
            }),
            Reads::Asked => None,
        }
    }
}

/// Makes batches for one session.
pub(crate) struct Fetcher {
    /// Per tree: what the replica had when the session began. A tree that is not here is not sent.
    from: BTreeMap<TreeId, u64>,
    /// The lowest of these.
    start: u64,
    /// Trees with a limit: no batch has records of them and of others.
    limited: BTreeSet<TreeId>,
    /// Everything may come inline.
    inline: bool,
    /// What is newer than this comes inline in any case.
    inline_after: u64,
    /// Paths that the replica asked for.
    asked: VecDeque<(TreeId, RelPath)>,
    /// Large files among them.
    again: Again,
    /// What was sent early, in batches of its own: no record that follows needs it again.
    early: HashSet<EarlyKey>,
    /// What is told of files that are not sent now.
    withholding: Withholding,
    shared: Arc<Shared>,
}

/// Path, tree and number, hashed: the paths themselves are long where this is needed.
type EarlyKey = [u8; 16];

fn early_key(row: &Located) -> EarlyKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&row.tree.0);
    hasher.update(&row.entry.seq.to_le_bytes());
    hasher.update(row.path.as_bytes());
    let mut key = EarlyKey::default();
    hasher.finalize_xof().fill(&mut key);
    key
}

#[derive(Default)]
struct Building {
    records: Vec<Record>,
    places: HashSet<(TreeId, RelPath)>,
    bytes: usize,
    inline_bytes: u64,
    content_bytes: u64,
}

impl Building {
    fn fills_other_tree(&self, tree: TreeId) -> bool {
        let mut others = self.records.iter().filter(|r| r.tree != tree);
        others.any(|r| r.state.is_some())
    }

    fn is_full(&self) -> bool {
        self.records.len() >= RECORDS
            || self.bytes >= BATCH_BYTES
            || self.inline_bytes >= INLINE_BATCH_BYTES
            || self.content_bytes >= CONTENT
    }
}

/// Its content costs more than the question for it.
fn is_large(entry: &IndexEntry) -> bool {
    let state = entry.current.as_ref();
    state.is_some_and(|state| state.kind.hash().is_some() && state.kind.size() >= again::FROM)
}

/// What must come before a record.
#[derive(Default)]
struct Needed {
    rows: Vec<Located>,
    /// And more.
    more: bool,
}

/// The directories above a path but the root, from the top.
fn dirs_above(path: &RelPath) -> impl Iterator<Item = RelPath> {
    let bytes = path.as_bytes();
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    // What is left of a slash in a path is a path.
    ends.filter_map(|(end, _)| RelPath::from_bytes(&bytes[..end]).ok())
}

impl Fetcher {
    /// A fetcher for a session. `absent`: trees that the receiver gets and does not take now, with what it has of them.
    pub fn new(
        shared: Arc<Shared>,
        from: BTreeMap<TreeId, u64>,
        absent: BTreeMap<TreeId, u64>,
        limited: BTreeSet<TreeId>,
        inline: bool,
    ) -> Self {
        let start = from.values().copied().min().unwrap_or(u64::MAX);
        Fetcher {
            from,
            start,
            withholding: Withholding::new(absent, start),
            limited,
            inline,
            // Until it is known what is here, what is found was perhaps there before, and the replica may have it.
            inline_after: u64::MAX,
            asked: VecDeque::new(),
            again: Again::default(),
            early: HashSet::new(),
            shared,
        }
    }

    /// The trees are scanned, and what is newer than `head` is new. Counts the first time.
    pub fn scanned(&mut self, head: u64) {
        self.inline_after = self.inline_after.min(head);
    }

    /// The lowest position of all trees: where the stream begins.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Remembers what the replica asked for.
    pub fn ask(&mut self, tree: TreeId, paths: Vec<RelPath>) {
        self.asked
            .extend(paths.into_iter().map(|path| (tree, path)));
    }

    /// The next records of the stream.
    ///
    /// `stop` is the number of a rename, which no batch goes past; 0 for none.
    pub fn stream(
        &mut self,
        index: &Index,
        reads: Stretch,
        stop: u64,
    ) -> Result<Fetched, IndexError> {
        let after = reads.after;
        let snapshot = index.snapshot()?;
        if self.withholding.look_back(&snapshot, self.start, ROWS)? {
            return Ok(self.nothing(after));
        }
        self.withholding.begin(reads.limited);
        let mut rows = snapshot.changes(after, ROWS)?;
        let complete = rows.len() < ROWS;
        let mut head = snapshot.last_seq().min(reads.upto);
        if stop > after {
            head = head.min(stop - 1);
        }
        rows.retain(|row| row.entry.seq <= head);
        let mut batch = Building::default();
        let mut upto = after;
        let mut all = true;
        for row in rows {
            let taken = self
                .from
                .get(&row.tree)
                .is_some_and(|from| row.entry.seq > *from);
            let limited = self.limited.contains(&row.tree);
            let skipped = match reads.limited {
                false => limited,
                true => !limited && row.entry.seq <= reads.ahead,
            };
            if !taken || skipped {
                let overtaken = taken && limited;
                self.withholding.pass(row.tree, &row.entry, overtaken);
                upto = row.entry.seq;
                continue;
            }
            let of_both = |r: &Record| self.limited.contains(&r.tree) != limited;
            // What left one tree for another is there before it leaves: within a batch trees have no order. That it could be put
            // there is the replica's to see (`engine/awaited`).
            let leaves = row.entry.current.is_none() && batch.fills_other_tree(row.tree);
            if batch.is_full() || leaves || batch.records.first().is_some_and(of_both) {
                all = false;
                break;
            }
            let seq = row.entry.seq;
            if limited {
                self.withholding.waits(row.tree, &row.entry);
            }
            if self.add(&snapshot, &mut batch, row, after)?.is_some() {
                all = false;
                break;
            }
            upto = seq;
        }
        let at_head = complete && all;
        if at_head {
            upto = head;
        }
        let at_head = at_head && head == snapshot.last_seq();
        Ok(Fetched {
            records: batch.records,
            upto,
            at_head,
            totals: self.totals(&snapshot)?,
            withheld: self.withholding.take(),
        })
    }

    /// A batch that only tells what is withheld.
    fn nothing(&mut self, upto: u64) -> Fetched {
        Fetched {
            records: Vec::new(),
            upto,
            at_head: false,
            totals: Vec::new(),
            withheld: self.withholding.take(),
        }
    }

    fn totals(&self, snapshot: &Snapshot) -> Result<Vec<Total>, IndexError> {
        let total = |tree: &TreeId| {
            let counts = snapshot.counts(*tree)?;
            let (entries, bytes) = (counts.entries(), counts.bytes);
            let set = snapshot.value(&set_key(*tree))?;
            Ok(Total {
                tree: *tree,
                entries,
                bytes,
                set,
            })
        };
        self.from.keys().map(total).collect()
    }

    /// The records of what the replica asked for, and the weight of the questions that they answer.
    pub fn answer(
        &mut self,
        index: &Index,
        sent_upto: u64,
        now: u64,
    ) -> Result<(Fetched, usize), IndexError> {
        let snapshot = index.snapshot()?;
        if self.withholding.look_back(&snapshot, self.start, ROWS)? {
            return Ok((self.nothing(sent_upto), 0));
        }
        let mut batch = Building::default();
        let mut settled = 0;
        while !batch.is_full()
            && let Some((tree, path)) = self.asked.pop_front()
        {
            let weight = weight(&path);
            settled += weight;
            if !self.from.contains_key(&tree) {
                continue;
            }
            let entry = snapshot.get(tree, &path)?;
            let gone = || IndexEntry::received(None, 0, None);
            let entry = entry.unwrap_or_else(gone);
            let row = Located { tree, path, entry };
            let large = is_large(&row.entry).then(|| early_key(&row));
            if large.is_some_and(|version| !self.again.is_due(&version, now)) {
                continue;
            }
            if let Some(row) = self.add(&snapshot, &mut batch, row, sent_upto)? {
                settled -= weight;
                self.asked.push_front((row.tree, row.path));
                break;
            }
            if let Some(version) = large {
                self.again.note(version, now);
            }
        }
        let at_head = sent_upto >= snapshot.last_seq();
        Ok((
            Fetched {
                records: batch.records,
                upto: sent_upto,
                at_head,
                totals: Vec::new(),
                withheld: Vec::new(),
            },
            settled,
        ))
    }

    /// Adds a record, after the directories and the first name that it needs and that are newer than what was sent. Gives
    /// the record back if all of that does not fit: it comes in a later batch, as the batch is full then.
    fn add(
        &mut self,
        snapshot: &Snapshot,
        batch: &mut Building,
        row: Located,
        sent: u64,
    ) -> Result<Option<Located>, IndexError> {
        let early = self.needed(snapshot, batch, &row, sent)?;
        let together = || {
            let all = early.rows.iter().chain([&row]);
            let bytes: usize = all.map(|row| self.bytes(row)).sum();
            !early.more && batch.bytes + bytes <= TOGETHER
        };
        if early.rows.is_empty() || together() {
            for row in early.rows {
                self.push(batch, row);
            }
            self.push(batch, row);
            return Ok(None);
        }
        if batch.records.is_empty() {
            for row in early.rows {
                if !batch.records.is_empty() && batch.bytes + self.bytes(&row) > TOGETHER {
                    break;
                }
                if self.early.len() >= EARLY {
                    self.early.clear();
                }
                self.early.insert(early_key(&row));
                self.push(batch, row);
            }
        }
        Ok(Some(row))
    }

    /// What must come before a record: the first of it in their order, up to what surely fits in no batch.
    fn needed(
        &self,
        snapshot: &Snapshot,
        batch: &Building,
        row: &Located,
        sent: u64,
    ) -> Result<Needed, IndexError> {
        let mut found = Needed::default();
        let Some(state) = &row.entry.current else {
            return Ok(found);
        };
        let first = match &state.kind {
            Kind::HardLink { to } => Some(to),
            _ => None,
        };
        let above = dirs_above(&row.path).chain(first.into_iter().flat_map(dirs_above));
        let mut bytes = 0;
        for path in above.chain(first.cloned()) {
            let place = (row.tree, path);
            if batch.places.contains(&place) {
                continue;
            }
            let (tree, path) = place;
            if let Some(entry) = snapshot.get(tree, &path)?
                && entry.seq > sent
            {
                let row = Located { tree, path, entry };
                if self.early.contains(&early_key(&row)) {
                    continue;
                }
                if bytes > TOGETHER {
                    found.more = true;
                    break;
                }
                bytes += self.bytes(&row);
                found.rows.push(row);
            }
        }
        Ok(found)
    }

    fn bytes(&self, row: &Located) -> usize {
        let state = row.entry.current.as_ref();
        let names = self.shared.names_of(row.tree, state);
        entry_bytes(&row.path, state, names.as_ref())
    }

    fn push(&self, batch: &mut Building, row: Located) {
        let Located { tree, path, entry } = row;
        if !batch.places.insert((tree, path.clone())) {
            return;
        }
        let state = entry.current;
        let small = state
            .as_ref()
            .filter(|s| s.kind.hash().is_some() && s.kind.size() <= INLINE_FILE);
        let inline = small.is_some() && (self.inline || entry.seq > self.inline_after);
        if inline {
            batch.inline_bytes += small.map_or(0, |s| s.kind.size());
        }
        batch.content_bytes += state.as_ref().map_or(0, |s| s.kind.size());
        let names = self.shared.names_of(tree, state.as_ref());
        batch.bytes += entry_bytes(&path, state.as_ref(), names.as_ref());
        let grown_from = match state.as_ref().map(|s| &s.kind) {
            Some(Kind::File { size, hash }) if *size > GROWS_FROM => {
                self.shared.tails.grown_from(tree, &path, (*size, *hash))
            }
            _ => None,
        };
        batch.records.push(Record {
            tree,
            path,
            seq: entry.seq,
            state,
            inline,
            grown_from,
            names,
        });
    }
}
