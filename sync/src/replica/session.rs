//! The replica's end of a session: the machine's effects carried out on staging, worker and stream.
//!
//! One thread runs the session, as on the source's side. What is applied is applied by the worker; the session hands it
//! finished batches in order and goes on receiving meanwhile.

use super::machine::{Effect, ReplicaMachine};
use super::pulse::Pulse;
use super::staging::{Contents, large_files};
use crate::engine::apply::{Applied, Batch};
use crate::engine::clock::{self, ms};
use crate::engine::command::{Command, Shared, heads};
use crate::engine::prepare::Prepared;
use crate::engine::stream::{self, Channel, Gone, Pack};
use crate::engine::{Mode, SessionEnd, SessionError, SessionStatus};
use crate::lineage::{NodeHeads, left_behind};
use crate::path::RelPath;
use crate::progress::Transfers;
use crate::source::session::ended;
use crate::tree::{Part, TreeId};
use crate::wire::{
    Accept, Bytes, Commit, Durable, End, Fuzzy, Hello, Item, Message, Record, Refuse, VerifyAnswer,
    VerifyPart,
};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How long the replica waits for the source's Hello: it comes at once.
const HELLO: Duration = Duration::from_secs(10);
/// How long a source may be silent. It says `Idle` each second, and sends batches otherwise; it may read a large file
/// to compare it before the next byte comes.
const SILENCE: Duration = Duration::from_secs(60);
/// Answers that wait for the peer to take them. While there are more, nothing new is heard from it: a source that asks
/// and never reads must not fill the memory. The source always reads, so this cannot block an honest one.
const ANSWERS: usize = 64;
/// Longest wait of the session's loop.
const TICK: Duration = Duration::from_secs(1);
/// Time between two questions for paths that stay unsettled.
const ASK_AGAIN: u64 = ms(1000);

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
    mut channel: Channel,
) -> Result<SessionEnd, SessionError> {
    let hello = tokio::time::timeout(HELLO, channel.incoming.recv()).await;
    let hello = match hello.map_err(|_| SessionError::Silent(HELLO, "beginning"))? {
        Some(Ok(Message::Hello(hello))) => hello,
        Some(Ok(_)) => return Err(SessionError::Protocol("a message before Hello".into())),
        other => return ended(other),
    };
    let local = |e: &dyn std::fmt::Display| SessionError::Local(e.to_string());
    let mine = heads(shared).map_err(|e| local(&e))?;
    let believed = mine.believes(&hello.heads);
    let answer = Hello {
        end: End::Replica,
        pair: shared.config.pair.clone(),
        heads: mine,
        floors: Vec::new(),
    };
    let number = shared.sessions.fetch_add(1, Ordering::Relaxed);
    let prepared = if hello.end != End::Source || hello.pair != shared.config.pair {
        Err(Refuse {
            why: "a Hello of another pair or role".into(),
            retry: false,
        })
    } else if believed.is_none() {
        Err(Refuse {
            why: "the source's sequence number is far beyond what is here: check it, then `tandem adopt` on the receiver".into(),
            retry: false,
        })
    } else if let Some(refuse) = may_not_follow(shared, &answer.heads, &hello.heads) {
        Err(refuse)
    } else {
        // Of two sessions the newer one counts: the peer knows why it dialled again.
        shared.only_session(own);
        if channel.outgoing.send(Message::Hello(answer)).await.is_err() {
            return Ok(SessionEnd::PeerClosed);
        }
        match prepare(shared, number, &mut channel, &hello).await? {
            Ok(prepared) => prepared,
            Err(end) => return Ok(end),
        }
    };
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(refuse) => {
            let end = SessionEnd::Refused {
                why: refuse.why.clone(),
                retry: refuse.retry,
            };
            // Whoever is gone needs no reason.
            let _ = channel.outgoing.send(Message::Refuse(refuse)).await;
            channel.finish().await;
            return Ok(end);
        }
    };
    let highest = believed.unwrap_or(0);
    // A tree that does not come with this session does not advance with it either.
    let comes = |tree| prepared.from.iter().any(|(t, _)| *t == tree);
    let source = hello.heads.only(comes);
    let trees = prepared.from.iter().map(|(tree, _)| *tree).collect();
    let accept = Accept {
        from: prepared.from,
        inline: prepared.inline,
        stamp: clock::now(),
    };
    if channel
        .outgoing
        .send(Message::Accept(accept))
        .await
        .is_err()
    {
        return Ok(SessionEnd::PeerClosed);
    }
    shared.receives_from(source.node.as_str());
    let (applied, results) = mpsc::channel(2 * crate::wire::WINDOW);
    let pulse = Pulse::new(channel.outgoing.clone());
    let mut session = Session {
        shared,
        number,
        machine: ReplicaMachine::new(highest),
        contents: Contents::new(Arc::clone(shared), pulse.clone()),
        trees,
        pulse,
        lookups: VecDeque::new(),
        large: Vec::new(),
        superseded: true,
        source,
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

/// A replica is sent to by whoever believes to be master. It does not turn back to one that the pair went on without, and
/// that one's attempt does not disturb the session that there is.
fn may_not_follow(shared: &Shared, mine: &NodeHeads, theirs: &NodeHeads) -> Option<Refuse> {
    let stale = match shared.config.part {
        Part::Replica => left_behind(mine, theirs)?,
        Part::Node { .. } => return None,
    };
    let trees = shared.trees();
    let name = trees.iter().find(|t| t.id() == stale).map(|t| &t.name)?;
    Some(Refuse {
        why: format!("tree {name}: this replica follows a later master"),
        retry: true,
    })
}

/// Has the worker classify what is here, and keeps the source waiting meanwhile.
async fn prepare(
    shared: &Arc<Shared>,
    session: u64,
    channel: &mut Channel,
    hello: &Hello,
) -> Result<Result<Result<Prepared, Refuse>, SessionEnd>, SessionError> {
    let answer = shared.ask(|reply| Command::Prepare {
        session,
        theirs: hello.heads.clone(),
        floors: hello.floors.clone(),
        reply,
    });
    let mut answer = std::pin::pin!(answer);
    let mut mode = shared.mode.subscribe();
    loop {
        tokio::select! {
            biased;
            () = channel.cancel.cancelled() => return Ok(Err(SessionEnd::Cancelled)),
            changed = mode.wait_for(|m| *m != Mode::Replica) => {
                drop(changed);
                return Ok(Err(SessionEnd::RoleChanged));
            }
            prepared = &mut answer => {
                return prepared.map(Ok).map_err(|e| SessionError::Local(e.to_string()));
            }
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                if channel.outgoing.send(Message::Wait).await.is_err() {
                    return Ok(Err(SessionEnd::PeerClosed));
                }
            }
        }
    }
}

/// What the worker answered.
enum Answer {
    /// A batch with this end is durable, and will be applied.
    Ahead(u64, Applied),
    Applied(Result<Applied, String>),
    Fresh {
        upto: u64,
        applied: Result<Applied, String>,
    },
    Moved {
        seq: u64,
        done: Result<bool, String>,
    },
    Unsettled(Option<(TreeId, Vec<RelPath>)>),
    Verified(VerifyAnswer),
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
                    let silent = clock::now().saturating_sub(heard);
                    if u128::from(silent) > SILENCE.as_nanos() && self.machine.in_flight() == 0 {
                        return Err(SessionError::Silent(SILENCE, "sending"));
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

    async fn effects(&mut self) -> Result<(), SessionError> {
        for list in std::mem::take(&mut self.fuzzy) {
            let session = self.number;
            let command = Command::Fuzzy { session, list };
            let sent = self.shared.commands.send(command).await;
            sent.map_err(|e| SessionError::Local(e.to_string()))?;
        }
        while let Some(effect) = self.machine.next_effect() {
            match effect {
                Effect::Lookup { batch } => {
                    let records = self.machine.records(batch).unwrap_or_default();
                    let (held, index) = (self.is_held(), &self.shared.index);
                    let expected = self.contents.expect_inline(held, batch, records, index);
                    expected.map_err(|e| SessionError::Local(e.to_string()))?;
                    self.lookups.push_back(batch);
                }
                Effect::Send(message) => self.out.push_back(message),
                Effect::Write { item, bytes, last } => {
                    if !self.contents.write(item, &bytes, last) && last {
                        self.machine.failed(item);
                    }
                }
                Effect::Copy {
                    item,
                    from,
                    len,
                    last,
                } => {
                    if !self.contents.copy(item, from, len, last) && last {
                        self.machine.failed(item);
                    }
                }
                Effect::Room { item, bytes } => self.contents.reserve(item, bytes),
                Effect::Hole { item, len, last } => {
                    if !self.contents.hole(item, len, last) && last {
                        self.machine.failed(item);
                    }
                }
                Effect::Signature { item, from, len } => {
                    let signature = Bytes(self.contents.signature(item, from, len));
                    self.out.push_back(Message::Sums {
                        item,
                        from,
                        signature,
                    });
                }
                Effect::Discard { item } => self.contents.discard(item),
                Effect::Apply(ready) => {
                    self.through(&ready.commit, &ready.records);
                    let contents = self.contents.take(ready.commit.batch);
                    self.shared.alarm(None, "staging", self.contents.trouble());
                    self.status.caught_up = ready.commit.caught_up;
                    let batch = Box::new(Batch {
                        ready,
                        contents,
                        no_room: self.contents.take_no_room(),
                        source: self.source.clone(),
                    });
                    self.apply(batch).await;
                }
                Effect::Fresh(idle) => {
                    let upto = idle.upto;
                    self.status.caught_up = true;
                    *self.shared.transfers() = Transfers::default();
                    let (session, source) = (self.number, self.source.clone());
                    let answer = move |applied| Answer::Fresh { upto, applied };
                    self.to_worker(
                        |reply| Command::Fresh {
                            session,
                            idle,
                            source,
                            reply,
                        },
                        answer,
                    )
                    .await;
                }
                Effect::Move(one) => {
                    let (session, source, seq) = (self.number, self.source.clone(), one.seq);
                    self.to_worker(
                        |reply| Command::Move {
                            session,
                            one,
                            source,
                            reply,
                        },
                        move |done| Answer::Moved { seq, done },
                    )
                    .await;
                }
                Effect::Verify(part) => self.verify(part),
            }
        }
        Ok(())
    }

    /// Looks for what the batches offer. A further version of a large file waits until the one before it is applied: then
    /// it is a matter of differences, where both at once would be sent whole. So do later batches of its tree.
    fn look_up(&mut self) -> Result<(), SessionError> {
        let machine = &self.machine;
        self.large.retain(|(batch, _)| machine.is_under_way(*batch));
        let held = self.is_held();
        let mut wait: HashSet<TreeId> = HashSet::new();
        for batch in std::mem::take(&mut self.lookups) {
            let records = self.machine.records(batch).unwrap_or_default();
            let large = large_files(records);
            let mut before = self.large.iter().map(|(_, before)| before);
            let waits = before.any(|before| !before.is_disjoint(&large));
            if waits || records.iter().any(|r| wait.contains(&r.tree)) {
                wait.extend(records.iter().map(|r| r.tree));
                self.lookups.push_back(batch);
                continue;
            }
            let wanted = self
                .contents
                .look_up(held, batch, records, &self.shared.index);
            let wanted = wanted.map_err(|e| SessionError::Local(e.to_string()))?;
            self.machine.looked_up(batch, wanted);
            if !large.is_empty() {
                self.superseded = true;
                self.large.push((batch, large));
            }
        }
        Ok(())
    }

    /// What comes now is spooled.
    fn is_held(&self) -> bool {
        self.shared.held() || self.shared.spooled() > 0
    }

    /// Sends a command to the worker, in order, and has its answer come as a result.
    async fn to_worker<T: Send + 'static>(
        &self,
        make: impl FnOnce(tokio::sync::oneshot::Sender<T>) -> Command,
        answer: impl FnOnce(T) -> Answer + Send + 'static,
    ) {
        let (reply, result) = tokio::sync::oneshot::channel();
        let command = make(reply);
        let (commands, applied) = (self.shared.commands.clone(), self.applied.clone());
        // The order of batches is the order of this queue. A full queue (64 commands) means that the worker is busy with
        // something long; the session's thread may wait for it.
        if commands.send(command).await.is_ok() {
            tokio::spawn(async move {
                if let Ok(result) = result.await {
                    // The session may have ended.
                    let _ = applied.send(answer(result)).await;
                }
            });
        }
    }

    /// The same for a batch, of which two answers may come.
    async fn apply(&self, batch: Box<Batch>) {
        let (ahead, durable) = tokio::sync::oneshot::channel();
        let (reply, result) = tokio::sync::oneshot::channel();
        let (session, upto) = (self.number, batch.ready.commit.upto);
        let command = Command::Apply {
            session,
            batch,
            ahead,
            reply,
        };
        let applied = self.applied.clone();
        if self.shared.commands.send(command).await.is_ok() {
            tokio::spawn(async move {
                // The session may have ended.
                if let Ok(durable) = durable.await {
                    let _ = applied.send(Answer::Ahead(upto, durable)).await;
                }
                if let Ok(result) = result.await {
                    let _ = applied.send(Answer::Applied(result)).await;
                }
            });
        }
    }

    fn answer(&mut self, answer: Answer) -> Result<(), SessionError> {
        match answer {
            Answer::Ahead(upto, applied) => self.durable(upto, applied),
            Answer::Applied(Err(why)) => return Err(SessionError::Local(why)),
            Answer::Applied(Ok(applied)) => {
                if applied.unsettled != self.unsettled {
                    self.ask_at = clock::now();
                }
                self.unsettled = applied.unsettled;
                self.asking = false;
                let follows = self.shared.follows.load(Ordering::Acquire);
                self.machine
                    .applied(applied.acked, applied.applied, clock::now(), follows);
            }
            Answer::Fresh {
                applied: Err(why), ..
            } => return Err(SessionError::Local(why)),
            Answer::Fresh {
                upto,
                applied: Ok(applied),
            } => {
                self.unsettled = applied.unsettled;
                self.asking = false;
                if self.unsettled == 0 && self.machine.in_flight() == 0 && self.superseded {
                    self.superseded = false;
                    self.contents.clear_partials();
                }
                self.durable(upto, applied);
            }
            Answer::Moved { done: Err(why), .. } => return Err(SessionError::Local(why)),
            Answer::Moved {
                seq,
                done: Ok(done),
            } => self.machine.moved(seq, done),
            Answer::Verified(answer) => self.machine.verified(answer),
            Answer::Unsettled(None) => (self.unsettled, self.asking) = (0, false),
            Answer::Unsettled(Some((tree, paths))) => {
                self.asked_after = paths.last().map(|path| (tree, path.clone()));
                self.out.push_back(Message::Fetch { tree, paths });
            }
        }
        Ok(())
    }

    /// Answers something else than the oldest batch.
    fn durable(&mut self, upto: u64, applied: Applied) {
        self.out.push_back(Message::Durable(Durable {
            upto,
            batch: None,
            acked: applied.acked,
            applied: applied.applied,
            stamp: clock::now(),
            follows: self.shared.follows.load(Ordering::Acquire),
        }));
    }

    /// Asks the source for paths that are not settled, once everything else is there.
    async fn ask(&mut self) {
        let now = clock::now();
        if self.unsettled == 0 || self.asking || !self.status.caught_up || now < self.ask_at {
            return;
        }
        self.asking = true;
        self.ask_at = now + ASK_AGAIN;
        let after = self.asked_after.clone();
        self.to_worker(
            |reply| Command::Unsettled { after, reply },
            Answer::Unsettled,
        )
        .await;
    }

    fn show(&mut self) {
        let in_flight = u32::try_from(self.machine.in_flight()).unwrap_or(u32::MAX);
        if self.status.in_flight != in_flight {
            self.status.in_flight = in_flight;
            self.shared.set_session(Some(self.status.clone()));
        }
    }

    /// Compares in a thread of its own: a part may hold a huge file.
    fn verify(&mut self, part: VerifyPart) {
        let (shared, applied) = (Arc::clone(self.shared), self.applied.clone());
        tokio::task::spawn_blocking(move || {
            // A thread that outlived its session would be one more with each session that a source makes.
            let ended = || applied.is_closed();
            let answer = crate::verify::compare(&shared, &part, &ended);
            if ended() {
                return;
            }
            let paths: Vec<RelPath> = answer.differences.iter().map(|(p, _)| p.clone()).collect();
            if part.repair && !paths.is_empty() {
                let command = Command::Suspect {
                    tree: part.tree,
                    paths,
                };
                // An engine that ended repairs nothing.
                let _ = shared.commands.blocking_send(command);
            }
            if *shared.unverified.borrow() > 0 {
                let same = part.entries.iter().map(|entry| entry.path.clone());
                let command = Command::Verified {
                    tree: part.tree,
                    paths: same.filter(|path| !differ(&answer, path)).collect(),
                };
                // An engine that ended has nothing to verify.
                let _ = shared.commands.blocking_send(command);
            }
            // The session may have ended.
            let _ = applied.blocking_send(Answer::Verified(answer));
        });
    }
}

fn differ(answer: &VerifyAnswer, path: &RelPath) -> bool {
    answer.differences.iter().any(|(other, _)| other == path)
}
