//! `tandem restart`: an agent that executes itself again as master goes on as master, with its term and its
//! addresses, whether or not its peer is there. Nothing is decided anew: the role is carried over the exec.

use super::state::{Cause, Epoch, Master, State};
use super::{Boot, Machine};
use crate::effect::DataCommand;
use crate::policy::Policy;
use crate::slots::Durable;
use crate::time::{Instant, spoken};
use std::time::Duration;

/// What a master leaves to the agent that is executed in its place. It counts in the same boot only: its time is
/// `CLOCK_BOOTTIME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handover {
    /// The term in which it was master.
    pub term: u64,
    /// When its machine was last asked.
    pub at: Instant,
}

impl Machine {
    /// A machine that goes on where `handover` ends, else a new one ([`Machine::new`]).
    ///
    /// It goes on as long as the kernel keeps the addresses of the process before ([`Policy::address_lifetime`]). When that
    /// took longer than the dead time, the peer may have taken over meanwhile: then it goes on as a master that was paused,
    /// fenced until it knows better.
    pub fn restarted(
        policy: Policy,
        durable: Durable,
        boot: Boot,
        now: Instant,
        handover: Option<Handover>,
    ) -> Self {
        let mut machine = Self::new(policy, durable, boot, now);
        if let Some(handover) = handover.filter(|h| machine.may_go_on(*h)) {
            machine.go_on(handover.term, machine.silent_since(handover));
        }
        machine
    }

    /// For how long this node has said nothing. The last heartbeat was sent at most one interval before the end.
    fn silent_since(&self, handover: Handover) -> Duration {
        self.now
            .saturating_duration_since(handover.at)
            .saturating_add(self.policy.heartbeat)
    }

    fn may_go_on(&self, handover: Handover) -> bool {
        handover.at <= self.now
            && self.silent_since(handover) < self.policy.address_lifetime
            && self.durable.was_master
            && self.durable.ceded.is_none()
            && self.durable.term_used == handover.term
            && self.durable.term_seen <= handover.term
    }

    /// Addresses that are there stay as they are, and the services run already. What is missing is the epoch.
    fn go_on(&mut self, term: u64, silent: Duration) {
        let cause = Cause::Restarted;
        self.services_up = true;
        self.holding = true;
        let epoch = self.data(DataCommand::BeginSource { term });
        self.enter(
            State::Master(Master {
                cause,
                starting: None,
                epoch: Some(Epoch::Asked(epoch)),
                contest: None,
                recheck: None,
                settled: self.now,
                refused: None,
                announced: 0,
            }),
            cause.to_string(),
        );
        if silent >= self.policy.dead_after {
            // Not the fence that a process before may have left.
            self.fenced = false;
            self.recheck();
            let why = format!("nothing was said to the peer for {}", spoken(silent));
            self.record(self.phase(), why);
            self.master_entered(cause);
        } else {
            self.master_entered(cause);
            // A fence may stand that a move raised before.
            self.unfence();
            self.keep_addresses();
            self.announce(self.policy.announce_times);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::{DataCommand, Effect, Ticket};
    use crate::heartbeat::{Incarnation, KeyId, MachineId, PairId};
    use crate::input::{DataReport, Input};
    use crate::role::{Phase, Role};
    use std::time::Duration;

    const START: Instant = Instant::from_nanos(1_000_000_000_000);

    fn restarted(durable: Durable, later: Duration) -> Machine {
        let policy = Policy::new(
            PairId::of("test", &[1; 32], &[2; 32]),
            KeyId::of(&[1; 32]),
            KeyId::of(&[2; 32]),
        );
        let boot = Boot {
            incarnation: Incarnation::default(),
            machine: MachineId::default(),
        };
        let handover = Handover { term: 7, at: START };
        Machine::restarted(policy, durable, boot, START + later, Some(handover))
    }

    fn master() -> Durable {
        Durable {
            was_master: true,
            term_used: 7,
            term_seen: 7,
            ..Durable::default()
        }
    }

    const LATE: Duration = Duration::from_secs(3);

    fn ticket_of(effects: &[Effect], wanted: impl Fn(&Effect) -> Option<Ticket>) -> Ticket {
        effects.iter().find_map(wanted).expect("it is asked for")
    }

    fn is_unfenced(effects: &[Effect]) -> bool {
        let shows = |e: &Effect| {
            matches!(
                e,
                Effect::AddAddresses { .. } | Effect::RefreshAddresses | Effect::Announce { .. }
            )
        };
        effects.iter().any(shows)
    }

    #[test]
    fn it_serves_in_its_term_and_starts_no_service() {
        let later = Duration::from_millis(50);
        let mut machine = restarted(master(), later);
        assert_eq!(machine.role(), Role::Master);
        let now = START + later;
        let mut effects = machine.handle(now, Input::Tick);
        assert!(is_unfenced(&effects), "addresses are kept");
        let ticket = ticket_of(&effects, |e| match e {
            Effect::Data {
                ticket,
                command: DataCommand::BeginSource { term: 7 },
            } => Some(*ticket),
            _ => None,
        });
        let result = Ok(DataReport {
            epochs_digest: 1,
            seq: 1,
        });
        effects.extend(machine.handle(now, Input::DataDone { ticket, result }));
        assert_eq!((machine.phase(), machine.term()), (Phase::Master, 7));
        let services = |e: &Effect| matches!(e, Effect::Services { .. } | Effect::Fence { .. });
        assert!(!effects.iter().any(services), "{effects:?}");
    }

    /// An execution that took longer than the dead time, as on a machine that is very busy, loses nothing.
    #[test]
    fn late_it_asks_first_whether_the_peer_took_over() {
        for taken in [false, true] {
            let mut machine = restarted(master(), LATE);
            let now = START + LATE;
            let effects = machine.handle(now, Input::Tick);
            assert_eq!(machine.role(), Role::Master);
            let fence = |e: &Effect| matches!(e, Effect::Fence { .. });
            assert!(
                effects.iter().any(fence) && !is_unfenced(&effects),
                "{effects:?}"
            );
            let ticket = ticket_of(&effects, |e| match e {
                Effect::ProbeConflict { ticket, .. } => Some(*ticket),
                _ => None,
            });
            let answered = Input::ConflictDone {
                ticket,
                answered: Ok(taken),
            };
            let mut effects = machine.handle(now, answered);
            while machine.next_deadline() < now + Duration::from_secs(1) {
                effects.extend(machine.handle(machine.next_deadline(), Input::Tick));
            }
            let removed = |e: &Effect| matches!(e, Effect::RemoveAddresses { .. });
            assert_eq!(is_unfenced(&effects), !taken, "{effects:?}");
            assert_eq!(effects.iter().any(removed), taken, "{effects:?}");
            let phase = if taken {
                Phase::Releasing
            } else {
                Phase::Master
            };
            assert_eq!(machine.phase(), phase);
        }
    }

    #[test]
    fn too_late_or_contradicted_it_joins() {
        let soon = Duration::from_millis(50);
        assert_eq!(
            restarted(master(), Duration::from_secs(20)).phase(),
            Phase::Joining,
            "the kernel has removed the addresses meanwhile"
        );
        let heard = Durable {
            term_seen: 8,
            ..master()
        };
        let other_term = Durable {
            term_used: 8,
            ..master()
        };
        let standby = Durable {
            was_master: false,
            ..master()
        };
        for durable in [heard, other_term, standby] {
            assert_eq!(restarted(durable, soon).phase(), Phase::Joining);
        }
    }
}
