//! Which paths are to be looked at again. A set, not a queue: what changes often is looked at once.
//!
//! A *recursive* path means everything beneath it too (a new directory, a directory of which events were lost) and
//! swallows what is noted beneath it. Beyond the bound the whole tree is to be scanned: nothing is ever dropped.

use crate::path::RelPath;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Most paths that are noted. A scan costs less than looking at so many one by one.
pub const MAX_PATHS: usize = 100_000;
/// Most bytes of these paths: long paths must not take the memory instead.
pub const MAX_BYTES: usize = 16 << 20;

/// One path to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirty {
    /// Where.
    pub path: RelPath,
    /// Everything beneath it too.
    pub recursive: bool,
    /// When the oldest change was noticed, nanoseconds since boot.
    pub since: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Note {
    recursive: bool,
    since: u64,
}

/// The dirty paths of one tree.
#[derive(Debug, Clone, Default)]
pub struct DirtySet {
    /// By [`RelPath::sort_key`], whose prefixes are the directories above: looked up without making paths of them.
    notes: BTreeMap<Vec<u8>, Note>,
    bytes: usize,
    /// How many notes are recursive: mostly none, and then nothing is above anything.
    recursive: usize,
    /// Where the next take begins, so that a busy directory does not keep the others waiting.
    next: Option<Vec<u8>>,
}

impl DirtySet {
    /// Notes a path that changed at `now`. The earliest time of what it swallows, or is swallowed by, is kept.
    pub fn insert(&mut self, path: RelPath, recursive: bool, now: u64) {
        let key = path.sort_key();
        if let Some(above) = self.covering(&key) {
            let above = above.to_vec();
            self.notes
                .entry(above)
                .and_modify(|note| note.since = note.since.min(now));
            return;
        }
        let mut note = Note {
            recursive,
            since: now,
        };
        if recursive {
            note.since = self.swallow(&key).map_or(now, |since| since.min(now));
        }
        if let Some(old) = self.notes.get_mut(&key) {
            old.since = old.since.min(note.since);
            self.recursive += usize::from(recursive && !old.recursive);
            old.recursive |= recursive;
            return;
        }
        self.bytes += key.len();
        self.recursive += usize::from(recursive);
        self.notes.insert(key, note);
        if self.notes.len() > MAX_PATHS || self.bytes > MAX_BYTES {
            self.insert_all(now);
        }
    }

    /// The whole tree is to be scanned.
    pub fn insert_all(&mut self, now: u64) {
        self.insert(RelPath::root(), true, now);
    }

    /// Whether the whole tree is to be scanned.
    pub fn is_all(&self) -> bool {
        self.notes.get(&[][..]).is_some_and(|note| note.recursive)
    }

    /// True if nothing is to be looked at.
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }

    /// How many paths are noted.
    pub fn len(&self) -> usize {
        self.notes.len()
    }

    /// When the oldest noted change was noticed.
    pub fn oldest(&self) -> Option<u64> {
        self.notes.values().map(|note| note.since).min()
    }

    /// Whether `path` is to be looked at, by itself or with a directory above it.
    pub fn contains(&self, path: &RelPath) -> bool {
        let key = path.sort_key();
        self.notes.contains_key(&key) || self.covering(&key).is_some()
    }

    /// Takes out up to `max` paths in path order, going round: each path noted now comes before one comes twice.
    pub fn take(&mut self, max: usize) -> Vec<Dirty> {
        let start = self.next.take().unwrap_or_default();
        let from_start = self
            .notes
            .range(start.clone()..)
            .take(max)
            .map(|(key, _)| key.clone());
        let mut keys: Vec<Vec<u8>> = from_start.collect();
        let left = max - keys.len();
        let round = self
            .notes
            .range(..start)
            .take(left)
            .map(|(key, _)| key.clone());
        keys.extend(round.collect::<Vec<_>>());
        if let Some(last) = keys.last() {
            let after = (Bound::Excluded(last.clone()), Bound::Unbounded);
            self.next = self.notes.range(after).next().map(|(key, _)| key.clone());
        }
        keys.into_iter()
            .filter_map(|key| self.remove(&key))
            .collect()
    }

    fn remove(&mut self, key: &[u8]) -> Option<Dirty> {
        let note = self.notes.remove(key)?;
        self.bytes -= key.len();
        self.recursive -= usize::from(note.recursive);
        // Every key was made from a path, so it can be read back.
        let path = RelPath::from_sort_key(key).ok()?;
        Some(Dirty {
            path,
            recursive: note.recursive,
            since: note.since,
        })
    }

    /// The recursive note above `key`, or on it.
    fn covering<'k>(&self, key: &'k [u8]) -> Option<&'k [u8]> {
        if self.recursive == 0 {
            return None;
        }
        let ends = key
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == 0)
            .map(|(at, _)| at);
        let mut above = std::iter::once(0)
            .chain(ends)
            .chain([key.len()])
            .map(|end| &key[..end]);
        above.find(|dir| self.notes.get(*dir).is_some_and(|note| note.recursive))
    }

    /// Takes out everything beneath `dir`; gives the earliest time of it.
    fn swallow(&mut self, dir: &[u8]) -> Option<u64> {
        let is_below =
            |key: &[u8]| dir.is_empty() || (key.starts_with(dir) && key.get(dir.len()) == Some(&0));
        let after = (Bound::Excluded(dir.to_vec()), Bound::Unbounded);
        let below = self
            .notes
            .range(after)
            .map(|(key, _)| key)
            .take_while(|key| is_below(key))
            .cloned();
        let below: Vec<Vec<u8>> = below.collect();
        below
            .iter()
            .filter_map(|key| self.remove(key))
            .map(|dirty| dirty.since)
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn p(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    fn all(set: &mut DirtySet) -> Vec<(String, bool, u64)> {
        set.take(usize::MAX)
            .into_iter()
            .map(|d| (d.path.to_string(), d.recursive, d.since))
            .collect()
    }

    #[test]
    fn a_directory_swallows_what_lies_beneath() {
        let mut set = DirtySet::default();
        set.insert(p("a/x"), false, 5);
        set.insert(p("a/y/z"), true, 3);
        set.insert(p("ab"), false, 9);
        set.insert(p("a"), true, 7);
        set.insert(p("a/later"), false, 8);
        set.insert(p("a"), false, 2);
        assert_eq!(set.oldest(), Some(2));
        assert!(
            set.contains(&p("a/any/thing")) && set.contains(&p("ab")) && !set.contains(&p("b"))
        );
        assert_eq!(
            all(&mut set),
            [("a".into(), true, 2), ("ab".into(), false, 9)]
        );
        assert!(set.is_empty() && set.bytes == 0);
    }

    #[test]
    fn a_plain_directory_swallows_nothing() {
        let mut set = DirtySet::default();
        set.insert(p("a"), false, 1);
        set.insert(p("a/x"), false, 2);
        set.insert(p("a"), false, 3);
        assert_eq!(
            all(&mut set),
            [("a".into(), false, 1), ("a/x".into(), false, 2)]
        );
    }

    #[test]
    fn too_many_or_too_long_is_the_whole_tree() {
        let mut set = DirtySet::default();
        for n in 0..=MAX_PATHS as u64 {
            set.insert(p(&format!("f{n}")), false, 10 + n);
        }
        assert!(set.is_all());
        assert_eq!(all(&mut set), [(".".into(), true, 10)]);
        let long = vec![b"x".repeat(200); 300].join(&b'/');
        let mut n = 0;
        while !set.is_all() {
            n += 1;
            set.insert(
                RelPath::new(&long)
                    .unwrap()
                    .join(n.to_string().as_bytes())
                    .unwrap(),
                false,
                1,
            );
            assert!(n <= MAX_BYTES / long.len() + 1);
        }
        assert_eq!(set.len(), 1);
    }

    #[test]
    fn a_busy_path_does_not_keep_the_others_waiting() {
        let mut set = DirtySet::default();
        for name in ["a", "b", "c"] {
            set.insert(p(name), false, 1);
        }
        let mut order = Vec::new();
        for _ in 0..4 {
            order.push(set.take(1)[0].path.to_string());
            set.insert(p("a"), false, 2);
        }
        assert_eq!(order, ["a", "b", "c", "a"]);
    }

    fn any_path() -> impl Strategy<Value = RelPath> {
        proptest::collection::vec("[ab]", 0..4)
            .prop_map(|c| RelPath::from_bytes(c.join("/").as_bytes()).unwrap())
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_no_time_gets_later(
            inserts in proptest::collection::vec((any_path(), any::<bool>(), 0u64..100), 0..40),
            step in 1usize..5,
        ) {
            let mut set = DirtySet::default();
            for (path, recursive, now) in &inserts {
                set.insert(path.clone(), *recursive, *now);
                prop_assert!(set.contains(path));
            }
            let bytes: usize = set.notes.keys().map(Vec::len).sum();
            prop_assert_eq!(set.bytes, bytes);
            prop_assert_eq!(set.recursive, set.notes.values().filter(|note| note.recursive).count());
            let mut taken = Vec::new();
            while !set.is_empty() {
                let some = set.take(step);
                prop_assert!(!some.is_empty() && some.len() <= step);
                taken.extend(some);
            }
            for (path, recursive, now) in &inserts {
                let covers = |d: &&Dirty| {
                    (d.path == *path && (d.recursive || !recursive)) || (d.recursive && path.is_at_or_below(&d.path))
                };
                let found = taken.iter().find(covers);
                prop_assert!(found.is_some_and(|d| d.since <= *now), "{} {:?}", path, taken);
            }
            let nested = |a: &Dirty, b: &Dirty| a.recursive && b.path.is_below(&a.path);
            prop_assert!(!taken.iter().any(|a| taken.iter().any(|b| nested(a, b))), "nothing twice: {:?}", taken);
        }
    }
}
