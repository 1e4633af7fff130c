//! Random histories, checked against a model that knows what each node really has.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// One write, with the place at which it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Write {
    seq: u64,
    id: u64,
}

#[derive(Debug, Clone, Default)]
struct Node {
    head: Head,
    /// What it has, in order.
    log: Vec<Write>,
    last_seq: u64,
    writing: bool,
    /// What it last saw of the other node (R6).
    remembers: Head,
    rescued: BTreeSet<u64>,
    /// What it knows that the pair had acknowledged: both held it at the end of a session. Restoring both nodes takes
    /// that knowledge from the world.
    acknowledged: BTreeSet<u64>,
    backup: Option<Box<Node>>,
}

#[derive(Debug, Clone)]
enum Op {
    /// Becomes master, if its data is complete.
    Begin(usize),
    Write(usize, u8),
    /// A session from a master: as much as given, or all.
    Session(usize, Option<u8>),
    /// The same when lineages diverged and a person, or the higher term, decided for this master.
    Decide(usize),
    Backup(usize),
    Restore(usize),
    /// A new disk.
    Replace(usize),
}

struct World {
    nodes: [Node; 2],
    names: [NodeName; 2],
    fresh: u128,
    writes: u64,
    /// What a restored backup or a new disk took away.
    destroyed: BTreeSet<u64>,
    disasters: bool,
}

impl World {
    fn new() -> Self {
        let mut world = World {
            nodes: Default::default(),
            names: [node("a"), node("b")],
            fresh: 1,
            writes: 0,
            destroyed: BTreeSet::new(),
            disasters: false,
        };
        world.nodes[0].head = Head::default().init(EpochId(1), 1, node("a"), 0).unwrap();
        world.nodes[0].writing = true;
        world
    }

    fn relation(&self, me: usize) -> TreeRelation {
        let (mine, theirs) = (&self.nodes[me], &self.nodes[1 - me]);
        let side = |n: usize| Side {
            node: &self.names[n],
            head: &self.nodes[n].head,
        };
        if regressed(&self.names[1 - me], &mine.remembers, &theirs.head) {
            return TreeRelation::Regressed(Regress::Theirs);
        }
        if regressed(&self.names[me], &theirs.remembers, &mine.head) {
            return TreeRelation::Regressed(Regress::Mine);
        }
        compare(side(me), side(1 - me))
    }

    fn act(&mut self, op: &Op) {
        match *op {
            Op::Begin(n) if self.nodes[n].head.state == CopyState::Consistent => self.begin(n),
            Op::Write(n, count) if self.nodes[n].writing => (0..count).for_each(|_| self.write(n)),
            Op::Session(n, amount) if self.nodes[n].writing => self.session(n, amount),
            Op::Decide(n) if self.nodes[n].writing => self.decide(n),
            Op::Backup(n) => {
                let copy = Node {
                    backup: None,
                    ..self.nodes[n].clone()
                };
                self.nodes[n].backup = Some(Box::new(copy));
            }
            Op::Restore(n) => {
                if let Some(backup) = self.nodes[n].backup.clone() {
                    let rescued = self.nodes[n].rescued.clone();
                    // A restart: it must begin a new epoch before it writes.
                    self.lose(
                        n,
                        Node {
                            writing: false,
                            rescued,
                            backup: Some(backup.clone()),
                            ..*backup
                        },
                    );
                }
            }
            Op::Replace(n) => self.lose(
                n,
                Node {
                    rescued: self.nodes[n].rescued.clone(),
                    ..Node::default()
                },
            ),
            _ => {}
        }
    }

    fn lose(&mut self, n: usize, now: Node) {
        self.disasters = true;
        let kept: BTreeSet<u64> = now.log.iter().map(|w| w.id).collect();
        self.destroyed.extend(
            self.nodes[n]
                .log
                .iter()
                .map(|w| w.id)
                .filter(|id| !kept.contains(id)),
        );
        self.nodes[n] = now;
    }

    fn begin(&mut self, n: usize) {
        self.fresh += 1;
        let me = &mut self.nodes[n];
        me.head = me
            .head
            .begin(EpochId(self.fresh), 1, self.names[n].clone())
            .unwrap();
        me.last_seq = me.last_seq.max(me.head.seq) + 1;
        me.head.wrote(me.last_seq);
        me.writing = true;
    }

    fn write(&mut self, n: usize) {
        self.writes += 1;
        let me = &mut self.nodes[n];
        me.last_seq += 1;
        me.log.push(Write {
            seq: me.last_seq,
            id: self.writes,
        });
        me.head.wrote(me.last_seq);
    }

    fn session(&mut self, from: usize, amount: Option<u8>) {
        match self.relation(from) {
            TreeRelation::Ahead { branch, .. } => self.receive(from, Some(branch), amount),
            TreeRelation::TheirsUnborn => self.receive(from, None, amount),
            // The other one is the source, or both wait, or there is nothing to send.
            _ => {}
        }
    }

    fn decide(&mut self, from: usize) {
        if let TreeRelation::Diverged { branch } = self.relation(from) {
            self.receive(from, Some(branch), None);
        }
    }

    fn receive(&mut self, from: usize, branch: Option<Branch>, amount: Option<u8>) {
        let source = self.nodes[from].clone();
        let me = &mut self.nodes[1 - from];
        me.writing = false;
        if let Some(branch) = branch {
            // What is past the branch is rescued before anything else.
            me.head = me.head.rewind(branch).unwrap();
            me.rescued
                .extend(me.log.iter().filter(|w| w.seq > branch.seq).map(|w| w.id));
            me.log.retain(|w| w.seq <= branch.seq);
        }
        let shared = source
            .log
            .iter()
            .filter(|w| w.seq <= me.head.seq)
            .copied()
            .collect::<Vec<_>>();
        assert_eq!(
            me.log, shared,
            "after the rewind the receiver has exactly the source's data up to its position"
        );
        let all = source.head.seq;
        let upto = amount.map_or(all, |n| (me.head.seq + u64::from(n)).min(all));
        me.log.extend(
            source
                .log
                .iter()
                .filter(|w| w.seq > me.head.seq && w.seq <= upto),
        );
        me.head = me
            .head
            .advance(&source.head.lineage, upto, upto == all)
            .unwrap();
        me.last_seq = me.last_seq.max(upto);
        me.remembers = source.head.clone();
        let both = self.ids(1 - from);
        self.nodes
            .iter_mut()
            .for_each(|node| node.acknowledged.extend(&both));
        self.nodes[from].remembers = self.nodes[1 - from].head.clone();
        if upto == all {
            assert_eq!(self.relation(from), TreeRelation::Equal);
        }
    }

    fn ids(&self, n: usize) -> BTreeSet<u64> {
        self.nodes[n].log.iter().map(|w| w.id).collect()
    }

    fn check(&self) {
        for me in [0, 1] {
            let (mine, theirs) = (&self.nodes[me], &self.nodes[1 - me]);
            let relation = self.relation(me);
            assert_eq!(self.relation(1 - me), mirrored(relation));
            match relation {
                TreeRelation::Ahead { branch, .. } => {
                    // Whatever the receiver keeps, the source has; whatever it gives up was never acknowledged.
                    let kept: Vec<Write> = theirs
                        .log
                        .iter()
                        .filter(|w| w.seq <= branch.seq)
                        .copied()
                        .collect();
                    let shared: Vec<Write> = mine
                        .log
                        .iter()
                        .filter(|w| w.seq <= branch.seq)
                        .copied()
                        .collect();
                    let complete = mine.head.state == CopyState::Consistent;
                    assert!(
                        !complete || shared.starts_with(&kept),
                        "{mine:#?}\n{theirs:#?}"
                    );
                    let given_up = theirs.log.iter().filter(|w| w.seq > branch.seq);
                    let known = &mine.acknowledged | &theirs.acknowledged;
                    for write in given_up {
                        assert!(
                            !known.contains(&write.id),
                            "{write:?} was acknowledged\n{mine:#?}\n{theirs:#?}"
                        );
                    }
                }
                TreeRelation::Equal if mine.head.state == CopyState::Consistent => {
                    assert_eq!(mine.log, theirs.log)
                }
                TreeRelation::MineUnborn => assert!(mine.log.is_empty()),
                TreeRelation::Unrelated => panic!("there is only one first epoch"),
                TreeRelation::Regressed(_) => assert!(
                    self.disasters,
                    "nobody lost anything\n{mine:#?}\n{theirs:#?}"
                ),
                _ => {}
            }
        }
        let somewhere: BTreeSet<u64> = [0, 1]
            .iter()
            .flat_map(|n| &self.ids(*n) | &self.nodes[*n].rescued)
            .collect();
        for id in 1..=self.writes {
            assert!(
                somewhere.contains(&id) || self.destroyed.contains(&id),
                "write {id} is lost"
            );
        }
    }
}

fn ops(disasters: bool) -> impl Strategy<Value = Vec<Op>> {
    let n = 0usize..2;
    let amount = proptest::option::weighted(0.4, 1u8..4);
    let usual = prop_oneof![
        3 => n.clone().prop_map(Op::Begin),
        5 => (n.clone(), 1u8..4).prop_map(|(n, count)| Op::Write(n, count)),
        6 => (n.clone(), amount).prop_map(|(n, amount)| Op::Session(n, amount)),
        1 => n.clone().prop_map(Op::Decide),
    ];
    let disaster = prop_oneof![
        2 => n.clone().prop_map(Op::Backup),
        2 => n.clone().prop_map(Op::Restore),
        1 => n.prop_map(Op::Replace),
    ];
    let op = prop_oneof![9 => usual, u32::from(disasters) => disaster];
    proptest::collection::vec(op, 1..60)
}

fn run(ops: &[Op]) -> World {
    let mut world = World::new();
    for op in ops {
        world.act(op);
        world.check();
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    /// Crashes, cuts, double masters, reversals: nothing lost, nothing acknowledged given up, no false alarm.
    #[test]
    fn histories_without_disasters(ops in ops(false)) {
        run(&ops);
    }

    /// The same with backups restored and disks replaced.
    #[test]
    fn histories_with_disasters(ops in ops(true)) {
        run(&ops);
    }
}

mod reach;
