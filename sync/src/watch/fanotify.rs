//! The fanotify detector: one group for all trees, one mark per file system, one thread that reads.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::io::Errno;

use super::fanotify_sys::{
    self as sys, FAN_ATTRIB, FAN_CLOSE_WRITE, FAN_CREATE, FAN_DELETE, FAN_MODIFY, FAN_MOVED_FROM,
    FAN_MOVED_TO, FAN_ONDIR, FAN_Q_OVERFLOW, FAN_RENAME, NameRecord, RawEvent,
};
use super::handles::{Handles, Where};
use super::report::{Reach, Reporter};
use super::{Detector, sentinel_token};
use crate::path::{PRIVATE_DIR, RelPath};

/// How long a sentinel's event may take when watching starts. It takes microseconds; the rest is a busy machine.
const PROOF_TIME: Duration = Duration::from_secs(5);
/// One read: several hundred events.
const BUFFER: usize = 256 * 1024;
/// How long a foreign event may wait behind this node's own ones.
const REST: rustix::event::Timespec = rustix::event::Timespec {
    tv_sec: 0,
    tv_nsec: 1_000_000,
};
const CHANGES: u64 =
    FAN_ATTRIB | FAN_CLOSE_WRITE | FAN_CREATE | FAN_DELETE | FAN_MODIFY | FAN_ONDIR;

#[derive(Debug)]
pub(super) struct Fanotify {
    stop: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Fanotify {
    /// Arms those of `trees` that it can watch; the others are noted as refused. `None` if there is none.
    pub(super) fn start(
        reporter: &Arc<Reporter>,
        trees: &[usize],
        own: &Arc<AtomicI32>,
    ) -> Result<Option<Fanotify>, std::io::Error> {
        let group = match sys::init() {
            Ok(group) => group,
            Err(errno) => {
                for tree in trees {
                    reporter.refused(*tree, Detector::Fanotify, &errno.to_string());
                }
                return Ok(None);
            }
        };
        let mut handles = Handles::new(reporter);
        let mut marked = Vec::new();
        for tree in trees {
            match arm(reporter, &group, &mut handles, *tree) {
                Ok(()) => marked.push(*tree),
                Err(why) => reporter.refused(*tree, Detector::Fanotify, &why),
            }
        }
        if marked.is_empty() {
            return Ok(None);
        }
        let wake = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?);
        let stop = Arc::new(AtomicBool::new(false));
        let reader = Reader {
            reporter: Arc::clone(reporter),
            group,
            handles,
            wake: Arc::clone(&wake),
            stop: Arc::clone(&stop),
            own: Arc::clone(own),
            others: false,
        };
        let thread = std::thread::Builder::new().name("tandem-fanotify".into());
        let thread = thread.spawn(move || reader.run(&marked))?;
        let started = Fanotify {
            stop,
            wake,
            thread: Some(thread),
        };
        prove(reporter, trees);
        Ok(Some(started))
    }
}

impl Fanotify {
    /// Its thread runs.
    pub(super) fn is_alive(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Fanotify {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Err(errno) = rustix::io::write(&*self.wake, &1u64.to_ne_bytes()) {
            tracing::error!(%errno, "the fanotify thread cannot be woken");
            return;
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the fanotify thread panicked");
        }
    }
}

/// A file system may take the mark and give handles that cannot be opened (some overlays): only a real event proves it.
fn prove(reporter: &Reporter, trees: &[usize]) {
    for tree in trees.iter().filter(|tree| reporter.is_armed(**tree)) {
        if let Err(why) = reporter.prove(*tree, PROOF_TIME) {
            reporter.refused(*tree, Detector::Fanotify, &why);
        }
    }
}

fn arm(
    reporter: &Reporter,
    group: &OwnedFd,
    handles: &mut Handles,
    tree: usize,
) -> Result<(), String> {
    let root = &reporter.trees()[tree].root;
    // FAN_RENAME tells both names in one event (Linux 5.17); before, two events.
    let marked = match sys::mark_filesystem(group.as_fd(), root.fd(), CHANGES | FAN_RENAME) {
        Err(Errno::INVAL) => {
            let moves = CHANGES | FAN_MOVED_FROM | FAN_MOVED_TO;
            sys::mark_filesystem(group.as_fd(), root.fd(), moves)
        }
        other => other,
    };
    marked.map_err(|errno| match errno {
        Errno::XDEV => "the root is a subvolume; the mark covers whole file systems".to_owned(),
        Errno::NODEV | Errno::OPNOTSUPP => "the file system has no file handles".to_owned(),
        errno => errno.to_string(),
    })?;
    handles.add(tree).map_err(|errno| errno.to_string())?;
    reporter.armed(tree, Detector::Fanotify);
    Ok(())
}

struct Reader {
    reporter: Arc<Reporter>,
    group: OwnedFd,
    handles: Handles,
    wake: Arc<OwnedFd>,
    stop: Arc<AtomicBool>,
    /// The thread whose changes are not told.
    own: Arc<AtomicI32>,
    /// The last buffer had an event of somebody else, or one that somebody waits for.
    others: bool,
}

impl Reader {
    fn run(mut self, trees: &[usize]) {
        let mut buffer = vec![0u8; BUFFER];
        while !self.stop.load(Ordering::Relaxed) {
            match rustix::io::read(&self.group, &mut buffer[..]) {
                Ok(0) => return self.lost(trees, "end of file"),
                Ok(length) => {
                    self.others = false;
                    self.take(&buffer[..length], trees);
                    if !self.others {
                        self.rest();
                    }
                }
                Err(Errno::AGAIN) => {
                    let mut fds = [
                        PollFd::new(&self.group, PollFlags::IN),
                        PollFd::new(&*self.wake, PollFlags::IN),
                    ];
                    match rustix::event::poll(&mut fds, None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(errno) => return self.lost(trees, &errno.to_string()),
                    }
                }
                Err(Errno::INTR) => {}
                Err(errno) => return self.lost(trees, &errno.to_string()),
            }
        }
    }

    /// Nothing but this node's own changes: more of them come, and a wake for each would cost more than they do.
    fn rest(&self) {
        let mut fds = [PollFd::new(&*self.wake, PollFlags::IN)];
        // Whatever it answers, the group is read next.
        let _ = rustix::event::poll(&mut fds, Some(&REST));
    }

    /// The group cannot be read any more: from now on the trees are polled.
    fn lost(&self, trees: &[usize], why: &str) {
        tracing::error!(why, "fanotify failed");
        for tree in trees.iter().filter(|tree| self.reporter.is_armed(**tree)) {
            self.reporter
                .poll_instead(*tree, Some((Detector::Fanotify, why)));
        }
    }

    fn take(&mut self, buffer: &[u8], trees: &[usize]) {
        for event in sys::events(buffer) {
            match event {
                Ok(event) if event.mask & FAN_Q_OVERFLOW == 0 => self.one(&event),
                Ok(_) | Err(()) => trees.iter().for_each(|tree| self.reporter.lost(*tree)),
            }
        }
    }

    fn one(&mut self, event: &RawEvent<'_>) {
        let on_dir = event.mask & FAN_ONDIR != 0;
        let moved = event.mask & (FAN_RENAME | FAN_MOVED_FROM | FAN_MOVED_TO) != 0;
        if on_dir && moved {
            self.handles.forget();
        }
        let structural = moved || event.mask & (FAN_CREATE | FAN_DELETE) != 0;
        // A directory that went or moved stands for all below it. One that was made is empty, and the mark is on all that comes
        // into it; listed, it would show what is renamed into it before the event that says from where. Its own attributes
        // stand for themselves.
        let made = !moved && event.mask & FAN_DELETE == 0;
        // What this node does in a tree itself is known to it. Sentinels are its own, too.
        let own = event.thread == self.own.load(Ordering::Relaxed);
        let told = event.mask & FAN_RENAME != 0 && !own && self.renamed(event);
        for record in event.names() {
            if !own || sentinel_token(record.name).is_some() {
                let reach = match on_dir && structural && (record.old || !told) {
                    false => Reach::Path,
                    true if made => Reach::Made,
                    true => Reach::Below,
                };
                self.name(&record, reach);
            }
            if !own && !structural && event.mask & FAN_CLOSE_WRITE != 0 {
                self.closed(&record);
            }
        }
    }

    /// Both names of a rename lie in one tree: it is told as one. False: it was not.
    fn renamed(&mut self, event: &RawEvent<'_>) -> bool {
        let (mut from, mut to) = (None, None);
        for record in event.names() {
            let Where::Inside(places) = self.handles.resolve(record.fsid, record.handle) else {
                return false;
            };
            // Of trees that lie in each other on one file system it is told by its two paths.
            let [(tree, dir)] = &places[..] else {
                return false;
            };
            let Ok(path) = dir.join(record.name) else {
                return false;
            };
            let slot = if record.old { &mut from } else { &mut to };
            *slot = Some((*tree, path));
        }
        match (from, to) {
            (Some((one, from)), Some((two, to))) if one == two => {
                self.reporter.moved(one, from, to)
            }
            _ => false,
        }
    }

    /// Whoever wrote a file that was there has closed it, behind the news of its path.
    fn closed(&mut self, record: &NameRecord<'_>) {
        let Where::Inside(places) = self.handles.resolve(record.fsid, record.handle) else {
            return;
        };
        for (tree, dir) in places.iter().filter(|(_, dir)| !dir.is_private()) {
            if let Ok(path) = dir.join(record.name) {
                self.reporter.closed(*tree, path);
            }
        }
    }

    fn name(&mut self, record: &NameRecord<'_>, reach: Reach) {
        match self.handles.resolve(record.fsid, record.handle) {
            Where::Inside(places) => {
                for (tree, dir) in places.iter() {
                    self.inside(*tree, dir, record.name, reach);
                }
            }
            Where::Below(places) | Where::Unknown(places) => {
                self.others = true;
                for (tree, above) in places.iter().filter(|(_, above)| !above.is_private()) {
                    self.reporter.dirty(*tree, above.clone(), Reach::Below);
                }
            }
            Where::Outside | Where::Gone => {}
        }
    }

    fn inside(&mut self, tree: usize, dir: &RelPath, name: &[u8], reach: Reach) {
        if dir.is_private() {
            if dir.as_bytes() == PRIVATE_DIR
                && let Some(token) = sentinel_token(name)
            {
                self.others = true;
                self.reporter.sentinel_seen(tree, token);
            }
            return;
        }
        self.others = true;
        let path = match name {
            b"." | b"" => Ok(dir.clone()),
            name => dir.join(name),
        };
        match path {
            Ok(path) if path.is_private() => {}
            Ok(path) => self.reporter.dirty(tree, path, reach),
            // Longer than any path of a tree may be: the directory above is looked at.
            Err(_) => self.reporter.dirty(tree, dir.clone(), Reach::Below),
        }
    }
}
