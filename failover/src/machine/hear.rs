//! Heartbeats in: signs of life, the peer's identity (R6), and two masters in contact.

use super::Machine;
use super::state::{Cause, State, Suspicion};
use crate::effect::NoticeKind;
use crate::heartbeat::{Body, Heartbeat, Incarnation};
use crate::peer::{Heard, regressed, remember};
use crate::timer::Timer;
use crate::view::PeerIdentity;
use std::borrow::Cow;
use std::time::Duration;

/// The durable memory of the peer's sequence number may lag by this much: it changes with every batch.
const REMEMBER_EVERY: Duration = Duration::from_secs(30);

/// Terms that a pair can have counted between two heartbeats of the peer, generously. A peer that shows more is broken or
/// hostile; it must not take away the room to count on (at this rate that would take it decades).
const LEAP: u64 = 1 << 32;

/// What a heartbeat says of the past of the peer's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum History {
    /// Its data half has said nothing yet.
    Unknown,
    /// No tree has an epoch.
    None,
    /// Some tree has.
    Some,
}

impl History {
    fn of(body: &Body) -> Self {
        match body.heads.as_slice() {
            [] if body.epochs_digest == 0 => Self::Unknown,
            [] => Self::Some,
            heads if heads.iter().all(|head| head.epoch == [0; 16]) => Self::None,
            _ => Self::Some,
        }
    }
}

impl Machine {
    pub(super) fn hear(&mut self, link: u8, heartbeat: &Heartbeat) {
        let heartbeat = &believed(heartbeat, self.highest_term().saturating_add(LEAP));
        match self.peer.hear(self.now, link, heartbeat) {
            Heard::Stale | Heard::Unproven => return,
            Heard::Cloned => {
                self.suspect_identity(
                    PeerIdentity::Cloned,
                    "the peer's key is used by two machines: stop the copy and give it a key of its own",
                );
                return;
            }
            Heard::Sign => self.peer_alive(),
            Heard::NewLife => {
                self.peer_alive();
                self.beat_now();
                self.news(&heartbeat.body);
            }
            Heard::News => {
                self.peer_alive();
                self.news(&heartbeat.body);
            }
        }
        self.release_bond();
    }

    fn peer_alive(&mut self) {
        self.away = Duration::ZERO;
        self.suspicion = Suspicion::Calm;
        self.known.probes = None;
        self.asked = None;
        self.refused = None;
        self.timers.stop(Timer::Probe);
        self.set_silence_timer();
        self.timers
            .set(Timer::Solo, self.now + self.policy.solo_after());
        if std::mem::take(&mut self.peer_lost) {
            self.record(self.phase(), "the peer is heard again".into());
            self.notify(NoticeKind::Peer, "the peer is heard again");
            self.healed = true;
        }
        // R4: from now on the peer may become able to take over.
        self.durable.solo = false;
    }

    pub(super) fn set_silence_timer(&mut self) {
        if let Some(heard) = self.peer.heard() {
            self.timers
                .set(Timer::Silence, heard + self.policy.dead_after + self.away);
        }
    }

    fn news(&mut self, body: &Body) {
        self.check_identity(body);
        self.durable.term_seen = self.durable.term_seen.max(body.term);
        if Self::acts(body.phase) {
            self.contact(body);
        } else {
            self.rival_told = false;
        }
        // Whoever has to give way to a rival has done so by now.
        if std::mem::take(&mut self.healed) {
            self.announce_healed();
        }
    }

    /// R6: whether this is the peer that was known; remembers what it shows.
    fn check_identity(&mut self, body: &Body) {
        let Some(incarnation) = self.peer.incarnation() else {
            return;
        };
        if let Some(memory) = self.durable.peer
            && regressed(&memory, incarnation, body)
        {
            // A disk that was replaced by an empty one: nothing of it can be older than what the pair has (R5).
            match History::of(body) {
                History::Unknown => return,
                History::None => return self.peer_begins_anew(incarnation, body),
                History::Some => {}
            }
            self.suspect_identity(
                PeerIdentity::Regressed,
                "the peer shows less than before: it was restored, rolled back or replaced; \
                 look at its data, then run `tandem adopt`",
            );
        }
        if self.durable.identity != PeerIdentity::Same {
            return;
        }
        let new = remember(incarnation, body);
        let due = self.now.saturating_duration_since(self.remembered) >= REMEMBER_EVERY;
        let lasting = self.durable.peer.is_none_or(|old| {
            crate::slots::PeerMemory {
                seq: new.seq,
                ..old
            } != new
        });
        if lasting || due {
            self.remembered = self.now;
            self.durable.peer = Some(new);
        }
    }

    /// The peer has lost all that it had. It can only receive; whatever it was before is over.
    fn peer_begins_anew(&mut self, incarnation: Incarnation, body: &Body) {
        if self.durable.identity != PeerIdentity::Same {
            return;
        }
        self.durable.peer = Some(remember(incarnation, body));
        let text = "the peer has lost its state and data, and begins anew: it receives everything";
        self.record(self.phase(), text.into());
        self.notify(NoticeKind::PeerIdentity, text);
    }

    fn suspect_identity(&mut self, identity: PeerIdentity, text: &str) {
        if self.durable.identity == identity || self.durable.identity == PeerIdentity::Cloned {
            return;
        }
        self.durable.identity = identity;
        self.bond.grant = None;
        self.record(self.phase(), text.into());
        self.notify(NoticeKind::PeerIdentity, text);
    }

    /// This node's own key is used elsewhere. Recordings of this node's earlier lives have lower counters.
    pub(super) fn hear_own_key(&mut self, incarnation: Incarnation) {
        let own = self.boot.incarnation;
        if incarnation == own || incarnation.counter < own.counter || self.own_key_elsewhere {
            return;
        }
        self.own_key_elsewhere = true;
        let text = "another machine uses this node's key: it is a copy; stop it, or give one of them a new key";
        self.record(self.phase(), text.into());
        self.notify(NoticeKind::PeerIdentity, text);
    }

    /// The peer acts as master. One of two must not.
    fn contact(&mut self, body: &Body) {
        let acting = Self::acts(self.phase());
        match &self.state {
            State::Taking(_) | State::Master(_) | State::Ceding(_) if acting => {
                let mine = self.durable.term_used;
                // Not by `preferred`: that is for equal data, and each node may be preferred in its own configuration.
                let tie = body.term == mine;
                let yields =
                    body.term > mine || (tie && !self.policy.own.wins_tie(self.policy.peer));
                if yields {
                    self.contact.get_or_insert(self.now);
                    let text = format!(
                        "the peer is master with term {}, this node with term {mine}: it steps down",
                        body.term
                    );
                    self.notify(NoticeKind::SplitBrain, text.clone());
                    self.follow(text);
                } else if !std::mem::replace(&mut self.rival_told, true) {
                    let text = format!(
                        "the peer is master too, with term {} against {mine}: it must step down",
                        body.term
                    );
                    self.record(self.phase(), text.clone());
                    self.notify(NoticeKind::SplitBrain, text);
                    self.contest();
                }
            }
            State::Claiming(claiming) => {
                let goes_on = matches!(claiming.cause, Cause::Forced | Cause::Moved)
                    && body.term < claiming.term;
                if !goes_on {
                    self.follow("the peer is master");
                }
            }
            State::Taking(taking) if taking.thought_dead() => {
                self.call_off("the peer is heard again as master: the takeover is called off");
            }
            State::Taking(taking) => {
                if taking.cause != Cause::Forced || body.term >= taking.term {
                    self.follow("the peer is master");
                }
            }
            State::Joining(_) => self.follow("the peer is master"),
            // The end of Ceded is looked at in `advance_ceded`.
            State::Follow(_)
            | State::Ceded(_)
            | State::Master(_)
            | State::Ceding(_)
            | State::Stopping(_) => {}
        }
    }

    /// Signs of life have come; whether a withdrawn grant still binds.
    fn release_bond(&mut self) {
        let Some(beat) = self.bond.withdrawn else {
            return;
        };
        let claims = self.peer.body().is_some_and(|body| {
            Self::acts(body.phase) || matches!(body.phase, crate::role::Phase::Claiming)
        });
        if self.peer.acknowledged() >= beat && !claims {
            self.bond.withdrawn = None;
        }
    }
}

/// The heartbeat with no term above `most`.
fn believed(heartbeat: &Heartbeat, most: u64) -> Cow<'_, Heartbeat> {
    let Body {
        term,
        term_seen,
        grant,
        ceded,
        ..
    } = &heartbeat.body;
    let promised = [grant.map(|g| g.term), ceded.map(|c| c.term)];
    let highest = promised.into_iter().flatten().max().unwrap_or(0);
    if highest.max(*term).max(*term_seen) <= most {
        return Cow::Borrowed(heartbeat);
    }
    let mut heartbeat = heartbeat.clone();
    let body = &mut heartbeat.body;
    let terms = [&mut body.term, &mut body.term_seen];
    let grant = body.grant.as_mut().map(|g| &mut g.term);
    let ceded = body.ceded.as_mut().map(|c| &mut c.term);
    for term in terms.into_iter().chain(grant).chain(ceded) {
        *term = (*term).min(most);
    }
    Cow::Owned(heartbeat)
}
