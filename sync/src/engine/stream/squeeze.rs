//! When what goes to the peer is compressed: while the link is what everything waits for.

use std::sync::Arc;
use std::time::Duration;

/// What a connection tells of its link, in all since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkUse {
    /// It had sent something that had not arrived yet, or could not send what was there (`tcpi_busy_time`).
    pub busy: Duration,
    /// Of that: the other side had no room for more (`tcpi_rwnd_limited`).
    pub held: Duration,
}

/// Asks a connection. `None`: it cannot tell.
pub type Gauge = Arc<dyn Fn() -> Option<LinkUse> + Send + Sync>;

/// Time between two looks at the link.
const EVERY: u64 = super::clock::ms(100);
/// The link carries all it can when it does so in this share of the time, in percent.
const BUSY: u128 = 80;
/// It has so much to spare that whatever was compressed need not be.
const IDLE: u128 = 20;
/// Packs that are sent as they are after one that did not become smaller, most of them: trying costs little, but not nothing.
const PATIENCE: u32 = 64;

/// Decides for one connection.
pub(super) struct Squeeze {
    gauge: Option<Gauge>,
    looked: u64,
    before: LinkUse,
    on: bool,
    /// Packs that are still sent as they are.
    skip: u32,
    /// What `skip` becomes next.
    patience: u32,
}

impl Squeeze {
    pub fn new(gauge: Option<Gauge>, now: u64) -> Squeeze {
        Squeeze {
            gauge,
            looked: now,
            before: LinkUse::default(),
            on: false,
            skip: 0,
            patience: 1,
        }
    }

    /// Whether the next pack is to be compressed.
    pub fn wants(&mut self, now: u64) -> bool {
        let passed = now.saturating_sub(self.looked);
        if passed >= EVERY
            && let Some(used) = self.gauge.as_ref().and_then(|gauge| gauge())
        {
            let busy = used.busy.saturating_sub(self.before.busy);
            let held = used.held.saturating_sub(self.before.held);
            let share = busy.saturating_sub(held).as_nanos() * 100 / u128::from(passed);
            let on = match self.on {
                false => share >= BUSY,
                true => share >= IDLE,
            };
            if on != self.on {
                tracing::debug!(compressed = on, busy_percent = %share, "what is sent to the peer");
            }
            (self.looked, self.before, self.on) = (now, used, on);
        }
        if self.on && self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.on
    }

    /// What came of it.
    pub fn was(&mut self, smaller: bool) {
        match smaller {
            true => self.patience = 1,
            false => {
                self.skip = self.patience;
                self.patience = (self.patience * 2).min(PATIENCE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::clock::ms;
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn compressed_is_while_the_link_is_what_is_waited_for() {
        let now = Arc::new(Mutex::new(LinkUse::default()));
        let shown = Arc::clone(&now);
        let mut squeeze = Squeeze::new(Some(Arc::new(move || Some(*shown.lock().unwrap()))), 0);
        let mut time = 0;
        let mut pass = |busy, held| {
            time += 100;
            let mut used = now.lock().unwrap();
            used.busy += Duration::from_millis(busy);
            used.held += Duration::from_millis(held);
            drop(used);
            squeeze.wants(ms(time))
        };
        for (busy, held, wanted) in [
            // The cores cannot keep it busy.
            (50, 0, false),
            // It is full, because the receiver does not read.
            (100, 60, false),
            (95, 5, true),
            // With less to carry it is not full any more, and that is no reason to stop.
            (40, 0, true),
            (10, 0, false),
        ] {
            assert_eq!(pass(busy, held), wanted, "{busy} {held}");
        }
    }

    #[test]
    fn what_does_not_shrink_is_tried_less_and_less() {
        let full = Arc::new(|| {
            Some(LinkUse {
                busy: Duration::from_secs(1),
                held: Duration::ZERO,
            })
        });
        let mut squeeze = Squeeze::new(Some(full), 0);
        let mut tried = Vec::new();
        for pack in 0..400 {
            if squeeze.wants(ms(101)) {
                tried.push(pack);
                squeeze.was(false);
            }
        }
        assert_eq!(tried[..5], [0, 2, 5, 10, 19]);
        assert!(tried.len() <= 12, "{tried:?}");
        squeeze.skip = 0;
        squeeze.was(true);
        assert!(squeeze.wants(ms(102)) && squeeze.patience == 1);
    }

    #[test]
    fn without_a_gauge_nothing_is_compressed() {
        let mut squeeze = Squeeze::new(None, 0);
        assert!(!squeeze.wants(ms(1000)) && !squeeze.wants(ms(2000)));
    }
}
