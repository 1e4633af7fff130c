//! Scanning a tree beside the worker: a thread walks it and compares keys with the index; what must be looked at comes to
//! the worker in pieces, so that memory does not grow with the tree and events and commands are served in between.

use super::clock;
use super::dirty::{Dirt, Missing};
use super::duty::Duty;
use super::status::Mode;
use super::tree::{Job, Open, Stop, Tree};
use super::walk::{Found, Walk};
use super::worker::Worker;
use crate::index::{Index, IndexError};
use crate::path::RelPath;
use crate::tree::{TreeConfig, TreeId};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// Paths of one piece: one durable step of the index. More would keep an event waiting, fewer would cost a commit each.
const PIECE: usize = 2048;
/// Bytes of the files of one piece: they are hashed in some tens of milliseconds. A single larger file is a piece of its own.
const PIECE_BYTES: u64 = 64 << 20;
/// Pieces of a scan that wait for the worker.
const PIECES: usize = 2;

/// What a scan tells the worker.
pub(crate) enum Piece {
    /// To be looked at.
    Look(Vec<(RelPath, Dirt)>),
    /// The walk is over.
    End(Result<Walk, IndexError>),
}

/// A scan that runs. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Scan {
    pieces: mpsc::Receiver<Piece>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Scan {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Now it cannot wait for room, and looks at the flag at each entry.
        self.pieces.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of a scan panicked");
        }
    }
}

/// What a scan is told.
struct Order {
    tree: TreeId,
    config: Arc<TreeConfig>,
    open: Open,
    index: Index,
    receiver: bool,
    read_since: Option<i128>,
    /// Nobody waits for it: it leaves the machine to others.
    slow: bool,
}

impl Scan {
    fn start(order: Order) -> std::io::Result<Scan> {
        let (to_worker, pieces) = mpsc::channel(PIECES);
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let thread = std::thread::Builder::new().name("tandem-scan".into());
        let thread = thread.spawn(move || order.run(&end, &to_worker))?;
        Ok(Scan {
            pieces,
            ended,
            thread: Some(thread),
        })
    }
}

impl Order {
    fn run(&self, ended: &AtomicBool, to_worker: &mpsc::Sender<Piece>) {
        // A scan that was given up needs no more pieces.
        let send = |piece| match to_worker.blocking_send(piece) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        };
        let mut piece = Vec::new();
        let mut bytes = 0;
        let mut found = |found: Found| {
            bytes += found.bytes;
            piece.push(found.dirty(self.read_since.is_some()));
            if piece.len() < PIECE && bytes < PIECE_BYTES {
                return ControlFlow::Continue(());
            }
            bytes = 0;
            send(Piece::Look(std::mem::take(&mut piece)))
        };
        let root = RelPath::root();
        let duty = self.slow.then(Duty::default);
        let go_on = || {
            if let Some(duty) = &duty {
                duty.keep();
            }
            !ended.load(Ordering::Relaxed)
        };
        let walk = Walk::of(&self.index, self.tree, &self.config, &self.open, &root)
            .receiving(self.receiver)
            .reading_since(self.read_since)
            .while_so(&go_on)
            .run(&mut found);
        piece.push((root, Dirt::WALKED));
        if send(Piece::Look(piece)).is_continue() {
            // Nobody waits for the end of a scan that was given up.
            let _ = send(Piece::End(walk));
        }
    }
}

/// The next piece of any tree's scan, with the tree's place in the list. Never ready while no scan has anything to say.
pub(super) fn poll_piece(
    trees: &mut [Tree],
    context: &mut Context<'_>,
) -> Poll<(usize, Option<Piece>)> {
    for (at, tree) in trees.iter_mut().enumerate() {
        let Some(job) = tree.job.as_mut().filter(|job| job.gone.is_none()) else {
            continue;
        };
        if let Poll::Ready(piece) = job.scan.pieces.poll_recv(context) {
            return Poll::Ready((at, piece));
        }
    }
    Poll::Pending
}

impl Worker {
    /// Begins to scan a tree.
    pub(super) fn scan(&mut self, at: usize) {
        if let Err(error) = self.keep_read_since(at) {
            return self.index_failed(&error);
        }
        let receiver = self.mode == Mode::Replica;
        let counts = self
            .shared
            .index
            .snapshot()
            .and_then(|s| s.counts(self.trees[at].id));
        let tree = &mut self.trees[at];
        // An index that fails is met again by the scan.
        if let Ok(counts) = counts {
            tree.deletes.size(clock::now(), counts.entries());
        }
        let routine = std::mem::take(&mut tree.routine) && !tree.rescan;
        tree.rescan = false;
        if !routine {
            tree.walked_since = None;
        }
        // What the walk before has named a pass need not.
        let walked = tree.walked_since;
        let read_since = tree.read_since.filter(|since| walked != Some(*since));
        let Some(open) = tree.open.clone() else {
            return;
        };
        let scan = Scan::start(Order {
            tree: tree.id,
            config: Arc::clone(&tree.config),
            open,
            index: self.shared.index.clone(),
            receiver,
            read_since,
            slow: routine && tree.config.poll.is_none(),
        });
        match scan {
            Ok(scan) => {
                let job = Job::new(scan, routine, read_since, clock::now());
                tree.job = Some(job);
            }
            Err(error) => {
                let why = format!("a scan cannot be started: {error}");
                self.stop(at, Stop::Fault(why));
            }
        }
    }

    /// A scan has found something.
    pub(super) fn scanned(&mut self, at: usize, piece: Option<Piece>) {
        match piece {
            Some(Piece::Look(paths)) => {
                if let Some(job) = &mut self.trees[at].job {
                    job.done += paths.len() as u64;
                }
                self.look(at, paths, Missing::WaitsInScan);
            }
            Some(Piece::End(Ok(walk))) => self.walked(at, walk),
            Some(Piece::End(Err(error))) => self.index_failed(&error),
            // Its thread panicked: what it knew is lost with it.
            None => {
                self.trees[at].job = None;
                self.stop(at, Stop::Fault("the scan failed".into()));
            }
        }
        self.touch();
    }

    /// The walk is over: what is gone is looked at last, for what moved is found at its new place before it is missed at
    /// the old one.
    fn walked(&mut self, at: usize, walk: Walk) {
        let tree = &mut self.trees[at];
        tree.mounts = walk.mounts.into_iter().collect();
        tree.sockets = walk.sockets.into_iter().collect();
        for (path, why) in walk.errors {
            tree.error(&path, why);
        }
        if let Err(error) = self.forget_undone(at) {
            return self.index_failed(&error);
        }
        if self.numbers_changes() && !self.may_go(at, &walk.gone) {
            return;
        }
        let waits = match walk.gone.is_empty() || !self.numbers_changes() {
            true => None,
            false => Some(self.ask_events()),
        };
        if let Some(job) = &mut self.trees[at].job {
            (job.gone, job.waits) = (Some(walk.gone), waits);
        }
    }
}
