//! Walking a tree and comparing it with the index by local keys.

use super::dirty::Dirt;
use super::gone::Gone;
use super::look::Looker;
use super::reboot::EVERYTHING;
use super::tree::Open;
use crate::entry::IndexEntry;
use crate::fault::Fault;
use crate::index::{Index, IndexError};
use crate::path::RelPath;
use crate::scan;
use crate::tree::{TreeConfig, TreeId};
use std::collections::VecDeque;
use std::ops::ControlFlow;

/// Entries of the index that are read at once: a snapshot that was kept for the whole walk would keep all pages that
/// changed meanwhile.
const ROWS: usize = 4096;

/// A path that is new or changed.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Where.
    pub path: RelPath,
    /// It is a regular file.
    pub file: bool,
    /// Bytes that must be read.
    pub bytes: u64,
}

impl Found {
    /// To be looked at; its content in any case with `force`.
    pub fn dirty(self, force: bool) -> (RelPath, Dirt) {
        let dirt = Dirt {
            force,
            whole: force,
            file: self.file,
            ..Dirt::WALKED
        };
        (self.path, dirt)
    }
}

impl Looker<'_> {
    /// Walks everything below `dir` and compares it with the index by local keys. `found` hears what must be looked at.
    pub fn walk(
        &self,
        dir: &RelPath,
        found: &mut dyn FnMut(Found) -> ControlFlow<()>,
    ) -> Result<Walk, IndexError> {
        Walk::of(self.source, self.tree, self.config, self.open, dir)
            .receiving(self.receiver)
            .reading_since(self.read_since)
            .run(found)
    }
}

/// A walk that is about to begin.
pub(crate) struct Walking<'a> {
    index: &'a Index,
    tree: TreeId,
    config: &'a TreeConfig,
    open: &'a Open,
    dir: &'a RelPath,
    receiver: bool,
    read_since: Option<i128>,
    go_on: &'a dyn Fn() -> bool,
}

/// What a walk found besides the paths that must be looked at.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// Paths of the index that are not there.
    pub gone: Gone,
    /// Sockets.
    pub sockets: Vec<RelPath>,
    /// What is mounted there, and subvolumes.
    pub mounts: Vec<RelPath>,
    /// Cannot be read.
    pub errors: Vec<(RelPath, String)>,
}

impl Walk {
    /// A walk of everything below `dir`.
    pub fn of<'a>(
        index: &'a Index,
        tree: TreeId,
        config: &'a TreeConfig,
        open: &'a Open,
        dir: &'a RelPath,
    ) -> Walking<'a> {
        Walking {
            index,
            tree,
            config,
            open,
            dir,
            receiver: false,
            read_since: None,
            go_on: &|| true,
        }
    }
}

impl<'a> Walking<'a> {
    /// On a receiver protected paths are not looked at.
    pub fn receiving(mut self, receiver: bool) -> Self {
        self.receiver = receiver;
        self
    }

    /// Files that changed since are named too, whatever their keys say (nanoseconds of the wall clock).
    pub fn reading_since(mut self, since: Option<i128>) -> Self {
        self.read_since = since;
        self
    }

    /// Asked at each entry; it ends early when this says no.
    pub fn while_so(mut self, go_on: &'a dyn Fn() -> bool) -> Self {
        self.go_on = go_on;
        self
    }

    fn is_outside(&self, path: &RelPath) -> bool {
        let covers = |is_dir| {
            self.config.exclude.covers(path, is_dir)
                || (self.receiver && self.config.protect.covers(path, is_dir))
        };
        path.is_private() || covers(false) || covers(true)
    }

    /// Walks. `found` hears of what is new or changed, in path order, and may end the walk; what it then says of what is
    /// gone is nothing.
    pub fn run(self, found: &mut dyn FnMut(Found) -> ControlFlow<()>) -> Result<Walk, IndexError> {
        let mut step = Step {
            walk: Walk::default(),
            known: Rows::new(self.index, self.tree, self.dir),
            unknown_below: Vec::new(),
            read_since: self.read_since,
            is_outside: &|path| self.is_outside(path),
        };
        let mut failed = None;
        let outside = |path: &RelPath, is_dir: bool| {
            self.config.exclude.matches(path, is_dir)
                || (self.receiver && self.config.protect.matches(path, is_dir))
        };
        let walked = scan::walk(&self.open.root, self.dir, &outside, &mut |path, met| {
            if !(self.go_on)() {
                return ControlFlow::Break(());
            }
            match step.met(path, met) {
                Ok(None) => ControlFlow::Continue(()),
                Ok(Some(look)) => found(look),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        match walked {
            Ok(totals) if totals.stopped => {
                step.walk.gone = Gone::default();
                return Ok(step.walk);
            }
            Ok(_) => {}
            Err(fault) => {
                if !matches!(fault, Fault::Missing | Fault::NotBeneath) {
                    step.walk.errors.push((self.dir.clone(), fault.to_string()));
                }
                return Ok(step.walk);
            }
        }
        while let Some((path, entry)) = step.known.next()? {
            step.missing(path, &entry);
        }
        Ok(step.walk)
    }
}

/// The entries of the index below a directory, read piece by piece.
struct Rows<'a> {
    index: &'a Index,
    tree: TreeId,
    dir: &'a RelPath,
    read: VecDeque<(RelPath, IndexEntry)>,
    last: Option<RelPath>,
    ended: bool,
}

impl<'a> Rows<'a> {
    fn new(index: &'a Index, tree: TreeId, dir: &'a RelPath) -> Self {
        Rows {
            index,
            tree,
            dir,
            read: VecDeque::new(),
            last: None,
            ended: false,
        }
    }

    fn fill(&mut self) -> Result<(), IndexError> {
        if !self.read.is_empty() || self.ended {
            return Ok(());
        }
        let snapshot = self.index.snapshot()?;
        let rows = match &self.last {
            None => snapshot.below(self.tree, self.dir)?,
            Some(last) => snapshot.below_after(self.tree, self.dir, last)?,
        };
        for row in rows.take(ROWS) {
            self.read.push_back(row?);
        }
        self.ended = self.read.len() < ROWS;
        self.last = self.read.back().map(|(path, _)| path.clone());
        Ok(())
    }

    fn next(&mut self) -> Result<Option<(RelPath, IndexEntry)>, IndexError> {
        self.fill()?;
        Ok(self.read.pop_front())
    }

    /// The next one, if it does not lie behind `path`.
    fn next_until(&mut self, path: &RelPath) -> Result<Option<(RelPath, IndexEntry)>, IndexError> {
        self.fill()?;
        Ok(self.read.pop_front_if(|(known, _)| *known <= *path))
    }
}

struct Step<'a> {
    walk: Walk,
    known: Rows<'a>,
    /// Nothing is concluded about what lies below these.
    unknown_below: Vec<RelPath>,
    read_since: Option<i128>,
    is_outside: &'a dyn Fn(&RelPath) -> bool,
}

impl Step<'_> {
    fn met(&mut self, path: &RelPath, met: scan::Found) -> Result<Option<Found>, IndexError> {
        let mut entry = None;
        while let Some((known, row)) = self.known.next_until(path)? {
            if known == *path {
                entry = Some(row);
            } else {
                self.missing(known, &row);
            }
        }
        let look = |file, bytes| {
            Some(Found {
                path: path.clone(),
                file,
                bytes,
            })
        };
        match met {
            scan::Found::Entry(stat) => {
                let key = stat.key();
                let same = entry
                    .is_some_and(|e| e.local == Some(key) && e.current.is_some() && e.seq != 0);
                let file = stat.is_file();
                let doubtful = self
                    .read_since
                    .is_some_and(|since| (file || since == EVERYTHING) && key.ctime_ns >= since);
                return Ok((!same || doubtful)
                    .then(|| look(file, if file { stat.size } else { 0 }))
                    .flatten());
            }
            scan::Found::Socket => {
                self.walk.sockets.push(path.clone());
                if entry.is_some_and(|e| e.current.is_some()) {
                    return Ok(look(false, 0));
                }
            }
            scan::Found::Mount => {
                self.walk.mounts.push(path.clone());
                self.unknown_below.push(path.clone());
            }
            scan::Found::Unreadable(fault) => {
                self.walk.errors.push((path.clone(), fault.to_string()));
                self.unknown_below.push(path.clone());
            }
        }
        Ok(None)
    }

    fn missing(&mut self, path: RelPath, entry: &IndexEntry) {
        let unknown = || {
            self.unknown_below
                .iter()
                .any(|dir| path.is_at_or_below(dir))
        };
        // What became excluded is in the index and not in the walk: it is not gone.
        if entry.current.is_some() && !unknown() && !(self.is_outside)(&path) {
            self.walk.gone.push(&path);
        }
    }
}
