//! The machine's deadlines: a closed set.

use crate::time::Instant;

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Timer {
    /// The next heartbeat is due.
    Heartbeat,
    /// The present step must have had its result.
    Step,
    /// A failed step is tried again.
    Retry,
    /// The peer has been silent for the dead time, or is to be questioned again.
    Silence,
    /// A confirmation round must have had its result.
    Probe,
    /// The floating IP is contested: ask and announce again.
    Contest,
    /// The floating addresses need a new lifetime.
    Refresh,
    /// The floating addresses are announced once more.
    Announce,
    /// R4: the silence is long enough for the solo mark.
    Solo,
    /// How long a starting node listens before it looks at R4.
    BootWait,
    /// The data grows stale.
    Fresh,
    /// A standby that was never eligible raises its alarm.
    Grace,
    /// Maintenance ends.
    Maintenance,
    /// A node that was away has listened long enough.
    Recheck,
    /// A failed durable write is tried again.
    Persist,
    /// The agent is to stop, whatever is still open.
    Stop,
}

const COUNT: usize = Timer::Stop as usize + 1;

/// Every timer that can fire, in the order in which simultaneous ones fire.
pub const ALL: [Timer; COUNT] = [
    Timer::Recheck,
    Timer::Maintenance,
    Timer::Fresh,
    Timer::Persist,
    Timer::Probe,
    Timer::Silence,
    Timer::Solo,
    Timer::Step,
    Timer::Retry,
    Timer::BootWait,
    Timer::Contest,
    Timer::Refresh,
    Timer::Announce,
    Timer::Grace,
    Timer::Stop,
    Timer::Heartbeat,
];

/// The deadlines that are set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timers([Option<Instant>; COUNT]);

impl Timers {
    /// Sets `timer`, over an earlier setting.
    pub fn set(&mut self, timer: Timer, at: Instant) {
        self.0[timer as usize] = Some(at);
    }

    /// Stops `timer`.
    pub fn stop(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    /// When `timer` fires, if it is set.
    pub fn get(&self, timer: Timer) -> Option<Instant> {
        self.0[timer as usize]
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }

    /// Takes one timer that is due at `now`; it is stopped by that.
    pub fn pop(&mut self, now: Instant) -> Option<Timer> {
        let due = ALL
            .into_iter()
            .find(|t| self.get(*t).is_some_and(|at| at <= now))?;
        self.stop(due);
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::{ALL, Timer, Timers};
    use crate::time::Instant;

    #[test]
    fn all_names_every_timer_once() {
        let mut slots: Vec<usize> = ALL.iter().map(|t| *t as usize).collect();
        slots.sort_unstable();
        assert_eq!(slots, (0..ALL.len()).collect::<Vec<_>>());
    }

    #[test]
    fn pops_what_is_due_and_nothing_else() {
        let mut timers = Timers::default();
        timers.set(Timer::Heartbeat, Instant::from_nanos(5));
        timers.set(Timer::Solo, Instant::from_nanos(9));
        assert_eq!(timers.next(), Some(Instant::from_nanos(5)));
        assert_eq!(timers.pop(Instant::from_nanos(4)), None);
        assert_eq!(timers.pop(Instant::from_nanos(5)), Some(Timer::Heartbeat));
        assert_eq!(timers.pop(Instant::from_nanos(5)), None);
        assert_eq!(timers.next(), Some(Instant::from_nanos(9)));
    }
}
