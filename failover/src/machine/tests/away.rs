//! A node that was away: its absence is not the peer's silence, and what it learned before proves nothing any more.

use super::puppet::{Puppet, at};
use crate::effect::{DataCommand, Effect, ServiceCommand};
use crate::heartbeat::Ceded;
use crate::input::{Input, ProbeAnswers, Relation};
use crate::role::{Phase, Reason};
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
    conflict_done(p, Ok(false));
}

/// The newest question for them has its answer.
fn conflict_done(p: &mut Puppet, answered: Result<bool, String>) {
    let asked = p.open.iter().rev().find_map(|effect| match effect {
        Effect::ProbeConflict { ticket, .. } => Some(*ticket),
        _ => None,
    });
    p.open
        .retain(|effect| !matches!(effect, Effect::ProbeConflict { .. }));
    p.feed(Input::ConflictDone {
        ticket: asked.expect("it asks"),
        answered,
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

/// The question was out when the node went away, and so may its answers have been: that nobody was heard says nothing.
#[test]
fn who_asks_whether_it_may_start_alone_and_was_away_asks_again() {
    let mut p = Puppet::new(false);
    p.policy.boot_alone = true;
    p.feed(Input::Policy(Box::new(p.policy.clone())));
    p.tell(Relation::Ahead);
    p.wait(p.policy.boot_wait + Duration::from_millis(1));
    p.pass(Duration::from_secs(1));
    answered(&mut p);
    assert_eq!(p.phase(), Phase::Joining);
    p.wait(p.policy.boot_wait + Duration::from_millis(1));
    answered(&mut p);
    assert_eq!(p.phase(), Phase::Claiming);
}

/// What could not be asked is not what nobody answered.
#[test]
fn who_cannot_ask_whether_an_address_is_in_use_does_not_start_alone() {
    let mut p = Puppet::new(false);
    p.policy.boot_alone = true;
    p.feed(Input::Policy(Box::new(p.policy.clone())));
    p.tell(Relation::Ahead);
    for _ in 0..3 {
        p.wait(p.policy.boot_wait + Duration::from_millis(1));
        conflict_done(&mut p, Err("no network device eth0".into()));
        assert_eq!(p.phase(), Phase::Joining);
        let shown = p.machine.view(p.now).waiting;
        assert!(shown.contains(&Reason::AddressUnasked), "{shown:?}");
    }
    p.wait(p.policy.boot_wait + Duration::from_millis(1));
    answered(&mut p);
    assert_eq!(p.phase(), Phase::Claiming);
}

/// A question without a result, or one that could not be put, says nothing: it is put again, behind the fence.
#[test]
fn a_master_that_was_away_and_learns_nothing_asks_again_before_it_goes_on() {
    let is_shown = |e: &Effect| matches!(e, Effect::Announce { .. } | Effect::Unfence { .. });
    let is_asked = |e: &&Effect| matches!(e, Effect::ProbeConflict { .. });
    for (learns_in, failing) in [
        (None, false),
        (None, true),
        (Some(2), false),
        (Some(3), true),
    ] {
        let mut p = at(Phase::Master, false);
        p.open.clear();
        p.pass(Duration::from_secs(2));
        p.feed(Input::Tick);
        for round in 1..=3 {
            assert_eq!(p.phase(), Phase::Master);
            assert!(!p.wants(is_shown), "{round}");
            assert_eq!(p.open.iter().filter(is_asked).count(), 1, "{round}");
            if learns_in == Some(round) {
                conflict_done(&mut p, Ok(true));
            } else if failing {
                conflict_done(&mut p, Err("not permitted".into()));
            }
            p.open.retain(|e| !is_asked(&e));
            p.wait(p.policy.dead_after + p.policy.confirm);
            if learns_in == Some(round) {
                assert_eq!(p.phase(), Phase::Releasing);
                break;
            }
        }
        assert_eq!(p.wants(is_shown), learns_in.is_none(), "{learns_in:?}");
    }
}

/// The peer gave its consent before this node was away; it may have taken the role back since.
fn with_consent(moved: bool) -> Puppet {
    if !moved {
        return at(Phase::Claiming, false);
    }
    let mut p = at(Phase::Standby, false);
    let ceded = Ceded {
        term: 8,
        to: p.policy.own,
        epochs_digest: 1,
        seq: 10,
    };
    p.hear(Phase::Ceded, 5, |body| body.ceded = Some(ceded));
    assert_eq!(p.phase(), Phase::Claiming);
    p
}

#[test]
fn who_has_consent_and_was_away_asks_before_it_announces() {
    let is_shown = |e: &Effect| matches!(e, Effect::Announce { .. } | Effect::Unfence { .. });
    for bits in 0..8_u8 {
        let [moved, preparing, taken] = [1, 2, 4].map(|bit| bits & bit != 0);
        let mut p = with_consent(moved);
        if preparing {
            p.obey(|e| matches!(e, Effect::Data { .. }));
            assert_eq!(p.phase(), Phase::Preparing);
        }
        p.pass(Duration::from_secs(5));
        p.feed(Input::Tick);
        let is_fence = |e: &Effect| matches!(e, Effect::Fence { .. });
        let is_epoch = |e: &Effect| {
            let Effect::Data { command, .. } = e else {
                return false;
            };
            matches!(command, DataCommand::BeginSource { .. })
        };
        p.obey(|e| is_epoch(e) || is_fence(e));
        assert!(p.wants(is_epoch) && p.wants(is_fence), "fenced before");
        let is_asked = |e: &Effect| matches!(e, Effect::ProbeConflict { .. });
        p.obey(|e| is_asked(e) || is_shown(e));
        assert_eq!(p.phase(), Phase::Master);
        assert!(
            p.wants(is_asked) && !p.wants(is_shown),
            "{bits} {:?}",
            p.open
        );
        if taken {
            conflict_done(&mut p, Ok(true));
            p.obey(is_shown);
            p.wait(p.policy.dead_after + p.policy.confirm);
            assert!(!p.wants(is_shown));
            assert_eq!(p.phase(), Phase::Releasing);
        } else {
            p.hear(Phase::Standby, 5, |_| {});
            assert!(p.wants(is_shown));
        }
    }
}

/// The addresses, behind their fence, and the services of a node that gave its role away are still there when it takes it back.
#[test]
fn who_takes_its_role_back_and_was_away_gets_rid_of_a_masters_things() {
    for preparing in [false, true] {
        let mut p = at(Phase::Ceded, false);
        p.open.clear();
        p.wait(Duration::from_millis(700));
        let asked = p.open.iter().find_map(|effect| match effect {
            Effect::ProbePeer { ticket, .. } => Some(*ticket),
            _ => None,
        });
        p.feed(Input::ProbeDone {
            ticket: asked.expect("a round"),
            answers: ProbeAnswers::SILENT,
        });
        assert_eq!(p.phase(), Phase::Claiming);
        if preparing {
            p.obey(|e| matches!(e, Effect::Data { .. }));
            assert_eq!(p.phase(), Phase::Preparing);
        }
        p.open.clear();
        p.pass(AWAY);
        p.feed(Input::Tick);
        let released: Vec<_> = p
            .play()
            .into_iter()
            .filter(|effect| {
                matches!(
                    effect,
                    Effect::RemoveAddresses { .. }
                        | Effect::Unfence { .. }
                        | Effect::Services { .. }
                        | Effect::Data { .. }
                )
            })
            .collect();
        assert!(
            matches!(
                released.as_slice(),
                [
                    Effect::RemoveAddresses { .. },
                    Effect::Unfence { .. },
                    Effect::Services {
                        command: ServiceCommand::Stop,
                        ..
                    },
                    Effect::Data {
                        command: DataCommand::BeginReplica,
                        ..
                    },
                ]
            ),
            "{released:?}"
        );
        assert_eq!(p.phase(), Phase::Standby);
        assert!(!p.machine.durable.was_master);
    }
}

/// Whether another machine answers is asked again once it is known that nobody took over.
#[test]
fn a_contest_goes_on_after_an_absence() {
    for away_in_contest in [false, true] {
        let mut p = at(Phase::Taking, false);
        let is_asked = |e: &Effect| matches!(e, Effect::ProbeConflict { .. });
        p.obey(is_asked);
        assert_eq!(p.phase(), Phase::Master);
        if !away_in_contest {
            p.obey(|_| false);
            p.wait(Duration::from_secs(4));
            p.obey(|_| false);
        }
        p.open.clear();
        p.pass(Duration::from_secs(2));
        p.feed(Input::Tick);
        // Seen while it asks whether it is master still.
        p.feed(Input::AddressConflict);
        p.obey(is_asked);
        p.hear(Phase::Standby, 5, |_| {});
        p.open.clear();
        p.wait(Duration::from_secs(1));
        conflict_done(&mut p, Ok(true));
        assert!(p.wants(|e| matches!(e, Effect::Announce { .. })));
    }
}
