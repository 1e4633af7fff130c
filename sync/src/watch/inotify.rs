//! The inotify detector, through the notify crate: one watch per directory.
//!
//! Notify's own recursion misses most of what is made in a new directory before its watch is there. So every directory
//! is watched singly, and a worker thread treats each new directory in this order: watch it, then list it (and do the
//! same with what it holds), then report it as changed with all below it. Events go through the worker's queue in the
//! order of the kernel's, so a barrier comes after everything before it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use notify::event::{CreateKind, EventKind, ModifyKind, RenameMode};
use notify::{Config, ErrorKind, INotifyWatcher, RecursiveMode, Watcher as _};

use super::report::{Reach, Reporter};
use super::{Detector, sentinel_token};
use crate::fault::Fault;
use crate::path::{PRIVATE_DIR, RelPath};
use crate::scan::{self, Found};
use crate::stat::Stat;

/// Events between notify's thread and the worker: a burst of this many small paths is about 2 MB.
const QUEUE: usize = 16_384;
/// How soon the worker notices a lost event or the end when no event comes.
const IDLE: Duration = Duration::from_millis(100);
const PROOF_TIME: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Inotify {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What notify's thread hands to the worker.
struct Item {
    path: PathBuf,
    /// The entry came to this name, or left it: it may be a directory with all below it.
    structural: bool,
}

/// One watched tree.
#[derive(Clone)]
struct Base {
    tree: usize,
    path: PathBuf,
}

impl Inotify {
    /// Arms those of `trees` that it can watch; the others are noted as refused.
    pub(super) fn start(
        reporter: &Arc<Reporter>,
        trees: &[usize],
    ) -> Result<Option<Inotify>, std::io::Error> {
        let (sender, receiver) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicBool::new(false));
        let handler = handler(sender, Arc::clone(&lost));
        let config = Config::default().with_follow_symlinks(false);
        let watcher = match INotifyWatcher::new(handler, config) {
            Ok(watcher) => watcher,
            Err(error) => {
                for tree in trees {
                    reporter.refused(*tree, Detector::Inotify, &error.to_string());
                }
                return Ok(None);
            }
        };
        let stop = Arc::new(AtomicBool::new(false));
        let mut worker = Worker {
            reporter: Arc::clone(reporter),
            watcher,
            bases: Vec::new(),
            lost,
            stop: Arc::clone(&stop),
        };
        for tree in trees {
            if let Err(why) = worker.arm(*tree) {
                tracing::warn!(why, tree = %reporter.trees()[*tree].id, "inotify failed, polling instead");
                reporter.refused(*tree, Detector::Inotify, &why);
            }
        }
        if worker.bases.is_empty() {
            return Ok(None);
        }
        let armed: Vec<usize> = worker.bases.iter().map(|base| base.tree).collect();
        let thread = std::thread::Builder::new().name("tandem-inotify".into());
        let thread = thread.spawn(move || worker.run(&receiver))?;
        let started = Inotify {
            stop,
            thread: Some(thread),
        };
        for tree in armed {
            if let Err(why) = reporter.prove(tree, PROOF_TIME) {
                reporter.refused(tree, Detector::Inotify, &why);
            }
        }
        Ok(Some(started))
    }
}

impl Inotify {
    /// Its thread runs.
    pub(super) fn is_alive(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the inotify worker panicked");
        }
    }
}

/// Runs in notify's thread and never waits: the worker may be waiting for that thread.
fn handler(
    queue: SyncSender<Item>,
    lost: Arc<AtomicBool>,
) -> impl Fn(notify::Result<notify::Event>) + Send {
    move |event| {
        let Ok(event) = event else {
            lost.store(true, Ordering::Relaxed);
            return;
        };
        if event.need_rescan() {
            lost.store(true, Ordering::Relaxed);
        }
        let structural = match event.kind {
            EventKind::Access(_) | EventKind::Other => return,
            // The two names came as events of their own before.
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return,
            EventKind::Create(CreateKind::File) => false,
            EventKind::Create(_) | EventKind::Remove(_) | EventKind::Any => true,
            EventKind::Modify(ModifyKind::Name(_)) => true,
            EventKind::Modify(_) => false,
        };
        for path in event.paths {
            if queue.try_send(Item { path, structural }).is_err() {
                lost.store(true, Ordering::Relaxed);
            }
        }
    }
}

struct Worker {
    reporter: Arc<Reporter>,
    watcher: INotifyWatcher,
    bases: Vec<Base>,
    lost: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

/// Why a directory could not be watched.
enum WatchError {
    /// It is gone: no loss.
    Vanished,
    /// The tree cannot be watched as a whole.
    Limit(String),
}

impl Worker {
    fn arm(&mut self, tree: usize) -> Result<(), String> {
        let root = &self.reporter.trees()[tree].root;
        let path = std::fs::canonicalize(root.path()).map_err(|e| e.to_string())?;
        let same = Stat::of_path_followed(&path)
            .is_ok_and(|now| (now.dev, now.ino) == (root.opened_as().dev, root.opened_as().ino));
        if !same {
            return Err("the root's path leads elsewhere".to_owned());
        }
        let base = Base { tree, path };
        self.watch_all(&base, &RelPath::root())?;
        let private = base.path.join(OsStr::from_bytes(PRIVATE_DIR));
        match self.watch(&private) {
            Ok(()) => {}
            Err(WatchError::Vanished) => return Err("no private directory".to_owned()),
            Err(WatchError::Limit(why)) => return Err(why),
        }
        self.bases.push(base);
        self.reporter.armed(tree, Detector::Inotify);
        Ok(())
    }

    fn watch(&mut self, path: &Path) -> Result<(), WatchError> {
        match self.watcher.watch(path, RecursiveMode::NonRecursive) {
            Ok(()) => Ok(()),
            Err(error) => Err(match &error.kind {
                ErrorKind::PathNotFound => WatchError::Vanished,
                ErrorKind::MaxFilesWatch => {
                    WatchError::Limit("the limit fs.inotify.max_user_watches is reached".to_owned())
                }
                ErrorKind::Io(io) if io.kind() == std::io::ErrorKind::NotFound => {
                    WatchError::Vanished
                }
                _ => WatchError::Limit(error.to_string()),
            }),
        }
    }

    /// Watches a directory and all directories below it, each before it is listed.
    fn watch_all(&mut self, base: &Base, start: &RelPath) -> Result<(), String> {
        let mut left = BTreeSet::from([start.clone()]);
        while let Some(dir) = left.pop_first() {
            match self.watch(&base.path.join(&dir)) {
                Ok(()) => left.extend(self.directories_in(base, &dir)),
                Err(WatchError::Vanished) => {}
                Err(WatchError::Limit(why)) => return Err(why),
            }
        }
        Ok(())
    }

    /// The directories directly in `dir`. Mounts are not entered.
    fn directories_in(&self, base: &Base, dir: &RelPath) -> Vec<RelPath> {
        let mut found = Vec::new();
        let root = &self.reporter.trees()[base.tree].root;
        // One level only: everything deeper is pruned.
        let skip = |path: &RelPath, is_dir: bool| !is_dir || path.depth() > dir.depth() + 1;
        let walked = scan::walk(root, dir, &skip, &mut |path, what| {
            if matches!(what, Found::Entry(stat) if stat.is_dir()) {
                found.push(path.clone());
            }
            ControlFlow::Continue(())
        });
        if let Err(fault) = walked
            && fault != Fault::Missing
        {
            tracing::debug!(%fault, path = %dir, "a directory cannot be listed for watching");
        }
        found
    }

    fn run(mut self, queue: &Receiver<Item>) {
        while !self.stop.load(Ordering::Relaxed) {
            if self.lost.swap(false, Ordering::Relaxed) {
                self.arm_again();
            }
            match queue.recv_timeout(IDLE) {
                Ok(item) => self.take(&item),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let bases = std::mem::take(&mut self.bases);
                    for base in bases {
                        let why = Some((Detector::Inotify, "notify's thread ended"));
                        self.reporter.poll_instead(base.tree, why);
                    }
                    return;
                }
            }
        }
    }

    /// Events were lost: new directories may be without watch. Watched first, then told, so that the consumer's scan
    /// comes after.
    fn arm_again(&mut self) {
        for base in self.bases.clone() {
            match self.watch_all(&base, &RelPath::root()) {
                Ok(()) => self.reporter.lost(base.tree),
                Err(why) => self.give_up(base.tree, &why),
            }
        }
    }

    fn give_up(&mut self, tree: usize, why: &str) {
        tracing::warn!(why, tree = %self.reporter.trees()[tree].id, "inotify failed, polling instead");
        self.bases.retain(|base| base.tree != tree);
        self.reporter
            .poll_instead(tree, Some((Detector::Inotify, why)));
    }

    fn take(&mut self, item: &Item) {
        for base in self.bases.clone() {
            let Ok(relative) = item.path.strip_prefix(&base.path) else {
                continue;
            };
            let bytes = relative.as_os_str().as_bytes();
            let Ok(path) = RelPath::from_bytes(bytes) else {
                continue;
            };
            if path.is_private() {
                self.private_event(base.tree, &path);
                continue;
            }
            if item.structural && !path.is_root() {
                self.structural(&base, path);
            } else {
                self.reporter.dirty(base.tree, path, Reach::Path);
            }
        }
    }

    fn private_event(&self, tree: usize, path: &RelPath) {
        let token = path.file_name().and_then(sentinel_token);
        if let Some(token) = token.filter(|_| path.depth() == 2) {
            self.reporter.sentinel_seen(tree, token);
        }
    }

    /// Something came to this path or left it.
    fn structural(&mut self, base: &Base, path: RelPath) {
        let root = &self.reporter.trees()[base.tree].root;
        let now = root.stat(&path);
        let inside = |stat: &Stat| root.opened_as().same_mount(stat);
        let is_dir = matches!(&now, Ok(Some(stat)) if stat.is_dir() && inside(stat));
        if is_dir && let Err(why) = self.watch_all(base, &path) {
            self.give_up(base.tree, &why);
            return;
        }
        // Gone or unreadable: whatever was below went with it.
        let recursive = is_dir || !matches!(now, Ok(Some(_)));
        let reach = match recursive {
            true => Reach::Below,
            false => Reach::Path,
        };
        self.reporter.dirty(base.tree, path, reach);
    }
}
