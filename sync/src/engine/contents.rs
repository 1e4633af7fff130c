//! The rolling comparison of contents: file after file is read and compared with the index, slowly, so that a change that
//! moved not even a time stamp is found within a bounded time (a store through a map into a page that was already dirty;
//! a disk that forgets). What it finds is marked to be looked at like any other change.
//!
//! A thread beside the worker reads piece by piece; where the next piece begins is durable, so a restart goes on.

pub(super) mod pace;
pub(super) mod piece;

use super::clock;
use super::dirty::Dirt;
use super::status::{ContentsRound, ContentsStatus, Mode};
use super::tree::Tree;
use super::worker::Worker;
use crate::index::{IndexError, Snapshot};
use crate::path::RelPath;
use crate::tree::TreeId;
use pace::{Plan, cost};
use piece::{Order, Piece, Running};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// A tree's comparison.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Where it is; not loaded before the first look at it.
    position: Option<Position>,
    running: Option<Running>,
}

/// What is durable of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Position {
    /// The round that is under way.
    round: Option<Round>,
    /// The last complete one.
    last: Option<ContentsRound>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Round {
    begun_unix_ms: u64,
    /// The last path that was compared.
    after: Option<RelPath>,
    files: u64,
    bytes: u64,
    differed: u64,
}

impl Contents {
    /// Ends what runs; it begins again where its last whole piece ended.
    pub fn end(&mut self) {
        self.running = None;
    }

    /// For status.
    pub fn shown(&self) -> ContentsStatus {
        let position = self.position.clone().unwrap_or_default();
        let round = position.round.unwrap_or_else(|| Round::begun(0));
        ContentsStatus {
            files: round.files,
            bytes: round.bytes,
            differed: round.differed,
            last: position.last,
        }
    }
}

impl Round {
    fn begun(unix_ms: u64) -> Round {
        Round {
            begun_unix_ms: unix_ms,
            after: None,
            files: 0,
            bytes: 0,
            differed: 0,
        }
    }
}

impl Position {
    /// When the next piece begins, milliseconds since 1970. A clock that was set back waits no longer than a period.
    fn due(&self, plan: Plan, now: u64) -> u64 {
        let (begun, done) = match (&self.round, &self.last) {
            (Some(round), _) => (round.begun_unix_ms, cost(round.files, round.bytes)),
            (None, Some(last)) => (last.begun_unix_ms, plan.total),
            (None, None) => return now,
        };
        plan.due(begun.min(now), done)
    }

    /// With a piece that was compared.
    fn with(&self, piece: &Piece, now: u64) -> Position {
        let mut round = self.round.clone().unwrap_or_else(|| Round::begun(now));
        round.files += piece.files;
        round.bytes += piece.bytes;
        round.differed += piece.differ.len() as u64;
        round.after.clone_from(&piece.after);
        match round.after {
            Some(_) => Position {
                round: Some(round),
                last: self.last,
            },
            None => Position {
                last: Some(ContentsRound {
                    begun_unix_ms: round.begun_unix_ms,
                    ended_unix_ms: now,
                    files: round.files,
                    differed: round.differed,
                }),
                round: None,
            },
        }
    }
}

impl Worker {
    /// Takes what was compared, and begins what is due.
    pub(super) fn compare_contents(&mut self) {
        for at in 0..self.trees.len() {
            if let Err(error) = self.compare_tree(at) {
                self.index_failed(&error);
            }
        }
    }

    fn compare_tree(&mut self, at: usize) -> Result<(), IndexError> {
        let period = self.compared_within(&self.trees[at]);
        let tree = &mut self.trees[at];
        let Some(period) = period else {
            tree.contents.end();
            return Ok(());
        };
        if let Some(done) = tree.contents.running.as_mut().and_then(Running::result) {
            tree.contents.end();
            if let Some(piece) = done? {
                self.compared(at, &piece)?;
            }
        }
        let tree = &self.trees[at];
        let known = self.mode != Mode::Idle && tree.moves() && !tree.is_scanned();
        if !known || tree.contents.running.is_some() {
            return Ok(());
        }
        self.compare_next(at, period)
    }

    /// Within how long the tree's contents are compared. A source's tree in sets is not: what lies there between two sets
    /// is of no set.
    pub(super) fn compared_within(&self, tree: &Tree) -> Option<Duration> {
        let between_sets = tree.is_in_sets() && matches!(self.mode, Mode::Source { .. });
        tree.config.compare_contents.filter(|_| !between_sets)
    }

    /// Begins the next piece if it is due.
    fn compare_next(&mut self, at: usize, period: Duration) -> Result<(), IndexError> {
        let snapshot = self.shared.index.snapshot()?;
        let receiver = self.mode == Mode::Replica;
        let tree = &mut self.trees[at];
        let counts = snapshot.counts(tree.id)?;
        let plan = Plan {
            total: cost(counts.files, counts.bytes),
            period,
        };
        let (position, now) = (load(tree, &snapshot)?, unix_ms());
        if counts.files == 0 || position.due(plan, now) > now {
            return Ok(());
        }
        let Some(open) = tree.open.clone() else {
            return Ok(());
        };
        let order = Order {
            tree: tree.id,
            config: Arc::clone(&tree.config),
            open,
            index: self.shared.index.clone(),
            receiver,
            after: position.round.as_ref().and_then(|r| r.after.clone()),
            only: None,
            per_second: plan.per_second(),
        };
        match Running::start(order) {
            Ok(running) => tree.contents.running = Some(running),
            // Tried again a second later.
            Err(error) => tracing::debug!(%error, "contents cannot be compared now"),
        }
        Ok(())
    }

    fn compared(&mut self, at: usize, piece: &Piece) -> Result<(), IndexError> {
        let snapshot = self.shared.index.snapshot()?;
        let tree = &mut self.trees[at];
        let position = load(tree, &snapshot)?.with(piece, unix_ms());
        drop(snapshot);
        let (id, name) = (tree.id, tree.config.name.clone());
        let key = position_key(id);
        self.shared.index.write(|w| w.put_value(&key, &position))?;
        self.trees[at].contents.position = Some(position);
        if let Some(first) = piece.differ.first() {
            tracing::warn!(
                tree = name,
                files = piece.differ.len(),
                path = %first,
                "the content changed and no time stamp did: a writer through a memory map (such a tree wants `poll`), or the disk"
            );
        }
        for path in &piece.differ {
            self.mark(id, path.clone(), Dirt::FORCED);
        }
        for path in &piece.unseen {
            self.mark(id, path.clone(), Dirt::default());
        }
        if !(piece.differ.is_empty() && piece.unseen.is_empty()) {
            self.due_at(clock::now());
        }
        self.touch();
        Ok(())
    }
}

fn load(tree: &mut Tree, snapshot: &Snapshot) -> Result<Position, IndexError> {
    if let Some(position) = &tree.contents.position {
        return Ok(position.clone());
    }
    let position: Position = snapshot.value(&position_key(tree.id))?.unwrap_or_default();
    tree.contents.position = Some(position.clone());
    Ok(position)
}

fn position_key(tree: TreeId) -> String {
    format!("contents/{tree}")
}

fn unix_ms() -> u64 {
    u64::try_from(crate::hash::now_ns() / 1_000_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;

    fn piece(after: Option<&str>, files: u64, bytes: u64) -> Piece {
        Piece {
            after: after.map(|path| RelPath::new(path).unwrap()),
            files,
            bytes,
            ..Piece::default()
        }
    }

    fn plan() -> Plan {
        Plan {
            total: cost(10, 0),
            period: Duration::from_millis(7 * DAY),
        }
    }

    #[test]
    fn a_round_is_spread_over_its_period_and_the_next_begins_when_that_is_over() {
        let start = Position::default();
        assert_eq!(start.due(plan(), 5 * DAY), 5 * DAY);
        let half = start.with(&piece(Some("f5"), 5, 0), 5 * DAY);
        assert_eq!(half.due(plan(), 5 * DAY), 5 * DAY + 7 * DAY / 2);
        let whole = half.with(&piece(None, 5, 0), 9 * DAY);
        let last = whole.last.unwrap();
        assert_eq!((last.begun_unix_ms, last.ended_unix_ms), (5 * DAY, 9 * DAY));
        assert_eq!((last.files, whole.round.is_none()), (10, true));
        assert_eq!(whole.due(plan(), 9 * DAY), 12 * DAY);
        let next = whole.with(&piece(Some("f1"), 1, 0), 12 * DAY);
        assert_eq!(next.last, whole.last, "the last round stays shown");
        assert_eq!(next.round.unwrap().begun_unix_ms, 12 * DAY);
    }

    #[test]
    fn a_clock_that_was_set_back_delays_no_longer_than_a_period() {
        let half = Position::default().with(&piece(Some("f5"), 5, 0), 1000 * DAY);
        assert!(half.due(plan(), 5 * DAY) <= 12 * DAY);
    }

    #[test]
    fn what_was_missed_is_due_at_once() {
        let half = Position::default().with(&piece(Some("f5"), 5, 0), 5 * DAY);
        assert!(half.due(plan(), 100 * DAY) < 100 * DAY);
    }
}
