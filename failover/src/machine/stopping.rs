//! The end of the agent, and where results and deadlines go.

use super::Machine;
use super::state::{State, Stopping};
use crate::effect::{DataCommand, Effect, ServiceCommand, Ticket};
use crate::input::DataReport;

impl Machine {
    /// Stops without (or after) a hand-over: applying, addresses, services, in this order.
    pub(super) fn stop_now(&mut self) {
        self.answer_asker(Err("the agent is stopping".into()));
        self.unbind();
        let acted = Self::acts(self.phase());
        if acted {
            // Addresses first: whoever asks must not get an answer that is not replicated.
            let ticket = self.remove_addresses();
            self.data(DataCommand::Idle);
            self.enter(
                State::Stopping(Stopping::Addresses(ticket)),
                "the agent stops",
            );
        } else {
            let ticket = self.data(DataCommand::RevokeApply {
                within: self.policy.apply_stop,
            });
            self.enter(State::Stopping(Stopping::Revoke(ticket)), "the agent stops");
        }
        self.step_within(self.policy.step_timeout);
    }

    /// The present step of the stop is over, well or not.
    fn stopping_next(&mut self) {
        let State::Stopping(step) = self.state else {
            return;
        };
        if matches!(step, Stopping::Addresses(_)) && self.fenced {
            // After the addresses, so that nothing is answered in between.
            self.unfence();
        }
        let next = match step {
            Stopping::Revoke(_) => Stopping::Addresses(self.remove_addresses()),
            Stopping::Addresses(_) if self.services_up => {
                Stopping::Services(self.services(ServiceCommand::Stop))
            }
            Stopping::Addresses(_) | Stopping::Services(_) => {
                self.stopped();
                return;
            }
            Stopping::Gone => return,
        };
        self.state = State::Stopping(next);
        self.step_within(self.policy.step_timeout);
    }

    /// Nothing is left to do: the agent may end.
    pub(super) fn stopped(&mut self) {
        if self.state == State::Stopping(Stopping::Gone) {
            return;
        }
        self.enter(State::Stopping(Stopping::Gone), "the agent has stopped");
        let stopper = self.stopper.take();
        self.answer(stopper, Ok("stopped".into()));
        self.emit(Effect::Exit);
    }

    /// The stop as a whole took too long: the addresses go all the same.
    pub(super) fn stop_late(&mut self) {
        if !self.stop_wanted || self.state == State::Stopping(Stopping::Gone) {
            return;
        }
        self.remove_addresses();
        self.stopped();
    }

    // Results go to the state that asked; the ticket tells whether it still waits.

    pub(super) fn addresses_done(&mut self, ticket: Ticket, result: Result<(), String>) {
        use super::state::{Release, TakeStep};
        self.leftovers_done(ticket, &result);
        if self.stray == Some(ticket) {
            self.stray_done(result);
            return;
        }
        match &self.state {
            State::Follow(follow) if follow.release == Release::Addresses(ticket) => {
                self.release_addresses_done(result);
            }
            State::Taking(taking) if taking.step == TakeStep::Addresses(ticket) => {
                self.taking_addresses_done(result);
            }
            State::Stopping(Stopping::Addresses(expected)) if *expected == ticket => {
                self.stopping_next();
            }
            _ => {}
        }
    }

    pub(super) fn fence_done(&mut self, ticket: Ticket, result: Result<(), String>) {
        use super::state::Release;
        if self.unfencing == Some(ticket) {
            self.unfence_done(result);
            // Without addresses a fence harms nobody: what is left of a master's things goes all the same.
            if matches!(&self.state, State::Follow(f) if f.release == Release::Unfence(ticket)) {
                self.release_services();
            }
            return;
        }
        match &self.state {
            State::Ceding(_) => self.ceding_fence_done(ticket, result),
            _ => {
                if let Err(error) = result {
                    self.trouble("the fence of the floating addresses failed", &error);
                }
            }
        }
    }

    pub(super) fn data_done(&mut self, ticket: Ticket, result: Result<DataReport, String>) {
        match &self.state {
            State::Taking(_) => self.taking_data_done(ticket, result),
            State::Master(_) => self.master_data_done(ticket, result),
            State::Ceding(_) => self.ceding_data_done(ticket, result),
            State::Stopping(Stopping::Revoke(expected)) if *expected == ticket => {
                self.stopping_next();
            }
            State::Joining(_)
            | State::Claiming(_)
            | State::Follow(_)
            | State::Ceded(_)
            | State::Stopping(_) => {}
        }
    }

    pub(super) fn services_done(&mut self, ticket: Ticket, result: Result<(), String>) {
        use super::state::Release;
        match &self.state {
            State::Follow(follow) if follow.release == Release::Services(ticket) => {
                self.release_services_done(result);
            }
            State::Master(master) if master.starting == Some(ticket) => {
                self.master_services_done(result);
            }
            State::Ceding(_) => self.ceding_services_done(ticket, result),
            State::Stopping(Stopping::Services(expected)) if *expected == ticket => {
                self.stopping_next();
            }
            _ => {}
        }
    }

    /// The present step had no result in time.
    pub(super) fn step_late(&mut self) {
        match &self.state {
            State::Follow(_) => self.follow_retry(),
            State::Taking(_) => self.taking_late(),
            State::Ceding(_) => self.ceding_late(),
            State::Ceded(_) => self.ceded_late(),
            State::Stopping(_) => self.stopping_next(),
            State::Claiming(_) => self.write_late(),
            State::Joining(_) | State::Master(_) => {}
        }
    }

    /// A step that failed begins again.
    pub(super) fn retry(&mut self) {
        match &self.state {
            State::Follow(_) => self.follow_retry(),
            State::Taking(_) => self.taking_retry(),
            State::Master(_) => self.master_retry(),
            State::Joining(_)
            | State::Claiming(_)
            | State::Ceding(_)
            | State::Ceded(_)
            | State::Stopping(_) => {}
        }
    }
}
