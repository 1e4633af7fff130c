//! Files that have grown and of which only the old end was compared: what lies before it is *unverified* until the file
//! rests. Then it is read whole on the master and compared with the index, and the standby is asked to compare its own.
//!
//! The list is durable, on both nodes: after a takeover the new master goes on with its own.

use super::clock::{self, ms};
use super::command::{Command, VerifyAsk};
use super::contents::piece::{Order, Piece};
use super::dirty::Dirt;
use super::look::Sight;
use super::receivers::Receiver;
use super::shared::Shared;
use super::status::Mode;
use super::tree::{MAX_NAMED, Tree};
use super::worker::Worker;
use crate::entry::State;
use crate::index::IndexError;
use crate::path::RelPath;
use crate::tree::TreeId;
use crate::wire::{VerifyEntry, VerifyPart};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// A file that did not grow for so long rests.
const REST: u64 = ms(10_000);
/// A standby waits longer: as a rule the master has asked by then.
const REST_STANDBY: u64 = ms(60_000);
/// The same while somebody waits for it: enough not to read a file in vain that grows all the time.
const REST_ASKED: u64 = ms(200);
/// Bytes read each second: a quarter of what a core can hash, so that a large log does not take the machine.
const PER_SECOND: u64 = 256 << 20;
/// Between two looks for the standby's answer.
const POLL: Duration = Duration::from_millis(20);

/// The unverified files of a tree.
#[derive(Debug, Default)]
pub(crate) struct Unverified {
    files: BTreeMap<RelPath, Grown>,
    /// The durable list is another one.
    moved: bool,
    running: Option<Running>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Grown {
    /// When it grew last, or was last compared (CLOCK_BOOTTIME nanoseconds).
    at: u64,
    /// What lies here was read whole since and is what the index says.
    here: bool,
    /// How often it was compared since, in vain.
    tries: u32,
}

impl Grown {
    /// How long it must rest: longer after each comparison in vain, so that a file that the standby must not change (a
    /// flag keeps it) is not read again and again. At most 64 times as long.
    fn rest(&self, rest: u64) -> u64 {
        rest << self.tries.min(6)
    }
}

impl Unverified {
    /// Files on the list.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Paths on the list.
    pub fn paths(&self) -> impl Iterator<Item = &RelPath> {
        self.files.keys()
    }

    /// A rename that concerns one of them is not carried out as one: the list would lose it. As a change like any other
    /// the file is read whole under its new name, which is what the list is for.
    pub fn is_in_the_way(&self, from: &RelPath, to: &RelPath) -> bool {
        self.paths()
            .any(|path| path.is_at_or_below(from) || path.is_at_or_below(to))
    }

    /// A file has grown.
    pub fn grew(&mut self, path: &RelPath, now: u64) {
        let grown = Grown {
            at: now,
            here: false,
            tries: 0,
        };
        self.moved |= self.files.insert(path.clone(), grown).is_none();
    }

    /// What lies at the path was read whole, or nothing lies there any more.
    pub fn done(&mut self, path: &RelPath) {
        self.moved |= self.files.remove(path).is_some();
    }

    /// A file is on the list for which no more room is.
    pub fn is_full(&self, path: &RelPath) -> bool {
        self.files.len() >= MAX_NAMED && !self.files.contains_key(path)
    }

    /// The list, if it must be written.
    pub fn to_write(&self) -> Option<BTreeSet<RelPath>> {
        self.moved.then(|| self.files.keys().cloned().collect())
    }

    /// It is durable.
    pub fn written(&mut self) {
        self.moved = false;
    }

    /// Ends what runs.
    pub fn end(&mut self) {
        self.running = None;
    }
}

/// What a comparison found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// What lies here is what the index says. `there`: and so is what lies on the standby.
    Same { there: bool },
    /// Something else lies here.
    Differs,
    /// It changed, or something else lies on the standby, which repairs it: to be compared again when it rests.
    Later,
}

/// A file that is being compared. Dropping it gives it up.
#[derive(Debug)]
struct Running {
    path: RelPath,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Option<Verdict>, IndexError>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that compares a grown file panicked");
        }
    }
}

/// What is to be compared.
struct Check {
    /// How it is read here; `None`: that was done.
    here: Option<Order>,
    /// The standby, and what it is asked.
    there: Option<(mpsc::Sender<VerifyAsk>, VerifyPart)>,
    shared: Arc<Shared>,
}

impl Check {
    fn run(self, ended: &AtomicBool) -> Result<Option<Verdict>, IndexError> {
        if let Some(order) = &self.here {
            let Some(piece) = order.run(ended)? else {
                return Ok(None);
            };
            if let Some(verdict) = not_the_same(&piece) {
                return Ok(Some(verdict));
            }
        }
        let Some((standby, part)) = self.there else {
            return Ok(Some(Verdict::Same { there: false }));
        };
        let (reply, mut answer) = oneshot::channel();
        // The queue is short, and ends with its session.
        if standby.blocking_send(VerifyAsk { part, reply }).is_err() {
            return Ok(Some(Verdict::Same { there: false }));
        }
        while !ended.load(Ordering::Relaxed) && !self.shared.end.is_cancelled() {
            match answer.try_recv() {
                Ok(answer) if answer.differences.is_empty() => {
                    return Ok(Some(Verdict::Same { there: true }));
                }
                Ok(_) => return Ok(Some(Verdict::Later)),
                Err(oneshot::error::TryRecvError::Empty) => std::thread::sleep(POLL),
                Err(oneshot::error::TryRecvError::Closed) => {
                    return Ok(Some(Verdict::Same { there: false }));
                }
            }
        }
        Ok(None)
    }
}

fn not_the_same(piece: &Piece) -> Option<Verdict> {
    match (piece.differ.is_empty(), piece.unseen.is_empty()) {
        (false, _) => Some(Verdict::Differs),
        (true, false) => Some(Verdict::Later),
        (true, true) => None,
    }
}

impl Worker {
    /// Files that a former process left unverified. They are compared as if they had just grown.
    pub(super) fn load_unverified(&mut self) {
        let Ok(snapshot) = self.shared.index.snapshot() else {
            return;
        };
        let now = clock::now();
        for tree in &mut self.trees {
            let known: Option<BTreeSet<RelPath>> =
                snapshot.value(&unverified_key(tree.id)).ok().flatten();
            tree.unverified = Unverified::default();
            for path in known.into_iter().flatten() {
                tree.unverified.grew(&path, now);
            }
            tree.unverified.written();
        }
        self.count_unverified();
    }

    /// For who waits until there is none.
    pub(super) fn count_unverified(&self) {
        let count = self.trees.iter().map(|t| t.unverified.len()).sum();
        self.shared
            .unverified
            .send_if_modified(|told| std::mem::replace(told, count) != count);
    }

    /// Takes what was compared, and begins with what rests.
    pub(super) fn verify_unverified(&mut self) {
        for at in 0..self.trees.len() {
            let done = self.verified(at).and_then(|()| self.verify_next(at));
            if let Err(error) = done {
                self.index_failed(&error);
            }
        }
        self.count_unverified();
    }

    fn verified(&mut self, at: usize) -> Result<(), IndexError> {
        let unverified = &mut self.trees[at].unverified;
        let Some(running) = &mut unverified.running else {
            return Ok(());
        };
        let Some(thread) = running.thread.take_if(|thread| thread.is_finished()) else {
            return Ok(());
        };
        let path = running.path.clone();
        unverified.running = None;
        let verdict = thread.join().unwrap_or_else(|_| {
            tracing::error!("the thread that compares a grown file panicked");
            Ok(None)
        })?;
        let source = matches!(self.mode, Mode::Source { .. });
        let tree = &mut self.trees[at];
        let id = tree.id;
        match verdict {
            Some(Verdict::Same { there: false }) if source => {
                if let Some(grown) = tree.unverified.files.get_mut(&path) {
                    grown.here = true;
                    grown.at = clock::now();
                }
            }
            Some(Verdict::Same { .. }) => tree.unverified.done(&path),
            Some(Verdict::Differs) => {
                tracing::warn!(
                    tree = tree.config.name,
                    %path,
                    "a file that had grown was changed before its old end too"
                );
                self.mark(id, path, Dirt::FORCED);
                self.due_at(clock::now());
            }
            Some(Verdict::Later) | None => {
                if let Some(grown) = tree.unverified.files.get_mut(&path) {
                    grown.at = clock::now();
                    grown.tries += 1;
                }
                self.mark(id, path, Dirt::default());
            }
        }
        self.write_unverified(at)
    }

    fn write_unverified(&mut self, at: usize) -> Result<(), IndexError> {
        let tree = &mut self.trees[at];
        if let Some(list) = tree.unverified.to_write() {
            let key = unverified_key(tree.id);
            self.shared.index.write(|w| w.put_value(&key, &list))?;
            tree.unverified.written();
            self.touch();
        }
        Ok(())
    }

    /// Begins with the file that rests for the longest time.
    fn verify_next(&mut self, at: usize) -> Result<(), IndexError> {
        let tree = &self.trees[at];
        let known = self.mode != Mode::Idle && tree.moves() && !tree.is_scanned();
        if !known || tree.unverified.running.is_some() || tree.unverified.files.is_empty() {
            return Ok(());
        }
        let source = matches!(self.mode, Mode::Source { .. });
        let rest = match (self.shared.waits_for_verified(), source) {
            (true, _) => REST_ASKED,
            (false, true) => REST,
            (false, false) => REST_STANDBY,
        };
        let now = clock::now();
        let snapshot = self.shared.index.snapshot()?;
        let standby = self.shared.verifier(&Receiver::Standby).filter(|_| source);
        let ready = |path: &RelPath, grown: &Grown| {
            let rests = now.saturating_sub(grown.at) >= grown.rest(rest) && !tree.is_marked(path);
            rests && (!grown.here || standby.is_some())
        };
        let files = tree.unverified.files.iter();
        let oldest = files
            .filter(|(path, grown)| ready(path, grown))
            .min_by_key(|(_, g)| g.at);
        let Some((path, grown)) = oldest.map(|(path, grown)| (path.clone(), *grown)) else {
            return Ok(());
        };
        let entry = snapshot.get(tree.id, &path)?;
        let Some((state, seq)) = entry.and_then(|e| Some((e.current?, e.seq))) else {
            self.trees[at].unverified.done(&path);
            return self.write_unverified(at);
        };
        let part = part(&self.shared, tree.id, &path, state);
        // What the standby does not have yet cannot be compared there.
        let has = seq <= self.shared.peer.borrow().acked;
        let there = standby.filter(|_| has).map(|standby| (standby, part));
        if grown.here && there.is_none() {
            return Ok(());
        }
        self.start_check(at, path, grown, there);
        Ok(())
    }

    fn start_check(
        &mut self,
        at: usize,
        path: RelPath,
        grown: Grown,
        there: Option<(mpsc::Sender<VerifyAsk>, VerifyPart)>,
    ) {
        let receiver = self.mode == Mode::Replica;
        let tree = &mut self.trees[at];
        let Some(open) = tree.open.clone() else {
            return;
        };
        let order = Order {
            tree: tree.id,
            config: Arc::clone(&tree.config),
            open,
            index: self.shared.index.clone(),
            receiver,
            after: None,
            only: Some(path.clone()),
            per_second: PER_SECOND,
        };
        let check = Check {
            here: (!grown.here).then_some(order),
            there,
            shared: Arc::clone(&self.shared),
        };
        let ended = Arc::new(AtomicBool::new(false));
        let (end, shared) = (Arc::clone(&ended), Arc::clone(&self.shared));
        let thread = std::thread::Builder::new().name("tandem-compare".into());
        let thread = thread.spawn(move || {
            let verdict = check.run(&end);
            // A full queue or an engine that ended: it is looked for within a second.
            let _ = shared.commands.try_send(Command::Compared);
            verdict
        });
        match thread {
            Ok(thread) => {
                tree.unverified.running = Some(Running {
                    path,
                    ended,
                    thread: Some(thread),
                });
            }
            // Tried again a second later.
            Err(error) => tracing::debug!(%error, "a grown file cannot be compared now"),
        }
    }

    /// The source has asked for these paths, and what lies here is what it has.
    pub(super) fn verified_here(&mut self, tree: TreeId, paths: &[RelPath]) {
        let Some(at) = self.position(tree).filter(|_| self.mode == Mode::Replica) else {
            return;
        };
        for path in paths {
            self.trees[at].unverified.done(path);
        }
        if let Err(error) = self.write_unverified(at) {
            self.index_failed(&error);
        }
        self.count_unverified();
    }
}

impl Tree {
    /// What the looks at a source say of files that have grown, and of those that were read whole.
    pub(super) fn note_grown<'p>(
        &mut self,
        grown: &BTreeSet<RelPath>,
        whole: impl Iterator<Item = &'p RelPath>,
        seen: &[Sight],
    ) {
        let now = clock::now();
        let changed = |path: &RelPath| {
            let sight = seen.iter().find(|sight| sight.path == *path);
            sight.and_then(|sight| sight.local).map(|key| key.ctime_ns)
        };
        for path in whole.filter(|path| !grown.contains(path)) {
            self.unverified.done(path);
        }
        for path in grown {
            match self.unverified.is_full(path) {
                // Too many to remember: it is read whole at once.
                true => self.again(path.clone(), now.saturating_add(ms(1000)), changed(path)),
                false => self.unverified.grew(path, now),
            }
        }
    }
}

fn part(shared: &Shared, tree: TreeId, path: &RelPath, state: State) -> VerifyPart {
    VerifyPart {
        id: 0,
        tree,
        range: None,
        entries: vec![VerifyEntry {
            path: path.clone(),
            names: shared.names_of(tree, Some(&state)),
            state,
        }],
        absent: Vec::new(),
        repair: true,
        per_second: None,
    }
}

/// Where the list of a tree is kept in the index.
pub(super) fn unverified_key(tree: TreeId) -> String {
    format!("unverified/{tree}")
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::engine::handle::open::prepare;
    use crate::engine::tests::pair::{Node, recorded, write};
    use crate::tree::TreeConfig;

    #[tokio::test]
    async fn what_is_marked_elsewhere_holds_up_no_comparison() {
        let mut node = Node::new("a", |_| {});
        write(&node.tree().join("log"), "x");
        node.engine().init_source().await.unwrap();
        node.engine().begin_source(1).await.unwrap();
        recorded(&node).await;
        node.stop().await;
        let trees = vec![TreeConfig::new("data", node.tree())];
        let (mut worker, _) = prepare(node.config(trees)).unwrap();
        worker.begin_source(2).unwrap();
        let path = |name| RelPath::new(name).unwrap();
        let tree = &mut worker.trees[0];
        tree.rescan = false;
        tree.unverified.grew(&path("log"), 0);
        for (marked, runs) in [("log", false), ("large", true)] {
            let tree = &mut worker.trees[0];
            tree.dirty.clear();
            tree.mark(path(marked), Dirt::default());
            worker.verify_next(0).unwrap();
            let running = &worker.trees[0].unverified.running;
            assert_eq!(running.is_some(), runs, "{marked}");
        }
    }

    #[test]
    fn a_comparison_in_vain_is_repeated_less_and_less_often() {
        let mut list = Unverified::default();
        let path = RelPath::new("log").unwrap();
        list.grew(&path, 5);
        assert!(list.to_write().is_some());
        list.written();
        let grown = list.files.get_mut(&path).unwrap();
        assert_eq!(grown.rest(REST), REST);
        grown.tries = 100;
        assert_eq!(grown.rest(REST), 64 * REST);
        list.grew(&path, 6);
        assert_eq!(list.files[&path].rest(REST), REST, "it has grown again");
        assert!(list.to_write().is_none(), "the list is the same");
        list.done(&path);
        assert!(list.to_write().is_some() && list.len() == 0);
    }
}
