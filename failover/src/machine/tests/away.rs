//! A node that was away: its absence is not the peer's silence, and what it learned before proves nothing any more.

use super::puppet::{Puppet, at};
use crate::effect::Effect;
use crate::input::{Input, Relation};
use crate::role::Phase;
use std::time::Duration;

const AWAY: Duration = Duration::from_secs(600);

fn asks_peer(p: &Puppet) -> bool {
    p.wants(|effect| matches!(effect, Effect::ProbePeer { .. }))
}

/// The loop notices it and says so, and the machine sees the time: it is one absence all the same.
#[test]
fn one_absence_counts_once() {
    let gaps = [
        None,
        Some(AWAY),
        Some(AWAY - Duration::from_millis(3)),
        Some(AWAY + Duration::from_millis(3)),
    ];
    for gap in gaps {
        let mut p = at(Phase::Standby, false);
        p.hear(Phase::Master, 5, |_| {});
        p.pass(AWAY);
        p.feed(match gap {
            Some(gap) => Input::Resumed { gap },
            None => Input::Tick,
        });
        p.open.clear();
        assert_eq!(p.phase(), Phase::Standby);
        // The peer is asked when it has been silent for the dead time of this node's presence.
        p.wait(Duration::from_millis(500));
        assert!(!asks_peer(&p), "{gap:?}: too early");
        p.wait(Duration::from_millis(200));
        assert!(asks_peer(&p), "{gap:?}: too late");
    }
}

/// A node that starts alone, up to the answer that nobody uses the floating IPs.
fn alone() -> Puppet {
    let mut p = Puppet::new(false);
    p.policy.boot_alone = true;
    p.feed(Input::Policy(Box::new(p.policy.clone())));
    p.tell(Relation::Ahead);
    p.wait(p.policy.boot_wait + Duration::from_millis(1));
    answered(&mut p);
    assert_eq!(p.phase(), Phase::Claiming);
    p
}

/// Nobody answers for the floating IPs.
fn answered(p: &mut Puppet) {
    let asked = p.open.iter().rev().find_map(|effect| match effect {
        Effect::ProbeConflict { ticket, .. } => Some(*ticket),
        _ => None,
    });
    p.open
        .retain(|effect| !matches!(effect, Effect::ProbeConflict { .. }));
    p.feed(Input::ConflictDone {
        ticket: asked.expect("it asks"),
        answered: false,
    });
}

#[test]
fn who_starts_alone_and_was_away_asks_again_before_it_acts() {
    for taking in [false, true] {
        let mut p = alone();
        if taking {
            p.obey(|effect| matches!(effect, Effect::Data { .. }));
            assert_eq!(p.phase(), Phase::Preparing);
        }
        p.pass(AWAY);
        p.feed(Input::Tick);
        assert_eq!(p.phase(), Phase::Joining, "taking {taking}");
        // What comes now of the former way moves nothing.
        p.obey(|effect| matches!(effect, Effect::ProbeConflict { .. }));
        assert_eq!(p.phase(), Phase::Joining);
        assert!(!p.wants(|effect| matches!(effect, Effect::AddAddresses { .. })));
        p.tell(Relation::Ahead);
        p.wait(p.policy.boot_wait + Duration::from_millis(1));
        answered(&mut p);
        p.obey(|_| false);
        assert_eq!(p.phase(), Phase::Master);
    }
}
