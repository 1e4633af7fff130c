//! The source's end of a session: the machine's effects carried out on index, files and stream.
//!
//! One thread runs the session. It waits in one place only, for whatever comes first: the cancel token, a change of role,
//! a message, new entries in the index, an examined path, room in the queue to the peer, the idle timer. Reading files
//! and the index happens in that thread between two waits, in pieces of at most a chunk.

use super::books::{Books, To};
use super::content::{Content, Step};
use super::fetch::{Fetcher, Stretch};
use super::lanes::Lanes;
use super::machine::{Effect, SourceMachine};
use super::outlook::{self, Outlooks};
use crate::engine::clock;
use crate::engine::command::{Command, Shared, VerifyAsk, floors, heads};
use crate::engine::fuzzy;
use crate::engine::localtime::minute_of_day;
use crate::engine::moving::MoveOrder;
use crate::engine::stream::{self, Channel, Ended, Gone, Pack};
use crate::engine::{Gauge, Mode, SessionEnd, SessionError, SessionStatus};
use crate::entry::{ContentHash, Kind, State};
use crate::index::IndexError;
use crate::limit::Limit;
use crate::path::RelPath;
use crate::progress::{Transfers, Work};
use crate::tree::{MAX_TREES, TreeId};
use crate::wire::{
    Accept, End, Fuzzy, Hello, Item, MAX_QUESTIONS, Message, Record, VerifyAnswer, Want,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// How long the source waits for a word of the replica while that prepares itself; it says `Wait` every second.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a replica may be silent while something of it is awaited. It answers an `Idle` each second, and a batch when
/// it is durable; a large batch on a slow disk takes some seconds.
const SILENCE: Duration = Duration::from_secs(60);
/// Questions of `verify` that may wait until they can be asked.
const QUESTIONS: usize = 4;
/// Time between two tries to send what could not be read, while nothing newer is known.
const AGAIN: Duration = Duration::from_secs(1);
/// Time between two words of how much there is to send (nanoseconds).
const OUTLOOK: u64 = clock::ms(1000);
/// Time between two looks at the time of day (nanoseconds).
const PACES: u64 = clock::ms(1000);
/// Paths that may wait to be looked at again because they changed while they were sent.
const EXAMINED: usize = 4096;

/// Runs a session as the source until it ends.
///
/// Dropping the future ends the session at its next step; what was sent and not answered is sent again in the next one.
pub(crate) async fn run<S>(
    shared: Arc<Shared>,
    to: To,
    stream: S,
    gauge: Option<Gauge>,
    cancel: CancellationToken,
) -> Result<SessionEnd, SessionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if !matches!(*shared.mode.borrow(), Mode::Source { .. }) {
        return Err(SessionError::Role("send"));
    }
    let own = cancel.child_token();
    let _end = own.clone().drop_guard();
    let (end, this) = (shared.end.clone(), own.clone());
    let mut books = Books::open(&shared, &to, own.clone())?;
    // Ends with the session, whose token it waits for too.
    tokio::spawn(async move {
        tokio::select! {
            () = end.cancelled() => this.cancel(),
            () = this.cancelled() => {}
        }
    });
    let channel = stream::open(stream, books.queue(), gauge, own).await?;
    let runtime = tokio::runtime::Handle::current();
    let work = tokio::task::spawn_blocking(move || {
        let result = runtime.block_on(session(&shared, &mut books, channel));
        books.close(&shared);
        result
    });
    work.await
        .map_err(|e| SessionError::Local(format!("the session's thread: {e}")))?
}

async fn session(
    shared: &Arc<Shared>,
    books: &mut Books,
    mut channel: Channel,
) -> Result<SessionEnd, SessionError> {
    fn local(error: impl std::fmt::Display) -> SessionError {
        SessionError::Local(error.to_string())
    }
    let mine = books.shown(heads(shared).map_err(local)?);
    let floors = floors(shared, |tree| books.gets(tree)).map_err(local)?;
    let hello = Hello {
        end: End::Source,
        pair: shared.config.pair.clone(),
        heads: mine,
        floors,
    };
    if channel.outgoing.send(Message::Hello(hello)).await.is_err() {
        return Ok(SessionEnd::PeerClosed);
    }
    let accept = match accepted(shared, &mut channel).await? {
        Ok(accept) => accept,
        Err(end) => return Ok(end),
    };
    let mut head = shared.head.subscribe();
    let newest = up_to_rename(shared, *head.borrow_and_update());
    let limited: Vec<_> = limits(shared);
    let slow: BTreeSet<TreeId> = limited.iter().map(|(tree, _)| *tree).collect();
    let from = accept.from.iter().copied().collect();
    let fetcher = Fetcher::new(Arc::clone(shared), from, slow.clone(), accept.inline);
    let begin = fetcher.start().min(newest);
    books.accepted(shared, &accept, begin).await?;
    let (examined, examined_heads) = mpsc::channel(EXAMINED);
    let (counts, counted) = mpsc::channel(1);
    let outlooks = Outlooks::new(&accept.from, clock::now());
    let transfers = books.transfers(shared);
    *held(&transfers) = outlooks.transfers(clock::now());
    let status = SessionStatus {
        version: channel.version,
        in_flight: 0,
        bytes: 0,
        caught_up: false,
    };
    let mut session = Session {
        shared,
        books,
        machine: SourceMachine::new(begin, newest, accept.stamp, clock::now()).with_limits(slow),
        fetcher,
        out: VecDeque::new(),
        fuzzy: Vec::new(),
        lanes: Lanes::new(limited),
        outlooks,
        transfers,
        outlook_at: 0,
        counts,
        paces_at: 0,
        questions: BTreeMap::new(),
        next_question: 1,
        examined,
        shown: status.clone(),
        status,
    };
    session.books.show(shared, &session.status);
    let ended = session
        .run(&mut channel, &mut head, examined_heads, counted)
        .await;
    if let Some(order) = session.machine.give_up_rename() {
        session.move_ended(order, false);
    }
    match ended {
        Ok(SessionEnd::Cancelled) => channel.cancelled(),
        other => other,
    }
}

/// Waits for the replica's Hello and its answer.
async fn accepted(
    shared: &Arc<Shared>,
    channel: &mut Channel,
) -> Result<Result<Accept, SessionEnd>, SessionError> {
    let mut mode = shared.mode.subscribe();
    loop {
        let next = tokio::select! {
            biased;
            changed = mode.wait_for(|m| !matches!(m, Mode::Source { .. })) => {
                drop(changed);
                return Ok(Err(SessionEnd::RoleChanged));
            }
            next = tokio::time::timeout(PATIENCE, channel.incoming.recv()) => next,
        };
        match next.map_err(|_| SessionError::Silent(PATIENCE, "preparing to receive"))? {
            Some(Ok(Message::Hello(hello)))
                if hello.end == End::Replica && hello.pair == shared.config.pair => {}
            Some(Ok(Message::Hello(_))) => {
                return Err(SessionError::Protocol(
                    "a Hello of another pair or role".into(),
                ));
            }
            Some(Ok(Message::Wait)) => {}
            Some(Ok(Message::Accept(accept))) => return Ok(Ok(accept)),
            Some(Ok(Message::Refuse(refuse))) => {
                return Ok(Err(SessionEnd::Refused {
                    why: refuse.why,
                    retry: refuse.retry,
                }));
            }
            Some(Ok(_)) => return Err(SessionError::Protocol("a message before Accept".into())),
            other => return ended(other).map(Err),
        }
    }
}

/// Why no message came.
pub(crate) fn ended(last: Option<Result<Message, Ended>>) -> Result<SessionEnd, SessionError> {
    match last {
        Some(Err(Ended::Failed(error))) => Err(error),
        Some(Err(Ended::Cancelled)) => Ok(SessionEnd::Cancelled),
        Some(Err(Ended::Closed) | Ok(_)) | None => Ok(SessionEnd::PeerClosed),
    }
}

/// Only ever changed whole.
fn held(transfers: &Mutex<Transfers>) -> MutexGuard<'_, Transfers> {
    transfers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What lay behind the batches, by tree, and how long the count took (nanoseconds).
type Counted = (BTreeMap<TreeId, Work>, u64);

struct Session<'s> {
    shared: &'s Arc<Shared>,
    books: &'s Books,
    machine: SourceMachine,
    fetcher: Fetcher,
    out: VecDeque<Message>,
    /// The lists that were told last.
    fuzzy: Vec<Fuzzy>,
    lanes: Lanes,
    outlooks: Outlooks,
    /// How far this session is.
    transfers: Arc<Mutex<Transfers>>,
    /// When to say again how much there is to send.
    outlook_at: u64,
    counts: mpsc::Sender<Counted>,
    /// When to look at the time of day again.
    paces_at: u64,
    /// Questions of `verify` that wait for their answers.
    questions: BTreeMap<u64, oneshot::Sender<VerifyAnswer>>,
    next_question: u64,
    examined: mpsc::Sender<u64>,
    status: SessionStatus,
    /// The status as it was told last.
    shown: SessionStatus,
}

impl Session<'_> {
    async fn run(
        &mut self,
        channel: &mut Channel,
        head: &mut tokio::sync::watch::Receiver<u64>,
        mut examined: mpsc::Receiver<u64>,
        mut counted: mpsc::Receiver<Counted>,
    ) -> Result<SessionEnd, SessionError> {
        let mut mode = self.shared.mode.subscribe();
        let mut scanned = self.shared.scanned.subscribe();
        let known = *scanned.borrow_and_update();
        let newest = *self.shared.head.borrow();
        self.scanned(known, newest);
        let mut heard = clock::now();
        let (verifier, mut asks) = mpsc::channel(QUESTIONS);
        let (mover, mut moves) = mpsc::channel(MAX_TREES);
        if self.books.is_standby() {
            self.shared.set_verifier(Some(verifier));
            self.shared.set_mover(Some(mover));
        }
        let (outgoing, cancelled) = (channel.outgoing.clone(), channel.cancel.clone());
        let mut lifted = self.shared.lifted.subscribe();
        let mut fuzzy = self.shared.fuzzy.subscribe();
        loop {
            self.tell_fuzzy();
            self.effects()?;
            self.show();
            let idle = self.machine.tick(clock::now());
            self.effects()?;
            self.set_paces();
            self.look_out(&cancelled)?;
            let next = self.lanes.ready_at().map_or(idle, |ready| ready.min(idle));
            let wait = Duration::from_nanos(next.saturating_sub(clock::now()));
            let has_output = self.has_output();
            tokio::select! {
                biased;
                () = cancelled.cancelled() => return drain(channel).await,
                changed = mode.wait_for(|m| !matches!(m, Mode::Source { .. })) => {
                    drop(changed);
                    return Ok(SessionEnd::RoleChanged);
                }
                message = channel.incoming.recv() => {
                    heard = clock::now();
                    match message {
                        // It is at work.
                        Some(Ok(Message::Wait)) => {}
                        Some(Ok(message)) => self.message(message)?,
                        other => return ended(other),
                    }
                }
                Ok(()) = scanned.changed() => {
                    let now = *scanned.borrow_and_update();
                    // What the scan found is known before it is told to be over.
                    let newest = *self.shared.head.borrow();
                    self.machine.head_moved(up_to_rename(self.shared, newest));
                    self.scanned(now, newest);
                }
                Ok(()) = lifted.changed() => self.paces_at = 0,
                Ok(()) = fuzzy.changed() => drop(fuzzy.borrow_and_update()),
                Some(order) = moves.recv() => {
                    self.machine.head_moved(up_to_rename(self.shared, order.seq));
                    self.machine.rename(order);
                }
                Some(ask) = asks.recv(), if self.questions.len() < MAX_QUESTIONS => self.question(ask),
                Some((left, took)) = counted.recv() => {
                    self.outlooks.counted(&left, clock::now(), took);
                    self.outlook_at = 0;
                }
                Some(head) = examined.recv() => self.machine.examined(up_to_rename(self.shared, head)),
                Ok(()) = head.changed() => {
                    let newest = *head.borrow_and_update();
                    self.machine.head_moved(up_to_rename(self.shared, newest));
                }
                room = outgoing.reserve(), if has_output => match room {
                    Ok(room) => room.send(self.pack()?),
                    Err(Gone) => return drain(channel).await,
                },
                () = tokio::time::sleep(wait) => {
                    if clock::now().saturating_sub(heard) > SILENCE.as_nanos() as u64 && !self.has_output() {
                        return Err(SessionError::Silent(SILENCE, "answering"));
                    }
                }
            }
        }
    }

    /// Files that never rest are told before anything is sent that was read of them: the worker tells them before it tells of
    /// that.
    fn tell_fuzzy(&mut self) {
        for list in fuzzy::untold(self.shared, &self.fuzzy, |tree| self.books.gets(tree)) {
            self.fuzzy.retain(|told| told.tree != list.tree);
            self.fuzzy.push(list.clone());
            self.out.push_back(Message::Fuzzy(list));
        }
    }

    /// Whether the trees are known as they are, up to `head`.
    fn scanned(&mut self, known: bool, head: u64) {
        if known {
            self.fetcher.scanned(head);
        }
        self.machine.scanned(known);
    }

    fn message(&mut self, message: Message) -> Result<(), SessionError> {
        match message {
            Message::Sums {
                item,
                from,
                signature,
            } => {
                let content = self.lanes.content(item);
                if content.is_some_and(|content| content.sums(from, &signature, clock::now)) {
                    return Ok(());
                }
                Err(SessionError::Protocol(
                    "a signature that was not asked for".into(),
                ))
            }
            Message::Verified(answer) => match self.questions.remove(&answer.id) {
                Some(reply) => {
                    // Whoever asked may be gone.
                    let _ = reply.send(answer);
                    Ok(())
                }
                None => Err(SessionError::Protocol("an answer without question".into())),
            },
            other => self
                .machine
                .received(other)
                .map_err(|v| SessionError::Protocol(v.to_string())),
        }
    }

    fn question(&mut self, ask: VerifyAsk) {
        let VerifyAsk { mut part, reply } = ask;
        part.id = self.next_question;
        self.next_question += 1;
        self.questions.insert(part.id, reply);
        self.out.push_back(Message::Verify(part));
    }

    /// Carries out what the machine wants.
    fn effects(&mut self) -> Result<(), SessionError> {
        let index = |e: IndexError| SessionError::Local(format!("index: {e}"));
        while let Some(effect) = self.machine.next_effect() {
            match effect {
                Effect::Fetch(reads) => match Stretch::of(reads) {
                    Some(stretch) => {
                        let stop = self.shared.move_at.load(Ordering::Acquire);
                        let fetched = self.fetcher.stream(&self.shared.index, stretch, stop);
                        let fetched = fetched.map_err(index)?;
                        self.outlooks.put(&fetched.records);
                        self.machine.fetched(fetched, None);
                    }
                    None => {
                        let upto = self.machine.cursor();
                        let answer = self.fetcher.answer(&self.shared.index, upto);
                        let (fetched, settled) = answer.map_err(index)?;
                        self.machine.fetched(fetched, Some(settled));
                    }
                },
                Effect::Asked { tree, paths } => self.fetcher.ask(tree, paths),
                Effect::Send(message) => {
                    if let Message::Commit(commit) = &message {
                        self.through(commit.batch);
                    }
                    self.out.push_back(message);
                }
                Effect::SendContent { item, want } => {
                    if let Some(record) = self.machine.record(item) {
                        self.lanes.push(record.tree, item, want);
                    }
                }
                Effect::MoveEnded { order, done } => self.move_ended(order, done),
                Effect::Examine { tree, path, seq } => {
                    let (shared, examined) = (Arc::clone(self.shared), self.examined.clone());
                    let in_sets = shared.roots.get(tree).is_some_and(|open| open.in_sets);
                    tokio::spawn(async move {
                        if in_sets {
                            // Nothing is new before the next set.
                            tokio::time::sleep(AGAIN).await;
                        }
                        let here = path.clone();
                        let head = shared
                            .ask(|reply| Command::Examine { tree, path, reply })
                            .await
                            .unwrap_or(0);
                        if !is_newer(&shared, tree, &here, seq) {
                            // The same would only fail again at once.
                            tokio::time::sleep(AGAIN).await;
                        }
                        // The session may have ended.
                        let _ = examined.send(head).await;
                    });
                }
                Effect::Acked {
                    acked,
                    applied,
                    durable: _,
                    follows,
                } => self.books.acked(self.shared, acked, applied, follows),
            }
        }
        Ok(())
    }

    /// The worker goes on with what became of a rename. It waits for it only so long, should it not hear.
    fn move_ended(&self, order: MoveOrder, done: bool) {
        let command = Command::Moved {
            tree: order.tree,
            seq: order.seq,
            done,
        };
        let commands = self.shared.commands.clone();
        tokio::spawn(async move {
            // An engine that ended needs no answer.
            let _ = commands.send(command).await;
        });
    }

    fn show(&mut self) {
        let caught_up = self.machine.caught_up();
        let in_flight = u32::try_from(self.machine.in_flight()).unwrap_or(u32::MAX);
        (self.status.in_flight, self.status.caught_up) = (in_flight, caught_up);
        if self.shown != self.status {
            self.shown = self.status.clone();
            self.books.show(self.shared, &self.status);
        }
    }

    fn has_output(&self) -> bool {
        let ready = |at| at <= clock::now();
        !self.out.is_empty() || self.lanes.ready_at().is_some_and(ready)
    }

    /// A batch is through.
    fn through(&self, batch: u64) {
        let records = self.machine.records(batch).unwrap_or_default();
        let sizes = records.iter().map(|r| (r.tree, r.size()));
        held(&self.transfers).batch(clock::now(), batch, sizes);
    }

    /// Keeps up what there is to send in all, and tells the replica.
    fn look_out(&mut self, cancel: &CancellationToken) -> Result<(), SessionError> {
        let now = clock::now();
        if self.machine.caught_up() {
            self.outlooks.caught_up(now);
            *held(&self.transfers) = self.outlooks.transfers(now);
            self.outlook_at = now + OUTLOOK;
        }
        // What waits for a link that takes nothing says enough.
        if now < self.outlook_at || !self.out.is_empty() {
            return Ok(());
        }
        self.outlook_at = now + OUTLOOK;
        if self.outlooks.begin_count(now) {
            self.count(cancel.clone());
        }
        let snapshot = self.shared.index.snapshot();
        let snapshot = snapshot.map_err(|e| SessionError::Local(e.to_string()))?;
        let there = |tree| {
            let counts = snapshot.counts(tree).unwrap_or_default();
            Work {
                entries: counts.entries(),
                bytes: counts.bytes,
            }
        };
        let all = self.outlooks.all(there, *self.shared.scanned.borrow());
        let mut transfers = held(&self.transfers);
        for one in &all {
            transfers.set_total(one.tree, one.total, one.whole);
        }
        self.out.push_back(Message::Outlook(all));
        Ok(())
    }

    /// Counts what is not in a batch yet, aside of the session.
    fn count(&self, cancel: CancellationToken) {
        let (shared, counts) = (Arc::clone(self.shared), self.counts.clone());
        let after = self.machine.cursor();
        tokio::task::spawn_blocking(move || {
            let begun = clock::now();
            match outlook::count(&shared.index, after, &cancel) {
                // The session may have ended.
                Ok(Some(left)) => drop(counts.blocking_send((left, clock::now() - begun))),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "what is to be sent cannot be counted"),
            }
        });
    }

    /// Limits change with the time of day, and are lifted for a planned move.
    fn set_paces(&mut self) {
        let now = clock::now();
        if self.lanes.are_limited() && now >= self.paces_at {
            self.paces_at = now + PACES;
            let lifted = *self.shared.lifted.borrow() > 0;
            self.lanes.set_paces(minute_of_day(), lifted, now);
        }
    }

    /// What there is to say, as much of it as goes in one piece. It is small as soon as nothing else is to be said: no
    /// message waits for one that does not exist yet.
    fn pack(&mut self) -> Result<Pack, SessionError> {
        let mut pack = Pack::new();
        while !pack.is_due() {
            if let Some(message) = self.output() {
                pack.push(&message)?;
            } else if !self.has_output() {
                // The end of an item may be the end of its batch, and lead to the next one.
                self.effects()?;
                if !self.has_output() {
                    break;
                }
            }
        }
        Ok(pack)
    }

    /// The next message to the peer.
    fn output(&mut self) -> Option<Message> {
        if let Some(message) = self.out.pop_front() {
            return Some(message);
        }
        let now = clock::now();
        let lane = self.lanes.turn(now)?;
        if lane.content.is_none() {
            let (item, want) = lane.next()?;
            lane.content = open(self.shared, self.machine.record(item), item, want);
            if lane.content.is_none() {
                self.machine.sent(item, false);
                return Some(Message::GivenUp(item));
            }
        }
        let content = lane.content.as_mut()?;
        let item = content.item();
        let (message, ended) = match content.step() {
            Step::Send(message) => (message, None),
            Step::Wait | Step::Again => return None,
            Step::Complete(message) => (message, Some(true)),
            Step::GivenUp(message) => (message, Some(false)),
        };
        let done = match &message {
            Message::Data { bytes, .. } => {
                lane.sent(now, bytes.len());
                self.status.bytes += bytes.len() as u64;
                bytes.len() as u64
            }
            Message::Copy { len, .. } | Message::Hole { len, .. } => *len,
            _ => 0,
        };
        if let Some(record) = self.machine.record(item) {
            let mut transfers = held(&self.transfers);
            transfers.content(now, item.batch, record.tree, done);
        }
        if let Some(whole) = ended {
            lane.content = None;
            self.machine.sent(item, whole);
        }
        Some(message)
    }
}

fn open(shared: &Shared, record: Option<&Record>, item: Item, want: Want) -> Option<Content> {
    let record = record?;
    let open = shared.roots.get(record.tree)?;
    // Of a tree that is sent in sets the content as it was then, and of a file that never rests the copy; what did not
    // change since is read where it lies. What is there is proven by the hash of what is read.
    let hash = record.state.as_ref().and_then(|s| s.kind.hash());
    let keeps = open.in_sets || shared.kept.load(Ordering::Acquire) > 0;
    let kept = hash.filter(|_| keeps);
    let kept = kept.and_then(|hash| crate::set::open(&open.private, *hash));
    let file = match kept {
        Some(file) => file,
        None => open.root.open_regular(&record.path)?,
    };
    let known = match (&want, &record.state) {
        (Want::Behind { size, hash }, Some(state)) => hash_of(state).is_some_and(|new| {
            let (tree, path, old) = (record.tree, &record.path, (*size, *hash));
            shared.tails.begins(tree, path, old, new)
        }),
        _ => false,
    };
    let chunks = hash.and_then(|hash| shared.chunks.of(hash));
    Content::new(item, record, file, want, known, chunks)
}

/// The index has something newer at the path than this.
fn is_newer(shared: &Shared, tree: TreeId, path: &RelPath, seq: u64) -> bool {
    let entry = shared.index.snapshot().and_then(|s| s.get(tree, path));
    // An index that fails is met by the next reading.
    entry.is_ok_and(|entry| entry.is_none_or(|entry| entry.seq > seq))
}

fn hash_of(state: &State) -> Option<(u64, ContentHash)> {
    match state.kind {
        Kind::File { size, hash } => Some((size, hash)),
        _ => None,
    }
}

/// The limits of the trees that have some.
fn limits(shared: &Shared) -> Vec<(TreeId, Vec<Limit>)> {
    let trees = shared.trees();
    let limited = trees.iter().filter(|t| !t.limits.is_empty());
    limited.map(|t| (t.id(), t.limits.clone())).collect()
}

/// What lies behind a rename that is under way is sent behind it.
fn up_to_rename(shared: &Shared, head: u64) -> u64 {
    match shared.move_at.load(Ordering::Acquire) {
        0 => head,
        stop => head.min(stop - 1),
    }
}

/// The stream is gone: its reader knows why.
async fn drain(channel: &mut Channel) -> Result<SessionEnd, SessionError> {
    while let Some(message) = channel.incoming.recv().await {
        if message.is_err() {
            return ended(Some(message));
        }
    }
    Ok(SessionEnd::Cancelled)
}
