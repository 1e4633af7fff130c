//! Paths that are to be looked at again at a time.

use crate::path::RelPath;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

/// A path that is looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Again {
    /// When (CLOCK_BOOTTIME nanoseconds). `None`: it is marked.
    pub at: Option<u64>,
    /// How often it was not at rest.
    pub tries: u32,
    /// The change (nanoseconds of the wall clock) whose key the index has, and which proves nothing.
    pub young: Option<i128>,
}

impl Again {
    /// The key that the index has proves nothing.
    pub fn is_young(&self) -> bool {
        self.young.is_some()
    }
}

/// Such paths, in order of their names and of their times: there may be many, and the worker asks at each step which one is next.
#[derive(Debug, Default)]
pub(crate) struct Later {
    paths: BTreeMap<RelPath, Again>,
    /// Those that have a time.
    times: BTreeSet<(u64, RelPath)>,
}

impl Deref for Later {
    type Target = BTreeMap<RelPath, Again>;

    fn deref(&self) -> &Self::Target {
        &self.paths
    }
}

impl Later {
    /// Adds a path, or changes what is known of it.
    pub fn put(&mut self, path: RelPath, again: Again) {
        self.remove(&path);
        if let Some(at) = again.at {
            self.times.insert((at, path.clone()));
        }
        self.paths.insert(path, again);
    }

    /// It waits no more.
    pub fn remove(&mut self, path: &RelPath) {
        if let Some((path, again)) = self.paths.remove_entry(path)
            && let Some(at) = again.at
        {
            self.times.remove(&(at, path));
        }
    }

    /// Keeps some.
    pub fn retain(&mut self, keeps: impl Fn(&RelPath, &Again) -> bool) {
        self.paths.retain(|path, again| keeps(path, again));
        let paths = &self.paths;
        self.times.retain(|(_, path)| paths.contains_key(path));
    }

    /// None waits any more.
    pub fn clear(&mut self) {
        *self = Later::default();
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<u64> {
        self.times.first().map(|(at, _)| *at)
    }

    /// Those that are due: they have no time any more, and stay until they were found at rest.
    pub fn due(&mut self, now: u64) -> Vec<RelPath> {
        let mut due = Vec::new();
        while let Some((at, path)) = self.times.pop_first() {
            if at > now {
                self.times.insert((at, path));
                break;
            }
            if let Some(again) = self.paths.get_mut(&path) {
                again.at = None;
            }
            due.push(path);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Put(u8, Option<u64>),
        Remove(u8),
        Retain(u8),
        Due(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..8u8, proptest::option::of(0..20u64)).prop_map(|(n, at)| Step::Put(n, at)),
            (0..8u8).prop_map(Step::Remove),
            (0..8u8).prop_map(Step::Retain),
            (0..20u64).prop_map(Step::Due),
        ]
    }

    proptest! {
        /// Against looking at all of them.
        #[test]
        fn the_next_one_is_the_first_of_all(steps in proptest::collection::vec(step(), 0..50)) {
            let path = |n: u8| RelPath::new(format!("{n}")).unwrap();
            let mut later = Later::default();
            for step in steps {
                match step {
                    Step::Put(n, at) => later.put(path(n), Again { at, ..Again::default() }),
                    Step::Remove(n) => later.remove(&path(n)),
                    Step::Retain(n) => later.retain(|kept, _| *kept != path(n)),
                    Step::Due(now) => {
                        let is_due = |again: &Again| again.at.is_some_and(|at| at <= now);
                        let all = later.iter().filter(|(_, again)| is_due(again));
                        let all: BTreeSet<RelPath> = all.map(|(path, _)| path.clone()).collect();
                        prop_assert_eq!(later.due(now).into_iter().collect::<BTreeSet<_>>(), all.clone());
                        prop_assert!(all.iter().all(|path| later[path].at.is_none()));
                    }
                }
                prop_assert_eq!(later.next(), later.values().filter_map(|again| again.at).min());
                let timed = later.values().filter(|again| again.at.is_some()).count();
                prop_assert_eq!(later.times.len(), timed);
            }
        }
    }
}
