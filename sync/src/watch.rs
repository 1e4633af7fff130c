//! Learning of changes in the trees as they happen.
//!
//! Three detectors, chosen per tree when watching starts, best first:
//! - `fanotify`: one mark for the whole file system, no race with new directories. Needs `CAP_SYS_ADMIN` and a file
//!   system that gives file handles.
//! - `inotify` (through the notify crate): one watch per directory. A new directory is watched first and then reported
//!   as changed with all below it.
//! - `poll`: the whole tree is reported as changed every interval. Each tree has its own.
//!
//! What no detector sees: stores through a memory map and libaio writes cause no event. Full passes bound those.
//!
//! Nothing is lost silently: a full consumer or a full kernel queue becomes [`Event::Overflow`], and the consumer scans
//! the tree again. A barrier ([`Watcher::barrier`]) tells when all that happened before it has been reported.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::beneath::{Place, Root};
use crate::fault::Fault;
use crate::path::RelPath;
use crate::private::{self, Private};
use crate::tree::TreeId;

mod fanotify;
mod fanotify_sys;
mod handles;
mod inotify;
mod keeper;
mod report;

use keeper::Keeper;
use report::Reporter;

/// Sentinel files that may wait for their event at once. More means that the consumer does not wait for its barriers.
pub const MAX_BARRIERS: usize = 1024;

/// What the consumer is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The entry at this path was created, changed or removed.
    Dirty {
        /// The tree.
        tree: TreeId,
        /// The path; the root for the whole tree.
        path: RelPath,
        /// Everything below it may have changed too.
        recursive: bool,
    },
    /// A directory was made at this path, empty: what comes into it is reported by itself, and it need not be listed. Not every
    /// detector can promise that.
    Made {
        /// The tree.
        tree: TreeId,
        /// The path.
        path: RelPath,
    },
    /// Whoever wrote the file at this path has closed it, and it was neither made nor renamed meanwhile. Behind [`Event::Dirty`]
    /// of the path. A hint that not every detector gives: what is to be read there is likely to be whole.
    Closed {
        /// The tree.
        tree: TreeId,
        /// The path.
        path: RelPath,
    },
    /// What was at one path of the tree was renamed to another one. Both are reported as [`Event::Dirty`] behind it, the new
    /// one without what lies beneath: that is as it was, or to be listed if it is not known. Not every detector tells it,
    /// nor every rename.
    Moved {
        /// The tree.
        tree: TreeId,
        /// The old path.
        from: RelPath,
        /// The new one.
        to: RelPath,
    },
    /// Events were lost: scan the whole tree.
    Overflow {
        /// The tree.
        tree: TreeId,
    },
    /// The root's path no longer leads to the directory that is watched: moved, deleted, unmounted or mounted over.
    RootGone {
        /// The tree.
        tree: TreeId,
    },
    /// Everything that happened in the tree before [`Watcher::barrier`] was called has been reported.
    Barrier {
        /// The tree.
        tree: TreeId,
        /// The caller's number.
        token: u64,
    },
}

/// Takes an event without blocking; false when there is no room. The event is then lost and becomes an overflow.
pub type Sink = Box<dyn Fn(Event) -> bool + Send + Sync>;

/// How a tree is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Detector {
    /// One fanotify mark per file system.
    Fanotify,
    /// One inotify watch per directory.
    Inotify,
    /// No events: everything is reported as changed every interval.
    Poll,
}

impl fmt::Display for Detector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Detector::Fanotify => "fanotify",
            Detector::Inotify => "inotify",
            Detector::Poll => "poll",
        })
    }
}

/// How one tree is watched, for status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watching {
    /// The detector in use.
    pub detector: Detector,
    /// Why a better one is not.
    pub because: Option<String>,
}

/// One tree to watch.
#[derive(Debug, Clone)]
pub struct WatchTree {
    /// Its id, given back in events.
    pub id: TreeId,
    /// Its opened root.
    pub root: Arc<Root>,
    /// Its private directory, where the sentinels of barriers are made.
    pub private: Arc<Private>,
    /// Interval at which it is reported as changed where no detector works.
    pub poll: Duration,
}

/// [`WatchTree::poll`] of a tree for which nothing else is said.
pub const POLL: Duration = Duration::from_secs(10);

/// Settings of a watcher.
#[derive(Debug, Clone)]
pub struct Options {
    /// Use nothing better than this.
    pub best: Detector,
    /// Number of the thread whose changes are not told (gettid(2)); 0 while there is none. Only fanotify knows who did
    /// something, and merges no events of different threads; the other detectors tell everything.
    pub own: Arc<AtomicI32>,
}

/// Watches trees until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    reporter: Arc<Reporter>,
    // Dropped in this order: the detectors end before the keeper.
    fanotify: Option<fanotify::Fanotify>,
    inotify: Option<inotify::Inotify>,
    keeper: Keeper,
}

impl Watcher {
    /// Starts watching. When this returns, every later change of the trees is reported.
    ///
    /// Fails only if a thread cannot be started; a detector that does not work is replaced by the next one.
    pub fn start(
        trees: Vec<WatchTree>,
        options: Options,
        sink: Sink,
    ) -> Result<Watcher, std::io::Error> {
        for tree in &trees {
            remove_old_sentinels(&tree.private);
        }
        let reporter = Arc::new(Reporter::new(trees, sink));
        let all: Vec<usize> = (0..reporter.trees().len()).collect();
        let mut left = all;
        let mut fanotify = None;
        if options.best == Detector::Fanotify && !left.is_empty() {
            fanotify = fanotify::Fanotify::start(&reporter, &left, &options.own)?;
            left.retain(|tree| !reporter.is_armed(*tree));
        }
        let mut inotify = None;
        if options.best != Detector::Poll && !left.is_empty() {
            inotify = inotify::Inotify::start(&reporter, &left)?;
            left.retain(|tree| !reporter.is_armed(*tree));
        }
        for tree in left {
            reporter.poll_instead(tree, None);
        }
        let keeper = Keeper::start(&reporter)?;
        Ok(Watcher {
            reporter,
            fanotify,
            inotify,
            keeper,
        })
    }

    /// How a tree is watched now; `None` for a tree that is not watched. An inotify tree becomes a polled one when
    /// the system's limit of watches is reached.
    pub fn watching(&self, tree: TreeId) -> Option<Watching> {
        let index = self.reporter.index_of(tree)?;
        Some(self.reporter.watching(index))
    }

    /// False when a thread that it needs has ended: events are lost from then on.
    pub fn is_alive(&self) -> bool {
        self.fanotify.as_ref().is_none_or(|f| f.is_alive())
            && self.inotify.as_ref().is_none_or(|i| i.is_alive())
            && self.keeper.is_alive()
    }

    /// Asks for [`Event::Barrier`] with `token` after everything that happened in the tree before this call was
    /// reported. A token that is used again before it came back is answered once.
    pub fn barrier(&self, tree: TreeId, token: u64) -> Result<(), Fault> {
        let index = self.reporter.index_of(tree).ok_or(Fault::Missing)?;
        self.reporter.issue(index, token)
    }
}

/// The name of the sentinel of a token.
fn sentinel_name(token: u64) -> Vec<u8> {
    format!("barrier-{token:016x}").into_bytes()
}

/// The token of a sentinel's name. Another name that reads as its number is nobody's.
fn sentinel_token(name: &[u8]) -> Option<u64> {
    let digits = name.strip_prefix(b"barrier-")?;
    let token = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    (sentinel_name(token) == name).then_some(token)
}

/// Makes and removes a sentinel: its creation is an event in order with all others.
fn touch_sentinel(private: &Private, token: u64) -> Result<(), Fault> {
    let dir = private::duplicate(private.dir())?;
    let place = Place::new(dir, &sentinel_name(token))?;
    match place.create_new() {
        Ok(_) => place.unlink(),
        Err(fault) if fault.errno() == Some(libc::EEXIST) => {
            place.unlink()?;
            place.create_new()?;
            place.unlink()
        }
        Err(fault) => Err(fault),
    }
}

/// Left over by a process that was killed. What cannot be removed is only clutter.
fn remove_old_sentinels(private: &Private) {
    let names = private::names(private.dir()).unwrap_or_default();
    for name in names.iter().filter(|name| sentinel_token(name).is_some()) {
        let place = private::duplicate(private.dir()).and_then(|dir| Place::new(dir, name));
        if let Err(fault) = place.and_then(|place| place.unlink()) {
            tracing::debug!(%fault, "an old sentinel could not be removed");
        }
    }
}

/// What the kernel's fanotify queue says. A name becomes a component of a path, as which it stays itself, or a barrier.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz(bytes: &[u8]) {
    for event in fanotify_sys::events(bytes).map_while(Result::ok) {
        let room = bytes.len();
        for name in event.names() {
            assert!(name.name.len() <= room && name.handle.len() <= room);
            if let Some(token) = sentinel_token(name.name) {
                assert_eq!(sentinel_name(token), name.name);
            }
            if let Ok(path) = RelPath::root().join(name.name) {
                assert_eq!(path.as_bytes(), name.name);
                assert_eq!(path.components().count(), 1);
            }
        }
    }
}

/// A rename, and a sentinel that was made.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz_seeds() -> Vec<Vec<u8>> {
    let sentinel = sentinel_name(7);
    let rename = [(10, &b"old"[..]), (12, b"newname")];
    vec![
        fanotify_sys::sample(fanotify_sys::FAN_RENAME, &rename),
        fanotify_sys::sample(fanotify_sys::FAN_CREATE, &[(2, &sentinel)]),
    ]
}

#[cfg(test)]
mod tests;
