//! What the worker shows of itself.

use super::clock;
use super::command::Reply;
use super::receivers::Receiver;
use super::status::{
    Alarm, Counted, EngineStatus, Inexact, Mode, Progress, TreeState, TreeStatus, VerifyStatus,
};
use super::tree::{MAX_NAMED, Tree};
use super::worker::Worker;
use crate::index::{IndexError, Snapshot};
use crate::lineage::{CopyState, Head};
use crate::path::RelPath;
use crate::progress::Work;
use crate::tree::{LocalChanges, TreeId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

impl Worker {
    /// Publishes the status.
    pub(super) fn publish(&mut self) {
        let acked = self.shared.peer.borrow().acked;
        self.lag.ack(acked);
        match self
            .shared
            .index
            .snapshot()
            .and_then(|snapshot| self.status(&snapshot, acked))
        {
            Ok(status) => {
                self.shared.status.send_replace(status);
            }
            Err(error) => self.show_without_index(&error),
        }
        self.status_due = None;
        self.last_status = clock::now();
    }

    /// Answers somebody who will look at the status next: it has what the command did.
    pub(super) fn answer<T>(&mut self, reply: Reply<T>, done: T) {
        self.publish();
        // Whoever does not wait for an answer any more does not need it.
        let _ = reply.send(done);
    }

    pub(super) fn status(&self, index: &Snapshot, acked: u64) -> Result<EngineStatus, IndexError> {
        let mut trees = Vec::new();
        let mut alarms = Vec::new();
        let mut epochs = BTreeMap::new();
        let mut heads = Vec::new();
        for tree in &self.trees {
            let head = index.head(tree.id)?;
            epochs.insert(tree.id, head.lineage.head().map_or(0, |epoch| epoch.id.0));
            let dirty = tree.unsettled.len() as u64;
            trees.push(self.tree_status(tree, &head, index, acked, dirty)?);
            if let Some(stop) = &tree.stop {
                let (kind, text) = (stop.kind().to_owned(), stop.why().to_owned());
                alarms.push(Alarm {
                    tree: Some(tree.config.name.clone()),
                    kind,
                    text,
                });
            }
            alarms.extend(
                self.reported(tree)
                    .and_then(|paths| left_alone(tree, paths)),
            );
            heads.push(head);
        }
        alarms.extend(self.shared.alarms());
        alarms.extend(trees.iter().flat_map(differing));
        let source = matches!(self.mode, Mode::Source { .. });
        let now = clock::now();
        let waits = self
            .oldest_change()
            .map(|noticed| now.saturating_sub(noticed));
        let waits = Duration::from_nanos(waits.unwrap_or_default());
        let bad = |t: &&TreeStatus| t.state != TreeState::Consistent || !t.proven;
        Ok(EngineStatus {
            mode: self.mode,
            born: heads.iter().all(|h| !h.lineage.is_unborn()),
            consistent: !trees.iter().any(|t| bad(&t)),
            catching_up_only: trees
                .iter()
                .filter(bad)
                .all(|t| t.proven && t.state == TreeState::CatchingUp),
            reason: trees.iter().find(bad).map(reason),
            seq: index.last_seq(),
            acked: if source {
                acked
            } else {
                self.shared.answered()
            },
            epochs_digest: digest(&epochs),
            peer_keeps: source && self.shared.peer.borrow().keeps,
            lag: source.then(|| self.lag.lag(now).max(waits)),
            fresh_at: self
                .shared
                .fresh_at()
                .filter(|_| self.mode == Mode::Replica),
            hold: self.shared.held(),
            spooled: self.shared.spooled(),
            session: self.shared.session(),
            replicas: match source {
                true => self.shared.receivers.status(now, waits),
                false => Vec::new(),
            },
            from: self.shared.from(),
            trees,
            alarms,
        })
    }

    pub(super) fn tree_status(
        &self,
        tree: &Tree,
        head: &Head,
        index: &Snapshot,
        acked: u64,
        dirty: u64,
    ) -> Result<TreeStatus, IndexError> {
        let counts = index.counts(tree.id)?;
        let state = match (&tree.stop, head.state) {
            (Some(stop), _) => TreeState::Stopped {
                why: stop.why().to_owned(),
            },
            (None, CopyState::Unborn) if tree.receives => TreeState::Copying,
            (None, CopyState::Unborn) => TreeState::Unborn,
            (None, CopyState::Copying) => TreeState::Copying,
            (None, CopyState::CatchingUp) => TreeState::CatchingUp,
            (None, CopyState::Consistent) => TreeState::Consistent,
        };
        let sending = match self.mode {
            // Without a peer they wait all the same.
            Mode::Source { .. } => {
                let acked = match self.shared.peer.borrow().session {
                    true => acked,
                    false => acked.max(index.acked().upto),
                };
                index.count_changes(acked, MAX_NAMED)? as u64
            }
            _ => 0,
        };
        let gone = tree.job.as_ref().and_then(|job| job.gone.as_ref());
        let scanning = gone.map_or(0, |gone| gone.len() as u64);
        let watching = self
            .watcher
            .as_ref()
            .filter(|_| tree.open.is_some())
            .and_then(|w| w.watching(tree.id));
        // A node that writes has its trees as they are.
        let others = match self.mode {
            Mode::Source { .. } => 0,
            _ => tree
                .flagged_others
                .times()
                .saturating_add(tree.lacking.others.times()),
        };
        let reported = self.reported(tree).map_or(0, BTreeSet::len) as u64;
        Ok(TreeStatus {
            name: tree.config.name.clone(),
            root: tree.config.root.display().to_string(),
            state,
            proven: tree.open.is_some(),
            epoch: head.lineage.head().map(|e| e.id.to_string()),
            epoch_term: head.lineage.head().map(|e| e.term),
            seq: head.seq,
            files: counts.entries(),
            bytes: counts.bytes,
            queue: tree.dirty.len() as u64 + scanning + sending,
            dirty,
            errors: (tree.errors.len() as u64).saturating_add(others),
            last_error: tree.last_error.clone(),
            local_changes: reported,
            detector: watching
                .as_ref()
                .map(|w| w.detector.to_string())
                .unwrap_or_default(),
            detector_because: watching.and_then(|w| w.because),
            poll: tree.config.poll,
            contents: self.compared_within(tree).map(|_| tree.contents.shown()),
            verified: match self.mode {
                Mode::Source { .. } => super::rolling::shown(index, &tree.config, &self.shared)?,
                _ => Vec::new(),
            },
            progress: scan_progress(tree).or_else(|| self.copy_progress(tree, head)),
            rescued: tree.rescued,
            mounts_below: tree.mounts.iter().map(RelPath::to_string).collect(),
            kept: tree.kept.len() as u64,
            sockets_skipped: tree.sockets.len() as u64,
            set: self.set_status(tree, acked),
            unverified: tree.unverified.len() as u64,
            fuzzy: tree.fuzzy_paths().iter().map(RelPath::to_string).collect(),
            fuzzy_more: tree.fuzzy_more(),
            reading: tree
                .reading
                .as_ref()
                .map(|reading| reading.path.to_string()),
            inexact: inexact(tree, sending, others, reported),
        })
    }

    /// What somebody changed here, of a tree that is received and whose policy has it shown.
    fn reported<'t>(&self, tree: &'t Tree) -> Option<&'t BTreeSet<RelPath>> {
        let shown = tree.config.local_changes == LocalChanges::Report;
        (shown && self.mode == Mode::Replica).then_some(&tree.local_changes)
    }
}

/// While there is something that somebody changed and that is left as it is.
fn left_alone(tree: &Tree, paths: &BTreeSet<RelPath>) -> Option<Alarm> {
    let first = paths.first()?;
    let least = match paths.len() >= MAX_NAMED {
        true => "at least ",
        false => "",
    };
    let text = format!(
        "{least}{} path(s) were changed on this node and are left as they are until the master changes them, the first: {first}; a \
         takeover makes them the pair's",
        paths.len()
    );
    Some(Alarm {
        tree: Some(tree.config.name.clone()),
        kind: "local-changes".into(),
        text,
    })
}

/// Counts that are not what there is. `sending` wait to be sent, `others` times something was met that is known by no name, and
/// `reported` local changes are shown.
fn inexact(tree: &Tree, sending: u64, others: u64, reported: u64) -> BTreeMap<Counted, Inexact> {
    let most = MAX_NAMED;
    let ended = [
        (Counted::Queue, sending >= most as u64),
        (Counted::Errors, tree.errors.len() >= most),
        (Counted::LocalChanges, reported >= most as u64),
        (Counted::Kept, tree.kept.len() >= most),
        (Counted::Unverified, tree.unverified.len() >= most),
    ];
    let ended = ended.into_iter().filter(|(_, ended)| *ended);
    let ended = ended.map(|(count, _)| (count, Inexact::AtLeast));
    let met = (others > 0).then_some((Counted::Errors, Inexact::About));
    ended.chain(met).collect()
}

/// What the newest comparisons with the receivers found and nobody has repaired.
fn differing(tree: &TreeStatus) -> impl Iterator<Item = Alarm> {
    let found = |verified: &VerifyStatus| {
        let last = verified.last.as_ref();
        let differ = verified.differ.max(last.map_or(0, |last| last.differ));
        let named = match verified.named.is_empty() {
            false => &verified.named,
            true => &last?.named,
        };
        let replica = match &verified.receiver {
            Receiver::Standby => String::new(),
            Receiver::Replica(name) => format!("--replica {name} "),
        };
        (differ > 0).then(|| Alarm {
            tree: Some(tree.name.clone()),
            kind: "verify".into(),
            text: format!(
                "{differ} paths differ on {} though nothing is on its way: {}; `tandem verify {replica}--tree {} --repair` puts \
                 the master's versions there",
                verified.receiver,
                named.join(", "),
                tree.name
            ),
        })
    };
    tree.verified.iter().filter_map(found)
}

/// What takes less time than this is not worth a line.
const SHOWN_AFTER: u64 = clock::ms(2000);

impl Worker {
    /// How far the session is with a tree.
    fn copy_progress(&self, tree: &Tree, head: &Head) -> Option<Progress> {
        let transfers = self.shared.transfers();
        let transfer = transfers.get(tree.id)?;
        let now = clock::now();
        if transfer.age(now) < SHOWN_AFTER {
            return None;
        }
        let copying = matches!(head.state, CopyState::Unborn | CopyState::Copying);
        let what = match copying || transfer.is_first() {
            true => "copy",
            false => "catch-up",
        };
        let estimate = transfer.estimate(now);
        Some(Progress {
            what: what.into(),
            done: estimate.done,
            total: Some(estimate.total),
            at_least: estimate.at_least,
            entries_per_second: estimate.entries_per_second,
            bytes_per_second: estimate.bytes_per_second,
            left: estimate.left,
        })
    }
}

pub(super) fn scan_progress(tree: &Tree) -> Option<Progress> {
    let job = tree.job.as_ref()?;
    let spent = clock::now().saturating_sub(job.started).max(1);
    let rate = |count: u64| {
        let rate = u128::from(count) * 1_000_000_000 / u128::from(spent);
        u64::try_from(rate).unwrap_or(u64::MAX)
    };
    let done = Work {
        entries: job.done,
        bytes: job.bytes,
    };
    Some(Progress {
        what: "scan".into(),
        done,
        // How much is still to be met is known when the walk is over.
        total: None,
        at_least: true,
        entries_per_second: rate(job.done),
        bytes_per_second: rate(job.bytes),
        left: None,
    })
}

/// Of the newest epochs; an unborn tree has zero.
fn digest(epochs: &BTreeMap<TreeId, u128>) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for (tree, epoch) in epochs {
        hasher.update(&tree.0);
        hasher.update(&epoch.to_be_bytes());
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

pub(super) fn reason(tree: &TreeStatus) -> String {
    let name = &tree.name;
    match &tree.state {
        TreeState::Stopped { why } => format!("tree {name} is stopped: {why}"),
        TreeState::Unborn => format!("tree {name} was never copied here"),
        TreeState::Copying => format!("tree {name} is copied for the first time, not complete"),
        TreeState::CatchingUp => format!("tree {name} is catching up"),
        TreeState::Consistent => format!("tree {name}: its root is not proven"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::TreeConfig;

    #[test]
    fn a_count_at_its_bound_does_not_look_exact() {
        let mut tree = Tree::new(TreeConfig::new("data", "/data"));
        let path = |n: usize| RelPath::new(format!("{n}")).unwrap();
        let most = MAX_NAMED as u64;
        for n in 0..MAX_NAMED - 1 {
            tree.keep(&path(n));
            tree.error(&path(n), "no".into());
        }
        assert_eq!(inexact(&tree, most - 1, 0, most - 1), BTreeMap::new());
        for n in MAX_NAMED - 1..MAX_NAMED + 5 {
            tree.keep(&path(n));
            tree.error(&path(n), "no".into());
        }
        let ended = [
            Counted::Queue,
            Counted::Errors,
            Counted::LocalChanges,
            Counted::Kept,
        ];
        let ended: BTreeMap<_, _> = ended.map(|count| (count, Inexact::AtLeast)).into();
        assert_eq!(inexact(&tree, most, 0, most), ended);
        assert_eq!(inexact(&tree, most, 3, 0)[&Counted::Errors], Inexact::About);
        assert_eq!(tree.kept.len(), MAX_NAMED);
    }
}
