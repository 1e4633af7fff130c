//! The source's end of a session: the machine's effects carried out on index, files and stream.
//!
//! One thread runs the session. It waits in one place only, for whatever comes first: the cancel token, a change of role,
//! a message, new entries in the index, an examined path, room in the queue to the peer, the idle timer. Reading files
//! and the index happens in that thread between two waits, in pieces of at most a chunk.

use super::books::Books;
use super::fetch::Fetcher;
use super::lanes::Lanes;
use super::machine::SourceMachine;
use super::outlook::Outlooks;
use crate::engine::clock;
use crate::engine::command::VerifyAsk;
use crate::engine::fuzzy;
use crate::engine::localtime::minute_of_day;
use crate::engine::moving::MoveOrder;
use crate::engine::shared::Shared;
use crate::engine::stream::{self, Channel, Ended, Gone};
use crate::engine::{Gauge, Mode, Receiver, SessionEnd, SessionError, SessionStatus};
use crate::limit::Limit;
use crate::progress::{Transfers, Work};
use crate::tree::{MAX_TREES, TreeId};
use crate::wire::{Fuzzy, MAX_QUESTIONS, Message, VerifyAnswer};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

mod amount;
mod effects;
mod opening;
mod output;

/// How long a replica may say nothing and take nothing of what is sent. It answers an `Idle` each second, and a batch when
/// it is durable; a large batch on a slow disk takes some seconds. One that says nothing because it is still at what comes takes it.
const SILENCE: Duration = Duration::from_secs(60);
/// Between two looks whether it is silent.
const LOOK: Duration = Duration::from_secs(1);
/// Questions of `verify` that may wait until they can be asked.
const QUESTIONS: usize = 4;
/// Time between two looks at the time of day (nanoseconds).
const PACES: u64 = clock::ms(1000);
/// Paths that may wait to be looked at again because they changed while they were sent.
const EXAMINED: usize = 4096;

/// Runs a session as the source until it ends.
///
/// Dropping the future ends the session at its next step; what was sent and not answered is sent again in the next one.
pub(crate) async fn run<S>(
    shared: Arc<Shared>,
    to: Receiver,
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
    let accept = match opening::agree(shared, books, &mut channel).await? {
        Ok(accept) => accept,
        Err(end) => return Ok(end),
    };
    let mut head = shared.head.subscribe();
    let newest = up_to_rename(shared, *head.borrow_and_update());
    let limited: Vec<_> = limits(shared);
    let slow: BTreeSet<TreeId> = limited.iter().map(|(tree, _)| *tree).collect();
    let from = accept.from.iter().copied().collect();
    let absent = books.absent(shared, &accept)?;
    let fetcher = Fetcher::new(
        Arc::clone(shared),
        from,
        absent,
        slow.clone(),
        accept.inline,
    );
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
    // A replica never takes an older stamp than it had.
    let stamp = match shared.late.load(Ordering::Acquire) {
        true => 0,
        false => accept.stamp,
    };
    let mut session = Session {
        shared,
        books,
        machine: SourceMachine::new(begin, newest, stamp, clock::now()).with_limits(slow),
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
        let (mut asks, mut moves) = self.take_orders();
        let (outgoing, cancelled) = (channel.outgoing.clone(), channel.cancel.clone());
        let took = channel.took.clone();
        let mut lifted = self.shared.lifted.subscribe();
        let mut fuzzy = self.shared.fuzzy.subscribe();
        let mut looks = tokio::time::interval(LOOK);
        loop {
            self.tell_fuzzy();
            self.effects()?;
            self.show();
            let idle = self.machine.tick(clock::now());
            self.effects()?;
            self.set_paces();
            self.look_out(&cancelled)?;
            let has_output = self.has_output();
            // What is ready waits for room.
            let ready = self.lanes.ready_at().filter(|_| !has_output);
            let next = ready.map_or(idle, |ready| ready.min(idle));
            let wait = Duration::from_nanos(next.saturating_sub(clock::now()));
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
                // However much there is to do besides.
                _ = looks.tick() => {
                    if is_silent(clock::now(), heard, took.at()) {
                        return Err(SessionError::Silent(SILENCE, "taking nothing"));
                    }
                }
                Ok(()) = scanned.changed() => {
                    let now = *scanned.borrow_and_update();
                    // What the scan found is known before it is told to be over.
                    let newest = *self.shared.head.borrow();
                    self.head_moved(newest);
                    self.scanned(now, newest);
                }
                Ok(()) = lifted.changed() => self.paces_at = 0,
                Ok(()) = fuzzy.changed() => drop(fuzzy.borrow_and_update()),
                Some(order) = moves.recv() => {
                    self.head_moved(order.seq);
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
                    self.head_moved(newest);
                }
                room = outgoing.reserve(), if has_output => match room {
                    Ok(room) => room.send(self.pack()?),
                    Err(Gone) => return drain(channel).await,
                },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// From now on the worker's questions and renames come here, if this is the standby's session.
    fn take_orders(&self) -> (mpsc::Receiver<VerifyAsk>, mpsc::Receiver<MoveOrder>) {
        let (verifier, asks) = mpsc::channel(QUESTIONS);
        let (mover, moves) = mpsc::channel(MAX_TREES);
        self.books.take_questions(self.shared, verifier);
        if self.books.is_standby() {
            self.shared.set_mover(Some(mover));
        }
        (asks, moves)
    }

    fn head_moved(&mut self, newest: u64) {
        let newest = up_to_rename(self.shared, newest);
        self.machine.head_moved(newest);
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
            other => {
                self.machine.late(self.shared.late.load(Ordering::Acquire));
                let received = self.machine.received(other);
                received.map_err(|v| SessionError::Protocol(v.to_string()))
            }
        }
    }

    fn question(&mut self, ask: VerifyAsk) {
        let VerifyAsk { mut part, reply } = ask;
        part.id = self.next_question;
        self.next_question += 1;
        self.questions.insert(part.id, reply);
        self.out.push_back(Message::Verify(part));
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

    /// Limits change with the time of day, and are lifted for a planned move.
    fn set_paces(&mut self) {
        let now = clock::now();
        if self.lanes.are_limited() && now >= self.paces_at {
            self.paces_at = now + PACES;
            let lifted = *self.shared.lifted.borrow() > 0;
            self.lanes.set_paces(minute_of_day(), lifted, now);
        }
    }
}

/// The replica was last heard, and took something, so long ago that nothing is to be expected of it.
fn is_silent(now: u64, heard: u64, took: u64) -> bool {
    now.saturating_sub(heard.max(took)) > SILENCE.as_nanos() as u64
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
