//! `tandem restart`: an agent that executes itself again as master goes on as master, with its term and its
//! addresses, whether or not its peer is there. Nothing is decided anew: the role is carried over the exec.

use super::state::{Cause, State, TakeStep, Taking};
use super::{Boot, Machine};
use crate::policy::Policy;
use crate::slots::Durable;
use crate::time::Instant;

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
    /// It goes on only while the peer cannot have taken over: it would have to miss heartbeats for the dead time first.
    pub fn restarted(
        policy: Policy,
        durable: Durable,
        boot: Boot,
        now: Instant,
        handover: Option<Handover>,
    ) -> Self {
        let mut machine = Self::new(policy, durable, boot, now);
        if let Some(handover) = handover.filter(|h| machine.may_go_on(*h)) {
            machine.go_on(handover.term);
        }
        machine
    }

    fn may_go_on(&self, handover: Handover) -> bool {
        // The last heartbeat was sent at most one interval before.
        let silent = self
            .now
            .saturating_duration_since(handover.at)
            .saturating_add(self.policy.heartbeat);
        handover.at <= self.now
            && silent < self.policy.dead_after
            && self.durable.was_master
            && self.durable.ceded.is_none()
            && self.durable.term_used == handover.term
            && self.durable.term_seen <= handover.term
    }

    /// As a takeover from the addresses on, but the services run already. Addresses that are there stay as they are.
    fn go_on(&mut self, term: u64) {
        let cause = Cause::Restarted;
        let step = TakeStep::AddressesAgain;
        self.services_up = true;
        self.enter(
            State::Taking(Taking {
                term,
                cause,
                step,
                followed: false,
                away: false,
            }),
            cause.to_string(),
        );
        // A fence may stand that a move raised before.
        self.unfence();
        self.taking_retry();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::{DataCommand, Effect};
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

    #[test]
    fn it_serves_in_its_term_and_starts_no_service() {
        let later = Duration::from_millis(50);
        let mut machine = restarted(master(), later);
        assert_eq!(machine.role(), Role::Master);
        let now = START + later;
        let effects = machine.handle(now, Input::Tick);
        let ticket = effects.iter().find_map(|e| match e {
            Effect::AddAddresses { ticket } => Some(*ticket),
            _ => None,
        });
        let ticket = ticket.expect("addresses are kept");
        let done = Input::AddressesDone {
            ticket,
            result: Ok(()),
        };
        let mut effects = machine.handle(now, done);
        let ticket = effects.iter().find_map(|e| match e {
            Effect::Data {
                ticket,
                command: DataCommand::BeginSource { term: 7 },
            } => Some(*ticket),
            _ => None,
        });
        let result = Ok(DataReport {
            heads_digest: 1,
            seq: 1,
        });
        let ticket = ticket.expect("it is the source");
        effects.extend(machine.handle(now, Input::DataDone { ticket, result }));
        assert_eq!((machine.phase(), machine.term()), (Phase::Master, 7));
        let services = |e: &Effect| matches!(e, Effect::Services { .. });
        assert!(!effects.iter().any(services), "{effects:?}");
    }

    #[test]
    fn late_or_contradicted_it_joins() {
        let soon = Duration::from_millis(50);
        assert_eq!(
            restarted(master(), Duration::from_secs(60)).phase(),
            Phase::Joining
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
