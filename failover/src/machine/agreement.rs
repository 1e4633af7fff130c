//! Boot agreement (R4): two nodes in contact, neither of them master, find out who claims the role.
//! Both compute the same from what both know; only the claimer with the other's grant acts.

use crate::health::Health;
use crate::heartbeat::Body;
use crate::input::{DataFacts, Relation};
use crate::role::{Phase, Reason};

/// What this node has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Become master as soon as the peer grants it.
    Claim,
    /// Let the peer become master.
    Grant,
    /// Make the first epoch (R2: both unborn, and only this node has files).
    Bear,
    /// Neither; a person or time must help.
    Wait(Reason),
}

/// What is known of this node.
pub(super) struct Own<'a> {
    pub preferred: bool,
    /// What decides where the two do not agree which of them is preferred ([`crate::heartbeat::KeyId::wins_tie`]).
    pub wins_tie: bool,
    /// It was the last master as far as it knows, in the term `term`.
    pub was_master: bool,
    pub term: u64,
    /// It follows already, that is, it did not just start.
    pub follows: bool,
    /// It gave the role away in a planned move, and did not see the peer take it.
    pub ceded: bool,
    /// Its public network does not fail.
    pub network: bool,
    /// The peer has granted the role to it.
    pub granted: bool,
    pub facts: Option<&'a DataFacts>,
}

/// Decides. Preconditions: the peer is the known one (R6), and both hear each other.
pub(super) fn verdict(own: &Own<'_>, peer: &Body) -> Verdict {
    let Some(facts) = own.facts else {
        return Verdict::Wait(Reason::DataUnknown);
    };
    if own.ceded {
        return if own.granted {
            claim(facts)
        } else {
            Verdict::Grant
        };
    }
    if let Some(resumed) = resume(own, facts, peer) {
        return resumed;
    }
    match facts.relation {
        Relation::Unknown => Verdict::Wait(Reason::DataUnknown),
        Relation::Diverged | Relation::Unrelated => Verdict::Wait(Reason::NoDirection),
        Relation::BothUnborn => Verdict::Wait(Reason::NeedsInit),
        Relation::BothUnbornMineFilled => Verdict::Bear,
        Relation::BothUnbornPeersFilled => Verdict::Wait(Reason::NoGrant),
        Relation::Ahead => claim(facts),
        Relation::Behind => Verdict::Grant,
        Relation::Equal => match (own.network && able(facts), peer_able(peer)) {
            (true, false) => claim(facts),
            (false, true) => Verdict::Grant,
            _ if last_master(own, peer).unwrap_or_else(|| preferred(own, peer)) => claim(facts),
            _ => Verdict::Grant,
        },
    }
}

/// Whether this node was master last, as far as the two know. On its disk may lie what was written just before it
/// stopped and is in no index yet: a new master serves a moment before its first epoch is durable.
fn last_master(own: &Own<'_>, peer: &Body) -> Option<bool> {
    match (own.was_master, peer.was_master) {
        (true, true) => (own.term != peer.term).then_some(own.term > peer.term),
        (false, false) => None,
        (mine, _) => Some(mine),
    }
}

/// Whether this node goes first where nothing else decides. The two configurations may name different nodes.
fn preferred(own: &Own<'_>, peer: &Body) -> bool {
    match (own.preferred, peer.preferred) {
        (mine, theirs) if mine != theirs => mine,
        _ => own.wins_tie,
    }
}

/// An agent that was restarted for a moment goes on as master when the standby has noticed nothing: no
/// higher term was used, and the data has the same heads. No move is then needed.
fn resume(own: &Own<'_>, facts: &DataFacts, peer: &Body) -> Option<Verdict> {
    let peer_follows = matches!(peer.phase, Phase::Standby | Phase::Releasing);
    let same_epochs = facts.epochs_digest == peer.epochs_digest && facts.born && peer.born;
    let mine = own.was_master && !own.follows && peer_follows && own.term >= peer.term;
    let peers = peer.was_master && own.follows && !peer_follows && peer.term >= own.term;
    if !same_epochs || mine == peers {
        return None;
    }
    if mine && facts.seq >= peer.seq {
        return Some(claim(facts));
    }
    (peers && peer.seq >= facts.seq && peer_able(peer)).then_some(Verdict::Grant)
}

fn claim(facts: &DataFacts) -> Verdict {
    if !facts.born {
        return Verdict::Wait(Reason::Unborn);
    }
    if !facts.consistent {
        return Verdict::Wait(Reason::NotConsistent);
    }
    Verdict::Claim
}

fn able(facts: &DataFacts) -> bool {
    facts.born && facts.consistent
}

fn peer_able(peer: &Body) -> bool {
    let against = [Reason::DataUnknown, Reason::Unborn, Reason::NotConsistent];
    peer.network != Health::Bad && peer.against.is_none_or(|reason| !against.contains(&reason))
}
