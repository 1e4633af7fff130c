//! The states of the role machine and what each one remembers.

use super::evidence::Verdict;
use crate::effect::Ticket;
use crate::heartbeat::Ceded;
use crate::input::ProbeAnswers;
use crate::role::Reason;
use crate::time::Instant;
use std::fmt;

/// Why a node becomes master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Both nodes agreed after a start.
    Agreed,
    /// The peer ceded the role in a planned move.
    Moved,
    /// The peer is dead.
    Dead,
    /// The peer's kernel answers, its agent and services do not.
    Hung,
    /// The durable `solo` mark (R4).
    Solo,
    /// `boot_alone` (R4).
    BootAlone,
    /// An operator said so.
    Forced,
    /// It had ceded the role, and the peer died.
    Returned,
    /// Its agent executed itself again.
    Restarted,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agreed => "the two nodes agreed",
            Self::Moved => "the peer handed the role over",
            Self::Dead => "the peer is dead: heartbeat, ICMP, ARP/NS and TCP are silent",
            Self::Hung => "the peer hangs: its kernel answers, its agent and services do not",
            Self::Solo => "this node was master alone for long, and nobody uses the floating IPs",
            Self::BootAlone => "boot_alone is on, and nobody uses the floating IPs",
            Self::Forced => "an operator forced it",
            Self::Returned => {
                "the peer died before it was seen to take the role that was given to it"
            }
            Self::Restarted => "the agent was executed again, as master",
        })
    }
}

impl Cause {
    /// Whether the other node did not consent, so that its addresses may still be in use.
    pub(super) fn one_sided(self) -> bool {
        !matches!(self, Self::Agreed | Self::Moved | Self::Restarted)
    }

    /// Whether the peer is cut off first, where there is a device for that. A person who forces a takeover has seen to it.
    pub(super) fn fences(self) -> bool {
        self.one_sided() && self != Self::Forced
    }

    /// Whether what it was decided on must be asked once more by a node that was away: nobody consented, and no person said so.
    pub(super) fn asks_again(self) -> bool {
        self.one_sided() && self != Self::Forced
    }
}

/// What is known of the peer's silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// The peer is heard, or its silence is not yet long.
    Calm,
    /// What the last round says.
    Answered(Verdict, ProbeAnswers),
}

/// The way of the master role to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claiming {
    pub term: u64,
    pub cause: Cause,
    /// It was a standby before.
    pub followed: bool,
    /// The machine was away meanwhile: ask before anything is announced.
    pub away: bool,
}

/// Steps from a master's things to a standby's, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Release {
    Addresses(Ticket),
    Unfence(Ticket),
    Services(Ticket),
    /// The step that failed begins again when the timer fires.
    AddressesAgain,
    ServicesAgain,
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Follow {
    pub release: Release,
    /// A `ceded` record for this node that it cannot adopt was first seen then.
    pub doubt: Option<Instant>,
}

/// Steps of a takeover, in this order. The term counts as used from `Epoch` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TakeStep {
    FencePeer(Ticket),
    EndHold(Ticket),
    Revoke(Ticket),
    Epoch(Ticket),
    /// The epoch could not be made durable; again when the timer fires.
    EpochAgain,
    Addresses(Ticket),
    /// The addresses could not be added; again when the timer fires.
    AddressesAgain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taking {
    pub term: u64,
    pub cause: Cause,
    pub step: TakeStep,
    /// The epoch failed, or is late.
    pub late: bool,
    /// The addresses do not wait for the epoch: a person said so.
    pub epoch: Option<Epoch>,
    /// It was a standby before.
    pub followed: bool,
    /// The machine was away meanwhile: ask before anything is announced.
    pub away: bool,
}

impl Taking {
    /// A standby takes over because its master seemed dead; a sign of life calls that off.
    pub(super) fn thought_dead(&self) -> bool {
        matches!(self.cause, Cause::Dead | Cause::Hung) && !self.term_used()
    }

    pub(super) fn term_used(&self) -> bool {
        match self.step {
            TakeStep::FencePeer(_) | TakeStep::EndHold(_) | TakeStep::Revoke(_) => false,
            TakeStep::Epoch(_) | TakeStep::EpochAgain => true,
            TakeStep::Addresses(_) | TakeStep::AddressesAgain => true,
        }
    }

    /// Who writes here writes in this node's own epoch.
    pub(super) fn serves(&self) -> bool {
        matches!(self.step, TakeStep::Addresses(_) | TakeStep::AddressesAgain)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Master {
    pub cause: Cause,
    /// The services are being started.
    pub starting: Option<Ticket>,
    /// The new epoch is not yet durable.
    pub epoch: Option<Epoch>,
    /// Another machine may answer for a floating IP.
    pub contest: Option<Contest>,
    /// It was away and asks whether the peer took over.
    pub recheck: Option<Recheck>,
    /// Not before then does this node hand over by itself.
    pub settled: Instant,
    /// What was said of a hand-over that was refused.
    pub refused: Option<String>,
    /// How many of the later announcements were made.
    pub announced: usize,
}

/// The new epoch is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Epoch {
    Asked(Ticket),
    /// Failed; again when the timer fires.
    Again,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Contest {
    pub asked: Option<Ticket>,
    /// Rounds in a row without an answer.
    pub quiet: u8,
    /// Somebody answered, and it was said.
    pub told: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Recheck {
    /// The peer must have heard this beat: what it says then, it says knowing that this node is back.
    pub beat: u64,
    pub asked: Ticket,
    /// Whether another machine answers for a floating IP; `None` while that is not known.
    pub in_use: Option<bool>,
    /// Which question this is, from 1.
    pub round: u8,
}

/// Why a master hands over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MoveCause {
    Operator,
    Network,
    Services,
    Stop,
    /// The peer's data contain all of this master's, and more (R2).
    PeerAhead,
}

impl fmt::Display for MoveCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Operator => "an operator asked for it",
            Self::Network => "this node's public network fails",
            Self::Services => "this node's services fail",
            Self::Stop => "the agent is being stopped",
            Self::PeerAhead => "the peer has all of this node's data and more",
        })
    }
}

/// Steps of a planned move up to its last point of return, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CedeStep {
    Freeze(Ticket),
    Drain(Ticket),
    Fence(Ticket),
    Flush(Ticket),
    /// `ceded` is being made durable.
    Record(Ceded),
    /// That failed for too long: the opposite is being made durable.
    Unrecord,
}

impl CedeStep {
    /// The record that gives the role away is not being written yet: everything can be as it was.
    pub(super) fn has_way_back(self) -> bool {
        match self {
            Self::Freeze(_) | Self::Drain(_) | Self::Fence(_) | Self::Flush(_) => true,
            Self::Record(_) | Self::Unrecord => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ceding {
    pub cause: MoveCause,
    pub step: CedeStep,
    /// The move is given up when it has not reached its last point of return by then.
    pub until: Instant,
    /// The master's state, for when the move is given up.
    pub master: Master,
}

/// After the last point of return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CededState {
    pub ceded: Ceded,
    /// This node's data count as fresh until then, for the case that the peer dies.
    pub fresh_until: Instant,
    /// It was said that the peer does not take the role.
    pub told: bool,
}

/// Steps of a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopping {
    Revoke(Ticket),
    Addresses(Ticket),
    Services(Ticket),
    /// Nothing is left to do.
    Gone,
}

/// How a starting node finds out whether it may start alone (R4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alone {
    /// It listens for its peer.
    Listening,
    /// It asks whether anybody uses a floating IP.
    Asking(Ticket),
    /// Somebody does, or it cannot be asked; it is asked again.
    Refused(Reason),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Joining(Alone),
    Claiming(Claiming),
    Follow(Follow),
    Taking(Taking),
    Master(Master),
    Ceding(Ceding),
    Ceded(CededState),
    Stopping(Stopping),
}
