//! How much a session is to send in all, by tree: what `status` shows as the total. Pure but for the count.

use crate::engine::clock::ms;
use crate::index::{Index, IndexError};
use crate::progress::{Transfers, Work};
use crate::tree::TreeId;
use crate::wire::{Outlook, Record};
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;

/// A session that is behind for less long than this needs no count (nanoseconds).
const FIRST: u64 = ms(1000);
/// Shortest time between two counts (nanoseconds).
const AGAIN: u64 = ms(10_000);
/// A count costs at most one part in so many of the time.
const PART: u64 = 20;
/// Rows that are counted between two looks at the token.
const ROWS: usize = 4096;

/// What is known of a tree.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The replica had nothing of it.
    first: bool,
    /// Put into batches so far.
    put: Work,
    /// `put` when the last count began.
    base: Work,
    /// The total by the last count.
    counted: Option<Work>,
}

/// What is known of all trees of a session.
#[derive(Debug, Clone)]
pub(super) struct Outlooks {
    trees: BTreeMap<TreeId, Known>,
    count_at: u64,
}

impl Outlooks {
    /// Per tree where the replica is, at `now`.
    pub fn new(from: &[(TreeId, u64)], now: u64) -> Outlooks {
        let known = |(tree, seq): &(TreeId, u64)| {
            let first = *seq == 0;
            let known = Known {
                first,
                ..Known::default()
            };
            (*tree, known)
        };
        Outlooks {
            trees: from.iter().map(known).collect(),
            count_at: now + FIRST,
        }
    }

    /// Transfers that begin at `now`.
    pub fn transfers(&self, now: u64) -> Transfers {
        let trees = self.trees.iter().map(|(tree, known)| (*tree, known.first));
        Transfers::of(trees, now)
    }

    /// The replica has everything: what comes from now on is counted anew.
    pub fn caught_up(&mut self, now: u64) {
        self.count_at = now + FIRST;
        self.trees.values_mut().for_each(|k| *k = Known::default());
    }

    /// These records were put into a batch.
    pub fn put(&mut self, records: &[Record]) {
        for record in records {
            if let Some(known) = self.trees.get_mut(&record.tree) {
                let bytes = record.state.as_ref().map_or(0, |s| s.kind.size());
                known.put = known.put.plus(Work { entries: 1, bytes });
            }
        }
    }

    /// Whether to count now what lies behind the batches. A first copy needs no count: it is all that there is.
    pub fn begin_count(&mut self, now: u64) -> bool {
        let due = now >= self.count_at && self.trees.values().any(|k| !k.first);
        if due {
            // Until it has ended.
            self.count_at = u64::MAX;
            self.trees.values_mut().for_each(|k| k.base = k.put);
        }
        due
    }

    /// So much lay behind them when the count began; it took so long.
    pub fn counted(&mut self, left: &BTreeMap<TreeId, Work>, now: u64, took: u64) {
        self.count_at = now + AGAIN.max(took.saturating_mul(PART));
        for (tree, known) in &mut self.trees {
            let left = left.get(tree).copied().unwrap_or_default();
            known.counted = Some(known.base.plus(left));
        }
    }

    /// What is to be sent in all. `there`: how much there is of a tree; `scanned`: that is all.
    pub fn all(&self, there: impl Fn(TreeId) -> Work, scanned: bool) -> Vec<Outlook> {
        let outlook = |(tree, known): (&TreeId, &Known)| {
            let total = match known.first {
                true => Some(there(*tree)),
                false => known.counted,
            };
            Outlook {
                tree: *tree,
                total: total.unwrap_or(known.put),
                whole: scanned && total.is_some(),
            }
        };
        self.trees.iter().map(outlook).collect()
    }
}

/// How much lies behind a number, by tree. `None`: it is not needed any more.
pub(super) fn count(
    index: &Index,
    mut after: u64,
    cancel: &CancellationToken,
) -> Result<Option<BTreeMap<TreeId, Work>>, IndexError> {
    let snapshot = index.snapshot()?;
    let mut all: BTreeMap<TreeId, Work> = BTreeMap::new();
    loop {
        if cancel.is_cancelled() {
            return Ok(None);
        }
        let rows = snapshot.changes(after, ROWS)?;
        for row in &rows {
            let bytes = row.entry.current.as_ref().map_or(0, |s| s.kind.size());
            let work = all.entry(row.tree).or_default();
            *work = work.plus(Work { entries: 1, bytes });
        }
        match rows.last() {
            Some(last) if rows.len() == ROWS => after = last.entry.seq,
            _ => return Ok(Some(all)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{ContentHash, Kind, Meta, State, Xattrs};
    use crate::path::RelPath;

    const T: TreeId = TreeId([1; 16]);
    const NEW: TreeId = TreeId([2; 16]);

    fn record(tree: TreeId, size: u64) -> Record {
        let kind = Kind::File {
            size,
            hash: ContentHash([0; 32]),
        };
        let meta = Meta {
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime_ns: 0,
            xattrs: Xattrs::default(),
        };
        Record {
            tree,
            path: RelPath::new("f").unwrap(),
            seq: 1,
            state: Some(State { kind, meta }),
            inline: false,
            grown_from: None,
            names: None,
        }
    }

    fn work(entries: u64, bytes: u64) -> Work {
        Work { entries, bytes }
    }

    fn total(all: &Outlooks, tree: TreeId, scanned: bool) -> (Work, bool) {
        let list = all.all(|_| work(1000, 9000), scanned);
        let found = list.iter().find(|o| o.tree == tree).unwrap();
        (found.total, found.whole)
    }

    #[test]
    fn a_first_copy_is_all_that_there_is() {
        let all = Outlooks::new(&[(T, 5), (NEW, 0)], 0);
        let transfers = all.transfers(0);
        assert!(transfers.get(NEW).unwrap().is_first());
        assert!(!transfers.get(T).unwrap().is_first());
        assert_eq!(total(&all, NEW, false), (work(1000, 9000), false));
        assert_eq!(total(&all, NEW, true), (work(1000, 9000), true));
    }

    #[test]
    fn catching_up_is_counted() {
        let mut all = Outlooks::new(&[(T, 5)], 0);
        all.put(&[record(T, 10), record(T, 20)]);
        assert_eq!(
            total(&all, T, true),
            (work(2, 30), false),
            "not counted yet"
        );
        assert!(!all.begin_count(FIRST - 1));
        assert!(all.begin_count(FIRST));
        assert!(!all.begin_count(2 * FIRST), "one at a time");
        all.put(&[record(T, 100)]);
        all.counted(&BTreeMap::from([(T, work(7, 700))]), 2 * FIRST, FIRST);
        assert_eq!(total(&all, T, true), (work(9, 730), true));
        assert_eq!(total(&all, T, false), (work(9, 730), false));
        assert!(!all.begin_count(2 * FIRST + 19 * FIRST), "it is dear");
        assert!(all.begin_count(2 * FIRST + 20 * FIRST));
        all.caught_up(100 * FIRST);
        assert_eq!(total(&all, T, true), (work(0, 0), false));
    }
}
