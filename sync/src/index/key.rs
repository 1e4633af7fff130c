//! Keys as bytes, in an order that is that of a walk.

use super::IndexError;
use crate::entry::ContentHash;
use crate::path::RelPath;
use crate::tree::TreeId;

/// Bytes of a tree id in front of every key.
const TREE: usize = 16;

/// `tree, path` with `/` as 0, so that a directory comes directly before its content.
pub(super) fn entry(tree: TreeId, path: &RelPath) -> Vec<u8> {
    let mut key = Vec::with_capacity(TREE + path.as_bytes().len());
    key.extend_from_slice(&tree.0);
    key.extend(
        path.as_bytes()
            .iter()
            .map(|b| if *b == b'/' { 0 } else { *b }),
    );
    key
}

/// Reads [`entry`] back.
pub(super) fn read_entry(key: &[u8]) -> Result<(TreeId, RelPath), IndexError> {
    let damaged = || IndexError::Damaged {
        what: "a key".into(),
    };
    let (tree, path) = key.split_first_chunk::<TREE>().ok_or_else(damaged)?;
    Ok((
        TreeId(*tree),
        RelPath::from_sort_key(path).map_err(|_| damaged())?,
    ))
}

/// The first key after all of `tree`.
pub(super) fn tree_end(tree: TreeId) -> Vec<u8> {
    after_all(tree.0.to_vec())
}

/// The range of everything beneath `dir`, without `dir` itself.
pub(super) fn below(tree: TreeId, dir: &RelPath) -> (Vec<u8>, Vec<u8>) {
    let mut start = entry(tree, dir);
    if dir.is_root() {
        let end = tree_end(tree);
        // Names have at least one byte, and none is 0.
        start.push(1);
        return (start, end);
    }
    let mut end = start.clone();
    start.push(0);
    end.push(1);
    (start, end)
}

/// `dev, ino` in front of a key.
pub(super) fn inode(dev: u64, ino: u64, entry: &[u8]) -> Vec<u8> {
    [&dev.to_be_bytes()[..], &ino.to_be_bytes(), entry].concat()
}

/// A hash in front of a key.
pub(super) fn hash(hash: &ContentHash, entry: &[u8]) -> Vec<u8> {
    [&hash.0[..], entry].concat()
}

/// The first key after all that begin with `prefix`.
pub(super) fn after_all(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if last < 0xff {
            prefix.push(last + 1);
            return prefix;
        }
    }
    // Nothing but 0xff: no key is that long.
    vec![0xff; 256]
}
