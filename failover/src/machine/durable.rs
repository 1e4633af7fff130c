//! Durable writes: issued when the wanted state differs from the last issued one; done elsewhere.

use super::Machine;
use super::state::{Release, State};
use crate::effect::Effect;
use crate::timer::Timer;
use std::time::Duration;

/// Most writes whose result is awaited: the driver supersedes waiting ones, so that more than two mean
/// that results were lost; the oldest is then forgotten, which only delays what waits for it.
const WRITES: usize = 16;
/// Distance of attempts after a failed write.
const AGAIN: Duration = Duration::from_secs(1);

impl Machine {
    /// Writes the durable state if it is not written or being written.
    pub(super) fn write(&mut self) {
        let issued = self
            .writing
            .back()
            .map_or(&self.written, |(_, durable)| durable);
        if (*issued == self.durable && !self.doubtful) || self.timers.get(Timer::Persist).is_some()
        {
            return;
        }
        self.generation += 1;
        self.doubtful = false;
        if self.writing.len() == WRITES {
            self.writing.pop_front();
        }
        self.writing
            .push_back((self.generation, self.durable.clone()));
        let durable = Box::new(self.durable.clone());
        self.emit(Effect::Persist {
            generation: self.generation,
            durable,
        });
    }

    /// What is to be durable is durable, and nothing else can be on the disk.
    pub(super) fn is_written(&self) -> bool {
        self.writing.is_empty() && !self.doubtful && self.written == self.durable
    }

    pub(super) fn persisted(&mut self, generation: u64, result: Result<(), String>) {
        let Some(at) = self
            .writing
            .iter()
            .position(|(written, _)| *written == generation)
        else {
            return;
        };
        match result {
            Ok(()) => {
                if let Some((_, durable)) = self.writing.drain(..=at).next_back() {
                    self.written = durable;
                }
                self.write_failed = false;
            }
            Err(error) => {
                self.writing.drain(..=at);
                self.doubtful = true;
                self.timers.set(Timer::Persist, self.now + AGAIN);
                if !self.write_failed {
                    self.write_failed = true;
                    self.trouble("the durable state cannot be written", &error);
                }
            }
        }
    }

    /// A result that a state waits for did not come in time: it is written again.
    pub(super) fn write_late(&mut self) {
        self.trouble("the durable state cannot be written", "no result in time");
        self.writing.clear();
        self.doubtful = true;
        self.step_within(self.policy.step_timeout);
    }

    /// Arms the next term while this node follows, so that a takeover waits for no disk.
    pub(super) fn arm(&mut self) {
        let State::Follow(follow) = &self.state else {
            return;
        };
        if follow.release != Release::Done {
            return;
        }
        if !self.armed_here || self.durable.term_armed <= self.term() {
            self.durable.term_armed = self.highest_term().saturating_add(1);
            self.armed_here = true;
        }
    }
}
