//! What must always hold, and what tests ask.

use super::*;

impl World {
    // What must always hold.

    pub(in crate::machine::pair_tests) fn serves(&self, node: usize) -> bool {
        let n = &self.nodes[node];
        n.host_up && n.addresses && !n.fenced
    }

    pub(in crate::machine::pair_tests) fn may_act(&self, node: usize) {
        let machine = self.nodes[node]
            .machine
            .as_ref()
            .expect("it acts, so it runs");
        let phase = machine.phase();
        assert!(Machine::acts(phase), "addresses in phase {phase}");
        assert!(self.nodes[node].sending, "addresses before the epoch");
    }

    pub(in crate::machine::pair_tests) fn check(&mut self) {
        for node in 0..2 {
            let n = &mut self.nodes[node];
            let Some(machine) = &n.machine else { continue };
            let phase = machine.phase();
            if Machine::acts(phase) {
                let used = machine.term();
                let durable = n.disk.term_used.max(n.disk.term_armed);
                assert!(
                    durable >= used,
                    "node {node} acts with term {used}, durable is {durable}"
                );
                assert!(
                    used >= n.highest_used,
                    "node {node} acts with an older term"
                );
                n.highest_used = used;
                assert!(!n.receiving, "node {node} applies while it acts");
            }
            if phase == Phase::Standby {
                assert!(!n.addresses, "a standby holds addresses");
                assert!(!n.services, "a standby runs services");
            }
            if phase == Phase::Ceded {
                assert!(n.fenced || !n.addresses, "a node that ceded answers");
            }
        }
    }

    // What tests ask.

    pub(in crate::machine::pair_tests) fn phase(&self, node: usize) -> Option<Phase> {
        self.nodes[node].machine.as_ref().map(Machine::phase)
    }

    pub(in crate::machine::pair_tests) fn term(&self, node: usize) -> u64 {
        self.nodes[node].machine.as_ref().map_or(0, Machine::term)
    }

    pub(in crate::machine::pair_tests) fn is_pair(&self, master: usize) -> bool {
        self.phase(master) == Some(Phase::Master)
            && self.phase(1 - master) == Some(Phase::Standby)
            && self.nodes[1 - master]
                .machine
                .as_ref()
                .is_some_and(|m| m.against_takeover().is_empty())
            && self.serves(master)
    }

    pub(in crate::machine::pair_tests) fn any_pair(&self) -> bool {
        self.is_pair(0) || self.is_pair(1)
    }

    pub(in crate::machine::pair_tests) fn master(&self) -> Option<usize> {
        (0..2).find(|n| self.phase(*n) == Some(Phase::Master))
    }

    pub(in crate::machine::pair_tests) fn eligible(&self, node: usize) -> bool {
        self.nodes[node]
            .machine
            .as_ref()
            .is_some_and(|m| m.against_takeover().is_empty())
    }

    pub(in crate::machine::pair_tests) fn verdict(&self, node: usize) -> Option<Verdict> {
        use crate::machine::state::Suspicion;
        match self.nodes[node].machine.as_ref()?.suspicion {
            Suspicion::Answered(verdict, _) => Some(verdict),
            Suspicion::Calm => None,
        }
    }

    /// Every write that a client was told is safe is in some log or some rescue.
    pub(in crate::machine::pair_tests) fn assert_nothing_lost(&self) {
        let data = || self.nodes.iter().map(|n| &n.data);
        let kept: BTreeSet<u64> = data()
            .flat_map(|d| d.log.iter().chain(&d.rescue))
            .copied()
            .collect();
        let lost: Vec<&u64> = self.acknowledged.difference(&kept).collect();
        assert!(
            lost.is_empty(),
            "writes {lost:?} are lost\n{}",
            self.story()
        );
    }

    /// The decisions of both nodes, for a failed test.
    pub(in crate::machine::pair_tests) fn story(&self) -> String {
        let line = |(at, node, d): &(u64, usize, Decision)| {
            format!(
                "{:>9.3} s  node {node}  term {}  {} -> {}  {}",
                *at as f64 / 1e9,
                d.term,
                d.from,
                d.to,
                d.why
            )
        };
        let mut lines: Vec<String> = self.decisions.iter().map(line).collect();
        for node in 0..2 {
            let n = &self.nodes[node];
            lines.push(format!(
                "node {node}: phase {:?} addresses {} fenced {} services {} disk {:?} told {:?} waiting {:?} against {:?}",
                self.phase(node), n.addresses, n.fenced, n.services, n.disk, n.told,
                n.machine.as_ref().map(|m| m.waiting.clone()),
                n.machine.as_ref().map(Machine::against_takeover),
            ));
        }
        lines.join("\n")
    }
}
