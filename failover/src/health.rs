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

    /// A monitor of which something is known: its health, and how often in a row it has failed since it was last good.
    pub fn resumed(fall: u32, rise: u32, health: Health, failures: u32) -> Self {
        let against = match health {
            Health::Good => failures,
            Health::Unknown | Health::Bad => 0,
        };
        Self {
            health,
            against,
            ..Self::new(fall, rise)
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

/// Health of ways of which one is enough: good if one is good, bad if none is good and one is bad, else unknown.
pub fn any_of(parts: impl IntoIterator<Item = Health>) -> Health {
    parts
        .into_iter()
        .fold(Health::Unknown, |all, one| match (all, one) {
            (Health::Good, _) | (_, Health::Good) => Health::Good,
            (Health::Bad, _) | (_, Health::Bad) => Health::Bad,
            (Health::Unknown, Health::Unknown) => Health::Unknown,
        })
}

#[cfg(test)]
mod tests {
    use super::{Health, Watch, all_of, any_of};

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

    #[test]
    fn of_several_ways_one_is_enough() {
        let (unknown, good, bad) = (Health::Unknown, Health::Good, Health::Bad);
        for (parts, expected) in [
            (vec![], unknown),
            (vec![unknown], unknown),
            (vec![bad, good, unknown], good),
            (vec![bad, unknown], bad),
            (vec![bad, bad], bad),
        ] {
            assert_eq!(any_of(parts.clone()), expected, "{parts:?}");
        }
    }

    #[test]
    fn what_is_known_is_gone_on_with() {
        let mut good = Watch::resumed(3, 2, Health::Good, 1);
        assert_eq!(good.result(false), Health::Good);
        assert_eq!(good.result(false), Health::Bad, "the third in a row");
        let mut bad = Watch::resumed(3, 2, Health::Bad, 7);
        assert_eq!(bad.result(true), Health::Bad);
        assert_eq!(bad.result(true), Health::Good);
        let mut unknown = Watch::resumed(3, 2, Health::Unknown, 9);
        assert_eq!(unknown.result(false), Health::Unknown);
    }
}
