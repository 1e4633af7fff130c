//! The loop on its own thread: inputs and deadlines to the machine, effects to whoever carries them out.
//!
//! Cancel safety: every branch of the loop's select is safe to drop; the loop itself ends only between two inputs.

use super::net::{self, Net};
use super::outbox::Outbox;
use super::questions::{self, Questions};
use super::{AgentEffect, Decide, Setup, privileges};
use crate::clock;
use crate::effect::Effect;
use crate::health::{Health, all_of};
use crate::heartbeat_io::{Beats, Keys, LinkCounters};
use crate::input::{Input, ProbeAnswers};
use crate::machine::Boot;
use crate::probe::monitor::{Summary, summary};
use crate::store::Writer;
use crate::time::Instant;
use crate::view::View;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
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
            local.block_on(&runtime, Running::start_and_run(event_loop));
        })
}

/// What is known of the surroundings, condensed for the machine.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    network: Option<Health>,
    own_services: Option<Health>,
    peer_services: Option<Health>,
    links: Vec<Option<bool>>,
}

struct Running<D> {
    machine: D,
    keys: Rc<Keys>,
    setup: Setup,
    boot: Boot,
    beats: Beats,
    beats_out: mpsc::Sender<(Instant, Input)>,
    outbox: Outbox,
    view: watch::Sender<View>,
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

/// Why the loop woke up.
enum Wake {
    Input(Instant, Input),
    Result(Input),
    Agent(Option<Input>),
    Reload(Setup),
    Surroundings,
    Time,
    Delivered,
}

impl<D: Decide> Running<D> {
    async fn start_and_run(l: EventLoop<D>) {
        let EventLoop {
            machine,
            keys,
            setup,
            boot,
            outbox,
            view,
            counters,
            writer,
            ..
        } = l;
        let (mut inputs, mut results, mut reloads, stop) = (l.inputs, l.results, l.reloads, l.stop);
        let (
            Net {
                orders: net,
                mut carriers,
                thread: net_thread,
            },
            questions,
        ) = (l.net, l.questions);
        let Questions {
            orders: ask,
            mut board,
            thread: ask_thread,
        } = questions;
        let (beats_out, mut beats_in) = mpsc::channel(BEATS);
        let keys = Rc::new(keys);
        let beats = Beats::open(
            Rc::clone(&keys),
            &setup.links,
            setup.port,
            boot.incarnation,
            &beats_out,
        );
        let mut this = Self {
            machine,
            keys,
            setup,
            boot,
            beats,
            beats_out,
            outbox,
            view,
            net,
            questions: ask,
            writer,
            immediate: VecDeque::new(),
            seen: Seen::default(),
            here: clock::now(),
            exit: false,
        };
        let mut counters_due = clock::now();
        loop {
            let deadline = this.machine.next_deadline();
            let slept_from = clock::now();
            let wake_at = deadline.min(slept_from + LONGEST_SLEEP);
            let wake = tokio::select! {
                Some((at, input)) = beats_in.recv() => Wake::Input(at, input),
                Some(input) = results.recv() => Wake::Result(input),
                input = inputs.recv() => Wake::Agent(input),
                Some(setup) = reloads.recv() => Wake::Reload(setup),
                Ok(()) = carriers.changed() => Wake::Surroundings,
                Ok(()) = board.changed() => Wake::Surroundings,
                () = stop.cancelled() => break,
                () = this.outbox.deliver() => Wake::Delivered,
                () = tokio::time::sleep(wake_at.saturating_duration_since(slept_from)) => Wake::Time,
            };
            this.notice_stall(wake_at);
            match wake {
                Wake::Input(at, input) => this.feed(at, input),
                Wake::Result(input) | Wake::Agent(Some(input)) => this.feed(clock::now(), input),
                Wake::Agent(None) => break,
                Wake::Reload(setup) => this.reload(setup),
                Wake::Surroundings => {
                    let summary = {
                        let b = board.borrow_and_update();
                        summary(&b.states, b.vantage)
                    };
                    let carriers = carriers.borrow_and_update().clone();
                    this.look_around(summary, &carriers);
                }
                Wake::Time | Wake::Delivered => {}
            }
            this.tick();
            if this.exit && this.outbox.is_empty() {
                break;
            }
            let now = clock::now();
            if now >= counters_due {
                counters_due = now + COUNTERS;
                counters.send_replace(this.beats.counters());
            }
        }
        this.end(results, net_thread, ask_thread);
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

    fn order(&mut self, order: net::Order) {
        let (order, why) = match self.net.try_send(order) {
            Ok(()) => return,
            Err(TrySendError::Full(order)) => (order, "too many requests wait for the kernel"),
            Err(TrySendError::Closed(order)) => (order, "the network thread has ended"),
        };
        tracing::error!(?order, why, "order not given");
        let result = Err(why.to_owned());
        match order {
            net::Order::Add(ticket) | net::Order::Remove(ticket) => {
                self.immediate
                    .push_back(Input::AddressesDone { ticket, result });
            }
            net::Order::Fence(ticket) | net::Order::Unfence(ticket) => {
                self.immediate
                    .push_back(Input::FenceDone { ticket, result });
            }
            // Repeated by the machine anyway, or by the next reload.
            net::Order::Refresh | net::Order::Announce { .. } | net::Order::Setup { .. } => {}
        }
    }

    fn ask(&mut self, order: questions::Order) {
        let (order, why) = match self.questions.try_send(order) {
            Ok(()) => return,
            Err(TrySendError::Full(order)) => (order, "too many questions are under way"),
            Err(TrySendError::Closed(order)) => (order, "the asking thread has ended"),
        };
        tracing::error!(?order, why, "question not put");
        match order {
            // An unasked round must not look like silence: whoever is not asked counts as alive, and the address as in use.
            questions::Order::Peer { ticket, .. } => {
                let answers = ProbeAnswers {
                    icmp: true,
                    ..ProbeAnswers::default()
                };
                self.immediate
                    .push_back(Input::ProbeDone { ticket, answers });
            }
            questions::Order::Conflict { ticket, .. } => {
                self.immediate.push_back(Input::ConflictDone {
                    ticket,
                    answered: true,
                });
            }
            questions::Order::FencePeer(ticket) => {
                let result = Err(why.to_owned());
                self.immediate
                    .push_back(Input::PeerFenced { ticket, result });
            }
            questions::Order::Setup(_) => {}
        }
    }

    /// Tells the machine what has changed around this node.
    fn look_around(&mut self, monitors: Summary, carriers: &BTreeMap<String, bool>) {
        let now = clock::now();
        let new = Seen {
            network: Some(self.own_network(monitors.network, carriers)),
            own_services: Some(monitors.own_services),
            peer_services: Some(monitors.peer_services),
            links: self
                .setup
                .links
                .iter()
                .map(|l| carriers.get(&l.device).copied())
                .collect(),
        };
        let old = std::mem::replace(&mut self.seen, new);
        let Seen {
            network,
            own_services,
            peer_services,
            ref links,
        } = self.seen;
        let mut inputs = Vec::new();
        if let Some(health) = network.filter(|_| network != old.network) {
            inputs.push(Input::OwnNetwork(health));
        }
        if let Some(health) = own_services.filter(|_| own_services != old.own_services) {
            inputs.push(Input::OwnServices(health));
        }
        if let Some(health) = peer_services.filter(|_| peer_services != old.peer_services) {
            inputs.push(Input::PeerServices(health));
        }
        for (index, up) in (0_u8..).zip(links) {
            let before = old.links.get(usize::from(index)).copied().flatten();
            if let Some(up) = up.filter(|_| *up != before) {
                inputs.push(Input::LinkCarrier { link: index, up });
            }
        }
        for input in inputs {
            self.feed(now, input);
        }
    }

    /// A floating address's device without carrier is known to fail; with carrier, the monitors say more.
    fn own_network(&self, monitors: Health, carriers: &BTreeMap<String, bool>) -> Health {
        let devices = self
            .setup
            .addresses
            .iter()
            .map(|a| match carriers.get(&a.device) {
                Some(true) => Health::Good,
                // Not listed: absent, once the devices are known at all.
                Some(false) | None if !carriers.is_empty() => Health::Bad,
                Some(false) | None => Health::Unknown,
            });
        all_of(devices.chain([monitors]))
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
    fn end(
        self,
        results: mpsc::Receiver<Input>,
        net_thread: JoinHandle<()>,
        ask_thread: JoinHandle<()>,
    ) {
        let Self {
            net,
            questions,
            writer,
            beats,
            ..
        } = self;
        // Nobody reads results any more: a thread that reports one must not wait for that.
        drop((results, net, questions, beats));
        drop(writer);
        for thread in [net_thread, ask_thread] {
            // A panic there was reported by the panic hook already.
            let _ = thread.join();
        }
    }
}
