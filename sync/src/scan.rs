//! Walking a tree: every entry once, in path order, on two threads.
//!
//! The order is that of [`RelPath`]: a directory comes before what it contains, siblings in byte order of their names.
//! So the result can be merged with the index while it arrives. One thread reads directories ahead of the other, which
//! hands the entries out; what was read ahead is bounded (`READ_AHEAD`).
//!
//! A path that vanishes during the walk is not an error. A directory that cannot be read is one, on its own path, and
//! nothing may be concluded about what lies below it; the same holds for a mount and a subvolume.

use std::ffi::CStr;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, FileType, RawDir};
use rustix::io::Errno;

use crate::beneath::Root;
use crate::fault::Fault;
use crate::helper::helper;
use crate::path::RelPath;
use crate::stat::Stat;
use crate::subvolume;

/// Entries that may be read ahead of the consumer: about 30 MB with long names.
const READ_AHEAD: usize = 100_000;
/// Buffer of one directory read.
const DIR_BUFFER: usize = 64 * 1024;

/// One result of a walk. The path given with it is relative to the root of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// An entry that can be replicated.
    Entry(Stat),
    /// A socket: listed, never replicated.
    Socket,
    /// The root of another mount or of a subvolume, not entered: unknown from here down.
    Mount,
    /// Cannot be read: unknown from here down.
    Unreadable(Fault),
}

/// What a walk met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Entries handed out.
    pub entries: u64,
    /// Sum of the sizes of regular files.
    pub bytes: u64,
    /// The consumer ended the walk early.
    pub stopped: bool,
}

/// Walks the entries below `start` (the root of the tree, or a directory in it). `start` itself is not handed out.
///
/// `skip(path, is_dir)` prunes: a skipped directory is not entered. The private directory is always skipped. `each`
/// gets the paths in order, in the caller's thread, and ends the walk with `Break`.
/// An error is returned only if `start` itself cannot be read.
pub fn walk(
    root: &Root,
    start: &RelPath,
    skip: &(dyn Fn(&RelPath, bool) -> bool + Sync),
    each: &mut dyn FnMut(&RelPath, Found) -> ControlFlow<()>,
) -> Result<Totals, Fault> {
    let walker = Walker {
        root,
        skip,
        queue: Mutex::default(),
        changed: Condvar::new(),
        done: AtomicBool::new(false),
    };
    let first = walker.read_dir(start)?;
    walker.offer(&first);
    std::thread::scope(|scope| {
        if helper(scope, || walker.read_ahead()).is_none() {
            walker.done.store(true, Ordering::Relaxed);
        }
        // Ends the helper however the consumer leaves, a panic included.
        let _end = EndOnDrop(&walker);
        Ok(walker.hand_out(first, each))
    })
}

struct Walker<'a> {
    root: &'a Root,
    skip: &'a (dyn Fn(&RelPath, bool) -> bool + Sync),
    queue: Mutex<Queue>,
    changed: Condvar,
    done: AtomicBool,
}

/// Directories that are waiting to be read, the next one in path order on top.
#[derive(Default)]
struct Queue {
    stack: Vec<Arc<Slot>>,
    /// Entries in listings that were read ahead and not yet taken.
    ahead: usize,
}

struct Slot {
    path: RelPath,
    state: Mutex<SlotState>,
    ready: Condvar,
}

#[derive(Default)]
enum SlotState {
    #[default]
    Waiting,
    Claimed,
    Ready(Result<Vec<Entry>, Fault>),
}

struct Entry {
    path: RelPath,
    found: Found,
    below: Option<Arc<Slot>>,
}

struct EndOnDrop<'w, 'a>(&'w Walker<'a>);

impl Drop for EndOnDrop<'_, '_> {
    fn drop(&mut self) {
        // The flag is set under the queue's lock, so that the helper cannot miss the wake-up.
        let queue = self.0.lock();
        self.0.done.store(true, Ordering::Relaxed);
        drop(queue);
        self.0.changed.notify_all();
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, SlotState> {
        // Every state is written whole; a panic of the other thread cannot leave half a state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the right to read this directory.
    fn claim(&self) -> bool {
        let mut state = self.lock();
        let free = matches!(*state, SlotState::Waiting);
        if free {
            *state = SlotState::Claimed;
        }
        free
    }

    fn put(&self, listing: Result<Vec<Entry>, Fault>) {
        *self.lock() = SlotState::Ready(listing);
        self.ready.notify_all();
    }
}

impl Walker<'_> {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The helper's loop: reads the next directory in path order that nobody has claimed.
    fn read_ahead(&self) {
        loop {
            let slot = {
                let mut queue = self.lock();
                loop {
                    if self.done.load(Ordering::Relaxed) {
                        return;
                    }
                    if queue.ahead < READ_AHEAD
                        && let Some(slot) = queue.stack.pop()
                    {
                        break slot;
                    }
                    queue = self
                        .changed
                        .wait(queue)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            };
            if !slot.claim() {
                continue;
            }
            let listing = self.read_dir(&slot.path);
            if let Ok(entries) = &listing {
                self.lock().ahead += entries.len();
                self.offer(entries);
            }
            slot.put(listing);
        }
    }

    /// Puts the directories of a listing on the stack, the first one on top, if anybody reads ahead.
    fn offer(&self, entries: &[Entry]) {
        if self.done.load(Ordering::Relaxed) {
            return;
        }
        let below = entries.iter().rev().filter_map(|entry| entry.below.clone());
        self.lock().stack.extend(below);
        self.changed.notify_one();
    }

    /// The listing of a directory: from the helper if it has it or is at it, else read here.
    fn take(&self, slot: &Slot) -> Result<Vec<Entry>, Fault> {
        if slot.claim() {
            let listing = self.read_dir(&slot.path)?;
            self.offer(&listing);
            return Ok(listing);
        }
        let mut state = slot.lock();
        loop {
            match std::mem::take(&mut *state) {
                SlotState::Ready(listing) => {
                    drop(state);
                    if let Ok(entries) = &listing {
                        self.lock().ahead -= entries.len();
                        self.changed.notify_one();
                    }
                    return listing;
                }
                other => *state = other,
            }
            state = slot
                .ready
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn hand_out(
        &self,
        first: Vec<Entry>,
        each: &mut dyn FnMut(&RelPath, Found) -> ControlFlow<()>,
    ) -> Totals {
        let mut totals = Totals::default();
        let mut levels = vec![first.into_iter()];
        while let Some(level) = levels.last_mut() {
            let Some(entry) = level.next() else {
                levels.pop();
                continue;
            };
            let mut found = entry.found;
            if let Found::Entry(stat) = &found {
                totals.entries += 1;
                totals.bytes += if stat.is_file() { stat.size } else { 0 };
            }
            if let Some(slot) = entry.below {
                match self.take(&slot) {
                    Ok(listing) => levels.push(listing.into_iter()),
                    // It vanished or became something else between the two looks: the next event or walk tells.
                    Err(Fault::Missing) => continue,
                    Err(fault) => found = Found::Unreadable(fault),
                }
            }
            if each(&entry.path, found).is_break() {
                totals.stopped = true;
                break;
            }
        }
        totals
    }

    fn read_dir(&self, path: &RelPath) -> Result<Vec<Entry>, Fault> {
        let dir = self.root.open_dir(path)?;
        let mut buffer = Vec::with_capacity(DIR_BUFFER);
        let mut reader = RawDir::new(&dir, buffer.spare_capacity_mut());
        let mut entries = Vec::new();
        while let Some(next) = reader.next() {
            let next = next.map_err(|e| Fault::os("getdents", e))?;
            let name = next.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            entries.extend(self.examine(&dir, path, name));
        }
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    fn examine(&self, dir: &impl AsFd, parent: &RelPath, name: &CStr) -> Option<Entry> {
        // Names of a directory are valid components; only a path beyond the bound on paths fails.
        let path = match parent.join(name.to_bytes()) {
            Ok(path) => path,
            Err(_) => {
                return Some(Entry {
                    path: parent.clone(),
                    found: Found::Unreadable(Fault::os("path", Errno::NAMETOOLONG)),
                    below: None,
                });
            }
        };
        if path.is_private() {
            return None;
        }
        let stat = match Stat::read(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => self.root.sees(stat),
            Err(Errno::NOENT) => return None,
            Err(errno) => {
                let found = Found::Unreadable(Fault::os("stat", errno));
                return (!(self.skip)(&path, false)).then_some(Entry {
                    path,
                    found,
                    below: None,
                });
            }
        };
        if (self.skip)(&path, stat.is_dir()) {
            return None;
        }
        let belongs = subvolume::belongs(self.root, &stat);
        let found = match stat.file_type() {
            _ if !belongs => Found::Mount,
            FileType::Socket => Found::Socket,
            _ => Found::Entry(stat),
        };
        let below = (belongs && stat.is_dir()).then(|| {
            Arc::new(Slot {
                path: path.clone(),
                state: Mutex::default(),
                ready: Condvar::new(),
            })
        });
        Some(Entry { path, found, below })
    }
}

#[cfg(test)]
mod tests;
