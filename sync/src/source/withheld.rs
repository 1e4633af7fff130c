//! Files that a receiver does not get now, though what comes behind them in the sequence does: those of a tree that it does not take (it is
//! stopped there), and those of a tree with a limit while others overtake it.
//!
//! The receiver is told of their contents before anything that comes behind them. So it keeps a file that moved into such a tree
//! where it was, and removes it when the other one is there (see `engine/awaited`).

use crate::entry::IndexEntry;
use crate::index::{IndexError, Snapshot};
use crate::tree::TreeId;
use crate::wire::Withheld;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Batches in order that may wait for their limits at the same time, as [`machine`](super::machine) has it.
const SLOW: usize = 2;

fn content_of(entry: &IndexEntry) -> Option<u64> {
    entry.current.as_ref()?.kind.content_key()
}

/// What a session tells of such files.
#[derive(Debug, Default)]
pub(super) struct Withholding {
    /// Trees that the receiver does not take, and what it surely has of them.
    absent: BTreeMap<TreeId, u64>,
    /// What lies before the session's stream was looked through for these up to here. `None`: all of it was.
    back: Option<u64>,
    /// Of the last batches in order: contents of trees with a limit, which may wait.
    slow: VecDeque<Vec<(TreeId, u64)>>,
    /// To be told.
    next: BTreeMap<TreeId, BTreeSet<u64>>,
}

impl Withholding {
    /// Of a session whose stream begins behind `start`; `u64::MAX`: nothing is sent.
    pub fn new(absent: BTreeMap<TreeId, u64>, start: u64) -> Withholding {
        let from = absent.values().copied().min();
        Withholding {
            absent,
            back: from.filter(|from| *from < start && start < u64::MAX),
            ..Withholding::default()
        }
    }

    /// Looks through what lies before the stream, a piece with each call. False: there was nothing left of it.
    pub fn look_back(
        &mut self,
        index: &Snapshot,
        start: u64,
        rows: usize,
    ) -> Result<bool, IndexError> {
        let Some(after) = self.back else {
            return Ok(false);
        };
        let rows = index.changes(after, rows)?;
        let last = rows.last().map(|row| row.entry.seq);
        self.back = last.filter(|last| *last < start);
        for row in rows {
            self.pass(row.tree, &row.entry, false);
        }
        Ok(true)
    }

    /// A batch begins: one in order, or one ahead of those that wait for their limits.
    pub fn begin(&mut self, in_order: bool) {
        if !in_order {
            for (tree, content) in self.slow.drain(..).flatten() {
                self.next.entry(tree).or_default().insert(content);
            }
            return;
        }
        self.slow.push_back(Vec::new());
        if self.slow.len() > SLOW {
            self.slow.pop_front();
        }
    }

    /// The stream passes an entry without sending it: `overtaken` are those with a limit that come later.
    pub fn pass(&mut self, tree: TreeId, entry: &IndexEntry, overtaken: bool) {
        let lacks = self.absent.get(&tree).is_some_and(|has| entry.seq > *has);
        if let Some(content) = content_of(entry).filter(|_| lacks || overtaken) {
            self.next.entry(tree).or_default().insert(content);
        }
    }

    /// An entry with a limit is in a batch in order.
    pub fn waits(&mut self, tree: TreeId, entry: &IndexEntry) {
        if let (Some(batch), Some(content)) = (self.slow.back_mut(), content_of(entry)) {
            batch.push((tree, content));
        }
    }

    /// What the next batch has to tell.
    pub fn take(&mut self) -> Vec<Withheld> {
        let next = std::mem::take(&mut self.next).into_iter();
        let list = next.map(|(tree, contents)| Withheld {
            tree,
            contents: contents.into_iter().collect(),
        });
        list.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{ContentHash, Kind, Meta, State, Xattrs};

    fn file(seq: u64) -> IndexEntry {
        let meta = Meta {
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime_ns: 0,
            xattrs: Xattrs::default(),
        };
        let hash = ContentHash::of(&seq.to_le_bytes());
        let kind = Kind::File { size: 8, hash };
        IndexEntry::received(Some(State { kind, meta }), seq, None)
    }

    fn told(withholding: &mut Withholding) -> Vec<(TreeId, usize)> {
        let lists = withholding.take().into_iter();
        lists.map(|l| (l.tree, l.contents.len())).collect()
    }

    #[test]
    fn files_are_told_of_that_the_receiver_lacks_in_trees_that_it_does_not_take() {
        let (taken, absent) = (TreeId::of("taken"), TreeId::of("absent"));
        let mut withholding = Withholding::new([(absent, 5)].into(), 3);
        assert_eq!(withholding.back, None, "nothing lies before the stream");
        for seq in 4..8 {
            withholding.pass(taken, &file(seq), false);
            withholding.pass(absent, &file(seq), false);
        }
        let gone = IndexEntry::received(None, 9, None);
        withholding.pass(absent, &gone, false);
        assert_eq!(told(&mut withholding), [(absent, 2)]);
        assert_eq!(told(&mut withholding), []);
        assert_eq!(Withholding::new([(absent, 5)].into(), 6).back, Some(5));
    }

    #[test]
    fn what_waits_for_its_limit_is_told_of_with_what_is_sent_ahead() {
        let slow = TreeId::of("slow");
        let mut withholding = Withholding::default();
        for batch in 0..3 {
            withholding.begin(true);
            withholding.waits(slow, &file(batch));
            assert_eq!(told(&mut withholding), []);
        }
        withholding.begin(false);
        withholding.pass(slow, &file(9), true);
        assert_eq!(
            told(&mut withholding),
            [(slow, SLOW + 1)],
            "the first one is through"
        );
    }
}
