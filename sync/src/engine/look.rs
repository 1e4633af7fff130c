//! Looking at paths of a tree: what lies there now, compared with what the index knows.
//!
//! Shared by both roles: the source records what it sees with new numbers, the replica learns of local changes.

use super::dirty::Dirt;
use super::linked::Names;
use super::restless::{Restless, Unrested};
use super::tree::{MAX_DIRTY, Open};
use crate::chunks::ChunkMemory;
use crate::entry::{ContentHash, IndexEntry, Kind, LocalKey, State};
use crate::fault::Fault;
use crate::hash::{
    self, Before, Ends, Hashed, How, Links, Most, PutOff, ReadResult, Unread, Wanted,
};
use crate::index::{Index, IndexError, Snapshot};
use crate::meta::{Seen, What};
use crate::path::RelPath;
use crate::subvolume;
use crate::tail::{GROWS_FROM, Tails};
use crate::tree::{TreeConfig, TreeId};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sight {
    /// Path.
    pub path: RelPath,
    /// What lies there; `None`: nothing that is replicated.
    pub state: Option<State>,
    /// How to recognise it. `None`: it was not at rest.
    pub local: Option<LocalKey>,
}

/// Why a file is looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// It changed while it was read: the index has no key of it, or another one.
    Moving,
    /// It changed so recently, at this time (nanoseconds of the wall clock), that its key proves nothing.
    Young(i128),
}

/// What several looks found.
#[derive(Debug, Default)]
pub(crate) struct Sights {
    /// What differs from the index, or may.
    pub seen: Vec<Sight>,
    /// To be looked at again.
    pub again: Vec<(RelPath, Rest)>,
    /// Cannot be read.
    pub errors: Vec<(RelPath, String)>,
    /// Paths that can be read.
    pub readable: Vec<RelPath>,
    /// Sockets.
    pub sockets: Vec<RelPath>,
    /// Further paths that must be looked at because of this.
    pub more: Vec<(RelPath, Dirt)>,
    /// Files whose contents are too large to be read now.
    pub large: Vec<(RelPath, Dirt)>,
    /// Files that have grown, of whose earlier content only the end was read again.
    pub grown: BTreeSet<RelPath>,
    /// Files that were not at rest.
    pub unrested: Unrested,
    /// Files that are known not to rest, with their sizes.
    pub restless: Vec<(RelPath, u64)>,
    /// Copies that were kept of them.
    pub kept: BTreeMap<RelPath, ContentHash>,
    /// Bytes of the contents that were looked at.
    pub bytes: u64,
}

/// Where to look.
pub(crate) struct Looker<'a> {
    /// Tree.
    pub tree: TreeId,
    /// Configuration.
    pub config: &'a TreeConfig,
    /// Root.
    pub open: &'a Open,
    /// What is known.
    pub index: &'a Snapshot,
    /// Where a walk reads what is known, piece by piece.
    pub source: &'a Index,
    /// A walk names files that changed since, whatever their keys say (nanoseconds of the wall clock).
    pub read_since: Option<i128>,
    /// On a receiver, protected paths and kept extras are not looked at.
    pub receiver: bool,
    /// What is remembered of contents. `None`: files are read whole, also those that have only grown.
    pub tails: Option<&'a Tails>,
    /// Where the chunks of large contents are remembered, to be compared with those of the other side.
    pub chunks: &'a ChunkMemory,
    /// Files that are known not to rest. `None`: none is treated as such.
    pub restless: Option<Restless<'a>>,
    /// When the reading of a long content ends before its end.
    pub ends: Ends<'a>,
    /// How much is read. `None`: everything.
    pub most: Option<&'a Most>,
}

impl Looker<'_> {
    /// Files of polled trees are written through maps, perhaps: they are made durable before they are read, so that
    /// the next store moves their times again.
    fn how(&self) -> How<'_> {
        How {
            flush_first: self.config.poll.is_some() && !self.receiver,
            ends: self.ends,
            most: self.most,
            links: None,
        }
    }

    /// Whether the path is none of ours.
    pub fn is_outside(&self, path: &RelPath, is_dir: bool) -> bool {
        path.is_private()
            || self.config.exclude.covers(path, is_dir)
            || (self.receiver && self.config.protect.covers(path, is_dir))
    }

    /// Looks at several paths, each with what it drags along.
    pub fn look_all(&self, paths: &[(RelPath, Dirt)]) -> Result<Sights, IndexError> {
        let mut sights = Sights::default();
        let mut names = Names::default();
        self.look_some(paths, &mut names, &mut sights)?;
        self.tell_names(names, &mut sights)?;
        Ok(sights)
    }

    /// Looks at some of many paths that are looked at as at one: names of a file can be anywhere among them. Files with
    /// several names are told of behind the last ones, by [`Looker::tell_names`].
    pub(super) fn look_some(
        &self,
        paths: &[(RelPath, Dirt)],
        names: &mut Names,
        sights: &mut Sights,
    ) -> Result<(), IndexError> {
        let mut entries = Vec::with_capacity(paths.len());
        for (path, _) in paths {
            entries.push(self.index.get(self.tree, path)?);
        }
        let before: Vec<Option<Before>> = paths
            .iter()
            .zip(&entries)
            .map(|((path, dirt), entry)| self.before(path, *dirt, entry.as_ref()?))
            .collect();
        let wanted: Vec<Wanted<'_>> = paths
            .iter()
            .zip(entries.iter().zip(&before))
            .map(|((path, dirt), (entry, before))| Wanted {
                before: before.as_ref(),
                ..self.wanted(path, *dirt, entry.as_ref())
            })
            .collect();
        // An index that fails is met again when it is told of them.
        let known = |key: &LocalKey| self.known(key).ok().flatten().map(|(_, hash)| hash);
        let how = How {
            links: Some(Links {
                once: &names.once,
                known: &known,
            }),
            ..self.how()
        };
        let read = hash::read_many(&self.open.root, &wanted, how);
        for (((path, dirt), entry), read) in paths.iter().zip(entries).zip(read) {
            self.look(path, *dirt, entry.as_ref(), read, names, sights)?;
        }
        Ok(())
    }

    /// How a path is read: not again what is known, and not at all what is none of ours.
    pub(super) fn wanted<'p>(
        &self,
        path: &'p RelPath,
        dirt: Dirt,
        entry: Option<&IndexEntry>,
    ) -> Wanted<'p> {
        let outside = self.is_outside(path, false);
        let known = entry.filter(|e| e.current.is_some() && e.seq != 0);
        let known = known.and_then(|e| e.local).filter(|_| !dirt.names);
        Wanted {
            path,
            file: dirt.file && !outside,
            unread: match known {
                _ if outside => Unread::Always,
                _ if dirt.force => Unread::Never,
                Some(key) => Unread::Known(key),
                None => Unread::Elsewhere,
            },
            before: None,
        }
    }

    /// What is known of a large file, which may have grown.
    pub(super) fn before(&self, path: &RelPath, dirt: Dirt, entry: &IndexEntry) -> Option<Before> {
        let tails = self.tails.filter(|_| entry.seq != 0)?;
        let key = entry.local?;
        let Kind::File { size, hash } = entry.current.as_ref()?.kind else {
            return None;
        };
        let known = size >= GROWS_FROM && size == key.size;
        known.then(|| Before {
            key,
            hash,
            tail: match dirt.whole {
                true => None,
                false => tails.of(self.tree, path, size, &hash),
            },
        })
    }

    pub(super) fn look(
        &self,
        path: &RelPath,
        dirt: Dirt,
        entry: Option<&IndexEntry>,
        read: ReadResult,
        names: &mut Names,
        out: &mut Sights,
    ) -> Result<(), IndexError> {
        let Some(found) = self.found(path, dirt, read, out) else {
            return Ok(());
        };
        let (seen, hashed, grew) = found;
        out.readable.push(path.clone());
        if let Some(seen) = &seen
            && !subvolume::belongs(&self.open.root, &seen.stat)
        {
            return Ok(());
        }
        let is_dir = seen.as_ref().is_some_and(|s| s.what == What::Dir);
        if self.is_outside(path, is_dir) {
            return Ok(());
        }
        let Some(seen) = seen.filter(|s| s.what != What::Socket || Self::note_socket(path, out))
        else {
            return self.gone(path, entry, out);
        };
        if !is_dir && self.was_dir(entry) {
            self.gone_below(path, out)?;
        }
        let inode = |key: LocalKey| (key.dev, key.ino);
        if let Some(before) = entry
            && before.local.map(inode) != Some(inode(seen.key()))
        {
            // Something else took the name's place, which its other names hear nothing of.
            self.other_names(path, before, out)?;
        }
        match hashed {
            Some(hashed) if grew => self.grown(path, seen, hashed, out),
            Some(hashed) => self.file((path, entry), seen, hashed, names, out)?,
            // Its key is the known one.
            None if matches!(seen.what, What::File(_)) => {}
            None => {
                self.plain(path, &seen, entry.filter(|_| !dirt.force), out);
                let is_new = !self.was_dir(entry) && !dirt.walked;
                if is_dir && (dirt.recursive || is_new) {
                    self.below(path, out)?;
                }
            }
        }
        Ok(())
    }

    /// What lies at the path, as it was read: its content where that was read too, and whether that only grew. What is to be looked
    /// at once more, or is no answer, is noted: `None`.
    fn found(
        &self,
        path: &RelPath,
        dirt: Dirt,
        read: ReadResult,
        out: &mut Sights,
    ) -> Option<(Option<Seen>, Option<Hashed>, bool)> {
        let read = match read {
            Ok(Some(read)) => read,
            // A component above is gone or is no directory any more: nothing lies here.
            Ok(None) | Err(Fault::NotBeneath | Fault::Missing) => return Some((None, None, false)),
            Err(Fault::Changed(_)) => {
                out.again.push((path.clone(), Rest::Moving));
                return None;
            }
            Err(fault) => {
                out.errors.push((path.clone(), fault.to_string()));
                return None;
            }
        };
        if let Some(why) = read.put_off {
            let put_off = match why {
                PutOff::Large => &mut out.large,
                PutOff::Full => &mut out.more,
            };
            put_off.push((path.clone(), dirt));
            return None;
        }
        if let Some((tails, tail)) = self.tails.zip(read.tail) {
            tails.remember(self.tree, path, tail);
        }
        if let Some((hashed, chunks)) = read.hashed.as_ref().zip(read.chunks) {
            self.chunks.remember(hashed.hash, Arc::new(chunks));
        }
        let grew = read.grew && self.tails.is_some();
        Some((Some(read.seen), read.hashed, grew))
    }

    pub(super) fn note_socket(path: &RelPath, out: &mut Sights) -> bool {
        out.sockets.push(path.clone());
        false
    }

    pub(super) fn was_dir(&self, entry: Option<&IndexEntry>) -> bool {
        entry
            .and_then(|e| e.current.as_ref())
            .is_some_and(|s| s.kind.is_dir())
    }

    /// Anything but a file. What `known` says of it is not told again.
    pub(super) fn plain(
        &self,
        path: &RelPath,
        seen: &Seen,
        known: Option<&IndexEntry>,
        out: &mut Sights,
    ) {
        let local = Some(seen.key());
        if known.is_some_and(|e| e.local == local && e.current.is_some() && e.seq != 0) {
            return;
        }
        out.seen.push(Sight {
            path: path.clone(),
            state: seen.state(None),
            local,
        });
    }

    /// Nothing lies here: what the index knows here and below is gone.
    pub(super) fn gone(
        &self,
        path: &RelPath,
        entry: Option<&IndexEntry>,
        out: &mut Sights,
    ) -> Result<(), IndexError> {
        if self.was_dir(entry) {
            self.gone_below(path, out)?;
        }
        if let Some(entry) = entry
            && entry.current.is_some()
        {
            self.other_names(path, entry, out)?;
            out.seen.push(Sight {
                path: path.clone(),
                state: None,
                local: None,
            });
        }
        Ok(())
    }

    /// Adds what the index knows at and below a path where nothing lies any more.
    pub(super) fn add_gone(
        &self,
        path: &RelPath,
        out: &mut BTreeSet<RelPath>,
    ) -> Result<(), IndexError> {
        let missing = match self.open.root.stat(path) {
            Ok(found) => found.is_none(),
            Err(fault) => matches!(fault, Fault::NotBeneath | Fault::Missing),
        };
        if !missing || self.is_outside(path, false) {
            return Ok(());
        }
        let entry = self.index.get(self.tree, path)?;
        if self.was_dir(entry.as_ref()) {
            for row in self.index.below(self.tree, path)? {
                let (path, entry) = row?;
                if entry.current.is_some() {
                    out.insert(path);
                }
            }
        }
        if entry.is_some_and(|e| e.current.is_some()) {
            out.insert(path.clone());
        }
        Ok(())
    }

    pub(super) fn gone_below(&self, path: &RelPath, out: &mut Sights) -> Result<(), IndexError> {
        for row in self.index.below(self.tree, path)? {
            let (path, entry) = row?;
            if entry.current.is_some() {
                self.other_names(&path, &entry, out)?;
                out.seen.push(Sight {
                    path,
                    state: None,
                    local: None,
                });
            }
        }
        Ok(())
    }

    fn file(
        &self,
        (path, entry): (&RelPath, Option<&IndexEntry>),
        seen: Seen,
        hashed: Hashed,
        names: &mut Names,
        out: &mut Sights,
    ) -> Result<(), IndexError> {
        let key = seen.key();
        out.bytes += hashed.size;
        let at_rest = hashed.is_at_rest(key);
        if !at_rest {
            out.unrested.note((key.dev, key.ino), [path]);
        }
        let restless = self.restless.filter(|r| !at_rest && r.has(path));
        let kind = match restless {
            Some(restless) => self.restless(restless, path, hashed.size, entry, out),
            None => {
                match at_rest {
                    false => out.again.push((path.clone(), Rest::Moving)),
                    true if hashed.fresh => {
                        out.again.push((path.clone(), Rest::Young(key.ctime_ns)));
                    }
                    true => {}
                }
                Some(Kind::File {
                    size: hashed.size,
                    hash: hashed.hash,
                })
            }
        };
        let Some(kind) = kind else {
            return Ok(());
        };
        let state = State {
            kind,
            meta: seen.meta.clone(),
        };
        // What was not at rest is recorded as it was read, so that a growing file is sent prefix by prefix, and is read
        // again because its key is unknown.
        let local = at_rest.then_some(key);
        if seen.has_other_names() {
            names.note(path, key, state, local);
            return Ok(());
        }
        out.seen.push(Sight {
            path: path.clone(),
            state: Some(state),
            local,
        });
        Ok(())
    }

    /// A file that has grown, with its content up to where it ended when it was looked at. What is behind that comes with
    /// the next look, of which an event tells.
    fn grown(&self, path: &RelPath, seen: Seen, hashed: Hashed, out: &mut Sights) {
        let local = Some(seen.key());
        let kind = Kind::File {
            size: hashed.size,
            hash: hashed.hash,
        };
        out.grown.insert(path.clone());
        out.seen.push(Sight {
            path: path.clone(),
            state: Some(State {
                kind,
                meta: seen.meta,
            }),
            local,
        });
    }

    /// Walks what lies below a directory and adds what must be looked at. Of more than can be marked a scan finds the rest, for which
    /// the marks ask.
    pub(super) fn below(&self, dir: &RelPath, out: &mut Sights) -> Result<(), IndexError> {
        let more = &mut out.more;
        let walk = self.walk(dir, &mut |found| {
            more.push(found.dirty(false));
            match more.len() > MAX_DIRTY {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        let gone = walk.gone.iter().map(|path| (path, Dirt::WALKED));
        out.more.extend(gone.take(MAX_DIRTY + 1));
        out.sockets.extend(walk.sockets);
        out.errors.extend(walk.errors);
        Ok(())
    }
}
