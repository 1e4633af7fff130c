//! The worker: one thread, the only writer of the index and of the trees.
//!
//! It waits for commands, watch events and its own timers, and does everything else in slices, so that a command never
//! waits for a long scan. Nothing it does is awaited by the failover loop.

use super::ahead::Ahead;
use super::awaited::Awaited;
use super::barrier::Barrier;
use super::clock::{self, ms};
use super::command::Command;
use super::dirty::Dirt;
use super::failing::Failing;
use super::intent::Left;
use super::prepare::Preparing;
use super::reading::{Found, poll_read};
use super::scanning::{Piece, poll_piece};
use super::shared::Shared;
use super::status::Mode;
use super::told::Told;
use super::tree::{Stop, Tree};
use crate::heap;
use crate::lineage::NodeName;
use crate::path::RelPath;
use crate::progress::LagQueue;
use crate::spool::Spool;
use crate::tree::TreeId;
use crate::watch::{Event, Options, WatchTree, Watcher};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::task::Poll;
use tokio::sync::mpsc;

/// Events that may wait. What does not fit becomes an overflow, that is a scan.
const EVENTS: usize = 64 * 1024;
/// How long the first of several changes waits for the others: enough for a file that is made, written and renamed. What
/// happens while the disk is waited for is put together anyway.
const DEBOUNCE: u64 = ms(1);
/// Resolution of the runtime's timers.
const TIMER: u64 = ms(1);
/// Events that are taken at once before anything is done.
const EVENTS_AT_ONCE: usize = 8192;
/// Time between two looks at what only time changes: acknowledgements to be kept, lost roots, status.
const PERIOD: u64 = ms(1000);
/// How long a change may wait to be recorded, and what receivers have count as fresh. Far less than what makes a standby stale.
const LATE: u64 = ms(1000);
/// Time between two tries to watch, each of which scans the trees.
const WATCH_AGAIN: u64 = ms(10_000);
/// Shortest time between two status messages while much happens.
const STATUS_EVERY: u64 = ms(100);

/// The worker's state.
pub(crate) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) node: NodeName,
    pub(super) trees: Vec<Tree>,
    pub(super) mode: Mode,
    pub(super) watcher: Option<Watcher>,
    watched: Vec<TreeId>,
    /// The thread it runs on, once it runs.
    own: Arc<AtomicI32>,
    pub(super) preparing: Option<Preparing>,
    /// The session whose batches are applied; none after one of them failed.
    pub(super) receiving: Option<u64>,
    pub(super) spool: Option<Spool>,
    /// Opened with the spool.
    pub(super) ahead: Option<Ahead>,
    /// What must be here before something that moved is removed.
    pub(super) awaited: Awaited,
    /// An index that failed, until it is opened anew.
    pub(super) failing: Failing,
    /// What applies left.
    pub(super) left: Left,
    /// Passes for sets; one per tree at most.
    pub(super) pass_threads: Vec<std::thread::JoinHandle<()>>,
    /// Of sets that are under way.
    pub(super) set_spools: BTreeMap<TreeId, Spool>,
    events: mpsc::Receiver<Event>,
    pub(super) to_events: mpsc::Sender<Event>,
    pub(super) barriers: BTreeMap<u64, Barrier>,
    pub(super) next_token: u64,
    pub(super) dirty_due: Option<u64>,
    /// The system had no thread to read a large content: none is asked for before this time (CLOCK_BOOTTIME nanoseconds).
    pub(super) readings_due: u64,
    /// Rounds of looks at what is marked, from 1 on.
    pub(super) round: u64,
    /// Behind which events what was found gone is recorded.
    pub(super) gone: Option<Told>,
    next_period: u64,
    /// When trees are next asked whether they take changes (CLOCK_BOOTTIME nanoseconds).
    pub(super) read_only_due: u64,
    /// When watching is tried again after it failed.
    watch_again: u64,
    pub(super) status_due: Option<u64>,
    pub(super) last_status: u64,
    /// Changes that are not acknowledged.
    pub(super) lag: LagQueue,
}

pub(super) enum Next {
    Command(Command),
    Event(Event),
    Scanned(usize, Option<Piece>),
    Read(usize, Box<Found>),
    Time,
    Ended,
}

/// What the threads of any tree have to say. Never ready while none has.
async fn next_of(trees: &mut [Tree]) -> Next {
    std::future::poll_fn(|context| {
        if let Poll::Ready((at, read)) = poll_read(trees, context) {
            return Poll::Ready(Next::Read(at, Box::new(read)));
        }
        poll_piece(trees, context).map(|(at, piece)| Next::Scanned(at, piece))
    })
    .await
}

/// Whether events are taken: a test may hold them back.
#[cfg(test)]
fn hears(shared: &Shared) -> bool {
    !shared.events_held.load(Ordering::SeqCst)
}

#[cfg(not(test))]
fn hears(_: &Shared) -> bool {
    true
}

impl Worker {
    /// A worker that has opened what can be opened, and watches it.
    pub fn new(shared: Arc<Shared>, node: NodeName) -> Self {
        let (to_events, events) = mpsc::channel(EVENTS);
        let trees = shared.config.trees.iter().cloned().map(Tree::new).collect();
        let mut worker = Worker {
            shared,
            node,
            trees,
            mode: Mode::Idle,
            watcher: None,
            watched: Vec::new(),
            own: Arc::default(),
            preparing: None,
            receiving: None,
            spool: None,
            ahead: None,
            awaited: Awaited::default(),
            failing: Failing::default(),
            left: Left::default(),
            pass_threads: Vec::new(),
            set_spools: BTreeMap::new(),
            events,
            to_events,
            barriers: BTreeMap::new(),
            next_token: 1,
            dirty_due: None,
            readings_due: 0,
            round: 1,
            gone: None,
            next_period: 0,
            read_only_due: 0,
            watch_again: 0,
            status_due: None,
            last_status: 0,
            lag: LagQueue::default(),
        };
        worker.prove_all();
        worker.look_at_left();
        worker.follow_rename();
        worker.load_flagged();
        worker.load_skipped();
        worker.load_lacking();
        worker.load_beyond();
        worker.load_unverified();
        worker.load_marks();
        if let Err(error) = worker.load_sets() {
            worker.index_failed(&error);
        }
        worker.load_mark();
        worker.publish();
        worker
    }

    /// Works until nobody can send commands any more.
    pub fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let runtime = match tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "the worker cannot start");
                return;
            }
        };
        #[cfg(test)]
        crate::cut::follow(&self.shared.cuts);
        self.own.store(
            rustix::thread::gettid().as_raw_nonzero().get(),
            Ordering::Relaxed,
        );
        self.find_spool();
        let mut peer = self.shared.peer.subscribe();
        loop {
            let next = runtime.block_on(self.next(&mut commands, &mut peer));
            match next {
                Next::Command(command) => self.command(command),
                Next::Event(event) => {
                    self.event(event);
                    self.events_at_hand();
                }
                // What happened meanwhile is marked first.
                Next::Scanned(at, piece) => {
                    self.events_at_hand();
                    self.scanned(at, piece);
                }
                Next::Read(at, read) => {
                    self.events_at_hand();
                    self.was_read(at, *read);
                }
                Next::Time => self.events_at_hand(),
                Next::Ended => {
                    self.wait_for_passes();
                    return self.mark_clean();
                }
            }
            self.work();
        }
    }

    /// What happened meanwhile belongs to the same burst.
    fn events_at_hand(&mut self) {
        for _ in 0..EVENTS_AT_ONCE {
            if !hears(&self.shared) {
                break;
            }
            let Ok(event) = self.events.try_recv() else {
                break;
            };
            self.event(event);
        }
    }

    pub(super) async fn next(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        peer: &mut tokio::sync::watch::Receiver<super::command::Peer>,
    ) -> Next {
        let deadline = self.deadline();
        let wait = deadline.saturating_sub(clock::now());
        if 0 < wait && wait < TIMER {
            // The runtime's timers would make up to 2 ms of it.
            std::thread::sleep(std::time::Duration::from_nanos(wait));
            return Next::Time;
        }
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            biased;
            () = shared.end.cancelled() => Next::Ended,
            command = commands.recv() => command.map_or(Next::Ended, Next::Command),
            // Before events, which may never pause; these are taken with it.
            next = next_of(&mut self.trees) => next,
            Some(event) = self.events.recv(), if hears(&shared) => Next::Event(event),
            Ok(()) = peer.changed() => {
                self.touch();
                Next::Time
            }
            () = shared.shows.notified() => {
                self.touch();
                Next::Time
            }
            () = tokio::time::sleep(std::time::Duration::from_nanos(wait)) => Next::Time,
        }
    }

    /// When there is something to do even if nothing happens.
    pub(super) fn deadline(&self) -> u64 {
        let due = |t: &Tree| match &t.job {
            Some(job) => job.is_due(),
            None => t.moving.is_none() && (t.rescan || t.routine),
        };
        if self.mode != Mode::Idle && self.trees.iter().any(|t| t.moves() && due(t)) {
            return 0;
        }
        let answer = self
            .trees
            .iter()
            .filter_map(|t| t.moving.as_ref())
            .map(|m| m.until);
        let answer = answer.min();
        let works = self.mode != Mode::Idle;
        let moving = self.trees.iter().filter(|t| works && t.moves());
        let later = moving.filter_map(|t| t.later.next()).min();
        let all = [
            self.next_set(),
            Some(self.next_period),
            self.dirty_due,
            self.status_due,
            answer,
            later,
            self.told_by(),
        ];
        all.into_iter().flatten().min().unwrap_or(0)
    }

    /// Sessions claim to have caught up only while every tree that moves is known as it is.
    pub(super) fn tell_scanned(&self) {
        let source = matches!(self.mode, Mode::Source { .. });
        // Before its first set nothing of such a tree is known.
        let unknown = |t: &Tree| source && t.is_in_sets() && t.sets.newest.is_none();
        let scanned = !self
            .trees
            .iter()
            .any(|t| t.moves() && (t.is_scanned() || unknown(t)));
        self.shared
            .scanned
            .send_if_modified(|told| std::mem::replace(told, scanned) != scanned);
    }

    /// When the oldest change was noticed that is not recorded (CLOCK_BOOTTIME nanoseconds).
    pub(super) fn oldest_change(&self) -> Option<u64> {
        let moving = self.trees.iter().filter(|t| t.moves());
        moving.filter_map(Tree::oldest_change).min()
    }

    /// Sessions do not call what receivers have fresh while a change waits for longer to be recorded: a large content is read.
    fn tell_late(&self, now: u64) {
        let oldest = self.oldest_change();
        let late = oldest.is_some_and(|noticed| noticed.saturating_add(LATE) <= now);
        self.shared.late.store(late, Ordering::Release);
    }

    pub(super) fn work(&mut self) {
        let now = clock::now();
        if self.mode != Mode::Idle {
            self.moves_overdue(now);
            self.rest_trees_in_sets();
            self.wake_later(now);
            self.end_told();
            if self.dirty_due.is_some_and(|due| due <= now) {
                self.dirty_due = None;
                self.look_at_dirty();
            }
            self.jobs();
            self.begin_readings();
            self.tell_scanned();
            if let Err(error) = self.forget_left() {
                self.index_failed(&error);
            }
            self.end_barriers();
            self.end_preparing();
        }
        self.begin_sets();
        self.tell_follows();
        if now >= self.next_period {
            self.next_period = now + PERIOD;
            self.periodic();
        }
        if self.status_due.is_some_and(|due| due <= clock::now()) {
            self.publish();
        }
    }

    /// Something changed that status shows.
    pub(super) fn touch(&mut self) {
        if self.status_due.is_none() {
            self.status_due = Some(self.last_status + STATUS_EVERY);
        }
    }

    /// A tree is not what status says of it: that is told before anything else is done.
    pub(super) fn show_now(&mut self) {
        self.status_due = Some(0);
    }

    pub(super) fn periodic(&mut self) {
        let now = clock::now();
        if !self.index_works() {
            // Nothing of what follows is of use without it.
            return self.touch();
        }
        if self.trees.iter().any(|t| t.is_worth_a_try(now)) {
            self.prove_all();
        }
        self.judge_read_only();
        self.judge_room();
        self.watch_lost();
        self.keep_acked();
        if matches!(self.mode, Mode::Source { .. }) {
            self.tell_late(now);
            self.clear_partials();
        }
        if self.mode != Mode::Idle {
            self.routine();
        }
        self.compare_contents();
        self.verify_unverified();
        self.look_at_owed();
        self.purge_tombstones();
        match self.shared.index.rest() {
            Ok(true) => heap::give_back(),
            Ok(false) => {}
            Err(error) => self.index_failed(&error),
        }
        self.touch();
    }

    /// Without a watch nothing but passes would see changes.
    fn watch_lost(&mut self) {
        if self.watcher.as_ref().is_some_and(|w| !w.is_alive()) {
            tracing::error!("a thread that watches the trees has ended: watching anew");
            self.watcher = None;
        }
        if self.watcher.is_none() && clock::now() >= self.watch_again {
            self.watch_anew();
        }
    }

    /// A source receives nothing: what cut transfers left is of no use. Not at the takeover itself, which a huge file
    /// would delay.
    fn clear_partials(&self) {
        for open in self.trees.iter().filter_map(|t| t.open.as_ref()) {
            if let Err(fault) = crate::commit::clear_partials(&open.private) {
                tracing::debug!(%fault, "partial contents cannot be removed");
            }
        }
    }

    /// Opens what is not open, and watches anew if that changed anything.
    pub(super) fn prove_all(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut moves = false;
        let now = clock::now();
        let needs = self.needs();
        let due = |t: &&mut Tree| t.open.is_none() && !t.waits_for_room(now);
        for tree in self.trees.iter_mut().filter(due) {
            tree.prove(needs, &shared.config.pair, &shared.index, &shared.roots);
            moves |= tree.moves();
        }
        if moves && self.mode == Mode::Replica {
            self.end_session();
        }
        self.watch_anew();
    }

    /// Other trees are to be received than the session that runs was made for: it ends, what it still hands over is not
    /// applied, and the next one begins where each tree is.
    pub(super) fn end_session(&mut self) {
        self.receiving = None;
        self.shared.end_session();
    }

    /// Watches what is open, if that is not what is watched.
    pub(super) fn watch_anew(&mut self) {
        let open: Vec<TreeId> = self
            .trees
            .iter()
            .filter(|t| t.open.is_some())
            .map(|t| t.id)
            .collect();
        if self.watched != open || self.watcher.is_none() {
            self.watched = open;
            self.watch();
        }
    }

    /// Stops a tree and lets go of its root.
    pub(super) fn stop(&mut self, at: usize, stop: Stop) {
        let shared = Arc::clone(&self.shared);
        self.trees[at].close(stop, &shared.roots);
        if self.gone.is_some() {
            // It waits for nothing of this tree any more.
            self.due_now();
        }
        self.touch();
    }

    pub(super) fn watch(&mut self) {
        let tree = |t: &Tree| {
            let open = t.open.as_ref()?;
            Some(WatchTree {
                id: t.id,
                root: Arc::clone(&open.root),
                private: Arc::clone(&open.private),
                poll: t.config.poll.unwrap_or(crate::watch::POLL),
            })
        };
        let trees: Vec<WatchTree> = self.trees.iter().filter_map(tree).collect();
        let to_events = self.to_events.clone();
        let sink = Box::new(move |event| to_events.try_send(event).is_ok());
        let options = Options {
            best: self.shared.config.detector,
            own: Arc::clone(&self.own),
        };
        // The old one goes first: its sentinels would confuse the new one.
        self.watcher = None;
        match Watcher::start(trees, options, sink) {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                self.shared.alarm(None, "watch", None);
            }
            Err(error) => {
                let why = format!("the trees cannot be watched, they are scanned instead: {error}");
                self.shared.alarm(None, "watch", Some(why));
                self.watch_again = clock::now() + WATCH_AGAIN;
            }
        }
        // What happened between the two watchers is not known.
        self.forget_asked();
    }

    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::Dirty {
                tree,
                path,
                recursive,
            } => {
                if self.mode != Mode::Idle && !path.is_private() {
                    // What is made or removed in a directory moves its time, of which there is no event.
                    if let Some(parent) = path.parent() {
                        self.mark(tree, parent, Dirt::WALKED);
                    }
                    self.mark(
                        tree,
                        path,
                        Dirt {
                            recursive,
                            ..Dirt::default()
                        },
                    );
                }
            }
            Event::Made { tree, path } => {
                if self.mode != Mode::Idle && !path.is_private() {
                    if let Some(parent) = path.parent() {
                        self.mark(tree, parent, Dirt::WALKED);
                    }
                    self.mark(tree, path, Dirt::WALKED);
                }
            }
            Event::Closed { tree, path } => self.closed(tree, &path),
            Event::Moved { tree, from, to } => {
                if let Some(at) = self.position(tree).filter(|_| !to.is_private()) {
                    self.trees[at].saw_rename(from, to);
                }
            }
            Event::Overflow { tree } => {
                if let Some(at) = self.position(tree) {
                    tracing::warn!(
                        tree = self.trees[at].config.name,
                        "change events were lost: scanning"
                    );
                    self.trees[at].events_lost();
                }
            }
            Event::RootGone { tree } => {
                if let Some(at) = self.position(tree) {
                    let why = format!(
                        "{} was moved, removed or unmounted",
                        self.trees[at].config.root.display()
                    );
                    self.stop(at, Stop::Identity(why));
                }
            }
            Event::Barrier { tree, token } => {
                if let Some(barrier) = self.barriers.get_mut(&token)
                    && barrier.trees.remove(&tree)
                {
                    barrier.marked.insert(tree, self.round);
                }
                self.events_came(tree, token);
            }
        }
    }

    /// A file that is known was written and closed, and nothing else waits to be looked at: no rename of it is to be waited for,
    /// as of one that was just made.
    fn closed(&mut self, tree: TreeId, path: &RelPath) {
        let Some(at) = self.position(tree) else {
            return;
        };
        let dirty = &self.trees[at].dirty;
        let parent = path.parent();
        let alone = dirty.contains_key(path)
            && dirty
                .keys()
                .all(|other| other == path || Some(other) == parent.as_ref());
        let known = || {
            let entry = self.shared.index.snapshot().and_then(|s| s.get(tree, path));
            entry.is_ok_and(|entry| entry.is_some_and(|e| e.current.is_some()))
        };
        if alone && known() {
            self.due_at(clock::now());
        }
    }

    /// Marks a path to be looked at soon.
    pub(super) fn mark(&mut self, tree: TreeId, path: RelPath, dirt: Dirt) {
        if let Some(at) = self.position(tree) {
            let now = clock::now();
            self.trees[at].mark(path, dirt);
            self.trees[at].marked_at = now;
            self.due_at(now + DEBOUNCE);
        }
    }

    /// Dirty paths are looked at not later than at this time.
    pub(super) fn due_at(&mut self, time: u64) {
        self.dirty_due = Some(self.dirty_due.map_or(time, |due| due.min(time)));
    }

    pub(super) fn due_now(&mut self) {
        self.due_at(clock::now());
    }

    pub(super) fn wake_later(&mut self, now: u64) {
        for tree in self.trees.iter_mut().filter(|t| t.moves()) {
            for path in tree.later.due(now) {
                tree.mark(path, Dirt::AGAIN);
                self.dirty_due = Some(now);
            }
        }
    }

    /// Where a tree is in the list.
    pub(super) fn position(&self, tree: TreeId) -> Option<usize> {
        self.trees.iter().position(|t| t.id == tree)
    }
}
