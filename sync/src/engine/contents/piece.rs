//! One piece of a comparison, read by a thread of its own.

use super::super::tree::Open;
use super::pace::{cost, earliest};
use crate::entry::{ContentHash, IndexEntry, Kind, LocalKey};
use crate::fault::Fault;
use crate::hash;
use crate::index::{Index, IndexError};
use crate::path::RelPath;
use crate::stat::Stat;
use crate::tree::{TreeConfig, TreeId};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Files of one piece: each piece is one durable step of the position.
const FILES: usize = 512;
/// Bytes of one piece, but for a single larger file.
const BYTES: u64 = 64 << 20;
/// Entries of the index that are passed in one piece.
const ROWS: usize = 16 * 1024;
/// Longest pause without a look whether the piece is given up.
const PAUSE: Duration = Duration::from_millis(20);

/// What is to be compared.
pub struct Order {
    pub tree: TreeId,
    pub config: Arc<TreeConfig>,
    pub open: Open,
    pub index: Index,
    /// On a receiver, what is protected is none of ours.
    pub receiver: bool,
    /// From behind this path on.
    pub after: Option<RelPath>,
    /// This file only.
    pub only: Option<RelPath>,
    /// Bytes each second.
    pub per_second: u64,
}

/// What was compared.
#[derive(Debug, Default)]
pub struct Piece {
    /// The last path of it; `None`: the tree's end was reached.
    pub after: Option<RelPath>,
    /// Files compared.
    pub files: u64,
    /// Bytes compared.
    pub bytes: u64,
    /// Files whose content is not the index's although their keys are.
    pub differ: Vec<RelPath>,
    /// Files whose keys are not the index's: changes that are on their way, or were not seen.
    pub unseen: Vec<RelPath>,
}

/// A piece's thread. Dropping it gives the piece up.
#[derive(Debug)]
pub struct Running {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Option<Piece>, IndexError>>>,
}

impl Running {
    pub fn start(order: Order) -> std::io::Result<Running> {
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let thread = std::thread::Builder::new().name("tandem-compare".into());
        let thread = thread.spawn(move || order.run(&end))?;
        Ok(Running {
            ended,
            thread: Some(thread),
        })
    }

    /// What was compared, once it is; `Ok(None)`: the piece was given up.
    pub fn result(&mut self) -> Option<Result<Option<Piece>, IndexError>> {
        let thread = self.thread.take_if(|thread| thread.is_finished())?;
        Some(thread.join().unwrap_or_else(|_| {
            tracing::error!("the thread that compares contents panicked");
            Ok(None)
        }))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that compares contents panicked");
        }
    }
}

/// A file as the index knows it.
struct Row {
    path: RelPath,
    hash: ContentHash,
    size: u64,
    key: LocalKey,
}

impl Order {
    pub fn run(&self, ended: &AtomicBool) -> Result<Option<Piece>, IndexError> {
        let (rows, after) = self.rows()?;
        let mut piece = Piece {
            after,
            ..Piece::default()
        };
        let (begun, mut read) = (Instant::now(), 0u64);
        let mut go_on = |bytes: u64| {
            read += bytes;
            let due = begun + earliest(read, self.per_second);
            loop {
                if ended.load(Ordering::Relaxed) {
                    return ControlFlow::Break(());
                }
                let left = due.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return ControlFlow::Continue(());
                }
                std::thread::sleep(left.min(PAUSE));
            }
        };
        for row in rows {
            if go_on(cost(1, 0)).is_break() {
                return Ok(None);
            }
            match self.compare(&row, &mut |bytes| go_on(bytes as u64)) {
                Ok(None) => return Ok(None),
                Ok(Some(Verdict::Same)) => {}
                Ok(Some(Verdict::Differs)) => piece.differ.push(row.path),
                Ok(Some(Verdict::Unseen)) => piece.unseen.push(row.path),
                Err(fault) => {
                    // The look names the error if it is one.
                    tracing::debug!(path = %row.path, %fault, "not compared");
                    piece.unseen.push(row.path);
                }
            }
            piece.files += 1;
            piece.bytes += row.size;
        }
        Ok(Some(piece))
    }

    /// The next files, and the last path that was passed unless that is the tree's end. Read before the files are: a
    /// snapshot that is kept keeps all pages of the index that change meanwhile.
    fn rows(&self) -> Result<(Vec<Row>, Option<RelPath>), IndexError> {
        let snapshot = self.index.snapshot()?;
        if let Some(path) = &self.only {
            let entry = snapshot.get(self.tree, path)?;
            let row = entry.and_then(|entry| self.row(path, entry));
            return Ok((row.into_iter().collect(), None));
        }
        let root = RelPath::root();
        let entries = match &self.after {
            None => snapshot.below(self.tree, &root)?,
            Some(after) => snapshot.below_after(self.tree, &root, after)?,
        };
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for (passed, entry) in entries.enumerate() {
            let (path, entry) = entry?;
            let row = self.row(&path, entry);
            bytes += row.as_ref().map_or(0, |row| row.size);
            rows.extend(row);
            if rows.len() >= FILES || bytes >= BYTES || passed + 1 >= ROWS {
                return Ok((rows, Some(path)));
            }
        }
        Ok((rows, None))
    }

    /// What can be compared: a file of the pair's history that was found at rest. Further names of a file are compared by
    /// its first one.
    fn row(&self, path: &RelPath, entry: IndexEntry) -> Option<Row> {
        let covers = |filter: &crate::filter::Filter| filter.covers(path, false);
        let outside =
            covers(&self.config.exclude) || (self.receiver && covers(&self.config.protect));
        let key = entry.local.filter(|_| entry.seq != 0 && !outside)?;
        match entry.current?.kind {
            Kind::File { size, hash } => Some(Row {
                path: path.clone(),
                hash,
                size,
                key,
            }),
            _ => None,
        }
    }

    /// `None`: given up.
    fn compare(
        &self,
        row: &Row,
        go_on: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Verdict>, Fault> {
        let file = self.open.root.open_file(&row.path)?;
        let before = Stat::of_fd(file.as_fd())?;
        if before.key() != row.key {
            return Ok(Some(Verdict::Unseen));
        }
        let Some(hashed) = hash::hash_while(&file, before, go_on)? else {
            return Ok(None);
        };
        Ok(Some(match hashed.is_stable() {
            false => Verdict::Unseen,
            true if hashed.hash == row.hash => Verdict::Same,
            true => Verdict::Differs,
        }))
    }
}

enum Verdict {
    Same,
    Differs,
    Unseen,
}
