//! The replica's end of a session: the machine's effects carried out on staging, worker and stream.
//!
//! One thread runs the session, as on the source's side. What is applied is applied by the worker; the session hands it
//! finished batches in order and goes on receiving meanwhile.

use super::machine::ReplicaMachine;
use super::pulse::Pulse;
use super::staging::Contents;
use crate::engine::clock;
use crate::engine::shared::Shared;
use crate::engine::stream::{self, Channel, Gone, Pack};
use crate::engine::{Mode, SessionEnd, SessionError, SessionStatus};
use crate::lineage::NodeHeads;
use crate::path::RelPath;
use crate::progress::Transfers;
use crate::source::session::ended;
use crate::tree::TreeId;
use crate::wire::{Commit, Fuzzy, Item, Message, Record};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use worker::Answer;

mod compare;
mod effects;
mod opening;
mod worker;

/// How long a source may be silent. It says each second `Idle`, or how much there is to send.
const SILENCE: Duration = Duration::from_secs(60);
/// The same while a batch is open: its thread may wait for a disk, in the middle of a step of what it reads.
const SILENCE_IN_BATCH: Duration = Duration::from_secs(600);
/// Answers that wait for the peer to take them. While there are more, nothing new is heard from it: a source that asks
/// and never reads must not fill the memory. The source always reads, so this cannot block an honest one.
const ANSWERS: usize = 64;
/// Longest wait of the session's loop.
const TICK: Duration = Duration::from_secs(1);

/// Runs a session as the replica until it ends.
///
/// Dropping the future ends the session at its next step. A batch that the worker has is applied whole nevertheless.
pub(crate) async fn run<S>(
    shared: Arc<Shared>,
    stream: S,
    cancel: CancellationToken,
) -> Result<SessionEnd, SessionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if *shared.mode.borrow() != Mode::Replica {
        return Err(SessionError::Role("receive"));
    }
    let own = cancel.child_token();
    let _end = own.clone().drop_guard();
    let (end, this) = (shared.end.clone(), own.clone());
    // Ends with the session, whose token it waits for too.
    tokio::spawn(async move {
        tokio::select! {
            () = end.cancelled() => this.cancel(),
            () = this.cancelled() => {}
        }
    });
    let channel = stream::open(stream, stream::QUEUE, None, own.clone()).await?;
    let runtime = tokio::runtime::Handle::current();
    let work = tokio::task::spawn_blocking(move || {
        let result = runtime.block_on(session(&shared, own, channel));
        *shared.transfers() = Transfers::default();
        shared.set_session(None);
        result
    });
    work.await
        .map_err(|e| SessionError::Local(format!("the session's thread: {e}")))?
}

async fn session(
    shared: &Arc<Shared>,
    own: CancellationToken,
    channel: Channel,
) -> Result<SessionEnd, SessionError> {
    let (mut channel, agreed) = match opening::agree(shared, own, channel).await? {
        Ok(agreed) => agreed,
        Err(end) => return Ok(end),
    };
    shared.receives_from(agreed.source.node.as_str());
    let (applied, results) = mpsc::channel(2 * crate::wire::WINDOW);
    let pulse = Pulse::new(channel.outgoing.clone());
    let mut session = Session {
        shared,
        number: agreed.number,
        machine: ReplicaMachine::new(agreed.highest),
        contents: Contents::new(Arc::clone(shared), pulse.clone()),
        trees: agreed.trees,
        pulse,
        lookups: VecDeque::new(),
        large: Vec::new(),
        superseded: true,
        source: agreed.source,
        out: VecDeque::new(),
        fuzzy: Vec::new(),
        applied,
        unsettled: 1,
        asked_after: None,
        asking: false,
        ask_at: clock::now(),
        status: SessionStatus {
            version: channel.version,
            in_flight: 0,
            bytes: 0,
            caught_up: false,
        },
    };
    shared.set_session(Some(session.status.clone()));
    let ended = session.run(&mut channel, results).await;
    // Without a session nothing comes that could fail or succeed.
    shared.alarm(None, "staging", None);
    match ended {
        Ok(SessionEnd::Cancelled) => channel.cancelled(),
        other => other,
    }
}

/// Nothing came for so long while so many batches are open that nothing is to be expected: the bound that was passed.
fn is_silent(silent: Duration, open: usize) -> Option<Duration> {
    let most = match open {
        0 => SILENCE,
        _ => SILENCE_IN_BATCH,
    };
    (silent > most).then_some(most)
}

struct Session<'s> {
    shared: &'s Arc<Shared>,
    /// By which the worker knows this session's batches.
    number: u64,
    machine: ReplicaMachine,
    contents: Contents,
    /// The trees that come.
    trees: Vec<TreeId>,
    pulse: Pulse,
    /// Batches whose offered files were not looked for yet, oldest first.
    lookups: VecDeque<u64>,
    /// The large files of the batches under way.
    large: Vec<(u64, HashSet<(TreeId, RelPath)>)>,
    /// Partial contents may lie there that nobody needs once everything is received.
    superseded: bool,
    source: NodeHeads,
    out: VecDeque<Message>,
    /// Lists for the worker: each goes there before the next message is read.
    fuzzy: Vec<Fuzzy>,
    applied: mpsc::Sender<Answer>,
    /// Paths that are not settled, as last heard.
    unsettled: usize,
    asked_after: Option<(TreeId, RelPath)>,
    /// A question is at the worker or at the source.
    asking: bool,
    ask_at: u64,
    status: SessionStatus,
}

impl Session<'_> {
    async fn run(
        &mut self,
        channel: &mut Channel,
        mut results: mpsc::Receiver<Answer>,
    ) -> Result<SessionEnd, SessionError> {
        let mut mode = self.shared.mode.subscribe();
        let mut heard = clock::now();
        let outgoing = channel.outgoing.clone();
        let cancelled = channel.cancel.clone();
        loop {
            self.effects().await?;
            self.look_up()?;
            self.effects().await?;
            self.ask().await;
            self.show();
            let has_output = !self.out.is_empty();
            let wait = self.wait();
            tokio::select! {
                biased;
                () = cancelled.cancelled() => return Ok(SessionEnd::Cancelled),
                changed = mode.wait_for(|m| *m != Mode::Replica) => {
                    drop(changed);
                    return Ok(SessionEnd::RoleChanged);
                }
                Some(answer) = results.recv() => self.answer(answer)?,
                room = outgoing.reserve(), if has_output => match room {
                    Ok(room) => room.send(self.pack()?),
                    Err(Gone) => return Ok(SessionEnd::PeerClosed),
                },
                message = channel.incoming.recv(), if self.out.len() < ANSWERS => {
                    heard = clock::now();
                    match message {
                        Some(Ok(message)) => self.message(message)?,
                        other => return ended(other),
                    }
                }
                () = self.shared.unsettled.notified() => {
                    self.unsettled = self.unsettled.max(1);
                    self.ask_at = clock::now();
                }
                () = tokio::time::sleep(wait) => {
                    if self.machine.in_flight() > 0 && self.out.is_empty() {
                        // What takes long here (a huge file becomes durable) is no silence.
                        self.out.push_back(Message::Wait);
                    }
                    let silent = Duration::from_nanos(clock::now().saturating_sub(heard));
                    if let Some(most) = is_silent(silent, self.machine.in_flight()) {
                        return Err(SessionError::Silent(most, "sending"));
                    }
                }
            }
        }
    }

    /// The answers that wait, as many as go in one piece.
    fn pack(&mut self) -> Result<Pack, SessionError> {
        let mut pack = Pack::new();
        while let Some(message) = self.out.pop_front() {
            pack.push(&message)?;
            if pack.is_due() {
                break;
            }
        }
        Ok(pack)
    }

    /// How long nothing can become due.
    fn wait(&self) -> Duration {
        let asks = self.unsettled > 0 && !self.asking && self.status.caught_up;
        let wait = match asks {
            true => Duration::from_nanos(self.ask_at.saturating_sub(clock::now())),
            false => TICK,
        };
        wait.min(TICK)
    }

    fn message(&mut self, mut message: Message) -> Result<(), SessionError> {
        match &mut message {
            Message::Batch(batch) => self.shared.own_owners(&mut batch.records),
            Message::Verify(part) => self.shared.own_owners_of(part.tree, &mut part.entries),
            _ => {}
        }
        match &message {
            Message::Outlook(trees) => {
                let mut transfers = self.shared.transfers();
                for one in trees {
                    transfers.set_total(one.tree, one.total, one.whole);
                }
                return Ok(());
            }
            Message::Fuzzy(list) => {
                self.fuzzy.push(list.clone());
                return Ok(());
            }
            Message::Batch(_) if self.shared.transfers().is_empty() => {
                let trees = self.trees.iter().map(|tree| (*tree, false));
                *self.shared.transfers() = Transfers::of(trees, clock::now());
            }
            Message::Data { item, bytes, .. } => self.came(*item, bytes.len() as u64),
            Message::Copy { item, len, .. } | Message::Hole { item, len, .. } => {
                self.came(*item, *len)
            }
            _ => {}
        }
        if let Message::Data { bytes, .. } = &message {
            self.status.bytes += bytes.len() as u64;
            // A batch whose tree has a limit may come for hours, without a word that this end would have to say.
            self.pulse.beat();
        }
        self.machine
            .received(message)
            .map_err(|v| SessionError::Protocol(v.to_string()))
    }

    /// Bytes of an item came. How many may come is the machine's to check.
    fn came(&self, item: Item, bytes: u64) {
        let records = self.machine.records(item.batch).unwrap_or_default();
        if let Some(record) = records.get(item.index as usize) {
            let bytes = bytes.min(record.size());
            let mut transfers = self.shared.transfers();
            transfers.content(clock::now(), item.batch, record.tree, bytes);
        }
    }

    /// A batch is through.
    fn through(&self, commit: &Commit, records: &[Record]) {
        let mut transfers = self.shared.transfers();
        if commit.caught_up {
            *transfers = Transfers::default();
        } else {
            let sizes = records.iter().map(|r| (r.tree, r.size()));
            transfers.batch(clock::now(), commit.batch, sizes);
        }
    }

    /// What comes now is spooled.
    fn is_held(&self) -> bool {
        self.shared.held() || self.shared.spooled() > 0
    }

    fn show(&mut self) {
        let in_flight = u32::try_from(self.machine.in_flight()).unwrap_or(u32::MAX);
        if self.status.in_flight != in_flight {
            self.status.in_flight = in_flight;
            self.shared.set_session(Some(self.status.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_hangs_is_given_up_in_the_midst_of_a_batch_too() {
        let ended = |seconds, open| is_silent(Duration::from_secs(seconds), open);
        assert_eq!((ended(60, 0), ended(61, 0)), (None, Some(SILENCE)));
        for open in [1, crate::wire::WINDOW] {
            assert_eq!(ended(600, open), None);
            assert_eq!(ended(601, open), Some(SILENCE_IN_BATCH));
        }
    }
}
