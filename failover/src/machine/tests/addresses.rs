//! What happens to the addresses of a node whose role does not change.

use super::puppet::{Puppet, at};
use crate::effect::{Effect, NoticeKind};
use crate::health::Health;
use crate::input::Input;
use crate::role::Phase;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn is_told(p: &Puppet, kind: NoticeKind, part: &str) -> bool {
    p.wants(|e| matches!(e, Effect::Notify(n) if n.kind == kind && n.text.contains(part)))
}

fn is_announced(p: &Puppet) -> bool {
    p.wants(|e| matches!(e, Effect::Announce { .. }))
}

fn refreshes(p: &Puppet) -> usize {
    let refresh = |e: &&Effect| matches!(e, Effect::RefreshAddresses);
    p.open.iter().filter(refresh).count()
}

#[test]
fn a_master_serves_with_what_it_can_hold_and_tries_the_rest_every_second() {
    let mut p = at(Phase::Master, false);
    p.open.clear();
    p.feed(Input::AddressTrouble(Some(
        "192.0.2.9 on eth9: gone".into(),
    )));
    assert_eq!(p.phase(), Phase::Master);
    assert!(is_told(&p, NoticeKind::Trouble, "192.0.2.9 on eth9: gone"));
    p.open.clear();
    p.wait(SECOND * 4);
    assert!(refreshes(&p) >= 3, "{:?}", p.open);
    p.open.clear();
    p.feed(Input::AddressTrouble(None));
    assert!(is_announced(&p), "what came back is announced");
    p.open.clear();
    p.wait(SECOND * 4);
    assert!(refreshes(&p) <= 2, "{:?}", p.open);
}

#[test]
fn a_takeover_without_one_of_the_addresses_is_a_takeover_and_says_so() {
    let mut p = at(Phase::Preparing, false);
    p.obey(|e| matches!(e, Effect::AddAddresses { .. }));
    p.feed(Input::AddressTrouble(Some("one is missing".into())));
    p.obey(|_| false);
    assert_eq!(p.phase(), Phase::Master);
    assert!(
        p.machine.last_decision.as_deref()
            == Some("not every floating address can be held: one is missing")
    );
}

#[test]
fn what_somebody_puts_on_a_standby_is_removed_until_it_is_gone() {
    let removes = |p: &Puppet| p.wants(|e| matches!(e, Effect::RemoveAddresses { .. }));
    let mut p = at(Phase::Joining, false);
    p.open.clear();
    p.feed(Input::AddressAppeared);
    assert!(!removes(&p), "it may be one of its former life");

    let mut p = at(Phase::Standby, false);
    p.open.clear();
    p.feed(Input::AddressAppeared);
    assert!(removes(&p) && is_told(&p, NoticeKind::Trouble, "it is removed"));
    assert_eq!(p.phase(), Phase::Standby, "it goes on applying");
    let failed = |p: &Puppet| {
        let ticket = p.open.iter().find_map(|e| match e {
            Effect::RemoveAddresses { ticket } => Some(*ticket),
            _ => None,
        });
        Input::AddressesDone {
            ticket: ticket.expect("asked"),
            result: Err("not permitted".into()),
        }
    };
    let result = failed(&p);
    p.feed(result);
    assert!(is_told(&p, NoticeKind::Trouble, "not permitted"));
    p.open.clear();
    p.wait(SECOND);
    assert!(removes(&p), "again after a second");
    p.obey(|_| false);
    p.wait(SECOND);
    assert!(!removes(&p), "once it is gone, nothing more");
}

#[test]
fn a_fence_that_stays_is_shown_and_taken_away_as_soon_as_it_can_be() {
    let mut p = at(Phase::Master, false);
    p.open.clear();
    // Away for long: fenced until nobody answers.
    p.pass(SECOND * 10);
    p.feed(Input::Tick);
    assert!(p.machine.view(p.now).fenced);
    p.obey(|e| matches!(e, Effect::Unfence { .. }));
    p.wait(SECOND);
    let unfence = |p: &Puppet| {
        let ticket = p.open.iter().find_map(|e| match e {
            Effect::Unfence { ticket } => Some(*ticket),
            _ => None,
        });
        ticket.expect("the fence is to go")
    };
    let ticket = unfence(&p);
    p.open.clear();
    let result = Err("it stands".into());
    p.feed(Input::FenceDone { ticket, result });
    assert!(
        p.machine.view(p.now).fenced,
        "it is still fenced, and says so"
    );
    assert!(is_told(
        &p,
        NoticeKind::Trouble,
        "nobody is answered: it stands"
    ));
    p.open.clear();
    p.wait(SECOND);
    let ticket = unfence(&p);
    assert!(is_announced(&p));
    let result = Ok(());
    p.feed(Input::FenceDone { ticket, result });
    assert!(!p.machine.view(p.now).fenced);
    assert_eq!(p.phase(), Phase::Master);
}

#[test]
fn a_network_that_comes_back_hears_where_the_addresses_are() {
    let mut p = at(Phase::Master, false);
    // The standby cannot take the role: it stays here.
    p.hear(Phase::Standby, 6, |b| b.network = Health::Bad);
    p.feed(Input::OwnNetwork(Health::Bad));
    assert_eq!(p.phase(), Phase::Master);
    p.open.clear();
    p.feed(Input::OwnNetwork(Health::Good));
    assert!(is_announced(&p));
}

#[test]
fn two_masters_in_contact_are_measured() {
    let mut p = at(Phase::Master, false);
    p.hear(Phase::Master, 9, |_| {});
    p.pass(Duration::from_millis(3));
    p.open
        .retain(|e| matches!(e, Effect::RemoveAddresses { .. }));
    p.obey(|_| false);
    let text = "two masters: the addresses of this one went 3ms after the first contact";
    // Everything that was recorded meanwhile is in the effects that `obey` passed over; the view keeps the last.
    assert_eq!(p.machine.last_decision.as_deref(), Some(text));
}

/// A switch that was cut off when the burst came hears one of the later ones.
#[test]
fn announcements_come_again_later_and_for_as_long_as_it_serves() {
    let mut p = at(Phase::Taking, false);
    p.obey(|_| false);
    assert_eq!(p.phase(), Phase::Master);
    // After the seconds in which it asks whether somebody else answers.
    p.open.clear();
    let mut announced = Vec::new();
    for second in 1..=200_u64 {
        for _ in 0..2 {
            p.wait(SECOND / 2);
            // Nobody answers for the addresses.
            p.obey(|e| matches!(e, Effect::Announce { .. }));
            p.hear(Phase::Standby, 6, |_| {});
        }
        if is_announced(&p) {
            announced.push(second);
        }
        p.open.clear();
    }
    // The peer, which was thought dead, is heard again after half a second.
    let healed_and_later = [1, 2, 6, 31, 91, 151];
    assert_eq!(announced, healed_and_later, "seconds after the takeover");
}

/// A move that was given up changes nothing, also not that the addresses are announced again and again.
#[test]
fn announcements_come_again_later_after_a_move_that_was_given_up() {
    let mut p = at(Phase::Ceding, false);
    let frozen = p.open.iter().find_map(|e| match e {
        Effect::Services { .. } => super::puppet::result_of(e, false),
        _ => None,
    });
    p.feed(frozen.expect("a freeze hook"));
    assert_eq!(p.phase(), Phase::Master);
    p.open.clear();
    p.wait(SECOND);
    assert!(is_announced(&p), "after a second");
    p.hear(Phase::Standby, 6, |_| {});
    p.wait(SECOND * 31);
    p.open.clear();
    p.wait(SECOND * 60);
    assert!(is_announced(&p), "each minute");
}

/// Who was on the other side of a split may take the other one for the one that serves.
#[test]
fn the_end_of_a_split_is_announced_by_the_one_that_goes_on() {
    // The peer's phase and term, and whether this node (term 6) goes on.
    let table = [
        (Phase::Master, 5, true),
        (Phase::Releasing, 5, true),
        (Phase::Standby, 6, true),
        (Phase::Master, 9, false),
    ];
    for (phase, term, goes_on) in table {
        let mut p = at(Phase::Master, false);
        p.wait(SECOND * 40);
        p.open.clear();
        p.hear(phase, term, |_| {});
        assert_eq!(p.phase() == Phase::Master, goes_on, "{phase:?} {term}");
        assert_eq!(is_announced(&p), goes_on, "{phase:?} {term}");
        p.open.clear();
        p.hear(phase, term, |_| {});
        assert!(!is_announced(&p), "once");
    }
}
