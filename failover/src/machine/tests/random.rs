//! Random operations on one machine: whatever comes, the auditor of the puppet must stay content.

use super::puppet::{OWN, Puppet, result_of};
use crate::health::Health;
use crate::heartbeat::{Ceded, Grant};
use crate::input::{Command, Input, Relation};
use crate::role::Phase;
use proptest::prelude::*;
use std::time::Duration;

#[derive(Debug, Clone)]
enum Op {
    Wait(u32),
    Away(u32),
    /// Gives the n-th open request a result.
    Result(usize, bool),
    /// Loses the n-th open request.
    Lose(usize),
    Hear {
        phase: u8,
        term: u64,
        grant: bool,
        cede: bool,
        able: bool,
    },
    Tell(u8),
    Health(u8, u8),
    Ask(u8),
    Hold(bool),
    Foreign(u8),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (1_u32..3000).prop_map(Op::Wait),
        1 => (1_u32..5000).prop_map(Op::Away),
        12 => (0_usize..8, prop::bool::weighted(0.85)).prop_map(|(n, good)| Op::Result(n, good)),
        1 => (0_usize..8).prop_map(Op::Lose),
        8 => (0_u8..10, 0_u64..12, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(phase, term, grant, cede, able)| Op::Hear { phase, term, grant, cede, able }
        ),
        3 => (0_u8..9).prop_map(Op::Tell),
        2 => (0_u8..3, 0_u8..3).prop_map(|(what, how)| Op::Health(what, how)),
        2 => (0_u8..8).prop_map(Op::Ask),
        1 => any::<bool>().prop_map(Op::Hold),
        1 => (0_u8..4).prop_map(Op::Foreign),
    ];
    prop::collection::vec(op, 1..120)
}

fn phase(n: u8) -> Phase {
    [
        Phase::Joining,
        Phase::Claiming,
        Phase::Releasing,
        Phase::Standby,
        Phase::Preparing,
        Phase::Taking,
        Phase::Master,
        Phase::Ceding,
        Phase::Ceded,
        Phase::Stopping,
    ][usize::from(n)]
}

fn relation(n: u8) -> Relation {
    [
        Relation::Unknown,
        Relation::Equal,
        Relation::Ahead,
        Relation::Behind,
        Relation::Diverged,
        Relation::Unrelated,
        Relation::BothUnborn,
        Relation::BothUnbornMineFilled,
        Relation::BothUnbornPeersFilled,
    ][usize::from(n)]
}

fn command(n: u8) -> Command {
    match n {
        0 => Command::Switchover,
        1 => Command::Failback,
        2 => Command::ForceTakeover,
        3 => Command::Initialised,
        4 => Command::AcceptPeer,
        5 => Command::MaintenanceOn(Some(Duration::from_secs(3))),
        6 => Command::MaintenanceOff,
        _ => Command::Stop,
    }
}

fn apply(puppet: &mut Puppet, op: &Op) {
    match *op {
        Op::Wait(ms) => puppet.wait(Duration::from_millis(ms.into())),
        Op::Away(ms) => {
            puppet.pass(Duration::from_millis(ms.into()));
            puppet.feed(Input::Tick);
        }
        Op::Result(n, good) => {
            let results: Vec<usize> = (0..puppet.open.len())
                .filter(|at| result_of(&puppet.open[*at], good).is_some())
                .collect();
            if let Some(at) = results.get(n) {
                let effect = puppet.open.remove(*at);
                if let Some(input) = result_of(&effect, good) {
                    puppet.feed(input);
                }
            }
        }
        Op::Lose(n) => {
            if n < puppet.open.len() {
                puppet.open.remove(n);
            }
        }
        Op::Hear {
            phase: p,
            term,
            grant,
            cede,
            able,
        } => {
            let to = puppet.policy.own;
            puppet.hear(phase(p), term, |body| {
                body.grant = grant.then_some(Grant {
                    to: OWN.nonce,
                    term,
                });
                body.ceded = cede.then_some(Ceded {
                    term: term + 1,
                    to,
                    epochs_digest: 1,
                    seq: 10,
                });
                body.against = (!able).then_some(crate::role::Reason::Stale);
                body.term_seen = 20;
            });
        }
        Op::Tell(n) => puppet.tell(relation(n)),
        Op::Health(what, how) => {
            let health = [Health::Unknown, Health::Good, Health::Bad][usize::from(how)];
            puppet.feed(match what {
                0 => Input::OwnNetwork(health),
                1 => Input::OwnServices(health),
                _ => Input::PeerServices(health),
            });
        }
        Op::Ask(n) => puppet.ask(command(n)),
        Op::Hold(active) => puppet.feed(Input::Hold { active }),
        Op::Foreign(n) => puppet.feed(match n {
            0 => Input::AddressRemoved,
            1 => Input::AddressConflict,
            2 => Input::Resumed {
                gap: Duration::from_millis(700),
            },
            _ => Input::LinkCarrier { link: 0, up: false },
        }),
    }
    // The peer's silent requests pile up; what a driver would have forgotten is forgotten here too.
    let excess = puppet.open.len().saturating_sub(64);
    puppet.open.drain(..excess);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_operations(preferred in any::<bool>(), ops in ops()) {
        let mut puppet = Puppet::new(preferred);
        for op in &ops {
            apply(&mut puppet, op);
        }
    }
}
