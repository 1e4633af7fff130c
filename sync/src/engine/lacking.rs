//! Paths that were applied without an attribute that cannot be set here: an ACL on a mount without them, a value that is too
//! large for the file system, an owner that is refused. The index has what the source has; what lies here lacks it.
//!
//! They are kept in the index, so that a restart forgets none, and asked for again from time to time: applied once more,
//! each has all of its attributes or stays on the list. On a node that took over, what is on the list is no change that
//! somebody made: what a file lacks stays part of the pair's data, until something else is set here.

use super::beyond::{MAX_HELD, Others};
use super::clock::{self, ms};
use super::look::Sight;
use super::tree::{Tree, Wrong};
use super::worker::Worker;
use crate::entry::{ContentHash, Meta, State};
use crate::index::{IndexError, Snapshot};
use crate::meta;
use crate::path::RelPath;
use crate::tree::TreeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Bound;

/// Between two rounds in which nothing was mended. Each asks the source for a few records.
const PAUSE: u64 = ms(if cfg!(test) { 200 } else { 60_000 });
/// Paths that a round asks for: little beside what is replicated, and all of [`MAX_HELD`] within the hour. When one is
/// mended, the next round follows at once.
const ROUND: usize = 256;

/// What a path lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lack {
    /// For the operator.
    why: String,
    /// Mode, owner and group as they lie here, if the source's are others.
    own: Option<[u32; 3]>,
    /// Extended attributes that are not the source's here, with the hash of what lies here.
    xattrs: BTreeMap<Vec<u8>, Option<ContentHash>>,
}

impl Lack {
    pub fn new(why: String, want: &Meta, is: &Meta) -> Lack {
        let own = |meta: &Meta| [meta.mode, meta.uid, meta.gid];
        let names = want.xattrs.keys().chain(is.xattrs.keys());
        let differ = names.filter(|name| want.xattrs.get(*name) != is.xattrs.get(*name));
        Lack {
            why,
            own: (own(want) != own(is)).then(|| own(is)),
            xattrs: differ.map(|name| (name.clone(), hash(is, name))).collect(),
        }
    }

    /// What is meant by what lies here: where it is as it was left, what the pair has.
    fn as_meant(&self, known: &Meta, mut is: Meta) -> Meta {
        if self.own == Some([is.mode, is.uid, is.gid]) {
            (is.mode, is.uid, is.gid) = (known.mode, known.uid, known.gid);
        }
        // A mode that somebody sets says what an access ACL may: it counts, without the ACL.
        let moded = is.mode != known.mode;
        let left = |name: &&Vec<u8>| {
            let counts = moded && name.as_slice() == meta::ACCESS;
            !counts && self.xattrs.get(*name) == Some(&hash(&is, name))
        };
        let left: Vec<&Vec<u8>> = self.xattrs.keys().filter(left).collect();
        let mut xattrs: BTreeMap<_, _> = is.xattrs.clone().into();
        for name in left {
            match known.xattrs.get(name) {
                Some(value) => drop(xattrs.insert(name.clone(), value.clone())),
                None => drop(xattrs.remove(name)),
            }
        }
        // Both kept the bound; what is beyond it together is taken as it lies here.
        if let Ok(xattrs) = xattrs.try_into() {
            is.xattrs = xattrs;
        }
        is
    }
}

fn hash(meta: &Meta, name: &[u8]) -> Option<ContentHash> {
    meta.xattrs.get(name).map(|value| ContentHash::of(value))
}

/// Those of a tree.
#[derive(Debug, Default)]
pub(crate) struct Lacking {
    paths: BTreeMap<RelPath, Lack>,
    /// More of them.
    pub others: Others,
    /// The durable list is another one.
    moved: bool,
    /// The last that was asked for.
    after: Option<RelPath>,
    /// When the next round is (CLOCK_BOOTTIME nanoseconds).
    round_at: u64,
}

impl Lacking {
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.others.is_empty()
    }

    pub fn contains(&self, path: &RelPath) -> bool {
        self.paths.contains_key(path)
    }

    /// Each with its reason.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&RelPath, &str)> {
        self.paths.iter().map(|(path, lack)| (path, &*lack.why))
    }

    /// A path lacks something. The source told of it under this number (0: of another one).
    fn note(&mut self, path: &RelPath, lack: Lack, seq: u64, now: u64) {
        if self.paths.is_empty() {
            self.round_at = now.saturating_add(PAUSE);
        }
        if let Some(known) = self.paths.get_mut(path) {
            self.moved |= *known != lack;
            *known = lack;
        } else if self.paths.len() < MAX_HELD {
            self.paths.insert(path.clone(), lack);
            self.moved = true;
        } else {
            self.others.met(seq);
        }
    }

    /// A path lacks nothing any more, or nothing lies there: others may be in order now too.
    pub fn done(&mut self, path: &RelPath) {
        if self.paths.remove(path).is_some() {
            (self.moved, self.round_at) = (true, 0);
            self.others.want();
        }
    }

    /// What is to be asked for now.
    fn round(&mut self, now: u64) -> Vec<RelPath> {
        if now < self.round_at {
            return Vec::new();
        }
        self.round_at = now.saturating_add(PAUSE);
        let from = self
            .after
            .as_ref()
            .map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.paths.range::<RelPath, _>((from, Bound::Unbounded));
        let paths: Vec<RelPath> = rest.take(ROUND).map(|(path, _)| path.clone()).collect();
        self.after = paths.last().filter(|_| paths.len() == ROUND).cloned();
        paths
    }

    /// The list, if it must be written.
    pub fn to_write(&self) -> Option<BTreeMap<RelPath, Lack>> {
        self.moved.then(|| self.paths.clone())
    }

    /// It is durable.
    pub fn written(&mut self) {
        self.moved = false;
    }

    /// What is meant by what is seen at a path.
    pub fn as_meant(&self, known: Option<&State>, sight: &Sight) -> Option<State> {
        let (lack, known) = (self.paths.get(&sight.path)?, known?);
        let is = sight.state.as_ref().filter(|is| is_kind(is, known))?;
        let meta = lack.as_meant(&known.meta, is.meta.clone());
        let kind = is.kind.clone();
        Some(State { kind, meta })
    }
}

/// Whether both are regular files, or directories, and so on.
fn is_kind(a: &State, b: &State) -> bool {
    std::mem::discriminant(&a.kind) == std::mem::discriminant(&b.kind)
}

impl Tree {
    /// What lies here on a node that writes is what somebody made of it: as it is meant, with what it lacks.
    pub fn as_meant(&mut self, index: &Snapshot, sights: &mut [Sight]) -> Result<(), IndexError> {
        for sight in sights {
            if !self.lacking.contains(&sight.path) {
                continue;
            }
            let known = index.get(self.id, &sight.path)?.and_then(|e| e.current);
            let meant = self.lacking.as_meant(known.as_ref(), sight);
            if meant.is_some() && meant != sight.state {
                sight.state = meant;
            } else {
                // It has everything that it is to have here, or is something else.
                self.is_complete(&sight.path);
            }
        }
        Ok(())
    }
}

impl Worker {
    /// Paths that lacked something when a former process met them.
    pub(super) fn load_lacking(&mut self) {
        let Ok(snapshot) = self.shared.index.snapshot() else {
            return;
        };
        for tree in &mut self.trees {
            let known = snapshot.value(&lacking_key(tree.id)).ok().flatten();
            tree.lacking.paths = known.unwrap_or_default();
            tree.lacking.written();
            for (path, lack) in &tree.lacking.paths {
                tree.errors
                    .entry(path.clone())
                    .or_insert_with(|| Wrong::Incomplete(lack.why.clone()));
                tree.last_error
                    .get_or_insert_with(|| format!("{path}: {}", lack.why));
            }
        }
    }

    /// Notes what could not be set on a path, which the source wants so.
    pub(super) fn note_lack(
        &mut self,
        at: usize,
        path: &RelPath,
        (want, seq): (Option<Meta>, u64),
        why: String,
    ) {
        let open = self.trees[at].open.as_ref();
        let is = open.and_then(|open| meta::read(&open.root, path).ok().flatten());
        let is = is.map(|seen| seen.meta);
        // Of what cannot be read only the reason is known.
        let lack = match want.zip(is) {
            Some((want, is)) => Lack::new(why.clone(), &want, &is),
            None => Lack {
                why: why.clone(),
                own: None,
                xattrs: BTreeMap::new(),
            },
        };
        let tree = &mut self.trees[at];
        tree.wrong(path, Wrong::Incomplete(why));
        tree.lacking.note(path, lack, seq, clock::now());
    }

    /// Asks again for what lacks something.
    pub(super) fn try_lacking(&mut self) {
        let (now, mut told_again) = (clock::now(), false);
        for at in 0..self.trees.len() {
            let tree = &mut self.trees[at];
            told_again |= tree.moves() && tree.lacking.others.falls_due(now);
            // Without a source it would only wait for one.
            if !tree.moves() || !tree.receives || self.receiving.is_none() {
                continue;
            }
            let paths = tree.lacking.round(now);
            if !paths.is_empty()
                && let Err(error) = self.list_as_is(at, paths)
            {
                self.index_failed(&error);
            }
        }
        if told_again {
            tracing::info!(
                "more paths lack attributes than are known by name: asking for all of them"
            );
            self.end_session();
        }
    }
}

/// Where the paths that lack something are kept in the index.
pub(super) fn lacking_key(tree: TreeId) -> String {
    format!("lacking/{tree}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(uid: u32, xattrs: &[(&str, &str)]) -> Meta {
        let xattrs = xattrs.iter();
        let xattrs: BTreeMap<Vec<u8>, Vec<u8>> =
            xattrs.map(|(n, v)| ((*n).into(), (*v).into())).collect();
        Meta {
            mode: 0o644,
            uid,
            gid: 0,
            mtime_ns: 1,
            xattrs: xattrs.try_into().unwrap(),
        }
    }

    #[test]
    fn what_is_as_it_was_left_is_meant_as_the_pair_has_it() {
        let want = attributes(
            7,
            &[("user.large", "new"), ("user.new", "1"), ("user.set", "2")],
        );
        let left = attributes(0, &[("user.large", "old"), ("user.set", "2")]);
        let lack = Lack::new("why".into(), &want, &left);
        let meant = |is: Meta| lack.as_meant(&want, is);
        assert_eq!(meant(left.clone()), want);
        // A change of something else is one, and nothing is taken away by it.
        let is = attributes(0, &[("user.large", "old")]);
        let all = [("user.large", "new"), ("user.new", "1")];
        assert_eq!(meant(is), attributes(7, &all));
        // What somebody sets counts.
        let is = attributes(9, &[("user.large", "own"), ("user.new", "own")]);
        assert_eq!(meant(is.clone()), is);
        assert_eq!(meant(want.clone()), want);
        // A mode would be undone by the ACL.
        let acl = std::str::from_utf8(meta::ACCESS).unwrap();
        let (want, left) = (attributes(0, &[(acl, "acl")]), attributes(0, &[]));
        let lack = Lack::new("why".into(), &want, &left);
        assert_eq!(lack.as_meant(&want, left.clone()), want);
        let is = Meta {
            mode: 0o600,
            ..left
        };
        assert_eq!(lack.as_meant(&want, is.clone()), is);
    }

    #[test]
    fn rounds_come_to_every_path_and_follow_at_once_while_something_is_mended() {
        let path = |n: usize| RelPath::new(format!("f{n}")).unwrap();
        let lack = Lack::new("why".into(), &attributes(1, &[]), &attributes(0, &[]));
        let mut lacking = Lacking::default();
        for n in 0..MAX_HELD + 2 {
            lacking.note(&path(n), lack.clone(), 5, 1);
        }
        assert_eq!(
            (lacking.iter().len(), lacking.others.times()),
            (MAX_HELD, 2)
        );
        assert!(lacking.round(1).is_empty(), "they were just met");
        assert_eq!(lacking.round(1 + PAUSE).len(), MAX_HELD);
        assert!(lacking.round(2 + PAUSE).is_empty());
        lacking.done(&path(0));
        assert_eq!(lacking.round(2 + PAUSE).len(), MAX_HELD - 1);
        assert!(lacking.to_write().is_some());
    }
}
