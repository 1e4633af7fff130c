//! The order of effects at a takeover and at its opposite.

use super::puppet::{Puppet, at, result_of};
use crate::effect::{DataCommand, Effect, NoticeKind, ServiceCommand};
use crate::health::Health;
use crate::input::{Command, Input, ProbeAnswers, Relation};
use crate::role::{Phase, Role};
use std::time::Duration;

/// What an effect is called in the order; `None` is of no interest there.
fn name(effect: &Effect) -> Option<&'static str> {
    Some(match effect {
        Effect::Data { command, .. } => match command {
            DataCommand::EndHold { .. } => "end hold",
            DataCommand::RevokeApply { .. } => "revoke",
            DataCommand::BeginSource { .. } => "source",
            DataCommand::BeginReplica => "replica",
            DataCommand::Idle => "idle",
            _ => "other data",
        },
        Effect::Services { command, .. } => match command {
            ServiceCommand::Start => "start services",
            ServiceCommand::Stop => "stop services",
            ServiceCommand::Freeze | ServiceCommand::Thaw => "freeze",
        },
        Effect::Persist { durable, .. } if durable.was_master => "term",
        Effect::AddAddresses { .. } => "addresses on",
        Effect::RemoveAddresses { .. } => "addresses off",
        Effect::Announce { .. } => "announce",
        Effect::Fence { .. } => "fence",
        Effect::Unfence { .. } => "unfence",
        Effect::Notify(_) => "mail",
        _ => return None,
    })
}

fn told(p: &Puppet, kind: NoticeKind) -> bool {
    p.wants(|e| matches!(e, Effect::Notify(notice) if notice.kind == kind))
}

fn names(effects: &[Effect]) -> Vec<&'static str> {
    effects.iter().filter_map(name).collect()
}

#[test]
fn of_a_takeover() {
    for hold in [false, true] {
        let mut p = at(Phase::Standby, false);
        p.feed(Input::Hold { active: hold });
        p.wait(Duration::from_millis(700));
        let asked = p.open.iter().find_map(|e| match e {
            Effect::ProbePeer { ticket, .. } => Some(*ticket),
            _ => None,
        });
        p.open.clear();
        p.feed(Input::ProbeDone {
            ticket: asked.expect("a round"),
            answers: ProbeAnswers::SILENT,
        });
        let mut expected = vec![
            "revoke",
            "source",
            "term",
            "addresses on",
            "announce",
            "start services",
            "mail",
        ];
        if hold {
            expected.insert(0, "end hold");
        }
        let mut seen = names(&p.play());
        // The standby was fenced by nothing; a refresh and a contest say nothing of the order.
        seen.dedup();
        assert_eq!(seen, expected, "hold {hold}");
        assert_eq!(p.phase(), Phase::Master);
    }
}

/// Silent and asked: the round finds nothing of the peer.
fn silent(p: &mut Puppet) {
    p.wait(Duration::from_millis(700));
    let asked = p.open.iter().rev().find_map(|e| match e {
        Effect::ProbePeer { ticket, .. } => Some(*ticket),
        _ => None,
    });
    p.open.clear();
    p.feed(Input::ProbeDone {
        ticket: asked.expect("a round"),
        answers: ProbeAnswers::SILENT,
    });
}

/// Where a device is configured that cuts the peer off, nobody takes over beside a peer that may live.
#[test]
fn a_fence_that_fails_or_says_nothing_keeps_the_standby() {
    let is_fence = |e: &Effect| matches!(e, Effect::FencePeer { .. });
    for late in [false, true] {
        let mut p = at(Phase::Standby, false);
        p.policy.peer_fence = Some(Duration::from_secs(40));
        p.feed(Input::Policy(Box::new(p.policy.clone())));
        silent(&mut p);
        p.obey(is_fence);
        let asked = p.open.iter().find(|e| is_fence(e)).cloned();
        let asked = asked.expect("it is asked first");
        p.open.clear();
        if late {
            p.wait(Duration::from_secs(39));
            assert_eq!(
                p.phase(),
                Phase::Preparing,
                "as long as the device may take"
            );
            p.wait(Duration::from_secs(2));
        } else {
            p.feed(result_of(&asked, false).expect("a result"));
        }
        assert_eq!(p.phase(), Phase::Standby);
        assert!(told(&p, NoticeKind::Refused));
        let refused = p.machine.view(p.now).trouble.refused;
        assert!(refused.is_some_and(|text| text.contains("cannot be fenced")));
        p.obey(|_| false);
        // A result that comes now is of a takeover that is over.
        p.feed(result_of(&asked, true).expect("a result"));
        assert_eq!(p.phase(), Phase::Standby);
        // Again, and on new evidence.
        p.wait(Duration::from_secs(9));
        assert!(!p.wants(|e| matches!(e, Effect::ProbePeer { .. })));
        p.tell(Relation::Behind);
        p.wait(Duration::from_secs(1));
        silent(&mut p);
        assert!(p.wants(is_fence));
        p.obey(|_| false);
        assert_eq!(p.phase(), Phase::Master);
    }
}

#[test]
fn a_person_who_forces_a_takeover_needs_no_fence() {
    let mut p = at(Phase::Standby, false);
    p.policy.peer_fence = Some(Duration::from_secs(40));
    p.feed(Input::Policy(Box::new(p.policy.clone())));
    p.ask(Command::ForceTakeover);
    let is_fence = |e: &Effect| matches!(e, Effect::FencePeer { .. });
    p.obey(is_fence);
    assert!(!p.wants(is_fence));
    assert_eq!(p.phase(), Phase::Master);
}

/// A hook may take an hour, and the role may be gone before it ends.
#[test]
fn a_person_hears_of_a_takeover_before_its_services_and_hooks_are_done() {
    let mut p = at(Phase::Preparing, false);
    let is_start = |e: &Effect| matches!(e, Effect::Services { .. });
    p.obey(|e| is_start(e) || matches!(e, Effect::Notify(_)));
    assert!(told(&p, NoticeKind::Takeover));
    let start = p.open.iter().find(|e| is_start(e)).cloned();
    p.open.clear();
    p.feed(result_of(&start.expect("services"), false).expect("a result"));
    assert!(told(&p, NoticeKind::Trouble), "{:?}", p.open);
    assert!(!told(&p, NoticeKind::Takeover), "once");
}

/// Nobody else can say it: the other master is not in contact, or is none.
#[test]
fn a_person_hears_of_a_master_that_steps_down_by_itself() {
    let kinds = [NoticeKind::SteppedDown, NoticeKind::SplitBrain];
    let mut away = at(Phase::Master, false);
    away.pass(Duration::from_secs(2));
    away.feed(Input::Tick);
    let asked = away.open.iter().find_map(|e| match e {
        Effect::ProbeConflict { .. } => result_of(e, false),
        _ => None,
    });
    away.feed(asked.expect("it asks"));
    away.wait(Duration::from_secs(1));
    assert_eq!(kinds.map(|kind| told(&away, kind)), [true, false]);

    let mut behind = at(Phase::Master, false);
    behind.tell(Relation::Behind);
    behind.hear(Phase::Standby, 9, |_| {});
    assert_eq!(behind.phase(), Phase::Releasing);
    assert_eq!(kinds.map(|kind| told(&behind, kind)), [true, false]);

    let mut rival = at(Phase::Master, false);
    rival.hear(Phase::Master, 9, |_| {});
    assert_eq!(kinds.map(|kind| told(&rival, kind)), [false, true]);
}

/// A standby's own monitors know nothing when its agent was started while the service was down already.
#[test]
fn what_the_master_said_of_its_services_counts_where_the_standby_knows_nothing() {
    for (seen, said, takes_over) in [
        (Health::Unknown, Health::Bad, true),
        (Health::Unknown, Health::Good, false),
        (Health::Unknown, Health::Unknown, false),
        (Health::Good, Health::Bad, false),
        (Health::Bad, Health::Good, true),
    ] {
        let mut p = at(Phase::Standby, false);
        p.feed(Input::PeerServices(seen));
        p.hear(Phase::Master, 5, |body| body.services = said);
        p.wait(Duration::from_millis(700));
        let asked = p.open.iter().find_map(|e| match e {
            Effect::ProbePeer { .. } => result_of(e, true),
            _ => None,
        });
        p.feed(asked.expect("a round"));
        let taken = p.phase() == Phase::Preparing;
        assert_eq!(taken, takes_over, "{seen:?} {said:?}");
    }
}

/// What is written through the floating address is of the new epoch: the address waits for it, and so does the role that is
/// shown. Only a person may take it before.
#[test]
fn of_a_takeover_whose_epoch_is_late() {
    for (forced, fails) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut p = at(Phase::Preparing, false);
        let is_epoch = |e: &Effect| {
            let Effect::Data { command, .. } = e else {
                return false;
            };
            matches!(command, DataCommand::BeginSource { .. })
        };
        p.obey(is_epoch);
        let asked = p.open.iter().find(|e| is_epoch(e)).cloned();
        let asked = asked.expect("an epoch");
        if fails {
            p.open.clear();
            p.feed(result_of(&asked, false).expect("a result"));
        }
        p.wait(Duration::from_millis(5500));
        let shows = |e: &Effect| matches!(e, Effect::AddAddresses { .. } | Effect::Announce { .. });
        assert!(!p.wants(shows), "{forced} {fails}");
        assert_ne!(p.machine.role(), Role::Master);
        let told = |e: &Effect| matches!(e, Effect::Notify(n) if n.text.contains("epoch"));
        assert!(p.wants(told), "a person hears of it");
        if forced {
            p.ask(Command::ForceTakeover);
            assert!(p.wants(shows));
        }
        assert!(names(&p.play()).contains(&"addresses on"));
        assert_eq!(p.machine.role(), Role::Master);
    }
}

/// Addresses go with the very input that ends the role; the services are stopped before anything is applied.
#[test]
fn of_a_master_that_is_none_any_more() {
    let mut p = at(Phase::Master, false);
    p.open.clear();
    p.hear(Phase::Master, 9, |_| {});
    assert!(names(&p.open).contains(&"addresses off"));
    let seen: Vec<_> = names(&p.play())
        .into_iter()
        .filter(|n| *n != "mail")
        .collect();
    assert_eq!(seen, ["idle", "addresses off", "stop services", "replica"]);
}
