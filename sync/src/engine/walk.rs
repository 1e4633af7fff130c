//! Walking a tree and comparing it with the index by local keys.

use super::look::Looker;
use crate::entry::IndexEntry;
use crate::fault::Fault;
use crate::index::IndexError;
use crate::path::RelPath;
use crate::scan::{self, Found};
use std::ops::ControlFlow;

impl Looker<'_> {
    /// Walks everything below `dir` and compares it with the index by local keys.
    pub fn walk(&self, dir: &RelPath) -> Result<Walk, IndexError> {
        let mut known = self.index.below(self.tree, dir)?.peekable();
        let mut walk = Walk {
            read_since: self.read_since,
            ..Walk::default()
        };
        let mut unknown_below: Vec<RelPath> = Vec::new();
        let mut failed = None;
        let outside = |path: &RelPath, is_dir: bool| {
            self.config.exclude.matches(path, is_dir)
                || (self.receiver && self.config.protect.matches(path, is_dir))
        };
        let walked = scan::walk(&self.open.root, dir, &outside, &mut |path, found| {
            let step = walk.step(path, found, &mut known, &mut unknown_below);
            match step {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        if let Err(fault) = walked {
            if !matches!(fault, Fault::Missing | Fault::NotBeneath) {
                walk.errors.push((dir.clone(), fault.to_string()));
            }
            return Ok(walk);
        }
        for row in known {
            let (path, entry) = row?;
            walk.missing(path, &entry, &unknown_below);
        }
        // What became excluded is in the index and not in the walk: it is not gone.
        walk.gone
            .retain(|path| !self.is_outside(path, false) && !self.is_outside(path, true));
        Ok(walk)
    }
}

/// What a walk found.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// Files that changed since are named too.
    pub read_since: Option<i128>,
    /// Paths that are new or changed, with the bytes that must be read.
    pub look: Vec<(RelPath, u64)>,
    /// Paths of the index that are not there.
    pub gone: Vec<RelPath>,
    /// Sockets.
    pub sockets: Vec<RelPath>,
    /// Mounts that are not crossed.
    pub mounts: Vec<RelPath>,
    /// Cannot be read.
    pub errors: Vec<(RelPath, String)>,
    /// Entries met.
    pub entries: u64,
}

pub(super) type Rows<'r> = std::iter::Peekable<crate::index::Entries>;

impl Walk {
    pub(super) fn step(
        &mut self,
        path: &RelPath,
        found: Found,
        known: &mut Rows<'_>,
        unknown_below: &mut Vec<RelPath>,
    ) -> Result<(), IndexError> {
        let mut entry = None;
        while let Some(row) =
            known.next_if(|row| row.as_ref().map_or(true, |(known, _)| known <= path))
        {
            let (at, row) = row?;
            if at == *path {
                entry = Some(row);
            } else {
                self.missing(at, &row, unknown_below);
            }
        }
        match found {
            Found::Entry(stat) => {
                self.entries += 1;
                let same = entry.is_some_and(|e| {
                    e.local == Some(stat.key()) && e.current.is_some() && e.seq != 0
                });
                let doubtful = self
                    .read_since
                    .is_some_and(|since| stat.is_file() && stat.key().ctime_ns >= since);
                if !same || doubtful {
                    let bytes = if stat.is_file() { stat.size } else { 0 };
                    self.look.push((path.clone(), bytes));
                }
            }
            Found::Socket => {
                self.sockets.push(path.clone());
                if entry.is_some_and(|e| e.current.is_some()) {
                    self.look.push((path.clone(), 0));
                }
            }
            Found::Mount => {
                self.mounts.push(path.clone());
                unknown_below.push(path.clone());
            }
            Found::Unreadable(fault) => {
                self.errors.push((path.clone(), fault.to_string()));
                unknown_below.push(path.clone());
            }
        }
        Ok(())
    }

    pub(super) fn missing(&mut self, path: RelPath, entry: &IndexEntry, unknown_below: &[RelPath]) {
        if entry.current.is_some() && !unknown_below.iter().any(|dir| path.is_at_or_below(dir)) {
            self.gone.push(path);
        }
    }
}
