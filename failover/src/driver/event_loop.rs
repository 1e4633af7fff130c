//! The loop on its own thread: inputs and deadlines to the machine, effects to whoever carries them out.
//!
//! Cancel safety: every branch of the loop's select is safe to drop; the loop itself ends only between two inputs.

mod orders;
mod sources;
mod surroundings;

use super::net::{self, Net};
use super::outbox::Outbox;
use super::questions::{self, Questions};
use super::{AgentEffect, Decide, Setup, privileges};
use crate::clock;
use crate::effect::Effect;
use crate::heartbeat_io::{Beats, Keys, LinkCounters};
use crate::input::Input;
use crate::machine::Boot;
use crate::store::Writer;
use crate::time::Instant;
use crate::view::View;
use sources::{Sources, Wake};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;
use surroundings::Seen;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Room for heartbeats on their way from the sockets to the machine, over all links.
const BEATS: usize = 64;

/// The longest sleep, so that a gap is noticed soon after it.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);

/// A wake-up that is this late was a stall of this node: longer than any scheduling delay of a working machine, shorter than
/// the silence after which a peer is questioned (600 ms).
const STALL: Duration = Duration::from_millis(250);

/// Distance of two reports of the links' counters.
const COUNTERS: Duration = Duration::from_secs(1);

/// Everything that the loop owns.
pub(super) struct EventLoop<D> {
    pub(super) machine: D,
    pub(super) keys: Keys,
    pub(super) setup: Setup,
    pub(super) boot: Boot,
    pub(super) inputs: mpsc::Receiver<Input>,
    pub(super) results: mpsc::Receiver<Input>,
    pub(super) reloads: mpsc::Receiver<Setup>,
    pub(super) outbox: Outbox,
    pub(super) view: watch::Sender<View>,
    pub(super) counters: watch::Sender<Vec<LinkCounters>>,
    pub(super) net: Net,
    pub(super) questions: Questions,
    pub(super) writer: Writer,
    pub(super) stop: CancellationToken,
}

/// Starts the loop's thread.
pub(super) fn spawn<D: Decide + Send + 'static>(
    event_loop: EventLoop<D>,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("tandem-failover".into())
        .stack_size(privileges::STACK_BYTES)
        .spawn(move || {
            privileges::raise();
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, Running::run(event_loop));
        })
}

/// The threads for the network and for questions.
type Helpers = [JoinHandle<()>; 2];

struct Running<D> {
    machine: D,
    keys: Rc<Keys>,
    setup: Setup,
    boot: Boot,
    beats: Beats,
    beats_out: mpsc::Sender<(Instant, Input)>,
    outbox: Outbox,
    view: watch::Sender<View>,
    counters: watch::Sender<Vec<LinkCounters>>,
    counters_due: Instant,
    net: mpsc::Sender<net::Order>,
    questions: mpsc::Sender<questions::Order>,
    writer: Writer,
    /// Results that were known at once: orders that could not be given.
    immediate: VecDeque<Input>,
    seen: Seen,
    /// When the loop last was known to run.
    here: Instant,
    exit: bool,
}

impl<D: Decide> Running<D> {
    /// Opens the sockets and takes everything over. Must be called within the loop's `LocalSet`.
    fn new(parts: EventLoop<D>) -> (Self, Sources, Helpers) {
        let (beats_out, beats_in) = mpsc::channel(BEATS);
        let keys = Rc::new(parts.keys);
        let beats = Beats::open(
            Rc::clone(&keys),
            &parts.setup.links,
            parts.setup.port,
            parts.boot.incarnation,
            &beats_out,
        );
        let sources = Sources {
            beats: beats_in,
            results: parts.results,
            inputs: parts.inputs,
            reloads: parts.reloads,
            carriers: parts.net.carriers,
            board: parts.questions.board,
            stop: parts.stop,
        };
        let this = Self {
            machine: parts.machine,
            keys,
            setup: parts.setup,
            boot: parts.boot,
            beats,
            beats_out,
            outbox: parts.outbox,
            view: parts.view,
            counters: parts.counters,
            counters_due: clock::now(),
            net: parts.net.orders,
            questions: parts.questions.orders,
            writer: parts.writer,
            immediate: VecDeque::new(),
            seen: Seen::default(),
            here: clock::now(),
            exit: false,
        };
        (this, sources, [parts.net.thread, parts.questions.thread])
    }

    async fn run(parts: EventLoop<D>) {
        let (mut this, mut sources, helpers) = Self::new(parts);
        loop {
            let wake_at = this
                .machine
                .next_deadline()
                .min(clock::now() + LONGEST_SLEEP);
            let wake = sources.next(&mut this.outbox, wake_at).await;
            this.notice_stall(wake_at);
            match wake {
                Wake::Heartbeat(at, input) => this.feed(at, input),
                Wake::Input(input) => this.feed(clock::now(), input),
                Wake::Reload(setup) => this.reload(*setup),
                Wake::Surroundings => {
                    let (monitors, carriers) = sources.surroundings();
                    this.look_around(monitors, &carriers);
                }
                Wake::Time | Wake::Delivered => {}
                Wake::End => break,
            }
            this.tick();
            if this.exit && this.outbox.is_empty() {
                break;
            }
            this.show_counters();
        }
        this.end(sources, helpers);
    }

    fn show_counters(&mut self) {
        let now = clock::now();
        if now >= self.counters_due {
            self.counters_due = now + COUNTERS;
            self.counters.send_replace(self.beats.counters());
        }
    }

    /// Says it if the loop is here much later than planned: then the silence of the peer was partly our own.
    fn notice_stall(&mut self, planned: Instant) {
        let now = clock::now();
        let gap = now.saturating_duration_since(planned.max(self.here));
        self.here = now;
        if gap >= STALL {
            tracing::warn!(gap_ms = gap.as_millis(), "this node was away");
            self.feed(now, Input::Resumed { gap });
        }
    }

    /// Gives the machine its deadline when it is due, whatever woke the loop.
    fn tick(&mut self) {
        self.notice_stall(self.here);
        let now = self.here;
        if self.machine.next_deadline() <= now {
            self.feed(now, Input::Tick);
        }
    }

    fn feed(&mut self, at: Instant, input: Input) {
        let effects = self.machine.handle(at, input);
        self.carry_out(effects);
        // Orders that could not be given fail at once. Bounded, because the machine tries a failed step again only after a pause.
        while let Some(input) = self.immediate.pop_front() {
            let effects = self.machine.handle(clock::now(), input);
            self.carry_out(effects);
        }
        let view = self.machine.view(at);
        self.view.send_if_modified(|shown| {
            let changed = *shown != view;
            if changed {
                *shown = view;
            }
            changed
        });
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::SendHeartbeat(heartbeat) => self.beats.send(&heartbeat),
                Effect::Persist {
                    generation,
                    durable,
                } => self.writer.put(generation, durable),
                Effect::AddAddresses { ticket } => self.order(net::Order::Add(ticket)),
                Effect::RemoveAddresses { ticket } => self.order(net::Order::Remove(ticket)),
                Effect::RefreshAddresses => self.order(net::Order::Refresh),
                Effect::Announce { times, every } => {
                    self.order(net::Order::Announce { times, every })
                }
                Effect::Fence { ticket } => self.order(net::Order::Fence(ticket)),
                Effect::Unfence { ticket } => self.order(net::Order::Unfence(ticket)),
                Effect::FencePeer { ticket } => self.ask(questions::Order::FencePeer(ticket)),
                Effect::ProbePeer { ticket, within } => {
                    self.ask(questions::Order::Peer { ticket, within });
                }
                Effect::ProbeConflict { ticket, within } => {
                    self.ask(questions::Order::Conflict { ticket, within });
                }
                Effect::Data { ticket, command } => {
                    self.outbox.push(AgentEffect::Data { ticket, command });
                }
                Effect::Services { ticket, command } => {
                    self.outbox.push(AgentEffect::Services { ticket, command });
                }
                Effect::Notify(notice) => self.outbox.push(AgentEffect::Notify(notice)),
                Effect::Record(decision) => self.outbox.push(AgentEffect::Record(decision)),
                Effect::Answer { ticket, result } => {
                    self.outbox.push(AgentEffect::Answer { ticket, result });
                }
                Effect::Exit => {
                    self.outbox.push(AgentEffect::Exit);
                    self.exit = true;
                }
            }
        }
    }

    /// Takes a changed configuration over: by difference, so that what did not change is not disturbed.
    fn reload(&mut self, setup: Setup) {
        let old = std::mem::replace(&mut self.setup, setup);
        if old.links != self.setup.links || old.port != self.setup.port {
            let (links, port) = (&self.setup.links, self.setup.port);
            // The old sockets must be closed before the same addresses can be bound again.
            self.beats.close();
            self.beats = Beats::open(
                Rc::clone(&self.keys),
                links,
                port,
                self.boot.incarnation,
                &self.beats_out,
            );
        }
        self.order(net::Order::Setup {
            addresses: self.setup.addresses.clone(),
            lifetime: self.setup.policy.address_lifetime,
        });
        self.ask(questions::Order::Setup(Box::new(self.setup.clone())));
        let policy = Box::new(self.setup.policy.clone());
        self.feed(clock::now(), Input::Policy(policy));
    }

    /// Ends the helper threads. They end when their orders are closed and what they do has come to its bound.
    fn end(self, sources: Sources, helpers: Helpers) {
        // Nobody reads results any more: a thread that reports one must not wait for that.
        drop(sources);
        // With the last order-giver the orders are closed; the writer finishes its last write first.
        drop(self);
        for thread in helpers {
            // A panic there was reported by the panic hook already.
            let _ = thread.join();
        }
    }
}
