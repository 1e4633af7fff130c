//! The table: every phase and every kind of input. Where the table is silent, the phase stays.

use super::puppet::{OWN, Puppet, at, result_of};
use crate::health::Health;
use crate::heartbeat::{Ceded, Grant, Incarnation};
use crate::input::{Command, Input, ProbeAnswers, Relation};
use crate::role::Phase;
use std::fmt::Write as _;
use std::time::Duration;

const PHASES: [Phase; 10] = [
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
];

type Row = (&'static str, fn(&mut Puppet));

/// Gives every open request the same kind of result, once.
fn results(puppet: &mut Puppet, good: bool) {
    for effect in std::mem::take(&mut puppet.open) {
        if let Some(input) = result_of(&effect, good) {
            puppet.feed(input);
        }
    }
}

const ROWS: &[Row] = &[
    ("tick", |p| p.feed(Input::Tick)),
    ("10 s pass", |p| p.wait(Duration::from_secs(10))),
    ("away for 10 s", |p| {
        p.pass(Duration::from_secs(10));
        p.feed(Input::Tick);
    }),
    ("resumed after 300 ms", |p| {
        p.feed(Input::Resumed {
            gap: Duration::from_millis(300),
        });
    }),
    ("open requests succeed", |p| results(p, true)),
    ("open requests fail", |p| results(p, false)),
    ("peer master, term 9", |p| p.hear(Phase::Master, 9, |_| {})),
    ("peer master, term 6", |p| p.hear(Phase::Master, 6, |_| {})),
    ("peer master, term 4", |p| p.hear(Phase::Master, 4, |_| {})),
    ("peer taking, term 9", |p| {
        p.hear(Phase::Taking, 9, |b| b.holding = false)
    }),
    ("peer standby", |p| p.hear(Phase::Standby, 5, |_| {})),
    ("peer joining", |p| p.hear(Phase::Joining, 5, |_| {})),
    ("peer joining, grants", |p| {
        p.hear(Phase::Joining, 5, |b| {
            b.grant = Some(Grant {
                to: OWN.nonce,
                term: 6,
            })
        });
    }),
    ("peer joining, grants another life", |p| {
        p.hear(Phase::Joining, 5, |b| {
            b.grant = Some(Grant {
                to: [9; 16],
                term: 6,
            })
        });
    }),
    ("peer ceded to this node", |p| {
        let to = p.policy.own;
        p.hear(Phase::Ceded, 5, |b| {
            b.ceded = Some(Ceded {
                term: 8,
                to,
                epochs_digest: 1,
                seq: 10,
            });
        });
    }),
    ("peer ceded, data missing", |p| {
        let to = p.policy.own;
        p.hear(Phase::Ceded, 5, |b| {
            b.ceded = Some(Ceded {
                term: 8,
                to,
                epochs_digest: 1,
                seq: 11,
            });
        });
    }),
    ("peer ceded to another node", |p| {
        let to = p.policy.peer;
        p.hear(Phase::Ceded, 5, |b| {
            b.ceded = Some(Ceded {
                term: 8,
                to,
                epochs_digest: 1,
                seq: 10,
            });
        });
    }),
    ("peer is another machine", |p| {
        p.hear(Phase::Standby, 6, |_| {});
        p.hear(Phase::Standby, 6, |b| b.machine.machine = 99);
    }),
    ("own key elsewhere", |p| {
        let incarnation = Incarnation {
            counter: 2,
            nonce: [3; 16],
        };
        p.feed(Input::OwnKeyElsewhere { incarnation });
    }),
    ("carrier lost", |p| {
        p.feed(Input::LinkCarrier { link: 0, up: false })
    }),
    ("carrier of no link", |p| {
        p.feed(Input::LinkCarrier {
            link: 200,
            up: false,
        })
    }),
    ("own network bad", |p| {
        p.feed(Input::OwnNetwork(Health::Bad))
    }),
    ("own services bad", |p| {
        p.feed(Input::OwnServices(Health::Bad))
    }),
    ("peer's services bad", |p| {
        p.feed(Input::PeerServices(Health::Bad))
    }),
    ("unasked round: all silent", |p| {
        let ticket = crate::effect::Ticket(u64::MAX);
        p.feed(Input::ProbeDone {
            ticket,
            answers: ProbeAnswers::default(),
        });
    }),
    ("address removed", |p| p.feed(Input::AddressRemoved)),
    ("address conflict", |p| p.feed(Input::AddressConflict)),
    ("data diverged", |p| p.tell(Relation::Diverged)),
    ("data behind", |p| p.tell(Relation::Behind)),
    ("data unborn", |p| {
        let mut facts = p.facts(Relation::Behind);
        facts.born = false;
        p.feed(Input::Data(Box::new(facts)));
    }),
    ("hold", |p| p.feed(Input::Hold { active: true })),
    ("new policy", |p| {
        let mut policy = p.policy.clone();
        policy.links = 3;
        p.feed(Input::Policy(Box::new(policy)));
    }),
    ("switchover", |p| p.ask(Command::Switchover)),
    ("failback", |p| p.ask(Command::Failback)),
    ("takeover --force", |p| p.ask(Command::ForceTakeover)),
    ("init", |p| p.ask(Command::Initialised)),
    ("adopt", |p| p.ask(Command::AcceptPeer)),
    ("maintenance on", |p| p.ask(Command::MaintenanceOn(None))),
    ("maintenance off", |p| p.ask(Command::MaintenanceOff)),
    ("stop", |p| p.ask(Command::Stop)),
];

fn table(preferred: bool) -> String {
    let mut text = String::new();
    for phase in PHASES {
        for (name, act) in ROWS {
            let mut puppet = at(phase, preferred);
            act(&mut puppet);
            let after = puppet.phase();
            if after != phase {
                let _ = writeln!(text, "{phase:<9} | {name:<32} | {after}");
            }
        }
    }
    text
}

#[test]
fn every_phase_and_every_input() {
    let expected = include_str!("table.txt");
    let found = table(false);
    assert_eq!(found, expected, "\n{found}");
}

#[test]
fn being_preferred_changes_only_the_way_back() {
    let (plain, preferred) = (table(false), table(true));
    let differing: Vec<&str> = plain
        .lines()
        .filter(|line| !preferred.lines().any(|other| other == *line))
        .chain(
            preferred
                .lines()
                .filter(|line| !plain.lines().any(|other| other == *line)),
        )
        .collect();
    // Not who gives way where two masters have used the same term: their two configurations may contradict each other.
    let about_it = |line: &&str| line.contains("failback");
    assert!(
        !differing.is_empty() && differing.iter().all(about_it),
        "{differing:#?}"
    );
}

/// Two inputs in a row, from every phase: no panic, and everything that the auditor checks.
#[test]
fn every_pair_of_inputs() {
    for phase in PHASES {
        let start = at(phase, false);
        for (_, first) in ROWS {
            let mut puppet = start.clone();
            first(&mut puppet);
            for (_, second) in ROWS {
                let mut puppet = puppet.clone();
                puppet.pass(Duration::from_millis(1));
                second(&mut puppet);
                puppet.wait(Duration::from_secs(3));
            }
        }
    }
}

/// No waiting state is for ever: with no result at all, every phase moves on or says that it is in trouble.
#[test]
fn without_results_every_phase_moves_or_complains() {
    for phase in PHASES {
        let mut puppet = at(phase, false);
        puppet.open.clear();
        puppet.wait(Duration::from_secs(400));
        let told = puppet.open.iter().any(|effect| {
            matches!(
                effect,
                crate::effect::Effect::Notify(_) | crate::effect::Effect::Exit
            )
        });
        let shown = !puppet.machine.view(puppet.now).waiting.is_empty();
        assert!(
            told || shown || puppet.phase() != phase,
            "{phase} waits in silence"
        );
    }
}
