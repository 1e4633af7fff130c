//! Files that never rest: what is read of them is of no single moment, and is gone before it could be sent. So a copy of
//! such a file is kept from time to time and sent from there: a clone where the file system can, which is a state that
//! existed, else a mixture. The next one is kept when the standby has the one before.
//!
//! They stay named as `fuzzy`, and a flush does not speak for them.

use super::clock::ms;
use super::dirty::Dirt;
use super::local::FUZZY;
use super::look::{Looker, Sight, Sights};
use super::tree::{MAX_NAMED, Tree};
use super::worker::Worker;
use crate::entry::{ContentHash, IndexEntry, Kind};
use crate::fault::Fault;
use crate::path::RelPath;
use crate::set::{self, Taken};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

/// Between two looks at a file that never rests, and so between two copies, at least.
const EVERY: u64 = ms(1000);
/// And for each GiB of it, which takes about a second to read or to copy.
const EVERY_GIB: u64 = ms(10_000);

/// When a file of this size is looked at again.
pub(super) fn wait(size: u64) -> u64 {
    let by_size = (u128::from(EVERY_GIB) * u128::from(size)) >> 30;
    EVERY.saturating_add(u64::try_from(by_size).unwrap_or(u64::MAX))
}

/// Device and inode.
pub(super) type Inode = (u64, u64);

/// Files that were not at rest when they were read last, and their names. The index has no key of such a file, by which it would
/// be found under another name: a link is made just while the file is read, or it is written to under one of its names.
#[derive(Debug, Default)]
pub(crate) struct Unrested(BTreeMap<Inode, BTreeSet<RelPath>>);

impl Unrested {
    /// Most of them; others are found by their second look.
    const MOST: usize = MAX_NAMED;

    pub fn note<'p>(&mut self, inode: Inode, names: impl IntoIterator<Item = &'p RelPath>) {
        if self.0.len() < Self::MOST {
            self.0
                .entry(inode)
                .or_default()
                .extend(names.into_iter().cloned());
        }
    }

    /// What may still lie there.
    pub fn of(&self, inode: Inode) -> impl Iterator<Item = &RelPath> {
        self.0.get(&inode).into_iter().flatten()
    }

    /// The index has their keys now, or will not.
    pub fn forget(&mut self, inode: Inode) {
        self.0.remove(&inode);
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Who copies a restless file.
#[derive(Clone, Copy)]
pub(crate) enum Copies<'a> {
    /// The look.
    Here,
    /// Who has read it, if it was to be copied then.
    Beside(Option<&'a Result<Taken, Fault>>),
}

/// The restless files of a tree, as a look sees them.
#[derive(Clone, Copy)]
pub(crate) struct Restless<'a> {
    pub tree: &'a Tree,
    pub copies: Copies<'a>,
    /// The standby has everything up to here.
    pub acked: u64,
}

impl Restless<'_> {
    /// It is known not to rest.
    pub fn has(&self, path: &RelPath) -> bool {
        self.tree.fuzzy.contains(path)
    }

    /// A copy of it is to be kept if it does not rest now.
    pub fn wants_copy(&self, path: &RelPath, entry: Option<&IndexEntry>) -> bool {
        self.has(path) && !self.is_under_way(path, entry)
    }

    /// It is to be read again.
    pub fn waits(&self, path: &RelPath) -> bool {
        self.tree.later.contains_key(path)
    }

    /// Names of the file that the index may not know of.
    pub fn names(&self, inode: Inode) -> impl Iterator<Item = &RelPath> {
        self.tree.unrested.of(inode)
    }

    /// The copy that is kept of it is still to be sent.
    fn is_under_way(&self, path: &RelPath, entry: Option<&IndexEntry>) -> bool {
        self.tree.copies.contains_key(path) && entry.is_some_and(|entry| entry.seq > self.acked)
    }
}

impl Looker<'_> {
    /// A restless file was met again. The content that may be recorded of it, if there is one.
    pub(super) fn restless(
        &self,
        restless: Restless<'_>,
        path: &RelPath,
        size: u64,
        entry: Option<&IndexEntry>,
        out: &mut Sights,
    ) -> Option<Kind> {
        out.restless.push((path.clone(), size));
        if restless.is_under_way(path, entry) {
            return None;
        }
        let (root, private) = (&self.open.root, &self.open.private);
        let now;
        let taken = match restless.copies {
            Copies::Here => {
                now = set::take_as_it_is(root, private, path, self.ends);
                now.as_ref()
            }
            Copies::Beside(Some(taken)) => taken.as_ref(),
            // The next reading does.
            Copies::Beside(None) => return None,
        };
        let kept = taken.map_err(Fault::clone).and_then(|taken| {
            taken.keep(private)?;
            Ok((taken.hash, taken.size))
        });
        match kept {
            Ok((hash, size)) => {
                out.kept.insert(path.clone(), hash);
                Some(Kind::File { size, hash })
            }
            // It is gone, or there was no time for it.
            Err(Fault::Missing | Fault::NotBeneath | Fault::Changed(_)) => None,
            Err(fault) => {
                let why =
                    format!("changes faster than it can be read: no copy can be kept: {fault}");
                out.errors.push((path.clone(), why));
                None
            }
        }
    }
}

impl Worker {
    /// Keeps in mind which files were not at rest; the keys of others are in the index.
    pub(super) fn note_unrested(&mut self, at: usize, unrested: Unrested, seen: &[Sight]) {
        let known = &mut self.trees[at].unrested;
        if !known.0.is_empty() {
            for key in seen.iter().filter_map(|sight| sight.local) {
                known.forget((key.dev, key.ino));
            }
        }
        for (inode, names) in &unrested.0 {
            known.note(*inode, names);
        }
    }

    /// Marks what never rested to be read in any case, and what was written so lately that its key proves nothing. The first of what
    /// never rested, with its tree.
    pub(super) fn read_restless(&mut self) -> Option<(String, RelPath)> {
        let mut first = None;
        for tree in self.trees.iter_mut().filter(|tree| tree.moves()) {
            let waits = tree.later.iter().filter(|(_, again)| again.tries > FUZZY);
            let beyond = waits.map(|(path, _)| path);
            let paths: BTreeSet<RelPath> = tree.fuzzy.iter().chain(beyond).cloned().collect();
            for path in paths {
                first.get_or_insert_with(|| (tree.config.name.clone(), path.clone()));
                tree.mark(path, Dirt::FORCED);
            }
            let young = tree.later.iter().filter(|(_, again)| again.is_young());
            let young: Vec<RelPath> = young.map(|(path, _)| path.clone()).collect();
            for path in young {
                tree.mark(path, Dirt::AGAIN);
            }
        }
        self.due_now();
        first
    }

    /// Keeps in mind what a look kept, and lets go of what it replaces.
    pub(super) fn note_kept(&mut self, at: usize, kept: BTreeMap<RelPath, ContentHash>) {
        for (path, hash) in kept {
            let before = self.trees[at].copies.insert(path, hash);
            self.trees[at].let_go_of(before.filter(|before| *before != hash));
        }
        self.count_kept();
    }

    /// Files that rest, are gone, or are of no interest any more: their copies go.
    pub(super) fn forget_kept(&mut self, at: usize) {
        let tree = &mut self.trees[at];
        if tree.copies.is_empty() {
            return;
        }
        let fuzzy = std::mem::take(&mut tree.fuzzy);
        let (kept, gone) = std::mem::take(&mut tree.copies)
            .into_iter()
            .partition(|(path, _)| fuzzy.contains(path));
        (tree.fuzzy, tree.copies) = (fuzzy, kept);
        let gone: BTreeMap<RelPath, ContentHash> = gone;
        for hash in gone.into_values() {
            self.trees[at].let_go_of(Some(hash));
        }
        self.count_kept();
    }

    fn count_kept(&self) {
        let kept = self.trees.iter().map(|tree| tree.copies.len()).sum();
        self.shared.kept.store(kept, Ordering::Release);
    }
}

impl Tree {
    /// It waits for its time, whatever happens to it meanwhile: something always does.
    pub(super) fn waits_restless(&self, path: &RelPath) -> bool {
        self.fuzzy.contains(path) && self.later.get(path).is_some_and(|again| again.at.is_some())
    }

    /// A file never rests. At most [`MAX_NAMED`] of them are named, copied and sent; the others are tried again until they rest, and
    /// counted.
    pub(super) fn note_fuzzy(&mut self, path: RelPath) {
        if self.fuzzy.len() < MAX_NAMED {
            self.fuzzy.insert(path);
        }
    }

    /// Files that never rest and have no name among these.
    pub(super) fn fuzzy_beyond(&self) -> u64 {
        if self.fuzzy.len() < MAX_NAMED {
            return 0;
        }
        let waits = self.later.iter().filter(|(_, again)| again.tries > FUZZY);
        waits
            .filter(|(path, _)| !self.fuzzy.contains(*path))
            .count() as u64
    }

    /// A file was met again that does not rest.
    pub(super) fn note_restless(&mut self, path: RelPath, size: u64, now: u64) {
        self.note_fuzzy(path.clone());
        self.again(path, now.saturating_add(wait(size)), None);
    }

    fn let_go_of(&self, hash: Option<ContentHash>) {
        if let (Some(hash), Some(open)) = (hash, &self.open)
            && !self.copies.values().any(|other| *other == hash)
            && let Err(fault) = set::remove(&open.private, hash)
        {
            // What stays is removed when the tree is opened the next time.
            tracing::debug!(%fault, "a copy of a file that never rests could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::TreeConfig;

    #[test]
    fn more_files_than_can_be_named_are_counted_until_they_rest() {
        let mut tree = Tree::new(TreeConfig::new("t", "/srv/t"));
        let path = |n: usize| RelPath::new(format!("{n}")).expect("a path");
        for n in 0..MAX_NAMED + 5 {
            for _ in 0..=FUZZY {
                tree.again(path(n), 1, None);
            }
            tree.note_fuzzy(path(n));
        }
        assert_eq!((tree.fuzzy.len(), tree.fuzzy_beyond()), (MAX_NAMED, 5));
        // Looked at once, not always in vain.
        tree.again(path(MAX_NAMED + 7), 1, None);
        tree.later.remove(&path(MAX_NAMED));
        assert_eq!(tree.fuzzy_beyond(), 4);
        tree.fuzzy.remove(&path(1));
        assert_eq!(tree.fuzzy_beyond(), 0, "there is room for their names");
    }

    #[test]
    fn a_large_file_is_copied_less_often() {
        assert_eq!(wait(0), EVERY);
        assert_eq!(wait(1 << 30), EVERY + EVERY_GIB);
        assert!(wait(u64::MAX) > wait(1 << 40));
    }
}
