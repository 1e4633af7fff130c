//! (pure) The results of one monitor, counted.

use super::{MonitorConfig, MonitorState, Verdict};
use crate::health::{Health, Watch};

/// Counts one monitor's results.
pub(super) struct Tally {
    watch: Watch,
    fall: u32,
    uncounted: u32,
    /// In a row.
    pub(super) failures: u32,
}

impl Tally {
    /// Goes on from what is known of the monitor.
    pub(super) fn new(monitor: &MonitorConfig, known: &MonitorState) -> Self {
        Self {
            watch: Watch::resumed(monitor.fall, monitor.rise, known.health, known.failures),
            fall: monitor.fall.max(1),
            uncounted: 0,
            failures: known.failures,
        }
    }

    pub(super) fn take(&mut self, verdict: &Verdict) -> Health {
        match verdict {
            Verdict::Uncounted(_) => self.uncounted = self.uncounted.saturating_add(1),
            Verdict::Good(_) | Verdict::Bad(_) => {
                self.uncounted = 0;
                self.failures = match verdict {
                    Verdict::Bad(_) => self.failures.saturating_add(1),
                    _ => 0,
                };
                self.watch.result(matches!(verdict, Verdict::Good(_)));
            }
        }
        self.health()
    }

    /// After as many uncounted results as failures make it bad, what was known is no longer worth anything.
    fn health(&self) -> Health {
        if self.uncounted >= self.fall {
            Health::Unknown
        } else {
            self.watch.health()
        }
    }
}
