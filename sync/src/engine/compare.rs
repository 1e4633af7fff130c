//! Comparing a part of a tree with a receiver's: it is read freshly here, and the receiver is asked what differs.

use super::command::{Command, VerifyAsk};
use super::error::CommandError;
use super::handle::Engine;
use super::paced::{Paced, at_rate};
use super::receivers::Receiver;
use super::shared::Shared;
use super::verified::{Found, Step};
use super::view::names_of;
use crate::entry::{Kind, State};
use crate::meta::{self, What};
use crate::path::RelPath;
use crate::tree::TreeId;
use crate::wire::{self, LIST_BYTES, VerifyAnswer, VerifyEntry, VerifyPart};
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
/// Longest wait for the receiver's answer to one part: it reads as much as this node did, perhaps one huge file.
const ANSWER: Duration = Duration::from_secs(3600);
/// Longest wait for changes that are on their way, before and after each round.
pub(super) const SETTLE: Duration = Duration::from_secs(60);
/// The same for a receiver that did not settle before: it is to be expected that it does not now.
pub(super) const UNSETTLED: Duration = Duration::from_secs(1);
/// Between two looks whether a repair is done: it takes a round trip and the sending of what differs.
const REPAIR_POLL: Duration = Duration::from_millis(100);
/// How often differing paths are compared again before they are believed: changes on their way look like differences.
const ROUNDS: usize = 3;

/// How differing paths are compared again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Again {
    /// Bytes each second that are read on each side.
    pub rate: Option<NonZeroU64>,
    /// The receiver repairs what differs.
    pub repair: bool,
    /// Longest wait for changes that are on their way.
    pub patience: Duration,
}

impl Engine {
    /// Waits, at most so long, until a receiver has all of a tree that was written before the call, applied. Gives why it has
    /// not. Other trees are not waited for, and no set of them is taken.
    ///
    /// A standby that has not everything can be compared nevertheless, to see what it has. For a replica it is an error: there
    /// may be many, and each may be far behind for long.
    pub(super) async fn settled(
        &self,
        of: &Receiver,
        tree: TreeId,
        within: Duration,
    ) -> Result<Option<String>, CommandError> {
        let only = Some(tree);
        let settled = async {
            let barrier = self.shared.ask(|reply| Command::Barrier { only, reply });
            let recorded = barrier.await?;
            let head = recorded.head;
            let there = match of {
                Receiver::Standby => {
                    let mut peer = self.shared.peer.subscribe();
                    // Also without a session: a healed cable brings one within seconds.
                    let has = peer.wait_for(|p| p.acked >= head && p.applied >= head);
                    has.await.is_ok()
                }
                Receiver::Replica(name) => self.shared.receivers.until_applied(name, head).await,
            };
            match there {
                true => Ok(recorded.not_covered.into_iter().next().map(|n| n.why)),
                false => Err(away(of)),
            }
        };
        match (tokio::time::timeout(within, settled).await, of) {
            (Ok(settled), _) => settled,
            (Err(_), Receiver::Standby) => Ok(Some(format!(
                "it had not applied everything within {within:?}: is there a hold?"
            ))),
            (Err(_), Receiver::Replica(name)) => {
                Err(CommandError::ReplicaBehind(name.clone(), within))
            }
        }
    }

    /// The part of a tree behind a path, as it lies here now.
    pub(super) async fn read_part(
        &self,
        tree: TreeId,
        after: Option<RelPath>,
        rate: Option<NonZeroU64>,
    ) -> Result<VerifyPart, CommandError> {
        let shared = Arc::clone(&self.shared);
        let part = tokio::task::spawn_blocking(move || part(&shared, tree, after, rate));
        part.await.map_err(|e| failed(&e))?
    }

    /// Compares a part with a receiver's.
    pub(super) async fn compare_part(
        &self,
        of: &Receiver,
        part: VerifyPart,
    ) -> Result<Step, CommandError> {
        Ok(Step {
            after: part.range.as_ref().and_then(|(_, to)| to.clone()),
            entries: part.entries.len() as u64,
            bytes: bytes(&part),
            found: self.ask_receiver(of, part).await?.differences,
        })
    }

    /// What of it is no change on its way: it is compared again, each time after a flush.
    pub(super) async fn confirmed(
        &self,
        of: &Receiver,
        tree: TreeId,
        mut found: Found,
        again: Again,
    ) -> Result<Found, CommandError> {
        for round in 0..ROUNDS {
            if found.is_empty() {
                break;
            }
            self.settled(of, tree, again.patience).await?;
            let repair = again.repair && round + 1 == ROUNDS;
            found = self.again(of, tree, found, again.rate, repair).await?;
        }
        Ok(found)
    }

    /// Compares single paths once more.
    async fn again(
        &self,
        of: &Receiver,
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
            let part = part.await.map_err(|e| failed(&e))?;
            // At least one: it ends.
            rest = &rest[part.entries.len() + part.absent.len()..];
            found.extend(self.ask_receiver(of, part).await?.differences);
        }
        Ok(found)
    }

    /// Waits until what was found differs no more, with all names of the files: the receiver asks for them in its own time.
    pub(super) async fn until_repaired(
        &self,
        of: &Receiver,
        tree: TreeId,
        found: &Found,
    ) -> Result<bool, CommandError> {
        if found.is_empty() {
            return Ok(true);
        }
        let snapshot = self.shared.index.snapshot().map_err(|e| failed(&e))?;
        let mut paths = found.clone();
        for (path, how) in found {
            let names = names_of(&snapshot, tree, path).map_err(|e| failed(&e))?;
            paths.extend(names.into_iter().map(|(name, _)| (name, *how)));
        }
        drop(snapshot);
        let deadline = Instant::now() + SETTLE;
        while Instant::now() < deadline {
            let left = self.again(of, tree, paths.clone(), None, false).await?;
            if left.is_empty() {
                return Ok(true);
            }
            // Nothing tells the end of it.
            tokio::time::sleep(REPAIR_POLL).await;
        }
        Ok(false)
    }

    async fn ask_receiver(
        &self,
        of: &Receiver,
        part: VerifyPart,
    ) -> Result<VerifyAnswer, CommandError> {
        let session = self.shared.verifier(of).ok_or_else(|| away(of))?;
        let within = ANSWER + at_rate(bytes(&part), part.per_second);
        let (reply, answer) = oneshot::channel();
        let asked = async {
            session.send(VerifyAsk { part, reply }).await.ok()?;
            // The session lets go of it when it ends.
            answer.await.ok()
        };
        let answer = tokio::time::timeout(within, asked).await;
        let answer = answer.map_err(|_| CommandError::Timeout(within, "comparing".into()))?;
        answer.ok_or_else(|| away(of))
    }
}

fn failed(error: &dyn std::fmt::Display) -> CommandError {
    CommandError::Index(error.to_string())
}

/// There is no session with a receiver.
pub(super) fn away(of: &Receiver) -> CommandError {
    match of {
        Receiver::Standby => CommandError::NoSession,
        Receiver::Replica(name) => CommandError::ReplicaAway(name.clone()),
    }
}

/// Bytes of content of a part.
fn bytes(part: &VerifyPart) -> u64 {
    part.entries.iter().map(|e| e.state.kind.size()).sum()
}

/// The next part of a tree, freshly read.
fn part(
    shared: &Shared,
    tree: TreeId,
    after: Option<RelPath>,
    rate: Option<NonZeroU64>,
) -> Result<VerifyPart, CommandError> {
    let most = rate.map_or(PART_BYTES, |rate| rate.get().clamp(PART_LEAST, PART_BYTES));
    let mut paced = Paced::new(rate);
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
    Ok(VerifyPart {
        id: 0,
        tree,
        range,
        entries,
        absent: Vec::new(),
        repair: false,
        per_second: rate,
    })
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
        (Kind::HardLink { .. }, Kind::File { .. }) => Some(State {
            kind: indexed.kind.clone(),
            meta: state.meta,
        }),
        _ => Some(state),
    }
}
