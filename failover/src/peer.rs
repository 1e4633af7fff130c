//! What is heard of the peer: which of its lives counts, and which heartbeats are no replays.
//!
//! Every signed heartbeat may be a recording. Three rules keep recordings out:
//! - In one life of the peer, the counter of a heartbeat must be higher than every one before it on that
//!   link, and a body counts only if it is newer than the one that is known from any link.
//! - A new life of the peer counts only once it echoes *this* agent's random nonce, which nobody could
//!   know before this agent started. Until then it is only answered, so that it can prove itself.
//!   One that counts lower than the known life must also echo a beat that was sent since that was proven.
//! - A life that was succeeded by another never comes back. If one is still talking (it echoes a beat of
//!   ours that was sent after that), there are two of it: cloned (R6).

use crate::heartbeat::{Body, Echo, Heartbeat, Incarnation};
use crate::slots::PeerMemory;
use crate::time::{Instant, micros, millis};
use std::collections::VecDeque;
use std::time::Duration;

/// Former lives that are remembered: more restarts than this in the life of one agent make the oldest
/// forgotten, which only weakens the detection of clones.
const FORMER: usize = 16;
/// Beats whose time of sending is remembered, for the round trip: covers 6 s at the default interval.
const SENT: usize = 32;

/// Silence of the proven life after which another one is answered: longer than the default interval of
/// heartbeats, shorter than any restart.
const RIVAL: Duration = Duration::from_millis(300);

/// What a heartbeat was worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// From the proven life, newer than everything before: its body counts.
    News,
    /// From the proven life, on a link where it counts as a sign of life, but the body is not newer.
    Sign,
    /// The first proof of a new life: its body counts.
    NewLife,
    /// A life that has not proved itself yet: to be answered, otherwise ignored.
    Unproven,
    /// A repetition, a recording or something late: ignored.
    Stale,
    /// Two of the peer are talking (R6).
    Cloned,
}

/// One link as seen from here.
#[derive(Debug, Clone, Default)]
pub struct Link {
    /// When a counted heartbeat last came on it.
    pub heard: Option<Instant>,
    /// When the peer last heard this node on it, as it says.
    pub heard_by_peer: Option<Instant>,
    /// Last measured round trip.
    pub rtt: Option<Duration>,
    highest: Option<u64>,
    /// Bit n: beat `highest - n` arrived.
    window: u64,
    /// Beats that `window` covers, at most 64.
    covered: u32,
}

#[derive(Debug, Clone)]
struct Life {
    incarnation: Incarnation,
    body: Body,
    body_counter: u64,
    heard: Instant,
    /// When it last heard this node on any link, as it says.
    hears_me: Option<Instant>,
    /// Highest of my beats that it says it heard.
    acknowledged: u64,
    /// My last beat when this life was first proven.
    since: u64,
}

/// A life that was heard and is not proven.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    incarnation: Incarnation,
    heard: Instant,
    link: u8,
    counter: u64,
}

/// Everything heard of the peer in this life of the agent.
#[derive(Debug, Clone)]
pub struct Peer {
    own: Incarnation,
    life: Option<Life>,
    /// Heard, not proven, and when.
    candidate: Option<Candidate>,
    /// Lives that were succeeded, and my last beat at that time.
    former: VecDeque<(Incarnation, u64)>,
    links: Vec<Link>,
    sent: VecDeque<(u64, Instant)>,
    beat: u64,
}

impl Peer {
    /// Nothing heard yet.
    pub fn new(own: Incarnation, links: u8) -> Self {
        Self {
            own,
            life: None,
            candidate: None,
            former: VecDeque::new(),
            links: vec![Link::default(); usize::from(links)],
            sent: VecDeque::new(),
            beat: 0,
        }
    }

    /// The number of links has changed: their state begins anew.
    pub fn set_links(&mut self, links: u8) {
        if self.links.len() != usize::from(links) {
            self.links = vec![Link::default(); usize::from(links)];
        }
    }

    /// Counts a beat that is sent now on every link.
    pub fn next_beat(&mut self, now: Instant) -> u64 {
        self.beat += 1;
        if self.sent.len() == SENT {
            self.sent.pop_front();
        }
        self.sent.push_back((self.beat, now));
        self.beat
    }

    /// Number of the last beat.
    pub fn beat(&self) -> u64 {
        self.beat
    }

    /// What a beat on `link` says about hearing the peer.
    pub fn echo(&self, now: Instant, link: u8) -> Option<Echo> {
        let age = |at: Instant| now.saturating_duration_since(at);
        // A candidate is answered only when the proven life has fallen silent, so that recordings of
        // other lives cannot take its answers away.
        let answered = self.candidate.filter(|candidate| {
            self.heard()
                .is_none_or(|heard| candidate.heard.saturating_duration_since(heard) >= RIVAL)
        });
        if let Some(candidate) = answered {
            let heard = (candidate.counter, micros(age(candidate.heard)));
            return Some(Echo {
                incarnation: candidate.incarnation,
                on_link: (candidate.link == link).then_some(heard),
                overall: None,
            });
        }
        let life = self.life.as_ref()?;
        let on_link = self
            .links
            .get(usize::from(link))
            .and_then(|l| Some((l.highest?, micros(age(l.heard?)))));
        Some(Echo {
            incarnation: life.incarnation,
            on_link,
            overall: Some(millis(age(life.heard))),
        })
    }

    /// Takes a verified heartbeat that came on `link`.
    pub fn hear(&mut self, now: Instant, link: u8, heartbeat: &Heartbeat) -> Heard {
        if heartbeat.link != link || usize::from(link) >= self.links.len() {
            return Heard::Stale;
        }
        let proof = heartbeat.echo.filter(|echo| echo.incarnation == self.own);
        match (&self.life, proof) {
            (Some(life), _) if life.incarnation == heartbeat.incarnation => {
                self.hear_known(now, heartbeat)
            }
            (_, proof) if self.is_former(heartbeat.incarnation) => {
                self.hear_former(heartbeat, proof)
            }
            (_, None) => {
                let (incarnation, counter) = (heartbeat.incarnation, heartbeat.counter);
                self.candidate = Some(Candidate {
                    incarnation,
                    heard: now,
                    link,
                    counter,
                });
                Heard::Unproven
            }
            (Some(life), Some(echo)) if !life.is_succeeded_by(heartbeat.incarnation, echo) => {
                Heard::Stale
            }
            (_, Some(echo)) => self.hear_new(now, heartbeat, echo),
        }
    }

    fn is_former(&self, incarnation: Incarnation) -> bool {
        self.former.iter().any(|(former, _)| *former == incarnation)
    }

    fn hear_former(&self, heartbeat: &Heartbeat, proof: Option<Echo>) -> Heard {
        let retired = self
            .former
            .iter()
            .find(|(former, _)| *former == heartbeat.incarnation);
        let beat = proof
            .and_then(|echo| echo.on_link)
            .map_or(0, |(beat, _)| beat);
        match retired {
            Some((_, at)) if beat > *at && beat <= self.beat => Heard::Cloned,
            _ => Heard::Stale,
        }
    }

    fn hear_new(&mut self, now: Instant, heartbeat: &Heartbeat, echo: Echo) -> Heard {
        if let Some(life) = self.life.take() {
            if self.former.len() == FORMER {
                self.former.pop_front();
            }
            self.former.push_back((life.incarnation, self.beat));
        }
        self.candidate = None;
        for link in &mut self.links {
            *link = Link::default();
        }
        self.life = Some(Life {
            incarnation: heartbeat.incarnation,
            body: heartbeat.body.clone(),
            body_counter: heartbeat.counter,
            heard: now,
            hears_me: None,
            acknowledged: 0,
            since: self.beat,
        });
        self.count(now, heartbeat);
        self.take_echo(now, heartbeat.link, echo);
        Heard::NewLife
    }

    fn hear_known(&mut self, now: Instant, heartbeat: &Heartbeat) -> Heard {
        let known = self
            .links
            .get(usize::from(heartbeat.link))
            .and_then(|l| l.highest);
        if known.is_some_and(|highest| heartbeat.counter <= highest) {
            self.count_late(heartbeat);
            return Heard::Stale;
        }
        self.count(now, heartbeat);
        if let Some(echo) = heartbeat.echo.filter(|echo| echo.incarnation == self.own) {
            self.take_echo(now, heartbeat.link, echo);
        }
        let Some(life) = &mut self.life else {
            return Heard::Stale;
        };
        life.heard = now;
        if heartbeat.counter <= life.body_counter {
            return Heard::Sign;
        }
        life.body_counter = heartbeat.counter;
        life.body = heartbeat.body.clone();
        Heard::News
    }

    fn count(&mut self, now: Instant, heartbeat: &Heartbeat) {
        let Some(link) = self.links.get_mut(usize::from(heartbeat.link)) else {
            return;
        };
        let step = link
            .highest
            .map_or(1, |h| heartbeat.counter.saturating_sub(h));
        let shift = u32::try_from(step).unwrap_or(u32::MAX);
        link.window = link.window.checked_shl(shift).unwrap_or(0) | 1;
        link.covered = link.covered.saturating_add(shift).min(64);
        link.highest = Some(heartbeat.counter);
        link.heard = Some(now);
    }

    /// A heartbeat that was overtaken by a later one was not lost.
    fn count_late(&mut self, heartbeat: &Heartbeat) {
        let Some(link) = self.links.get_mut(usize::from(heartbeat.link)) else {
            return;
        };
        let back = link
            .highest
            .map_or(64, |h| h.saturating_sub(heartbeat.counter));
        if back < 64 {
            link.window |= 1 << back;
        }
    }

    fn take_echo(&mut self, now: Instant, link: u8, echo: Echo) {
        let ago = |age: Duration| {
            let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
            Instant::from_nanos(now.as_nanos().saturating_sub(age))
        };
        if let Some(life) = &mut self.life {
            life.hears_me = echo
                .overall
                .map(|ms| ago(Duration::from_millis(u64::from(ms))));
            let beat = echo.on_link.map_or(0, |(beat, _)| beat);
            life.acknowledged = life.acknowledged.max(beat.min(self.beat));
        }
        let (Some(link), Some((beat, age))) = (self.links.get_mut(usize::from(link)), echo.on_link)
        else {
            return;
        };
        let age = Duration::from_micros(u64::from(age));
        link.heard_by_peer = Some(ago(age));
        if let Some((_, at)) = self.sent.iter().find(|(sent, _)| *sent == beat) {
            link.rtt = Some(now.saturating_duration_since(*at).saturating_sub(age));
        }
    }

    /// An operator accepted the peer as it is: of several lives, the one that is still there may be a former one.
    /// A copy that still runs is noticed again, when the second of the two talks again.
    pub fn accept(&mut self) {
        self.former.clear();
    }

    /// What the proven life last said.
    pub fn body(&self) -> Option<&Body> {
        self.life.as_ref().map(|life| &life.body)
    }

    /// The proven life.
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.life.as_ref().map(|life| life.incarnation)
    }

    /// When the proven life was last heard on any link.
    pub fn heard(&self) -> Option<Instant> {
        self.life.as_ref().map(|life| life.heard)
    }

    /// When the peer last heard this node, as it says.
    pub fn hears_me(&self) -> Option<Instant> {
        self.life.as_ref().and_then(|life| life.hears_me)
    }

    /// Highest of this node's beats that the peer says it heard: what it said since then, it said knowingly.
    pub fn acknowledged(&self) -> u64 {
        self.life.as_ref().map_or(0, |life| life.acknowledged)
    }

    /// The links.
    pub fn links(&self) -> &[Link] {
        &self.links
    }
}

impl Life {
    /// Whether another proven life may take this one's place. A restart counts up. A life that does not is
    /// something late, unless it heard a beat of mine that was sent after this life was proven: then the
    /// peer was rolled back or cloned, and that must be seen (R6).
    fn is_succeeded_by(&self, other: Incarnation, echo: Echo) -> bool {
        let beat = echo.on_link.map_or(0, |(beat, _)| beat);
        other.counter > self.incarnation.counter || beat > self.since
    }
}

impl Link {
    /// Beats lost among the last 64, per mille.
    pub fn loss_per_mille(&self) -> u16 {
        if self.covered == 0 {
            return 0;
        }
        let covered = if self.covered >= 64 {
            u64::MAX
        } else {
            (1 << self.covered) - 1
        };
        let arrived = (self.window & covered).count_ones();
        let lost = self.covered.saturating_sub(arrived);
        u16::try_from(lost * 1000 / self.covered).unwrap_or(1000)
    }
}

/// R6: whether the peer shows less than `memory`, that is, was restored, rolled back or replaced.
pub fn regressed(memory: &PeerMemory, incarnation: Incarnation, body: &Body) -> bool {
    let older_life = incarnation.counter < memory.incarnation.counter
        || (incarnation.counter == memory.incarnation.counter
            && incarnation.nonce != memory.incarnation.nonce);
    let older_term = body.term_seen < memory.term;
    let older_data = body.epochs_digest == memory.epochs_digest
        && memory.epochs_digest != 0
        && body.seq < memory.seq;
    let other_machine =
        (body.machine.machine, body.machine.root) != (memory.machine.machine, memory.machine.root);
    older_life || older_term || older_data || other_machine
}

/// R6: the memory after the peer showed this.
pub fn remember(incarnation: Incarnation, body: &Body) -> PeerMemory {
    PeerMemory {
        incarnation,
        term: body.term_seen,
        epochs_digest: body.epochs_digest,
        seq: body.seq,
        machine: body.machine,
    }
}

#[cfg(test)]
mod tests;
