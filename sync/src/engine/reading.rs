//! Reading large contents beside the worker, so that nothing waits for them but what depends on them: a flush, deletions, and a
//! claim that all is known.
//!
//! Such a path stays marked, as `large`. One thread for each tree reads one content after the other; what it read is looked at as
//! if the worker had just read it. Of what never rests it keeps a copy too.

use super::clock;
use super::dirty::Dirt;
use super::local::STAMP_MOST;
use super::shared::Shared;
use super::tree::Tree;
use super::worker::Worker;
use crate::beneath::Root;
use crate::entry::{ContentHash, LocalKey};
use crate::fault::Fault;
use crate::hash::{self, Before, Ends, How, Links, Once, ReadResult, Unread, Wanted};
use crate::meta::Seen;
use crate::path::RelPath;
use crate::private::Private;
use crate::set::{self, Taken};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::sync::oneshot;

/// A larger content is not read by the worker: this much is hashed in some tens of milliseconds.
pub(super) const LARGE: u64 = 64 << 20;

/// A content that is read. Dropping it ends the thread, after what it does at once; that is not waited for, as it may be a long
/// `fdatasync`.
#[derive(Debug)]
pub(crate) struct Reading {
    pub path: RelPath,
    /// What it was marked for when it began.
    dirt: Dirt,
    /// What it was marked for since: that may have happened behind what was read.
    again: Option<Dirt>,
    result: oneshot::Receiver<Found>,
    ended: Arc<AtomicBool>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// What a thread found.
#[derive(Debug)]
pub(crate) struct Found {
    pub read: ReadResult,
    /// A copy of what did not rest, if one was to be taken.
    pub taken: Option<Result<Taken, Fault>>,
}

/// What a thread is told.
struct Order {
    root: Arc<Root>,
    path: RelPath,
    dirt: Dirt,
    unread: Unread,
    before: Option<Before>,
    /// What is known of the file under another name.
    known: Option<(LocalKey, ContentHash)>,
    flush_first: bool,
    /// Where it is copied if it does not rest.
    copies: Option<Arc<Private>>,
    shared: Arc<Shared>,
}

/// What a test makes of readings.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Rehearsal {
    /// They do not begin.
    pub held: AtomicBool,
    /// The disk does not give the content.
    pub fail: AtomicBool,
    /// The system has no thread for them.
    pub refused: AtomicBool,
    /// Threads that were asked for.
    pub asked: AtomicUsize,
}

#[cfg(test)]
impl Order {
    fn is_refused(&self) -> bool {
        let rehearsal = &self.shared.readings;
        rehearsal.asked.fetch_add(1, Ordering::SeqCst);
        rehearsal.refused.load(Ordering::SeqCst)
    }

    fn rehearse(&self, ends: Ends<'_>) -> Result<(), Fault> {
        let rehearsal = &self.shared.readings;
        while rehearsal.held.load(Ordering::SeqCst) && !ends() {
            std::thread::yield_now();
        }
        match rehearsal.fail.load(Ordering::SeqCst) {
            true => Err(Fault::io(
                "read",
                &std::io::Error::from_raw_os_error(libc::EIO),
            )),
            false => Ok(()),
        }
    }
}

#[cfg(not(test))]
impl Order {
    fn is_refused(&self) -> bool {
        false
    }

    fn rehearse(&self, _: Ends<'_>) -> Result<(), Fault> {
        Ok(())
    }
}

impl Order {
    fn start(self) -> std::io::Result<Reading> {
        if self.is_refused() {
            return Err(std::io::ErrorKind::WouldBlock.into());
        }
        let (to_worker, result) = oneshot::channel();
        let ended = Arc::new(AtomicBool::new(false));
        let (path, dirt) = (self.path.clone(), self.dirt);
        let end = Arc::clone(&ended);
        let thread = std::thread::Builder::new().name("tandem-read".into());
        // A reading that was given up is nobody's.
        thread.spawn(move || drop(to_worker.send(self.run(&end))))?;
        Ok(Reading {
            path,
            dirt,
            again: None,
            result,
            ended,
        })
    }

    fn run(&self, ended: &AtomicBool) -> Found {
        let ends = || ended.load(Ordering::Relaxed) || self.shared.end.is_cancelled();
        let read = self.read(&ends);
        let moves = matches!(&read, Ok(Some(read)) if read.moves());
        let copies = self.copies.as_ref().filter(|_| moves);
        let taken =
            copies.map(|private| set::take_as_it_is(&self.root, private, &self.path, &ends));
        Found { read, taken }
    }

    fn read(&self, ends: Ends<'_>) -> ReadResult {
        let wanted = Wanted {
            path: &self.path,
            file: false,
            unread: self.unread,
            before: self.before.as_ref(),
        };
        self.rehearse(ends)?;
        let how = How {
            flush_first: self.flush_first,
            ends,
            most: None,
            links: Some(Links {
                once: &Once::default(),
                known: &|key| {
                    self.known
                        .filter(|known| known.0 == *key)
                        .map(|known| known.1)
                },
            }),
        };
        hash::read(&self.root, wanted, how)
    }
}

/// A content of any tree that was read, with the tree's place in the list.
pub(super) fn poll_read(trees: &mut [Tree], context: &mut Context<'_>) -> Poll<(usize, Found)> {
    for (at, tree) in trees.iter_mut().enumerate() {
        let Some(reading) = &mut tree.reading else {
            continue;
        };
        if let Poll::Ready(found) = Pin::new(&mut reading.result).poll(context) {
            let panicked = std::io::Error::other("the thread that read it panicked");
            let found = found.unwrap_or_else(|_| Found {
                read: Err(Fault::io("read", &panicked)),
                taken: None,
            });
            return Poll::Ready((at, found));
        }
    }
    Poll::Pending
}

impl Tree {
    /// Large contents that a scan found are not known yet.
    pub fn reads_for_scan(&self) -> bool {
        // What happens to it meanwhile marks it anew, and makes it no better known.
        self.has_large && self.dirty.values().any(|dirt| dirt.scanned)
    }

    /// Marks what is to be read beside the worker.
    pub(super) fn mark_large(&mut self, path: RelPath, dirt: Dirt) {
        let scanned = self.job.as_ref().is_some_and(|job| !job.routine);
        self.has_large = true;
        let dirt = Dirt {
            large: true,
            scanned: scanned || dirt.scanned,
            ..dirt
        };
        if self
            .reading_of(&path)
            .is_some_and(|reading| dirt.asks_more_than(&reading.dirt))
        {
            self.read_anew(&path, dirt);
        }
        self.put_mark(path, dirt);
    }

    /// What may have happened at the path is looked at also behind the reading of what lies there, which may have missed it.
    pub(super) fn read_anew(&mut self, path: &RelPath, dirt: Dirt) {
        let dirt = Dirt {
            large: false,
            ..self.dated(dirt)
        };
        if let Some(reading) = self.reading_of(path) {
            reading.again.get_or_insert(dirt).merge(dirt);
        }
    }

    fn reading_of(&mut self, path: &RelPath) -> Option<&mut Reading> {
        self.reading
            .as_mut()
            .filter(|reading| reading.path == *path)
    }

    /// Whether what was read lies there still.
    fn is_still(&self, path: &RelPath, seen: &Seen) -> bool {
        let open = self.open.as_ref();
        let found = open.and_then(|open| open.root.stat(path).ok().flatten());
        found.is_some_and(|stat| (stat.dev, stat.ino) == (seen.stat.dev, seen.stat.ino))
    }
}

impl Worker {
    /// Begins to read what is marked as large.
    pub(super) fn begin_readings(&mut self) {
        if clock::now() < self.readings_due {
            return;
        }
        for at in 0..self.trees.len() {
            let tree = &mut self.trees[at];
            if !tree.has_large || tree.reading.is_some() || !tree.moves() {
                continue;
            }
            let mut large = tree.dirty.iter().filter(|(_, dirt)| dirt.large);
            let Some((path, dirt)) = large.next().map(|(path, dirt)| (path.clone(), *dirt)) else {
                tree.has_large = tree.dirty.values().any(|dirt| dirt.scanned);
                continue;
            };
            self.begin_reading(at, path, dirt);
        }
    }

    fn begin_reading(&mut self, at: usize, path: RelPath, dirt: Dirt) {
        let known = self.looker(at, |looker| {
            let entry = looker.index.get(looker.tree, &path)?;
            let restless = looker.restless;
            let copied = restless.is_some_and(|all| all.wants_copy(&path, entry.as_ref()));
            let unread = looker.wanted(&path, dirt, entry.as_ref()).unread;
            let before = entry.and_then(|entry| looker.before(&path, dirt, &entry));
            let stat = looker.open.root.stat(&path).ok().flatten();
            let linked = stat.filter(|stat| stat.is_file() && stat.nlink > 1);
            let known = match linked.map(|stat| stat.key()) {
                Some(key) => looker.known(&key)?.map(|(_, hash)| (key, hash)),
                None => None,
            };
            Ok((unread, before, known, copied))
        });
        let (unread, before, known, copied) = match known {
            Some(Ok(known)) => known,
            Some(Err(error)) => return self.index_failed(&error),
            None => return,
        };
        let shared = Arc::clone(&self.shared);
        let tree = &mut self.trees[at];
        let Some(open) = &tree.open else {
            return;
        };
        let order = Order {
            root: Arc::clone(&open.root),
            path: path.clone(),
            dirt,
            unread,
            before,
            known,
            flush_first: tree.config.poll.is_some(),
            copies: copied.then(|| Arc::clone(&open.private)),
            shared,
        };
        match order.start() {
            Ok(reading) => tree.reading = Some(reading),
            Err(error) => {
                // It stays marked: what waits for it does not pass.
                tree.error(&path, format!("no thread to read it: {error}"));
                self.readings_due = clock::now().saturating_add(STAMP_MOST);
            }
        }
    }

    /// A large content was read. What it was marked for meanwhile is looked at behind that.
    pub(super) fn was_read(&mut self, at: usize, found: Found) {
        let tree = &mut self.trees[at];
        let Some(reading) = tree.reading.take() else {
            return;
        };
        let (path, again) = (reading.path.clone(), reading.again);
        drop(reading);
        let Some(mark) = tree.dirty.get_mut(&path) else {
            return;
        };
        mark.large = false;
        let dirt = *mark;
        let is_told = match &found.read {
            Ok(Some(read)) => tree.is_still(&path, &read.seen),
            Ok(None) | Err(Fault::Changed(_) | Fault::Missing | Fault::NotBeneath) => false,
            // The error is the path's: to read it again at once would bring the same.
            Err(_) => true,
        };
        if !is_told {
            // It was renamed, replaced or removed: an ordinary look, for which it is marked, tells.
            return self.due_now();
        }
        tree.dirty.remove(&path);
        self.look_at_read(at, (path.clone(), dirt), found);
        if let Some(again) = again {
            self.trees[at].mark(path, again);
        }
        self.due_now();
    }
}
