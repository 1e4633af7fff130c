//! Putting local versions aside: into the rescue, durably, before their paths may be changed (invariant 5).

use super::apply::Item;
use super::judge::{is_known, same_but_time};
use super::tree::Open;
use super::worker::Worker;
use crate::entry::{IndexEntry, LocalKey, State};
use crate::fault::Fault;
use crate::hash;
use crate::index::{IndexError, Snapshot, Unreplicated};
use crate::meta::{self, What};
use crate::path::RelPath;
use crate::rescue::{self, Change, Header, Keep};
use crate::tree::Deletes;

impl Worker {
    /// Reads what lies at a path.
    pub(super) fn lies(
        &self,
        open: &Open,
        path: &RelPath,
        entry: Option<&IndexEntry>,
    ) -> Result<Lies, String> {
        let seen = match meta::read(&open.root, path) {
            Ok(seen) => seen,
            Err(Fault::NotBeneath | Fault::Missing) => None,
            Err(fault) => return Err(fault.to_string()),
        };
        let Some(seen) = seen else {
            return Ok(Lies {
                state: None,
                key: None,
                exists: false,
            });
        };
        let key = seen.key();
        let known = entry
            .filter(|e| e.local == Some(key))
            .and_then(|e| e.current.clone());
        let state = match (&seen.what, known) {
            (What::File(_), Some(known)) => Some(State {
                kind: known.kind,
                meta: seen.meta.clone(),
            }),
            (What::File(_), None) => {
                let hashed = hash::hash_path(&open.root, path, &self.shared.reading_ends(true));
                let hashed = hashed.map_err(|fault| fault.to_string())?;
                if !hashed.is_stable() || hashed.before != key {
                    return Err("somebody writes here".into());
                }
                seen.state(Some(hashed.hash))
            }
            _ => seen.state(None),
        };
        Ok(Lies {
            state,
            key: Some(key),
            exists: true,
        })
    }

    /// Puts the local version at the item's path into the rescue, durably, so that the path may be changed.
    pub(super) fn put_aside(
        &mut self,
        at: usize,
        open: &Open,
        item: &Item,
        lies: Lies,
        (entry, listed): (Option<IndexEntry>, Option<Unreplicated>),
        forget: &mut Forget,
    ) -> Result<(), Unkept> {
        let path = &item.record.path;
        let theirs = item.record.state.as_ref();
        let keep = |change, take| Keep {
            path: path.clone(),
            change,
            other: None,
            state: lies.state.clone(),
            take,
        };
        let listed_own = listed.as_ref().is_some_and(|l| !l.is_nothing());
        if !lies.exists {
            let deleted = listed.as_ref().is_some_and(|l| l.ours.is_none()) && listed_own;
            if deleted && theirs.is_some() {
                self.keep(at, open, &[keep(Change::Deleted, false)])?;
            }
            forget.push((path.clone(), None));
            return Ok(());
        }
        let found = lies.state.clone().zip(lies.key);
        if lies.state.as_ref().is_some_and(|s| s.kind.is_dir()) {
            match theirs {
                Some(theirs) if theirs.kind.is_dir() => {
                    if listed_own
                        && !same_but_time(&theirs.meta, lies.state.as_ref().map(|s| &s.meta))
                    {
                        self.keep(at, open, &[keep(Change::Metadata, false)])?;
                    }
                }
                _ => self.put_aside_below(at, open, path, forget)?,
            }
            forget.push((path.clone(), found));
            return Ok(());
        }
        let known = |entry: &IndexEntry| {
            is_known(entry, &lies, listed.is_some())
                || self.is_name_of_known(at, open, entry, lies.key, listed.is_some())
        };
        if !listed_own && entry.as_ref().is_some_and(known) {
            forget.push((path.clone(), found));
            return Ok(());
        }
        if matches!(open.root.stat(path), Ok(None)) {
            // It went to the rescue with the directory above it, whose record came first.
            forget.push((path.clone(), None));
            return Ok(());
        }
        tracing::info!(tree = self.trees[at].config.name, %path, "a local version goes to the rescue");
        let change = if theirs.is_none() {
            Change::Created
        } else {
            Change::Changed
        };
        self.keep(at, open, &[keep(change, true)])?;
        forget.push((path.clone(), None));
        Ok(())
    }

    /// A directory goes: what lies in it and is not of the pair's history goes to the rescue first.
    pub(super) fn put_aside_below(
        &mut self,
        at: usize,
        open: &Open,
        dir: &RelPath,
        forget: &mut Forget,
    ) -> Result<(), Unkept> {
        let tree = self.trees[at].id;
        let snapshot = self.shared.index.snapshot()?;
        let mut keeps = Vec::new();
        for row in snapshot.below(tree, dir)? {
            let (path, entry) = row?;
            let listed = match self.trees[at].unsettled.contains(&path) {
                true => snapshot.listed(tree, &path)?,
                false => None,
            };
            let ours = listed.map_or(entry.seq == 0, |l| !l.is_nothing());
            let Some(state) = entry.current.filter(|s| ours && !s.kind.is_dir()) else {
                continue;
            };
            if matches!(open.root.stat(&path), Ok(Some(_))) {
                keeps.push(Keep {
                    path: path.clone(),
                    change: Change::Created,
                    other: None,
                    state: Some(state),
                    take: true,
                });
            }
            forget.push((path, None));
        }
        self.keep(at, open, &keeps)
    }

    /// Moves versions into the tree's open rescue set. All or an error.
    pub(super) fn keep(&mut self, at: usize, open: &Open, versions: &[Keep]) -> Result<(), Unkept> {
        if versions.is_empty() {
            return Ok(());
        }
        let Some(_guard) = self.shared.token.hold() else {
            return Err(Unkept::Nothing("the role changed".into()));
        };
        let tree = &mut self.trees[at];
        let header = || rescue_header(&tree.config.name, &tree.rescue_why, tree.base_unknown);
        let within = (&*open.root, &*open.private);
        let kept = rescue::keep_in(&mut tree.rescue, within, header, versions);
        let (name, kept) = (tree.config.name.clone(), kept.map_err(|e| e.to_string()));
        let first = match kept {
            Ok(results) => {
                tree.rescued += results.iter().filter(|r| r.is_ok()).count() as u64;
                results.into_iter().find_map(Result::err)
            }
            Err(why) => {
                let why =
                    format!("nothing is applied, for no local version can be put aside: {why}");
                let alarm = Some(why.clone());
                self.shared.alarm(Some(&name), "rescue", alarm);
                return Err(Unkept::Nothing(why));
            }
        };
        let text = |fault: &Fault| format!("a local version cannot be put aside: {fault}");
        let alarm = first.as_ref().map(text);
        self.shared.alarm(Some(&name), "rescue", alarm);
        match first {
            None => Ok(()),
            Some(fault) if open.ends_with(&fault) => Err(Unkept::Nothing(text(&fault))),
            Some(fault) => Err(Unkept::Path(format!(
                "cannot be put into the rescue: {fault}"
            ))),
        }
    }

    /// What lies in a tree that was never copied here and is not at the source: to be put aside too.
    pub(super) fn leftovers(
        &self,
        index: &Snapshot,
        at: usize,
    ) -> Result<Vec<(RelPath, State)>, IndexError> {
        let tree = &self.trees[at];
        let mut found = Vec::new();
        for row in index.entries(tree.id, &RelPath::root())? {
            let (path, entry) = row?;
            let Some(state) = entry.current.filter(|_| entry.seq == 0 && !path.is_root()) else {
                continue;
            };
            if !tree.config.protect.covers(&path, state.kind.is_dir())
                && tree.config.deletes != Deletes::Keep
            {
                found.push((path, state));
            }
        }
        Ok(found)
    }
}

/// Why a local version was not kept.
pub(super) enum Unkept {
    /// This one cannot be moved: it stays, and nothing is applied at its path.
    Path(String),
    /// The rescue takes nothing, no room above all: nothing is applied at all (invariant 5).
    Nothing(String),
}

impl From<IndexError> for Unkept {
    fn from(error: IndexError) -> Self {
        Unkept::Nothing(error.to_string())
    }
}

/// What lies at a path.
pub(super) struct Lies {
    /// Nothing, if not `exists`; else `None` for a socket.
    pub state: Option<State>,
    pub key: Option<LocalKey>,
    pub exists: bool,
}

/// Paths whose entries are taken out of the index before the plan is made, or replaced by what was found.
pub(super) type Forget = Vec<(RelPath, Option<(State, LocalKey)>)>;

/// A set is named by its time and tree, and unique on the node because one worker makes them, not faster than a name
/// can change.
pub(super) fn rescue_header(tree: &str, why: &str, base_unknown: bool) -> Header {
    let made = u64::try_from(hash::now_ns() / 1_000_000).unwrap_or(0);
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let name: String = tree.chars().map(plain).take(40).collect();
    Header {
        version: rescue::manifest::VERSION,
        id: format!("{made}-{name}"),
        tree: tree.to_owned(),
        made_unix_ms: made,
        why: why.to_owned(),
        base_unknown,
    }
}
