//! A tree whose file system takes no changes: after an error of its disk (`errors=remount-ro`), or because somebody mounted it so.
//!
//! On a receiver nothing can be put there, so the tree is stopped as a whole, and no path is listed; the other trees go on. It is tried
//! again at the interval of [`super::room`]. A source reads and sends it all the same: an alarm says that it is so.

use super::clock;
use super::room::AGAIN;
use super::root::broken;
use super::status::Mode;
use super::tree::{Open, Stop, Tree};
use super::worker::Worker;
use crate::fault::{Fault, Unput};
use crate::stat::Stat;
use std::path::Path;

/// Name of the alarm.
pub(super) const ALARM: &str = "read-only";

/// What a tree is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// To be read and sent.
    Reading,
    /// To be changed as the source says.
    Changing,
}

impl Worker {
    /// What this node does with its trees.
    pub(super) fn needs(&self) -> Needs {
        match self.mode {
            Mode::Replica => Needs::Changing,
            Mode::Source { .. } | Mode::Idle => Needs::Reading,
        }
    }

    /// At intervals: a receiver is not to find out by the next change that it cannot take it, nor a source by its services.
    pub(super) fn judge_read_only(&mut self) {
        let now = clock::now();
        if self.read_only_due > now {
            return;
        }
        self.read_only_due = now.saturating_add(AGAIN);
        for at in 0..self.trees.len() {
            let tree = &self.trees[at];
            let open = tree.open.as_ref();
            let is_so = open.is_some_and(|open| open.private.says_it_is_read_only());
            match self.needs() {
                Needs::Changing if is_so => {
                    self.stop_read_only(at);
                    self.end_session();
                }
                _ if tree.read_only == is_so => {}
                _ => self.goes_on_reading(at, is_so),
            }
        }
    }

    /// A source meets a tree that it can only read, or one that it could only read.
    fn goes_on_reading(&mut self, at: usize, is_so: bool) {
        let tree = &mut self.trees[at];
        tree.read_only = is_so;
        let text = is_so.then(|| {
            let why = why(&tree.config.root);
            format!("{why}; what it holds is still read and sent")
        });
        self.shared.alarm(Some(&tree.config.name), ALARM, text);
        if !is_so {
            // Of a detector that was begun meanwhile nothing could show that it works.
            self.watcher = None;
        }
    }

    /// A fault says that nothing can be changed. If that holds for the tree, and not for a mount below it alone, it is stopped.
    pub(super) fn stop_if_read_only(&mut self, at: usize) -> bool {
        let open = self.trees[at].open.as_ref();
        let is_so = open.is_some_and(|open| open.private.is_read_only());
        if is_so {
            self.stop_read_only(at);
        }
        is_so
    }

    fn stop_read_only(&mut self, at: usize) {
        let tree = &mut self.trees[at];
        tree.read_only = false;
        let stop = tree.stopped_read_only();
        // The stop is the alarm.
        for kind in [ALARM, "rescue"] {
            self.shared.alarm(Some(&tree.config.name), kind, None);
        }
        self.stop_for_now(at, stop);
        // Nothing holds the root any more: it can be unmounted and checked.
        self.watch_anew();
    }
}

impl Tree {
    fn stopped_read_only(&self) -> Stop {
        let why = why(&self.config.root);
        Stop::ReadOnly(format!("{why}; tried again by itself"))
    }

    /// Something of a root could not be opened or made.
    pub(super) fn unopened(&self, what: &str, fault: &Fault) -> Stop {
        match fault {
            Fault::ReadOnly => self.stopped_read_only(),
            other => broken(what, other),
        }
    }
}

impl Open {
    /// After this fault nothing can be put into it.
    pub(super) fn ends_with(&self, fault: &Fault) -> bool {
        match Unput::of(fault) {
            Some(Unput::NoRoom) => true,
            Some(Unput::ReadOnly) => self.private.is_read_only(),
            None => false,
        }
    }
}

/// For the operator.
fn why(root: &Path) -> String {
    let mount = mount_of(root).display();
    format!(
        "the file system at {mount} is read-only (the kernel's log says why): mount -o remount,rw {mount}; after an error unmount it, \
         check it (fsck) and mount it again"
    )
}

/// The directory above, or the path itself, at which its file system is mounted, as far as that can be seen.
fn mount_of(path: &Path) -> &Path {
    let Ok(stat) = Stat::of_path_followed(path) else {
        return path;
    };
    let same =
        |above: &&Path| Stat::of_path_followed(above).is_ok_and(|other| other.same_mount(&stat));
    path.ancestors().take_while(same).last().unwrap_or(path)
}
