//! Is this the root that it was?

use crate::identity::{FsId, RootFacts};
use serde::{Deserialize, Serialize};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Marker;

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
}
