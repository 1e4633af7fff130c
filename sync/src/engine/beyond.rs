//! Paths that do not follow the source, beyond those that are kept by name.
//!
//! By name at most [`MAX_HELD`] of a tree are kept. Of the others it is durable how often one was met, and behind which number the
//! source told of them. When their reason may be gone, the next session has the source tell of everything behind that
//! number once more: what is equal costs a record, and what could not follow does now. So a bounded list forgets nothing.

use super::clock::ms;
use super::tree::{MAX_NAMED, Tree};
use super::worker::Worker;
use crate::index::{IndexError, Snapshot, Writer};
use crate::tree::TreeId;
use serde::{Deserialize, Serialize};

/// Paths of a tree that are kept by name.
pub(super) const MAX_HELD: usize = if cfg!(test) { 12 } else { MAX_NAMED };
/// Between two such passes: each ends the session.
const PAUSE: u64 = ms(if cfg!(test) { 500 } else { 60_000 });
/// Some of the others may be free although none that is known by name is.
const EVERY: u64 = ms(3_600_000);

/// What is durable of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Beyond {
    /// How often one was met. A path may be counted twice.
    times: u64,
    /// The source told of all of them behind this number.
    after: u64,
}

impl Beyond {
    fn with(self, other: Beyond) -> Beyond {
        Beyond {
            times: self.times.saturating_add(other.times),
            after: self.after.min(other.after),
        }
    }
}

/// Those of one tree that do not follow for one reason.
#[derive(Debug, Default)]
pub(crate) struct Others {
    /// Met since the last pass began.
    met: Option<Beyond>,
    /// Those that the pass which runs is for.
    asked: Option<Beyond>,
    /// Where one is due.
    pass: Pass,
    /// When the last one was asked for, or the first was looked at (CLOCK_BOOTTIME nanoseconds).
    asked_at: Option<u64>,
    /// Not what the index knows.
    moved: bool,
}

/// Whether the source is to tell of them again.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// There is no reason to.
    #[default]
    No,
    /// Some may follow now.
    Wanted,
    /// With the next session.
    Due,
}

impl Others {
    /// One more, told under this number.
    pub fn met(&mut self, seq: u64) {
        let one = Beyond {
            times: 1,
            after: seq.saturating_sub(1),
        };
        self.met = Some(self.met.map_or(one, |met| met.with(one)));
        self.moved = true;
    }

    fn all(&self) -> Option<Beyond> {
        match (self.met, self.asked) {
            (Some(met), Some(asked)) => Some(met.with(asked)),
            (one, other) => one.or(other),
        }
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.met.is_none() && self.asked.is_none()
    }

    /// How often one was met.
    pub fn times(&self) -> u64 {
        self.all().map_or(0, |all| all.times)
    }

    /// Their reason may be gone for some.
    pub fn want(&mut self) {
        if self.met.is_some() && self.pass == Pass::No {
            self.pass = Pass::Wanted;
        }
    }

    /// Whether a pass is due now that was not: the session is to end.
    pub fn falls_due(&mut self, now: u64) -> bool {
        if self.met.is_none() || self.asked.is_some() || self.pass == Pass::Due {
            return false;
        }
        let waited = now.saturating_sub(*self.asked_at.get_or_insert(now));
        let pause = match self.pass {
            Pass::Wanted => PAUSE,
            Pass::No | Pass::Due => EVERY,
        };
        if waited < pause {
            return false;
        }
        (self.pass, self.asked_at) = (Pass::Due, Some(now));
        true
    }

    /// A session begins: behind which number the source has to tell again. One that was cut begins anew.
    fn begin(&mut self) -> Option<u64> {
        if self.pass != Pass::Due && self.asked.is_none() {
            return None;
        }
        self.asked = self.all();
        (self.met, self.pass) = (None, Pass::No);
        self.asked.map(|asked| asked.after)
    }

    /// The source has told of everything.
    fn end(&mut self) {
        self.moved |= self.asked.take().is_some();
    }

    fn load(&mut self, known: Option<Beyond>) {
        *self = Others {
            met: known,
            // What kept them may have changed meanwhile.
            pass: if known.is_some() { Pass::Due } else { Pass::No },
            ..Others::default()
        };
    }

    fn write(&self, w: &mut Writer<'_>, name: &str) -> Result<(), IndexError> {
        match self.all() {
            Some(all) => w.put_value(name, &all),
            None => w.remove_value(name),
        }
    }
}

/// Where those are kept in the index that a flag protects, those that a filter of this node does, and those that lack something.
fn names(tree: TreeId) -> [String; 3] {
    ["flags", "filters", "attributes"].map(|why| format!("beyond-{why}/{tree}"))
}

impl Tree {
    /// In the order of their names.
    fn others(&self) -> [&Others; 3] {
        [
            &self.flagged_others,
            &self.skipped_others,
            &self.lacking.others,
        ]
    }

    fn others_mut(&mut self) -> [&mut Others; 3] {
        [
            &mut self.flagged_others,
            &mut self.skipped_others,
            &mut self.lacking.others,
        ]
    }
}

impl Worker {
    /// What a former process met.
    pub(super) fn load_beyond(&mut self) {
        let Ok(snapshot) = self.shared.index.snapshot() else {
            return;
        };
        let read = |name: &str, snapshot: &Snapshot| snapshot.value(name).ok().flatten();
        for tree in &mut self.trees {
            let names = names(tree.id);
            for (others, name) in tree.others_mut().into_iter().zip(&names) {
                others.load(read(name, &snapshot));
            }
        }
    }

    /// Before this node accepts: per tree, behind which number it wants to be told again.
    pub(super) fn begin_passes(&mut self) -> Vec<(TreeId, u64)> {
        // What is spooled is applied first.
        if self.shared.held() || self.shared.spooled() > 0 {
            return Vec::new();
        }
        let mut all = Vec::new();
        for tree in self.trees.iter_mut().filter(|tree| tree.moves()) {
            // Each of them begins.
            let after = tree.others_mut().map(Others::begin);
            let after = after.into_iter().flatten().min();
            all.extend(after.map(|after| (tree.id, after)));
        }
        all
    }

    /// The source has told of everything that it has, of these trees.
    pub(super) fn end_passes(&mut self, comes: impl Fn(TreeId) -> bool) {
        for tree in self.trees.iter_mut().filter(|tree| comes(tree.id)) {
            tree.others_mut().into_iter().for_each(Others::end);
        }
    }

    /// Whether a pass runs that an answer of the source can end.
    pub(super) fn a_pass_runs(&self) -> bool {
        let asked = |others: &Others| others.asked.is_some();
        let mut trees = self.trees.iter();
        trees.any(|tree| tree.others().into_iter().any(asked))
    }

    /// Writes what the index does not know.
    pub(super) fn write_beyond(&self, w: &mut Writer<'_>) -> Result<(), IndexError> {
        for tree in &self.trees {
            let names = names(tree.id);
            let all = tree.others().into_iter().zip(&names);
            for (others, name) in all.filter(|(others, _)| others.moved) {
                others.write(w, name)?;
            }
        }
        Ok(())
    }

    /// It knows now.
    pub(super) fn beyond_written(&mut self) {
        for others in self.trees.iter_mut().flat_map(Tree::others_mut) {
            others.moved = false;
        }
    }

    /// This node writes from here on, and what a flag kept old is its version. Which paths those are is not known: whoever receives from
    /// it compares everything of the tree.
    pub(super) fn own_beyond(
        &self,
        w: &mut Writer<'_>,
        root: impl Fn(&mut Writer<'_>, TreeId) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        for tree in self.trees.iter().filter(|t| !t.flagged_others.is_empty()) {
            // The root gets a new number: nobody who does not have that has what lies here.
            root(w, tree.id)?;
            w.raise_floor(tree.id, w.last_seq() + 1)?;
            w.remove_value(&names(tree.id)[0])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_asks_from_the_lowest_and_ends_what_it_was_for() {
        let mut others = Others::default();
        others.want();
        assert!(others.is_empty() && !others.falls_due(EVERY));
        others.met(9);
        others.met(5);
        others.met(7);
        assert_eq!((others.times(), others.begin()), (3, None));
        assert!(
            !others.falls_due(PAUSE) && !others.falls_due(2 * PAUSE),
            "none is free"
        );
        others.want();
        assert!(others.falls_due(2 * PAUSE) && !others.falls_due(2 * PAUSE));
        assert_eq!(others.begin(), Some(4));
        // One is met again; a session that was cut asks for all of them once more.
        others.met(7);
        assert_eq!(others.begin(), Some(4));
        others.met(7);
        others.end();
        assert_eq!((others.times(), others.is_empty()), (1, false));
        others.want();
        assert!(!others.falls_due(2 * PAUSE) && others.falls_due(3 * PAUSE));
        assert_eq!(others.begin(), Some(6));
        others.end();
        assert!(others.is_empty() && !others.falls_due(u64::MAX));
    }

    #[test]
    fn those_of_a_former_process_are_asked_for_with_the_first_session() {
        let mut others = Others::default();
        others.load(Some(Beyond { times: 2, after: 3 }));
        assert_eq!((others.times(), others.begin()), (2, Some(3)));
        let mut none = Others::default();
        none.load(None);
        assert_eq!(none.begin(), None);
    }
}
