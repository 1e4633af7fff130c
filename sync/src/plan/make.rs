//! From records to phases.

use super::{Action, Expect, Known, Phases, Plan, PlanError, Policy, Why};
use crate::entry::{IndexEntry, Kind, State};
use crate::path::RelPath;
use crate::tree::Deletes;
use std::collections::{BTreeMap, BTreeSet};

pub(super) struct Maker<'a, K> {
    records: &'a BTreeMap<&'a RelPath, Option<&'a State>>,
    policy: Policy<'a>,
    known: &'a K,
    phases: Phases,
}

/// How a removal is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Removal {
    /// Something else comes to this place: before everything.
    MakeRoom,
    /// It is gone at the source: after everything.
    Gone,
}

impl<'a, K: Known> Maker<'a, K> {
    pub fn new(
        records: &'a BTreeMap<&'a RelPath, Option<&'a State>>,
        policy: Policy<'a>,
        known: &'a K,
    ) -> Self {
        Maker {
            records,
            policy,
            known,
            phases: Phases::default(),
        }
    }

    pub fn run(mut self) -> Result<Plan, PlanError<K::Error>> {
        for (path, state) in self.records {
            let old = self.known.entry(path)?;
            let is_dir = state.is_some_and(|s| s.kind.is_dir())
                || live(&old).is_some_and(|s| s.kind.is_dir());
            if self.policy.exclude.covers(path, is_dir) {
                self.skip(path, Why::Excluded);
            } else if self.policy.protect.covers(path, is_dir) {
                self.skip(path, Why::Protected);
            } else {
                match state {
                    None => self.gone(path, old.as_ref())?,
                    Some(state) => self.present(path, state, old.as_ref())?,
                }
            }
        }
        self.directories_needed()?;
        self.further_names()?;
        self.times()?;
        Ok(self.phases.into_plan())
    }

    fn skip(&mut self, path: &RelPath, why: Why) {
        self.phases.skipped.push((path.clone(), why));
    }

    fn gone(
        &mut self,
        path: &RelPath,
        old: Option<&IndexEntry>,
    ) -> Result<(), PlanError<K::Error>> {
        let Some(state) = old.and_then(|e| e.current.as_ref()) else {
            return Ok(());
        };
        if self.policy.deletes == Deletes::Keep {
            self.skip(path, Why::Kept);
            return Ok(());
        }
        if state.kind.is_dir() {
            self.remove_dir(path, old, Removal::Gone)?;
        } else {
            self.remove(path, old, Removal::Gone);
        }
        Ok(())
    }

    fn present(
        &mut self,
        path: &RelPath,
        state: &State,
        old: Option<&IndexEntry>,
    ) -> Result<(), PlanError<K::Error>> {
        let before = old.and_then(|e| e.current.as_ref());
        if self.parent_is_gone(path) {
            self.skip(path, Why::NoParent);
            return Ok(());
        }
        if state.kind.is_dir() {
            if !before.is_some_and(|b| b.kind.is_dir()) && !path.is_root() {
                self.phases.dirs.insert(
                    path.clone(),
                    (Action::MakeDir { implied: false }, expect(old)),
                );
            }
            self.phases.finish.insert(
                path.clone(),
                (Action::FinishDir(state.meta.clone()), Expect::Nothing),
            );
            return Ok(());
        }
        let mut expected = expect(old);
        if before.is_some_and(|b| b.kind.is_dir()) {
            if !self.remove_dir(path, old, Removal::MakeRoom)? {
                self.skip(path, Why::Occupied);
                return Ok(());
            }
            expected = Expect::Nothing;
        }
        let (phase, action) = match &state.kind {
            // Still the same name of the same file: its first name brings what changed.
            Kind::HardLink { to }
                if before.is_some_and(|b| b.kind == state.kind)
                    && !self.phases.puts.contains_key(to)
                    && self.is_one_file(old, to)? =>
            {
                return Ok(());
            }
            Kind::HardLink { to } => (&mut self.phases.links, Action::Link { to: to.clone() }),
            _ if self.same_content(path, state, before)? => {
                (&mut self.phases.metas, Action::SetMeta(state.meta.clone()))
            }
            _ => (&mut self.phases.puts, Action::Put(state.clone())),
        };
        phase.insert(path.clone(), (action, expected));
        Ok(())
    }

    /// Whether this name and the first one lead to one file here. An apply that was cut, or a link that failed, may have
    /// left them apart, whatever the entries say.
    fn is_one_file(
        &self,
        old: Option<&IndexEntry>,
        first: &RelPath,
    ) -> Result<bool, PlanError<K::Error>> {
        let inode = |entry: &IndexEntry| entry.local.map(|key| (key.dev, key.ino));
        let first = self.known.entry(first)?;
        let one = old.and_then(inode);
        Ok(one.is_some() && one == first.as_ref().and_then(inode))
    }

    /// A record of the batch says that a directory above is gone, or is no directory.
    fn parent_is_gone(&self, path: &RelPath) -> bool {
        path.ancestors().any(|dir| {
            self.records
                .get(&dir)
                .is_some_and(|s| !s.is_some_and(|s| s.kind.is_dir()))
        })
    }

    /// Whether only metadata differ from what lies here.
    fn same_content(
        &self,
        path: &RelPath,
        new: &State,
        old: Option<&State>,
    ) -> Result<bool, PlanError<K::Error>> {
        let Some(old) = old else { return Ok(false) };
        let Kind::HardLink { to } = &old.kind else {
            return Ok(old.kind == new.kind);
        };
        // This name inherits its group if the first name is gone; else the file must become one of its own.
        let first = self.known.entry(to)?;
        let first_goes = match self.records.get(to) {
            Some(record) => !record.is_some_and(|s| matches!(s.kind, Kind::File { .. })),
            None => live(&first).is_none(),
        };
        let content = live(&first).map(|s| &s.kind);
        Ok(first_goes && content == Some(&new.kind) && to != path)
    }

    /// Removes a directory with all that the index knows in it: gone at the source means that its content is gone too,
    /// whatever batch says so. False: something protected keeps it alive, or everything is kept.
    fn remove_dir(
        &mut self,
        path: &RelPath,
        old: Option<&IndexEntry>,
        removal: Removal,
    ) -> Result<bool, PlanError<K::Error>> {
        let inside: Vec<(RelPath, IndexEntry)> = self
            .known
            .below(path)?
            .into_iter()
            .filter(|(_, entry)| entry.current.is_some())
            .collect();
        let is_dir = |entry: &IndexEntry| entry.current.as_ref().is_some_and(|s| s.kind.is_dir());
        let stays = |(path, entry): &&(RelPath, IndexEntry)| {
            self.policy.protect.covers(path, is_dir(entry))
                || self.policy.exclude.covers(path, is_dir(entry))
        };
        let staying: Vec<RelPath> = inside
            .iter()
            .filter(stays)
            .map(|(path, _)| path.clone())
            .collect();
        let keeps_all = self.policy.deletes == Deletes::Keep && !inside.is_empty();
        if removal == Removal::MakeRoom && (keeps_all || !staying.is_empty()) {
            return Ok(false);
        }
        for kept in &staying {
            let dirs = kept.ancestors().take_while(|dir| dir.is_at_or_below(path));
            let dirs = dirs.filter(|dir| !staying.contains(dir));
            self.phases.kept.extend(dirs.collect::<Vec<_>>());
        }
        for (inner, entry) in &inside {
            if !staying.contains(inner) {
                self.remove(inner, Some(entry), removal);
            }
        }
        self.remove(path, old, removal);
        Ok(true)
    }

    fn remove(&mut self, path: &RelPath, old: Option<&IndexEntry>, removal: Removal) {
        if self.phases.kept.contains(path) {
            return;
        }
        let is_dir = old
            .and_then(|e| e.current.as_ref())
            .is_some_and(|s| s.kind.is_dir());
        let action = if is_dir {
            Action::RemoveDir
        } else {
            Action::RemoveFile
        };
        let (phase, other) = match removal {
            Removal::MakeRoom => (&mut self.phases.make_room, &mut self.phases.removals),
            Removal::Gone => (&mut self.phases.removals, &mut self.phases.make_room),
        };
        if removal == Removal::MakeRoom {
            other.remove(path);
        } else if other.contains_key(path) {
            return;
        }
        phase.insert(path.clone(), (action, expect(old)));
    }

    /// Directories that no record asks for and that are not there: their own records come later, as the source read
    /// them at another moment.
    fn directories_needed(&mut self) -> Result<(), PlanError<K::Error>> {
        let mut needed = BTreeSet::new();
        for path in self
            .phases
            .dirs
            .keys()
            .chain(self.phases.puts.keys())
            .chain(self.phases.links.keys())
        {
            for dir in path.ancestors().take_while(|dir| !dir.is_root()) {
                // What is above one that is known as needed is known too.
                if !needed.insert(dir) {
                    break;
                }
            }
        }
        for dir in needed {
            if self.records.contains_key(&dir) {
                continue;
            }
            let old = self.known.entry(&dir)?;
            if live(&old).is_none_or(|state| !state.kind.is_dir()) {
                self.phases.dirs.insert(
                    dir,
                    (Action::MakeDir { implied: true }, expect(old.as_ref())),
                );
            }
        }
        Ok(())
    }

    /// A file that is replaced by rename gets a new inode: its further names, of which the batch says nothing, must
    /// follow it.
    fn further_names(&mut self) -> Result<(), PlanError<K::Error>> {
        let mut links = Vec::new();
        for (first, (action, _)) in &self.phases.puts {
            let Some(old) = self.known.entry(first)? else {
                continue;
            };
            let (
                Action::Put(State {
                    kind: Kind::File { .. },
                    ..
                }),
                Some(local),
            ) = (action, old.local)
            else {
                continue;
            };
            for name in self.known.names(&local)? {
                if name == *first
                    || self.records.contains_key(&name)
                    || self.policy.protect.covers(&name, false)
                {
                    continue;
                }
                let entry = self.known.entry(&name)?;
                if live(&entry)
                    .is_some_and(|s| matches!(&s.kind, Kind::HardLink { to } if to == first))
                {
                    links.push((
                        name,
                        (Action::Link { to: first.clone() }, expect(entry.as_ref())),
                    ));
                }
            }
        }
        self.phases.links.extend(links);
        Ok(())
    }

    /// A directory whose parent an earlier batch removed went with it, although its own record is still to come.
    fn went_with_an_ancestor(&self, dir: &RelPath) -> Result<bool, PlanError<K::Error>> {
        for above in dir.ancestors() {
            if self
                .known
                .entry(&above)?
                .is_some_and(|entry| entry.current.is_none())
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Directories in which something was done keep the time that the source gave them.
    fn times(&mut self) -> Result<(), PlanError<K::Error>> {
        let mut touched: Vec<RelPath> = self
            .phases
            .changed_names()
            .filter_map(RelPath::parent)
            .collect();
        touched.sort();
        touched.dedup();
        for dir in touched {
            let removed = [&self.phases.make_room, &self.phases.removals]
                .iter()
                .any(|phase| phase.contains_key(&dir));
            let finished =
                self.phases.finish.contains_key(&dir) || self.phases.dirs.contains_key(&dir);
            if removed || finished || self.went_with_an_ancestor(&dir)? {
                continue;
            }
            if let Some(state) = self
                .known
                .entry(&dir)?
                .and_then(|e| e.current)
                .filter(|s| s.kind.is_dir())
            {
                self.phases
                    .finish
                    .insert(dir, (Action::RestoreTime(state.meta), Expect::Nothing));
            }
        }
        Ok(())
    }
}

fn live(entry: &Option<IndexEntry>) -> Option<&State> {
    entry.as_ref()?.current.as_ref()
}

fn expect(entry: Option<&IndexEntry>) -> Expect {
    match entry.and_then(|e| e.current.as_ref().map(|s| (s.kind.name(), e.local))) {
        None => Expect::Nothing,
        Some((kind, local)) => Expect::Known(kind, local),
    }
}
