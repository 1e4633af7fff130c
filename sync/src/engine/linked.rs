//! Files with several names: the first name in path order carries the content, the others point to it.

use super::dirty::Dirt;
use super::look::{Looker, Sight, Sights};
use super::restless::Inode;
use crate::entry::{ContentHash, IndexEntry, Kind, LocalKey, State};
use crate::hash::Once;
use crate::index::IndexError;
use crate::path::RelPath;
use std::collections::{BTreeMap, BTreeSet};

/// Most names of one file that the index is asked for. Of a file with more, further names may be separate files on the other
/// side.
const MAX_NAMES: usize = 4096;

/// Files with several names that were met in one round of looks.
#[derive(Default)]
pub(super) struct Names {
    groups: BTreeMap<Inode, Group>,
    /// What was read of them.
    pub once: Once,
}

/// Names of one file.
struct Group {
    /// Those that were looked at.
    looked_at: BTreeSet<RelPath>,
    /// What the last look saw.
    key: LocalKey,
    state: State,
    local: Option<LocalKey>,
}

impl Names {
    /// A name of a file that has others was looked at. They are told of together, by [`Looker::tell_names`].
    pub fn note(&mut self, path: &RelPath, key: LocalKey, state: State, local: Option<LocalKey>) {
        let group = self.groups.entry((key.dev, key.ino));
        let group = group.or_insert_with(|| Group {
            looked_at: BTreeSet::new(),
            key,
            state: state.clone(),
            local,
        });
        (group.key, group.state, group.local) = (key, state, local);
        group.looked_at.insert(path.clone());
    }
}

impl Looker<'_> {
    /// The content that the index knows for this version of a file, whatever its name, and the name that carries it.
    pub(super) fn known(
        &self,
        key: &LocalKey,
    ) -> Result<Option<(RelPath, ContentHash)>, IndexError> {
        // It is to be read again: as long as its stamp is young it may have changed and be the same version.
        let waits = |name: &RelPath| self.restless.is_some_and(|r| r.waits(name));
        let at = |name: &RelPath| -> Result<Option<Kind>, IndexError> {
            let entry = self.index.get(self.tree, name)?;
            let entry = entry.filter(|e| e.local == Some(*key) && e.seq != 0 && !waits(name));
            Ok(entry.and_then(|e| e.current).map(|state| state.kind))
        };
        for (tree, name) in self.index.by_inode(key.dev, key.ino, MAX_NAMES)? {
            if tree != self.tree {
                continue;
            }
            let (name, kind) = match at(&name)? {
                Some(Kind::HardLink { to }) => (to.clone(), at(&to)?),
                kind => (name, kind),
            };
            if let Some(Kind::File { size, hash }) = kind
                && size == key.size
            {
                return Ok(Some((name, hash)));
            }
        }
        Ok(None)
    }

    /// Tells of the names that were looked at in this round, and of the others of their files where that changes anything for
    /// them.
    pub(super) fn tell_names(&self, names: Names, out: &mut Sights) -> Result<(), IndexError> {
        let mut told = Vec::new();
        for (inode, group) in names.groups {
            let (first, all) = match self.known_first(inode, &group, out)? {
                Some(first) => (first, group.looked_at),
                None => {
                    let all = self.all_names(inode, group.looked_at, out)?;
                    let Some(first) = all.first().cloned() else {
                        continue;
                    };
                    (first, all)
                }
            };
            if group.local.is_none() {
                out.unrested.note(inode, all.iter());
            }
            told.extend(all.into_iter().map(|path| Sight {
                state: Some(State {
                    kind: match path == first {
                        true => group.state.kind.clone(),
                        false => Kind::HardLink { to: first.clone() },
                    },
                    meta: group.state.meta.clone(),
                }),
                path,
                local: group.local,
            }));
        }
        if !told.is_empty() {
            // One that had no other name yet when it was looked at.
            let paths: BTreeSet<&RelPath> = told.iter().map(|sight| &sight.path).collect();
            out.seen.retain(|sight| !paths.contains(&sight.path));
            out.seen.extend(told);
        }
        Ok(())
    }

    /// The first name of a file of which the index knows this very version, if it stays the first: then all that it knows of the
    /// other names holds.
    fn known_first(
        &self,
        inode: Inode,
        group: &Group,
        out: &Sights,
    ) -> Result<Option<RelPath>, IndexError> {
        if group.local != Some(group.key) || self.unrested(inode, out).next().is_some() {
            return Ok(None);
        }
        let known = self.known(&group.key)?.map(|(first, _)| first);
        let before = |first: &RelPath| group.looked_at.first().is_some_and(|name| first < name);
        Ok(known.filter(|first| before(first) && self.is_name(inode, first)))
    }

    /// The names that were looked at, and those of which the index or a look that found no rest knows, if they still are.
    fn all_names(
        &self,
        inode: Inode,
        mut all: BTreeSet<RelPath>,
        out: &Sights,
    ) -> Result<BTreeSet<RelPath>, IndexError> {
        let known = self.index.by_inode(inode.0, inode.1, MAX_NAMES)?;
        let known = known.into_iter().filter(|(tree, _)| *tree == self.tree);
        let known = known.map(|(_, name)| name);
        for name in known.chain(self.unrested(inode, out).cloned()) {
            if !all.contains(&name) && self.is_name(inode, &name) {
                all.insert(name);
            }
        }
        Ok(all)
    }

    fn unrested<'s>(&'s self, inode: Inode, out: &'s Sights) -> impl Iterator<Item = &'s RelPath> {
        let before = self.restless.iter().flat_map(move |r| r.names(inode));
        before.chain(out.unrested.of(inode))
    }

    fn is_name(&self, inode: Inode, name: &RelPath) -> bool {
        let stat = self.open.root.stat(name);
        matches!(stat, Ok(Some(s)) if s.is_file() && (s.dev, s.ino) == inode)
    }

    /// A name of a file is gone. Its other names may need a new first one, and what was written through this one was told
    /// of this one only.
    pub(super) fn other_names(
        &self,
        path: &RelPath,
        entry: &IndexEntry,
        out: &mut Sights,
    ) -> Result<(), IndexError> {
        let (Some(local), Some(state)) = (entry.local, &entry.current) else {
            return Ok(());
        };
        match &state.kind {
            Kind::File { .. } => {}
            // The first name brings the others along, or is gone itself and then names them.
            Kind::HardLink { to } => {
                out.more.push((to.clone(), Dirt::NAMES));
                return Ok(());
            }
            _ => return Ok(()),
        }
        for (tree, other) in self.index.by_inode(local.dev, local.ino, MAX_NAMES)? {
            if tree == self.tree && other != *path {
                out.more.push((other, Dirt::NAMES));
            }
        }
        Ok(())
    }
}
