//! Local versions on the replica met by a record: what somebody else wrote here, or what this node wrote as a master.
//!
//! A path is *clean* when its entry has a number and what lies there has the entry's key. Everything else is looked at
//! before it is touched: equal to the source's version, it is only indexed; else it goes to the rescue first.

use super::apply::Item;
use super::aside::{Forget, Lies, Unkept};
use super::intent::{ASIDE, Aside};
use super::judge::{is_clean, same};
use super::outcome::{Here, Results};
use super::tree::Open;
use super::view::{is_same_but_ctime, names_of};
use super::worker::Worker;
use crate::entry::{IndexEntry, Kind, LocalKey, State};
use crate::fault::Fault;
use crate::index::{IndexError, Snapshot, Unreplicated};
use crate::path::RelPath;
use crate::tree::{Deletes, TreeId};
use crate::wire::Record;

impl Worker {
    /// Compares what lies at the paths of a batch with what the index knows, and puts local versions aside. Gives the
    /// records that are still to be applied.
    pub(super) fn settle_local_versions(
        &mut self,
        at: usize,
        open: &Open,
        items: Vec<Item>,
        results: &mut Results,
    ) -> Result<Vec<Item>, String> {
        let snapshot = self.shared.index.snapshot().map_err(|e| e.to_string())?;
        let (mut left, mut local) = (Vec::new(), Vec::new());
        for item in items {
            match self.compare(at, open, &snapshot, &item, results) {
                Ok(Found::Clean) => left.push(item),
                Ok(Found::Settled) => {}
                Ok(Found::Local(version)) => local.push((item, version)),
                Err(Unread::Index(error)) => return Err(error.to_string()),
                Err(Unread::Path(why)) => self.still_open(at, &item.record, why, results),
            }
        }
        drop(snapshot);
        if local.is_empty() {
            return Ok(left);
        }
        self.write_aside(at, &local).map_err(|e| e.to_string())?;
        let mut forget: Forget = Vec::new();
        let mut nothing = None;
        for (item, version) in local {
            let put = match *version {
                Local::Below => self.put_aside_below(at, open, &item.record.path, &mut forget),
                Local::Here(lies, entry, listed) => {
                    self.put_aside(at, open, &item, lies, (entry, listed), &mut forget)
                }
            };
            match put {
                Ok(()) => left.push(item),
                Err(Unkept::Path(why)) => self.still_open(at, &item.record, why, results),
                Err(Unkept::Nothing(why)) => {
                    nothing = Some(why);
                    break;
                }
            }
        }
        // Also of a batch that is not applied: what was moved until then is not where the index says any more.
        self.forget(at, open, &forget).map_err(|e| e.to_string())?;
        let Some(why) = nothing else {
            return Ok(left);
        };
        // The rescue is on the disk of its tree: the others go on.
        if !self.stop_if_read_only(at) {
            self.stop_for_room(at, why.clone());
        }
        Err(why)
    }

    /// A path whose local version could not be looked at or put aside: it stays, and the source's version waits.
    fn still_open(&mut self, at: usize, record: &Record, why: String, results: &mut Results) {
        self.trees[at].error(&record.path, why);
        results.fail(record, Here::Open);
    }

    /// What a record meets.
    fn compare(
        &self,
        at: usize,
        open: &Open,
        index: &Snapshot,
        item: &Item,
        results: &mut Results,
    ) -> Result<Found, Unread> {
        let (tree, config) = (self.trees[at].id, &self.trees[at].config);
        let (path, theirs) = (&item.record.path, &item.record.state);
        let is_dir = theirs.as_ref().is_some_and(|s| s.kind.is_dir());
        if path.is_root()
            || config.protect.covers(path, is_dir)
            || config.exclude.covers(path, is_dir)
        {
            return Ok(Found::Clean);
        }
        let entry = index.get(tree, path)?;
        let stat = match open.root.stat(path) {
            Ok(stat) => stat,
            Err(Fault::NotBeneath | Fault::Missing) => None,
            // What lies there is not known: it is not touched.
            Err(fault) => return Err(Unread::Path(fault.to_string())),
        };
        let listed = match self.trees[at].unsettled.contains(path) {
            true => index.listed(tree, path)?,
            false => None,
        };
        if is_clean(entry.as_ref(), stat.map(|s| s.key()))
            && listed.as_ref().is_none_or(Unreplicated::is_nothing)
        {
            let goes = !is_dir && stat.is_some_and(|s| s.is_dir());
            return Ok(if goes {
                Found::Local(Box::new(Local::Below))
            } else {
                Found::Clean
            });
        }
        let lies = self
            .lies(open, path, entry.as_ref())
            .map_err(Unread::Path)?;
        let kept = theirs.is_none() && config.deletes == Deletes::Keep;
        if same(lies.state.as_ref(), theirs.as_ref()) || kept {
            let key = lies.key.filter(|_| !kept);
            let (seq, state) = (item.record.seq, theirs.clone());
            results.received.push((tree, path.clone(), state, seq, key));
            results.settled.insert((tree, path.clone()));
            return Ok(Found::Settled);
        }
        if entry
            .as_ref()
            .is_some_and(|e| e.seq == 0 && e.local == lies.key)
            && listed.as_ref().is_none_or(Unreplicated::is_nothing)
            && self.is_same_content(at, index, &lies, theirs.as_ref())?
        {
            return Ok(Found::Clean);
        }
        Ok(Found::Local(Box::new(Local::Here(lies, entry, listed))))
    }

    /// What lies there has the content of the source's version, be it as a file of its own: it came here by other means (a
    /// copy of the disk, rsync), and nothing is lost when it gets the source's attributes and names.
    fn is_same_content(
        &self,
        at: usize,
        index: &Snapshot,
        lies: &Lies,
        theirs: Option<&State>,
    ) -> Result<bool, IndexError> {
        let (Some(ours), Some(theirs)) = (&lies.state, theirs) else {
            return Ok(false);
        };
        if let (Kind::File { .. }, Kind::HardLink { to }) = (&ours.kind, &theirs.kind) {
            let first = index.get(self.trees[at].id, to)?.and_then(|e| e.current);
            return Ok(first.is_some_and(|first| first.kind == ours.kind));
        }
        Ok(!ours.kind.is_dir() && ours.kind == theirs.kind)
    }

    /// Makes durable which paths are about to lose their local version to the rescue.
    fn write_aside(&self, at: usize, local: &[(Item, Box<Local>)]) -> Result<(), IndexError> {
        let tree = self.trees[at].id;
        // A directory that stays one loses nothing.
        let stays = |item: &Item, version: &Local| match version {
            Local::Below => false,
            Local::Here(lies, ..) => {
                let dir = |state: &Option<State>| state.as_ref().is_some_and(|s| s.kind.is_dir());
                dir(&lies.state) && dir(&item.record.state)
            }
        };
        let goes = local.iter().filter(|(item, version)| !stays(item, version));
        let paths: Vec<RelPath> = goes.map(|(item, _)| item.record.path.clone()).collect();
        self.shared.index.write(|w| {
            let mut aside: Aside = w.value(ASIDE)?.unwrap_or_default();
            aside.0.extend(paths.into_iter().map(|path| (tree, path)));
            w.put_value(ASIDE, &aside)
        })
    }

    /// Other names of files that were put aside, and their keys now: the move has changed the file's change time.
    fn names_of_moved(
        &self,
        tree: TreeId,
        open: &Open,
        forget: &Forget,
    ) -> Result<Vec<(RelPath, LocalKey)>, IndexError> {
        let snapshot = self.shared.index.snapshot()?;
        let mut moved = Vec::new();
        for (path, _) in forget.iter().filter(|(_, found)| found.is_none()) {
            for (name, entry) in names_of(&snapshot, tree, path)? {
                let now = open.root.stat(&name).ok().flatten().map(|s| s.key());
                if let (Some(before), Some(now)) = (entry.local, now)
                    && is_same_but_ctime(before, now)
                {
                    moved.push((name, now));
                }
            }
        }
        Ok(moved)
    }

    /// What was put aside is no longer what the index says.
    fn forget(&mut self, at: usize, open: &Open, forget: &Forget) -> Result<(), IndexError> {
        let tree = self.trees[at].id;
        if forget.is_empty() {
            return Ok(());
        }
        let moved = self.names_of_moved(tree, open, forget)?;
        let unsettled = &self.trees[at].unsettled;
        let mut listed = Vec::new();
        self.shared.index.write(|w| {
            for (name, key) in &moved {
                w.set_local(tree, name, Some(*key))?;
            }
            forget.iter().try_for_each(|(path, found)| {
                let entry = w.get(tree, path)?.filter(|e| e.seq != 0);
                if let (Some(entry), Some((state, key))) = (entry, found)
                    && entry.current.as_ref() == Some(state)
                {
                    // Only its key is new: it stays of the pair's history.
                    return w.set_local(tree, path, Some(*key));
                }
                w.remove(tree, path)?;
                let Some((state, key)) = found else {
                    return Ok(());
                };
                w.found(tree, path, state.clone(), *key)?;
                // Its number is gone: without this, a crash before the plan would leave what looks like somebody's own.
                if !unsettled.contains(path) {
                    w.list_unreplicated(tree, path, &Unreplicated::nothing())?;
                    listed.push(path.clone());
                }
                Ok(())
            })
        })?;
        crate::cut::here("after what lies there was indexed");
        self.trees[at].unsettled.extend(listed);
        Ok(())
    }
}

/// What a record meets at its path.
enum Found {
    /// What the index says, or what is not to be looked at, or the source's content with other attributes.
    Clean,
    /// The source's version, or a deletion that is not carried out here.
    Settled,
    /// Something of this node's own.
    Local(Box<Local>),
}

/// Something of this node's own. Boxed: nearly every record meets none.
#[expect(clippy::large_enum_variant, reason = "nearly all are the large one")]
enum Local {
    /// A directory that goes; perhaps something lies in it.
    Below,
    /// What lies there, what the index says and what is listed.
    Here(Lies, Option<IndexEntry>, Option<Unreplicated>),
}

/// Why a path could not be compared.
enum Unread {
    Index(IndexError),
    Path(String),
}

impl From<IndexError> for Unread {
    fn from(error: IndexError) -> Self {
        Unread::Index(error)
    }
}
