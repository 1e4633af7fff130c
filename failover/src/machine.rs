//! The role machine: who is master. Pure: facts in, effects out, and a deadline asked for.
//!
//! ```text
//!              the peer is master                       it does not serve any more
//!   Joining ─────────────────────▶ Follow ◀───────────────────────────────┐
//!      │                     (Releasing, then Standby)                      │
//!      │ agreed, granted;           │         │                             │
//!      │ or alone (R4)              │ ceded   │ the peer is dead or hung,   │
//!      ▼                            │ to it   │ and this node is eligible   │
//!   Claiming ◀──────────────────────┘         │ (the armed term: no disk)   │
//!      │ the term is durable                  │                             │
//!      ▼                                      ▼                             │
//!   Taking:  fence the peer ▸ end hold ▸ stop applying ▸ ┆term used┆ ▸ epoch ▸ addresses
//!      │                                                                    │
//!      ▼                        a higher term is heard                      │
//!   Master ────────────────────────────────────────────────────────────────▶│
//!      │ ▲ given up                                                          │
//!      ▼ │                                     the peer announced            │
//!   Ceding:  freeze ▸ drain ▸ fence ▸ flush ▸ record ──▶ Ceded ────────────▶┘
//!                                       last point of return │ the peer is dead
//!                                                            └────▶ Claiming
//! ```
//!
//! An agent that executes itself again as master goes on in Master.
//! `Stop` leads from every state to Stopping, from Master through Ceding if the standby is ready.
//!
//! How it is built: an input first changes what is known (`Machine::take`), or is the result of the
//! present step. Then `Machine::advance` looks at everything that is known and moves on if it can, until
//! nothing moves. So the order of inputs does not matter, and no fact can be missed. Every request carries
//! a ticket; a result with another ticket is too late and ignored. Every step has a deadline. What must be
//! durable is written when it differs from what was written last; a state that needs it waits until
//! `written` shows it.

mod addresses;
mod agreement;
mod away;
mod beat;
mod ceding;
mod durable;
mod eligible;
mod evidence;
mod follow;
mod hear;
mod joining;
mod master;
mod operator;
mod out;
mod restarting;
mod show;
mod state;
mod stopping;
mod taking;

use crate::effect::{Effect, Ticket};
use crate::health::Health;
use crate::heartbeat::{Grant, Incarnation, MachineId};
use crate::input::{DataFacts, Input, ProbeAnswers};
use crate::peer::Peer;
use crate::policy::Policy;
use crate::role::Reason;
use crate::slots::Durable;
use crate::time::Instant;
use crate::timer::{ALL, Timer, Timers};
use state::{Alone, State, Suspicion};
use std::collections::VecDeque;
use std::time::Duration;

pub use restarting::Handover;

/// What the driver knows of this life of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boot {
    /// This life. Its counter is durable already.
    pub incarnation: Incarnation,
    /// Which machine this is.
    pub machine: MachineId,
}

/// What was learned from outside, apart from the peer's heartbeats.
#[derive(Debug, Clone, Default)]
struct Known {
    own_network: Health,
    own_services: Health,
    peer_services: Health,
    facts: Option<DataFacts>,
    hold: bool,
    carrier: Vec<Option<bool>>,
    probes: Option<ProbeAnswers>,
}

/// The boot agreement as this node stands in it.
#[derive(Debug, Clone, Copy, Default)]
struct Bond {
    /// The role is granted to the peer: this node claims nothing while that peer lives.
    grant: Option<Grant>,
    /// A grant was withdrawn with this beat; it binds until the peer has heard that beat and claims nothing.
    withdrawn: Option<u64>,
    /// When the first epoch was last asked for.
    asked_epoch: Option<Instant>,
    /// Floating addresses that a former life of this agent left behind.
    leftover: Leftover,
}

/// Floating addresses of a former life stay until this node's role is known. They go before it grants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Leftover {
    #[default]
    Unknown,
    /// Asked to remove them, at that time.
    Removing(Ticket, Instant),
    Gone,
}

/// The role machine of one node. See the module's documentation.
#[derive(Debug, Clone)]
pub struct Machine {
    policy: Policy,
    boot: Boot,
    /// What is to be durable.
    durable: Durable,
    /// What is known to be durable.
    written: Durable,
    /// Writes that are under way.
    writing: VecDeque<(u64, Durable)>,
    generation: u64,
    write_failed: bool,
    /// A write failed or was lost: what the disk holds is unknown until the next one.
    doubtful: bool,
    /// The durable memory of the peer's sequence number was last refreshed then.
    remembered: Instant,
    /// A term that was armed in an earlier life may have been used in it.
    armed_here: bool,
    now: Instant,
    since: Instant,
    /// Time that this node was away since the peer was last heard.
    away: Duration,
    timers: Timers,
    peer: Peer,
    known: Known,
    state: State,
    suspicion: Suspicion,
    /// The confirmation round that is under way.
    asked: Option<Ticket>,
    bond: Bond,
    /// The peer's silence was reported.
    peer_lost: bool,
    /// It is heard again, and has not said yet what it is.
    healed: bool,
    /// A lower master was met, and reported.
    rival_told: bool,
    own_key_elsewhere: bool,
    holding: bool,
    /// A fence of this node's own floating addresses may stand; also one that a former life left behind.
    fenced: bool,
    /// The fence that is being taken away.
    unfencing: Option<Ticket>,
    /// The floating addresses that cannot be held, in words.
    missing: Option<String>,
    /// A floating address that somebody else put here is being removed.
    stray: Option<Ticket>,
    /// First contact with a master of a higher term while this one acted: two masters, until the addresses are off.
    contact: Option<Instant>,
    /// Whether the services may run here.
    services_up: bool,
    frozen: bool,
    maintenance_until: Option<Instant>,
    waiting: Vec<Reason>,
    /// Reasons against a takeover, as of the last input.
    against: Vec<Reason>,
    /// Whether it was eligible before, for the alarm; `None` while it does not follow.
    was_eligible: Option<bool>,
    /// A takeover that was due, and did not begin: why, and what was said of it.
    refused: Option<(Vec<Reason>, String)>,
    /// The operator who waits for the end of a move.
    asker: Option<Ticket>,
    /// The operator who waits for the end of the agent.
    stopper: Option<Ticket>,
    stop_wanted: bool,
    next_ticket: u64,
    last_decision: Option<String>,
    out: Vec<Effect>,
}

impl Machine {
    /// A machine that has just started. `durable` is what the slots held, with the incarnation already
    /// counted up ([`Durable::started`]) and written. The first heartbeat is due at once.
    pub fn new(policy: Policy, durable: Durable, boot: Boot, now: Instant) -> Self {
        let mut timers = Timers::default();
        timers.set(Timer::Heartbeat, now);
        timers.set(Timer::BootWait, now + policy.boot_wait);
        let maintenance_until = durable.maintenance.and_then(|m| m.lasting).map(|d| now + d);
        if let Some(until) = maintenance_until {
            timers.set(Timer::Maintenance, until);
        }
        Self {
            peer: Peer::new(boot.incarnation, policy.links),
            known: Known {
                carrier: vec![None; usize::from(policy.links)],
                ..Known::default()
            },
            policy,
            boot,
            written: durable.clone(),
            durable,
            writing: VecDeque::new(),
            generation: 0,
            write_failed: false,
            doubtful: false,
            remembered: now,
            armed_here: false,
            now,
            since: now,
            away: Duration::ZERO,
            timers,
            state: State::Joining(Alone::Listening),
            suspicion: Suspicion::Calm,
            asked: None,
            bond: Bond::default(),
            peer_lost: false,
            healed: false,
            rival_told: false,
            own_key_elsewhere: false,
            holding: false,
            fenced: true,
            unfencing: None,
            missing: None,
            stray: None,
            contact: None,
            services_up: false,
            frozen: false,
            maintenance_until,
            waiting: Vec::new(),
            against: Vec::new(),
            was_eligible: None,
            refused: None,
            asker: None,
            stopper: None,
            stop_wanted: false,
            next_ticket: 0,
            last_decision: None,
            out: Vec::new(),
        }
    }

    /// Takes one fact that was learned at `now`, and answers what is to be done, in this order. Never
    /// blocks. An earlier `now` than before counts as the same.
    pub fn handle(&mut self, now: Instant, input: Input) -> Vec<Effect> {
        let now = now.max(self.now);
        let noticed = self.notice_absence(now);
        self.now = now;
        self.take(input, noticed);
        self.fire();
        self.advance();
        self.watch_eligibility();
        self.arm();
        if self
            .timers
            .get(Timer::Heartbeat)
            .is_some_and(|at| at <= now)
        {
            self.beat();
        }
        self.write();
        std::mem::take(&mut self.out)
    }

    /// When [`Machine::handle`] must be called with [`Input::Tick`] at the latest.
    pub fn next_deadline(&self) -> Instant {
        self.timers
            .next()
            .unwrap_or(self.now + self.policy.heartbeat)
    }

    /// The machine was called later than it asked for: it was away, for as long as this says.
    fn notice_absence(&mut self, now: Instant) -> Duration {
        let late = now.saturating_duration_since(self.next_deadline());
        if late < self.policy.heartbeat {
            return Duration::ZERO;
        }
        let gap = now.saturating_duration_since(self.now);
        self.now = now;
        self.resumed(gap);
        gap
    }

    /// This node was away for `gap`: its absence is not the peer's silence, and it asks before it acts.
    fn resumed(&mut self, gap: Duration) {
        self.away = self.away.saturating_add(gap);
        self.suspicion = Suspicion::Calm;
        self.known.probes = None;
        self.asked = None;
        self.timers.stop(Timer::Probe);
        self.set_silence_timer();
        self.beat_now();
        if gap >= self.policy.dead_after {
            self.was_away(gap);
        }
    }

    /// Takes an input that came with an absence of `noticed`.
    fn take(&mut self, input: Input, noticed: Duration) {
        match input {
            Input::Tick => {}
            // One absence, which the loop has noticed too, counts once.
            Input::Resumed { gap } if gap <= noticed => {}
            Input::Resumed { gap } => self.resumed(gap.saturating_sub(noticed)),
            Input::Heartbeat { link, heartbeat } => self.hear(link, &heartbeat),
            Input::OwnKeyElsewhere { incarnation } => self.hear_own_key(incarnation),
            Input::LinkCarrier { link, up } => {
                if let Some(carrier) = self.known.carrier.get_mut(usize::from(link)) {
                    *carrier = Some(up);
                }
            }
            Input::OwnNetwork(health) => self.own_network(health),
            Input::OwnServices(health) => self.known.own_services = health,
            Input::PeerServices(health) => self.peer_services(health),
            Input::ProbeDone { ticket, answers } => self.probe_done(ticket, answers),
            Input::ConflictDone { ticket, answered } => self.conflict_done(ticket, answered),
            Input::AddressesDone { ticket, result } => self.addresses_done(ticket, result),
            Input::AddressRemoved => self.address_removed(),
            Input::AddressAppeared => self.address_appeared(),
            Input::AddressTrouble(trouble) => self.address_trouble(trouble),
            Input::AddressConflict => self.address_conflict(),
            Input::FenceDone { ticket, result } => self.fence_done(ticket, result),
            Input::PeerFenced { ticket, result } => self.peer_fenced(ticket, result),
            Input::Persisted { generation, result } => self.persisted(generation, result),
            Input::Data(facts) => self.known.facts = Some(*facts),
            Input::DataDone { ticket, result } => self.data_done(ticket, result),
            Input::ServicesDone { ticket, result } => self.services_done(ticket, result),
            Input::Hold { active } => self.known.hold = active,
            Input::Policy(policy) => self.new_policy(*policy),
            Input::Operator { ticket, command } => self.command(ticket, command),
        }
    }

    /// Runs what is due. Each timer fires at most once in a call.
    fn fire(&mut self) {
        for _ in 0..ALL.len() {
            let Some(timer) = self.timers.pop(self.now) else {
                return;
            };
            match timer {
                Timer::Heartbeat => self.beat(),
                Timer::Step => self.step_late(),
                Timer::Retry => self.retry(),
                Timer::Silence => self.silence_due(),
                Timer::Probe => self.probe_late(),
                Timer::Contest => self.contest_due(),
                Timer::Refresh => self.refresh_due(),
                Timer::Announce => self.announce_due(),
                Timer::Solo => self.solo_due(),
                Timer::BootWait => self.boot_wait_over(),
                // What these are for is looked at after every input; they are only reasons to be called.
                Timer::Fresh | Timer::Persist => {}
                Timer::Grace => self.grace_over(),
                Timer::Maintenance => self.maintenance_over(),
                Timer::Recheck => self.recheck_over(),
                Timer::Stop => self.stop_late(),
            }
        }
    }

    /// Moves on as far as what is known allows. A bound instead of `loop`: no way through the diagram
    /// within one input is longer.
    fn advance(&mut self) {
        for _ in 0..8 {
            let before = self.phase();
            match &self.state {
                State::Joining(_) => self.advance_joining(),
                State::Claiming(_) => self.advance_claiming(),
                State::Follow(_) => self.advance_follow(),
                State::Taking(_) => self.advance_taking(),
                State::Master(_) => self.advance_master(),
                State::Ceding(_) => self.advance_ceding(),
                State::Ceded(_) => self.advance_ceded(),
                State::Stopping(_) => {}
            }
            if self.phase() == before {
                return;
            }
        }
    }

    fn new_policy(&mut self, policy: Policy) {
        self.peer.set_links(policy.links);
        self.known.carrier.resize(usize::from(policy.links), None);
        self.policy = policy;
    }
}

#[cfg(test)]
mod pair_tests;
#[cfg(test)]
mod tests;
