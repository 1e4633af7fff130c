//! The takeover, step by step.

use super::Machine;
use super::state::{Cause, Claiming, Epoch, Master, State, TakeStep, Taking};
use crate::effect::{DataCommand, Effect, NoticeKind, ServiceCommand, Ticket};
use crate::input::DataReport;
use crate::timer::Timer;
use std::time::Duration;

/// Addresses that could not be added, and an epoch that could not be made durable, are tried again after this time.
const AGAIN: Duration = Duration::from_secs(1);
/// A fence device that failed is asked again after this time.
const FENCE_AGAIN: Duration = Duration::from_secs(10);
/// What a result may be late beyond the bound that its request carries.
const SLACK: Duration = Duration::from_millis(500);

impl Machine {
    /// Begins to become master with a term that is durable here (armed or claimed).
    pub(super) fn take_over(&mut self, way: Claiming) {
        let Claiming {
            term,
            cause,
            followed,
            away,
        } = way;
        let fence = self.policy.peer_fence.filter(|_| cause.fences());
        let ticket = self.ticket();
        let step = match fence {
            Some(_) => TakeStep::FencePeer(ticket),
            None => TakeStep::Revoke(ticket),
        };
        let taking = Taking {
            term,
            cause,
            step,
            late: false,
            epoch: None,
            followed,
            away,
        };
        self.enter(State::Taking(taking), cause.to_string());
        match fence {
            Some(bound) => {
                self.emit(Effect::FencePeer { ticket });
                self.step_within(bound.saturating_add(SLACK));
            }
            None => self.quiesce(),
        }
    }

    /// Ends a hold if there is one, and stops applying.
    fn quiesce(&mut self) {
        if self.known.hold {
            let within = self.policy.spool;
            let ticket = self.data(DataCommand::EndHold { within });
            self.take_step(TakeStep::EndHold(ticket), within + SLACK);
        } else {
            self.revoke();
        }
    }

    fn revoke(&mut self) {
        let within = self.policy.apply_stop;
        let ticket = self.data(DataCommand::RevokeApply { within });
        self.take_step(TakeStep::Revoke(ticket), within + SLACK);
    }

    fn take_step(&mut self, step: TakeStep, within: Duration) {
        if let State::Taking(taking) = &mut self.state {
            taking.step = step;
        }
        self.step_within(within);
    }

    /// The step that came before is over, well or not.
    fn taking_next(&mut self) {
        let State::Taking(taking) = self.state else {
            return;
        };
        match taking.step {
            TakeStep::FencePeer(_) => self.quiesce(),
            TakeStep::EndHold(_) => self.revoke(),
            TakeStep::Revoke(_) => self.use_term(taking),
            TakeStep::Epoch(ticket) => self.without_epoch(Epoch::Asked(ticket)),
            TakeStep::EpochAgain => self.begin_epoch(),
            TakeStep::Addresses(_) | TakeStep::AddressesAgain => self.add_addresses(),
        }
    }

    /// From here on the term counts as used. It was durable before.
    fn use_term(&mut self, taking: Taking) {
        self.durable.term_used = self.durable.term_used.max(taking.term);
        self.durable.was_master = true;
        self.durable.ceded = None;
        self.unbind();
        if taking.away {
            // Taken away when it is known that nobody took over (`become_master`). What stands so far, if anything, is of a
            // former life.
            self.fence();
        } else if self.fenced {
            self.unfence();
        }
        self.begin_epoch();
        self.beat_now();
        let why = format!("term {} is used", taking.term);
        self.record(crate::role::Phase::Preparing, why);
    }

    /// The addresses come after it: what is written through them belongs to this epoch, and a power cut in between leaves
    /// both nodes with the same history and nothing written in it.
    fn begin_epoch(&mut self) {
        let ticket = self.data(DataCommand::BeginSource {
            term: self.durable.term_used,
        });
        self.take_step(TakeStep::Epoch(ticket), self.policy.epoch_wait);
    }

    /// The epoch is not durable. Only a takeover by hand, whose price was accepted, goes on all the same.
    pub(super) fn without_epoch(&mut self, epoch: Epoch) {
        let State::Taking(taking) = &mut self.state else {
            return;
        };
        taking.late = true;
        if taking.cause == Cause::Forced {
            taking.epoch = Some(epoch);
            self.add_addresses();
        } else if epoch == Epoch::Again {
            taking.step = TakeStep::EpochAgain;
            self.timers.stop(Timer::Step);
            self.retry_in(AGAIN);
        }
    }

    /// An operator does not wait for an epoch that is late. Answers whether one is.
    pub(super) fn serve_without_epoch(&mut self) -> bool {
        let State::Taking(taking) = &mut self.state else {
            return false;
        };
        let epoch = match taking.step {
            TakeStep::Epoch(ticket) if taking.late => Epoch::Asked(ticket),
            TakeStep::EpochAgain => Epoch::Again,
            _ => return false,
        };
        taking.cause = Cause::Forced;
        self.timers.stop(Timer::Retry);
        self.record(self.phase(), Cause::Forced.to_string());
        self.without_epoch(epoch);
        true
    }

    fn add_addresses(&mut self) {
        let ticket = self.ticket();
        self.take_step(TakeStep::Addresses(ticket), self.policy.step_timeout);
        self.emit(Effect::AddAddresses { ticket });
    }

    pub(super) fn taking_addresses_done(&mut self, result: Result<(), String>) {
        let State::Taking(taking) = self.state else {
            return;
        };
        if let Err(error) = result {
            self.trouble("the floating addresses cannot be added", &error);
            self.timers.stop(Timer::Step);
            self.retry_in(AGAIN);
            if let State::Taking(taking) = &mut self.state {
                taking.step = TakeStep::AddressesAgain;
            }
            return;
        }
        self.holding = true;
        self.announce(self.policy.announce_times);
        self.become_master(taking);
    }

    pub(super) fn taking_data_done(&mut self, ticket: Ticket, result: Result<DataReport, String>) {
        let State::Taking(taking) = &mut self.state else {
            return;
        };
        if taking.epoch == Some(Epoch::Asked(ticket)) {
            taking.epoch = result.is_err().then_some(Epoch::Again);
        }
        match taking.step {
            TakeStep::EndHold(expected) | TakeStep::Revoke(expected) if expected == ticket => {
                if let Err(error) = result {
                    self.trouble("applying did not stop in time", &error);
                }
                self.taking_next();
            }
            TakeStep::Epoch(expected) if expected == ticket => match result {
                Ok(_) => self.add_addresses(),
                Err(error) => {
                    self.trouble("the new epoch cannot be made durable", &error);
                    self.without_epoch(Epoch::Again);
                }
            },
            _ => {}
        }
    }

    pub(super) fn peer_fenced(&mut self, ticket: Ticket, result: Result<(), String>) {
        let State::Taking(Taking {
            step: TakeStep::FencePeer(expected),
            ..
        }) = self.state
        else {
            return;
        };
        if expected == ticket {
            match result {
                Ok(()) => self.taking_next(),
                Err(error) => self.not_fenced(&error),
            }
        }
    }

    /// The peer may live, and use the addresses: nothing is taken. Asked again later, with new evidence.
    fn not_fenced(&mut self, error: &str) {
        let State::Taking(taking) = self.state else {
            return;
        };
        let text = format!("the peer cannot be fenced, so nothing is taken over: {error}");
        self.retreat(taking.cause, taking.followed, &text);
        self.notify(NoticeKind::Refused, text.clone());
        self.refused = Some((Vec::new(), text));
        self.timers.set(Timer::Silence, self.now + FENCE_AGAIN);
    }

    /// The step's time is over. Only the epoch and the addresses are indispensable.
    pub(super) fn taking_late(&mut self) {
        let State::Taking(taking) = self.state else {
            return;
        };
        match taking.step {
            TakeStep::FencePeer(_) => {
                self.not_fenced("no result in time");
                return;
            }
            TakeStep::EndHold(_) | TakeStep::Revoke(_) => {
                self.trouble("applying did not stop in time", "no result in time");
            }
            TakeStep::Addresses(_) => {
                self.trouble(
                    "the floating addresses cannot be added",
                    "no result in time",
                );
            }
            TakeStep::Epoch(_) => {
                self.trouble(
                    "the new epoch is late",
                    "the floating addresses wait for it",
                );
            }
            TakeStep::EpochAgain | TakeStep::AddressesAgain => {}
        }
        self.taking_next();
    }

    pub(super) fn taking_retry(&mut self) {
        let State::Taking(taking) = &self.state else {
            return;
        };
        match taking.step {
            TakeStep::EpochAgain => self.begin_epoch(),
            TakeStep::AddressesAgain => self.add_addresses(),
            TakeStep::FencePeer(_) | TakeStep::EndHold(_) | TakeStep::Revoke(_) => {}
            TakeStep::Epoch(_) | TakeStep::Addresses(_) => {}
        }
    }

    /// Signs of life of a peer that was thought dead call a takeover off while its term is not yet used.
    pub(super) fn advance_taking(&mut self) {
        let State::Taking(taking) = &self.state else {
            return;
        };
        if taking.thought_dead() && self.peer_heard() {
            self.call_off("the peer is heard again: the takeover is called off");
        }
    }

    /// The way back while the term is not used: to where this node came from.
    pub(super) fn retreat(&mut self, cause: Cause, followed: bool, why: &str) {
        match (cause, followed) {
            // It still has a master's addresses, behind their fence, and services.
            (Cause::Returned, _) => self.follow(why),
            (_, true) => self.call_off(why),
            (_, false) => self.listen_again(why),
        }
    }

    fn become_master(&mut self, taking: Taking) {
        let starting = Some(self.services(ServiceCommand::Start));
        self.services_up = true;
        self.frozen = false;
        let settle = if matches!(taking.cause, Cause::Moved) {
            self.policy.settle
        } else {
            Duration::ZERO
        };
        let master = Master {
            cause: taking.cause,
            starting,
            epoch: taking.epoch,
            contest: None,
            recheck: None,
            settled: self.now + settle,
            refused: None,
            announced: 0,
        };
        self.enter(
            State::Master(master),
            format!("it serves: {}", taking.cause),
        );
        // First, so that its fence is not taken for one that was left over.
        if taking.away {
            self.recheck();
        }
        self.master_entered(taking.cause);
        // Now, not when the services and hooks are done: that may take an hour, or never come.
        let kind = match taking.cause.one_sided() {
            true => NoticeKind::Takeover,
            false => NoticeKind::Moved,
        };
        self.notify(kind, format!("this node is master now: {}", taking.cause));
    }
}
