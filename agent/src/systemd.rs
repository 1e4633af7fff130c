//! What the service manager is told (sd_notify(3)). Outside of systemd (`NOTIFY_SOCKET` unset) nothing is sent.

use sd_notify::NotifyState;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The agent is up and answers on its socket.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// A reload begins; [`ready`] must follow. With the time stamp that `Type=notify-reload` wants.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// The agent stops.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// A line for `systemctl status`.
pub fn status(line: &str) {
    send(&[NotifyState::Status(&line.replace('\n', " "))]);
}

/// The stop needs this much longer from now on (hand-over to the other node).
pub fn extend_timeout(by: Duration) {
    let usec = u32::try_from(by.as_micros()).unwrap_or(u32::MAX);
    send(&[NotifyState::ExtendTimeoutUsec(usec)]);
}

fn send(states: &[NotifyState<'_>]) {
    // The environment stays: `tandem restart` re-executes this process.
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::debug!(error = %error, "sd_notify");
    }
}

/// Feeds systemd's watchdog while every loop proves to be alive.
///
/// Each loop that must be alive gets a [`Heart`] and calls [`Heart::beat`] at least every
/// [`Watchdog::beat_every`]. A thread pings systemd only if every heart has beaten within half of `WATCHDOG_USEC`.
#[derive(Debug)]
pub struct Watchdog {
    hearts: Arc<Hearts>,
    /// Half of `WATCHDOG_USEC`; `None` when the unit has no watchdog.
    limit: Option<Duration>,
    /// Its end wakes the thread, which then ends.
    _stop: Option<Sender<()>>,
}

#[derive(Debug)]
struct Hearts {
    start: Instant,
    all: Mutex<Vec<(&'static str, Arc<AtomicU64>)>>,
}

/// Proof of life of one loop.
#[derive(Debug, Clone)]
pub struct Heart {
    start: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Heart {
    /// "I am alive now." Costs nothing, never waits.
    pub fn beat(&self) {
        self.last_ms
            .store(elapsed_ms(self.start), Ordering::Relaxed);
    }
}

fn elapsed_ms(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl Watchdog {
    /// Reads `WATCHDOG_USEC` and `WATCHDOG_PID` and starts the thread if they are for this process.
    pub fn start() -> std::io::Result<Self> {
        let mut usec = 0;
        let enabled = sd_notify::watchdog_enabled(false, &mut usec) && usec > 0;
        let limit = enabled.then(|| Duration::from_micros(usec) / 2);
        Self::with_limit(limit, || send(&[NotifyState::Watchdog]))
    }

    fn with_limit(
        limit: Option<Duration>,
        ping: impl Fn() + Send + 'static,
    ) -> std::io::Result<Self> {
        let hearts = Arc::new(Hearts {
            start: Instant::now(),
            all: Mutex::new(Vec::new()),
        });
        let mut stop = None;
        if let Some(limit) = limit {
            let (sender, receiver) = channel();
            stop = Some(sender);
            let hearts = hearts.clone();
            std::thread::Builder::new()
                .name("watchdog".into())
                .spawn(move || {
                    while receiver.recv_timeout(limit / 2) == Err(RecvTimeoutError::Timeout) {
                        match hearts.silent(limit) {
                            None => ping(),
                            Some(name) => tracing::error!(name, "loop is stuck: watchdog not fed"),
                        }
                    }
                })?;
        }
        Ok(Self {
            hearts,
            limit,
            _stop: stop,
        })
    }

    /// A new heart, beating now. `name` is for the log.
    pub fn heart(&self, name: &'static str) -> Heart {
        let heart = Heart {
            start: self.hearts.start,
            last_ms: Arc::new(AtomicU64::new(0)),
        };
        heart.beat();
        let mut all = self
            .hearts
            .all
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.push((name, heart.last_ms.clone()));
        heart
    }

    /// How often a heart has to beat at least; `None` without watchdog.
    pub fn beat_every(&self) -> Option<Duration> {
        self.limit.map(|limit| limit / 2)
    }
}

impl Hearts {
    /// Name of a heart that has not beaten within `limit`.
    fn silent(&self, limit: Duration) -> Option<&'static str> {
        let now = elapsed_ms(self.start);
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .find(|(_, last)| now.saturating_sub(last.load(Ordering::Relaxed)) > limit)
            .map(|(name, _)| *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::Receiver;

    const LIMIT: Duration = Duration::from_millis(200);

    fn watchdog() -> (Watchdog, Receiver<()>) {
        let (sender, pings) = channel();
        let watchdog = Watchdog::with_limit(Some(LIMIT), move || {
            // The test may be over.
            let _ = sender.send(());
        });
        (watchdog.unwrap(), pings)
    }

    /// Beats until pings come.
    fn fed(heart: &Heart, pings: &Receiver<()>) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut count = 0;
        while count < 3 {
            heart.beat();
            count += pings.try_iter().count();
            assert!(Instant::now() < deadline, "no ping");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_beating_heart_feeds_the_watchdog_and_a_stuck_one_starves_it() {
        let (watchdog, pings) = watchdog();
        let heart = watchdog.heart("loop");
        fed(&heart, &pings);
        // No more beats: the pings of one limit may still come, then none for three more.
        let deadline = Instant::now() + LIMIT * 2;
        while let Ok(()) = pings.recv_timeout(deadline.saturating_duration_since(Instant::now())) {}
        assert_eq!(
            pings.recv_timeout(LIMIT * 3),
            Err(RecvTimeoutError::Timeout)
        );
        fed(&heart, &pings);
    }

    #[test]
    fn one_stuck_heart_of_two_is_enough_to_starve_it() {
        let (watchdog, _pings) = watchdog();
        let (alive, stuck) = (watchdog.heart("alive"), watchdog.heart("stuck"));
        let deadline = Instant::now() + Duration::from_secs(20);
        while watchdog.hearts.silent(LIMIT) != Some("stuck") {
            alive.beat();
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
        stuck.beat();
        alive.beat();
        assert_eq!(watchdog.hearts.silent(LIMIT), None);
    }

    #[test]
    fn without_a_limit_there_is_nothing_to_beat_for() {
        let watchdog = Watchdog::with_limit(None, || unreachable!()).unwrap();
        watchdog.heart("loop").beat();
        assert_eq!(watchdog.beat_every(), None);
    }
}
