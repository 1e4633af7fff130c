//! Nothing is destroyed on the word of an empty or unmounted source (invariant 4): is this the root that it was, and
//! does too much vanish at once? Pure decisions on facts that others gathered.

use crate::identity::{FsId, RootFacts};
use crate::tree::MaxDelete;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// A limit in per cent never fires at or below this many removals: a small tree is often emptied by half.
pub const DELETE_FLOOR: u64 = 100;
/// Removals are counted together while they lie within this time, nanoseconds. A large `rm -rf` arrives in many small
/// batches, at 10 000 removals a second.
pub const WINDOW_NS: u64 = 60_000_000_000;
/// Stretches of the window that are counted separately. Bounds the memory; the window is exact to one stretch.
const STRETCHES: u64 = 60;

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
        "{gone} of {had} entries vanished within a minute, more than the limit of {limit} (max_delete): check, then `tandem tree accept`"
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
    #[error("all {had} entries vanished: the root is empty; check, then `tandem tree accept`")]
    Everything {
        /// There were before.
        had: u64,
    },
}

/// How many of `had` entries may vanish at once.
pub fn limit(max: MaxDelete, had: u64) -> u64 {
    match max {
        MaxDelete::Count(count) => count,
        // Per cent above 100 allow everything.
        MaxDelete::Percent(percent) => {
            let share = u128::from(had) * u128::from(percent) / 100;
            u64::try_from(share).unwrap_or(u64::MAX).max(DELETE_FLOOR)
        }
    }
}

/// Counts what vanished from one tree lately.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteWindow {
    /// Start of a stretch, and how many vanished in it. At most [`STRETCHES`] + 1, oldest first.
    stretches: VecDeque<(u64, u64)>,
}

impl DeleteWindow {
    /// May `gone` more entries vanish at `now` (nanoseconds since boot), when `live` are there before that?
    /// Says it before anything is recorded; then [`DeleteWindow::record`].
    ///
    /// An emptied root counts as such from two entries on: the last file of a tree may be removed.
    pub fn check(&self, now: u64, gone: u64, live: u64, max: MaxDelete) -> Result<(), Vanished> {
        if gone == 0 {
            return Ok(());
        }
        let before: u64 = self.in_window(now).map(|(_, n)| n).sum();
        let (gone, had) = (before.saturating_add(gone), live.saturating_add(before));
        let limit = limit(max, had);
        if gone >= had && had >= 2 {
            return Err(Vanished::Everything { had });
        }
        if gone > limit {
            Err(Vanished::TooMany { gone, had, limit })
        } else {
            Ok(())
        }
    }

    /// `gone` entries vanished at `now`.
    pub fn record(&mut self, now: u64, gone: u64) {
        let length = WINDOW_NS / STRETCHES;
        let start = now - now % length;
        while self
            .stretches
            .front()
            .is_some_and(|(begin, _)| begin.saturating_add(WINDOW_NS) <= now)
        {
            self.stretches.pop_front();
        }
        match self.stretches.back_mut() {
            Some((begin, count)) if *begin >= start => *count = count.saturating_add(gone),
            _ if gone > 0 => self.stretches.push_back((start, gone)),
            _ => {}
        }
    }

    /// A person accepted what happened: counting begins anew.
    pub fn accept(&mut self) {
        self.stretches.clear();
    }

    fn in_window(&self, now: u64) -> impl Iterator<Item = &(u64, u64)> {
        self.stretches
            .iter()
            .filter(move |(begin, _)| begin.saturating_add(WINDOW_NS) > now)
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
            (MaxDelete::Percent(50), 10, 100),
            (MaxDelete::Percent(50), 1000, 500),
            (MaxDelete::Percent(0), 1000, 100),
            (MaxDelete::Percent(200), 1000, 2000),
            (MaxDelete::Count(3), 1000, 3),
            (MaxDelete::Percent(100), u64::MAX, u64::MAX),
        ];
        for (max, had, expected) in table {
            assert_eq!(limit(max, had), expected, "{max:?} {had}");
        }
    }

    #[test]
    fn checks() {
        let half = MaxDelete::Percent(50);
        let check = |gone, live, max| DeleteWindow::default().check(0, gone, live, max);
        assert_eq!(check(0, 0, half), Ok(()));
        assert_eq!(check(1, 1, half), Ok(()), "the last file may go");
        assert_eq!(check(2, 2, half), Err(Vanished::Everything { had: 2 }));
        assert_eq!(check(90, 101, half), Ok(()), "below the floor");
        assert_eq!(check(500, 1000, half), Ok(()));
        assert_eq!(
            check(501, 1000, half),
            Err(Vanished::TooMany {
                gone: 501,
                had: 1000,
                limit: 500
            })
        );
        assert_eq!(
            check(4, 10, MaxDelete::Count(3)),
            Err(Vanished::TooMany {
                gone: 4,
                had: 10,
                limit: 3
            })
        );
    }

    #[test]
    fn many_small_batches_count_together_and_are_forgotten() {
        let (mut window, mut live, mut now) = (DeleteWindow::default(), 1000u64, 5_000_000_000u64);
        let half = MaxDelete::Percent(50);
        for _ in 0..50 {
            assert_eq!(window.check(now, 10, live, half), Ok(()));
            window.record(now, 10);
            (live, now) = (live - 10, now + 100_000_000);
        }
        assert_eq!(
            window.check(now, 1, live, half),
            Err(Vanished::TooMany {
                gone: 501,
                had: 1000,
                limit: 500
            })
        );
        assert_eq!(window.check(now + WINDOW_NS, 1, live, half), Ok(()));
        window.accept();
        assert_eq!(window.check(now, 200, live, half), Ok(()));
    }

    proptest! {
        #[test]
        fn the_window_is_bounded_and_near_exact(steps in proptest::collection::vec((0u64..5_000_000_000, 0u64..50), 0..300)) {
            let (mut window, mut now, mut all) = (DeleteWindow::default(), 0, Vec::new());
            for (wait, gone) in steps {
                now += wait;
                window.record(now, gone);
                all.push((now, gone));
                let sum = |span: u64| all.iter().filter(|(t, _)| t + span > now).map(|(_, n)| n).sum::<u64>();
                let counted: u64 = window.in_window(now).map(|(_, n)| n).sum();
                let stretch = WINDOW_NS / STRETCHES;
                prop_assert!(counted <= sum(WINDOW_NS) && counted >= sum(WINDOW_NS - stretch));
                prop_assert!(window.stretches.len() as u64 <= STRETCHES + 1);
            }
        }
    }
}
