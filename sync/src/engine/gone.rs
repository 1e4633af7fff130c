//! Many paths in little memory: of each only what differs from the one before it.
//!
//! What a walk finds gone may be a million paths, in path order: most share their directory with the one before.

use crate::path::RelPath;

/// Paths in the order in which they were added. Those that were taken stay in memory until all are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gone {
    /// Per path: how many bytes it shares with the one before, how many others it has, and these.
    bytes: Vec<u8>,
    /// The newest path.
    newest: Vec<u8>,
    /// Where the next one to be taken is.
    next: Place,
    /// Not taken yet.
    left: usize,
}

/// How far paths were read.
#[derive(Debug, Clone, Default)]
struct Place {
    at: usize,
    /// The path before.
    before: Vec<u8>,
}

impl Gone {
    /// Adds a path.
    pub fn push(&mut self, path: &RelPath) {
        let path = path.as_bytes();
        let both = self.newest.iter().zip(path);
        let shared = both.take_while(|(one, other)| one == other).count();
        put(&mut self.bytes, shared);
        put(&mut self.bytes, path.len() - shared);
        self.bytes.extend_from_slice(&path[shared..]);
        self.newest.truncate(shared);
        self.newest.extend_from_slice(&path[shared..]);
        self.left += 1;
    }

    /// How many are not taken yet.
    pub fn len(&self) -> usize {
        self.left
    }

    /// None is left.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Those that are not taken yet.
    pub fn iter(&self) -> impl Iterator<Item = RelPath> {
        let mut place = self.next.clone();
        std::iter::from_fn(move || place.read(&self.bytes))
    }

    /// Takes the next ones, at most so many.
    pub fn take(&mut self, most: usize) -> Vec<RelPath> {
        let next = std::iter::from_fn(|| self.next.read(&self.bytes));
        let taken: Vec<RelPath> = next.take(most).collect();
        self.left -= taken.len();
        taken
    }
}

impl Place {
    fn read(&mut self, bytes: &[u8]) -> Option<RelPath> {
        let mut rest = bytes.get(self.at..)?;
        let (shared, others) = (get(&mut rest)?, get(&mut rest)?);
        let others = rest.get(..others)?;
        self.before.truncate(shared);
        self.before.extend_from_slice(others);
        self.at = bytes.len() - rest.len() + others.len();
        // What was added is a path.
        RelPath::from_bytes(&self.before).ok()
    }
}

impl<'p> FromIterator<&'p RelPath> for Gone {
    fn from_iter<I: IntoIterator<Item = &'p RelPath>>(paths: I) -> Self {
        let mut gone = Gone::default();
        paths.into_iter().for_each(|path| gone.push(path));
        gone
    }
}

/// A number in groups of seven bits, the lowest first; the last byte has no high bit.
fn put(bytes: &mut Vec<u8>, mut number: usize) {
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// `None`: there is none any more.
fn get(bytes: &mut &[u8]) -> Option<usize> {
    let mut number = 0;
    // Of a path's length: three groups.
    for shift in [0, 7, 14] {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= usize::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn gone(paths: &[RelPath]) -> Gone {
        paths.iter().collect()
    }

    proptest! {
        #[test]
        fn what_was_added_comes_out_in_order(
            names in prop::collection::vec("[ab]{1,3}(/[ab]{1,200}){0,3}", 0..40),
            steps in prop::collection::vec(0usize..9, 0..20),
        ) {
            let paths: Vec<RelPath> = names.iter().map(|name| RelPath::new(name).unwrap()).collect();
            let mut all = gone(&paths);
            prop_assert_eq!(all.len(), paths.len());
            let mut left = &paths[..];
            for most in steps {
                prop_assert!(all.iter().eq(left.iter().cloned()));
                let taken = all.take(most);
                let (first, rest) = left.split_at(most.min(left.len()));
                prop_assert_eq!(&taken, first);
                left = rest;
                prop_assert_eq!((all.len(), all.is_empty()), (left.len(), left.is_empty()));
            }
        }
    }

    #[test]
    fn the_longest_paths_fit() {
        let component = "x".repeat(crate::path::MAX_COMPONENT);
        let long = [component.as_str(); crate::path::MAX_PATH / 256].join("/");
        let paths = [
            RelPath::root(),
            RelPath::new(&long).unwrap(),
            RelPath::root(),
        ];
        assert!(gone(&paths).iter().eq(paths));
    }

    #[test]
    fn a_hundred_thousand_take_a_megabyte() {
        let mut all = Gone::default();
        for dir in 0..1000 {
            for file in 0..100 {
                let path = format!(
                    "a directory with a long name/{dir:04}/a file of this directory {file:06}"
                );
                all.push(&RelPath::new(path).unwrap());
            }
        }
        assert_eq!(all.len(), 100_000);
        assert!(all.bytes.len() < 1 << 20, "{}", all.bytes.len());
    }
}
