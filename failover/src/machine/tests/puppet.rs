//! A machine on strings: a peer that says what a test wants, effects that are answered or kept, and an
//! auditor that checks after every input what must always hold.

use super::super::state::State;
use super::super::{Boot, Machine};
use crate::effect::{DataCommand, Effect, Ticket};
use crate::heartbeat::{Body, Echo, Grant, Heartbeat, Incarnation, KeyId, MachineId, PairId};
use crate::input::{Command, DataFacts, DataReport, Input, ProbeAnswers, Relation};
use crate::policy::Policy;
use crate::role::{Phase, Role};
use crate::slots::Durable;
use crate::time::Instant;
use crate::timer::Timer;
use std::collections::BTreeSet;
use std::time::Duration;

pub(super) const OWN: Incarnation = Incarnation {
    counter: 1,
    nonce: [1; 16],
};
const PEER: Incarnation = Incarnation {
    counter: 1,
    nonce: [2; 16],
};

#[derive(Clone)]
pub(super) struct Puppet {
    pub machine: Machine,
    pub now: Instant,
    pub policy: Policy,
    counter: u64,
    /// Effects whose results were not given yet.
    pub open: Vec<Effect>,
    written: Vec<(u64, Durable)>,
    /// What the disk holds, and its generation: an older result that comes late changes nothing.
    disk: Durable,
    disk_generation: u64,
    applying: bool,
    /// The epoch that was asked for, and whether it is durable.
    epoch: Option<(Ticket, bool)>,
    /// An operator takes the role, whatever is durable.
    forced: bool,
    questions: BTreeSet<Ticket>,
    next_question: u64,
    exited: bool,
}

impl Puppet {
    pub(super) fn new(preferred: bool) -> Self {
        let policy = Policy {
            preferred,
            ..Policy::new(PairId([1; 16]), KeyId([1; 8]), KeyId([2; 8]))
        };
        let disk = Durable::new(policy.pair).started();
        let now = Instant::from_nanos(1_000_000_000);
        let boot = Boot {
            incarnation: OWN,
            machine: MachineId::default(),
        };
        let mut puppet = Self {
            machine: Machine::new(policy.clone(), disk.clone(), boot, now),
            now,
            policy,
            counter: 0,
            open: Vec::new(),
            written: Vec::new(),
            disk,
            disk_generation: 0,
            applying: false,
            epoch: None,
            forced: false,
            questions: BTreeSet::new(),
            next_question: 1 << 40,
            exited: false,
        };
        puppet.feed(Input::Tick);
        puppet
    }

    pub(super) fn phase(&self) -> Phase {
        self.machine.phase()
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// Gives an input, checks what must hold, keeps the effects.
    pub(super) fn feed(&mut self, input: Input) {
        if let Input::Persisted {
            generation,
            result: Ok(()),
        } = &input
            && let Some((_, durable)) = self.written.iter().find(|(g, _)| g == generation)
            && *generation > self.disk_generation
        {
            self.disk = durable.clone();
            self.disk_generation = *generation;
        }
        if let Input::DataDone {
            ticket,
            result: Ok(_),
        } = &input
            && let Some((asked, durable)) = &mut self.epoch
        {
            *durable |= ticket == asked;
        }
        let (before, acted) = (self.machine.term(), Machine::acts(self.phase()));
        let effects = self.machine.handle(self.now, input);
        let acts = Machine::acts(self.phase());
        assert!(
            self.machine.term() >= before || (acts && !acted),
            "the term went back"
        );
        for effect in effects {
            self.audit(&effect, acts || acted);
            self.open.push(effect);
        }
        if acts {
            let durable = self.disk.term_used.max(self.disk.term_armed);
            assert!(
                durable >= self.machine.term(),
                "acts with a term that is not durable"
            );
            assert!(!self.applying, "applies while it acts");
        }
        assert!(self.questions.len() <= 2, "commands without an answer");
        let contested =
            matches!(&self.machine.state, State::Master(master) if master.contest.is_some());
        assert!(
            !contested || self.machine.timers.get(Timer::Contest).is_some(),
            "a contest in which nobody asks"
        );
        let view = self.machine.view(self.now);
        assert_eq!(view.phase, self.phase());
        let serves = match &self.machine.state {
            State::Taking(taking) => taking.serves(),
            _ => acts,
        };
        let shown = view.role == Role::Master;
        assert_eq!(shown, serves, "the role shown is the role played");
    }

    fn audit(&mut self, effect: &Effect, acts: bool) {
        match effect {
            Effect::AddAddresses { .. } | Effect::RefreshAddresses | Effect::Announce { .. } => {
                assert!(acts, "addresses without the master role: {effect:?}");
                let durable = self.epoch.is_some_and(|(_, durable)| durable);
                assert!(
                    durable || self.forced,
                    "addresses before the epoch is durable: {effect:?}"
                );
            }
            Effect::Persist {
                generation,
                durable,
            } => {
                if let Some((last, old)) = self.written.last() {
                    assert!(generation > last);
                    assert!(
                        durable.term_used >= old.term_used && durable.term_armed >= old.term_armed
                    );
                    assert!(
                        durable.highest_term() >= old.highest_term(),
                        "a term was forgotten"
                    );
                }
                assert_eq!(durable.incarnation, OWN.counter);
                self.written.push((*generation, (**durable).clone()));
            }
            Effect::Data { ticket, command } => match command {
                DataCommand::BeginReplica => self.applying = true,
                DataCommand::RevokeApply { .. } | DataCommand::Idle => {
                    self.applying = false;
                    self.epoch = None;
                }
                DataCommand::BeginSource { .. } => {
                    assert!(acts, "a source that is not master");
                    self.epoch = Some((*ticket, false));
                }
                DataCommand::EndHold { .. }
                | DataCommand::Drain { .. }
                | DataCommand::FinalFlush { .. }
                | DataCommand::BearFirstEpoch => {}
            },
            Effect::Answer { ticket, .. } => {
                assert!(self.questions.remove(ticket), "answered twice or unasked");
            }
            Effect::Exit => {
                assert!(!self.exited, "it ends once");
                self.exited = true;
            }
            _ => {}
        }
    }

    /// Whether an open effect is as wanted.
    pub(super) fn wants(&self, wanted: impl Fn(&Effect) -> bool) -> bool {
        self.open.iter().any(wanted)
    }

    /// Answers open effects step by step until there are none, and tells all of them in their order.
    pub(super) fn play(&mut self) -> Vec<Effect> {
        let mut all = Vec::new();
        for _ in 0..50 {
            let open = std::mem::take(&mut self.open);
            let inputs: Vec<Input> = open.iter().filter_map(|e| result_of(e, true)).collect();
            all.extend(open);
            if inputs.is_empty() {
                return all;
            }
            for input in inputs {
                self.feed(input);
            }
        }
        panic!("no end of effects");
    }

    pub(super) fn ask(&mut self, command: Command) {
        self.next_question += 1;
        let ticket = Ticket(self.next_question);
        self.questions.insert(ticket);
        self.forced |= command == Command::ForceTakeover;
        self.feed(Input::Operator { ticket, command });
    }

    /// Answers everything that is open with success, and what comes of it, except what `keep` names.
    pub(super) fn obey(&mut self, keep: impl Fn(&Effect) -> bool) {
        for _ in 0..50 {
            let open = std::mem::take(&mut self.open);
            let (kept, now): (Vec<_>, Vec<_>) = open.into_iter().partition(&keep);
            let inputs: Vec<Input> = now.iter().filter_map(|e| result_of(e, true)).collect();
            self.open = kept;
            if inputs.is_empty() {
                return;
            }
            for input in inputs {
                self.feed(input);
            }
        }
        panic!("no end of effects");
    }

    /// What the peer says; the counter and the echo are right.
    pub(super) fn heartbeat(
        &mut self,
        phase: Phase,
        term: u64,
        change: impl FnOnce(&mut Body),
    ) -> Input {
        self.counter += 1;
        let mut body = Body {
            phase,
            holding: Machine::acts(phase),
            ..Body::of_standby(term)
        };
        change(&mut body);
        let echo = Some(Echo {
            incarnation: OWN,
            on_link: Some((self.machine.peer.beat(), 0)),
            overall: Some(0),
        });
        let heartbeat = Heartbeat {
            incarnation: PEER,
            counter: self.counter,
            link: 0,
            echo,
            body,
        };
        Input::Heartbeat {
            link: 0,
            heartbeat: Box::new(heartbeat),
        }
    }

    pub(super) fn hear(&mut self, phase: Phase, term: u64, change: impl FnOnce(&mut Body)) {
        let input = self.heartbeat(phase, term, change);
        self.feed(input);
    }

    pub(super) fn facts(&self, relation: Relation) -> DataFacts {
        DataFacts {
            born: true,
            consistent: true,
            fresh_until: Some(self.now + Duration::from_secs(60)),
            relation,
            epochs_digest: 1,
            seq: 10,
            ..DataFacts::default()
        }
    }

    pub(super) fn tell(&mut self, relation: Relation) {
        let facts = Box::new(self.facts(relation));
        self.feed(Input::Data(facts));
    }

    /// Ticks at every deadline for `time`.
    pub(super) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..10_000 {
            let next = self.machine.next_deadline();
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            self.feed(Input::Tick);
        }
        panic!("deadlines do not advance");
    }
}

/// The result of an effect.
pub(super) fn result_of(effect: &Effect, good: bool) -> Option<Input> {
    let plain = || {
        if good {
            Ok(())
        } else {
            Err("it failed".to_owned())
        }
    };
    Some(match *effect {
        Effect::Persist { generation, .. } => Input::Persisted {
            generation,
            result: plain(),
        },
        Effect::AddAddresses { ticket } | Effect::RemoveAddresses { ticket } => {
            Input::AddressesDone {
                ticket,
                result: plain(),
            }
        }
        Effect::Fence { ticket } | Effect::Unfence { ticket } => Input::FenceDone {
            ticket,
            result: plain(),
        },
        Effect::FencePeer { ticket } => Input::PeerFenced {
            ticket,
            result: plain(),
        },
        Effect::ProbePeer { ticket, .. } => {
            let answers = ProbeAnswers {
                icmp: good,
                ..ProbeAnswers::SILENT
            };
            Input::ProbeDone { ticket, answers }
        }
        Effect::ProbeConflict { ticket, .. } => Input::ConflictDone {
            ticket,
            answered: Ok(!good),
        },
        Effect::Data { ticket, .. } => {
            let report = DataReport {
                epochs_digest: 1,
                seq: 10,
            };
            Input::DataDone {
                ticket,
                result: plain().map(|()| report),
            }
        }
        Effect::Services { ticket, .. } => Input::ServicesDone {
            ticket,
            result: plain(),
        },
        Effect::SendHeartbeat(_)
        | Effect::RefreshAddresses
        | Effect::Announce { .. }
        | Effect::Notify(_)
        | Effect::Record(_)
        | Effect::Answer { .. }
        | Effect::Exit => return None,
    })
}

fn nothing(_: &Effect) -> bool {
    false
}

/// A machine in each phase, reached as in life.
pub(super) fn at(phase: Phase, preferred: bool) -> Puppet {
    let mut puppet = match phase {
        Phase::Joining => Puppet::new(preferred),
        Phase::Claiming => {
            let mut p = Puppet::new(preferred);
            p.tell(Relation::Ahead);
            p.hear(Phase::Joining, 0, |b| {
                b.grant = Some(Grant {
                    to: OWN.nonce,
                    term: 1,
                })
            });
            p
        }
        Phase::Releasing => {
            let mut p = Puppet::new(preferred);
            p.hear(Phase::Master, 5, |_| {});
            p
        }
        Phase::Standby => {
            let mut p = at(Phase::Releasing, preferred);
            p.tell(Relation::Behind);
            p.obey(nothing);
            p
        }
        Phase::Preparing => {
            let mut p = at(Phase::Standby, preferred);
            p.wait(Duration::from_millis(700));
            let asked = p
                .open
                .iter()
                .find(|e| matches!(e, Effect::ProbePeer { .. }))
                .cloned();
            p.open.clear();
            let Some(Effect::ProbePeer { ticket, .. }) = asked else {
                panic!("no round")
            };
            p.feed(Input::ProbeDone {
                ticket,
                answers: ProbeAnswers::SILENT,
            });
            p
        }
        Phase::Taking => {
            let mut p = at(Phase::Preparing, preferred);
            p.obey(|e| matches!(e, Effect::AddAddresses { .. }));
            p
        }
        Phase::Master => {
            let mut p = at(Phase::Taking, preferred);
            p.obey(nothing);
            p.wait(Duration::from_secs(4));
            p.obey(nothing);
            p.tell(Relation::Ahead);
            p.hear(Phase::Standby, 6, |_| {});
            p
        }
        Phase::Ceding => {
            let mut p = at(Phase::Master, preferred);
            p.ask(Command::Switchover);
            p
        }
        Phase::Ceded => {
            let mut p = at(Phase::Ceding, preferred);
            p.obey(nothing);
            p
        }
        Phase::Stopping => {
            let mut p = at(Phase::Standby, preferred);
            p.ask(Command::Stop);
            p
        }
    };
    assert_eq!(puppet.phase(), phase, "{:?}", puppet.machine.last_decision);
    puppet.pass(Duration::from_millis(1));
    puppet
}
