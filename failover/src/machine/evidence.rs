//! Evidence of death: what a silence and a confirmation round mean.

use crate::health::Health;
use crate::input::ProbeAnswers;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What the silence of the peer's agent means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Verdict {
    /// Nothing of it answers.
    Dead,
    /// Its kernel answers, and its services failed that had worked before.
    Hung,
    /// Its kernel answers; its services work, or nothing is known of them.
    AgentSilent,
    /// This node's own public network fails: its silence proves nothing.
    Isolated,
    /// No question left this node, as with a device that is down: its silence proves nothing.
    Unasked,
}

impl Verdict {
    /// Whether a standby may take over on it.
    pub(super) fn allows_takeover(self) -> bool {
        matches!(self, Self::Dead | Self::Hung)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dead => "the peer is dead: nothing of it answers",
            Self::Hung => "the peer hangs: only its kernel answers",
            Self::AgentSilent => {
                "the peer's agent or the link is silent, its machine runs: no takeover"
            }
            Self::Isolated => "this node's own public network fails: no takeover",
            Self::Unasked => "no question to the peer leaves this node: no takeover",
        })
    }
}

/// Judges one confirmation round, which was asked after every link had been silent for the dead time.
pub(super) fn judge(answers: ProbeAnswers, services: Health, own_network: Health) -> Verdict {
    if own_network == Health::Bad || answers.network == Health::Bad {
        return Verdict::Isolated;
    }
    if !answers.any() {
        return match answers.asked {
            true => Verdict::Dead,
            false => Verdict::Unasked,
        };
    }
    if !answers.service && services == Health::Bad {
        return Verdict::Hung;
    }
    Verdict::AgentSilent
}

#[cfg(test)]
mod tests {
    use super::{Verdict, judge};
    use crate::health::Health::{Bad, Good, Unknown};
    use crate::input::ProbeAnswers;

    #[test]
    fn every_combination() {
        for bits in 0..64_u8 {
            let answers = ProbeAnswers {
                icmp: bits & 1 != 0,
                arp: bits & 2 != 0,
                tcp: bits & 4 != 0,
                floating: bits & 8 != 0,
                service: bits & 16 != 0,
                asked: bits & 32 != 0,
                network: Unknown,
            };
            let isolated = ProbeAnswers {
                network: Bad,
                ..answers
            };
            for services in [Unknown, Good, Bad] {
                assert_eq!(judge(answers, services, Bad), Verdict::Isolated);
                // As it was before the silence began.
                assert_eq!(judge(isolated, services, Good), Verdict::Isolated);
                for own in [Unknown, Good] {
                    let expected = match (bits % 32, services) {
                        (0, _) if answers.asked => Verdict::Dead,
                        (0, _) => Verdict::Unasked,
                        (1..16, Bad) => Verdict::Hung,
                        _ => Verdict::AgentSilent,
                    };
                    assert_eq!(
                        judge(answers, services, own),
                        expected,
                        "{answers:?} {services:?}"
                    );
                }
            }
        }
    }
}
