//! Serving: addresses kept, rivals answered, the solo mark, and when to hand over.

use super::Machine;
use super::state::{Cause, Contest, Epoch, Master, MoveCause, State};
use crate::effect::{DataCommand, Effect, NoticeKind, Ticket};
use crate::health::Health;
use crate::input::{DataReport, Relation};
use crate::timer::Timer;
use crate::view::PeerIdentity;
use std::time::Duration;

/// Distance of the questions whether another machine still answers for a floating IP.
const CONTEST_EVERY: Duration = Duration::from_secs(1);
/// Questions in a row without an answer that end a contest.
const QUIET: u8 = 3;
/// An epoch that could not be made durable is tried again after this time.
const EPOCH_AGAIN: Duration = Duration::from_secs(5);

/// After a burst of announcements one more comes after each of these times in turn, and then after the last one of them for as long
/// as this node serves. A switch or a client that was cut off at the takeover, or at the end of a split, hears of it from these.
const ANNOUNCE_AGAIN: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(25),
    Duration::from_secs(60),
];

impl Machine {
    pub(super) fn master_mut(&mut self) -> Option<&mut Master> {
        match &mut self.state {
            State::Master(master) => Some(master),
            _ => None,
        }
    }

    /// The takeover is over; the services are starting.
    pub(super) fn master_entered(&mut self, cause: Cause) {
        self.refresh_due();
        self.announce_later();
        if self.missing.is_some() {
            self.tell_missing();
        }
        if let Some(Master {
            epoch: Some(Epoch::Again),
            ..
        }) = self.master_mut()
        {
            self.retry_in(EPOCH_AGAIN);
        }
        // R4 counts from the last time that the peer could have become able to take over: now at the earliest.
        self.timers
            .set(Timer::Solo, self.now + self.policy.solo_after());
        if cause.one_sided() {
            self.contest();
        }
    }

    pub(super) fn master_services_done(&mut self, result: Result<(), String>) {
        let Some(master) = self.master_mut() else {
            return;
        };
        master.starting = None;
        if let Err(error) = result {
            self.trouble("services cannot be started", &error);
        }
    }

    pub(super) fn master_data_done(&mut self, ticket: Ticket, result: Result<DataReport, String>) {
        let Some(master) = self.master_mut() else {
            return;
        };
        if master.epoch != Some(Epoch::Asked(ticket)) {
            return;
        }
        master.epoch = result.is_err().then_some(Epoch::Again);
        if let Err(error) = result {
            self.retry_in(EPOCH_AGAIN);
            self.trouble("the new epoch cannot be made durable", &error);
        }
    }

    pub(super) fn master_retry(&mut self) {
        if !matches!(
            self.state,
            State::Master(Master {
                epoch: Some(Epoch::Again),
                ..
            })
        ) {
            return;
        }
        let ticket = self.data(DataCommand::BeginSource {
            term: self.durable.term_used,
        });
        if let Some(master) = self.master_mut() {
            master.epoch = Some(Epoch::Asked(ticket));
        }
    }

    // Another machine at a floating IP.

    pub(super) fn address_conflict(&mut self) {
        if self.holding {
            self.contest();
        }
    }

    /// Asks every second whether another machine answers for a floating IP, and announces again if so.
    pub(super) fn contest(&mut self) {
        let now = self.now;
        if let Some(master) = self.master_mut()
            && master.contest.is_none()
            // Its end asks too.
            && master.recheck.is_none()
        {
            master.contest = Some(Contest {
                asked: None,
                quiet: 0,
                told: false,
            });
            self.timers.set(Timer::Contest, now);
        }
    }

    pub(super) fn contest_due(&mut self) {
        let ticket = self.ticket();
        let Some(Master {
            contest: Some(contest),
            ..
        }) = self.master_mut()
        else {
            return;
        };
        contest.asked = Some(ticket);
        self.emit(Effect::ProbeConflict {
            ticket,
            within: self.policy.confirm,
        });
        self.timers.set(Timer::Contest, self.now + CONTEST_EVERY);
    }

    pub(super) fn conflict_done(&mut self, ticket: Ticket, answered: Result<bool, String>) {
        self.alone_conflict(ticket, &answered);
        let Some(master) = self.master_mut() else {
            return;
        };
        if let Some(recheck) = &mut master.recheck
            && recheck.asked == ticket
        {
            recheck.in_use = answered.clone().ok();
        }
        let Some(contest) = &mut master.contest else {
            return;
        };
        if contest.asked != Some(ticket) {
            return;
        }
        contest.asked = None;
        // Where it cannot be asked, nobody would hear an announcement either.
        if answered != Ok(true) {
            contest.quiet += 1;
            if contest.quiet >= QUIET {
                master.contest = None;
                self.timers.stop(Timer::Contest);
            }
            return;
        }
        contest.quiet = 0;
        let told = std::mem::replace(&mut contest.told, true);
        self.announce(1);
        if !told {
            let text = "another machine answers for a floating IP: announced again every second";
            self.record(self.phase(), text.into());
            self.notify(NoticeKind::AddressConflict, text);
        }
    }

    /// The peer is heard again: whoever was on its side may take it for the one that serves.
    pub(super) fn announce_healed(&mut self) {
        if self.master_mut().is_some_and(|m| m.recheck.is_none()) {
            self.announce(self.policy.announce_times);
            self.announce_later();
        }
    }

    /// Begins the later announcements.
    pub(super) fn announce_later(&mut self) {
        if let Some(master) = self.master_mut() {
            master.announced = 0;
            self.timers
                .set(Timer::Announce, self.now + ANNOUNCE_AGAIN[0]);
        }
    }

    pub(super) fn announce_due(&mut self) {
        let Some(master) = self.master_mut() else {
            return;
        };
        let next = (master.announced + 1).min(ANNOUNCE_AGAIN.len() - 1);
        master.announced = next;
        self.timers
            .set(Timer::Announce, self.now + ANNOUNCE_AGAIN[next]);
        // Not while it asks whether another one took over.
        self.announce(1);
    }

    // R4.

    /// The peer has been silent for so long that it cannot have taken over by itself.
    pub(super) fn solo_due(&mut self) {
        let silent = self
            .silence()
            .is_none_or(|silence| silence >= self.policy.solo_after());
        if matches!(self.state, State::Master(_)) && silent && !self.durable.solo {
            self.durable.solo = true;
            let why = "the peer has been silent for so long that it cannot have taken over by itself: solo";
            self.record(self.phase(), why.into());
        }
        if matches!(self.state, State::Master(_)) && !silent {
            self.timers
                .set(Timer::Solo, self.now + self.policy.solo_after());
        }
    }

    /// Gives the role up with no other master in contact, which a person would hear of as two masters.
    pub(super) fn step_down(&mut self, why: &str) {
        self.notify(NoticeKind::SteppedDown, format!("it steps down: {why}"));
        self.follow(why);
    }

    // Handing over. Looked at with every input, that is, at least at every heartbeat.

    pub(super) fn advance_master(&mut self) {
        let Some(master) = self.master_mut() else {
            return;
        };
        if let Some(recheck) = master.recheck {
            // The peer knows that this node is back, and is not master (else it would have stepped down).
            if self.peer.acknowledged() >= recheck.beat && self.peer_heard() {
                self.recheck_done("the peer knows that this node is back, and is no master");
            }
            return;
        }
        let cause = match self.handover_cause() {
            Some(cause) => cause,
            None => {
                if let Some(master) = self.master_mut() {
                    master.refused = None;
                }
                return;
            }
        };
        if cause == MoveCause::PeerAhead {
            self.step_down(&format!("{cause}: it has to serve"));
            return;
        }
        match self.against_handover(cause) {
            None => self.cede(cause),
            Some(why) => self.refuse_handover(cause, &why),
        }
    }

    fn handover_cause(&self) -> Option<MoveCause> {
        let State::Master(master) = &self.state else {
            return None;
        };
        if self.peer_has_everything() {
            return Some(MoveCause::PeerAhead);
        }
        if self.known.own_network == Health::Bad {
            return Some(MoveCause::Network);
        }
        (self.known.own_services == Health::Bad && master.starting.is_none())
            .then_some(MoveCause::Services)
    }

    /// R2 between a live master and a peer that used a higher term: the master's heads are in the peer's
    /// lineages. It has nothing that the peer lacks, and must receive.
    fn peer_has_everything(&self) -> bool {
        let behind = self
            .known
            .facts
            .as_ref()
            .is_some_and(|f| f.relation == Relation::Behind);
        let higher = self.peer.body().is_some_and(|peer| {
            peer.term > self.durable.term_used && peer.born && !Self::acts(peer.phase)
        });
        behind && higher && self.both_hear() && self.durable.identity == PeerIdentity::Same
    }

    fn against_handover(&self, cause: MoveCause) -> Option<String> {
        let State::Master(master) = &self.state else {
            return None;
        };
        if self.now < master.settled {
            return Some("a move has just ended".into());
        }
        if self.durable.maintenance.is_some() {
            return Some("maintenance is on".into());
        }
        self.move_obstacle(cause)
    }

    fn refuse_handover(&mut self, cause: MoveCause, why: &str) {
        let Some(master) = self.master_mut() else {
            return;
        };
        if master.refused.is_some() {
            return;
        }
        let text = format!("{cause}, but the role stays here: {why}");
        master.refused = Some(text.clone());
        self.record(self.phase(), text.clone());
        self.notify(NoticeKind::Refused, text);
    }
}
