//! Does too much vanish at once?

use crate::path::RelPath;
use crate::tree::MaxDelete;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

/// A limit in per cent never fires at or below this many removals: in a tree of a few files everything is a large
/// share. Such a tree has the rule of the emptied root.
pub const DELETE_FLOOR: u64 = 10;
/// Removals are counted together while they lie within this time, nanoseconds. A large `rm -rf` arrives in many small
/// batches, at 10 000 removals a second.
pub const WINDOW_NS: u64 = 60_000_000_000;
/// New names that are remembered: enough for a tree of short-lived files. A name beyond that counts as one that was
/// there before, which is the safe side.
const MAX_NEW: usize = 100_000;
/// Renames that are remembered. What lies below an older one counts as there before, too.
const MAX_RENAMES: usize = 64;
/// The size of the tree is remembered in stretches of this length, by its highest value in each.
const STRETCH_NS: u64 = 1_000_000_000;

/// Why a tree is stopped by what vanished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum Vanished {
    /// More than `max_delete`.
    #[error(
        "{gone} of {had} entries are gone within a minute, more than the limit of {limit} (max_delete): check, then `tandem tree accept`"
    )]
    TooMany {
        /// Vanished within the window.
        gone: u64,
        /// There were before.
        had: u64,
        /// Allowed.
        limit: u64,
    },
    /// Everything.
    #[error("all {had} entries are gone, the tree is empty: check, then `tandem tree accept`")]
    Everything {
        /// There were before.
        had: u64,
    },
}

/// How many of `had` entries may be gone.
pub fn limit(max: MaxDelete, had: u64) -> u64 {
    match max {
        MaxDelete::Count(count) => count,
        // Per cent above 100 allow everything but an emptied root.
        MaxDelete::Percent(percent) => {
            let share = u128::from(had) * u128::from(percent) / 100;
            u64::try_from(share).unwrap_or(u64::MAX).max(DELETE_FLOOR)
        }
    }
}

/// A path, short. Two paths of one name would be counted as one, which happens to one in 2^40 trees of a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(u64);

impl Name {
    /// Of a path.
    pub fn of(path: &RelPath) -> Name {
        let hash = blake3::hash(path.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        Name(u64::from_le_bytes(first))
    }
}

/// Names with the time at which they were noted, forgotten after [`WINDOW_NS`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Recent {
    at: BTreeMap<Name, u64>,
    /// Oldest first. A name that was taken out, or noted again, is passed over here.
    order: VecDeque<(u64, Name)>,
}

impl Recent {
    fn note(&mut self, now: u64, name: Name) {
        self.at.insert(name, now);
        self.order.push_back((now, name));
    }

    fn take(&mut self, name: Name) -> bool {
        self.at.remove(&name).is_some()
    }

    fn forget(&mut self, now: u64, most: usize) {
        while let Some((at, name)) = self.order.front().copied()
            && (at.saturating_add(WINDOW_NS) <= now || self.order.len() > most)
        {
            self.order.pop_front();
            if self.at.get(&name) == Some(&at) {
                self.at.remove(&name);
            }
        }
    }

    fn len(&self) -> u64 {
        self.at.len() as u64
    }
}

/// What is gone from one tree of what was there within the last minute. Two counts, each against the limit:
///
/// - *by name*: names that were there longer than the window and are not there now. A name that is made again is not
///   gone, so files that are replaced by removing and making them do not count. That a whole tree is replaced by one of
///   other names does.
/// - *by size*: how many entries fewer there are than at the highest moment of the window. Short-lived files of ever
///   new names leave the size as it is. What was unpacked a moment ago and goes at once counts.
///
/// The names that are gone take memory as long as they are in the window: at most one more than the limit, since the
/// tree is stopped then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteWindow {
    gone: Recent,
    new: Recent,
    /// Start of a stretch and the most entries in it, oldest first; at most a window's stretches and one.
    sizes: VecDeque<(u64, u64)>,
    /// When something came from one path to another, oldest first.
    renames: VecDeque<(u64, RelPath, RelPath)>,
}

impl DeleteWindow {
    /// May these entries be gone at `now` (nanoseconds since boot), when `live` are there before that? Asked before
    /// anything is recorded; then [`DeleteWindow::vanished`] for each that was.
    ///
    /// A tree in which nothing at all would be left is stopped whatever the limit is, unless all that it had came
    /// within the window.
    pub fn check(
        &mut self,
        now: u64,
        gone: impl IntoIterator<Item = Name>,
        live: u64,
        max: MaxDelete,
    ) -> Result<(), Vanished> {
        self.forget(now);
        let (mut all, mut old) = (0u64, 0u64);
        for name in gone {
            all += 1;
            old += u64::from(!self.new.at.contains_key(&name));
        }
        if all == 0 {
            return Ok(());
        }
        let had = live.saturating_sub(self.new.len()) + self.gone.len();
        let gone = self.gone.len() + old;
        if all >= live && had > 0 && gone > 0 {
            return Err(Vanished::Everything { had });
        }
        // What is there is recorded before what is gone: now is no size of the tree, unless none is known.
        let sizes = self.sizes.iter().map(|(_, size)| *size);
        let most = sizes.max().unwrap_or(live);
        let left = live.saturating_sub(all);
        let too_many = |gone, had| {
            let limit = limit(max, had);
            (gone > limit).then_some(Vanished::TooMany { gone, had, limit })
        };
        let vanished = too_many(gone, had).or(too_many(most.saturating_sub(left), most));
        vanished.map_or(Ok(()), Err)
    }

    /// There are `live` entries at `now`, when nothing waits to be recorded.
    pub fn size(&mut self, now: u64, live: u64) {
        self.forget(now);
        let start = now - now % STRETCH_NS;
        match self.sizes.back_mut() {
            Some((begin, most)) if *begin >= start => *most = live.max(*most),
            _ => self.sizes.push_back((start, live)),
        }
    }

    /// An entry is gone since `now`, and was recorded so.
    pub fn vanished(&mut self, now: u64, name: Name) {
        self.forget(now);
        if !self.new.take(name) {
            self.gone.note(now, name);
        }
    }

    /// An entry is there that was not before.
    pub fn appeared(&mut self, now: u64, name: Name) {
        self.forget(now);
        if !self.gone.take(name) {
            self.new.note(now, name);
        }
    }

    /// Something has another name now, with all beneath it. It is as old as it was.
    pub fn renamed(&mut self, now: u64, from: &RelPath, to: &RelPath) {
        self.renames.push_back((now, from.clone(), to.clone()));
        if self.renames.len() > MAX_RENAMES {
            self.renames.pop_front();
        }
    }

    /// The name by which a path is counted: that from before the renames of the window.
    pub fn name(&self, path: &RelPath) -> Name {
        let first = self.renames.iter().rev();
        let first = first.fold(Cow::Borrowed(path), |path, (_, from, to)| {
            match path.moved(to, from) {
                Some(before) => Cow::Owned(before),
                None => path,
            }
        });
        Name::of(&first)
    }

    /// The file of an entry that is gone is known under another name, which has appeared before: for a while it was
    /// counted twice.
    pub fn left(&mut self, name: Name) {
        self.new.take(name);
        self.excused(1);
    }

    /// So many entries are gone that a person accepted.
    pub fn excused(&mut self, entries: u64) {
        for (_, live) in &mut self.sizes {
            *live = live.saturating_sub(entries);
        }
    }

    /// A person accepted what happened: counting begins anew.
    pub fn accept(&mut self) {
        self.gone = Recent::default();
        self.sizes.clear();
    }

    fn forget(&mut self, now: u64) {
        self.new.forget(now, MAX_NEW);
        self.gone.forget(now, usize::MAX);
        let past = |(begin, _): &(u64, u64)| begin.saturating_add(WINDOW_NS) <= now;
        while self.sizes.front().is_some_and(past) {
            self.sizes.pop_front();
        }
        // What was noted under a name shortly after the rename is counted under it until that is forgotten, too.
        let past = |(at, _, _): &(u64, RelPath, RelPath)| at.saturating_add(2 * WINDOW_NS) <= now;
        while self.renames.front().is_some_and(past) {
            self.renames.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
