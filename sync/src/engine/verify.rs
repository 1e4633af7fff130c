//! `verify`: the source reads everything freshly and asks the replica what differs.

use super::command::{Shared, VerifyAsk};
use super::error::CommandError;
use super::handle::Engine;
use super::report::{NotCovered, VerifyDifference, VerifyReport};
use super::view::names_of;
use crate::entry::State;
use crate::hash;
use crate::meta::{self, What};
use crate::path::RelPath;
use crate::tree::TreeId;
use crate::wire::{Differs, VerifyAnswer, VerifyEntry, VerifyPart};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Entries of one part.
const PART: usize = 256;
/// Bytes of content that one part may hold, but for a single larger file.
const PART_BYTES: u64 = 64 << 20;
/// Longest wait for the replica's answer to one part: it reads as much as this node did, perhaps one huge file.
const ANSWER: Duration = Duration::from_secs(3600);
/// Longest wait for changes that are on their way, before and after each round.
const SETTLE: Duration = Duration::from_secs(60);
/// Between two looks whether a repair is done: it takes a round trip and the sending of what differs.
const REPAIR_POLL: Duration = Duration::from_millis(100);
/// How often differing paths are compared again before they are believed: changes on their way look like differences.
const ROUNDS: usize = 3;

type Found = Vec<(RelPath, Differs)>;

impl Engine {
    /// Compares the contents and metadata of one tree or all, freshly read on both sides. With `repair` the replica's
    /// differing versions go to its rescue and are replaced, with all names of the file; it returns when they are. Takes as
    /// long as reading everything.
    ///
    /// # Errors
    /// This node is not the source, no such tree, no session, or the session ended.
    pub async fn verify(
        &self,
        tree: Option<&str>,
        repair: bool,
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
            let mut found = self.whole_tree(config.id(), &mut report).await?;
            for round in 0..ROUNDS {
                if found.is_empty() {
                    break;
                }
                self.flush(SETTLE).await?;
                let last = round + 1 == ROUNDS;
                found = self.again(config.id(), found, repair && last).await?;
            }
            report.found += found.len() as u64;
            if repair && !found.is_empty() && !self.until_repaired(config.id(), &found).await? {
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
        report: &mut VerifyReport,
    ) -> Result<Found, CommandError> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let (shared, from) = (Arc::clone(&self.shared), after.clone());
            let part = tokio::task::spawn_blocking(move || part(&shared, tree, from));
            let (part, bytes) = part
                .await
                .map_err(|e| CommandError::Index(e.to_string()))??;
            report.compared += part.entries.len() as u64;
            report.bytes += bytes;
            let next = part.range.as_ref().and_then(|(_, to)| to.clone());
            found.extend(self.ask_replica(part).await?.differences);
            match next {
                Some(path) => after = Some(path),
                None => return Ok(found),
            }
        }
    }

    /// Compares single paths once more.
    async fn again(&self, tree: TreeId, paths: Found, repair: bool) -> Result<Found, CommandError> {
        let mut found = Vec::new();
        for paths in paths.chunks(PART) {
            let paths: Vec<RelPath> = paths.iter().map(|(path, _)| path.clone()).collect();
            let shared = Arc::clone(&self.shared);
            let part = tokio::task::spawn_blocking(move || some(&shared, tree, &paths, repair));
            let part = part.await.map_err(|e| CommandError::Index(e.to_string()))?;
            found.extend(self.ask_replica(part).await?.differences);
        }
        Ok(found)
    }

    /// Waits until what was found differs no more, with all names of the files: the replica asks for them in its own time.
    async fn until_repaired(&self, tree: TreeId, found: &Found) -> Result<bool, CommandError> {
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
            if self.again(tree, paths.clone(), false).await?.is_empty() {
                return Ok(true);
            }
            // Nothing tells the end of it.
            tokio::time::sleep(REPAIR_POLL).await;
        }
        Ok(false)
    }

    async fn ask_replica(&self, part: VerifyPart) -> Result<VerifyAnswer, CommandError> {
        let session = self.shared.verifier().ok_or(CommandError::NoSession)?;
        let (reply, answer) = oneshot::channel();
        session
            .send(VerifyAsk { part, reply })
            .await
            .map_err(|_| CommandError::NoSession)?;
        let answer = tokio::time::timeout(ANSWER, answer).await;
        let answer = answer.map_err(|_| CommandError::Timeout(ANSWER, "comparing".into()))?;
        answer.map_err(|_| CommandError::NoSession)
    }
}

/// The next part of a tree, freshly read, and the bytes that were read.
fn part(
    shared: &Shared,
    tree: TreeId,
    after: Option<RelPath>,
) -> Result<(VerifyPart, u64), CommandError> {
    let failed = |e: &dyn std::fmt::Display| CommandError::Index(e.to_string());
    let snapshot = shared.index.snapshot().map_err(|e| failed(&e))?;
    let from = after.clone().unwrap_or_else(RelPath::root);
    let mut entries = Vec::new();
    let mut bytes = 0;
    let mut to = None;
    for row in snapshot.entries(tree, &from).map_err(|e| failed(&e))? {
        let (path, entry) = row.map_err(|e| failed(&e))?;
        if after.as_ref() == Some(&path) {
            continue;
        }
        if entries.len() >= PART || bytes >= PART_BYTES {
            break;
        }
        to = Some(path.clone());
        if let Some(indexed) = entry.current
            && let Some(state) = fresh(shared, tree, &path, &indexed)
        {
            bytes += state.kind.size();
            let names = shared.names_of(tree, Some(&state));
            entries.push(VerifyEntry { path, state, names });
        }
    }
    let full = entries.len() >= PART || bytes >= PART_BYTES;
    let range = Some((after, to.filter(|_| full)));
    Ok((
        VerifyPart {
            id: 0,
            tree,
            range,
            entries,
            absent: Vec::new(),
            repair: false,
        },
        bytes,
    ))
}

fn some(shared: &Shared, tree: TreeId, paths: &[RelPath], repair: bool) -> VerifyPart {
    let mut entries = Vec::new();
    let mut absent = Vec::new();
    let snapshot = shared.index.snapshot();
    for path in paths {
        let indexed = snapshot
            .as_ref()
            .ok()
            .and_then(|s| s.get(tree, path).ok().flatten())
            .and_then(|e| e.current);
        match indexed.and_then(|indexed| fresh(shared, tree, path, &indexed)) {
            Some(state) => entries.push(VerifyEntry {
                path: path.clone(),
                names: shared.names_of(tree, Some(&state)),
                state,
            }),
            None => absent.push(path.clone()),
        }
    }
    VerifyPart {
        id: 0,
        tree,
        range: None,
        entries,
        absent,
        repair,
    }
}

/// What lies at a path now. A further name of a file keeps the kind that the index gives it.
fn fresh(shared: &Shared, tree: TreeId, path: &RelPath, indexed: &State) -> Option<State> {
    let open = shared.roots.get(tree)?;
    let seen = meta::read(&open.root, path).ok().flatten()?;
    let hash = match seen.what {
        What::File(_) => Some(hash::hash_path(&open.root, path, false).ok()?.hash),
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
