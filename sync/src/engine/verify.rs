//! `verify`, by hand and part by part: the source reads everything freshly and asks the replica what differs.

use super::command::{Shared, VerifyAsk};
use super::error::CommandError;
use super::handle::Engine;
use super::paced::{Paced, at_rate};
use super::report::{NotCovered, VerifyDifference, VerifyReport};
use super::rolling::{NAMED, Step, unix_ms};
use super::status::VerifyRound;
use super::view::names_of;
use crate::entry::State;
use crate::meta::{self, What};
use crate::path::RelPath;
use crate::tree::TreeId;
use crate::wire::{self, Differs, LIST_BYTES, VerifyAnswer, VerifyEntry, VerifyPart};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Entries of one part.
const PART: usize = 256;
/// Bytes of content that one part may hold, but for a single larger file.
const PART_BYTES: u64 = 64 << 20;
/// The same at a low rate: a part takes about a second, but is not made of single entries.
const PART_LEAST: u64 = 1 << 20;
/// Longest wait for the replica's answer to one part: it reads as much as this node did, perhaps one huge file.
const ANSWER: Duration = Duration::from_secs(3600);
/// Longest wait for changes that are on their way, before and after each round.
pub(super) const SETTLE: Duration = Duration::from_secs(60);
/// Between two looks whether a repair is done: it takes a round trip and the sending of what differs.
const REPAIR_POLL: Duration = Duration::from_millis(100);
/// How often differing paths are compared again before they are believed: changes on their way look like differences.
const ROUNDS: usize = 3;

pub(super) type Found = Vec<(RelPath, Differs)>;

impl Engine {
    /// Compares the contents and metadata of one tree or all, freshly read on both sides. With `repair` the replica's
    /// differing versions go to its rescue and are replaced, with all names of the file; it returns when they are. Takes as
    /// long as reading everything, at `rate` bytes each second on each side if it is given, else at each tree's own.
    ///
    /// # Errors
    /// This node is not the source, no such tree, no session, or the session ended.
    pub async fn verify(
        &self,
        tree: Option<&str>,
        repair: bool,
        rate: Option<NonZeroU64>,
    ) -> Result<VerifyReport, CommandError> {
        let begun = Instant::now();
        if let Some(name) = tree
            && !self.shared.trees().iter().any(|t| t.name == name)
        {
            return Err(CommandError::NoSuchTree(name.to_owned()));
        }
        let mut report = VerifyReport {
            compared: 0,
            bytes: 0,
            differences: Vec::new(),
            found: 0,
            repaired: repair,
            not_covered: self.flush(SETTLE).await?.not_covered,
            took: Duration::ZERO,
        };
        if !self.shared.peer.borrow().session {
            return Err(CommandError::NoSession);
        }
        let trees = self.shared.trees();
        for config in trees
            .iter()
            .filter(|t| tree.is_none_or(|name| t.name == name))
        {
            if self.shared.roots.get(config.id()).is_none() {
                let why = "the tree is stopped".to_owned();
                report.not_covered.push(NotCovered {
                    tree: Some(config.name.clone()),
                    why,
                });
                continue;
            }
            if config.freeze.is_some() {
                let why = "it is sent in sets, and what lies there now is of no set".to_owned();
                report.not_covered.push(NotCovered {
                    tree: Some(config.name.clone()),
                    why,
                });
                continue;
            }
            let rate = rate.or(config.verify_rate);
            let (begun_unix_ms, before) = (unix_ms(), (report.compared, report.bytes));
            let found = self.whole_tree(config.id(), rate, &mut report).await?;
            let found = self.confirmed(config.id(), found, rate, repair).await?;
            report.found += found.len() as u64;
            let mended = repair && self.until_repaired(config.id(), &found).await?;
            let left = if mended { &[][..] } else { &found };
            let round = VerifyRound {
                begun_unix_ms,
                ended_unix_ms: unix_ms(),
                entries: report.compared - before.0,
                bytes: report.bytes - before.1,
                differ: left.len() as u64,
                named: left
                    .iter()
                    .take(NAMED)
                    .map(|(path, _)| path.to_string())
                    .collect(),
            };
            self.verified_whole(config.id(), round).await?;
            if repair && !mended {
                report.repaired = false;
                let why = format!("the repair was not done within {SETTLE:?}: see the status");
                report.not_covered.push(NotCovered {
                    tree: Some(config.name.clone()),
                    why,
                });
            }
            for (path, how) in found {
                if report.differences.len() < VerifyReport::MAX_LISTED {
                    let (tree, path) = (config.name.clone(), path.to_string());
                    report.differences.push(VerifyDifference {
                        tree,
                        path,
                        what: words(how).to_owned(),
                    });
                }
            }
        }
        report.repaired &= report.found > 0;
        report.took = begun.elapsed();
        Ok(report)
    }

    async fn whole_tree(
        &self,
        tree: TreeId,
        rate: Option<NonZeroU64>,
        report: &mut VerifyReport,
    ) -> Result<Found, CommandError> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let step = self.compare_part(tree, after, rate).await?;
            report.compared += step.entries;
            report.bytes += step.bytes;
            found.extend(step.found);
            match step.after {
                Some(path) => after = Some(path),
                None => return Ok(found),
            }
        }
    }

    /// Compares the part of a tree behind a path.
    pub(super) async fn compare_part(
        &self,
        tree: TreeId,
        after: Option<RelPath>,
        rate: Option<NonZeroU64>,
    ) -> Result<Step, CommandError> {
        let shared = Arc::clone(&self.shared);
        let part = tokio::task::spawn_blocking(move || part(&shared, tree, after, rate));
        let (part, bytes) = part
            .await
            .map_err(|e| CommandError::Index(e.to_string()))??;
        let entries = part.entries.len() as u64;
        let after = part.range.as_ref().and_then(|(_, to)| to.clone());
        Ok(Step {
            after,
            entries,
            bytes,
            found: self.ask_replica(part).await?.differences,
        })
    }

    /// What of it is no change on its way: it is compared again, each time after a flush.
    pub(super) async fn confirmed(
        &self,
        tree: TreeId,
        mut found: Found,
        rate: Option<NonZeroU64>,
        repair: bool,
    ) -> Result<Found, CommandError> {
        for round in 0..ROUNDS {
            if found.is_empty() {
                break;
            }
            self.flush(SETTLE).await?;
            let last = round + 1 == ROUNDS;
            found = self.again(tree, found, rate, repair && last).await?;
        }
        Ok(found)
    }

    /// Compares single paths once more.
    async fn again(
        &self,
        tree: TreeId,
        paths: Found,
        rate: Option<NonZeroU64>,
        repair: bool,
    ) -> Result<Found, CommandError> {
        let mut found = Vec::new();
        let mut rest = &paths[..];
        while !rest.is_empty() {
            let next = rest.iter().take(PART);
            let paths: Vec<RelPath> = next.map(|(path, _)| path.clone()).collect();
            let shared = Arc::clone(&self.shared);
            let part =
                tokio::task::spawn_blocking(move || some(&shared, tree, &paths, rate, repair));
            let part = part.await.map_err(|e| CommandError::Index(e.to_string()))?;
            // At least one: it ends.
            rest = &rest[part.entries.len() + part.absent.len()..];
            found.extend(self.ask_replica(part).await?.differences);
        }
        Ok(found)
    }

    /// Waits until what was found differs no more, with all names of the files: the replica asks for them in its own time.
    async fn until_repaired(&self, tree: TreeId, found: &Found) -> Result<bool, CommandError> {
        if found.is_empty() {
            return Ok(true);
        }
        let failed = |e: &dyn std::fmt::Display| CommandError::Index(e.to_string());
        let snapshot = self.shared.index.snapshot().map_err(|e| failed(&e))?;
        let mut paths = found.clone();
        for (path, how) in found {
            let names = names_of(&snapshot, tree, path).map_err(|e| failed(&e))?;
            paths.extend(names.into_iter().map(|(name, _)| (name, *how)));
        }
        drop(snapshot);
        let deadline = Instant::now() + SETTLE;
        while Instant::now() < deadline {
            if self
                .again(tree, paths.clone(), None, false)
                .await?
                .is_empty()
            {
                return Ok(true);
            }
            // Nothing tells the end of it.
            tokio::time::sleep(REPAIR_POLL).await;
        }
        Ok(false)
    }

    async fn ask_replica(&self, part: VerifyPart) -> Result<VerifyAnswer, CommandError> {
        let session = self.shared.verifier().ok_or(CommandError::NoSession)?;
        let bytes = part.entries.iter().map(|e| e.state.kind.size()).sum();
        let within = ANSWER + at_rate(bytes, part.per_second);
        let (reply, answer) = oneshot::channel();
        session
            .send(VerifyAsk { part, reply })
            .await
            .map_err(|_| CommandError::NoSession)?;
        let answer = tokio::time::timeout(within, answer).await;
        let answer = answer.map_err(|_| CommandError::Timeout(within, "comparing".into()))?;
        answer.map_err(|_| CommandError::NoSession)
    }
}

/// The next part of a tree, freshly read, and the bytes that were read.
fn part(
    shared: &Shared,
    tree: TreeId,
    after: Option<RelPath>,
    rate: Option<NonZeroU64>,
) -> Result<(VerifyPart, u64), CommandError> {
    let most = rate.map_or(PART_BYTES, |rate| rate.get().clamp(PART_LEAST, PART_BYTES));
    let mut paced = Paced::new(rate);
    let failed = |e: &dyn std::fmt::Display| CommandError::Index(e.to_string());
    let snapshot = shared.index.snapshot().map_err(|e| failed(&e))?;
    let from = after.clone().unwrap_or_else(RelPath::root);
    let mut entries = Vec::new();
    let (mut bytes, mut message) = (0, 0);
    let mut to = None;
    for row in snapshot.entries(tree, &from).map_err(|e| failed(&e))? {
        let (path, entry) = row.map_err(|e| failed(&e))?;
        if after.as_ref() == Some(&path) {
            continue;
        }
        if entries.len() >= PART || bytes >= most || message >= LIST_BYTES {
            break;
        }
        to = Some(path.clone());
        if let Some(indexed) = entry.current
            && let Some(state) = fresh(shared, tree, &path, &indexed, &mut paced)
        {
            bytes += state.kind.size();
            let names = shared.names_of(tree, Some(&state));
            message += wire::entry_bytes(&path, Some(&state), names.as_ref());
            entries.push(VerifyEntry { path, state, names });
        }
    }
    let full = entries.len() >= PART || bytes >= most || message >= LIST_BYTES;
    let range = Some((after, to.filter(|_| full)));
    Ok((
        VerifyPart {
            id: 0,
            tree,
            range,
            entries,
            absent: Vec::new(),
            repair: false,
            per_second: rate,
        },
        bytes,
    ))
}

/// As many of these paths, from the first on, as fit in one message; at least one.
fn some(
    shared: &Shared,
    tree: TreeId,
    paths: &[RelPath],
    rate: Option<NonZeroU64>,
    repair: bool,
) -> VerifyPart {
    let mut paced = Paced::new(rate);
    let mut entries = Vec::new();
    let mut absent = Vec::new();
    let mut message = 0;
    let snapshot = shared.index.snapshot();
    for path in paths {
        if message >= LIST_BYTES {
            break;
        }
        let indexed = snapshot
            .as_ref()
            .ok()
            .and_then(|s| s.get(tree, path).ok().flatten())
            .and_then(|e| e.current);
        match indexed.and_then(|indexed| fresh(shared, tree, path, &indexed, &mut paced)) {
            Some(state) => {
                let names = shared.names_of(tree, Some(&state));
                message += wire::entry_bytes(path, Some(&state), names.as_ref());
                let path = path.clone();
                entries.push(VerifyEntry { path, state, names });
            }
            None => {
                message += wire::entry_bytes(path, None, None);
                absent.push(path.clone());
            }
        }
    }
    VerifyPart {
        id: 0,
        tree,
        range: None,
        entries,
        absent,
        repair,
        per_second: rate,
    }
}

/// What lies at a path now. A further name of a file keeps the kind that the index gives it.
fn fresh(
    shared: &Shared,
    tree: TreeId,
    path: &RelPath,
    indexed: &State,
    paced: &mut Paced<'_>,
) -> Option<State> {
    let open = shared.roots.get(tree)?;
    let seen = meta::read(&open.root, path).ok().flatten()?;
    let hash = match seen.what {
        What::File(_) => Some(paced.hash(&open.root, path)?),
        _ => None,
    };
    let state = seen.state(hash)?;
    match (&indexed.kind, &state.kind) {
        (crate::entry::Kind::HardLink { .. }, crate::entry::Kind::File { .. }) => Some(State {
            kind: indexed.kind.clone(),
            meta: state.meta,
        }),
        _ => Some(state),
    }
}

fn words(how: Differs) -> &'static str {
    match how {
        Differs::Content => "content",
        Differs::Metadata => "metadata",
        Differs::Kind => "kind",
        Differs::Missing => "missing on the standby",
        Differs::Extra => "only on the standby",
        Differs::Unreadable => "cannot be read on the standby",
    }
}
