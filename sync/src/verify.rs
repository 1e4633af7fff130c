//! Comparing the contents of both sides, freshly read on both.
//!
//! The source sends what it reads now, part by part in path order; the replica reads the same paths and answers with what
//! differs. Changes that are on their way look like differences, so the source asks again about differing paths
//! after a flush before it believes them.

use crate::commit::holds_only;
use crate::engine::paced::Paced;
use crate::engine::shared::Shared;
use crate::entry::{Kind, State};
use crate::fault::Fault;
use crate::meta::{self, What};
use crate::path::RelPath;
use crate::tree::Deletes;
use crate::wire::{Differs, LIST_BYTES, VerifyAnswer, VerifyPart};
use std::collections::BTreeSet;

/// Most differences of one answer.
const MOST: usize = 2 * crate::wire::MAX_PATHS;

/// Compares a part with what lies here, as long as somebody waits for the answer. What is read no further counts as
/// unreadable: the caller has nobody to tell.
pub(crate) fn compare(
    shared: &Shared,
    part: &VerifyPart,
    ended: &dyn Fn() -> bool,
) -> VerifyAnswer {
    let mut differences = Vec::new();
    let trees = shared.trees();
    let (Some(open), Some(config)) = (
        shared.roots.get(part.tree),
        trees.iter().find(|t| t.id() == part.tree),
    ) else {
        let all = part
            .entries
            .iter()
            .map(|e| (e.path.clone(), Differs::Unreadable));
        return VerifyAnswer {
            id: part.id,
            differences: all.collect(),
        };
    };
    let ours = |path: &RelPath, dir: bool| {
        !config.protect.covers(path, dir) && !config.exclude.covers(path, dir)
    };
    let mut paced = Paced::until(part.per_second, ended);
    let mut named = BTreeSet::new();
    for entry in &part.entries {
        named.insert(&entry.path);
        let is_dir = entry.state.kind.is_dir();
        if !ours(&entry.path, is_dir) {
            continue;
        }
        let unknown = entry.names.as_ref().map(|_| Differs::Metadata);
        let how = differs(&open.root, &entry.path, &entry.state, &mut paced).or(unknown);
        differences.extend(how.map(|how| (entry.path.clone(), how)));
    }
    // What the index has as gone and is there stays by the rules of this node.
    let index = shared.index.snapshot().ok();
    let kept = |path: &RelPath| {
        let entry = index.as_ref().map(|index| index.get(part.tree, path));
        let gone =
            matches!(entry, Some(Ok(entry)) if entry.as_ref().is_none_or(|e| e.current.is_none()));
        let outside = |path: &RelPath, dir| !ours(path, dir);
        gone && (config.deletes == Deletes::Keep || holds_only(&open.root, path, &outside))
    };
    let there = |path: &RelPath| matches!(open.root.stat(path), Ok(Some(_)));
    for path in &part.absent {
        if ours(path, false) && there(path) && !kept(path) {
            differences.push((path.clone(), Differs::Extra));
        }
    }
    if let Some((after, to)) = &part.range {
        let from = after.clone().unwrap_or_else(RelPath::root);
        // Those that are named came in one message, so they fit in one.
        let mut bytes = 0;
        let rows = shared
            .index
            .snapshot()
            .and_then(|s| s.entries(part.tree, &from));
        for (path, entry) in rows.into_iter().flatten().map_while(Result::ok) {
            let full = differences.len() >= MOST || bytes >= LIST_BYTES;
            if to.as_ref().is_some_and(|to| path > *to) || full {
                break;
            }
            let is_dir = entry.current.as_ref().is_some_and(|s| s.kind.is_dir());
            let unnamed = after.as_ref() != Some(&path) && !named.contains(&path);
            if entry.current.is_some() && unnamed && ours(&path, is_dir) && there(&path) {
                bytes += path.as_bytes().len();
                differences.push((path, Differs::Extra));
            }
        }
    }
    differences.truncate(MOST);
    VerifyAnswer {
        id: part.id,
        differences,
    }
}

/// How what lies at a path differs from `theirs`; `None`: it does not.
fn differs(
    root: &crate::beneath::Root,
    path: &RelPath,
    theirs: &State,
    paced: &mut Paced<'_>,
) -> Option<Differs> {
    let seen = match meta::read(root, path) {
        Ok(Some(seen)) => seen,
        Ok(None) | Err(Fault::Missing | Fault::NotBeneath) => return Some(Differs::Missing),
        Err(_) => return Some(Differs::Unreadable),
    };
    if let (Kind::HardLink { to }, What::File(_)) = (&theirs.kind, &seen.what) {
        let first = root.stat(to).ok().flatten();
        let same = first.is_some_and(|f| (f.dev, f.ino) == (seen.stat.dev, seen.stat.ino));
        return (!same).then_some(Differs::Kind);
    }
    let content = match seen.what {
        What::File(_) => match paced.hash(root, path) {
            Some(hash) => Some(hash),
            None => return Some(Differs::Unreadable),
        },
        _ => None,
    };
    let Some(mine) = seen.state(content) else {
        return Some(Differs::Kind);
    };
    if mine.kind.name() != theirs.kind.name() {
        return Some(Differs::Kind);
    }
    if mine.kind != theirs.kind {
        return Some(Differs::Content);
    }
    (mine.meta != theirs.meta).then_some(Differs::Metadata)
}
