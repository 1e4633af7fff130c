//! The floating addresses between the moves: kept by a master, kept away from everybody else.

use super::Machine;
use super::state::{Follow, Master, Release, State};
use crate::effect::Effect;
use crate::health::Health;
use crate::timer::Timer;
use std::time::Duration;

/// What could not be done to the addresses or their fence is tried again after this time.
const AGAIN: Duration = Duration::from_secs(1);

impl Machine {
    fn keeps_addresses(&self) -> bool {
        matches!(
            &self.state,
            State::Master(Master { recheck: None, .. }) | State::Ceding(_)
        )
    }

    /// Adds what is missing of the addresses and renews the rest, whatever the network half did before.
    pub(super) fn keep_addresses(&mut self) {
        let ticket = self.ticket();
        self.emit(Effect::AddAddresses { ticket });
    }

    pub(super) fn refresh_due(&mut self) {
        if !matches!(self.state, State::Master(_) | State::Ceding(_)) {
            return;
        }
        if self.keeps_addresses() {
            self.emit(Effect::RefreshAddresses);
        }
        let stuck = matches!(self.state, State::Master(_)) && self.is_stuck_fence();
        if stuck {
            self.unfence();
            // Given after the order above; heard only if the fence is gone by then.
            self.announce(1);
        }
        let distance = match self.missing.is_some() || stuck {
            true => AGAIN,
            false => self.policy.address_lifetime / 3,
        };
        self.timers.set(Timer::Refresh, self.now + distance);
    }

    /// A fence stands around the addresses of a master that wants none.
    fn is_stuck_fence(&self) -> bool {
        self.fenced && self.unfencing.is_none() && self.keeps_addresses()
    }

    pub(super) fn address_removed(&mut self) {
        if self.holding && matches!(self.state, State::Master(Master { recheck: None, .. })) {
            self.record(
                self.phase(),
                "somebody removed a floating address: it is put back".into(),
            );
            self.emit(Effect::RefreshAddresses);
            self.announce(1);
        }
    }

    /// A floating address is used only by a node whose agent runs as master (invariant 1). While a node joins it may be
    /// one of its former life, of which the agreement says what becomes.
    pub(super) fn address_appeared(&mut self) {
        let State::Follow(follow) = &self.state else {
            return;
        };
        if !matches!(
            follow.release,
            Release::Addresses(_) | Release::AddressesAgain
        ) {
            self.trouble(
                "a floating address is on this standby",
                "somebody added it; it is removed",
            );
            self.remove_stray();
        }
    }

    fn remove_stray(&mut self) {
        let ticket = self.remove_addresses();
        self.stray = Some(ticket);
    }

    pub(super) fn stray_done(&mut self, result: Result<(), String>) {
        self.stray = None;
        if let Err(error) = result {
            self.trouble("a floating address stays on this standby", &error);
            self.retry_in(AGAIN);
        }
    }

    /// The only thing of a standby that is tried again.
    pub(super) fn stray_retry(&mut self) {
        if matches!(
            &self.state,
            State::Follow(Follow {
                release: Release::Done,
                ..
            })
        ) {
            self.remove_stray();
        }
    }

    /// Serving goes on with the addresses that can be held; the others are tried again, and said.
    pub(super) fn address_trouble(&mut self, missing: Option<String>) {
        self.missing = missing;
        self.tell_missing();
        if self.holding {
            // Which ones came is not said here; those that were there are announced once more, which harms nobody.
            self.announce(self.policy.announce_times);
        }
    }

    pub(super) fn tell_missing(&mut self) {
        if !matches!(self.state, State::Master(_) | State::Ceding(_)) {
            return;
        }
        match self.missing.clone() {
            Some(missing) => {
                self.trouble("not every floating address can be held", &missing);
                self.timers.set(Timer::Refresh, self.now + AGAIN);
            }
            None => self.record(self.phase(), "every floating address is held again".into()),
        }
    }

    /// A network that comes back may have forgotten where the addresses live, as a switch that was without power.
    pub(super) fn own_network(&mut self, health: Health) {
        let back = self.known.own_network == Health::Bad && health != Health::Bad;
        self.known.own_network = health;
        if back && self.keeps_addresses() {
            self.announce(self.policy.announce_times);
        }
    }

    /// The fence could not be taken away: this node holds the addresses and answers nobody.
    pub(super) fn unfence_done(&mut self, result: Result<(), String>) {
        self.unfencing = None;
        let Err(error) = result else { return };
        self.fenced = true;
        self.trouble(
            "the fence of the floating addresses cannot be taken away, so nobody is answered",
            &error,
        );
        if self.keeps_addresses() {
            self.timers.set(Timer::Refresh, self.now + AGAIN);
        }
        self.beat_now();
    }
}
