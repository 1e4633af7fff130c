//! A node that was away, as a paused virtual machine: what it knew may be over, and it asks before it acts.

use super::Machine;
use super::state::{Alone, Claiming, Recheck, State};
use crate::effect::Effect;
use crate::time::spoken;
use crate::timer::Timer;
use std::time::Duration;

/// Questions whether another machine took over, each of which may stay without a result, before a master goes on without one.
const ROUNDS: u8 = 3;

/// Nothing was done yet, and what this node learned before it was away proves nothing any more.
const ASKS_AGAIN: &str = "this node was away: it asks again before it acts";

impl Machine {
    /// This node was away for longer than the dead time: the peer may have taken over.
    pub(super) fn was_away(&mut self, gap: Duration) {
        match &mut self.state {
            State::Claiming(Claiming {
                cause, followed, ..
            }) if cause.asks_again() => {
                let (cause, followed) = (*cause, *followed);
                self.retreat(cause, followed, ASKS_AGAIN);
            }
            State::Taking(taking) if !taking.term_used() && taking.cause.asks_again() => {
                let (cause, followed) = (taking.cause, taking.followed);
                self.retreat(cause, followed, ASKS_AGAIN);
            }
            State::Claiming(claiming) => claiming.away = true,
            State::Taking(taking) => {
                taking.away = true;
                // Nothing is answered or announced before the question that follows when the takeover is done. Before the
                // term is used there is nothing to fence; `use_term` sees to it.
                if taking.term_used() && !self.fenced {
                    self.fence();
                }
            }
            State::Master(_) => self.recheck(),
            State::Ceding(_) => self.ceding_away(),
            // Its answers may have come and gone meanwhile.
            State::Joining(alone @ Alone::Asking(_)) => *alone = Alone::Listening,
            State::Joining(_) | State::Follow(_) | State::Ceded(_) | State::Stopping(_) => return,
        }
        self.record(
            self.phase(),
            format!("this node was away for {}", spoken(gap)),
        );
    }

    /// Fenced, it asks whether the peer took over, before it announces or refreshes anything.
    pub(super) fn recheck(&mut self) {
        self.recheck_round(1);
    }

    fn recheck_round(&mut self, round: u8) {
        if !self.fenced {
            self.fence();
        }
        let (asked, beat) = (self.ticket(), self.peer.beat() + 1);
        if let Some(master) = self.master_mut() {
            master.contest = None;
            master.recheck = Some(Recheck {
                beat,
                asked,
                in_use: None,
                round,
            });
        }
        self.timers.stop(Timer::Contest);
        self.emit(Effect::ProbeConflict {
            ticket: asked,
            within: self.policy.confirm,
        });
        self.beat_now();
        let bound = self.policy.dead_after.saturating_add(self.policy.confirm);
        self.timers.set(Timer::Recheck, self.now + bound);
    }

    pub(super) fn recheck_over(&mut self) {
        let Some(recheck) = self.master_mut().and_then(|master| master.recheck) else {
            return;
        };
        match recheck.in_use {
            Some(true) => {
                self.step_down("while this node was away, another machine took the floating IPs");
            }
            Some(false) => self.recheck_done("nobody took over while this node was away"),
            None if recheck.round < ROUNDS => self.recheck_round(recheck.round + 1),
            None => self.recheck_done("whether another machine took over cannot be asked"),
        }
    }

    pub(super) fn recheck_done(&mut self, why: &str) {
        if let Some(master) = self.master_mut() {
            master.recheck = None;
        }
        self.timers.stop(Timer::Recheck);
        self.unfence();
        self.keep_addresses();
        self.announce(self.policy.announce_times);
        self.contest();
        self.record(self.phase(), format!("{why}: it goes on"));
    }
}
