//! Health of something that is watched.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a monitor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Never succeeded since it was configured: never evidence of anything.
    #[default]
    Unknown,
    /// Answers.
    Good,
    /// Answered once, and fails now.
    Bad,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Good => "good",
            Self::Bad => "bad",
        })
    }
}

/// Turns single results of a monitor into [`Health`]: `fall` failures in a row make it bad, `rise`
/// successes in a row make it good. One that never succeeded stays [`Health::Unknown`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    fall: u32,
    rise: u32,
    health: Health,
    /// Results in a row that contradict `health`.
    against: u32,
}

impl Watch {
    /// A monitor without results. Zero counts as one.
    pub fn new(fall: u32, rise: u32) -> Self {
        Self {
            fall: fall.max(1),
            rise: rise.max(1),
            health: Health::Unknown,
            against: 0,
        }
    }

    /// Takes one result; answers the health after it.
    pub fn result(&mut self, good: bool) -> Health {
        let (contradicts, needed) = match self.health {
            Health::Unknown | Health::Bad => (good, self.rise),
            Health::Good => (!good, self.fall),
        };
        self.against = if contradicts {
            self.against.saturating_add(1)
        } else {
            0
        };
        if self.against >= needed {
            self.health = if good { Health::Good } else { Health::Bad };
            self.against = 0;
        }
        self.health
    }

    /// The present health.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Forgets all results, as after the service was started anew.
    pub fn reset(&mut self) {
        *self = Self::new(self.fall, self.rise);
    }
}

/// Health of a set: bad if one is bad, good if none is bad and one is good, else unknown.
pub fn all_of(parts: impl IntoIterator<Item = Health>) -> Health {
    parts
        .into_iter()
        .fold(Health::Unknown, |all, one| match (all, one) {
            (Health::Bad, _) | (_, Health::Bad) => Health::Bad,
            (Health::Good, _) | (_, Health::Good) => Health::Good,
            (Health::Unknown, Health::Unknown) => Health::Unknown,
        })
}

#[cfg(test)]
mod tests {
    use super::{Health, Watch, all_of};

    #[test]
    fn never_succeeded_is_unknown_for_ever() {
        let mut watch = Watch::new(3, 1);
        for _ in 0..100 {
            assert_eq!(watch.result(false), Health::Unknown);
        }
    }

    #[test]
    fn falls_and_rises_after_the_counts() {
        let mut watch = Watch::new(3, 2);
        assert_eq!(watch.result(true), Health::Unknown);
        assert_eq!(watch.result(true), Health::Good);
        assert_eq!(watch.result(false), Health::Good);
        assert_eq!(watch.result(false), Health::Good);
        assert_eq!(
            watch.result(true),
            Health::Good,
            "a success begins the count anew"
        );
        assert_eq!(watch.result(false), Health::Good);
        assert_eq!(watch.result(false), Health::Good);
        assert_eq!(watch.result(false), Health::Bad);
        assert_eq!(watch.result(true), Health::Bad);
        assert_eq!(watch.result(true), Health::Good);
    }

    #[test]
    fn a_set_is_as_bad_as_its_worst_known_part() {
        assert_eq!(all_of([]), Health::Unknown);
        assert_eq!(all_of([Health::Unknown, Health::Good]), Health::Good);
        assert_eq!(
            all_of([Health::Good, Health::Bad, Health::Unknown]),
            Health::Bad
        );
    }
}
