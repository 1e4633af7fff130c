//! Where entries lie in the tables: at the key of their path, but for directories that were renamed as one.
//!
//! A directory with many entries is not written anew when its name changes. Its entries stay where they are, and the new
//! path is written down as leading there. The old path leads to an area of its own from then on, unless it is free again:
//! a directory that is renamed to and fro leaves nothing behind.
//!
//! ```text
//!   path          place             before: mv a b
//!   b/x     ──>   tree a/x          the entries that were of a
//!   a/x     ──>   area 1 /x         what is made as a from now on
//! ```
//! A *place* is where an entry lies, a *key* is that of its path ([`super::key::entry`]); both are compared as bytes, with
//! 0 between the components. Places lead to each other one to one: nothing has two, and no two are the same.

use super::{IndexError, key};
use crate::path::RelPath;
use crate::tree::TreeId;
use serde::{Deserialize, Serialize};

/// Renames that are kept like this. Every access looks through them; with more, a renamed directory is written anew.
pub(super) const MAX_MOVED: usize = 64;
/// The first bytes of an area: no tree's id, for these are random or hashes.
const AREA: [u8; 8] = [0xff; 8];

/// A directory whose entries do not lie at its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Moved {
    /// Key of the directory.
    key: Vec<u8>,
    /// Where it lies.
    place: Vec<u8>,
}

/// All directories that lie elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Places {
    moved: Vec<Moved>,
    /// Areas given out.
    areas: u64,
}

/// A range of keys that lie together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// First place.
    pub start: Vec<u8>,
    /// First place behind it.
    pub end: Vec<u8>,
    /// The place of the directory that lies elsewhere; empty if none does.
    place: Vec<u8>,
    /// Its key.
    key: Vec<u8>,
}

impl Part {
    /// The key of what lies at a place of this part.
    pub fn key(&self, place: &[u8]) -> Vec<u8> {
        [&self.key, &place[self.place.len()..]].concat()
    }
}

impl Places {
    /// Where the entry of a path lies.
    pub fn place(&self, tree: TreeId, path: &RelPath) -> Vec<u8> {
        self.place_of(key::entry(tree, path))
    }

    /// Whose entry lies at a place.
    pub fn read(&self, place: &[u8]) -> Result<(TreeId, RelPath), IndexError> {
        let moved = self
            .moved
            .iter()
            .filter(|m| is_at_or_below(place, &m.place));
        match moved.max_by_key(|m| m.place.len()) {
            None => key::read_entry(place),
            Some(m) => key::read_entry(&[&m.key, &place[m.place.len()..]].concat()),
        }
    }

    fn place_of(&self, key: Vec<u8>) -> Vec<u8> {
        match self.owner(&key) {
            None => key,
            Some(m) => [&m.place, &key[m.key.len()..]].concat(),
        }
    }

    /// The nearest directory at or above a key that lies elsewhere.
    fn owner(&self, key: &[u8]) -> Option<&Moved> {
        let above = self.moved.iter().filter(|m| is_at_or_below(key, &m.key));
        above.max_by_key(|m| m.key.len())
    }

    /// The parts of a range of keys, in the order of the keys.
    pub fn parts(&self, start: Vec<u8>, end: Vec<u8>) -> Vec<Part> {
        let inner = self
            .moved
            .iter()
            .flat_map(|m| [m.key.clone(), behind(&m.key)]);
        let mut borders: Vec<_> = inner.filter(|at| *at > start && *at < end).collect();
        borders.extend([start, end]);
        borders.sort();
        borders.dedup();
        let pairs = borders.windows(2);
        pairs.map(|pair| self.part(&pair[0], &pair[1])).collect()
    }

    /// A range in which no directory that lies elsewhere begins or ends.
    fn part(&self, start: &[u8], end: &[u8]) -> Part {
        let owner = self.owner_of_range(start);
        let (key, place) = owner.map_or((&[][..], &[][..]), |m| (&m.key, &m.place));
        let moved = |at: &[u8]| [place, &at[key.len()..]].concat();
        Part {
            start: moved(start),
            end: moved(end),
            place: place.to_vec(),
            key: key.to_vec(),
        }
    }

    /// Like [`Places::owner`], for the first byte string of a range, which need not be a whole key.
    fn owner_of_range(&self, start: &[u8]) -> Option<&Moved> {
        let holds = |m: &&Moved| *start >= *m.key && *start < *behind(&m.key);
        self.moved.iter().filter(holds).max_by_key(|m| m.key.len())
    }

    /// The directory `from` is at `to` from now on, where nothing lies, with all beneath it. False: there are too many
    /// such already, nothing was changed.
    pub fn rename(&mut self, tree: TreeId, from: &RelPath, to: &RelPath) -> bool {
        if self.moved.len() + 2 > MAX_MOVED {
            return false;
        }
        let (from, to) = (key::entry(tree, from), key::entry(tree, to));
        let place = self.place_of(from.clone());
        // Nothing lies there, so nothing is lost with where it would have lain.
        self.moved
            .retain(|m| m.key != from && !is_at_or_below(&m.key, &to));
        // What lies elsewhere beneath it goes along.
        for m in &mut self.moved {
            if is_at_or_below(&m.key, &from) {
                m.key = [&to, &m.key[from.len()..]].concat();
            }
        }
        self.put(to, place);
        if self.is_taken(&self.place_of(from.clone())) {
            self.areas += 1;
            let area = [AREA, self.areas.to_be_bytes()].concat();
            self.put(from, area);
        }
        true
    }

    /// A place, or one beneath it, is where some other directory lies.
    fn is_taken(&self, place: &[u8]) -> bool {
        self.moved.iter().any(|m| is_at_or_below(&m.place, place))
    }

    /// Writes down where a directory lies, unless that is where it would lie anyway.
    fn put(&mut self, key: Vec<u8>, place: Vec<u8>) {
        if self.place_of(key.clone()) != place {
            self.moved.push(Moved { key, place });
        }
    }

    /// Forgets the directories in which nothing lies any more, as far as that is possible.
    pub fn tidy(
        &mut self,
        is_empty: impl Fn(&[u8], &[u8]) -> Result<bool, IndexError>,
    ) -> Result<(), IndexError> {
        for at in (0..self.moved.len()).rev() {
            let place = &self.moved[at].place;
            if !is_empty(place, &behind(place))? {
                continue;
            }
            let one = self.moved.remove(at);
            if self.is_taken(&self.place_of(one.key.clone())) {
                self.moved.insert(at, one);
            }
        }
        Ok(())
    }
}

fn is_at_or_below(key: &[u8], dir: &[u8]) -> bool {
    key.strip_prefix(dir)
        .is_some_and(|rest| rest.first().is_none_or(|byte| *byte == 0))
}

/// The first bytes behind a directory and all beneath it.
fn behind(dir: &[u8]) -> Vec<u8> {
    [dir, &[1]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WWW: TreeId = TreeId([1; 16]);

    fn p(path: &str) -> RelPath {
        RelPath::new(path).unwrap()
    }

    fn whose(places: &Places, path: &str) -> (TreeId, RelPath) {
        places.read(&places.place(WWW, &p(path))).unwrap()
    }

    #[test]
    fn to_and_fro_leaves_nothing() {
        let mut places = Places::default();
        for _ in 0..2 * MAX_MOVED {
            assert!(places.rename(WWW, &p("a"), &p("b")));
            assert_eq!(places.place(WWW, &p("b/x")), key::entry(WWW, &p("a/x")));
            assert_ne!(places.place(WWW, &p("a/x")), key::entry(WWW, &p("a/x")));
            for path in ["a", "a/x", "b", "b/x", "ab", "c"] {
                assert_eq!(whose(&places, path), (WWW, p(path)));
            }
            assert!(places.rename(WWW, &p("b"), &p("a")));
            assert_eq!(places.moved, []);
        }
    }

    #[test]
    fn there_is_an_end_and_what_is_empty_is_forgotten() {
        let mut places = Places::default();
        let mut n = 0;
        while places.rename(WWW, &p("current"), &p(&format!("old/{n}"))) {
            n += 1;
        }
        assert_eq!(n, MAX_MOVED - 2);
        let kept = places.place(WWW, &p("old/7/x"));
        let is_empty =
            |start: &[u8], end: &[u8]| Ok(kept.as_slice() < start || kept.as_slice() >= end);
        places.tidy(is_empty).unwrap();
        assert_eq!(places.place(WWW, &p("old/7/x")), kept);
        assert!(places.moved.len() <= 2, "{places:?}");
        assert!(places.rename(WWW, &p("current"), &p("old/next")));
    }

    #[test]
    fn a_range_falls_into_parts_in_the_order_of_its_keys() {
        let mut places = Places::default();
        assert!(places.rename(WWW, &p("b"), &p("d/e")));
        let (start, end) = key::below(WWW, &RelPath::root());
        let parts = places.parts(start.clone(), end.clone());
        let keys: Vec<_> = parts.iter().map(|part| part.key(&part.start)).collect();
        let key = |path| key::entry(WWW, &p(path));
        let expected = [
            start,
            key("b"),
            behind(&key("b")),
            key("d/e"),
            behind(&key("d/e")),
        ];
        assert_eq!(keys, expected);
        assert_eq!(parts[3].start, key("b"));
        assert_eq!(parts[4].end, end);
    }
}
