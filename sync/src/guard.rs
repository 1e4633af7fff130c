//! Nothing is destroyed on the word of an empty or unmounted source (invariant 4): is this the root that it was, and
//! does too much vanish at once? Pure decisions on facts that others gathered.

use crate::identity::{FsId, RootFacts};
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

/// What is remembered of a root that was proven, durable in the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRecord {
    /// Identity in its marker.
    pub marker: String,
    /// The file system that it lay on.
    pub fs: FsId,
    /// It was the root of a mount.
    pub was_mount_point: bool,
}

/// What a root is, compared with what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The root that it was.
    Proven,
    /// Never seen, no marker: a tree that begins here.
    New,
    /// The marker of this pair and tree, but this node's records do not know it: the state directory was lost. What the
    /// peer has of it is unknown.
    StateLost,
    /// It was a mount point and is none: not mounted.
    Unmounted,
    /// No marker any more, and nothing in it: a replaced or freshly made disk.
    ReplacedEmpty,
    /// No marker any more, but something is in it: another directory, or the marker was removed.
    MarkerLost,
    /// The right marker on another file system: a copied or restored disk.
    Moved,
    /// The marker of another pair, another tree or the other node's copy.
    Foreign,
}

impl Verdict {
    /// The root is what it was.
    pub fn is_proven(self) -> bool {
        self == Verdict::Proven
    }

    /// The tree may begin anew here and receive: there is nothing to lose. Never as a source.
    pub fn may_begin_anew(self) -> bool {
        matches!(
            self,
            Verdict::New | Verdict::StateLost | Verdict::ReplacedEmpty
        )
    }

    /// What happened and what helps, for the operator.
    pub fn explain(self) -> &'static str {
        match self {
            Verdict::Proven => "the root is proven",
            Verdict::New => "the tree has no marker yet",
            Verdict::StateLost => {
                "the root has a marker that this node's state does not know: the state directory was lost"
            }
            Verdict::Unmounted => {
                "the root was a mount point and is none now: mount it, or `tandem tree accept`"
            }
            Verdict::ReplacedEmpty => {
                "the root is empty and has no marker: a replaced disk receives everything anew"
            }
            Verdict::MarkerLost => {
                "the root has no marker any more, but is not empty: check what it is, then `tandem tree accept`"
            }
            Verdict::Moved => {
                "the root lies on another file system than before: check it, then `tandem tree accept`"
            }
            Verdict::Foreign => {
                "the root's marker belongs to another pair, tree or node: check it, then `tandem tree accept`"
            }
        }
    }
}

/// Judges a root. `record` is what is remembered of it; `None`: nothing.
pub fn judge(record: Option<&RootRecord>, facts: &RootFacts, pair: &str, tree: &str) -> Verdict {
    let ours = facts
        .marker
        .as_ref()
        .is_some_and(|marker| marker.pair == pair && marker.tree == tree);
    let Some(record) = record else {
        return match (&facts.marker, ours) {
            (None, _) => Verdict::New,
            (Some(_), true) => Verdict::StateLost,
            (Some(_), false) => Verdict::Foreign,
        };
    };
    if record.was_mount_point && !facts.is_mount_point {
        return Verdict::Unmounted;
    }
    match &facts.marker {
        None if facts.is_empty => Verdict::ReplacedEmpty,
        None => Verdict::MarkerLost,
        Some(marker) if !ours || marker.id != record.marker => Verdict::Foreign,
        Some(_) if same_fs(&record.fs, &facts.fs) => Verdict::Proven,
        Some(_) => Verdict::Moved,
    }
}

/// A kernel update may change which of the two identities a file system shows; only equal ones can be compared.
fn same_fs(before: &FsId, now: &FsId) -> bool {
    match (before, now) {
        (FsId::Uuid(a), FsId::Uuid(b)) => a == b,
        (FsId::Fsid(a), FsId::Fsid(b)) => a == b,
        (FsId::Uuid(_), FsId::Fsid(_)) | (FsId::Fsid(_), FsId::Uuid(_)) => true,
    }
}

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
mod tests {
    use super::*;
    use crate::identity::Marker;
    use proptest::prelude::*;

    fn marker(id: &str, pair: &str, tree: &str) -> Option<Marker> {
        Some(Marker {
            version: 1,
            id: id.into(),
            pair: pair.into(),
            tree: tree.into(),
        })
    }

    const DISK: FsId = FsId::Uuid([1; 16]);
    const OTHER: FsId = FsId::Uuid([2; 16]);

    #[test]
    fn verdicts() {
        let good = || marker("x", "mirror", "www");
        // recorded (mount point?), marker, file system, mount point, empty
        #[rustfmt::skip]
        type Row = (Option<bool>, Option<Marker>, FsId, bool, bool, Verdict);
        let table: &[Row] = &[
            (None, None, DISK, false, true, Verdict::New),
            (None, None, DISK, true, false, Verdict::New),
            (None, good(), DISK, true, false, Verdict::StateLost),
            (
                None,
                marker("x", "other", "www"),
                DISK,
                true,
                false,
                Verdict::Foreign,
            ),
            (
                None,
                marker("x", "mirror", "etc"),
                DISK,
                true,
                false,
                Verdict::Foreign,
            ),
            (Some(true), good(), DISK, true, false, Verdict::Proven),
            (Some(false), good(), DISK, false, true, Verdict::Proven),
            (Some(false), good(), DISK, true, false, Verdict::Proven),
            (Some(true), None, OTHER, false, true, Verdict::Unmounted),
            (Some(true), good(), DISK, false, false, Verdict::Unmounted),
            (Some(true), None, OTHER, true, true, Verdict::ReplacedEmpty),
            (Some(false), None, DISK, false, true, Verdict::ReplacedEmpty),
            (Some(true), None, DISK, true, false, Verdict::MarkerLost),
            (Some(true), good(), OTHER, true, false, Verdict::Moved),
            (
                Some(true),
                good(),
                FsId::Fsid(7),
                true,
                false,
                Verdict::Proven,
            ),
            (
                Some(true),
                marker("y", "mirror", "www"),
                DISK,
                true,
                false,
                Verdict::Foreign,
            ),
            (
                Some(true),
                marker("x", "mirror", "etc"),
                DISK,
                true,
                false,
                Verdict::Foreign,
            ),
        ];
        for (recorded, marker, fs, is_mount_point, is_empty, expected) in table.iter().cloned() {
            let record = recorded.map(|was| RootRecord {
                marker: "x".into(),
                fs: DISK,
                was_mount_point: was,
            });
            let facts = RootFacts {
                marker: marker.clone(),
                fs,
                is_mount_point,
                dev: 1,
                ino: 2,
                is_empty,
            };
            let verdict = judge(record.as_ref(), &facts, "mirror", "www");
            assert_eq!(verdict, expected, "{record:?} {facts:?}");
            assert!(!verdict.explain().is_empty());
            assert!(!(verdict.is_proven() && verdict.may_begin_anew()));
        }
    }

    #[test]
    fn limits() {
        let table = [
            (MaxDelete::Percent(50), 10, 10),
            (MaxDelete::Percent(50), 100, 50),
            (MaxDelete::Percent(50), 1000, 500),
            (MaxDelete::Percent(0), 1000, 10),
            (MaxDelete::Percent(200), 1000, 2000),
            (MaxDelete::Count(3), 1000, 3),
            (MaxDelete::Percent(100), u64::MAX, u64::MAX),
        ];
        for (max, had, expected) in table {
            assert_eq!(limit(max, had), expected, "{max:?} {had}");
        }
    }

    const HALF: MaxDelete = MaxDelete::Percent(50);

    fn names(range: std::ops::Range<u64>) -> impl Iterator<Item = Name> {
        range.map(Name)
    }

    #[test]
    fn checks_of_one_pass() {
        let check = |gone, live, max| DeleteWindow::default().check(0, names(0..gone), live, max);
        let too_many = |gone, had, limit| Err(Vanished::TooMany { gone, had, limit });
        let table = [
            (0, 0, HALF, Ok(())),
            (1, 1, HALF, Err(Vanished::Everything { had: 1 })),
            (2, 2, HALF, Err(Vanished::Everything { had: 2 })),
            (
                2,
                2,
                MaxDelete::Percent(200),
                Err(Vanished::Everything { had: 2 }),
            ),
            (
                2,
                2,
                MaxDelete::Count(9),
                Err(Vanished::Everything { had: 2 }),
            ),
            (9, 10, HALF, Ok(())),
            (10, 12, HALF, Ok(())),
            (11, 12, HALF, too_many(11, 12, 10)),
            (51, 100, HALF, too_many(51, 100, 50)),
            (500, 1000, HALF, Ok(())),
            (501, 1000, HALF, too_many(501, 1000, 500)),
            (999, 1000, MaxDelete::Percent(100), Ok(())),
            (4, 10, MaxDelete::Count(3), too_many(4, 10, 3)),
        ];
        for (gone, live, max, expected) in table {
            assert_eq!(check(gone, live, max), expected, "{gone} {live} {max:?}");
        }
    }

    /// Takes names out one by one, `apart` nanoseconds from one to the next, until the guard objects or none is left.
    fn empty_slowly(had: u64, apart: u64, max: MaxDelete) -> (u64, Option<Vanished>) {
        let (mut window, mut now) = (DeleteWindow::default(), WINDOW_NS);
        for name in 0..had {
            if let Err(why) = window.check(now, [Name(name)], had - name, max) {
                return (name, Some(why));
            }
            window.vanished(now, Name(name));
            now += apart;
        }
        (had, None)
    }

    #[test]
    fn a_tree_that_is_emptied_step_by_step_stops() {
        let half = |had, limit| {
            let gone = limit + 1;
            (limit, Some(Vanished::TooMany { gone, had, limit }))
        };
        for had in [30, 100, 101, 1000] {
            assert_eq!(empty_slowly(had, 1_000_000, HALF), half(had, had / 2));
        }
        // Few, or so slowly that each step is small: at the latest when the last one goes.
        for (had, apart) in [
            (1, 0),
            (2, 0),
            (10, 1000),
            (50, WINDOW_NS),
            (50, WINDOW_NS / 5),
        ] {
            let (done, why) = empty_slowly(had, apart, HALF);
            assert_eq!(done, had - 1, "{had} {apart}");
            assert!(matches!(why, Some(Vanished::Everything { .. })), "{why:?}");
        }
    }

    #[test]
    fn names_that_come_and_go_are_not_counted() {
        let (mut window, mut now) = (DeleteWindow::default(), WINDOW_NS);
        // Two files are written anew again and again, by removing and making them.
        for _ in 0..1000 {
            for name in 0..2 {
                assert_eq!(window.check(now, [Name(name)], 20, HALF), Ok(()));
                window.vanished(now, Name(name));
                window.appeared(now, Name(name));
                now += 1000;
            }
        }
        // Short-lived files of ever new names, also in a tree that has nothing else.
        for live in [1, 20] {
            window = DeleteWindow::default();
            for name in 100..2000 {
                window.appeared(now, Name(name));
                assert_eq!(
                    window.check(now, [Name(name)], live, HALF),
                    Ok(()),
                    "{name}"
                );
                window.vanished(now, Name(name));
                now += 1000;
            }
        }
        assert!(window.gone.at.is_empty() && window.new.at.is_empty());
    }

    #[test]
    fn what_was_unpacked_a_moment_ago_is_guarded_too() {
        let mut window = DeleteWindow::default();
        for name in 0..100 {
            window.appeared(5, Name(name));
            window.size(5, name + 1);
        }
        assert_eq!(window.check(6, names(0..50), 100, HALF), Ok(()));
        let too_many = Vanished::TooMany {
            gone: 51,
            had: 100,
            limit: 50,
        };
        assert_eq!(window.check(6, names(0..51), 100, HALF), Err(too_many));
        // Step by step, and after a person let the first sixty go.
        for name in 0..60 {
            window.vanished(7, Name(name));
        }
        assert!(window.clone().check(8, [Name(60)], 40, HALF).is_err());
        window.excused(60);
        assert_eq!(window.check(8, [Name(60)], 40, HALF), Ok(()));
    }

    #[test]
    fn what_was_accepted_or_is_long_ago_is_forgotten() {
        let mut window = DeleteWindow::default();
        for name in 0..500 {
            window.vanished(5, Name(name));
        }
        let one_more = |window: &mut DeleteWindow, now| window.check(now, [Name(900)], 500, HALF);
        assert!(one_more(&mut window.clone(), 6).is_err());
        assert_eq!(one_more(&mut window.clone(), 5 + WINDOW_NS), Ok(()));
        window.accept();
        assert_eq!(one_more(&mut window, 6), Ok(()));
    }

    proptest! {
        /// Against a log of everything: what only went within the window is counted, what did not go is not.
        #[test]
        fn the_window_counts_what_was_there_and_is_not(
            steps in proptest::collection::vec((0u64..20_000_000_000, 0u64..12), 1..200),
        ) {
            let (mut window, mut now) = (DeleteWindow::default(), WINDOW_NS);
            let mut there: std::collections::BTreeSet<u64> = (0..6).collect();
            // Every change of two windows: when, which, whether it went.
            let mut log: Vec<(u64, u64, bool)> = Vec::new();
            for (wait, name) in steps {
                now += wait;
                let goes = there.contains(&name);
                log.retain(|(at, ..)| at + 2 * WINDOW_NS > now);
                if goes {
                    let left = |n: u64| there.contains(&n) && n != name;
                    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
                    last.extend(log.iter().filter(|(.., went)| *went).map(|(at, n, _)| (*n, *at)));
                    last.insert(name, now);
                    let went = |n: u64| last.get(&n).copied().filter(|at| at + WINDOW_NS > now);
                    // It did not come within a window before it went.
                    let came = |n: u64, at: u64| log.iter().any(|(t, m, went)| *m == n && !went && t + WINDOW_NS > at);
                    let only_went = |n: u64| went(n).is_some_and(|at| !came(n, at));
                    let least = (0..12).filter(|n| !left(*n) && only_went(*n)).count() as u64;
                    let found = window.check(now, [Name(name)], there.len() as u64, MaxDelete::Count(2));
                    match found {
                        Err(Vanished::TooMany { gone, had, .. }) => prop_assert!(gone > 2 && gone <= had),
                        Err(Vanished::Everything { had }) => prop_assert!(there.len() == 1 && had > 0),
                        Ok(()) => prop_assert!(least <= 2 && (there.len() > 1 || least == 0)),
                    }
                    window.vanished(now, Name(name));
                    there.remove(&name);
                } else {
                    window.appeared(now, Name(name));
                    there.insert(name);
                }
                log.push((now, name, goes));
                prop_assert!(window.new.at.len() + window.gone.at.len() <= 12);
            }
        }
    }

    #[test]
    fn what_was_renamed_is_as_old_as_it_was() {
        let path = |path: &str| RelPath::new(path).unwrap();
        let mut window = DeleteWindow::default();
        for n in 0..50 {
            let name = window.name(&path(&format!("new/{n}")));
            window.appeared(0, name);
        }
        window.renamed(1, &path("new"), &path("middle"));
        window.renamed(2, &path("middle"), &path("last"));
        window.renamed(3, &path("old"), &path("new"));
        let count = |window: &mut DeleteWindow, dir: &str| {
            let names = (0..50).map(|n| window.name(&path(&format!("{dir}/{n}"))));
            let names: Vec<_> = names.collect();
            window.size(4, 100);
            window.check(4, names, 1000, MaxDelete::Count(49))
        };
        assert_eq!(count(&mut window, "last"), Ok(()));
        assert!(count(&mut window, "new").is_err());
        // Names are as they are again when nothing from before the renames is remembered.
        window.forget(2 * WINDOW_NS + 3);
        assert_eq!(window.name(&path("last/1")), Name::of(&path("last/1")));
    }
}
